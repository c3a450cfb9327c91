//! A promotion that real traffic shows to be bad is undone by itself, and told.

use super::registry::version;
use super::rig::Rig;
use crate::support::kafka::{Daemon, exact_topic, producer, until};
use crate::support::lake::count;
use pelton::codec::InferenceLog;
use pelton::domain::VersionState::{Promoted, Registered};
use pelton::domain::{Timestamp, Version};
use pelton::lake::TableName;
use rdkafka::producer::{BaseRecord, Producer as _};
use serde_json::json;
use std::time::Duration;

fn send(topic: &str, name: &str, range: std::ops::Range<usize>, failing: impl Fn(usize) -> bool) {
    let sender = producer(crate::support::kafka::brokers());
    for i in range {
        let request = json!({"model": "sql-tiny", "messages": [{"role": "user", "content": format!("question {i}")}]})
            .to_string();
        let response = json!({"choices": [{"message": {"role": "assistant", "content": "SELECT 1"}}]}).to_string();
        let id = format!("{name}-{i}");
        let mut log = InferenceLog::new(&id, pelton::runtime::now(), &request, Some(&response));
        (log.status_code, log.model, log.model_version) =
            (Some(if failing(i) { 500 } else { 200 }), Some("sql-tiny"), Some(name));
        let payload = log.to_bytes().unwrap();
        sender.send(BaseRecord::to(topic).key(id.as_bytes()).payload(&payload)).map_err(|(e, _)| e).unwrap();
    }
    sender.flush(Duration::from_secs(30)).unwrap();
}

async fn rows(rig: &Rig, wanted: i64) {
    until("the logs are in the table", Duration::from_secs(60), async || {
        count(&rig.lake, TableName::InferenceLog, "").await == wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_fails_in_live_traffic_is_rolled_back_and_one_that_does_not_is_kept() {
    let rig = Rig::new("", "rollback = { look_seconds = 1, requests_min = 30 }").await;
    let topic = rig.config().ingest.topics[0].clone();
    exact_topic(&topic, 1, &[]).await;
    let at = |v: Version| Version { time: Timestamp::from_micros(pelton::runtime::now().micros()), ..v };
    for (n, state) in [(1, Registered), (1, Promoted)] {
        rig.lake.append_version(&at(version(n, state, 0))).await.unwrap();
    }
    send(&topic, "sql-tiny@v1", 0..200, |i| i % 50 == 0);
    let daemon = Daemon::start(&rig.path);
    rows(&rig, 200).await;
    // As good as the one before: kept.
    for n in [2, 3] {
        rig.lake.append_version(&at(version(n, Registered, 0))).await.unwrap();
    }
    rig.json(&["model", "promote", "sql-tiny@v2", "--json"]);
    send(&topic, "sql-tiny@v2", 0..200, |i| i % 50 == 0);
    rows(&rig, 400).await;
    // A bad one, forced by hand.
    rig.json(&["model", "promote", "sql-tiny@v3", "--json"]);
    send(&topic, "sql-tiny@v3", 0..100, |i| i % 2 == 0);
    until("it is rolled back", Duration::from_secs(60), async || rig.versions().await.len() > 7).await;
    let expected = [
        "v1 registered",
        "v1 promoted",
        "v2 registered",
        "v3 registered",
        "v2 promoted",
        "v3 promoted",
        "v3 rolled_back",
        "v2 promoted",
    ];
    assert_eq!(rig.versions().await, expected);
    until("it is told", Duration::from_secs(60), async || rig.announced().await == expected).await;
    assert!(daemon.stop().success());
    let reason = rig.lake.versions(&rig.model).await.unwrap()[6].reason.clone();
    assert!(reason.starts_with("errors: 0.5") && reason.contains("sql-tiny@v2"), "{reason}");
}
