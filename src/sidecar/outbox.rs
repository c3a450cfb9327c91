//! From messages to Kafka, over the disk where Kafka is away. Owned by one thread; nothing here is waited for by a request.
//!
//! ```text
//!              ┌────────── direct ◄───────────────┐ the disk's queue is empty
//!   message ───┤ a delivery fails, memory full,   │
//!              │ or no broker left                │
//!              ▼                                  │
//!           gathering ── all came back ───► spilling: the disk's end takes what is new,
//!           (what is in flight comes back            its front is sent, window by window
//!            acknowledged or not)
//! ```
//!
//! The order is kept: what librdkafka gives back is sorted by its number before it goes to the disk, and what is new waits
//! behind it. A message that timed out may have arrived: it is sent at least once, and its `request_id` tells.

use super::spill::{Batch, Spill};
use super::{Durable, Message};
use crate::config::Kafka;
use crate::telemetry::{Event, metric};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode as Code;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes of the disk's queue that are sent before their acknowledgement is waited for: well below the least that librdkafka
/// is given (1 MiB), because a window that does not fit into its memory would never be whole.
const WINDOW_BYTES: u64 = 1 << 18;

/// What librdkafka tells while it is polled.
#[derive(Default)]
struct Reports {
    done: Mutex<Vec<(u64, Option<Failed>)>>,
    all_down: AtomicBool,
}

/// A message that came back.
struct Failed {
    message: Message,
    error: KafkaError,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, _: &str) {
        if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            self.all_down.store(true, Relaxed);
        }
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        tracing::debug!(message, "librdkafka");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<u64>) {
        let failed = result.as_ref().err().map(|(error, message)| {
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            let payload = message.payload().unwrap_or_default().to_vec();
            let message = Message { topic: message.topic().into(), key: text(message.key()), payload };
            Failed { message, error: error.clone() }
        });
        self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((*number, failed));
    }
}

enum State {
    Direct,
    /// Waits for what is in flight; behind it what is new, and its bytes.
    Gathering {
        failed: BTreeMap<u64, Message>,
        behind: Vec<Message>,
        bytes: usize,
    },
    /// The window that is under way, and whether all of it arrived so far.
    Spilling {
        window: Option<(Batch, bool)>,
    },
}

/// Sends messages; see the module.
pub struct Outbox {
    producer: BaseProducer<Reports>,
    spill: Spill,
    sync: bool,
    memory_bytes: usize,
    state: State,
    next: u64,
    in_flight: BTreeMap<u64, Option<Durable>>,
    /// Who waits for messages that gather.
    waiting: Vec<Durable>,
    away: bool,
}

impl Outbox {
    /// A producer; what the disk's queue holds is sent first.
    ///
    /// # Errors
    /// A property that librdkafka does not know or refuses.
    pub fn new(kafka: &Kafka, memory_bytes: usize, delivery_ms: u64, spill: Spill, sync: bool) -> KafkaResult<Self> {
        let mut settings = ClientConfig::new();
        settings.extend(kafka.properties.clone());
        settings
            .set("bootstrap.servers", &kafka.brokers)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            // Together is cheaper; an answer that waits for its log must not wait for others'.
            .set("linger.ms", if sync { "1" } else { "20" })
            .set("message.max.bytes", "33554432")
            .set("message.timeout.ms", delivery_ms.to_string())
            .set("reconnect.backoff.max.ms", "1000")
            .set("queue.buffering.max.kbytes", (memory_bytes / 1024).max(1024).to_string());
        let producer = settings.create_with_context(Reports::default())?;
        let state = if spill.is_empty() { State::Direct } else { State::Spilling { window: None } };
        let (in_flight, waiting) = (BTreeMap::new(), Vec::new());
        Ok(Self { producer, spill, sync, memory_bytes, state, next: 0, in_flight, waiting, away: false })
    }

    /// Takes one message.
    pub fn send(&mut self, message: Message, durable: Option<Durable>) {
        match &mut self.state {
            State::Direct => self.send_direct(message, durable),
            State::Gathering { behind, bytes, .. } => {
                *bytes += message.payload.len();
                behind.push(message);
                self.waiting.extend(durable);
            }
            State::Spilling { .. } => self.append(vec![message], durable.into_iter().collect()),
        }
    }

    /// Lets librdkafka tell what became of messages, and does what follows from it.
    pub fn turn(&mut self) {
        // With no time at all it would hand out one report a turn.
        self.producer.poll(Duration::from_millis(1));
        let done = std::mem::take(&mut *held(&self.producer.context().done));
        for (number, failed) in done {
            self.report(number, failed);
        }
        if self.producer.context().all_down.swap(false, Relaxed) && !self.in_flight.is_empty() {
            self.gather("no broker answers");
        }
        self.hurry();
        self.gathered();
        self.replay();
        metric::SPILL_RECORDS.set(i64::try_from(self.spill.messages()).unwrap_or(i64::MAX));
        metric::SPILL_BYTES.set(i64::try_from(self.spill.bytes()).unwrap_or(i64::MAX));
    }

    /// Sends what is left until the deadline; the rest goes to the disk.
    pub fn close(mut self, deadline: Instant) {
        while !self.is_idle() && !self.away && Instant::now() < deadline {
            self.turn();
            std::thread::sleep(Duration::from_millis(2));
        }
        if matches!(self.state, State::Direct) && !self.in_flight.is_empty() {
            self.gather("the sidecar ends");
        }
        self.producer.purge(PurgeConfig::default().queue().inflight());
        while !self.in_flight.is_empty() && Instant::now() < deadline + Duration::from_secs(5) {
            self.producer.poll(Duration::from_millis(10));
            let done = std::mem::take(&mut *held(&self.producer.context().done));
            done.into_iter().for_each(|(number, failed)| self.report(number, failed));
        }
        self.gathered();
    }

