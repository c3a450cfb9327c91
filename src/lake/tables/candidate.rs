//! `candidate`: one sampled response a row, with the behaviour policy's logprobs and, once scored, what it earned.
//!
//! Exploring and scoring each append; a reader takes the last row of each prompt and sample.

use super::{Reader, batch, cell, times};
use crate::domain::{Candidate, Component, CycleId, Finish, PromptHash, Timestamp};
use crate::lake::column::Kind::{Double, Floats, Int, Ints, Long, Numbers, Text, Time};
use crate::lake::column::{Column, element, optional, required};
use crate::lake::error::Result;
use crate::lake::table::TableName;
use arrow::array::{
    Array, AsArray, Float32Builder, Float64Array, Float64Builder, Int32Array, Int32Builder, Int64Array, ListBuilder,
    MapBuilder, MapFieldNames, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type};
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("cycle", Text, "the cycle that sampled it"),
    required("prompt_hash", Text, "the prompt"),
    required("sample", Int, "the number of the sample among the prompt's samples, from 0"),
    required("time", Time, "when the row was written"),
    required("strategy", Text, "how it was explored, such as temperature=0.8"),
    required("seed", Long, "the seed that drew it (the bits of an unsigned number)"),
    required("text", Text, "the response"),
    required("tokens", Ints, "the response's tokens, the end token included"),
    required("logprobs", Floats, "each token's natural-log probability under the behaviour policy"),
    required("logprob", Double, "their sum, in nats"),
    required("finish_reason", Text, "stop or length"),
    optional("reward", Double, "the reward; null until it is scored"),
    optional("components", Numbers, "the reward's parts by scorer"),
];

/// Rows of the table.
pub(in crate::lake) fn rows(cycle: &CycleId, time: Timestamp, candidates: &[Candidate]) -> RecordBatch {
    let each = || candidates.iter();
    let mut tokens = ListBuilder::new(Int32Builder::new()).with_field(element(DataType::Int32));
    let mut logprobs = ListBuilder::new(Float32Builder::new()).with_field(element(DataType::Float32));
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut components = MapBuilder::new(Some(names), StringBuilder::new(), Float64Builder::new());
    for candidate in candidates {
        tokens.append_value(candidate.tokens.iter().map(|&t| Some(t.cast_signed())));
        logprobs.append_value(candidate.logprobs.iter().map(|&l| Some(l)));
        for part in &candidate.components {
            components.keys().append_value(&part.name);
            components.values().append_value(part.value);
        }
        components.append(true).expect("each key has its value");
    }
    batch(
        TableName::Candidate,
        vec![
            Arc::new(StringArray::from_iter_values(each().map(|_| cycle.as_str()))),
            Arc::new(StringArray::from_iter_values(each().map(|c| c.prompt.to_string()))),
            Arc::new(Int32Array::from_iter_values(each().map(|c| c.sample.cast_signed()))),
            Arc::new(times(each().map(|_| Some(time)))),
            Arc::new(StringArray::from_iter_values(each().map(|c| &c.strategy))),
            Arc::new(Int64Array::from_iter_values(each().map(|c| c.seed.cast_signed()))),
            Arc::new(StringArray::from_iter_values(each().map(|c| &c.text))),
            Arc::new(tokens.finish()),
            Arc::new(logprobs.finish()),
            Arc::new(Float64Array::from_iter_values(each().map(Candidate::logprob))),
            Arc::new(StringArray::from_iter_values(each().map(|c| c.finish.as_str()))),
            Arc::new(each().map(|c| c.reward).collect::<Float64Array>()),
            Arc::new(components.finish()),
        ],
    )
}

fn finish(text: &str) -> Option<Finish> {
    [Finish::Stop, Finish::Length].into_iter().find(|f| f.as_str() == text)
}

/// The candidates that a batch of the table holds.
pub(in crate::lake) fn read(batch: &RecordBatch) -> Result<Vec<Candidate>> {
    let reader = Reader::new(TableName::Candidate, batch);
    let (hashes, strategies) = (reader.required_texts("prompt_hash")?, reader.required_texts("strategy")?);
    let (texts, finishes) = (reader.required_texts("text")?, reader.required_texts("finish_reason")?);
    let (samples, seeds, rewards) = (reader.ints("sample")?, reader.longs("seed")?, reader.doubles("reward")?);
    let (tokens, logprobs, parts) =
        (reader.column("tokens")?, reader.column("logprobs")?, reader.column("components")?);
    let candidate = |i: usize| {
        let ids = cell(&tokens, i).map(|v| v.as_primitive::<Int32Type>().values().to_vec()).unwrap_or_default();
        let nats = cell(&logprobs, i).map(|v| v.as_primitive::<Float32Type>().values().to_vec());
        Ok(Candidate {
            prompt: reader.parsed(
                "prompt_hash",
                &hashes[i],
                PromptHash::parse,
                "32 hexadecimal digits are expected",
            )?,
            sample: samples[i].unwrap_or_default().cast_unsigned(),
            strategy: strategies[i].clone(),
            seed: seeds[i].unwrap_or_default().cast_unsigned(),
            tokens: ids.into_iter().map(i32::cast_unsigned).collect(),
            text: texts[i].clone(),
            logprobs: nats.unwrap_or_default(),
            finish: reader.parsed("finish_reason", &finishes[i], finish, "`stop` or `length` is expected")?,
            reward: rewards[i],
            components: components(parts.as_ref(), i),
        })
    };
    (0..reader.rows()).map(candidate).collect()
}

fn components(maps: &dyn Array, row: usize) -> Vec<Component> {
    let maps = maps.as_map();
    if maps.is_null(row) {
        return Vec::new();
    }
    let entries = maps.value(row);
    let (names, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_primitive::<Float64Type>());
    let part = |(name, &value): (Option<&str>, &f64)| Component { name: name.unwrap_or_default().to_owned(), value };
    names.iter().zip(values.values()).map(part).collect()
}
