//! What can be mended afterwards: dead letters that decode after a fix, and gaps that somebody gives up.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{count, number};
use crate::support::registry::{Books, Registry};
use pelton::daemon::audit::audit;
use pelton::domain::LogName;
use pelton::lake::{Lake, TableName};
use pelton::runtime::Failpoint;
use rdkafka::producer::{BaseRecord, Producer};
use serde_json::json;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

fn pelton(arguments: &[&str], config: &Path, environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(arguments)
        .arg("--config")
        .arg(config)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn messages(lake: &Lake) -> i64 {
    count(lake, TableName::InferenceLog, "").await + count(lake, TableName::DeadLetter, "").await
}

async fn ingested(home: &Home, config: &Path, wanted: i64) {
    let lake = home.lake().await;
    let daemon = Daemon::start(config);
    until(&format!("{wanted} messages"), PATIENCE, async || messages(&lake).await >= wanted).await;
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_that_decode_after_a_fix_become_rows_once() {
    let topic = kafka::topic("replay", 2, &[]).await;
    let producer = kafka::producer(kafka::brokers());
    for id in 0..40 {
        // Every fourth is no log at all; every second is a log that is too large for the settings.
        let mut log = kafka::log(id);
        if id % 4 == 1 {
            log = b"no log".to_vec();
        } else if id % 2 == 0 {
            let padded = format!("{}{}", String::from_utf8(log).unwrap(), " ".repeat(3000));
            log = padded.into_bytes();
        }
        let partition = i32::from(id % 3 == 0);
        kafka::send(&producer, BaseRecord::to(&topic).partition(partition).payload(log.as_slice()));
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let home = Home::new(&topic);
    let narrow = home.config("narrow", "", "message_bytes_max = 2000");
    ingested(&home, &narrow, 40).await;
    let lake = home.lake().await;
    assert_eq!(count(&lake, TableName::DeadLetter, "code = 'TOO_LARGE'").await, 20);

    let wide = home.config("wide", "", "message_bytes_max = 20000");
    let replay = |extra: &[&str], environment: &[(&str, &str)]| {
        pelton(&[&["replay", "--where", "code <> 'EMPTY'"], extra].concat(), &wide, environment)
    };
    let dry = replay(&["--dry-run"], &[]);
    assert!(dry.status.success() && said(&dry).contains("30 dead letters, 20 would become rows"), "{}", said(&dry));
    assert!(said(&dry).contains("NOT_JSON"), "what is still refused is shown: {}", said(&dry));
    let some = replay(&["--limit", "6"], &[]);
    assert!(some.status.success(), "{}", said(&some));
    let after_some = count(&lake, TableName::InferenceLog, "replay_time IS NOT NULL").await;
    assert!((1..=6).contains(&after_some), "{after_some} of the first six");
    // Killed after its commit, before its end; and run again, twice.
    let killed = replay(&[], &[("PELTON_FAILPOINT", Failpoint::InReplay.name())]);
    assert_eq!(killed.status.signal(), Some(9), "{}", said(&killed));
    for _ in 0..2 {
        let again = replay(&[], &[]);
        assert!(again.status.success() && said(&again).contains(" 0 rows added, 20 there before"), "{}", said(&again));
    }
    assert_eq!(count(&lake, TableName::InferenceLog, "replay_time IS NOT NULL").await, 20);
    assert_eq!(count(&lake, TableName::InferenceLog, "").await, 30);
    let ids = "SELECT count(DISTINCT request_id) FROM inference_log";
    assert_eq!(number(&lake, TableName::InferenceLog, ids).await, 30);
    let report = audit(&home.load(&wide).kafka, &lake).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.partitions.iter().map(|p| p.tables.replayed).sum::<u64>(), 20);
    let wrong = pelton(&["replay", "--where", "colour = 'red'"], &wide, &[]);
    assert!(!wrong.status.success() && said(&wrong).contains("colour"), "{}", said(&wrong));
}

/// A message of three log records of OpenTelemetry, and spaces that make it too large.
fn export(message: usize) -> Vec<u8> {
    let text = |s: &str| json!({"stringValue": s});
    let record = |place: usize| {
        json!({"timeUnixNano": "1795341600000000000", "eventName": "gen_ai.client.inference.operation.details", "attributes": [
            {"key": "gen_ai.response.id", "value": text(&format!("otel-{message}-{place}"))},
            {"key": "gen_ai.input.messages", "value": text(r#"[{"role":"user","parts":[{"type":"text","content":"q"}]}]"#)}]})
    };
    let records: Vec<_> = (0..3).map(record).collect();
    let whole = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]});
    format!("{whole}{}", " ".repeat(3000)).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn framed_messages_records_of_opentelemetry_and_tables_of_routes_are_replayed() {
    let names = ["framed", "otel", "own"].map(kafka::unique);
    for name in &names {
        kafka::exact_topic(name, 1, &[]).await;
    }
    let [framed, otel, own] = &names;
    let registry = Registry::start(Books::default()).await;
    let producer = kafka::producer(kafka::brokers());
    for id in 0..10u64 {
        let in_frame = [&[0, 0, 0, 0, 7][..], &kafka::log(id)].concat();
        let large = [kafka::log(100 + id), vec![b' '; 3000]].concat();
        for (topic, payload) in [(framed, in_frame), (otel, export(usize::try_from(id).unwrap())), (own, large)] {
            kafka::send(&producer, BaseRecord::to(topic).payload(payload.as_slice()));
        }
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let home = Home::at(kafka::brokers(), &kafka::topic("none", 1, &[]).await);
    let settings = |bytes_max: usize| {
        format!(
            "message_bytes_max = {bytes_max}\n[ingest.registry]\nurl = '{}'\n[[ingest.routes]]\ntopics = '{framed}'\n\
             format = 'registry'\n[[ingest.routes]]\ntopics = '{otel}'\nformat = 'otlp'\n[[ingest.routes]]\n\
             topics = '{own}'\ntable = 'own_log'\n",
            registry.url
        )
    };
    let config = home.config("daemon", "", &settings(2000));
    let lake = pelton::daemon::open_lake(&home.load(&config)).await.unwrap();
    let daemon = Daemon::start(&config);
    until("the dead letters", PATIENCE, async || count(&lake, TableName::DeadLetter, "").await == 30).await;
    assert!(daemon.stop().success());
    assert_eq!(count(&lake, TableName::DeadLetter, "code = 'TOO_LARGE'").await, 20);

    // The schema is registered and the bound is raised; the registry is away for a moment.
    let wide = home.config("daemon", "", &settings(20_000));
    registry.books.lock().unwrap().ids.insert(7, json!({"schemaType": "JSON", "schema": "{}"}));
    registry.books.lock().unwrap().away = true;
    let away = pelton(&["replay", "--where", "true"], &wide, &[]);
    assert!(!away.status.success() && said(&away).contains("schema registry"), "{}", said(&away));
    registry.books.lock().unwrap().away = false;
    for added in [10 + 30 + 10, 0] {
        let done = pelton(&["replay", "--where", "true"], &wide, &[]);
        let expected = format!("30 dead letters, 30 decode now, {added} rows added");
        assert!(done.status.success() && said(&done).contains(&expected), "{}", said(&done));
    }
    let own_log = TableName::of_log(LogName::new("own_log").unwrap()).unwrap();
    for (table, topic, rows) in
        [(TableName::InferenceLog, framed, 10), (TableName::InferenceLog, otel, 30), (own_log, own, 10)]
    {
        let only = format!("kafka_topic = '{topic}' AND replay_time IS NOT NULL");
        assert_eq!(count(&lake, table, &only).await, rows, "{topic}");
    }
    let ids = "SELECT count(DISTINCT request_id) FROM inference_log WHERE request_id LIKE 'otel-%'";
    assert_eq!(number(&lake, TableName::InferenceLog, ids).await, 30, "each record is a row");
    let report = audit(&home.load(&wide).kafka, &lake).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_that_is_given_up_by_name_lets_the_partition_go_on_under_a_running_daemon() {
    let topic = kafka::topic("gap", 2, &[]).await;
    let home = Home::new(&topic);
    let config = home.config("daemon", "", "");
    kafka::send_logs(kafka::brokers(), &topic, 2, 0..200, || {});
    ingested(&home, &config, 200).await;
    kafka::send_logs(kafka::brokers(), &topic, 2, 200..400, || {});
    kafka::delete_before(&topic, 0, 150).await;

    let lake = home.lake().await;
    let daemon = Daemon::start(&config);
    until("the other partition goes on", PATIENCE, async || messages(&lake).await >= 300).await;
    let listed = pelton(&["gap", "list"], &config, &[]);
    assert_eq!(listed.status.code(), Some(1));
    let row = format!("{topic}/0");
    assert!(said(&listed).contains(&row) && said(&listed).contains("100 to 149"), "{}", said(&listed));
    let other = pelton(&["gap", "accept", &format!("{topic}/1")], &config, &[]);
    assert!(!other.status.success() && said(&other).contains("not stopped"), "{}", said(&other));
    let accepted = pelton(&["gap", "accept", &row], &config, &[]);
    assert!(accepted.status.success() && said(&accepted).contains("100 to 149 are given up"), "{}", said(&accepted));
    until("it goes on", PATIENCE, async || messages(&lake).await >= 350).await;
    assert!(daemon.stop().success());
    assert!(pelton(&["gap", "list"], &config, &[]).status.success(), "no partition is stopped any more");
    let report = audit(&home.load(&config).kafka, &lake).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.partitions.iter().map(|p| p.tables.given_up).collect::<Vec<_>>(), [50, 0]);
    assert_eq!(count(&lake, TableName::InferenceLog, "").await, 350);
}
