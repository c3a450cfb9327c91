//! Whether the topics that a batch was read from are still the ones that their offsets belong to.
//!
//! A topic that is deleted and made again within moments looks to the consumer like a topic that goes on: its fetches meet
//! offsets of other messages. So before each commit the broker is asked for the topics' ids. Where one has changed, what is
//! in memory cannot be told apart and is dropped, as by a partition that moved; the new topic is read from its beginning.

use super::client;
use super::error::Error;
use super::sink::{Partition, SinkError};
use super::topic_id::topic_ids;
use crate::config;
use crate::domain::topic_id;
use crate::telemetry::KafkaLog;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Asks for topics' ids, on a connection of its own: the consumer's waits behind fetches.
#[derive(Clone)]
pub(super) struct Generations {
    client: Arc<BaseConsumer<KafkaLog>>,
}

impl Generations {
    pub(super) fn open(kafka: &config::Kafka) -> Result<Self, Error> {
        Ok(Self { client: Arc::new(client::base(kafka).create_with_context(KafkaLog).map_err(Error::Settings)?) })
    }

    /// Holds where every partition's topic is the one that it was read from, or is gone with nothing in its place.
    pub(super) fn verify<T>(&self, of: &[(Partition, u64, T, T)]) -> Result<(), SinkError> {
        let topics: BTreeSet<&str> = of.iter().map(|(partition, ..)| partition.topic.as_str()).collect();
        // Polling serves the error events, which would pile up.
        self.client.poll(Duration::ZERO);
        let ids = topic_ids(self.client.client(), topics, ANSWER_MAX)
            .map_err(|e| SinkError::Away(format!("kafka does not say which topics it has: {e}")))?;
        for (partition, ..) in of {
            let Partition { topic, generation, .. } = partition;
            if let Some(id) = ids.get(topic).filter(|id| ***id != *topic_id(generation)) {
                return Err(SinkError::Moved(format!(
                    "topic {topic} was deleted and made again: its id was {generation} and is {id}"
                )));
            }
        }
        Ok(())
    }
}