    /// Whether everything is acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && matches!(self.state, State::Direct)
    }

    fn send_direct(&mut self, message: Message, durable: Option<Durable>) {
        match self.produce(&message, durable) {
            Ok(()) => {}
            Err((Code::QueueFull, durable)) => {
                // Slow is as away: memory is bounded, the disk takes over.
                self.gather("the producer's memory is full");
                if let State::Gathering { behind, .. } = &mut self.state {
                    behind.push(message);
                }
                self.waiting.extend(durable);
            }
            Err((code, _)) => refused(code),
        }
    }

    fn produce(&mut self, message: &Message, durable: Option<Durable>) -> Result<(), (Code, Option<Durable>)> {
        let record =
            BaseRecord::with_opaque_to(&message.topic, Box::new(self.next)).key(&message.key).payload(&message.payload);
        match self.producer.send(record) {
            Ok(()) => {
                self.in_flight.insert(self.next, durable);
                self.next += 1;
                Ok(())
            }
            Err((error, _)) => match error.rdkafka_error_code().unwrap_or(Code::Unknown) {
                // Into memory that is empty it will not fit later either.
                Code::QueueFull if self.in_flight.is_empty() => Err((Code::MessageSizeTooLarge, durable)),
                code => Err((code, durable)),
            },
        }
    }

    fn report(&mut self, number: u64, failed: Option<Failed>) {
        let durable = self.in_flight.remove(&number).flatten();
        let Some(Failed { message, error }) = failed else {
            metric::LOG_SENT.add(1);
            if self.away {
                self.away = false;
                Event::Back { what: "kafka" }.emit();
            }
            if let Some(durable) = durable {
                durable.send(()).ok();
            }
            return;
        };
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let refused_for_good = is_final(code);
        if refused_for_good {
            refused(code);
        }
        match &mut self.state {
            State::Spilling { window: Some((_, arrived)) } => *arrived &= refused_for_good,
            _ if refused_for_good => {}
            _ => {
                self.gather(&error.to_string());
                if let State::Gathering { failed, .. } = &mut self.state {
                    failed.insert(number, message);
                }
                self.waiting.extend(durable);
            }
        }
    }

    /// Sends nothing more until all that is in flight has come back.
    fn gather(&mut self, why: &str) {
        if !matches!(self.state, State::Direct) {
            return;
        }
        if !self.away {
            self.away = true;
            Event::Away { what: "kafka", error: why }.emit();
        }
        self.state = State::Gathering { failed: BTreeMap::new(), behind: Vec::new(), bytes: 0 };
        self.hurry();
    }

    /// What is queued comes back at once. What is on its way is waited for while there is memory: given up, it may arrive
    /// all the same, and then it is sent twice.
    fn hurry(&self) {
        let State::Gathering { bytes, .. } = &self.state else { return };
        let purge = PurgeConfig::default().queue();
        self.producer.purge(if *bytes > self.memory_bytes { purge.inflight() } else { purge });
    }

    /// Once all came back, the disk takes it, oldest first.
    fn gathered(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        let State::Gathering { failed, behind, .. } = &mut self.state else { return };
        let mut messages: Vec<Message> = std::mem::take(failed).into_values().collect();
        messages.append(behind);
        self.state = State::Spilling { window: None };
        let waiting = std::mem::take(&mut self.waiting);
        self.append(messages, waiting);
    }

    fn append(&mut self, messages: Vec<Message>, waiting: Vec<Durable>) {
        if messages.is_empty() {
            return;
        }
        match self.spill.append(&messages, self.sync) {
            Ok(lost) => {
                if lost > 0 {
                    Event::LogDropped { why: "spill", count: lost, detail: "the queue on the disk is full" }.emit();
                }
                waiting.into_iter().for_each(|durable| {
                    durable.send(()).ok();
                });
            }
            Err(error) => {
                let detail = format!(
                    "{error}: {}",
                    std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
                );
                Event::LogDropped { why: "disk", count: messages.len() as u64, detail: &detail }.emit();
            }
        }
    }

    /// Sends the disk's front, one window after the other.
    fn replay(&mut self) {
        let State::Spilling { window } = &mut self.state else { return };
        if !self.in_flight.is_empty() {
            return;
        }
        if let Some((batch, true)) = window.take() {
            self.spill.finish(&batch);
        }
        let batch = match self.spill.peek(WINDOW_BYTES) {
            Ok(Some(batch)) if !batch.messages.is_empty() => batch,
            Ok(_) => {
                self.state = State::Direct;
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "spilled logs cannot be read, trying again");
                return;
            }
        };
        let mut arrived = true;
        for message in &batch.messages {
            match self.produce(message, None) {
                Ok(()) => {}
                Err((Code::QueueFull, _)) => {
                    arrived = false;
                    break;
                }
                Err((code, _)) => refused(code),
            }
        }
        self.state = State::Spilling { window: Some((batch, arrived)) };
    }
}

/// What no waiting mends is lost, and counted.
fn refused(code: Code) {
    Event::LogDropped { why: "broker", count: 1, detail: &code.to_string() }.emit();
}

fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge | Code::TopicAuthorizationFailed | Code::InvalidTopic | Code::PolicyViolation
    )
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
