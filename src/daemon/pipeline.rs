//! Ingest wired to the lake: the tables as ingestion sees them.

use super::encoders::{Encoders, Encoding, Held};
use super::formats;
use crate::config::Config;
use crate::domain::{InferenceRow, Origin, Row, RowKind};
use crate::ingest::{self, Committed, Part, Partition, Progress, Rows, Shape, Sink, SinkError};
use crate::lake::{
    self, CommitError, Committer, DeadLetterBuilder, EncodedFile, FeedbackBuilder, InferenceLogBuilder, Lake,
    PartitionKey, TableName, TextMemory,
};
use crate::runtime::{Backoff, Shutdown};
use crate::telemetry::Event;
use anyhow::{Context as _, Result};
use arrow::array::{AsArray as _, RecordBatch};
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Ingests until the shutdown, then commits what was read, within the configured time.
///
/// # Errors
/// Where ingestion cannot go on; a broker or store that is away is no such case.
pub async fn run_ingest(config: Arc<Config>, lake: Lake, progress: Arc<Progress>, shutdown: Shutdown) -> Result<()> {
    let runtime = Handle::current();
    let pipeline = config.ingest.pipeline.clone();
    let decoder = formats::decoder(&config)?;
    // Polling and committing block, so they have threads of their own.
    let ingest = move || {
        let sink = |cluster: &str| -> Result<LakeSink, Box<dyn std::error::Error + Send + Sync>> {
            let committer = insist(&config, &shutdown, || runtime.block_on(lake.committer(&pipeline, cluster)))?;
            let shape = LakeShape::new(lake.clone(), config.ingest.in_flight_bytes_max);
            Ok(LakeSink { committer, shape, runtime: runtime.clone() })
        };
        ingest::run(&config.kafka, &config.ingest, decoder, sink, progress, &shutdown)
    };
    tokio::task::spawn_blocking(ingest).await.context("ingestion panicked")?.context("ingestion cannot go on")
}

/// Tries until the store is there or the shutdown comes; blocks.
fn insist<T, E: std::error::Error>(
    config: &Config,
    shutdown: &Shutdown,
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut backoff =
        Backoff::new(Duration::from_millis(100), Duration::from_millis(config.ingest.retry_backoff_ms_max));
    loop {
        match work() {
            Err(error) if !shutdown.is_cancelled() => {
                if backoff.tries() == 0 {
                    Event::Away { what: "store", error: &error.to_string() }.emit();
                }
                std::thread::sleep(backoff.next_pause());
            }
            other => return other,
        }
    }
}

/// The lake's committer behind the seam.
struct LakeSink {
    committer: Committer,
    shape: LakeShape,
    runtime: Handle,
}

/// Rows of this many bytes are encoded without waiting for the end of their batch: large enough for a row group that is
/// quick to read, small enough that a few of them for each core are little memory.
const CHUNK_BYTES: usize = 8 << 20;
/// What a row costs beside its texts: offsets, numbers and validity of some thirty columns.
const ROW_BYTES: usize = 512;

/// What buffers are made by.
#[derive(Clone)]
struct LakeShape {
    encoders: Encoders,
    memory: TextMemory,
    lake: Lake,
    merging_bytes_max: usize,
}

impl LakeShape {
    fn new(lake: Lake, in_flight_bytes_max: usize) -> Self {
        let memory = lake::text_memory(in_flight_bytes_max / 16);
        // Merges go on with a small budget too; rows must have most of it.
        Self { encoders: Encoders::start(&memory), memory, lake, merging_bytes_max: in_flight_bytes_max / 8 }
    }
}

impl Shape for LakeShape {
    fn row_bytes(&self) -> usize {
        self.encoders.held_bytes()
    }

    fn held_bytes(&self) -> usize {
        let merging = self.lake.merging_bytes().min(self.merging_bytes_max);
        self.row_bytes() + self.memory.free_bytes() + merging
    }
}

/// Arrow builders of one partition, and what of it is being encoded.
struct LakeRows {
    encoders: Encoders,
    table: TableName,
    rows: Builder,
    raw: Held,
    encoding: Vec<Encoding>,
    dead_letters: Option<DeadLetterBuilder>,
    dead: Held,
}

enum Builder {
    Inference(Box<InferenceLogBuilder>),
    Feedback(Box<FeedbackBuilder>),
}

