//! The loop: poll, decode, cut, settle, pause, until the shutdown, and then drain.

use super::buffer::Buffer;
use super::client;
use super::context::{Client, Context, Reading, State};
use super::copies::CopyTopic;
use super::error::Error;
use super::generation::Generations;
use super::progress::{Progress, Sampler};
use super::registry::Registry;
use super::routes::Routes;
use super::sink::{Partition, Sink};
use crate::codec::registry::{SchemaId, Schemas};
use crate::codec::{self, Decoder};
use crate::config;
use crate::domain::{Origin, Timestamp};
use crate::runtime::{self, Backoff, Shutdown};
use crate::telemetry::{Event, KafkaLog};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// One turn waits at most so long for a message.
const POLL_MAX: Duration = Duration::from_millis(50);
/// What a row costs in memory beside its message: offsets, numbers and validity of some thirty columns.
const ROW_OVERHEAD_BYTES: usize = 512;
/// Bytes that rows may take at least, however much of the budget librdkafka may fetch ahead.
const ROOM_MIN: usize = 256 << 10;
/// Batches that the worker may hold: one being committed, one waiting.
const BATCHES_WAITING_MAX: usize = 2;

/// Ingests until the shutdown, on the calling thread; the thread may block. `sink` is given the Kafka cluster's id.
///
/// # Errors
/// [`Error`] where it cannot go on. A broker or store that is away is no such case.
pub fn run<S: Sink + 'static>(
    kafka: &config::Kafka,
    ingest: &config::Ingest,
    decoder: Decoder,
    sink: impl FnOnce(&str) -> Result<S, Box<dyn std::error::Error + Send + Sync>>,
    progress: Arc<Progress>,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let Some(cluster) = cluster_id(kafka, ingest, shutdown)? else { return Ok(()) };
    let sink = sink(&cluster).map_err(Error::Sink)?;
    let copies = ingest.dead_letter_topic.as_deref().map(|topic| CopyTopic::open(kafka, topic)).transpose()?;
    let generations = Generations::open(kafka)?;
    let _sampler = Sampler::start(kafka, progress.clone())?;
    let fetched_bytes_max = client::fetched_bytes_max(kafka, ingest);
    let reading = reading(ingest, fetched_bytes_max, decoder, shutdown)?;
    let topics: Vec<String> = reading.routes.subscriptions().into_iter().map(str::to_owned).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let context = Context::new(sink, ingest, copies, generations, reading, progress, shutdown.clone());
    let consumer: Client<S> = client::consumer(kafka, ingest).create_with_context(context).map_err(Error::Settings)?;
    consumer.subscribe(&topics).map_err(|source| Error::Subscribe { topics: topics.join(", "), source })?;
    let ended = turns(&consumer, ingest, shutdown);
    let drained = if ended.is_ok() { drain(&consumer, ingest) } else { Ok(()) };
    let mut state = consumer.context().state();
    state.closing = true;
    state.worker.give_up();
    drop(state);
    ended.and(drained)
}

/// How messages are read: the routes, the decoder, and the schema registry where there is one.
fn reading(
    ingest: &config::Ingest,
    fetched_bytes_max: usize,
    decoder: Decoder,
    shutdown: &Shutdown,
) -> Result<Reading, Error> {
    let pause_max = Duration::from_millis(ingest.retry_backoff_ms_max);
    let start = |registry: &config::Registry| {
        let schemas = Schemas::default();
        let started = Registry::start(registry, schemas.clone(), pause_max, shutdown.clone());
        started.map(|started| (started, schemas)).map_err(Error::Registry)
    };
    let (registry, schemas) = ingest.registry.as_ref().map(start).transpose()?.unzip();
    let decoder = decoder.with_schemas(schemas);
    Ok(Reading { fetched_bytes_max, routes: Routes::new(ingest)?, decoder, registry })
}

