//! What goes through: byte for byte, piece by piece, to a server that is well; and what happens where somebody hangs up.

use super::double::{Double, pieces};
use super::rig::{PATIENCE, Rig, Setup, client};
use crate::support::kafka::until;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::SeqCst;

fn question(extra: Value) -> Value {
    let mut body = json!({"model": "base", "user": "user-3", "messages": [{"role": "user", "content": "Hi 🌍"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_go_through_byte_for_byte_and_calls_are_logged() {
    let double = Double::start().await;
    let rig = Rig::start(Setup::new(&[&double.url])).await;
    let odd = format!("  {}\r\n", question(json!({"metadata": {"conversation_id": "c-9"}})));
    let direct = client().post(format!("{}/v1/chat/completions", double.url)).body(odd.clone()).send().await.unwrap();
    let request = client().post(format!("{}/v1/chat/completions?a=b", rig.url)).header("x-request-id", "client-1");
    let request =
        request.header("content-type", "application/json").header("connection", "close, x-hop").header("x-hop", "1");
    let response = request.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let response = response.body(odd.clone()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-served-by"], "double");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(response.bytes().await.unwrap(), direct.bytes().await.unwrap());
    let came = double.came().pop().unwrap();
    assert_eq!((came.body, came.target.as_str()), (odd.into(), "/v1/chat/completions?a=b"));
    assert_eq!(came.headers["x-request-id"], id.as_str());
    assert!(came.headers["traceparent"].to_str().unwrap().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    assert!(!came.headers.contains_key("x-hop"), "{:?}", came.headers);

    // What is no JSON, what is not known and what is not POST goes through too.
    for malformed in ["{\"model\": \"base\", ", "", "[1, 2]", "\u{feff}{}"] {
        let response = rig.post("/v1/chat/completions", malformed).await;
        assert_eq!(response.status(), 200);
        assert_eq!(double.came().pop().unwrap().body, malformed);
    }
    let form = client().post(format!("{}/v1/audio/transcriptions", rig.url));
    let form = form.header("content-type", "multipart/form-data; boundary=x").body("--x\r\n\r\nabc\r\n--x--");
    assert_eq!(form.send().await.unwrap().status(), 200);
    assert_eq!(double.came().pop().unwrap().body, "--x\r\n\r\nabc\r\n--x--");
    let unknown = client().delete(format!("{}/v1/files/f-1", rig.url)).send().await.unwrap();
    assert_eq!((unknown.status().as_u16(), double.came().pop().unwrap().target.as_str()), (200, "/v1/files/f-1"));
    assert_eq!(client().get(format!("{}/other", rig.url)).send().await.unwrap().status(), 404);
    let models: Value = client().get(format!("{}/v1/models", rig.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "base");

    let rows = rig.rows(5).await;
    let row = rows.iter().find(|row| row.request_id == id).unwrap();
    assert_eq!(row.client_request_id.as_deref(), Some("client-1"));
    assert_eq!((row.status_code, row.requester.as_deref()), (Some(200), Some("user-3")));
    assert_eq!((row.conversation_id.as_deref(), row.model.as_deref()), (Some("c-9"), Some("base")));
    assert_eq!((row.operation.as_deref(), row.stream), (Some("chat"), Some(false)));
    assert_eq!(row.served_entity_id.as_deref(), Some(double.url.as_str()));
    assert_eq!((row.input_tokens, row.output_tokens), (Some(3), Some(4)));
    assert!(row.completion.as_deref().unwrap().starts_with("you said"));
    assert!(row.extra.as_deref().unwrap().contains("0af7651916cd43dd8448eb211c80319c"));
    let malformed: Vec<_> =
        rows.iter().filter(|r| r.logging_error_codes.iter().any(|c| c == "REQUEST_NOT_JSON")).collect();
    assert_eq!(malformed.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_piece_by_piece_and_is_logged_whole() {
    let double = Double::start().await;
    let rig = Rig::start(Setup::new(&[&double.url])).await;
    let response = rig.chat(&question(json!({"stream": true}))).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let mut stream = response.bytes_stream();
    // The server sends a piece only when the one before has arrived: nothing is held back on the way.
    for piece in pieces(&json!("base")) {
        double.stage.pieces.add_permits(1);
        let mut arrived = Vec::new();
        while arrived.len() < piece.len() {
            arrived.extend(stream.next().await.unwrap().unwrap());
        }
        assert_eq!(String::from_utf8(arrived).unwrap(), piece);
    }
    assert!(stream.next().await.is_none());
    let row = rig.rows(1).await.pop().unwrap();
    assert_eq!((row.stream, row.finish_reason.as_deref()), (Some(true), Some("tool_calls")));
    assert_eq!((row.completion.as_deref(), row.output_tokens), (Some("Hello 🌍"), Some(6)));
    let logged: Value = serde_json::from_str(row.response.as_deref().unwrap()).unwrap();
    let message = &logged["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "hm");
    assert_eq!(message["tool_calls"][0]["function"], json!({"name": "f", "arguments": "{\"a\":1}"}));
    assert!(row.time_to_first_token_ms.is_some() && row.logging_error_codes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_is_noticed_on_the_other_side_and_in_the_log() {
    let double = Double::start().await;
    let rig = Rig::start(Setup::new(&[&double.url])).await;
    double.stage.pieces.add_permits(4);
    let mut stream = rig.chat(&question(json!({"stream": true}))).await.bytes_stream();
    let mut arrived = 0;
    while arrived < 300 {
        arrived += stream.next().await.unwrap().unwrap().len();
    }
    drop(stream);
    until("the server notices", PATIENCE, async || double.stage.hung_up.load(SeqCst) == 1).await;
    let row = rig.rows(1).await.pop().unwrap();
    assert!(row.logging_error_codes.iter().any(|code| code == "CLIENT_CANCELLED"), "{:?}", row.logging_error_codes);
    assert_eq!(row.status_code, Some(200));

    // Before there is an answer at all.
    *double.stage.delay.lock().unwrap() = PATIENCE;
    let asking = tokio::spawn({
        let (client, url) = (client(), format!("{}/v1/chat/completions", rig.url));
        async move { client.post(url).header("content-type", "application/json").body("{\"model\":\"slow\"}").send().await }
    });
    until("it is under way", PATIENCE, async || double.came().len() == 2).await;
    asking.abort();
    let row = rig.rows(2).await.pop().unwrap();
    assert_eq!((row.status_code, row.model.as_deref()), (Some(499), Some("slow")));
    *double.stage.delay.lock().unwrap() = std::time::Duration::ZERO;

    // The other way round: a server that breaks off, which a client must see as broken, not as an end.
    double.stage.breaks.store(true, SeqCst);
    double.stage.pieces.add_permits(4);
    let mut stream = rig.chat(&question(json!({"stream": true}))).await.bytes_stream();
    let (mut broken, mut arrived) = (false, 0);
    while arrived < pieces(&json!("base"))[..4].concat().len() {
        arrived += stream.next().await.unwrap().unwrap().len();
    }
    double.stage.pieces.add_permits(1);
    while let Some(piece) = stream.next().await {
        broken |= piece.is_err();
    }
    assert!(broken, "a stream that broke off must not look whole");
    let row = rig.rows(3).await.pop().unwrap();
    let codes: Vec<&str> = row.logging_error_codes.iter().map(AsRef::as_ref).collect();
    assert_eq!(codes, ["UPSTREAM_BROKE_OFF", "RESPONSE_STREAM_INCOMPLETE"]);
    assert_eq!(row.completion.as_deref(), Some("Hello 🌍"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_least_busy_that_is_well_is_asked() {
    let (mut one, two) = (Double::start().await, Double::start().await);
    let rig = Rig::start(Setup::new(&[&one.url, &two.url])).await;
    // Whoever is at work gets less.
    *one.stage.delay.lock().unwrap() = PATIENCE;
    let (url, body) = (format!("{}/v1/chat/completions", rig.url), question(json!({})).to_string());
    let ask = || client().post(&url).header("content-type", "application/json").body(body.clone()).send();
    let waiting = tokio::spawn(ask());
    let also = tokio::spawn(ask());
    until("one of them hangs", PATIENCE, async || one.came().len() == 1).await;
    for _ in 0..10 {
        assert_eq!(ask().await.unwrap().status(), 200);
    }
    assert_eq!((one.came().len(), two.came().len() >= 10), (1, true));
    waiting.abort();
    also.abort();
    *one.stage.delay.lock().unwrap() = std::time::Duration::ZERO;

    // What one takes nothing of goes to the other.
    *one.stage.status.lock().unwrap() = Some(503);
    for _ in 0..6 {
        assert_eq!(ask().await.unwrap().status(), 200);
    }
    assert!(rig.metric("pelton_sidecar_retries_total").await > 0.0);
    *one.stage.status.lock().unwrap() = None;
    one.stop();
    for _ in 0..6 {
        assert_eq!(ask().await.unwrap().status(), 200);
    }
    until("its absence is noticed", PATIENCE, async || rig.status().await["upstreams"][0]["up"] == false).await;
    one.start_again().await;
    until("its return is noticed", PATIENCE, async || rig.status().await["upstreams"][0]["up"] == true).await;
    // An error that it answers is an answer.
    *one.stage.status.lock().unwrap() = Some(500);
    *two.stage.status.lock().unwrap() = Some(500);
    let before = one.came().len() + two.came().len();
    let response = ask().await.unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["message"], "not now");
    assert_eq!(one.came().len() + two.came().len(), before + 1);
    // All refuse: the last one's word.
    *one.stage.status.lock().unwrap() = Some(503);
    *two.stage.status.lock().unwrap() = Some(503);
    assert_eq!(ask().await.unwrap().status(), 503);
    one.stop();
    two.stop();
    let response = ask().await.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["type"], "server_error");
}
