//! What is replaced, what stays, and that JSON stays JSON.

use super::*;
use serde_json::{Value, json};

fn redactor(fields: &[&str]) -> Redactor {
    Redactor::new(Settings {
        fields: fields.iter().map(|f| (*f).to_owned()).collect(),
        built_in: vec![BuiltIn::Email, BuiltIn::Phone, BuiltIn::Secret, BuiltIn::Card],
        patterns: vec![("ticket".to_owned(), r"TCK-\d{4}".to_owned())],
        key: Key::new(b"a key of the tests".to_vec()),
    })
    .unwrap()
}

#[test]
fn kinds_are_found_and_other_text_stays() {
    let redactor = redactor(&[]);
    for (text, label) in [
        ("write to ann.b+x@mail.example.org.", "email"),
        ("jörg@müller.de", "email"),
        ("我的邮箱是ann@example.org谢谢", "email"),
        ("call +49 171 1234567 now", "phone"),
        ("(415) 555-2671", "phone"),
        ("415-555-2671", "phone"),
        ("0049171 1234567", "phone"),
        ("sk-proj-abcdefghijklmnopqrstuvwx0123", "secret"),
        ("key=AKIAIOSFODNN7EXAMPLE", "secret"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "secret"),
        ("Authorization: Bearer abcdefghijklmnop1234", "secret"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "secret"),
        ("postgres://bob:hunter22@db/x", "secret"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----", "secret"),
        ("card 4111 1111 1111 1111.", "card"),
        ("4111-1111-1111-1111", "card"),
        ("378282246310005", "card"),
        ("order 4 4111111111111111 x", "card"),
        ("2026 4111 1111 1111 1111 22", "card"),
        ("see TCK-1234", "ticket"),
    ] {
        let found = redactor.text(text);
        assert!(found.contains(&format!("<{label}:")), "{text} -> {found}");
        assert_eq!(redactor.text(&found), found, "a second time changes nothing");
    }
    for text in [
        "4111 1111 1111 1112",
        "1795341600123",
        "1795341600123456",
        "12345678901234567890123456789012345",
        "2026-11-22 10:00:00.123456",
        "3.14159265358979",
        "user@host",
        "a @ b . c",
        "9f3ad05c6e21b874",
        "01928374-5564-7382-9102-837465564738",
        "127.0.0.1:9092, 1.2.3.4",
        "the task-force",
    ] {
        assert_eq!(redactor.text(text), text);
    }
}

#[test]
fn equal_values_stay_equal_and_another_key_tells_nothing() {
    let one = redactor(&[]);
    assert_eq!(one.text("Ann@Example.org"), one.text("ann@example.org"));
    assert_eq!(one.text("4111 1111 1111 1111"), one.text("4111-1111-1111-1111"));
    assert_ne!(one.text("ann@example.org"), one.text("bob@example.org"));
    let settings = |key: Option<&[u8]>| Settings {
        built_in: vec![BuiltIn::Email],
        key: key.and_then(|k| Key::new(k.to_vec())),
        ..Settings::default()
    };
    let other = Redactor::new(settings(Some(b"another key, longer than 16"))).unwrap();
    assert_ne!(other.text("ann@example.org"), one.text("ann@example.org"));
    assert_eq!(Redactor::new(settings(None)).unwrap().text("ann@example.org"), "<email>");
    assert!(!format!("{one:?}").contains("a key of"));
    assert!(Key::new(b"short".to_vec()).is_none());
}

#[test]
fn json_stays_json_whatever_hides_in_it() {
    let redactor = redactor(&["requester", "request.user", "request.messages.name", "user.id"]);
    let request = json!({"user": {"id": 7}, "model": "m", "messages": [
        {"role": "user", "name": "ann", "content": "I am \"ann@example.org\"\nline"},
        {"role": "user", "content": "card 4111111111111111"}]});
    let message = json!({
        "request_id": "r", "requester": "ann", "n": 4111111111111111_u64, "user.id": 5, "none": null,
        "request": request.to_string(), "status_code": 200, "request_time": 1795341600123_u64,
        "deep": json!({"x": json!(["bob@example.org"]).to_string()}).to_string(), "k@example.org": 1,
    });
    let text = message.to_string().replace('@', "\\u0040");
    let out = redactor.json(&text).unwrap().expect("it is changed");
    let new: Value = serde_json::from_str(&out).unwrap();
    for secret in ["ann", "example.org", "4111111111111111", "bob"] {
        assert!(!out.contains(secret), "{secret}: {out}");
    }
    let body: Value = serde_json::from_str(new["request"].as_str().unwrap()).unwrap();
    assert!(body["user"].as_str().unwrap().starts_with("<user:"), "{body}");
    assert_eq!(body["messages"][0]["name"].as_str().unwrap().replace("name", "requester"), new["requester"]);
    assert!(body["messages"][0]["content"].as_str().unwrap().starts_with("I am \"<email:"));
    assert_eq!(
        (&new["request_time"], &new["status_code"], &new["none"]),
        (&json!(1795341600123_u64), &json!(200), &Value::Null)
    );
    assert!(new["user.id"].as_str().unwrap().starts_with("<user_id:"));
    assert_eq!(redactor.json(&out), Ok(None), "a second time changes nothing");
    assert_eq!(redactor.json(r#"{"a": [1, "x\n", {"b": true}]}"#), Ok(None));
}

#[test]
fn a_secret_cut_by_the_chunks_of_a_stream_is_found() {
    let redactor = redactor(&[]);
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"ann@exa\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"mple.org\"}}]}\n\n";
    let out = redactor.json(&json!({"response": stream}).to_string()).unwrap().unwrap();
    assert!(out.contains("<email:") && !out.contains("ann@") && !out.contains("mple.org"), "{out}");
    let clean = json!({"response": stream.replace('@', " ")}).to_string();
    assert_eq!(redactor.json(&clean), Ok(None));
}

#[test]
fn what_is_not_json_is_searched_or_withheld() {
    let searched = redactor(&[]);
    for bytes in [
        &b"{\"a\": \"ann@example.org"[..],
        b"\xff\x00 ann@example.org",
        b"{\"a\": \"ann\\u0040example.org",
        b"\\\\u0040 ann\\\\u0040example.org",
    ] {
        let out = searched.unreadable(bytes);
        assert!(!String::from_utf8_lossy(&out).contains("example.org"), "{}", String::from_utf8_lossy(&out));
    }
    assert!(matches!(searched.unreadable(b"\xff\xfe nothing"), Cow::Borrowed(_)));
    let withheld = redactor(&["requester"]);
    assert!(String::from_utf8_lossy(&withheld.unreadable(b"{ requester: ann")).starts_with("<withheld:"));
    for not_json in ["", "{", "{\"a\" 1}", "[1,]", "{\"a\":1} x", "nul", "\"a", "{\"a\":\"\\", &"[".repeat(500)] {
        assert!(withheld.json(not_json).is_err(), "{not_json}");
    }
}

#[test]
fn a_pattern_must_be_one() {
    let own = |expression: &str| {
        Redactor::new(Settings { patterns: vec![("x".to_owned(), expression.to_owned())], ..Settings::default() })
    };
    assert!(matches!(own("(").unwrap_err(), PatternError::Syntax { label, .. } if label == "x"));
    assert_eq!(own("a*").unwrap_err(), PatternError::Empty("x".to_owned()));
}
