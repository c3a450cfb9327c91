//! Where calls leave the request's path: a queue in memory, bounded in bytes, and the thread that empties it.
//!
//! [`Tap::record`] takes a lock for a push and returns. Where the thread cannot keep up, the oldest call goes and is counted.

use super::outbox::Outboxes;
use super::record::Record;
use super::{Durable, Message};
use crate::codec::redact::Redactor;
use crate::telemetry::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread sleeps where nobody waits for it: calls come together, so that a wake-up is shared.
const NAP: Duration = Duration::from_millis(10);
/// The same where a request waits for an acknowledgement.
const NAP_AWAITED: Duration = Duration::from_millis(1);

/// A handle; clones share the queue.
#[derive(Clone)]
pub struct Tap {
    shared: Arc<Shared>,
}

/// The thread behind a tap.
pub struct TapThread {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    closed: Option<Instant>,
}

struct Entry {
    what: What,
    durable: Option<Durable>,
    bytes: usize,
}

enum What {
    Call(Box<Record>),
    Ready(Message),
}

/// What the thread makes messages with.
pub struct Encoding {
    /// The topic of calls.
    pub topic: Arc<str>,
    /// What must not be sent.
    pub redactor: Option<Arc<Redactor>>,
}

impl Tap {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives none.
    pub fn start(outbox: Outboxes, encoding: Encoding, bytes_max: usize) -> std::io::Result<(Self, TapThread)> {
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), bytes_max });
        let theirs = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("log".to_owned()).spawn(move || work(&theirs, outbox, &encoding))?;
        Ok((Self { shared: Arc::clone(&shared) }, TapThread { shared, thread }))
    }

    /// Hands a call over.
    pub fn record(&self, record: Record, durable: Option<Durable>) {
        let bytes = record.bytes();
        self.push(Entry { what: What::Call(Box::new(record)), durable, bytes });
    }

    /// Hands a message over that is ready to be sent.
    pub fn message(&self, message: Message, durable: Option<Durable>) {
        let bytes = message.payload.len() + 128;
        self.push(Entry { what: What::Ready(message), durable, bytes });
    }

    fn push(&self, entry: Entry) {
        let mut dropped = 0;
        let urgent = entry.durable.is_some();
        {
            let mut queue = self.shared.held();
            queue.bytes += entry.bytes;
            queue.entries.push_back(entry);
            while queue.bytes > self.shared.bytes_max && queue.entries.len() > 1 {
                if let Some(oldest) = queue.entries.pop_front() {
                    queue.bytes -= oldest.bytes;
                    dropped += 1;
                }
            }
        }
        if urgent {
            self.shared.wake.notify_one();
        }
        if dropped > 0 {
            Event::LogDropped { why: "queue", count: dropped, detail: "the queue in memory is full" }.emit();
        }
    }
}

impl TapThread {
    /// Empties the queue, sends what it can until the deadline and leaves the rest on the disk. Blocks.
    pub fn close(self, patience: Duration) {
        self.shared.held().closed = Some(Instant::now() + patience);
        self.shared.wake.notify_one();
        if self.thread.join().is_err() {
            tracing::error!("the log's thread panicked");
        }
    }
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn work(shared: &Shared, mut outbox: Outboxes, encoding: &Encoding) {
    loop {
        let (entries, closed) = {
            let mut queue = shared.held();
            if queue.entries.is_empty() && queue.closed.is_none() {
                let nap = if outbox.is_awaited() { NAP_AWAITED } else { NAP };
                queue = shared.wake.wait_timeout(queue, nap).unwrap_or_else(std::sync::PoisonError::into_inner).0;
            }
            (std::mem::take(&mut queue.entries), queue.closed)
        };
        let idle = entries.is_empty();
        for entry in entries {
            // They count until they are librdkafka's, which has a bound of its own.
            let bytes = entry.bytes;
            if let Some(message) = message(entry.what, encoding) {
                outbox.send(message, entry.durable);
            }
            shared.held().bytes -= bytes;
        }
        outbox.turn();
        if let (true, Some(deadline)) = (idle, closed) {
            return outbox.close(deadline);
        }
    }
}

fn message(what: What, encoding: &Encoding) -> Option<Message> {
    match what {
        What::Ready(message) => Some(message),
        What::Call(record) => match record.to_message(&encoding.topic, encoding.redactor.as_deref()) {
            Ok(message) => Some(message),
            Err(error) => {
                Event::LogDropped { why: "encode", count: 1, detail: &error.to_string() }.emit();
                None
            }
        },
    }
}
