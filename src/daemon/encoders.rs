//! Threads that encode rows to Parquet while more rows come, and the count of what is in memory.
//!
//! The poll thread hands over a chunk as soon as it is full; the committing thread waits for the chunks of its batch. While
//! it commits, the next batch is encoded already. The queue is short: where encoding falls behind, handing over waits, and
//! with it reading. Every byte of rows, raw or encoded, is counted from when it is there until it is dropped.

use crate::lake::{self, RowGroup, TableName, TextMemory};
use arrow::array::RecordBatch;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// More threads than this are not fed by one consumer.
const THREADS_MAX: usize = 4;

/// A share of the memory that is counted; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    /// Counts more.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.total.fetch_add(bytes, Relaxed);
    }

    /// Takes another share over.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// What this share is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Relaxed);
    }
}

/// The encoding threads; a cheap handle. They end when the last handle is gone.
#[derive(Debug, Clone)]
pub struct Encoders {
    jobs: SyncSender<Job>,
    held: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Job {
    table: TableName,
    batches: Vec<RecordBatch>,
    raw: Held,
    answer: SyncSender<Encoded>,
}

/// Row groups, and the memory that they take.
pub type Encoded = (lake::Result<Vec<RowGroup>>, Held);

/// Rows that are being encoded.
#[derive(Debug)]
pub struct Encoding(Receiver<Encoded>);

impl Encoding {
    /// Waits until they are.
    pub fn wait(self) -> Encoded {
        self.0.recv().expect("a panic of an encoding thread ends ingestion")
    }
}

impl Encoders {
    /// Starts the threads: one for each core, so that a backlog is encoded by all of them.
    ///
    /// What was encoded gives its memory back to `memory`.
    pub fn start(memory: &TextMemory) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (jobs, queue) = sync_channel(1);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let (queue, memory) = (Arc::clone(&queue), memory.clone());
            let work = move || {
                while let Some(job) = next(&queue) {
                    work(job, &memory)
                }
            };
            let started = thread::Builder::new().name(format!("encode-{number}")).spawn(work);
            drop(started.expect("the system gives a daemon its few threads"));
        }
        Self { jobs, held: Arc::default() }
    }

    /// A share of nothing yet.
    pub fn hold(&self) -> Held {
        Held { total: Arc::clone(&self.held), bytes: 0 }
    }

    /// All bytes that are held.
    pub fn held_bytes(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Hands rows over; waits where the threads are behind.
    pub fn encode(&self, table: TableName, batches: Vec<RecordBatch>, raw: Held) -> Encoding {
        let (answer, encoded) = sync_channel(1);
        let job = Job { table, batches, raw, answer };
        self.jobs.send(job).expect("a panic of an encoding thread ends ingestion");
        Encoding(encoded)
    }
}

fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().ok()?.recv().ok()
}

fn work(job: Job, memory: &TextMemory) {
    let Job { table, batches, raw, answer } = job;
    let groups = lake::encode(table, &batches);
    let mut held = Held { total: Arc::clone(&raw.total), bytes: 0 };
    held.add(groups.iter().flatten().map(RowGroup::bytes).sum());
    batches.into_iter().filter(|_| table.is_log()).for_each(|batch| lake::reuse(memory, batch));
    drop(raw);
    // Nobody waits where the batch was dropped in the meantime.
    answer.send((groups, held)).ok();
}
