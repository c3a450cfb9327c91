//! Sends version events to the compacted topic, and reads them back.

use crate::codec::event::{self, EventMessage};
use crate::config::Kafka;
use crate::domain::Version;
use crate::runtime::{Backoff, Shutdown};
use crate::telemetry::Event;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Why an event is not sent or read.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A client cannot be made: a property is wrong.
    #[error("kafka.properties: {0}")]
    Client(KafkaError),
    /// The broker cannot be asked.
    #[error("topic {topic}")]
    Broker {
        /// The topic.
        topic: String,
        /// The cause.
        source: KafkaError,
    },
    /// The shutdown came before the broker acknowledged; the event is sent at the next start.
    #[error("the shutdown came before the broker acknowledged the event {id}")]
    Interrupted {
        /// The event.
        id: String,
    },
}

/// Sends events.
pub struct Publisher {
    producer: FutureProducer,
    settings: ClientConfig,
    topic: String,
    /// The topic was made sure of.
    topic_known: AtomicBool,
}

fn client(kafka: &Kafka) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings.extend(kafka.properties.clone());
    settings.set("bootstrap.servers", &kafka.brokers);
    settings
}

impl Publisher {
    /// A producer for the topic; asks no broker yet. Each message has 10 s before it counts as not sent; idempotence keeps a
    /// broker's order and drops a retry's duplicates within one producer, and the ids do so beyond it.
    ///
    /// # Errors
    /// [`PublishError::Client`].
    pub fn new(kafka: &Kafka, topic: &str) -> Result<Self, PublishError> {
        let settings = client(kafka);
        let mut producer = settings.clone();
        producer.set("enable.idempotence", "true").set("acks", "all").set("message.timeout.ms", "10000");
        let producer = producer.create().map_err(PublishError::Client)?;
        Ok(Self { producer, settings, topic: topic.to_owned(), topic_known: AtomicBool::new(false) })
    }

    /// Creates the topic, compacted, with one partition and the broker's replication, where it is missing; warns where it
    /// is there and not compacted. A broker without an admin API (librdkafka's in-process one) creates topics by itself.
    ///
    /// # Errors
    /// [`PublishError::Client`] for a wrong property, [`PublishError::Broker`] where the broker is away.
    pub async fn ensure_topic(&self) -> Result<(), PublishError> {
        let admin: AdminClient<DefaultClientContext> = self.settings.create().map_err(PublishError::Client)?;
        let topic = NewTopic::new(&self.topic, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
        match admin.create_topics([&topic], &admin_options()).await {
            Ok(results) => {
                for result in results {
                    match result {
                        Ok(_) => {}
                        Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => self.warn_unless_compacted(&admin).await,
                        Err((topic, code)) => tracing::warn!(topic, %code, "the topic was not created"),
                    }
                }
                Ok(())
            }
            Err(source) if is_away(&source) => Err(PublishError::Broker { topic: self.topic.clone(), source }),
            Err(error) => {
                tracing::debug!(topic = self.topic, %error, "the broker has no admin API");
                Ok(())
            }
        }
    }

    /// On a topic that only ages its messages out, a late subscriber would miss the champion.
    async fn warn_unless_compacted(&self, admin: &AdminClient<DefaultClientContext>) {
        let asked = admin.describe_configs([&ResourceSpecifier::Topic(&self.topic)], &admin_options()).await;
        let policy =
            asked.ok().and_then(|mut all| all.pop()?.ok()).and_then(|c| c.get("cleanup.policy")?.value.clone());
        if let Some(policy) = policy.filter(|policy| !policy.contains("compact")) {
            let topic = &self.topic;
            tracing::warn!(topic, policy, "the topic is not compacted; set cleanup.policy=compact");
        }
    }

    /// Sends a version's messages, and returns the event's id when the broker has acknowledged them. A broker that is away is
    /// waited for.
    ///
    /// # Errors
    /// [`PublishError::Interrupted`] where the shutdown comes first; [`PublishError::Broker`] where the broker refuses for good.
    pub async fn publish(&self, version: &Version, source: &str, shutdown: &Shutdown) -> Result<String, PublishError> {
        let id = event::event_id(version);
        let interrupted = || PublishError::Interrupted { id: id.clone() };
        // Before the first message: a producer's message makes brokers create the topic with their own policy.
        if !self.topic_known.load(Ordering::Relaxed) {
            self.until_done(shutdown, interrupted, || self.ensure_topic()).await?;
            self.topic_known.store(true, Ordering::Relaxed);
        }
        for message in event::messages(version, source) {
            self.until_done(shutdown, interrupted, || self.try_send(&message)).await?;
            Event::EventSent { id: &id, key: &message.key }.emit();
        }
        Ok(id)
    }

    /// Tries a step until the broker answers; says once that it is away, and once that it is back.
    async fn until_done<F: Future<Output = Result<(), PublishError>>>(
        &self,
        shutdown: &Shutdown,
        interrupted: impl Fn() -> PublishError,
        step: impl Fn() -> F,
    ) -> Result<(), PublishError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let tried = tokio::select! {
                tried = step() => tried,
                () = shutdown.cancelled() => return Err(interrupted()),
            };
            let error = match tried {
                Ok(()) => {
                    if backoff.tries() > 0 {
                        Event::Back { what: "broker" }.emit();
                    }
                    return Ok(());
                }
                Err(PublishError::Broker { source, .. }) if !is_final(&source) => source,
                Err(error) => return Err(error),
            };
            if backoff.tries() == 0 {
                Event::Away { what: "broker", error: &error.to_string() }.emit();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_pause()) => {}
                () = shutdown.cancelled() => return Err(interrupted()),
            }
        }
    }

    async fn try_send(&self, message: &EventMessage) -> Result<(), PublishError> {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
        let record = FutureRecord::to(&self.topic).key(&message.key).payload(&message.payload).headers(headers);
        let sent = self.producer.send(record, Duration::from_secs(5)).await;
        sent.map(drop).map_err(|(source, _)| PublishError::Broker { topic: self.topic.clone(), source })
    }
}

