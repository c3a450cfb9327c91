//! Follows the state changes of versions with events on a compacted topic, and reads them back.
//!
//! The table is the truth, and the topic itself says how far it was followed: what is later there than the model's last event
//! is sent, in order; where nothing is, nothing is done. The topic has one transactional id, so that whoever begins to send ends
//! whatever another had begun (Kafka's own fencing), and only then reads how far it is: so nothing is lost, nothing changes
//! places, and an event is there once, also where processes die anywhere on the way. Each event and the champion pointer that it
//! moves are one transaction.

use super::transition::champion;
use crate::codec::event::{self, EventMessage, Mode, Pointer};
use crate::config::Kafka;
use crate::domain::{ModelName, Timestamp, Version};
use crate::runtime::{Backoff, Failpoint, Shutdown, failpoint};
use crate::telemetry::{Event, KafkaLog};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};
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
    /// The shutdown came before the broker acknowledged; what is owed is sent at the next start.
    #[error("the shutdown came before the broker acknowledged the event {id}")]
    Interrupted {
        /// The first event that may not be there.
        id: String,
    },
}

/// How long one call to the broker may take before it counts as away.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends events.
pub struct Publisher {
    kafka: Kafka,
    settings: ClientConfig,
    topic: String,
    mode: Mode,
}

fn client(kafka: &Kafka) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings.extend(kafka.properties.clone());
    settings.set("bootstrap.servers", &kafka.brokers);
    settings
}

impl Publisher {
    /// A publisher for the topic; asks no broker yet.
    #[must_use]
    pub fn new(kafka: &Kafka, topic: &str, mode: Mode) -> Self {
        Self { kafka: kafka.clone(), settings: client(kafka), topic: topic.to_owned(), mode }
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

    /// Sends what the topic lacks of a model's state changes, which are all of them in the order of time, and gives the ids of
    /// the events that were sent. A broker that is away is waited for.
    ///
    /// # Errors
    /// [`PublishError::Interrupted`] where the shutdown comes first; [`PublishError::Broker`] where the broker refuses for good.
    pub async fn follow(
        &self,
        model: &ModelName,
        versions: &[Version],
        source: &str,
        shutdown: &Shutdown,
    ) -> Result<Vec<String>, PublishError> {
        let Some(newest) = versions.last() else { return Ok(Vec::new()) };
        let interrupted = || PublishError::Interrupted { id: event::event_id(newest) };
        let sent = std::sync::Mutex::new(Vec::new());
        let sent_now = &sent;
        self.until_done(shutdown, interrupted, || async move {
            // Before the first message: a producer's message makes brokers create the topic with their own policy.
            self.ensure_topic().await?;
            let announced = self.announcements(versions, source);
            let (kafka, settings, topic) = (self.kafka.clone(), self.settings.clone(), self.topic.clone());
            let model = model.clone();
            let tried = move || catch_up(&kafka, &settings, &topic, &model, &announced);
            let done = tokio::task::spawn_blocking(tried).await.expect("sending does not panic")?;
            sent_now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(done);
            Ok(())
        })
        .await?;
        Ok(sent.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Each state change with its messages.
    fn announcements(&self, versions: &[Version], source: &str) -> Vec<Announcement> {
        let serving = |count: usize| champion(&versions[..count]).map(|v| (&v.reference, v.time));
        let one = |(i, version): (usize, &Version)| {
            let (before, after) = (serving(i), serving(i + 1));
            let pointer = match after {
                _ if before == after => Pointer::Stays,
                Some(_) if version.state == crate::domain::VersionState::Promoted => Pointer::Here,
                // A rollback is followed by the promotion of the one before it, which moves the pointer.
                Some(_) => Pointer::Stays,
                None => Pointer::Base,
            };
            let messages = event::announcement(version, source, pointer, self.mode);
            Announcement { id: event::event_id(version), time: version.time, messages }
        };
        versions.iter().enumerate().map(one).collect()
    }

    /// Tries a step until the broker answers; says once that it is away, and once that it is back.
    async fn until_done<F: Future<Output = Result<(), PublishError>>>(
        &self,
        shutdown: &Shutdown,
        interrupted: impl Fn() -> PublishError,
        step: impl Fn() -> F,
    ) -> Result<(), PublishError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut away = false;
        loop {
            let tried = tokio::select! {
                tried = step() => tried,
                () = shutdown.cancelled() => return Err(interrupted()),
            };
            let error = match tried {
                Ok(()) => {
                    if away {
                        Event::Back { what: "broker" }.emit();
                    }
                    return Ok(());
                }
                Err(PublishError::Broker { source, .. }) if !is_final(&source) => source,
                Err(error) => return Err(error),
            };
            // That another follows the topic too is no outage: it has sent, or its turn ends.
            if !away && !is_fenced(&error) {
                away = true;
                Event::Away { what: "broker", error: &error.to_string() }.emit();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_pause()) => {}
                () = shutdown.cancelled() => return Err(interrupted()),
            }
        }
    }
}

/// One state change, ready to send.
struct Announcement {
    id: String,
    time: Timestamp,
    messages: Vec<EventMessage>,
}

/// Sends what the topic lacks. Where it lacks nothing, nobody is fenced: what can be read there is there for good. Otherwise what
/// others had begun is ended first, and how far the topic is, is read again. Blocks.
fn catch_up(
    kafka: &Kafka,
    settings: &ClientConfig,
    topic: &str,
    model: &ModelName,
    announced: &[Announcement],
) -> Result<Vec<String>, PublishError> {
    if owed(kafka, topic, model, announced)?.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |source| PublishError::Broker { topic: topic.to_owned(), source };
    let mut settings = settings.clone();
    settings.set("transactional.id", format!("pelton-{topic}")).set("acks", "all");
    settings.set("message.timeout.ms", "10000").set("transaction.timeout.ms", "60000");
    let producer: BaseProducer = settings.create().map_err(PublishError::Client)?;
    producer.init_transactions(Timeout::After(PATIENCE)).map_err(failed)?;
    let mut sent = Vec::new();
    for one in owed(kafka, topic, model, announced)? {
        failpoint(Failpoint::BeforeEvent);
        producer.begin_transaction().map_err(failed)?;
        for message in &one.messages {
            send(&producer, topic, message).map_err(failed)?;
        }
        producer.flush(Timeout::After(PATIENCE)).map_err(failed)?;
        failpoint(Failpoint::InEvent);
        producer.commit_transaction(Timeout::After(PATIENCE)).map_err(failed)?;
        failpoint(Failpoint::AfterEvent);
        for message in &one.messages {
            Event::EventSent { id: &one.id, key: &message.key }.emit();
        }
        sent.push(one.id.clone());
    }
    Ok(sent)
}

/// The state changes that are later than the model's last event on the topic.
fn owed<'a>(
    kafka: &Kafka,
    topic: &str,
    model: &ModelName,
    announced: &'a [Announcement],
) -> Result<Vec<&'a Announcement>, PublishError> {
    let known = read_events(kafka, topic, PATIENCE)?;
    let ours = known.iter().filter_map(|message| event::read(message).ok().flatten());
    let last = ours.filter(|v| v.reference.model == *model).map(|v| v.time).max();
    Ok(announced.iter().filter(|one| last.is_none_or(|last| one.time > last)).collect())
}

