//! What becomes of logs: with Kafka, without it, after a crash, and when there is too much of them.

use super::double::Double;
use super::rig::{PATIENCE, Rig, Setup, client, read};
use crate::support::kafka::{self, until};
use pelton::codec::decode;
use pelton::domain::{Row, RowKind};
use rdkafka::mocking::MockCluster;
use rdkafka::types::RDKafkaRespErr;
use serde_json::{Value, json};
use std::time::Duration;

fn numbered(n: usize) -> Value {
    json!({"model": "base", "messages": [{"role": "user", "content": format!("question {n}")}]})
}

/// The numbers of the questions in logged calls.
fn numbers(payloads: &[Vec<u8>]) -> Vec<usize> {
    let number = |payload: &Vec<u8>| {
        let value: Value = serde_json::from_slice(payload).unwrap();
        value["request"]["messages"][0]["content"].as_str().unwrap()["question ".len()..].parse().unwrap()
    };
    payloads.iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_logs_wait_on_the_disk_in_order_and_survive_a_kill() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("calls", 1, 1).unwrap();
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.brokers = cluster.bootstrap_servers();
    setup.sections = "[sidecar.log]\ndelivery_timeout_ms = 1000".to_owned();
    let mut rig = Rig::start_on(setup, ["calls", "feedback", "versions"].map(str::to_owned)).await;
    for n in 0..10 {
        assert_eq!(rig.chat(&numbered(n)).await.status(), 200);
    }
    until("the first are there", PATIENCE, async || rig.metric("pelton_log_sent_total").await >= 10.0).await;
    cluster.broker_down(1).unwrap();
    for n in 10..60 {
        assert_eq!(rig.chat(&numbered(n)).await.status(), 200, "a request must not fail because Kafka is away");
    }
    until("all wait on the disk", PATIENCE, async || rig.metric("pelton_log_spill_records").await == 50.0).await;
    rig.kill_and_start(None).await;
    assert_eq!(rig.metric("pelton_log_spill_records").await, 50.0);
    for n in 60..70 {
        assert_eq!(rig.chat(&numbered(n)).await.status(), 200);
    }
    cluster.broker_up(1).unwrap();
    let brokers = rig.brokers.clone();
    let all = tokio::task::spawn_blocking(move || read(&brokers, "calls", 70)).await.unwrap();
    assert_eq!(numbers(&all), (0..70).collect::<Vec<_>>());
    until("the disk is empty", PATIENCE, async || rig.metric("pelton_log_spill_records").await == 0.0).await;
    assert_eq!(rig.metric("pelton_log_dropped_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_queue_loses_its_oldest_counted_and_fails_no_request() {
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.brokers = "127.0.0.1:9".to_owned();
    setup.sections = "[sidecar.log]\ndelivery_timeout_ms = 300\nspill_bytes_max = 65536".to_owned();
    let rig = Rig::start(setup).await;
    for n in 0..300 {
        assert_eq!(rig.chat(&numbered(n)).await.status(), 200);
    }
    until("all are accounted for", PATIENCE, async || {
        rig.metric("pelton_log_spill_records").await + rig.metric("pelton_log_dropped_total").await == 300.0
    })
    .await;
    assert!(rig.metric("pelton_log_dropped_total").await > 50.0);
    assert!(rig.metric("pelton_log_spill_bytes").await <= 65_536.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_response_an_answer_ends_only_when_its_log_is_kept() {
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.sections = "[sidecar.log]\ndurability = 'before_response'".to_owned();
    let rig = Rig::start(setup).await;
    for n in 0..5 {
        rig.chat(&numbered(n)).await.bytes().await.unwrap();
        // Acknowledged before the answer's end: it is there at once.
        assert!(rig.metric("pelton_log_sent_total").await >= (n + 1) as f64);
    }
    double.stage.pieces.add_permits(100);
    let streamed = rig.chat(&json!({"model": "base", "stream": true, "messages": []})).await.text().await.unwrap();
    assert!(streamed.ends_with("data: [DONE]\n\n") && rig.metric("pelton_log_sent_total").await >= 6.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_are_taken_by_rule_and_secrets_are_redacted() {
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.sections =
        "[redact]\npatterns = ['email']\nfields = ['requester', 'request.user']\n[[sidecar.log.sample]]\npath = '/v1/embeddings'\n\
        [[sidecar.log.sample]]\nmodel = 'half'\nshare = 0.5"
            .to_owned();
    let rig = Rig::start(setup).await;
    for _ in 0..3 {
        rig.post("/v1/embeddings", "{\"model\":\"base\",\"input\":\"x\"}").await;
    }
    for _ in 0..100 {
        rig.chat(&json!({"model": "half", "messages": []})).await;
    }
    let secret =
        json!({"model": "base", "user": "u-1", "messages": [{"role": "user", "content": "I am ada@example.com"}]});
    rig.chat(&secret).await;
    until("the last one is logged", PATIENCE, async || {
        let sent = rig.metric("pelton_log_sent_total").await as usize;
        let all = rig.payloads(&rig.logs, sent).await;
        all.iter().any(|payload| String::from_utf8_lossy(payload).contains("I am "))
    })
    .await;
    let sent = rig.metric("pelton_log_sent_total").await as usize;
    assert!((20..=82).contains(&sent), "{sent} of 101");
    for payload in rig.payloads(&rig.logs, sent).await {
        let text = String::from_utf8(payload).unwrap();
        assert!(!text.contains("ada@example.com") && !text.contains("u-1\""), "{text}");
        assert!(!text.contains("/v1/embeddings"), "{text}");
        let half = text.contains("\"model\":\"half\"");
        assert!(text.contains(if half { "\"sampling_fraction\":0.5" } else { "\"sampling_fraction\":1.0" }), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feedback_is_checked_and_kept_before_it_is_taken() {
    let double = Double::start().await;
    let rig = Rig::start(Setup::new(&[&double.url])).await;
    let id = rig.chat(&numbered(1)).await.headers()["x-request-id"].to_str().unwrap().to_owned();
    let give = async |body: Value| {
        let response = rig.post("/v1/feedback", body.to_string()).await;
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, answer) =
        give(json!({"request_id": id, "thumb": "up", "score": 0.75, "text": "good", "user": "u-1"})).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(give(json!({"request_id": id, "thumb": false, "feedback_id": "own"})).await.1["feedback_id"], "own");
    for (wrong, says) in [
        (json!({"thumb": "up"}), "request_id"),
        (json!({"request_id": id}), "at least one"),
        (json!({"request_id": id, "score": 2}), "score"),
        (json!({"request_id": id, "thumb": "sideways"}), "thumb"),
        (json!({"request_id": id, "thumbs": "up"}), "thumbs"),
    ] {
        let (status, answer) = give(wrong.clone()).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(says), "{answer}");
    }
    let payloads = rig.payloads(&rig.feedback, 2).await;
    let Ok(Row::Feedback(first)) = decode(RowKind::Feedback, Some(&payloads[0]), 1 << 20) else {
        panic!("no feedback")
    };
    assert_eq!((first.request_id.as_ref(), first.thumb, first.score), (id.as_str(), Some(true), Some(0.75)));
    assert_eq!((first.text.as_deref(), first.requester.as_deref()), (Some("good"), Some("u-1")));
    assert!(double.came().iter().all(|came| !came.target.contains("feedback")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_fails_no_request_and_loses_no_log() {
    let double = Double::start().await;
    *double.stage.delay.lock().unwrap() = Duration::from_millis(20);
    let mut setup = Setup::new(&[&double.url]);
    setup.lines = "drain_grace_ms = 1000".to_owned();
    let mut rig = Rig::start(setup).await;
    let (url, ready) = (format!("{}/v1/chat/completions", rig.url), format!("{}/readyz", rig.url));
    // Each worker asks until the sidecar says that it drains, as a load balancer does; what it has begun must be answered.
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (url, ready) = (url.clone(), ready.clone());
            tokio::spawn(async move {
                let client = client();
                let mut answered = 0;
                for n in 0.. {
                    if !client.get(&ready).send().await.unwrap().status().is_success() {
                        break;
                    }
                    let body = numbered(worker * 100_000 + n).to_string();
                    let request = client.post(&url).header("content-type", "application/json").body(body);
                    let response = request.send().await.unwrap();
                    assert_eq!(response.status(), 200);
                    response.bytes().await.unwrap();
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    until("there is load", PATIENCE, async || double.came().len() > 100).await;
    rig.signal("TERM");
    let mut answered = 0;
    for worker in workers {
        answered += worker.await.unwrap();
    }
    assert!(rig.ended().await.success(), "{}", rig.said());
    assert_eq!(double.came().len(), answered);
    assert_eq!(rig.rows(answered).await.len(), answered);
}

/// A topic that is not there and a message that it is too large for are no reason to lose logs, nor to hold up others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_there_loses_nothing_and_holds_up_no_other() {
    const GONE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("calls", 1, 1).unwrap();
    cluster.create_topic("feedback", 1, 1).unwrap();
    cluster.topic_error("calls", GONE).unwrap();
    cluster.topic_error("feedback", GONE).unwrap();
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.brokers = cluster.bootstrap_servers();
    setup.sections = "[sidecar.log]\ndelivery_timeout_ms = 1000\n[kafka.properties]\n\
        \"topic.metadata.refresh.interval.ms\" = \"200\"\n\"topic.metadata.propagation.max.ms\" = \"300\""
        .to_owned();
    let rig = Rig::start_on(setup, ["calls", "feedback", "versions"].map(str::to_owned)).await;
    let thumb = json!({"request_id": "req-1", "thumb": "up"}).to_string();
    assert_eq!(rig.post("/v1/feedback", thumb).await.status(), 202);
    for n in 0..20 {
        assert_eq!(rig.chat(&numbered(n)).await.status(), 200);
    }
    until("all wait on the disk", PATIENCE, async || rig.metric("pelton_log_spill_records").await == 21.0).await;
    cluster.topic_error("calls", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    until("the calls are there", PATIENCE, async || rig.metric("pelton_log_sent_total").await >= 20.0).await;
    until("only the feedback waits", PATIENCE, async || rig.metric("pelton_log_spill_records").await == 1.0).await;
    cluster.topic_error("feedback", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    until("the feedback too", PATIENCE, async || rig.metric("pelton_log_sent_total").await >= 21.0).await;
    let brokers = rig.brokers.clone();
    let all = tokio::task::spawn_blocking(move || read(&brokers, "calls", 20)).await.unwrap();
    assert_eq!(numbers(&all), (0..20).collect::<Vec<_>>());
    assert_eq!(rig.metric("pelton_log_dropped_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_too_large_for_its_topic_is_logged_without_its_bodies() {
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.sections = "[sidecar.log]\ndurability = 'before_response'".to_owned();
    let logs = kafka::topic("calls", 1, &[("max.message.bytes", "100000")]).await;
    let rig = Rig::start_on(setup, [logs, kafka::unique("feedback"), kafka::unique("versions")]).await;
    let noise: String =
        (0..20_000u64).map(|n| format!("{:016x}", pelton::runtime::derive_seed(n, "noise", &[]))).collect();
    let body = json!({"model": "base", "messages": [{"role": "user", "content": noise}]});
    assert!(rig.chat(&body).await.bytes().await.unwrap().len() > 10, "the answer is whole");
    assert_eq!(rig.chat(&numbered(2)).await.status(), 200);
    let rows = rig.rows(2).await;
    let codes: Vec<&str> = rows[0].logging_error_codes.iter().map(AsRef::as_ref).collect();
    assert_eq!(codes, ["MAX_MESSAGE_SIZE_EXCEEDED"]);
    assert!(rows[0].request.contains("omitted_bytes") && rows[0].response.is_some(), "{:?}", rows[0]);
    assert!(rows[1].logging_error_codes.is_empty());
    assert_eq!(rig.metric("pelton_log_dropped_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cut_off_at_the_end_is_logged() {
    let double = Double::start().await;
    *double.stage.delay.lock().unwrap() = PATIENCE * 2;
    let mut setup = Setup::new(&[&double.url]);
    setup.lines = "drain_grace_ms = 0\ndrain_timeout_ms = 300".to_owned();
    let mut rig = Rig::start(setup).await;
    let url = format!("{}/v1/chat/completions", rig.url);
    let request = client().post(url).header("content-type", "application/json").body(numbered(1).to_string());
    let waiting = tokio::spawn(request.send());
    until("it is under way", PATIENCE, async || !double.came().is_empty()).await;
    rig.signal("TERM");
    assert!(rig.ended().await.success(), "{}", rig.said());
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(rig.rows(1).await[0].status_code, Some(499));
}
