//! Dropping days that are older than the configuration keeps: files whole, by the log alone.
//!
//! Offsets are not touched. For the tables that Kafka feeds the offsets of the dropped rows are recorded in `removal` first,
//! so the audit knows why they are in no row.

use super::super::error::{Error, Result};
use super::super::ranges::{Gap, ranges_of, subtract};
use super::super::rewrite::{LiveFile, Outcome, Rewrite, live_files, open};
use super::super::tables::removal::{Reason, Removal};
use super::super::{Lake, PartitionKey, TableName};
use super::plan::date_of;
use crate::domain::Timestamp;
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt as _;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Where a row's message stands in Kafka.
const COORDINATES: &[&str] = &["kafka_topic", "kafka_topic_id", "kafka_partition", "kafka_offset"];
const DAY_MS: i64 = 86_400_000;

/// What retention dropped from a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Files.
    pub files: usize,
    /// Their rows.
    pub rows: u64,
    /// The first day that is kept.
    pub kept_from: Option<String>,
}

impl Lake {
    pub(super) async fn retain(&self, name: TableName, days: u32, now: Timestamp, dry_run: bool) -> Result<Dropped> {
        let today = now.micros().div_euclid(DAY_MS * 1000);
        let kept_from = today - i64::from(days) + 1;
        let table = self.fresh(name).await?.clone();
        let files = live_files(&table).map_err(Error::table(name, "list its files"))?;
        let old: Vec<&LiveFile> = files.iter().filter(|file| day(file) < kept_from).collect();
        let since = Timestamp::from_millis(kept_from * DAY_MS).to_string()[..10].to_owned();
        let mut done = Dropped { files: 0, rows: 0, kept_from: Some(since.clone()) };
        if old.is_empty() {
            return Ok(done);
        }
        if !dry_run {
            if name.is_ingested() {
                let gone = offsets_of(&table, &old).await.map_err(Error::table(name, "read the offsets to drop"))?;
                self.record_removals(name, Reason::Retention, &gone, &format!("before {since}"), now).await?;
            }
            let predicate =
                Some(format!("{} < '{since}'", if name.is_partitioned() { "request_date" } else { "written" }));
            let removes = old.iter().map(|file| file.remove(true)).collect();
            let rewrite = Rewrite { removes, adds: Vec::new(), operation: DeltaOperation::Delete { predicate } };
            if self.rewrite(name, &rewrite).await? == Outcome::Overtaken {
                // The next round finds the days again, in other files.
                return Ok(done);
            }
        }
        (done.files, done.rows) = (old.len(), old.iter().filter_map(|f| f.rows).sum());
        Ok(done)
    }

    /// Records that rows at these offsets are taken out of a table; what is recorded already is not recorded again.
    pub(in crate::lake) async fn record_removals(
        &self,
        name: TableName,
        reason: Reason,
        gone: &BTreeMap<PartitionKey, Vec<Gap>>,
        detail: &str,
        time: Timestamp,
    ) -> Result<String> {
        let known = self.removed_offsets(&[name]).await?;
        let id = Uuid::now_v7().to_string();
        let mut removals = Vec::new();
        for (key, ranges) in gone {
            let new = subtract(ranges, known.get(key).map_or(&[], Vec::as_slice));
            removals.extend(new.into_iter().map(|range| Removal {
                id: id.clone(),
                time,
                reason,
                table: name,
                topic: key.topic.clone(),
                generation: key.generation.clone(),
                partition: key.partition,
                first: range.first,
                last: range.last,
                detail: detail.to_owned(),
            }));
        }
        if !removals.is_empty() {
            self.append(TableName::Removal, super::super::tables::removal::rows(&removals)).await?;
        }
        Ok(id)
    }
}

/// The day that a file's rows are of: their partition's, or the one on which the youngest was written.
fn day(file: &LiveFile) -> i64 {
    let partition =
        file.partition.iter().next().and_then(|(name, value)| date_of(&format!("{name}={}", value.as_deref()?)));
    partition.unwrap_or_else(|| file.modified_ms.div_euclid(DAY_MS))
}

/// The offsets of the rows in files, as ranges.
async fn offsets_of(
    table: &DeltaTable,
    files: &[&LiveFile],
) -> std::result::Result<BTreeMap<PartitionKey, Vec<Gap>>, DeltaTableError> {
    let mut all = BTreeMap::new();
    for file in files {
        let mut batches = open(table, file, Some(COORDINATES)).await?;
        while let Some(batch) = batches.try_next().await? {
            collect_offsets(&batch, &mut all)?;
        }
    }
    Ok(all.into_iter().map(|(key, offsets)| (key, ranges_of(offsets))).collect())
}

/// Adds the offsets of a batch's rows, by partition.
pub(in crate::lake) fn collect_offsets(
    batch: &RecordBatch,
    into: &mut BTreeMap<PartitionKey, Vec<i64>>,
) -> std::result::Result<(), DeltaTableError> {
    let column = |name: &str, kind: &DataType| -> std::result::Result<ArrayRef, DeltaTableError> {
        let missing = || DeltaTableError::generic(format!("a file lacks the column {name}"));
        Ok(cast(batch.column_by_name(name).ok_or_else(missing)?, kind)?)
    };
    let (topics, generations) = (column("kafka_topic", &DataType::Utf8)?, column("kafka_topic_id", &DataType::Utf8)?);
    let (topics, generations) = (topics.as_string::<i32>(), generations.as_string::<i32>());
    let (partitions, offsets) =
        (column("kafka_partition", &DataType::Int32)?, column("kafka_offset", &DataType::Int64)?);
    let (partitions, offsets) = (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
    let mut last: Option<(PartitionKey, Vec<i64>)> = None;
    for row in 0..offsets.len() {
        let (topic, generation, partition) = (topics.value(row), generations.value(row), partitions.value(row));
        match &mut last {
            Some((key, run)) if key.partition == partition && key.topic == topic && key.generation == generation => {
                run.push(offsets.value(row));
            }
            _ => {
                if let Some((key, run)) = last.take() {
                    into.entry(key).or_default().extend(run);
                }
                let key = PartitionKey { topic: topic.to_owned(), generation: generation.to_owned(), partition };
                last = Some((key, vec![offsets.value(row)]));
            }
        }
    }
    if let Some((key, run)) = last {
        into.entry(key).or_default().extend(run);
    }
    Ok(())
}