fn turns<S: Sink + 'static>(consumer: &Client<S>, ingest: &config::Ingest, shutdown: &Shutdown) -> Result<(), Error> {
    while !shutdown.is_cancelled() {
        let polled = consumer.poll(POLL_MAX);
        let mut state = consumer.context().state();
        state.progress.heartbeat.beat();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        match polled {
            Some(Ok(message)) => state.take(consumer, &message)?,
            Some(Err(error)) => state.fault(consumer, error)?,
            None => {}
        }
        state.turn(consumer, ingest)?;
        state.look_again(consumer)?;
    }
    Ok(())
}

/// Commits what was read, within the configured time.
fn drain<S: Sink + 'static>(consumer: &Client<S>, ingest: &config::Ingest) -> Result<(), Error> {
    let mut state = consumer.context().state();
    state.flush(consumer, Duration::from_millis(ingest.drain_timeout_ms))?;
    let left = state.worker.waiting;
    Event::Drained { batches_left: left }.emit();
    let mut offsets = TopicPartitionList::new();
    for (partition, owned) in state.buffer.partitions().filter(|(_, owned)| !owned.stopped && left == 0) {
        let next = Offset::Offset(owned.start);
        offsets.add_partition_offset(&partition.topic, partition.number, next).ok();
    }
    if offsets.count() > 0 {
        // For lag tools only: the tables are the truth.
        consumer.commit(&offsets, CommitMode::Sync).ok();
    }
    Ok(())
}

