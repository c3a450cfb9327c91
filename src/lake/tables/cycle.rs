//! `cycle`: one state change of one cycle a row; append-only, the current state is the last row.

use super::{Reader, batch, times};
use crate::domain::{CycleEvent, CycleId, CycleState, ModelName, VersionNumber};
use crate::lake::column::Kind::{Int, Text, Time};
use crate::lake::column::{Column, optional, required};
use crate::lake::error::Result;
use crate::lake::table::TableName;
use arrow::array::{Int32Array, RecordBatch, StringArray};
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("cycle", Text, "the cycle's id; ids sort by time"),
    required("model", Text, "the model that it tunes"),
    required(
        "state",
        Text,
        "the state that it came to: requested, collect, explore … publish, done, skipped, failed, parked, cancelled",
    ),
    required("time", Time, "when"),
    optional("until", Time, "$until of its window, once known: the next cycle's $since"),
    optional("version", Int, "the number of the version that it registered, once known"),
    required("detail", Text, "figures of the step that ended, or the error, as JSON"),
    optional("attempt", Int, "which try of the cycle, from 1; null is 1"),
];

/// Rows of the table.
pub(in crate::lake) fn rows(events: &[CycleEvent]) -> RecordBatch {
    let text = |of: fn(&CycleEvent) -> &str| StringArray::from_iter_values(events.iter().map(of));
    let version = |e: &CycleEvent| e.version.and_then(|v| i32::try_from(v.get()).ok());
    batch(
        TableName::Cycle,
        vec![
            Arc::new(text(|e| e.cycle.as_str())),
            Arc::new(text(|e| e.model.as_str())),
            Arc::new(text(|e| e.state.as_str())),
            Arc::new(times(events.iter().map(|e| Some(e.time)))),
            Arc::new(times(events.iter().map(|e| e.until))),
            Arc::new(events.iter().map(version).collect::<Int32Array>()),
            Arc::new(text(|e| &e.detail)),
            Arc::new(Int32Array::from_iter_values(events.iter().map(|e| i32::try_from(e.attempt).unwrap_or(i32::MAX)))),
        ],
    )
}

/// The events that a batch of the table holds.
pub(in crate::lake) fn read(batch: &RecordBatch) -> Result<Vec<CycleEvent>> {
    let reader = Reader::new(TableName::Cycle, batch);
    let (cycles, models) = (reader.required_texts("cycle")?, reader.required_texts("model")?);
    let (states, details) = (reader.required_texts("state")?, reader.required_texts("detail")?);
    let (at, until, versions) = (reader.required_times("time")?, reader.times("until")?, reader.ints("version")?);
    let attempts = reader.ints("attempt")?;
    let event = |i: usize| {
        Ok(CycleEvent {
            cycle: reader.parsed("cycle", &cycles[i], |t| CycleId::new(t).ok(), "a cycle id is expected")?,
            model: reader.parsed("model", &models[i], |t| ModelName::new(t).ok(), "a model name is expected")?,
            state: reader.parsed("state", &states[i], CycleState::parse, "a cycle's state is expected")?,
            time: at[i],
            attempt: attempts[i].and_then(|a| u32::try_from(a).ok()).unwrap_or(1),
            until: until[i],
            version: versions[i].and_then(|v| u32::try_from(v).ok()).and_then(VersionNumber::new),
            detail: details[i].clone(),
        })
    };
    (0..reader.rows()).map(event).collect()
}