/// Rows of one partition: most are being encoded, the rest will be with those of other partitions.
struct LakeCut {
    encoding: Vec<Encoding>,
    rest: (RecordBatch, Held),
    dead_letters: (Option<RecordBatch>, Held),
}

/// A batch in files that are in memory.
struct LakeBatch {
    parts: Vec<lake::Part>,
    files: Vec<EncodedFile>,
    _held: Vec<Held>,
}

impl LakeRows {
    fn finish(&mut self) -> (RecordBatch, Held) {
        let rows = match &mut self.rows {
            Builder::Inference(builder) => builder.finish(),
            Builder::Feedback(builder) => builder.finish(),
        };
        (rows, mem::replace(&mut self.raw, self.encoders.hold()))
    }
}

impl Rows for LakeRows {
    type Cut = LakeCut;

    fn push(&mut self, row: &Row<'_>, origin: &Origin<'_>) {
        match (row, &mut self.rows) {
            (Row::Inference(row), Builder::Inference(builder)) => {
                builder.append(row, origin);
                self.raw.add(text_bytes(row) + ROW_BYTES);
            }
            (Row::Feedback(row), Builder::Feedback(builder)) => {
                builder.append(row, origin);
                self.raw.add(row.text.as_ref().map_or(0, |text| text.len()) + ROW_BYTES);
            }
            (Row::DeadLetter(row), _) => {
                self.dead_letters.get_or_insert_with(DeadLetterBuilder::new).append(row, origin);
                self.dead.add(row.payload.map_or(0, <[u8]>::len) + ROW_BYTES);
            }
            _ => unreachable!("a topic has one kind of rows"),
        }
        if self.raw.bytes() >= CHUNK_BYTES {
            let (rows, raw) = self.finish();
            self.encoding.push(self.encoders.encode(self.table, vec![rows], raw));
        }
    }

    fn cut(mut self) -> LakeCut {
        let rest = self.finish();
        let dead_letters = self.dead_letters.map(|mut builder| builder.finish());
        LakeCut { encoding: self.encoding, rest, dead_letters: (dead_letters, self.dead) }
    }
}

fn text_bytes(row: &InferenceRow<'_>) -> usize {
    let long = [&row.response, &row.messages, &row.prompt, &row.completion, &row.extra];
    row.request.len() + long.into_iter().flatten().map(|text| text.len()).sum::<usize>()
}

/// The table of a kind of rows.
pub(super) fn table(kind: RowKind) -> TableName {
    match kind {
        RowKind::Inference => TableName::InferenceLog,
        RowKind::Log(name) => TableName::of_log(name).expect("the lake was opened with the configuration's tables"),
        RowKind::Feedback => TableName::Feedback,
    }
}

fn key(partition: &Partition) -> PartitionKey {
    let (topic, generation) = (partition.topic.clone(), partition.generation.to_string());
    PartitionKey { topic, generation, partition: partition.number }
}

fn sink_error(error: CommitError) -> SinkError {
    match error {
        CommitError::Moved { .. } => SinkError::Moved(error.to_string()),
        CommitError::Store(error) => away(error),
    }
}

fn away(error: impl std::error::Error + Send + Sync + 'static) -> SinkError {
    SinkError::Away(format!("{:#}", anyhow::Error::new(error)))
}

impl Sink for LakeSink {
    type Rows = LakeRows;

    type Shape = LakeShape;
    type Ready = LakeBatch;

    fn shape(&self) -> LakeShape {
        self.shape.clone()
    }

    fn rows(shape: &LakeShape, kind: RowKind) -> LakeRows {
        let rows = match kind {
            RowKind::Inference | RowKind::Log(_) => {
                let builder = InferenceLogBuilder::with_promoted(shape.lake.promoted()).with_memory(&shape.memory);
                Builder::Inference(Box::new(builder))
            }
            RowKind::Feedback => Builder::Feedback(Box::default()),
        };
        let (encoders, raw, dead) = (shape.encoders.clone(), shape.encoders.hold(), shape.encoders.hold());
        LakeRows { encoders, table: table(kind), rows, raw, encoding: Vec::new(), dead_letters: None, dead }
    }

