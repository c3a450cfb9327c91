//! A wall clock that jumps a year ahead and back under a running daemon: nothing is lost, doubled or removed, and batches
//! are cut and committed all the while. A library that is loaded before libc moves the clock of the daemon's process; its
//! monotonic clock goes on, as a machine's does.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{config as lake_config, count};
use crate::support::parts::{committer, key, part};
use pelton::codec::InferenceLog;
use pelton::config::Maintenance;
use pelton::daemon::maintenance::ClockWatch;
use pelton::domain::Timestamp;
use pelton::lake::{Lake, TableName};
use pelton::runtime::now;
use rdkafka::producer::{BaseRecord, Producer};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LOGS: TableName = TableName::InferenceLog;
const PATIENCE: Duration = Duration::from_secs(90);
const DAY_MICROS: i64 = 86_400_000_000;

/// The clock of the processes that are started with [`Self::environment`].
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(dir: &Path) -> Self {
        let clock = Self { file: dir.join("clock"), library: dir.join("clock.so") };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&clock.library).arg(source).status();
        assert!(built.unwrap().success(), "cc {source}");
        std::fs::write(&clock.file, 0i64.to_ne_bytes()).unwrap();
        clock
    }

    /// Moves the clock to so many days ahead of the machine's.
    fn set(&self, days: i64) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options().write(true).open(&self.file).unwrap();
        file.write_all_at(&(days * 86_400).to_ne_bytes(), 0).unwrap();
    }

    fn environment(&self) -> [(&'static str, &str); 2] {
        [("LD_PRELOAD", self.library.to_str().unwrap()), ("PELTON_TEST_CLOCK", self.file.to_str().unwrap())]
    }
}

/// Sends numbered logs of this moment.
fn send(topic: &str, ids: std::ops::Range<u64>) {
    let producer = kafka::producer(kafka::brokers());
    for id in ids {
        let (text, request) = (id.to_string(), r#"{"messages":[{"role":"user","content":"Hi"}]}"#);
        let log = InferenceLog { status_code: Some(200), ..InferenceLog::new(&text, now(), request, None) };
        let bytes = log.to_bytes().unwrap();
        let partition = i32::try_from(id % 2).unwrap();
        kafka::send(&producer, BaseRecord::to(topic).partition(partition).payload(bytes.as_slice()));
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

fn said(config: &Path, text: &str) -> usize {
    std::fs::read_to_string(config.with_extension("log")).unwrap_or_default().matches(text).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_a_year_and_back_removes_nothing_and_stops_nothing() {
    let topic = kafka::topic("clock", 2, &[]).await;
    let home = Home::new(&topic);
    let config = home.config(
        "daemon",
        "",
        "[maintenance]\nperiod_seconds = 1\nhistory_hours = 1\nretention_days = { inference_log = 30, dead_letter = 30 }",
    );
    let (clock, lake) = (Clock::new(home.dir.path()), home.lake().await);
    send(&topic, 0..200);
    let daemon = Daemon::start_with(&config, &clock.environment());
    let rows = async |wanted: i64| {
        until(&format!("{wanted} rows"), PATIENCE, async || count(&lake, LOGS, "").await >= wanted).await;
    };
    rows(200).await;
    clock.set(400);
    send(&topic, 200..400);
    rows(400).await;
    // A thorough round comes every twenty: the clock is doubted, and what would be a year too old stays.
    until("the clock is doubted", PATIENCE, async || said(&config, "nothing is removed by its age") == 1).await;
    clock.set(-3);
    send(&topic, 400..600);
    rows(600).await;
    clock.set(0);
    send(&topic, 600..800);
    rows(800).await;
    until("the clock is believed", PATIENCE, async || said(&config, "say the same time as the clock") == 1).await;
    assert!(daemon.stop().success());
    assert_eq!(said(&config, "nothing is removed by its age"), 1, "said once");
    let ahead = Timestamp::from_micros(now().micros() + 300 * DAY_MICROS).micros();
    let jumped = count(&lake, LOGS, &format!("ingest_time > to_timestamp_micros({ahead})")).await;
    assert!(jumped > 0, "the clock of the daemon did jump");
    assert_eq!(count(&lake, LOGS, "").await, 800);
    assert_eq!(count(&lake, TableName::Removal, "").await, 0);
    let audit = lake.audit().await.unwrap();
    assert!(audit.is_clean() && audit.rows() == 800, "{audit:#?}");
}

#[tokio::test]
async fn a_clock_is_believed_when_a_message_or_the_monotonic_clock_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(&lake_config(dir.path())).await.unwrap();
    let settings = Maintenance::default();
    let at = |days: i64| Timestamp::from_micros(now().micros() + days * DAY_MICROS);
    let mut watch = ClockWatch::new(&settings);
    assert!(!watch.is_believed(&lake, at(0)).await.unwrap(), "an empty lake attests nothing");
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    us.commit(LOGS, &[part(0, 0..10)]).await.unwrap();
    let newest = lake.newest_message_until(at(3000)).await.unwrap().expect("it has rows");
    let near = Timestamp::from_micros(newest.micros() + 1000);
    assert!(watch.is_believed(&lake, near).await.unwrap());
    assert!(!watch.is_believed(&lake, Timestamp::from_micros(newest.micros() + DAY_MICROS)).await.unwrap());
    assert!(watch.is_believed(&lake, near).await.unwrap());
    let mut from_before = ClockWatch::new(&settings);
    let before = Timestamp::from_micros(newest.micros() - DAY_MICROS);
    assert!(!from_before.is_believed(&lake, before).await.unwrap(), "rows of a later time vouch for nothing");
}
