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
//! behind it. A message that timed out may have arrived: it is sent at least once, and its `request_id` tells. Of a window only
//! what did not arrive is sent again. One that the broker finds too large is sent without its bodies, once. Each topic has an
//! outbox of its own, so that one that is not there holds up no other.

use super::record::without_bodies;
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

/// Bytes of the disk's queue that are sent before their acknowledgement is waited for, at most: a quarter of librdkafka's
/// memory (which is 1 MiB at least), because a window that does not fit into it would never be whole.
const WINDOW_BYTES_MAX: usize = 1 << 21;
const WINDOW_BYTES_MIN: usize = 1 << 18;
/// How long nothing is tried again after nothing of a window arrived.
const PAUSE: Duration = Duration::from_millis(250);
/// The same where a producer had to be made anew.
const PAUSE_AFTER_FATAL: Duration = Duration::from_secs(5);

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
    /// The window that is under way.
    Spilling {
        window: Option<Window>,
    },
}

/// Some of the disk's queue on its way.
struct Window {
    batch: Batch,
    /// What became of each message; nothing yet where absent.
    fates: Vec<Option<Fate>>,
    /// The message of each number that was sent.
    numbers: BTreeMap<u64, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is with Kafka, or lost for good and counted.
    Done,
    /// It is sent again.
    Failed,
}

/// Sends messages; see the module.
pub struct Outbox {
    producer: BaseProducer<Reports>,
    settings: ClientConfig,
    spill: Spill,
    sync: bool,
    memory_bytes: usize,
    state: State,
    next: u64,
    in_flight: BTreeMap<u64, Option<Durable>>,
    /// Who waits for messages that gather.
    waiting: Vec<Durable>,
    away: bool,
    /// Nothing of the disk's queue is sent before.
    again: Instant,
}

impl Outbox {
    /// A producer; what the disk's queue holds is sent first.
    ///
    /// # Errors
    /// A property that librdkafka does not know or refuses.
    pub fn new(kafka: &Kafka, memory_bytes: usize, delivery_ms: u64, spill: Spill, sync: bool) -> KafkaResult<Self> {
        let mut settings = ClientConfig::new();
        // A topic that was made after the first message for it is found so soon.
        settings.set("topic.metadata.refresh.interval.ms", "10000");
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
        let again = Instant::now();
        Ok(Self {
            producer,
            settings,
            spill,
            sync,
            memory_bytes,
            state,
            next: 0,
            in_flight,
            waiting,
            away: false,
            again,
        })
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
        let done = self.reports();
        for (number, failed) in done {
            self.report(number, failed);
        }
        if self.producer.context().all_down.swap(false, Relaxed) && !self.in_flight.is_empty() {
            self.gather("no broker answers");
        }
        self.hurry();
        self.gathered();
        self.replay();
    }

    /// What librdkafka tells by now. Without waiting: rdkafka spins through the last millisecond of each wait.
    fn reports(&self) -> Vec<(u64, Option<Failed>)> {
        let done = &self.producer.context().done;
        loop {
            let before = held(done).len();
            self.producer.poll(Duration::ZERO);
            if held(done).len() == before {
                return std::mem::take(&mut *held(done));
            }
        }
    }

    /// Whether a request waits for what is under way.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.sync && !self.in_flight.is_empty()
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

    /// Messages and bytes that wait on the disk.
    #[must_use]
    pub fn spilled(&self) -> (u64, u64) {
        (self.spill.messages(), self.spill.bytes())
    }

