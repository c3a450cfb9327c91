//! What crosses Kafka: golden samples, precise faults, and an answer for any bytes.

use pelton::codec::{self, EncodeError, Feedback, InferenceLog, schema};
use pelton::domain::{DeadLetterCode, FeedbackRow, InferenceRow, LOGGED_BYTES_MAX, Row, RowKind, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

const BYTES_MAX: usize = 32 << 20;

fn inference(bytes: &[u8]) -> InferenceRow<'_> {
    match codec::decode(RowKind::Inference, Some(bytes), BYTES_MAX) {
        Ok(Row::Inference(row)) => *row,
        other => panic!("{}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

fn feedback(bytes: &[u8]) -> FeedbackRow<'_> {
    match codec::decode(RowKind::Feedback, Some(bytes), BYTES_MAX) {
        Ok(Row::Feedback(row)) => row,
        other => panic!("{}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

fn fault(kind: RowKind, bytes: &[u8]) -> (DeadLetterCode, String) {
    let fault = codec::decode(kind, Some(bytes), BYTES_MAX).expect_err("a fault is expected");
    (fault.code, fault.reason)
}

fn valid(schema: &schema::Schema, message: &Value) -> bool {
    let schema: Value = serde_json::from_str(schema.json).unwrap();
    jsonschema::draft202012::new(&schema).unwrap().is_valid(message)
}

fn envelope() -> Value {
    json!({
        "schema": "pelton.inference-log/v1",
        "request_id": "r-1",
        "request_time": "2026-11-22T10:00:00.123456Z",
        "client_request_id": "c-1",
        "status_code": 200,
        "sampling_fraction": 1.0,
        "execution_duration_ms": 812,
        "time_to_first_token_ms": 93,
        "served_entity_id": "pod-3",
        "requester": "ann@example.org",
        "model_version": "support-sql@v17",
        "conversation_id": "conv-9",
        "logging_error_codes": ["X"],
        "request": {
            "model": "support-sql",
            "stream": false,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    {"type": "text", "text": "How many \"orders\"?"},
                    {"type": "image_url", "image_url": {"url": "data:"}},
                    {"type": "text", "text": "Today."}
                ]}
            ]
        },
        "response": {
            "object": "chat.completion",
            "model": "support-sql@v17",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 21, "completion_tokens": 2, "total_tokens": 23}
        }
    })
}

#[test]
fn an_envelope_becomes_a_row_with_everything_derived() {
    let message = envelope();
    assert!(valid(&schema::INFERENCE_LOG_V1, &message));
    let bytes = serde_json::to_vec(&message).unwrap();
    let row = inference(&bytes);
    assert_eq!(row.request_time, Timestamp::from_micros(1_795_341_600_123_456));
    assert_eq!(row.request, message["request"].to_string(), "the raw body is kept as it was sent");
    assert_eq!(row.operation.as_deref(), Some("chat"));
    assert_eq!(row.model.as_deref(), Some("support-sql"));
    assert_eq!(row.model_version.as_deref(), Some("support-sql@v17"));
    assert_eq!(row.prompt.as_deref(), Some("How many \"orders\"?\nToday."));
    let messages =
        r#"[{"role":"system","content":"Be brief."},{"role":"user","content":"How many \"orders\"?\nToday."}]"#;
    assert_eq!(row.messages.as_deref(), Some(messages));
    assert_eq!(row.prompt_hash.unwrap(), pelton::domain::PromptHash::of_canonical(messages).to_string());
    assert_eq!(row.completion.as_deref(), Some("42"));
    assert_eq!((row.finish_reason.as_deref(), row.input_tokens, row.output_tokens), (Some("stop"), Some(21), Some(2)));
    assert_eq!((row.stream, row.status_code, row.time_to_first_token_ms), (Some(false), Some(200), Some(93)));
    assert_eq!(row.logging_error_codes, ["X"]);
    assert!(matches!(row.request, std::borrow::Cow::Borrowed(_)), "a body of the envelope is not copied");
}

#[test]
fn a_databricks_row_becomes_the_same_row() {
    let whole = envelope();
    let mut plain = whole.clone();
    let fields = plain.as_object_mut().unwrap();
    fields.remove("schema");
    fields.insert("databricks_request_id".to_owned(), fields["request_id"].clone());
    fields.remove("request_id");
    fields.insert("request".to_owned(), json!(whole["request"].to_string()));
    fields.insert("response".to_owned(), json!(whole["response"].to_string()));
    fields.insert("request_date".to_owned(), json!("2026-11-22"));
    fields.insert("request_metadata".to_owned(), json!({"anything": [1, {"else": null}]}));
    let (a, b) = (serde_json::to_vec(&whole).unwrap(), serde_json::to_vec(&plain).unwrap());
    let (a, mut b) = (inference(&a), inference(&b));
    let extra = b.extra.take();
    assert_eq!(extra.as_deref(), Some(r#"{"request_metadata":{"anything":[1,{"else":null}]}}"#));
    assert_eq!(a, b);
}

#[test]
fn odd_bodies_make_a_row_with_fewer_values() {
    let row_of = |request: Value, response: Value| {
        let message = json!({"request_id": "r", "request_time": 1_795_341_600_000i64, "request": request.to_string(), "response": response});
        serde_json::to_vec(&message).unwrap()
    };
    for request in [
        json!({}),
        json!({"messages": "no"}),
        json!({"messages": []}),
        json!({"messages": [1, null, {"role": 2}]}),
        json!({"prompt": [1, 2, 3]}),
        json!({"model": 5, "stream": "yes"}),
        json!([]),
        json!("text"),
    ] {
        let bytes = row_of(request.clone(), Value::Null);
        let row = inference(&bytes);
        assert_eq!((&row.prompt, &row.prompt_hash, &row.model, row.stream), (&None, &None, &None, None), "{request}");
    }
    let not_json =
        br#"{"request_id":"r","request_time":"2026-11-22 10:00:00","request":"} not {","response":"<html>"}"#;
    assert_eq!(inference(not_json).request, "} not {");

    let check =
        |request: Value, response: Value, operation: Option<&str>, prompt: Option<&str>, completion: Option<&str>| {
            let bytes = row_of(request.clone(), json!(response.to_string()));
            let row = inference(&bytes);
            let found = (row.operation.as_deref(), row.prompt.as_deref(), row.completion.as_deref());
            assert_eq!(found, (operation, prompt, completion), "{request}");
        };
    let text = json!({"choices": [{"text": " 4", "finish_reason": "length"}]});
    check(json!({"prompt": "2+2="}), text, Some("text_completion"), Some("2+2="), Some(" 4"));
    let responses = json!({"object": "response", "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}]});
    check(json!({"input": "hello", "instructions": "x"}), responses.clone(), Some("chat"), Some("hello"), Some("hi"));
    let items = json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hey"}]}]});
    check(items, responses, Some("chat"), Some("hey"), Some("hi"));
    check(json!({"input": "embed me"}), json!({"object": "list", "data": []}), Some("embeddings"), None, None);
    let calls = json!({"choices": [{"message": {"content": null, "tool_calls": []}, "finish_reason": "tool_calls"}]});
    check(json!({"messages": [{"role": "user", "content": "q"}]}), calls, Some("chat"), Some("q"), None);
}

#[test]
fn a_body_over_the_bound_is_left_out_and_said_so() {
    let big = "x".repeat(LOGGED_BYTES_MAX + 1);
    let message = json!({"request_id": "r", "request_time": "2026-11-22 10:00:00", "request": "{}", "response": big});
    let bytes = serde_json::to_vec(&message).unwrap();
    let row = inference(&bytes);
    assert_eq!((row.response.as_deref(), row.logging_error_codes), (None, vec!["MAX_RESPONSE_SIZE_EXCEEDED".into()]));
}

#[test]
fn faults_name_the_field_what_was_found_and_what_is_right() {
    use DeadLetterCode::{MissingField, NotJson, NotUtf8, TooLarge, UnknownFormat, WrongType, WrongValue};
    let with = |field: &str, value: Value| {
        let mut message = envelope();
        message[field] = value;
        // The published schema and the decoder must agree on what is wrong.
        assert!(!valid(&schema::INFERENCE_LOG_V1, &message), "{field}");
        message.to_string().into_bytes()
    };
    let without = |field: &str| {
        let mut message = envelope();
        message.as_object_mut().unwrap().remove(field);
        message.to_string().into_bytes()
    };
    let deep = format!("{{\"request_id\":{}", "[".repeat(100_000));
    let cases: Vec<(Vec<u8>, DeadLetterCode, &[&str])> = vec![
        (b"not json".to_vec(), NotJson, &["not JSON", "line 1 column 2"]),
        (b"{\"request_id\": \"r".to_vec(), NotJson, &["EOF"]),
        (b"{} {}".to_vec(), NotJson, &["trailing"]),
        (Vec::new(), NotJson, &["EOF"]),
        (b"{\"request_id\": \"\xff\"}".to_vec(), NotUtf8, &["byte 16 is not UTF-8"]),
        (b"[1]".to_vec(), UnknownFormat, &["an array", "a JSON object is expected"]),
        (b"17".to_vec(), UnknownFormat, &["a number"]),
        (b"{\"a\": 1}".to_vec(), UnknownFormat, &["neither `schema`", "pelton.inference-log/v1"]),
        (deep.into_bytes(), NotJson, &["not JSON"]),
        (with("schema", json!("pelton.inference-log/v9")), UnknownFormat, &["v9", "/v1"]),
        (without("request_id"), MissingField, &["`request_id`", "missing"]),
        (without("request_time"), MissingField, &["`request_time`", "RFC 3339"]),
        (without("request"), MissingField, &["`request`"]),
        (with("request_id", json!("")), WrongValue, &["`request_id`", "not empty"]),
        (with("request_id", json!(7)), WrongType, &["`request_id`", "a number (7)", "a string"]),
        (with("request_time", json!(true)), WrongType, &["`request_time`", "a boolean (true)"]),
        (with("request_time", json!("soon")), WrongValue, &["`request_time`", "\"soon\"", "RFC 3339"]),
        (with("request_time", json!(1_795_341_600)), WrongValue, &["1795341600", "epoch milliseconds"]),
        (with("status_code", json!("200")), WrongType, &["`status_code`", "a string (\"200\")", "a whole number"]),
        (with("status_code", json!(1.5)), WrongValue, &["`status_code`", "1.5"]),
        (with("sampling_fraction", json!(3)), WrongValue, &["`sampling_fraction`", "from 0 to 1"]),
        (with("stream", json!("no")), WrongType, &["`stream`", "true or false"]),
        (with("logging_error_codes", json!([1])), WrongType, &["`logging_error_codes`", "array of strings"]),
        (with("request", json!("{}")), WrongType, &["`request`", "an object"]),
        (br#"{"request_id":"a","request_id":"b","request":"{}"}"#.to_vec(), WrongValue, &["duplicate", "request_id"]),
        (br#"{"request_id":"\ud800","request":"{}","request_time":0}"#.to_vec(), WrongValue, &["`request_id`"]),
        (vec![b' '; BYTES_MAX + 1], TooLarge, &["33554433 bytes", "at most 33554432"]),
    ];
    for (bytes, code, says) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        let (found, reason) = fault(RowKind::Inference, &bytes);
        assert_eq!(found, code, "{shown}: {reason}");
        assert!(says.iter().all(|s| reason.contains(s)), "{shown}: {reason}");
        assert!(reason.len() < 400, "a reason stays short: {reason}");
    }
    let empty = codec::decode(RowKind::Inference, None, BYTES_MAX).unwrap_err();
    assert_eq!(empty.code, DeadLetterCode::Empty);
}

#[test]
fn a_signal_needs_a_thumb_a_score_or_a_text() {
    let signal = |more: Value| {
        let mut message = json!({"schema": "pelton.feedback/v1", "feedback_id": "f", "request_id": "r", "feedback_time": "2026-11-22T10:00:00Z"});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        message
    };
    for (more, right) in [
        (json!({"thumb": "up"}), true),
        (json!({"thumb": false}), true),
        (json!({"score": 0.25, "thumb": null}), true),
        (json!({"text": "nice"}), true),
        (json!({}), false),
        (json!({"thumb": null}), false),
        (json!({"thumb": "sideways"}), false),
        (json!({"score": 1.5}), false),
        (json!({"text": 3}), false),
    ] {
        let message = signal(more);
        assert_eq!(valid(&schema::FEEDBACK_V1, &message), right, "{message}");
        let decoded = codec::decode(RowKind::Feedback, Some(message.to_string().as_bytes()), BYTES_MAX).map(drop);
        assert_eq!(decoded.is_ok(), right, "{message}: {decoded:?}");
    }
    let (code, reason) = fault(RowKind::Feedback, b"{}");
    assert_eq!(code, DeadLetterCode::UnknownFormat);
    assert!(reason.contains("pelton.feedback/v1"), "{reason}");
}

#[test]
fn a_body_that_is_not_json_is_not_sent() {
    let error = InferenceLog::new("r", Timestamp::from_millis(1), "{", None).to_bytes().unwrap_err();
    assert!(matches!(error, EncodeError::NotJson { body: "request", .. }));
}

proptest! {
    #[test]
    fn what_is_encoded_validates_and_decodes_to_itself(
        id in ".{1,20}",
        micros in 946_684_800_000_000i64..7_258_118_400_000_000,
        prompt in ".*",
        answer in proptest::option::of(".*"),
        status in proptest::option::of(any::<i32>()),
        fraction in proptest::option::of(0.0..=1.0f64),
        duration in proptest::option::of(any::<i64>()),
        requester in proptest::option::of(".*"),
        stream in proptest::option::of(any::<bool>()),
    ) {
        let request = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]}).to_string();
        let response = answer.as_ref().map(|a| json!({"choices": [{"message": {"content": a}}]}).to_string());
        let log = InferenceLog {
            status_code: status,
            sampling_fraction: fraction,
            execution_duration_ms: duration,
            requester: requester.as_deref(),
            stream,
            ..InferenceLog::new(&id, Timestamp::from_micros(micros), &request, response.as_deref())
        };
        let bytes = log.to_bytes().unwrap();
        prop_assert!(valid(&schema::INFERENCE_LOG_V1, &serde_json::from_slice(&bytes).unwrap()));
        let row = inference(&bytes);
        prop_assert_eq!(&*row.request_id, id.as_str());
        prop_assert_eq!(row.request_time, log.request_time);
        prop_assert_eq!(&*row.request, request.as_str());
        prop_assert_eq!(row.response.as_deref(), response.as_deref());
        prop_assert_eq!(row.prompt.as_deref(), Some(prompt.as_str()));
        prop_assert_eq!(row.completion.as_deref(), answer.as_deref());
        prop_assert_eq!((row.status_code, row.sampling_fraction, row.execution_duration_ms), (status, fraction, duration));
        prop_assert_eq!((row.requester.as_deref(), row.stream), (requester.as_deref(), stream));
    }

    #[test]
    fn a_signal_round_trips(
        id in ".{1,20}",
        micros in 946_684_800_000_000i64..7_258_118_400_000_000,
        thumb in proptest::option::of(any::<bool>()),
        score in 0.0..=1.0f64,
        text in proptest::option::of(".*"),
    ) {
        let feedback_time = Timestamp::from_micros(micros);
        let signal = Feedback { feedback_id: &id, request_id: &id, feedback_time, thumb, score: Some(score), text: text.as_deref(), requester: None };
        let bytes = signal.to_bytes().unwrap();
        prop_assert!(valid(&schema::FEEDBACK_V1, &serde_json::from_slice(&bytes).unwrap()));
        let row = feedback(&bytes);
        prop_assert_eq!(&*row.feedback_id, id.as_str());
        prop_assert_eq!((row.feedback_time, row.thumb, row.score, row.text.as_deref()), (feedback_time, thumb, Some(score), text.as_deref()));
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode(RowKind::Inference, Some(&bytes), BYTES_MAX);
        let _ = codec::decode(RowKind::Feedback, Some(&bytes), BYTES_MAX);
    }

    /// Near misses reach further into the decoder than random bytes do.
    #[test]
    fn a_damaged_log_gets_an_answer(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = envelope().to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Err(fault) = codec::decode(RowKind::Inference, Some(&bytes), BYTES_MAX) {
            prop_assert!(!fault.reason.is_empty());
        }
    }
}