fn admin_options() -> AdminOptions {
    let wait = Some(Duration::from_secs(5));
    AdminOptions::new().operation_timeout(wait).request_timeout(wait)
}

/// Errors of a broker that cannot be reached, in difference to one that answers and refuses.
fn is_away(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::OperationTimedOut
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::RequestTimedOut
        )
    )
}

/// Errors that no waiting mends.
fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error,
        KafkaError::MessageProduction(
            Code::MessageSizeTooLarge
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::InvalidTopic
                | Code::PolicyViolation
        )
    )
}

/// Reads the topic from its beginning to where it ends now. Blocks; call it off the runtime.
///
/// # Errors
/// [`PublishError`] where the broker does not answer within `timeout`.
pub fn read_events(kafka: &Kafka, topic: &str, timeout: Duration) -> Result<Vec<EventMessage>, PublishError> {
    let failed = |source| PublishError::Broker { topic: topic.to_owned(), source };
    let mut settings = client(kafka);
    settings.set("group.id", "pelton-event-reader").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = settings.create().map_err(PublishError::Client)?;
    let deadline = Instant::now() + timeout;
    let metadata = consumer.fetch_metadata(Some(topic), timeout).map_err(failed)?;
    let partitions: Vec<i32> =
        metadata.topics().iter().flat_map(|t| t.partitions()).map(rdkafka::metadata::MetadataPartition::id).collect();
    let mut wanted = TopicPartitionList::new();
    let mut left = 0;
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, timeout).map_err(failed)?;
        if high > low {
            wanted.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(failed)?;
            left += 1;
        }
    }
    consumer.assign(&wanted).map_err(failed)?;
    let ends: std::collections::BTreeMap<i32, i64> = wanted
        .elements()
        .iter()
        .map(|e| Ok((e.partition(), consumer.fetch_watermarks(topic, e.partition(), timeout).map_err(failed)?.1)))
        .collect::<Result<_, PublishError>>()?;
    let mut messages = Vec::new();
    while left > 0 && Instant::now() < deadline {
        let Some(polled) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = polled.map_err(failed)?;
        left -= usize::from(message.offset() + 1 >= ends[&message.partition()]);
        messages.push(((message.timestamp().to_millis(), message.partition(), message.offset()), read(&message)));
    }
    // A topic that others made may have several partitions, which arrive in any order.
    messages.sort_by_key(|(place, _)| *place);
    Ok(messages.into_iter().map(|(_, message)| message).collect())
}

fn read(message: &rdkafka::message::BorrowedMessage<'_>) -> EventMessage {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let headers = message.headers().into_iter().flat_map(rdkafka::message::Headers::iter);
    EventMessage {
        key: text(message.key()),
        headers: headers.map(|h| (h.key.to_owned(), text(h.value))).collect(),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}
