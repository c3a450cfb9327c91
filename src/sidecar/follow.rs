//! Reads the compacted topic of versions from its beginning, and then for ever. A broker or topic that is not there yet is
//! waited for; what was learnt before stays true meanwhile.

use super::versions::Versions;
use crate::config::Kafka;
use crate::runtime::Shutdown;
use crate::telemetry::KafkaLog;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;

/// How long one question to the broker may take.
const ASK: Duration = Duration::from_secs(2);

/// The broker's code for a topic that is not there.
const UNKNOWN_TOPIC: i32 = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32;

/// Follows the topic on a thread of its own.
///
/// # Errors
/// A property that librdkafka refuses, or no thread.
pub fn follow(
    kafka: &Kafka,
    topic: String,
    told: Told,
    end: Shutdown,
) -> Result<std::thread::JoinHandle<()>, FollowError> {
    let mut settings = ClientConfig::new();
    settings.extend(kafka.properties.clone());
    settings
        .set("bootstrap.servers", &kafka.brokers)
        .set("group.id", "pelton-sidecar")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "500")
        .set("reconnect.backoff.max.ms", "2000");
    let consumer: BaseConsumer<KafkaLog> = settings.create_with_context(KafkaLog)?;
    let (assigned, read) = (BTreeSet::new(), BTreeSet::new());
    let follower = Follower { consumer, topic, told, assigned, read };
    let thread = std::thread::Builder::new().name("versions".to_owned());
    Ok(thread.spawn(move || follower.run(&end))?)
}

/// Who learns what the topic says.
pub struct Told {
    /// The versions.
    pub versions: Arc<Versions>,
    /// There is something new.
    pub changed: Arc<Notify>,
    /// The topic was read to its end once, or there is none.
    pub caught_up: Arc<AtomicBool>,
}

impl Told {
    fn all(&self) {
        self.caught_up.store(true, Relaxed);
        self.changed.notify_one();
    }
}

/// Why the topic is not followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A property.
    #[error("kafka.properties: cannot make a consumer")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// No thread.
    #[error("the system gives no thread")]
    Thread(#[from] std::io::Error),
}

struct Follower {
    consumer: BaseConsumer<KafkaLog>,
    topic: String,
    told: Told,
    assigned: BTreeSet<i32>,
    /// Those that were read to their end.
    read: BTreeSet<i32>,
}

impl Follower {
    fn run(mut self, end: &Shutdown) {
        let mut turns = 0u32;
        while !end.is_cancelled() {
            // New partitions are looked for every now and then; until there is one, at each turn.
            let looks = self.assigned.is_empty() || turns % 100 == 99;
            if looks && let Err(error) = self.assign() {
                tracing::debug!(topic = self.topic, %error, "the topic of versions is not there yet");
                std::thread::sleep(Duration::from_millis(300));
            }
            turns = turns.wrapping_add(1);
            match self.consumer.poll(Duration::from_millis(300)) {
                Some(Ok(message)) => {
                    let key = message.key().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default();
                    self.told.versions.learn(&key, message.payload());
                    self.told.changed.notify_one();
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.read.insert(partition);
                    if self.read.is_superset(&self.assigned) {
                        self.told.all();
                    }
                }
                Some(Err(error)) => tracing::debug!(topic = self.topic, %error, "versions"),
                None => {}
            }
        }
    }

    fn assign(&mut self) -> KafkaResult<()> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ASK)?;
        if metadata.topics().iter().any(|topic| topic.error().is_some_and(|e| e as i32 == UNKNOWN_TOPIC)) {
            // Nothing was ever announced.
            self.told.all();
        }
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let partitions: BTreeSet<i32> = topics.flat_map(|topic| topic.partitions()).map(|p| p.id()).collect();
        let mut new = TopicPartitionList::new();
        for partition in partitions.difference(&self.assigned) {
            new.add_partition_offset(&self.topic, *partition, Offset::Beginning)?;
        }
        if new.count() > 0 {
            self.consumer.incremental_assign(&new)?;
            self.assigned = partitions;
        }
        Ok(())
    }
}
