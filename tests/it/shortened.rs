//! A broker that lost the end of a partition's log, as after an unclean leader election or from a restored disk: the partition
//! stops, goes on when somebody says so, and no new message is taken for a lost one that had its offset.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{count, number, open};
use crate::support::parts::{committer, key, part};
use pelton::daemon::audit::audit;
use pelton::lake::{CommitError, Gap, Part, PartitionKey, TableName};
use rdkafka::producer::{BaseRecord, Producer};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const LOGS: TableName = TableName::InferenceLog;
const PATIENCE: Duration = Duration::from_secs(90);

/// A broker of one's own, whose disk can be put back to an earlier state.
struct Broker {
    dir: tempfile::TempDir,
    port: String,
}

impl Broker {
    fn new() -> Self {
        let port = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/free-port.sh")).output().unwrap();
        let port = String::from_utf8(port.stdout).unwrap().trim().to_owned();
        Self { dir: tempfile::tempdir().unwrap(), port }
    }

    fn run(&self, command: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh");
        let done = Command::new(script).args([command, "--port", &self.port, "--dir"]).arg(self.dir.path()).status();
        assert!(done.unwrap().success(), "kafka.sh {command}");
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn partition(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.run("stop");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).ok();
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn send(broker: &Broker, partition: i32, ids: std::ops::Range<u64>) {
    let producer = kafka::producer(&broker.address());
    for id in ids {
        let log = kafka::log(id);
        kafka::send(&producer, BaseRecord::to("short").partition(partition).payload(log.as_slice()));
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

fn gap(arguments: &[&str], config: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .arg("gap")
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_log_was_shortened_goes_on_without_a_loss_or_a_collision() {
    let broker = Broker::new();
    broker.run("start");
    kafka::exact_topic_at(&broker.address(), "short", 2, &[]).await;
    let home = Home::at(&broker.address(), "short");
    let config = home.config("daemon", "", "");
    let lake = home.lake().await;
    let ingested = async |wanted: i64| {
        let daemon = Daemon::start(&config);
        until(&format!("{wanted} rows"), PATIENCE, async || count(&lake, LOGS, "").await >= wanted).await;
        daemon
    };
    send(&broker, 0, 0..100);
    send(&broker, 1, 100..200);
    assert!(ingested(200).await.stop().success());
    broker.run("stop");
    let saved = broker.dir.path().join("saved");
    copy(&broker.partition("short-0"), &saved);
    broker.run("start");
    send(&broker, 0, 200..260);
    send(&broker, 1, 260..320);
    assert!(ingested(320).await.stop().success());

    // The disk comes back as it was: offsets 100 to 159 of partition 0 are lost, and get other messages.
    broker.run("stop");
    copy(&saved, &broker.partition("short-0"));
    broker.run("start");
    send(&broker, 0, 320..350);
    send(&broker, 1, 350..380);
    let daemon = ingested(350).await;
    let (status, said) = gap(&["list"], &config);
    assert_eq!(status, Some(1));
    assert!(said.contains("short/0") && said.contains("ends at 130"), "{said}");
    assert_eq!(count(&lake, LOGS, "").await, 350, "nothing is skipped, nothing is mixed up");
    let (status, said) = gap(&["accept", "short/0"], &config);
    assert!(status == Some(0) && said.contains("it goes on at 100 with kafka_topic_id"), "{said}");
    until("what came before anybody looked", PATIENCE, async || count(&lake, LOGS, "").await >= 380).await;
    // Past the offset at which the tables stood.
    send(&broker, 0, 380..480);
    until("all rows", PATIENCE, async || count(&lake, LOGS, "").await >= 480).await;
    assert!(daemon.stop().success());
    assert_eq!(gap(&["list"], &config).0, Some(0));
    // A restart goes on there too.
    send(&broker, 0, 480..500);
    assert!(ingested(500).await.stop().success());
    assert_eq!(count(&lake, LOGS, "").await, 500);
    assert_eq!(number(&lake, LOGS, "SELECT count(DISTINCT request_id) FROM inference_log").await, 500);
    let report = audit(&home.load(&config).kafka, &lake).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let ranges: Vec<(i64, i64)> = report.partitions.iter().map(|p| (p.tables.first, p.tables.next)).collect();
    assert_eq!(ranges, [(0, 160), (0, 190), (100, 250)], "{report:#?}");
}

#[tokio::test]
async fn who_still_commits_to_a_partition_that_began_again_adds_nothing() {
    let (_dir, lake) = open().await;
    let (mut us, mut zombie) = (committer(&lake).await, committer(&lake).await);
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    us.commit(LOGS, &[part(0, 0..20)]).await.unwrap();
    assert_eq!(zombie.positions(LOGS, &[key(0)]).await.unwrap(), [Some(20)]);
    let wrong = us.begin_again(LOGS, &key(0), 19, 10, &[]).await;
    assert!(matches!(wrong, Err(CommitError::Moved { .. })), "{wrong:?}");
    let next = us.begin_again(LOGS, &key(0), 20, 10, &[Gap { first: 15, last: 16 }]).await.unwrap();
    assert_eq!(next.generation, "0~1");
    let late = zombie.commit(LOGS, &[part(0, 20..30)]).await;
    assert!(matches!(late, Err(CommitError::Moved { .. })), "{late:?}");
    assert_eq!(zombie.current(LOGS, &[key(0)]).await.unwrap(), std::slice::from_ref(&next));
    let again = zombie.begin_again(LOGS, &key(0), 20, 5, &[]).await;
    assert!(matches!(again, Err(CommitError::Moved { .. })), "once is enough: {again:?}");
    let parts = [Part { key: next.clone(), rows: Vec::new(), dead_letters: Vec::new(), ..part(0, 10..30) }];
    us.commit(LOGS, &parts).await.unwrap();
    assert_eq!(us.positions(LOGS, std::slice::from_ref(&next)).await.unwrap(), [Some(30)]);
    let second = us.begin_again(LOGS, &next, 30, 12, &[]).await.unwrap();
    assert_eq!(second, PartitionKey { generation: "0~2".to_owned(), ..key(0) });
}
