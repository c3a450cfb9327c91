//! What the broker says of offsets: whether those in no table ever held a message, what it has of a partition, and which
//! messages stand there now.

use super::client;
use super::error::Error;
use super::sink::Partition;
use super::topic_id::topic_ids;
use crate::config;
use crate::domain::{Timestamp, topic_id};
use crate::telemetry::KafkaLog;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(15);

/// What the broker says of a range of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// It has no message in the range: transaction markers, aborted messages, or compacted ones.
    Empty,
    /// It has a message at this offset.
    Message {
        /// The offset.
        offset: i64,
    },
    /// It no longer has the range, so nobody can tell.
    Expired,
}

/// Asks the broker what it delivers from `first` to `last`, both included.
///
/// # Errors
/// [`Error::Settings`] where the client cannot be made, [`Error::Away`] where the broker does not answer.
pub fn confirm_gap(kafka: &config::Kafka, partition: &Partition, first: i64, last: i64) -> Result<Confirmation, Error> {
    let away = |source| Error::Away { brokers: kafka.brokers.clone(), source };
    let consumer = reader(kafka)?;
    let topic = partition.topic.as_str();
    let ids = topic_ids(consumer.client(), [topic], PATIENCE).map_err(away)?;
    // Another topic of the same name knows nothing of these offsets.
    if ids.get(topic).is_none_or(|id| **id != *topic_id(&partition.generation)) {
        return Ok(Confirmation::Expired);
    }
    let (low, high) = consumer.fetch_watermarks(&partition.topic, partition.number, PATIENCE).map_err(away)?;
    if first < low || last >= high {
        return Ok(Confirmation::Expired);
    }
    read_from(&consumer, partition, first).map_err(away)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) if message.offset() > last => return Ok(Confirmation::Empty),
            Some(Ok(message)) if message.offset() >= first => {
                return Ok(Confirmation::Message { offset: message.offset() });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Confirmation::Empty),
            Some(Err(error)) if Instant::now() > deadline => return Err(away(error)),
            None if Instant::now() > deadline => return Err(away(KafkaError::NoMessageReceived)),
            _ => {}
        }
    }
}

fn reader(kafka: &config::Kafka) -> Result<BaseConsumer<KafkaLog>, Error> {
    let mut settings = client::base(kafka);
    settings
        .set("group.id", "pelton-audit")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true");
    settings.create_with_context(KafkaLog).map_err(Error::Settings)
}

fn read_from(consumer: &BaseConsumer<KafkaLog>, partition: &Partition, offset: i64) -> Result<(), KafkaError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(&partition.topic, partition.number, Offset::Offset(offset))?;
    consumer.assign(&assignment)
}

/// A message as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its offset.
    pub offset: i64,
    /// The time on it.
    pub time: Option<Timestamp>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its bytes.
    pub payload: Option<Vec<u8>>,
}

/// The messages that the broker has from `first` on to the end of the partition.
///
/// # Errors
/// [`Error::Settings`] where the client cannot be made, [`Error::Away`] where the broker does not answer.
pub fn messages_from(
    kafka: &config::Kafka,
    partition: &Partition,
    first: i64,
    mut take: impl FnMut(Held),
) -> Result<(), Error> {
    let away = |source| Error::Away { brokers: kafka.brokers.clone(), source };
    let consumer = reader(kafka)?;
    read_from(&consumer, partition, first).map_err(away)?;
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                deadline = Instant::now() + PATIENCE;
                take(Held {
                    offset: message.offset(),
                    time: message.timestamp().to_millis().map(Timestamp::from_millis),
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec),
                });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) if Instant::now() > deadline => return Err(away(error)),
            None if Instant::now() > deadline => return Err(away(KafkaError::NoMessageReceived)),
            _ => {}
        }
    }
}

/// What the broker has of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// Offsets from `low` to before `high`.
    Held {
        /// The oldest offset that it has.
        low: i64,
        /// The next offset that it will write.
        high: i64,
    },
    /// The topic is gone, or another of its name has taken its place.
    Gone,
}

/// Asks the broker what it has of partitions.
///
/// # Errors
/// [`Error::Settings`] where the client cannot be made, [`Error::Away`] where the broker does not answer.
pub fn bounds(kafka: &config::Kafka, partitions: &[Partition]) -> Result<Vec<Bounds>, Error> {
    let away = |source| Error::Away { brokers: kafka.brokers.clone(), source };
    let consumer: BaseConsumer<KafkaLog> =
        client::base(kafka).create_with_context(KafkaLog).map_err(Error::Settings)?;
    let topics: BTreeSet<&str> = partitions.iter().map(|p| p.topic.as_str()).collect();
    let ids = topic_ids(consumer.client(), topics, PATIENCE).map_err(away)?;
    let of = |partition: &Partition| {
        if ids.get(&partition.topic).is_none_or(|id| **id != *topic_id(&partition.generation)) {
            return Ok(Bounds::Gone);
        }
        let (low, high) = consumer.fetch_watermarks(&partition.topic, partition.number, PATIENCE).map_err(away)?;
        Ok(Bounds::Held { low, high })
    };
    partitions.iter().map(of).collect()
}
