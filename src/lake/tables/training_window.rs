//! `training_window`: one prompt a row, chosen for one cycle, on the side of the split that its hash puts it.
//!
//! It keeps the prompts themselves, so a cycle can resume and be understood after the log's versions are cleaned up.

use super::{Reader, batch, times};
use crate::domain::{ChatMessage, CycleId, Prompt, PromptHash, Split, Timestamp, TrainingSet, WindowName};
use crate::lake::column::Kind::{Int, Long, Text, Time};
use crate::lake::column::{Column, optional, required};
use crate::lake::error::Result;
use crate::lake::table::TableName;
use arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray};
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("cycle", Text, "the cycle that the prompt was chosen for"),
    required("time", Time, "when the row was written"),
    required("window", Text, "the window that chose it"),
    required("sql", Text, "the window's SQL as it ran"),
    required("table_version", Long, "the version of inference_log that was read"),
    required("since", Time, "$since"),
    required("until", Time, "$until"),
    required("position", Int, "the prompt's place in its side, from 0"),
    required("split", Text, "train or holdout"),
    required("reason", Text, "why it is in the set"),
    required("request_id", Text, "the call that it was taken from: the latest with this hash"),
    required("request_time", Time, "when it was asked"),
    required("prompt_hash", Text, "its identity"),
    required("messages", Text, "all turns, as canonical JSON"),
    optional("stratum", Text, "what the window's SQL called its part of the traffic"),
];

/// Rows of the table.
pub(in crate::lake) fn rows(cycle: &CycleId, time: Timestamp, set: &TrainingSet) -> RecordBatch {
    let side = |split: Split, prompts: &'_ [Prompt]| (0i32..).zip(prompts.to_vec()).map(move |(i, p)| (split, i, p));
    let all: Vec<(Split, i32, Prompt)> =
        side(Split::Train, &set.train).chain(side(Split::Holdout, &set.holdout)).collect();
    let same = |text: &str| StringArray::from_iter_values(all.iter().map(|_| text.to_owned()));
    let reason = |split: Split, prompt: &Prompt| {
        let why = set.reasons.get(&prompt.hash).map_or("latest call with this prompt", String::as_str);
        format!("{why}; its hash is on the {} side", split.as_str())
    };
    batch(
        TableName::TrainingWindow,
        vec![
            Arc::new(same(cycle.as_str())),
            Arc::new(times(all.iter().map(|_| Some(time)))),
            Arc::new(same(set.window.as_str())),
            Arc::new(same(&set.sql)),
            Arc::new(Int64Array::from_iter_values(all.iter().map(|_| set.table_version))),
            Arc::new(times(all.iter().map(|_| Some(set.since)))),
            Arc::new(times(all.iter().map(|_| Some(set.until)))),
            Arc::new(Int32Array::from_iter_values(all.iter().map(|(_, i, _)| *i))),
            Arc::new(StringArray::from_iter_values(all.iter().map(|(s, _, _)| s.as_str()))),
            Arc::new(StringArray::from_iter_values(all.iter().map(|(s, _, p)| reason(*s, p)))),
            Arc::new(StringArray::from_iter_values(all.iter().map(|(_, _, p)| &p.request_id))),
            Arc::new(times(all.iter().map(|(_, _, p)| Some(p.request_time)))),
            Arc::new(StringArray::from_iter_values(all.iter().map(|(_, _, p)| p.hash.to_string()))),
            Arc::new(StringArray::from_iter_values(
                all.iter().map(|(_, _, p)| crate::domain::canonical_json(&p.messages)),
            )),
            Arc::new(all.iter().map(|(_, _, p)| set.strata.get(&p.hash)).collect::<StringArray>()),
        ],
    )
}

/// The set that rows of one cycle hold, in their order; nothing where there are no rows. Rows that were left out are
/// not kept.
pub(in crate::lake) fn read(batches: &[RecordBatch]) -> Result<Option<TrainingSet>> {
    let mut set: Option<TrainingSet> = None;
    for batch in batches.iter().filter(|b| b.num_rows() > 0) {
        let reader = Reader::new(TableName::TrainingWindow, batch);
        let set = match &mut set {
            Some(set) => set,
            None => set.insert(heading(&reader)?),
        };
        let sides = reader.required_texts("split")?.into_iter().zip(reader.texts("stratum")?);
        for ((split, stratum), prompt) in sides.zip(prompts(&reader)?) {
            if let Some(stratum) = stratum {
                set.strata.insert(prompt.hash, stratum);
            }
            match split.as_str() {
                "train" => set.train.push(prompt),
                "holdout" => set.holdout.push(prompt),
                _ => return Err(reader.wrong("split", split, "`train` or `holdout` is expected")),
            }
        }
    }
    Ok(set)
}

fn heading(reader: &Reader<'_>) -> Result<TrainingSet> {
    let window = &reader.required_texts("window")?[0];
    Ok(TrainingSet {
        window: reader.parsed("window", window, |t| WindowName::new(t).ok(), "a window name is expected")?,
        sql: reader.required_texts("sql")?[0].clone(),
        table_version: reader.longs("table_version")?[0].unwrap_or_default(),
        since: reader.required_times("since")?[0],
        until: reader.required_times("until")?[0],
        train: Vec::new(),
        holdout: Vec::new(),
        left_out: Vec::new(),
        reasons: std::collections::BTreeMap::new(),
        strata: std::collections::BTreeMap::new(),
    })
}

fn prompts(reader: &Reader<'_>) -> Result<Vec<Prompt>> {
    let (ids, times) = (reader.required_texts("request_id")?, reader.required_times("request_time")?);
    let (hashes, turns) = (reader.required_texts("prompt_hash")?, reader.required_texts("messages")?);
    let prompt = |i: usize| {
        Ok(Prompt {
            request_id: ids[i].clone(),
            hash: reader.parsed("prompt_hash", &hashes[i], PromptHash::parse, "32 hexadecimal digits are expected")?,
            messages: reader.parsed("messages", &turns[i], messages, "canonical JSON of messages is expected")?,
            request_time: times[i],
        })
    };
    (0..reader.rows()).map(prompt).collect()
}

fn messages(json: &str) -> Option<Vec<ChatMessage>> {
    #[derive(serde::Deserialize)]
    struct Turn {
        role: String,
        content: String,
    }
    let turns: Vec<Turn> = serde_json::from_str(json).ok()?;
    Some(turns.into_iter().map(|t| ChatMessage { role: t.role, content: t.content }).collect())
}
