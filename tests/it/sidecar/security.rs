//! Who may ask, what a client cannot reach, and what never shows.

use super::double::Double;
use super::rig::{Rig, Setup, client};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn hash(key: &str) -> String {
    Sha256::digest(key).iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_keys_ask_within_their_limits_and_none_is_passed_on_or_logged() {
    let double = Double::start().await;
    let mut setup = Setup::new(&[]);
    setup.upstreams = vec![format!("url = '{}'\napi_key = 'sk-upstream'", double.url)];
    setup.sections = format!(
        "[[sidecar.keys]]\nname = 'shop'\nsha256 = '{}'\n[[sidecar.keys]]\nname = 'bot'\nsha256 = '{}'\nrequests_per_minute = 2\n",
        hash("sk-shop"),
        hash("sk-bot")
    );
    let rig = Rig::start(setup).await;
    let body = json!({"model": "base", "messages": []}).to_string();
    let ask = async |key: Option<&str>| {
        let mut request = client().post(format!("{}/v1/chat/completions", rig.url)).body(body.clone());
        request = request.header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        request.send().await.unwrap()
    };
    for wrong in [None, Some("sk-other"), Some("sk-shop1"), Some("")] {
        let response = ask(wrong).await;
        assert_eq!(response.status(), 401, "{wrong:?}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["code"], "invalid_api_key");
    }
    assert!(double.came().is_empty());
    assert_eq!(ask(Some("sk-shop")).await.status(), 200);
    assert_eq!(double.came()[0].headers["authorization"], "Bearer sk-upstream");
    assert_eq!((ask(Some("sk-bot")).await.status().as_u16(), ask(Some("sk-bot")).await.status().as_u16()), (200, 200));
    let limited = ask(Some("sk-bot")).await;
    assert_eq!(limited.status(), 429);
    assert!(limited.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 30);
    for row in rig.payloads(&rig.logs, 3).await {
        let text = String::from_utf8(row).unwrap();
        assert!(text.contains("\"requester\":\"shop\"") || text.contains("\"requester\":\"bot\""), "{text}");
        assert!(!text.contains("sk-"), "{text}");
    }
    assert!(!rig.said().contains("sk-"), "{}", rig.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_chooses_neither_a_server_nor_a_route_of_the_operator() {
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.lines = "body_bytes_max = 4096".to_owned();
    let rig = Rig::start(setup).await;
    let address = rig.url.trim_start_matches("http://").to_owned();
    // Written by hand: clients tidy such paths.
    let raw = async |head: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer[9..12].parse::<u16>().unwrap()
    };
    for path in ["/v1/../health", "/v1/%2e%2e/health", "/v1/a/%2E./x", "/v1//chat", "/v1/a%2fb", "/v1/x%5cy"] {
        assert_eq!(raw(&format!("GET {path} HTTP/1.1\r\nhost: x")).await, 400, "{path}");
    }
    // Servers route by the decoded path.
    for path in
        ["/v1/load%5Flora_adapter", "/v1/%6coad_lora_adapter", "/v1/load_lora_adapter%2f", "/v1/%256coad", "/v1/%6"]
    {
        assert_eq!(raw(&format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0")).await, 400, "{path}");
    }
    assert!(double.came().is_empty(), "{:?}", double.came());
    // The authority of a request names no server either.
    assert_eq!(raw("GET http://127.0.0.1:1/v1/thing HTTP/1.1\r\nhost: 127.0.0.1:1").await, 200);
    let came = double.came().pop().unwrap();
    assert_eq!(
        (came.target.as_str(), came.headers["host"].to_str().unwrap()),
        ("/v1/thing", double.url.trim_start_matches("http://"))
    );
    for route in ["load_lora_adapter", "unload_lora_adapter", "load_lora_adapter/"] {
        let body = json!({"lora_name": "x", "lora_path": "/etc"}).to_string();
        assert_eq!(rig.post(&format!("/v1/{route}"), body).await.status(), 403);
    }
    for model in ["../../etc/passwd", "http://evil/x", "/etc/passwd", "~/x", "a\nb"] {
        assert_eq!(rig.chat(&json!({"model": model, "messages": []})).await.status(), 400, "{model}");
    }
    // Nor where the body says it in a way that only some servers read.
    let kinds = ["text/plain", "application/x-www-form-urlencoded", "application/vnd.api+json"];
    let hidden = [
        "{\"model\": \"/etc/passwd\"}",
        "{\"model\": \"base\", \"model\": \"/etc/passwd\"}",
        "{\"temperature\": NaN, \"model\": \"http://evil/x\"}",
        "{\0\"\0m\0",
    ];
    let before = double.came().len();
    for (kind, body) in kinds.iter().flat_map(|kind| hidden.iter().map(move |body| (*kind, *body))) {
        let request = client().post(format!("{}/v1/chat/completions", rig.url)).header("content-type", kind);
        assert_eq!(request.body(body).send().await.unwrap().status(), 400, "{kind}: {body}");
    }
    assert_eq!(double.came().len(), before);
    assert_eq!(rig.chat(&json!({"model": "Qwen/Qwen3-8B", "messages": []})).await.status(), 200);
    assert_eq!(rig.chat(&json!({"model": "base", "messages": ["x".repeat(5000)]})).await.status(), 413);
}
