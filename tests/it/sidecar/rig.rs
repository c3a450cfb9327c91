//! A sidecar as users run it: a process, its configuration, its topics.

use crate::support::kafka::{self, until};
use pelton::codec::decode;
use pelton::domain::{InferenceRow, Row, RowKind};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a sidecar is configured with.
pub struct Setup {
    pub brokers: String,
    pub upstreams: Vec<String>,
    /// Lines of `[sidecar]` itself.
    pub lines: String,
    /// Sections after it.
    pub sections: String,
    /// A program that starts it, with its arguments.
    pub wrapper: Vec<String>,
}

impl Setup {
    pub fn new(upstreams: &[&str]) -> Self {
        let upstreams = upstreams.iter().map(|url| format!("url = '{url}'")).collect();
        Self {
            brokers: kafka::brokers().to_owned(),
            upstreams,
            lines: String::new(),
            sections: String::new(),
            wrapper: Vec::new(),
        }
    }
}

/// A running sidecar; killed when it is dropped.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub url: String,
    pub admin: String,
    pub brokers: String,
    pub logs: String,
    pub feedback: String,
    pub versions: String,
    config: PathBuf,
    wrapper: Vec<String>,
    child: Child,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

impl Rig {
    pub async fn start(setup: Setup) -> Self {
        let names = ["calls", "feedback", "versions"].map(kafka::unique);
        Self::start_on(setup, names).await
    }

    pub async fn start_on(setup: Setup, [logs, feedback, versions]: [String; 3]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port(), free_port());
        let upstreams: String =
            setup.upstreams.iter().map(|lines| format!("[[sidecar.upstreams]]\n{lines}\n")).collect();
        let text = format!(
            "version = 1\n[kafka]\nbrokers = '{}'\n[ingest]\ntopics = ['{logs}']\nfeedback_topics = ['{feedback}']\n\
             [publish]\ntopic = '{versions}'\n[sidecar]\nlisten = '127.0.0.1:{port}'\nadmin_listen = '127.0.0.1:{admin}'\n\
             health_interval_ms = 100\n{}\n[sidecar.adapters]\ninterval_ms = 100\nkeep_ms = 300\n{upstreams}\n{}\n",
            setup.brokers, setup.lines, setup.sections
        );
        let config = dir.path().join("sidecar.toml");
        std::fs::write(&config, text).unwrap();
        let child = spawn(&setup.wrapper, &config, &dir.path().join("log"));
        let (url, admin) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{admin}"));
        let mut rig = Self {
            dir,
            url,
            admin,
            brokers: setup.brokers,
            logs,
            feedback,
            versions,
            config,
            wrapper: setup.wrapper,
            child,
        };
        rig.ready().await;
        rig
    }

    pub async fn ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let url = format!("{}/readyz", self.admin);
        while !client().get(&url).send().await.is_ok_and(|r| r.status().is_success()) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "not ready ({ended:?}):\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// What it logged about itself.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = client().post(format!("{}{path}", self.url)).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    }

    pub async fn chat(&self, body: &Value) -> reqwest::Response {
        self.post("/v1/chat/completions", body.to_string()).await
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let text = client().get(format!("{}/metrics", self.admin)).send().await.unwrap().text().await.unwrap();
        let lines = text.lines().filter(|l| l.starts_with(name) && !l.starts_with('#'));
        lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    pub async fn status(&self) -> Value {
        client().get(format!("{}/status", self.admin)).send().await.unwrap().json().await.unwrap()
    }

    /// The first logged calls, as ingestion decodes them.
    pub async fn rows(&self, count: usize) -> Vec<InferenceRow<'static>> {
        let payloads = self.payloads(&self.logs, count).await;
        payloads.into_iter().map(|payload| row(Box::leak(payload.into_boxed_slice()))).collect()
    }

    /// The first messages of a topic.
    pub async fn payloads(&self, topic: &str, count: usize) -> Vec<Vec<u8>> {
        let (brokers, topic) = (self.brokers.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || read(&brokers, &topic, count)).await.unwrap()
    }

    /// Its resident memory now, in MiB.
    pub fn rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// The status that it ends with.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let mut status = None;
        until("the sidecar ends", PATIENCE, async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// SIGKILL, and the same again; where `brokers` are given, on those.
    pub async fn kill_and_start(&mut self, brokers: Option<&str>) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if let Some(brokers) = brokers {
            let text = std::fs::read_to_string(&self.config).unwrap().replace(&self.brokers, brokers);
            std::fs::write(&self.config, text).unwrap();
            self.brokers = brokers.to_owned();
        }
        self.child = spawn(&self.wrapper, &self.config, &self.dir.path().join("log"));
        self.ready().await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(wrapper: &[String], config: &std::path::Path, log: &std::path::Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let program = std::env::var("PELTON_TEST_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pelton").to_owned());
    let words: Vec<&str> =
        wrapper.iter().map(String::as_str).chain([program.as_str(), "sidecar", "--config"]).collect();
    Command::new(words[0])
        .args(&words[1..])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn row(payload: &'static [u8]) -> InferenceRow<'static> {
    match decode(RowKind::Inference, Some(payload), 64 << 20) {
        Ok(Row::Inference(row)) => *row,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(payload)),
    }
}

/// How many messages the first partition of a topic has.
pub fn messages(brokers: &str, topic: &str) -> usize {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let (low, high) = consumer.fetch_watermarks(topic, 0, Duration::from_secs(10)).unwrap();
    usize::try_from(high - low).unwrap()
}

/// The first messages of all partitions of a topic, by time.
pub fn read(brokers: &str, topic: &str, count: usize) -> Vec<Vec<u8>> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", brokers).set("group.id", kafka::unique("reader"));
    settings.set("enable.auto.commit", "false").set("allow.auto.create.topics", "true");
    settings.set("fetch.message.max.bytes", "67108864").set("fetch.max.bytes", "67108864");
    settings.set("receive.message.max.bytes", "70000000");
    let consumer: BaseConsumer = settings.create().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    let mut assigned = false;
    while found.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} messages came to {topic}", found.len());
        if !assigned {
            let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).unwrap();
            let mut at = TopicPartitionList::new();
            for partition in metadata.topics().iter().filter(|t| t.error().is_none()).flat_map(|t| t.partitions()) {
                at.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
            }
            assigned = at.count() > 0;
            consumer.assign(&at).unwrap();
        }
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let place = (message.timestamp().to_millis(), message.partition(), message.offset());
            found.push((place, message.payload().unwrap_or_default().to_vec()));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, payload)| payload).collect()
}
