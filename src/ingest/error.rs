//! What ends ingestion; everything else is tried again.

use rdkafka::error::KafkaError;

/// Why ingestion cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// librdkafka refuses the settings.
    #[error("kafka settings are not usable")]
    Settings(#[source] KafkaError),
    /// The topics cannot be subscribed to.
    #[error("topics {topics} cannot be subscribed to")]
    Subscribe {
        /// The topics.
        topics: String,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// librdkafka gave up, for example because another member took the same `group.instance.id`.
    #[error("kafka consumer failed for good")]
    Fatal(#[source] KafkaError),
    /// The sink cannot be made.
    #[error("the tables cannot be opened for writing")]
    Sink(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The broker did not answer.
    #[error("kafka at {brokers} does not answer")]
    Away {
        /// The brokers.
        brokers: String,
        /// What librdkafka says.
        #[source]
        source: KafkaError,
    },
    /// The schema registry's client cannot be made.
    #[error("the schema registry cannot be asked")]
    Registry(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A route of the configuration cannot be followed.
    #[error("the route of `{topics}` cannot be followed: {why}")]
    Route {
        /// The topics.
        topics: String,
        /// What is wrong.
        why: String,
    },
    /// The worker thread is gone: it panicked.
    #[error("the committing thread ended unexpectedly")]
    Worker,
}