fn send(producer: &BaseProducer, topic: &str, message: &EventMessage) -> Result<(), KafkaError> {
    let headers = message
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let record = BaseRecord::<String, [u8]>::to(topic).key(&message.key).headers(headers);
    let record = if message.payload.is_empty() { record } else { record.payload(message.payload.as_slice()) };
    producer.send(record).map_err(|(error, _)| error)
}

fn admin_options() -> AdminOptions {
    let wait = Some(Duration::from_secs(5));
    AdminOptions::new().operation_timeout(wait).request_timeout(wait)
}

/// Errors of a broker that cannot be reached, in difference to one that answers and refuses.
#[must_use]
pub fn is_away(error: &KafkaError) -> bool {
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

/// Another has begun to follow the topic.
fn is_fenced(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::ConcurrentTransactions)
    )
}

/// Errors that no waiting mends.
fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::TransactionalIdAuthorizationFailed
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
    // Markers of transactions are offsets without a message: the end of a partition says when all is read.
    settings.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    let consumer: BaseConsumer<KafkaLog> = settings.create_with_context(KafkaLog).map_err(PublishError::Client)?;
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
    let mut messages = Vec::new();
    while left > 0 {
        if Instant::now() > deadline {
            let source = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
            return Err(PublishError::Broker { topic: topic.to_owned(), source });
        }
        let message = match consumer.poll(Duration::from_millis(100)) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(_))) => {
                left -= 1;
                continue;
            }
            Some(polled) => polled.map_err(failed)?,
        };
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
