//! Whether the broker confirms that offsets which are in no table never held a message.

use super::client;
use super::error::Error;
use super::sink::Partition;
use super::topic_id::topic_ids;
use crate::config;
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
    let mut settings = client::base(kafka);
    settings
        .set("group.id", "pelton-audit")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true");
    let away = |source| Error::Away { brokers: kafka.brokers.clone(), source };
    let consumer: BaseConsumer<client::Quiet> = settings.create_with_context(client::Quiet).map_err(Error::Settings)?;
    let topic = partition.topic.as_str();
    let ids = topic_ids(consumer.client(), [topic], PATIENCE).map_err(away)?;
    // Another topic of the same name knows nothing of these offsets.
    if ids.get(topic) != Some(&partition.generation) {
        return Ok(Confirmation::Expired);
    }
    let (low, high) = consumer.fetch_watermarks(&partition.topic, partition.number, PATIENCE).map_err(away)?;
    if first < low || last >= high {
        return Ok(Confirmation::Expired);
    }
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(&partition.topic, partition.number, Offset::Offset(first))
        .and_then(|()| consumer.assign(&assignment))
        .map_err(away)?;
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
    let consumer: BaseConsumer<client::Quiet> =
        client::base(kafka).create_with_context(client::Quiet).map_err(Error::Settings)?;
    let topics: BTreeSet<&str> = partitions.iter().map(|p| p.topic.as_str()).collect();
    let ids = topic_ids(consumer.client(), topics, PATIENCE).map_err(away)?;
    let of = |partition: &Partition| {
        if ids.get(&partition.topic) != Some(&partition.generation) {
            return Ok(Bounds::Gone);
        }
        let (low, high) = consumer.fetch_watermarks(&partition.topic, partition.number, PATIENCE).map_err(away)?;
        Ok(Bounds::Held { low, high })
    };
    partitions.iter().map(of).collect()
}
