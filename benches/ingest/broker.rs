//! The broker, its topics, and the messages in them.

use super::corpus::Corpus;
use anyhow::{Context as _, Result};
use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const PARTITIONS: i32 = 6;

/// A broker that answers; one that the bench started ends with it.
pub struct Broker {
    pub address: String,
    started: Option<(String, PathBuf)>,
}

/// A topic that holds messages.
pub struct Sent {
    pub topic: String,
    pub messages: u64,
    pub bytes: u64,
}

impl Sent {
    pub fn megabytes(&self) -> f64 {
        self.bytes as f64 / 1e6
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

impl Broker {
    pub fn open() -> Result<Self> {
        if let Ok(address) = std::env::var("PELTON_TEST_KAFKA") {
            return Ok(Self { address, started: None });
        }
        let found = Command::new(script("free-port.sh")).output()?;
        let port = String::from_utf8(found.stdout)?.trim().to_owned();
        let folder = std::env::temp_dir().join(format!("pelton-bench-kafka-{port}"));
        let status =
            Command::new(script("kafka.sh")).args(["start", "--port", &port, "--dir"]).arg(&folder).status()?;
        anyhow::ensure!(status.success(), "scripts/kafka.sh could not start a broker");
        Ok(Self { address: format!("127.0.0.1:{port}"), started: Some((port, folder)) })
    }

    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.address);
        client
    }

    pub fn topic(&self, name: &str) -> Result<String> {
        let topic = format!("{name}-{}", uuid::Uuid::now_v7().simple());
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for made in block_on(admin.create_topics(&[new], &options))? {
            made.map_err(|(topic, error)| anyhow::anyhow!("topic {topic}: {error}"))?;
        }
        Ok(topic)
    }

    pub fn drop_topic(&self, topic: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        block_on(admin.delete_topics(&[topic], &AdminOptions::new())).context("cannot delete the topic")?;
        Ok(())
    }

    pub fn producer(&self, compression: &str) -> Result<BaseProducer> {
        let producer = self
            .client()
            .set("enable.idempotence", "true")
            .set("linger.ms", "10")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.kbytes", "131072")
            .set("compression.type", compression)
            .create()?;
        Ok(producer)
    }

    /// A topic with so many bytes of messages, round its partitions.
    pub fn fill(&self, corpus: &Corpus, bytes: usize, compression: &str) -> Result<Sent> {
        let topic = self.topic("ingest-bench")?;
        let producer = self.producer(compression)?;
        let mut messages = corpus.messages(1);
        let mut sent = Sent { topic, messages: 0, bytes: 0 };
        while sent.bytes < bytes as u64 {
            let message = messages.message()?;
            let partition = i32::try_from(sent.messages % PARTITIONS as u64)?;
            send(&producer, BaseRecord::to(&sent.topic).partition(partition).payload(&message))?;
            sent.messages += 1;
            sent.bytes += message.len() as u64;
        }
        producer.flush(Duration::from_secs(120))?;
        Ok(sent)
    }
}

/// Sends one message, waiting where the producer's memory is full.
pub fn send(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<()> {
    while let Err((error, back)) = producer.send(record) {
        let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
        anyhow::ensure!(full, "cannot send: {error}");
        producer.poll(Duration::from_millis(20));
        record = back;
    }
    producer.poll(Duration::ZERO);
    Ok(())
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some((port, folder)) = &self.started {
            Command::new(script("kafka.sh")).args(["stop", "--port", port, "--dir"]).arg(folder).status().ok();
            std::fs::remove_dir_all(folder).ok();
        }
    }
}
