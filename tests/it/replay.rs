//! What can be mended afterwards: dead letters that decode after a fix, and gaps that somebody gives up.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{count, number};
use pelton::daemon::audit::audit;
use pelton::lake::{Lake, TableName};
use pelton::runtime::Failpoint;
use rdkafka::producer::{BaseRecord, Producer};
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
