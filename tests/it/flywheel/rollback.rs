//! A promotion that real traffic shows to be bad is undone by itself, and told.

use super::registry::version;
use super::rig::Rig;
use crate::support::kafka::{Daemon, exact_topic, producer, until};
use crate::support::lake::count;
use pelton::codec::InferenceLog;
use pelton::domain::VersionState::{Promoted, Registered};
use pelton::domain::{FeedbackRow, Origin, Timestamp, Version};
use pelton::lake::{FeedbackBuilder, TableName};
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

async fn thumbs(rig: &Rig, name: &str, count: usize, up: bool) {
    let mut rows = FeedbackBuilder::new();
    for i in 0..count {
        let request = format!("{name}-{i}");
        let signal = FeedbackRow {
            feedback_id: request.as_str().into(),
            request_id: request.as_str().into(),
            feedback_time: pelton::runtime::now(),
            thumb: Some(up),
            score: None,
            text: None,
            requester: None,
        };
        let (topic, topic_id, ingest_time) = ("signals", "0", Timestamp::EPOCH);
        let (partition, record, time, replay_time, offset) = (0, 0, None, None, 0);
        rows.append(&signal, &Origin { topic, topic_id, partition, offset, record, time, ingest_time, replay_time });
    }
    rig.lake.append(TableName::Feedback, rows.finish()).await.unwrap();
}

/// Neither a rollback just before it nor a check that fails keeps a promotion from being watched.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_after_a_rollback_to_the_base_is_undone_by_what_users_say_whatever_another_check_does() {
    let times = "request_time >= $since AND request_time < $until";
    let broken = format!(
        "SELECT model AS version, request_time, CAST(request_id AS DOUBLE) AS bad FROM inference_log WHERE {times}"
    );
    let feedback = format!(
        "SELECT model_version AS version, request_time, thumbs_down AS bad FROM request_feedback WHERE feedback_count > 0 AND {times}"
    );
    let checks = format!("{{ broken = {{ sql = '{broken}' }}, feedback = {{ sql = '{feedback}' }} }}");
    let rig = Rig::new("", &format!("rollback = {{ look_seconds = 1, requests_min = 30, checks = {checks} }}")).await;
    pelton::daemon::check_windows(&rig.config()).await.unwrap();
    let mut wrong = rig.config();
    let check = wrong.models.get_mut(&rig.model).unwrap().rollback.as_mut().unwrap().checks.get_mut("broken").unwrap();
    check.sql = check.sql.replace("AS bad", "AS worse");
    let refused = format!("{:#}", pelton::daemon::check_windows(&wrong).await.unwrap_err());
    assert!(refused.contains("rollback.checks.broken.sql") && refused.contains("`bad`"), "{refused}");

    let topic = rig.config().ingest.topics[0].clone();
    exact_topic(&topic, 1, &[]).await;
    for (n, state) in [(1, Registered), (1, Promoted), (2, Registered)] {
        let at = Version { time: pelton::runtime::now(), ..version(n, state, 0) };
        rig.lake.append_version(&at).await.unwrap();
    }
    rig.json(&["model", "rollback", "sql-tiny", "--reason", "by hand", "--json"]);
    send(&topic, "sql-tiny", 0..60, |_| false);
    let daemon = Daemon::start(&rig.path);
    rows(&rig, 60).await;
    thumbs(&rig, "sql-tiny", 60, true).await;
    rig.json(&["model", "promote", "sql-tiny@v2", "--json"]);
    send(&topic, "sql-tiny@v2", 0..60, |_| false);
    rows(&rig, 120).await;
    thumbs(&rig, "sql-tiny@v2", 60, false).await;
    until("it is rolled back", Duration::from_secs(60), async || rig.versions().await.len() > 5).await;
    let expected = ["v1 registered", "v1 promoted", "v2 registered", "v1 rolled_back", "v2 promoted", "v2 rolled_back"];
    assert_eq!(rig.versions().await, expected);
    assert!(daemon.stop().success());
    let reason = rig.lake.versions(&rig.model).await.unwrap()[5].reason.clone();
    assert!(reason.starts_with("feedback: 1.000 on 60") && reason.contains("of the base"), "{reason}");
    let log = std::fs::read_to_string(rig.path.with_extension("log")).unwrap();
    assert!(log.contains("a check of the promoted version failed"), "{log}");
}
