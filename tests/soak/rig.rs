//! What every mode needs: a topic under load, daemons, the broker's switch, and the count at the end.

use crate::kafka::{self, Daemon, Home, until};
use crate::lake::{count, number};
use pelton::daemon::audit::audit;
use pelton::lake::{Lake, TableName};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, Producer};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// A group notices a member's death within this; short, so that a run sees many.
pub const SESSION: &str = "'session.timeout.ms' = '3000'\n'heartbeat.interval.ms' = '500'\n\
                           'topic.metadata.refresh.interval.ms' = '2000'";
/// How long the last daemon may take to catch up.
const PATIENCE: Duration = Duration::from_secs(300);
/// Messages a second that a run's producer sends.
const RATE: u64 = 2000;

/// What a run found.
pub struct Outcome {
    pub faults: u64,
    pub sent: u64,
    pub rows: i64,
    pub dead_letters: i64,
    /// Logs that were sent, that nobody gave up, and that are in no row; dead letters likewise.
    pub lost: i64,
    /// Rows and dead letters more than there were messages.
    pub duplicated: i64,
    /// Messages that the broker deleted before they were read and whose gap was accepted.
    pub given_up: i64,
    pub clean: bool,
}

impl Outcome {
    pub fn is_exact(&self) -> bool {
        self.clean && self.lost == 0 && self.duplicated == 0
    }
}

/// One topic and everything around it.
pub struct Rig {
    pub home: Home,
    pub partitions: i32,
    pub lake: Lake,
}

impl Rig {
    pub async fn new(name: &str, partitions: i32) -> Self {
        let topic = kafka::unique(name);
        make_topic(&topic, partitions).await;
        let home = Home { fsync: true, ..Home::new(&topic) };
        let lake = home.lake().await;
        Self { home, partitions, lake }
    }

    /// The configuration of a daemon that is another member each time that it starts.
    pub fn plain(&self, name: &str) -> PathBuf {
        self.home.config(name, SESSION, "batch_rows_max = 1000")
    }

    /// The configuration of a daemon that comes back as itself, so that a kill costs no session timeout.
    pub fn daemon(&self, name: &str) -> PathBuf {
        self.home.config(name, &format!("{SESSION}\n'group.instance.id' = '{name}'"), "batch_rows_max = 1000")
    }

    /// Sends from `first` on, until it is told to stop.
    pub fn load(&self, first: u64) -> Load {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(first)));
        let (ended, counted, topic, partitions) =
            (stop.clone(), sent.clone(), self.home.topic.clone(), self.partitions);
        let thread = std::thread::spawn(move || {
            let producer = kafka::producer(kafka::brokers());
            for id in first.. {
                if ended.load(Relaxed) {
                    break;
                }
                kafka::send(
                    &producer,
                    BaseRecord::to(&topic).partition(partition(id, partitions)).payload(message(id).as_slice()),
                );
                counted.store(id + 1, Relaxed);
                if id % 100 == 99 {
                    producer.poll(Duration::ZERO);
                    std::thread::sleep(Duration::from_millis(100_000 / RATE));
                }
            }
            producer.flush(PATIENCE).unwrap();
        });
        Load { stop, sent, thread: Some(thread) }
    }

    pub async fn messages(&self) -> i64 {
        count(&self.lake, TableName::InferenceLog, "").await + count(&self.lake, TableName::DeadLetter, "").await
    }

    pub async fn reached(&self, wanted: i64) {
        until(&format!("{wanted} messages"), PATIENCE, async || self.messages().await >= wanted).await;
    }

    /// Lets one daemon catch up, drains it, and counts.
    pub async fn finish(&self, faults: u64, sent: u64, given_up: i64) -> Outcome {
        let config = self.daemon("last");
        let last = Daemon::start(&config);
        let wanted = i64::try_from(sent).unwrap() - given_up;
        self.reached(wanted).await;
        assert!(last.stop().success(), "the last daemon drains");
        self.counted(faults, sent, given_up).await
    }

    pub async fn counted(&self, faults: u64, sent: u64, given_up: i64) -> Outcome {
        let report = audit(&self.home.load(&self.daemon("last")).kafka, &self.lake).await.unwrap();
        if !report.is_clean() {
            eprintln!("{report:#?}");
        }
        let rows = count(&self.lake, TableName::InferenceLog, "").await;
        let dead_letters = count(&self.lake, TableName::DeadLetter, "").await;
        let ids = "SELECT count(DISTINCT request_id) FROM inference_log";
        let different = number(&self.lake, TableName::InferenceLog, ids).await;
        let wanted = i64::try_from(sent).unwrap() - given_up;
        // Dead letters have no id; what they lack or have too much shows in the sum.
        let dead_wanted = wanted - different;
        let lost = (dead_wanted - dead_letters).max(0);
        let duplicated = (rows - different) + (dead_letters - dead_wanted).max(0);
        Outcome { faults, sent, rows, dead_letters, lost, duplicated, given_up, clean: report.is_clean() }
    }
}

pub async fn make_topic(topic: &str, partitions: i32) {
    let admin = admin();
    // As many copies as there are brokers in the cluster that the script started.
    let copies = std::env::var("PELTON_SOAK_BROKERS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    until("the topic is made", PATIENCE, async || {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(copies));
        let made = admin.create_topics(&[new], &options).await;
        made.is_ok_and(|all| all.into_iter().all(|one| one.is_ok()))
    })
    .await;
}

pub fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", kafka::brokers()).create().unwrap()
}

pub fn partition(id: u64, partitions: i32) -> i32 {
    i32::try_from(id % u64::try_from(partitions).unwrap()).unwrap()
}

/// One message in ten is no log.
pub fn message(id: u64) -> Vec<u8> {
    if id % 10 == 7 { format!("no log {id}").into_bytes() } else { kafka::log(id) }
}

/// A producer at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Ends it and returns how many messages the broker has.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.sent()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// Starts, stops or kills the brokers of the script's own cluster, or one of them.
pub fn broker(what: &str, node: Option<u32>) {
    let need = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("scripts/soak.sh sets {name}"));
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka.sh"));
    script.args([what, "--port", &need("PELTON_SOAK_PORT"), "--dir", &need("PELTON_SOAK_DIR")]);
    script.args(["--brokers", &need("PELTON_SOAK_BROKERS")]);
    if let Some(node) = node {
        script.args(["--node", &node.to_string()]);
    }
    let done = script.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

pub async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