    fn current(&mut self, kind: RowKind, partitions: &[Partition]) -> Result<Vec<Partition>, SinkError> {
        let keys: Vec<PartitionKey> = partitions.iter().map(key).collect();
        let current = self.runtime.block_on(self.committer.current(table(kind), &keys)).map_err(away)?;
        let partition = |key: PartitionKey| Partition {
            topic: key.topic,
            generation: key.generation.into(),
            number: key.partition,
        };
        Ok(current.into_iter().map(partition).collect())
    }

    fn positions(&mut self, kind: RowKind, partitions: &[Partition]) -> Result<Vec<Option<i64>>, SinkError> {
        let keys: Vec<PartitionKey> = partitions.iter().map(key).collect();
        self.runtime.block_on(self.committer.positions(table(kind), &keys)).map_err(away)
    }

    fn pin(&mut self, kind: RowKind, starts: &[(Partition, i64)]) -> Result<(), SinkError> {
        let starts: Vec<(PartitionKey, i64)> = starts.iter().map(|(p, start)| (key(p), *start)).collect();
        self.runtime.block_on(self.committer.pin(table(kind), &starts)).map_err(sink_error)
    }

    fn ready(&mut self, kind: RowKind, cuts: Vec<Part<LakeCut>>) -> LakeBatch {
        let (mut parts, mut encoding, mut held) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = Rest { encoders: &self.shape.encoders, table: table(kind), rows: Vec::new(), raw: None };
        for Part { partition, start, end, rows } in cuts {
            encoding.extend(rows.encoding);
            encoding.extend(rest.add(rows.rest));
            let (dead_letters, dead) = rows.dead_letters;
            held.push(dead);
            let dead_letters = dead_letters.into_iter().collect();
            parts.push(lake::Part { key: key(&partition), start, end, rows: Vec::new(), dead_letters });
        }
        encoding.extend(rest.end());
        let mut groups = Vec::new();
        for encoded in encoding {
            let (rows, share) = encoded.wait();
            groups.extend(rows.expect("the builders make what the table's columns are"));
            held.push(share);
        }
        let files = lake::files(groups).expect("row groups of one table fit together");
        LakeBatch { parts, files, _held: held }
    }

    fn commit(&mut self, kind: RowKind, batch: &LakeBatch, bytes: u64) -> Result<Committed, SinkError> {
        let began = Instant::now();
        let done = self.committer.commit_files(table(kind), &batch.parts, &batch.files);
        let done = self.runtime.block_on(done).map_err(sink_error)?;
        let (rows, dead_letters) = (done.rows as u64, done.dead_letters as u64);
        let duration = began.elapsed();
        let (table, version) = (table(kind).as_str(), done.version);
        Event::BatchCommitted { table, version, rows, dead_letters, bytes, duration }.emit();
        count_dead_letters(&batch.parts, dead_letters);
        Ok(Committed { rows, dead_letters })
    }
}

/// Counts what was committed by the kind of fault. After a crash in between, some of a batch's dead letters are in their
/// table already and were counted by a process that is gone: then only the total of the others is known.
fn count_dead_letters(parts: &[lake::Part], committed: u64) {
    let mut counts = BTreeMap::<&str, u64>::new();
    for batch in parts.iter().flat_map(|part| &part.dead_letters) {
        let codes = batch.column_by_name("code").and_then(|column| column.as_string_opt::<i32>());
        for code in codes.into_iter().flat_map(|codes| codes.iter()).flatten() {
            *counts.entry(code).or_default() += 1;
        }
    }
    if counts.values().sum::<u64>() != committed {
        counts = BTreeMap::from([("REPEATED", committed)]);
    }
    for (code, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        Event::DeadLetters { code, count }.emit();
    }
}

/// What partitions have left over at the end of a batch, encoded together so that row groups do not get small.
struct Rest<'a> {
    encoders: &'a Encoders,
    table: TableName,
    rows: Vec<RecordBatch>,
    raw: Option<Held>,
}

impl Rest<'_> {
    fn add(&mut self, (rows, raw): (RecordBatch, Held)) -> Option<Encoding> {
        self.rows.push(rows);
        match &mut self.raw {
            Some(all) => all.join(raw),
            None => self.raw = Some(raw),
        }
        if self.raw.as_ref().is_some_and(|raw| raw.bytes() >= CHUNK_BYTES) { self.end() } else { None }
    }

    fn end(&mut self) -> Option<Encoding> {
        let raw = self.raw.take()?;
        Some(self.encoders.encode(self.table, mem::take(&mut self.rows), raw))
    }
}