    /// Whether everything is acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && matches!(self.state, State::Direct)
    }

    fn send_direct(&mut self, message: Message, durable: Option<Durable>) {
        match self.produce(&message, durable) {
            Ok(()) => {}
            Err((code, durable)) if is_final(code) => match smaller(code, &message) {
                Some(message) => self.send(message, durable),
                None => refused(code),
            },
            Err((code, durable)) => {
                // Slow is as away: memory is bounded, the disk takes over. So is a topic that is not there, and a producer that
                // gave up.
                let why =
                    if code == Code::QueueFull { "the producer's memory is full".into() } else { code.to_string() };
                self.gather(&why);
                if let State::Gathering { behind, .. } = &mut self.state {
                    behind.push(message);
                }
                self.waiting.extend(durable);
            }
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
            self.decide(number, Fate::Done);
            return;
        };
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let message = if is_final(code) {
            self.decide(number, Fate::Done);
            let Some(message) = smaller(code, &message) else { return refused(code) };
            match &self.state {
                State::Direct => return self.send(message, durable),
                State::Spilling { .. } => return self.append(vec![message], durable.into_iter().collect()),
                State::Gathering { .. } => message,
            }
        } else {
            message
        };
        if self.decide(number, Fate::Failed) {
            return;
        }
        self.gather(&error.to_string());
        if let State::Gathering { failed, .. } = &mut self.state {
            failed.insert(number, message);
        }
        self.waiting.extend(durable);
    }

    /// Notes what became of a message of the window; whether it is one.
    fn decide(&mut self, number: u64, fate: Fate) -> bool {
        let State::Spilling { window: Some(window) } = &mut self.state else { return false };
        let Some(at) = window.numbers.remove(&number) else { return false };
        window.fates[at] = Some(fate);
        true
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
        let (lost, written) = self.spill.append(&messages, self.sync);
        if lost > 0 {
            Event::LogDropped { why: "spill", count: lost, detail: "the queue on the disk is full" }.emit();
        }
        match written {
            Ok(()) => {
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
        if !self.in_flight.is_empty() || Instant::now() < self.again {
            return;
        }
        let State::Spilling { window } = &mut self.state else { return };
        let unfinished = window.take().and_then(|window| self.finish(window));
        if self.producer.client().fatal_error().is_some() && !self.renew() {
            self.state = State::Spilling { window: unfinished };
            return;
        }
        let window = match unfinished.map_or_else(|| self.next_window(), |window| Ok(Some(window))) {
            Ok(Some(window)) => window,
            Ok(None) => {
                self.state = State::Direct;
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "spilled logs cannot be read, trying again");
                self.again = Instant::now() + PAUSE;
                return;
            }
        };
        self.send_window(window);
    }

    fn next_window(&mut self) -> Result<Option<Window>, super::spill::SpillError> {
        let bytes = (self.memory_bytes / 4).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        let batch = self.spill.peek(bytes as u64)?;
        let damaged = self.spill.take_damaged();
        if damaged > 0 {
            Event::LogDropped { why: "disk", count: damaged, detail: "the disk gave back damaged logs" }.emit();
        }
        let fresh = |batch: Batch| {
            let fates = vec![None; batch.messages.len()];
            Window { batch, fates, numbers: BTreeMap::new() }
        };
        Ok(batch.map(fresh))
    }

    fn send_window(&mut self, mut window: Window) {
        let mut smaller_ones = Vec::new();
        for (at, message) in window.batch.messages.iter().enumerate() {
            if window.fates[at] == Some(Fate::Done) {
                continue;
            }
            let number = self.next;
            window.fates[at] = match self.produce(message, None) {
                Ok(()) => {
                    window.numbers.insert(number, at);
                    None
                }
                Err((code, _)) if is_final(code) => {
                    match smaller(code, message) {
                        Some(message) => smaller_ones.push(message),
                        None => refused(code),
                    }
                    Some(Fate::Done)
                }
                Err((Code::QueueFull, _)) => break,
                Err(_) => Some(Fate::Failed),
            };
        }
        self.append(smaller_ones, Vec::new());
        self.state = State::Spilling { window: Some(window) };
    }

    /// A window of which everything came back: done, or to be sent again as far as it did not arrive.
    fn finish(&mut self, window: Window) -> Option<Window> {
        let left = window.fates.iter().filter(|fate| **fate != Some(Fate::Done)).count();
        if left == 0 {
            self.spill.finish(&window.batch);
            return None;
        }
        if left == window.fates.len() {
            self.again = Instant::now() + PAUSE;
        }
        Some(window)
    }

    /// A producer in place of one that gave up for good; false where it has to be tried again later.
    fn renew(&mut self) -> bool {
        self.again = Instant::now() + PAUSE_AFTER_FATAL;
        match self.settings.create_with_context(Reports::default()) {
            Ok(producer) => {
                tracing::warn!("the producer gave up for good; another takes its place");
                self.producer = producer;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "no producer can be made");
                false
            }
        }
    }
}

/// The outboxes of all topics: that of the calls, and one for what users say of them, which is made when it is needed.
pub struct Outboxes {
    calls: Outbox,
    feedback: Option<Outbox>,
    feedback_topic: Option<std::sync::Arc<str>>,
    open: Box<dyn FnMut() -> Result<Outbox, String> + Send>,
}

impl Outboxes {
    /// `open` makes the feedback's outbox; at once where the disk has some of it.
    pub fn new(
        calls: Outbox,
        feedback_topic: Option<std::sync::Arc<str>>,
        is_waiting: bool,
        mut open: Box<dyn FnMut() -> Result<Outbox, String> + Send>,
    ) -> Self {
        let feedback = if is_waiting { opened(&mut open) } else { None };
        Self { calls, feedback, feedback_topic, open }
    }

    /// Takes one message.
    pub fn send(&mut self, message: Message, durable: Option<Durable>) {
        if self.feedback_topic.as_ref() != Some(&message.topic) {
            return self.calls.send(message, durable);
        }
        if self.feedback.is_none() {
            self.feedback = opened(&mut self.open);
        }
        match &mut self.feedback {
            Some(outbox) => outbox.send(message, durable),
            None => Event::LogDropped { why: "disk", count: 1, detail: "feedback has no queue" }.emit(),
        }
    }

    /// As [`Outbox::turn`].
    pub fn turn(&mut self) {
        self.calls.turn();
        let (mut messages, mut bytes) = self.calls.spilled();
        if let Some(feedback) = &mut self.feedback {
            feedback.turn();
            messages += feedback.spilled().0;
            bytes += feedback.spilled().1;
        }
        metric::SPILL_RECORDS.set(i64::try_from(messages).unwrap_or(i64::MAX));
        metric::SPILL_BYTES.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// As [`Outbox::is_awaited`].
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.calls.is_awaited() || self.feedback.as_ref().is_some_and(|feedback| !feedback.in_flight.is_empty())
    }

    /// As [`Outbox::close`].
    pub fn close(self, deadline: Instant) {
        self.calls.close(deadline);
        if let Some(feedback) = self.feedback {
            feedback.close(deadline);
        }
    }
}

fn opened(open: &mut Box<dyn FnMut() -> Result<Outbox, String> + Send>) -> Option<Outbox> {
    match open() {
        Ok(outbox) => Some(outbox),
        Err(error) => {
            tracing::warn!(error, "the queue of feedback cannot be opened");
            None
        }
    }
}

/// What is sent in place of a message that is too large for its topic.
fn smaller(code: Code, message: &Message) -> Option<Message> {
    let payload = (code == Code::MessageSizeTooLarge).then(|| without_bodies(&message.payload)).flatten()?;
    Some(Message { topic: message.topic.clone(), key: message.key.clone(), payload })
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
