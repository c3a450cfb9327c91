//! What others may know of ingestion: counts, health, and how far each owned partition is.

use super::client;
use super::context::State;
use super::error::Error;
use super::sink::{Committed, Sink};
use crate::config;
use crate::runtime::{Heartbeat, Shutdown};
use crate::telemetry::{Event, KafkaLog, Standing};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the broker is asked where the owned partitions end.
const SAMPLE_PERIOD: Duration = Duration::from_secs(3);
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What ingestion has done so far; shared with whoever watches it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows committed.
    pub rows: AtomicU64,
    /// Dead letters committed.
    pub dead_letters: AtomicU64,
    /// Bytes of messages committed, with what their rows cost beside them.
    pub bytes: AtomicU64,
    /// Batches committed.
    pub batches: AtomicU64,
    /// Batches dropped because a partition had moved.
    pub dropped: AtomicU64,
    /// Partitions owned now.
    pub partitions: AtomicU64,
    /// Partitions that are stopped now because the broker lacks what the tables need next.
    pub stopped: AtomicU64,
    /// Beaten by the poll loop.
    pub heartbeat: Heartbeat,
    /// Whether the group has given this member its share, be it empty.
    pub assigned: AtomicBool,
    kafka_away: AtomicBool,
    standings: Mutex<Vec<Standing>>,
}

impl Progress {
    pub(super) fn add(&self, committed: Committed, bytes: usize) {
        self.rows.fetch_add(committed.rows, Relaxed);
        self.dead_letters.fetch_add(committed.dead_letters, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.batches.fetch_add(1, Relaxed);
    }

    /// Whether the broker was said to be away and has not been said to be back.
    #[must_use]
    pub fn is_kafka_away(&self) -> bool {
        self.kafka_away.load(Relaxed)
    }

    /// Says so once, until it is back.
    pub(super) fn kafka_is_away(&self, error: &dyn std::fmt::Display) {
        if !self.kafka_away.swap(true, Relaxed) {
            Event::Away { what: "kafka", error: &error.to_string() }.emit();
        }
    }

    pub(super) fn kafka_is_back(&self) {
        // A load first: this is asked for each message, and a swap would write each time.
        if self.kafka_away.load(Relaxed) && self.kafka_away.swap(false, Relaxed) {
            Event::Back { what: "kafka" }.emit();
        }
    }

    fn standings(&self) -> Vec<Standing> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: Sink + 'static> State<S> {
    /// Tells watchers how far the owned partitions are.
    pub(super) fn tell(&self) {
        let standing = |(partition, owned): (super::sink::Partition, &super::buffer::Owned<S>)| Standing {
            topic: partition.topic,
            partition: partition.number,
            committed: owned.committed,
            end: None,
            stopped: owned.stopped,
        };
        let standings: Vec<Standing> = self.buffer.partitions().map(standing).collect();
        self.progress.partitions.store(standings.len() as u64, Relaxed);
        self.progress.stopped.store(standings.iter().filter(|s| s.stopped).count() as u64, Relaxed);
        *self.progress.standings.lock().unwrap_or_else(PoisonError::into_inner) = standings;
    }
}

/// The thread that samples lag, on a connection of its own: the consumer's waits behind fetches.
pub(super) struct Sampler {
    thread: Option<JoinHandle<()>>,
    ended: Shutdown,
}

impl Sampler {
    pub(super) fn start(kafka: &config::Kafka, progress: Arc<Progress>) -> Result<Self, Error> {
        let mut settings = client::base(kafka);
        // The end that matters is the last stable offset: what lies behind it is delivered to nobody yet.
        settings.set("isolation.level", "read_committed");
        let client: BaseConsumer<KafkaLog> = settings.create_with_context(KafkaLog).map_err(Error::Settings)?;
        let ended = Shutdown::new();
        let watched = ended.clone();
        let thread = thread::Builder::new().name("ingest-lag".to_owned()).spawn(move || {
            while !watched.is_cancelled() {
                client.poll(Duration::ZERO);
                sample(&client, &progress);
                nap(&watched, SAMPLE_PERIOD);
            }
        });
        Ok(Self { thread: Some(thread.expect("the system gives a daemon its few threads")), ended })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.ended.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn nap(ended: &Shutdown, mut left: Duration) {
    const NAP: Duration = Duration::from_millis(50);
    while !left.is_zero() && !ended.is_cancelled() {
        thread::sleep(left.min(NAP));
        left = left.saturating_sub(NAP);
    }
}

fn sample(client: &BaseConsumer<KafkaLog>, progress: &Progress) {
    let mut standings = progress.standings();
    match ends(client, &standings) {
        Ok(ends) => {
            progress.kafka_is_back();
            for standing in &mut standings {
                standing.end = ends.get(&(standing.topic.clone(), standing.partition)).copied();
            }
        }
        Err(error) => progress.kafka_is_away(&error),
    }
    Event::Sampled { partitions: &standings }.emit();
}

/// Where partitions end. Without any, the broker is asked for a sign of life.
fn ends(client: &BaseConsumer<KafkaLog>, standings: &[Standing]) -> KafkaResult<BTreeMap<(String, i32), i64>> {
    if standings.is_empty() {
        client.fetch_metadata(Some("__consumer_offsets"), ANSWER_MAX)?;
        return Ok(BTreeMap::new());
    }
    let mut wanted = TopicPartitionList::new();
    for standing in standings {
        // In a question about times, the end stands for the latest.
        wanted.add_partition_offset(&standing.topic, standing.partition, Offset::End)?;
    }
    let found = client.offsets_for_times(wanted, ANSWER_MAX)?;
    let mut ends = BTreeMap::new();
    for element in found.elements() {
        if let (Offset::Offset(end), Ok(())) = (element.offset(), element.error()) {
            ends.insert((element.topic().to_owned(), element.partition()), end);
        }
    }
    Ok(ends)
}
