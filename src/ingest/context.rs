//! The state of ingestion, and librdkafka's callbacks into it.
//!
//! Callbacks run on the poll thread, inside `poll`, which never holds the lock while it polls.

use super::buffer::Buffer;
use super::copies::CopyTopic;
use super::error::Error;
use super::generation::Generations;
use super::pace::Pace;
use super::progress::Progress;
use super::registry::Registry;
use super::resident::Resident;
use super::routes::Routes;
use super::sink::{Sink, SinkError};
use super::worker::{CutOf, Done, Worker};
use crate::codec::Decoder;
use crate::config::{self, Start};
use crate::runtime::{Failpoint, Shutdown, failpoint};
use crate::telemetry::{Event, metric};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub(super) type Client<S> = BaseConsumer<Context<S>>;

/// What librdkafka calls back into.
pub(super) struct Context<S: Sink + 'static>
where
    CutOf<S>: 'static,
{
    state: Mutex<State<S>>,
}

/// How messages are read.
pub(super) struct Reading {
    /// Bytes that librdkafka may hold.
    pub(super) fetched_bytes_max: usize,
    pub(super) routes: Routes,
    pub(super) decoder: Decoder,
    pub(super) registry: Option<Registry>,
}

/// Everything that the poll thread knows.
pub(super) struct State<S: Sink + 'static> {
    pub(super) worker: Worker<S>,
    pub(super) buffer: Buffer<S>,
    /// Bytes that librdkafka may hold.
    pub(super) fetched_bytes_max: usize,
    pub(super) routes: Routes,
    pub(super) decoder: Decoder,
    /// Who is asked for schemas, where messages name them.
    pub(super) registry: Option<Registry>,
    pub(super) start: Start,
    /// When batches are cut.
    pub(super) pace: Pace,
    pub(super) pause_max: Duration,
    pub(super) paused: bool,
    /// What the process holds, beside what is counted.
    pub(super) resident: Resident,
    /// When the owned topics were looked at last.
    pub(super) looked: Instant,
    /// Some partition may wait for a schema.
    pub(super) held: bool,
    /// Set while the consumer closes: nothing is flushed any more.
    pub(super) closing: bool,
    /// What a callback could not return.
    pub(super) failed: Option<Error>,
    pub(super) progress: Arc<Progress>,
    pub(super) shutdown: Shutdown,
}

impl<S: Sink + 'static> Context<S> {
    pub(super) fn new(
        sink: S,
        ingest: &config::Ingest,
        copies: Option<CopyTopic>,
        generations: Generations,
        reading: Reading,
        progress: Arc<Progress>,
        shutdown: Shutdown,
    ) -> Self {
        let pause_max = Duration::from_millis(ingest.retry_backoff_ms_max);
        let Reading { fetched_bytes_max, routes, decoder, registry } = reading;
        let shape = sink.shape();
        let state = State {
            worker: Worker::start(sink, generations, pause_max, shutdown.clone()),
            buffer: Buffer::new(shape, copies),
            fetched_bytes_max,
            routes,
            decoder,
            registry,
            start: ingest.start,
            pace: Pace::new(ingest),
            pause_max,
            paused: false,
            resident: Resident::new(),
            looked: Instant::now(),
            held: false,
            closing: false,
            failed: None,
            progress,
            shutdown,
        };
        Self { state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().expect("a panic with the lock held ends ingestion")
    }
}

impl<S: Sink + 'static> ClientContext for Context<S> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
    }
}

impl<S: Sink + 'static> ConsumerContext for Context<S> {
    fn rebalance(&self, consumer: &Client<S>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let mut state = self.state();
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => state.assign(consumer, partitions),
            _ => state.revoke(consumer, partitions),
        };
        if let Err(error) = done {
            state.failed = Some(error);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        // The tables are the truth; Kafka's offsets follow at the next commit.
        if let Err(error) = result {
            tracing::debug!(%error, "kafka did not take the group's offsets");
        }
    }
}

impl<S: Sink + 'static> State<S> {
    /// Bytes in memory: rows in any form, and what librdkafka may have fetched ahead. Buffers are larger than what is in
    /// them, encoding and writing need some for themselves, and the allocator keeps pages that were freed a moment ago: one
    /// and a half times as much again, as resident memory of catch-ups shows.
    pub(super) fn in_flight(&self) -> usize {
        let held = self.buffer.held_bytes();
        held * 5 / 2 + self.fetched_bytes_max
    }

    /// Sends everything that was read to the worker.
    pub(super) fn send(&mut self) -> Result<(), Error> {
        self.pace.cut(Instant::now());
        for batch in self.buffer.cut() {
            self.worker.commit(batch)?;
        }
        Ok(())
    }

    /// Sends everything and waits until it is committed, at most so long.
    pub(super) fn flush(&mut self, consumer: &Client<S>, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        self.send()?;
        while self.worker.waiting > 0 && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(done) = self.worker.answer(left)? {
                self.settle(consumer, done)?;
            }
        }
        Ok(())
    }

    /// Takes in what became of a batch.
    pub(super) fn settle(&mut self, consumer: &Client<S>, done: Done) -> Result<(), Error> {
        metric::BUFFER_BYTES.set(i64::try_from(self.buffer.row_bytes()).unwrap_or(i64::MAX));
        // Only what was read in the present assignment concerns it.
        let current: Vec<_> = done
            .ranges
            .into_iter()
            .filter(|(partition, epoch, ..)| self.buffer.get(partition).is_some_and(|o| o.epoch == *epoch))
            .collect();
        match done.outcome {
            Ok(committed) => {
                failpoint(Failpoint::AfterCommit);
                self.progress.add(committed, done.bytes);
                let mut offsets = TopicPartitionList::new();
                for (partition, _, _, end) in &current {
                    if let Some(owned) = self.buffer.get_mut(&partition.topic, partition.number) {
                        owned.committed = *end;
                    }
                    offsets.add_partition_offset(&partition.topic, partition.number, Offset::Offset(*end)).ok();
                }
                self.tell();
                if offsets.count() > 0 {
                    consumer.commit(&offsets, CommitMode::Async).ok();
                }
                Ok(())
            }
            Err(SinkError::Moved(why)) => {
                tracing::info!(why, "a batch is dropped and its partitions are read again from where the tables stand");
                for (partition, _, start, _) in &current {
                    let (topic, partition) = (partition.topic.as_str(), partition.number);
                    Event::BatchDropped { topic, partition, start: *start }.emit();
                }
                self.progress.dropped.fetch_add(1, Relaxed);
                self.reread(consumer, done.kind, current.into_iter().map(|(partition, ..)| partition).collect())
            }
            // The worker was told to give up: what was in memory will be read again by whoever comes next.
            Err(SinkError::Away(_)) => Ok(()),
        }
    }
}
