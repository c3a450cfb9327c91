//! Ingest wired to the lake: the tables as ingestion sees them.

use crate::config::Config;
use crate::domain::{Origin, Row, RowKind};
use crate::ingest::{self, Committed, Part, Partition, Progress, Rows, Sink, SinkError};
use crate::lake::{
    CommitError, Committer, DeadLetterBuilder, FeedbackBuilder, InferenceLogBuilder, Lake, PartitionKey, TableName,
};
use crate::runtime::{Backoff, Shutdown};
use crate::telemetry::Event;
use anyhow::{Context as _, Result};
use arrow::array::{AsArray as _, RecordBatch};
use std::collections::BTreeMap;
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
    // Polling and committing block, so they have threads of their own.
    let ingest = move || {
        let sink = |cluster: &str| -> Result<LakeSink, Box<dyn std::error::Error + Send + Sync>> {
            let committer = insist(&config, &shutdown, || runtime.block_on(lake.committer(&pipeline, cluster)))?;
            Ok(LakeSink { committer, runtime: runtime.clone() })
        };
        ingest::run(&config.kafka, &config.ingest, sink, progress, &shutdown)
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
    runtime: Handle,
}

/// Arrow builders of one partition.
struct LakeRows {
    rows: Builder,
    dead_letters: Option<DeadLetterBuilder>,
}

enum Builder {
    Inference(Box<InferenceLogBuilder>),
    Feedback(Box<FeedbackBuilder>),
}

/// Batches of one partition: rows of the topic's table, and dead letters.
struct LakeCut {
    rows: RecordBatch,
    dead_letters: Option<RecordBatch>,
}

impl Rows for LakeRows {
    type Cut = LakeCut;

    fn push(&mut self, row: &Row<'_>, origin: &Origin<'_>) {
        match (row, &mut self.rows) {
            (Row::Inference(row), Builder::Inference(builder)) => builder.append(row, origin),
            (Row::Feedback(row), Builder::Feedback(builder)) => builder.append(row, origin),
            (Row::DeadLetter(row), _) => {
                self.dead_letters.get_or_insert_with(DeadLetterBuilder::new).append(row, origin);
            }
            _ => unreachable!("a topic has one kind of rows"),
        }
    }

    fn cut(mut self) -> LakeCut {
        let rows = match &mut self.rows {
            Builder::Inference(builder) => builder.finish(),
            Builder::Feedback(builder) => builder.finish(),
        };
        LakeCut { rows, dead_letters: self.dead_letters.map(|mut builder| builder.finish()) }
    }
}

fn table(kind: RowKind) -> TableName {
    match kind {
        RowKind::Inference => TableName::InferenceLog,
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

    fn rows(kind: RowKind) -> LakeRows {
        let rows = match kind {
            RowKind::Inference => Builder::Inference(Box::default()),
            RowKind::Feedback => Builder::Feedback(Box::default()),
        };
        LakeRows { rows, dead_letters: None }
    }

    fn positions(&mut self, kind: RowKind, partitions: &[Partition]) -> Result<Vec<Option<i64>>, SinkError> {
        let keys: Vec<PartitionKey> = partitions.iter().map(key).collect();
        self.runtime.block_on(self.committer.positions(table(kind), &keys)).map_err(away)
    }

    fn pin(&mut self, kind: RowKind, starts: &[(Partition, i64)]) -> Result<(), SinkError> {
        let starts: Vec<(PartitionKey, i64)> = starts.iter().map(|(p, start)| (key(p), *start)).collect();
        self.runtime.block_on(self.committer.pin(table(kind), &starts)).map_err(sink_error)
    }

    fn commit(&mut self, kind: RowKind, parts: &[Part<LakeCut>], bytes: u64) -> Result<Committed, SinkError> {
        let began = Instant::now();
        let part = |part: &Part<LakeCut>| crate::lake::Part {
            key: key(&part.partition),
            start: part.start,
            end: part.end,
            rows: vec![part.rows.rows.clone()],
            dead_letters: part.rows.dead_letters.iter().cloned().collect(),
        };
        let parts: Vec<_> = parts.iter().map(part).collect();
        let done = self.runtime.block_on(self.committer.commit(table(kind), &parts)).map_err(sink_error)?;
        let (rows, dead_letters) = (done.rows as u64, done.dead_letters as u64);
        let duration = began.elapsed();
        let (table, version) = (table(kind).as_str(), done.version);
        Event::BatchCommitted { table, version, rows, dead_letters, bytes, duration }.emit();
        count_dead_letters(&parts, dead_letters);
        Ok(Committed { rows, dead_letters })
    }
}

/// Counts what was committed by the kind of fault. After a crash in between, some of a batch's dead letters are in their
/// table already and were counted by a process that is gone: then only the total of the others is known.
fn count_dead_letters(parts: &[crate::lake::Part], committed: u64) {
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