impl<S: Sink + 'static> State<S> {
    /// Takes in one message.
    fn take(&mut self, consumer: &Client<S>, message: &BorrowedMessage<'_>) -> Result<(), Error> {
        self.progress.kafka_is_back();
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let Some(owned) = self.buffer.get_mut(topic, partition) else { return Ok(()) };
        // What came before a seek took effect was read already; what comes while a schema is asked for is read again.
        if owned.stopped || owned.held.is_some() || offset < owned.next {
            return Ok(());
        }
        let (kind, format, generation) = (owned.kind, owned.format, owned.generation.clone());
        let time = message.timestamp().to_millis().map(Timestamp::from_millis);
        let (topic_id, ingest_time) = (&*generation, runtime::now());
        let origin = Origin { topic, topic_id, partition, offset, record: 0, time, ingest_time, replay_time: None };
        let headers = || headers(message);
        let whole = codec::Message { key: message.key(), payload: message.payload(), headers: &headers };
        let mut bytes = message.payload_len() + message.key_len();
        let Self { decoder, buffer, .. } = self;
        let decoded = decoder.decode(kind, format, &whole, &mut |record, row| {
            // The message's own bytes are counted with its first record.
            let bytes = std::mem::take(&mut bytes) + ROW_OVERHEAD_BYTES;
            buffer.push(&row, &Origin { record, ..origin }, bytes);
        });
        match decoded {
            Ok(()) => Ok(()),
            Err(schema) => self.hold(consumer, topic, partition, schema),
        }
    }

    /// Stops reading a partition at a message whose schema is not known yet. The other partitions go on.
    fn hold(&mut self, consumer: &Client<S>, topic: &str, number: i32, schema: SchemaId) -> Result<(), Error> {
        let owned = self.buffer.get_mut(topic, number).expect("its message was read just now");
        owned.held = Some(schema);
        self.held = true;
        if let Some(registry) = &self.registry {
            registry.want(schema);
        }
        let mut still = TopicPartitionList::new();
        still.add_partition(topic, number);
        consumer.pause(&still).map_err(Error::Fatal)
    }

    /// Reads on where the registry has answered.
    fn release(&mut self, consumer: &Client<S>) -> Result<(), Error> {
        let held: Vec<_> =
            self.buffer.partitions().filter_map(|(p, owned)| Some((p, owned.next, owned.held?))).collect();
        self.held = !held.is_empty();
        let (mut at, mut going) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (Partition { topic, number, .. }, next, schema) in held {
            if self.decoder.knows(schema) {
                at.add_partition_offset(&topic, number, Offset::Offset(next)).map_err(Error::Fatal)?;
                going.add_partition(&topic, number);
                self.buffer.get_mut(&topic, number).expect("it was listed just now").held = None;
            }
        }
        if going.count() == 0 {
            return Ok(());
        }
        self.seek(consumer, &at);
        if self.paused { Ok(()) } else { consumer.resume(&going).map_err(Error::Fatal) }
    }

    /// What is due at each turn: answers, a cut, a pause or its end.
    fn turn(&mut self, consumer: &Client<S>, ingest: &config::Ingest) -> Result<(), Error> {
        while self.worker.waiting > 0 {
            let Some(done) = self.worker.answer(Duration::ZERO)? else { break };
            self.settle(consumer, done)?;
        }
        if self.held {
            self.release(consumer)?;
        }
        if self.is_due() && self.worker.waiting < BATCHES_WAITING_MAX {
            self.send()?;
        }
        // What librdkafka may hold is counted always, so that it is what remains beside it that has to be half empty.
        let (in_flight, fetched) = (self.in_flight(), self.fetched_bytes_max);
        let room = self.resident.room(ingest.in_flight_bytes_max, in_flight).max(fetched + ROOM_MIN);
        if !self.paused && in_flight >= room {
            Event::Paused { buffer_bytes: in_flight as u64 }.emit();
            consumer.pause(&self.readable()).map_err(Error::Fatal)?;
            self.paused = true;
        } else if self.paused && in_flight - fetched <= (room - fetched) / 2 {
            consumer.resume(&self.readable()).map_err(Error::Fatal)?;
            Event::Resumed.emit();
            self.paused = false;
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let Buffer { rows, bytes, .. } = self.buffer;
        // While reading is paused, nothing else would give memory back.
        self.pace.is_due(rows, bytes, self.buffer.age(), Instant::now())
            || rows > 0 && self.paused && self.worker.waiting == 0
    }

    fn readable(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, _) in self.buffer.partitions().filter(|(_, owned)| !owned.stopped && owned.held.is_none()) {
            list.add_partition(&partition.topic, partition.number);
        }
        list
    }

    /// Takes in what librdkafka could not do. Most of it passes by itself.
    fn fault(&mut self, consumer: &Client<S>, error: KafkaError) -> Result<(), Error> {
        match error {
            KafkaError::MessageConsumptionFatal(_) => Err(Error::Fatal(error)),
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::LogTruncation
                | RDKafkaErrorCode::NoOffset,
            ) => self.check_offsets(consumer),
            error => {
                match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AllBrokersDown) => self.progress.kafka_is_away(&error),
                    // One broker of several, or one connection; librdkafka connects again.
                    Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve) => {
                        tracing::debug!(%error, "a broker is away");
                    }
                    _ => tracing::warn!(%error, "kafka says that something is wrong; it is tried again"),
                }
                Ok(())
            }
        }
    }
}

fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Vec<(&'a str, Option<&'a [u8]>)> {
    message.headers().map_or_else(Vec::new, |headers| headers.iter().map(|h| (h.key, h.value)).collect())
}

/// The Kafka cluster's id, which keeps offsets of different clusters apart; nothing only where a shutdown came first.
fn cluster_id(kafka: &config::Kafka, ingest: &config::Ingest, shutdown: &Shutdown) -> Result<Option<String>, Error> {
    let client: BaseConsumer<KafkaLog> = client::base(kafka).create_with_context(KafkaLog).map_err(Error::Settings)?;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(ingest.retry_backoff_ms_max));
    while !shutdown.is_cancelled() {
        // Polling serves the error events, which would pile up.
        client.poll(Duration::ZERO);
        if let Some(id) = client.client().fetch_cluster_id(Duration::from_secs(1)) {
            if backoff.tries() > 0 {
                Event::Back { what: "kafka" }.emit();
            }
            return Ok(Some(id));
        }
        if backoff.tries() == 0 {
            Event::Away { what: "kafka", error: &format!("{} does not answer", kafka.brokers) }.emit();
        }
        thread::sleep(backoff.next_pause());
    }
    Ok(None)
}
