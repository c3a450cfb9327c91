//! A real Apache Kafka, topics of one's own, logs to send, and daemons to kill.
//!
//! `PELTON_TEST_KAFKA=HOST:PORT` names a broker that runs already (`scripts/test.sh` does). Otherwise `scripts/kafka.sh`
//! starts one on port 29092, which is left running for the next time. Without either the tests fail: they do not turn
//! themselves off.

use pelton::codec::InferenceLog;
use pelton::domain::Timestamp;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const PORT: &str = "29092";

static BROKERS: LazyLock<String> = LazyLock::new(|| {
    if let Ok(given) = std::env::var("PELTON_TEST_KAFKA") {
        return given;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka.sh");
    let status = Command::new(script).args(["start", "--port", PORT]).status().unwrap();
    assert!(status.success(), "scripts/kafka.sh could not start a broker; PELTON_TEST_KAFKA=HOST:PORT names another");
    format!("127.0.0.1:{PORT}")
});

/// `HOST:PORT` of the broker.
pub fn brokers() -> &'static str {
    &BROKERS
}

/// A name that no other test and no other run uses.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::now_v7().simple())
}

/// Makes a topic of one's own.
pub async fn topic(name: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
    let topic = unique(name);
    exact_topic(&topic, partitions, settings).await;
    topic
}

/// Makes a topic of this very name.
pub async fn exact_topic(topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    exact_topic_at(brokers(), topic, partitions, settings).await;
}

/// The same at another broker.
pub async fn exact_topic_at(brokers: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (key, value) in settings {
        new = new.set(key, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let made = admin(brokers).create_topics(&[new], &options).await.unwrap();
    made.into_iter().for_each(|one| drop(one.unwrap()));
}

/// Deletes the messages of a partition before an offset, as retention does.
pub async fn delete_before(topic: &str, partition: i32, offset: i64) {
    let mut gone = TopicPartitionList::new();
    gone.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    admin(brokers()).delete_records(&gone, &AdminOptions::new()).await.unwrap();
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

/// A producer whose acknowledged messages are there.
pub fn producer(brokers: &str) -> BaseProducer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("message.max.bytes", "33554432")
        .set("linger.ms", "20")
        .create()
        .unwrap()
}

/// Sends one message, waiting where the producer's memory is full.
pub fn send(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) {
    while let Err((error, back)) = producer.send(record) {
        assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
        producer.poll(Duration::from_millis(20));
        record = back;
    }
}

/// Sends numbered logs round the partitions; `pace` is called after each hundred.
pub fn send_logs(brokers: &str, topic: &str, partitions: i32, ids: std::ops::Range<u64>, mut pace: impl FnMut()) {
    let producer = producer(brokers);
    for id in ids {
        let bytes = log(id);
        let partition = i32::try_from(id % u64::try_from(partitions).unwrap()).unwrap();
        send(&producer, BaseRecord::to(topic).partition(partition).payload(bytes.as_slice()));
        if id % 100 == 99 {
            producer.poll(Duration::ZERO);
            pace();
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// The first messages of a topic's partition 0, each with its key and headers, as text.
pub fn read(topic: &str, count: usize) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("group.id", unique("reader"))
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut at = TopicPartitionList::new();
    at.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&at).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut found = Vec::new();
    while found.len() < count && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) {
            let text =
                |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default();
            let headers = message
                .headers()
                .into_iter()
                .flat_map(|headers| headers.iter().map(|h| format!("{}={} ", h.key, text(h.value))));
            found.push(format!("{} {} {}", text(message.key()), headers.collect::<String>(), text(message.payload())));
        }
    }
    found
}

/// One numbered log in our envelope.
pub fn log(id: u64) -> Vec<u8> {
    let request = format!(
        r#"{{"model":"support","messages":[{{"role":"system","content":"Be brief."}},{{"role":"user","content":"What is order {id} worth?"}}]}}"#
    );
    let response = format!(
        r#"{{"choices":[{{"message":{{"role":"assistant","content":"It is worth {id}."}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":12,"completion_tokens":6}}}}"#
    );
    let id = id.to_string();
    let time = Timestamp::from_millis(1_795_341_600_000);
    InferenceLog { status_code: Some(200), ..InferenceLog::new(&id, time, &request, Some(&response)) }
        .to_bytes()
        .unwrap()
}

/// A folder with a lake and the configuration of daemons that feed it.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub topic: String,
    pub group: String,
    pub brokers: String,
    /// Whether daemons sync what they write: a test's machine is not switched off, so they do so only where it matters.
    pub fsync: bool,
}

impl Home {
    pub fn new(topic: &str) -> Self {
        Self::at(brokers(), topic)
    }

    pub fn at(brokers: &str, topic: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, topic: topic.to_owned(), group: unique("group"), brokers: brokers.to_owned(), fsync: false }
    }

    /// Writes the configuration of one daemon. Small batches, so that many commits are there to be killed in.
    pub fn config(&self, daemon: &str, kafka: &str, ingest: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{daemon}.toml"));
        let age = if ingest.contains("batch_age_ms_max") { "" } else { "batch_age_ms_max = 300" };
        let text = format!(
            "version = 1\n[lake]\nurl = 'lake'\nfsync = {}\n[kafka]\nbrokers = '{}'\n[kafka.properties]\n{kafka}\n\
             [ingest]\ntopics = ['{}']\ngroup = '{}'\n{age}\n{ingest}\n",
            self.fsync, self.brokers, self.topic, self.group
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn load(&self, path: &Path) -> pelton::config::Config {
        pelton::config::load(path).unwrap()
    }

    pub async fn lake(&self) -> pelton::lake::Lake {
        pelton::lake::Lake::open(&super::lake::config(self.dir.path())).await.unwrap()
    }
}

/// A running `pelton run`; killed when it is dropped.
pub struct Daemon(Child);

impl Daemon {
    pub fn start(config: &Path) -> Self {
        Self::start_with(config, &[])
    }

    /// Starts with variables of the environment.
    pub fn start_with(config: &Path, environment: &[(&str, &str)]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(config.with_extension("log")).unwrap();
        // A long run names a copy, so that a build meanwhile changes nothing under it.
        let program = std::env::var("PELTON_TEST_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pelton").to_owned());
        let child = Command::new(program)
            .arg("run")
            .arg("--config")
            .arg(config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGKILL: nothing is drained.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM, and the status of its end.
    pub fn stop(mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        self.0.wait().unwrap()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// The status that it ended with, where it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// The daemon must not end by itself.
    pub fn assert_alive(&mut self, config: &Path) {
        if let Some(status) = self.0.try_wait().unwrap() {
            let log = std::fs::read_to_string(config.with_extension("log")).unwrap_or_default();
            panic!("the daemon ended by itself with {status}:\n{}", &log[log.len().saturating_sub(4000)..]);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Polls a condition until it holds; a test that waits for nothing fails.
pub async fn until(what: &str, patience: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
