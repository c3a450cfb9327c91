//! `removal`: one range of offsets a row, whose rows were taken out of a table on purpose: by retention or by a request to
//! forget.
//!
//! A removal is recorded before it is made, so that the audit never meets a hole that nobody explains. A record whose rows
//! are still there says that the removal did not end; doing it again ends it.

use super::{Reader, batch, times};
use crate::domain::{LogName, Timestamp};
use crate::lake::column::Kind::{Int, Long, Text, Time};
use crate::lake::column::{Column, required};
use crate::lake::error::Result;
use crate::lake::table::TableName;
use arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray};
use std::fmt;
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("removal", Text, "the act's id; all its ranges share it"),
    required("time", Time, "when it was recorded"),
    required("reason", Text, "retention or forget"),
    required("table_name", Text, "the table that the rows were in"),
    required("kafka_topic", Text, "the topic that they came from"),
    required("kafka_topic_id", Text, "the id that Kafka gave the topic when it was made"),
    required("kafka_partition", Int, "its partition"),
    required("first_offset", Long, "the range's first offset"),
    required("last_offset", Long, "the range's last offset"),
    required("detail", Text, "the day that was dropped, or SHA-256 of the requester that was forgotten"),
];

/// Why rows were taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// They were older than the configuration keeps them.
    Retention,
    /// Whoever they are about asked for it.
    Forget,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retention => "retention",
            Self::Forget => "forget",
        })
    }
}

/// One range of offsets whose rows were taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The act's id.
    pub id: String,
    /// When it was recorded.
    pub time: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The table.
    pub table: TableName,
    /// The topic.
    pub topic: String,
    /// The id that Kafka gave the topic when it was made.
    pub generation: String,
    /// Its partition.
    pub partition: i32,
    /// The first offset.
    pub first: i64,
    /// The last offset.
    pub last: i64,
    /// The day, or the requester's hash.
    pub detail: String,
}

/// Rows of the table.
pub(in crate::lake) fn rows(removals: &[Removal]) -> RecordBatch {
    let each = || removals.iter();
    batch(
        TableName::Removal,
        vec![
            Arc::new(StringArray::from_iter_values(each().map(|r| &r.id))),
            Arc::new(times(each().map(|r| Some(r.time)))),
            Arc::new(StringArray::from_iter_values(each().map(|r| r.reason.to_string()))),
            Arc::new(StringArray::from_iter_values(each().map(|r| r.table.as_str()))),
            Arc::new(StringArray::from_iter_values(each().map(|r| &r.topic))),
            Arc::new(StringArray::from_iter_values(each().map(|r| &r.generation))),
            Arc::new(Int32Array::from_iter_values(each().map(|r| r.partition))),
            Arc::new(Int64Array::from_iter_values(each().map(|r| r.first))),
            Arc::new(Int64Array::from_iter_values(each().map(|r| r.last))),
            Arc::new(StringArray::from_iter_values(each().map(|r| &r.detail))),
        ],
    )
}

/// The removals that a batch of the table holds.
pub(in crate::lake) fn read(batch: &RecordBatch) -> Result<Vec<Removal>> {
    let reader = Reader::new(TableName::Removal, batch);
    let (ids, at) = (reader.required_texts("removal")?, reader.required_times("time")?);
    let (reasons, tables) = (reader.required_texts("reason")?, reader.required_texts("table_name")?);
    let (topics, details) = (reader.required_texts("kafka_topic")?, reader.required_texts("detail")?);
    let generations = reader.required_texts("kafka_topic_id")?;
    let (partitions, firsts, lasts) =
        (reader.ints("kafka_partition")?, reader.longs("first_offset")?, reader.longs("last_offset")?);
    let reason = |text: &str| [Reason::Retention, Reason::Forget].into_iter().find(|r| r.to_string() == text);
    // A route's table may have a removal and be gone from the configuration since.
    let table = |text: &str| text.parse().ok().or_else(|| TableName::of_log(LogName::new(text).ok()?).ok());
    let removal = |i: usize| {
        Ok(Removal {
            id: ids[i].clone(),
            time: at[i],
            reason: reader.parsed("reason", &reasons[i], reason, "`retention` or `forget` is expected")?,
            table: reader.parsed("table_name", &tables[i], table, "a table's name is expected")?,
            topic: topics[i].clone(),
            generation: generations[i].clone(),
            partition: partitions[i].unwrap_or_default(),
            first: firsts[i].unwrap_or_default(),
            last: lasts[i].unwrap_or_default(),
            detail: details[i].clone(),
        })
    };
    (0..reader.rows()).map(removal).collect()
}
