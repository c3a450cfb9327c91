//! `evaluation`: one holdout prompt a row, with the answers of champion and challenger side by side.

use super::{batch, times};
use crate::domain::{Answer, Comparison, CycleId, Timestamp, VersionRef};
use crate::lake::column::Kind::{Bool, Double, Int, Text, Time};
use crate::lake::column::{Column, optional, required};
use crate::lake::table::TableName;
use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, RecordBatch, StringArray};
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("cycle", Text, "the cycle that compared them"),
    required("model", Text, "the model"),
    required("version", Int, "the challenger's number"),
    required("time", Time, "when the row was written"),
    required("prompt_hash", Text, "the prompt"),
    required("question", Text, "its last user turn"),
    required("champion_text", Text, "the answer of the version that serves now"),
    required("champion_reward", Double, "its score, without labels"),
    optional("champion_correct", Bool, "whether it is right, where the truth is known"),
    required("champion_tokens", Int, "its tokens"),
    required("challenger_text", Text, "the answer of the version that was just tuned"),
    required("challenger_reward", Double, "its score, without labels"),
    optional("challenger_correct", Bool, "whether it is right, where the truth is known"),
    required("challenger_tokens", Int, "its tokens"),
    optional("slice", Text, "the prompt's part of the traffic: the stratum of its window"),
];

/// Rows of the table.
pub(in crate::lake) fn rows(
    cycle: &CycleId,
    version: &VersionRef,
    time: Timestamp,
    comparisons: &[Comparison],
) -> RecordBatch {
    let each = || comparisons.iter();
    let number = i32::try_from(version.number.get()).unwrap_or(i32::MAX);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(each().map(|_| cycle.as_str()))),
        Arc::new(StringArray::from_iter_values(each().map(|_| version.model.as_str()))),
        Arc::new(Int32Array::from_iter_values(each().map(|_| number))),
        Arc::new(times(each().map(|_| Some(time)))),
        Arc::new(StringArray::from_iter_values(each().map(|c| c.prompt.to_string()))),
        Arc::new(StringArray::from_iter_values(each().map(|c| &c.question))),
    ];
    columns.extend(answers(comparisons, |c| &c.champion));
    columns.extend(answers(comparisons, |c| &c.challenger));
    columns.push(Arc::new(each().map(|c| c.slice.as_deref()).collect::<StringArray>()));
    batch(TableName::Evaluation, columns)
}

fn answers(comparisons: &[Comparison], of: fn(&Comparison) -> &Answer) -> [ArrayRef; 4] {
    let each = || comparisons.iter().map(of);
    [
        Arc::new(StringArray::from_iter_values(each().map(|a| &a.text))),
        Arc::new(Float64Array::from_iter_values(each().map(|a| a.reward))),
        Arc::new(each().map(|a| a.correct).collect::<BooleanArray>()),
        Arc::new(Int32Array::from_iter_values(each().map(|a| i32::try_from(a.tokens).unwrap_or(i32::MAX)))),
    ]
}
