//! `model_version`: one state change of one version a row: registered, rejected, promoted, rolled back, archived.

use super::{Reader, batch, times};
use crate::domain::{CycleId, Interval, ModelName, Version, VersionNumber, VersionRef, VersionState};
use crate::lake::column::Kind::{Double, Int, Long, Text, Time};
use crate::lake::column::{Column, optional, required};
use crate::lake::error::Result;
use crate::lake::table::TableName;
use arrow::array::{Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("model", Text, "the model's name"),
    required("version", Int, "the version's number, from 1"),
    required("state", Text, "the state that it came to: registered, rejected, promoted, rolled_back, archived"),
    required("time", Time, "when"),
    required("cycle", Text, "the cycle that made it"),
    optional("parent", Text, "the version that it started from, such as support-sql@v16; null is the base"),
    required("base_hash", Text, "SHA-256 of the base model, hexadecimal"),
    required("location", Text, "the adapter folder's URL or path"),
    required("adapter_hash", Text, "SHA-256 of adapter_model.safetensors, hexadecimal"),
    required("holdout_prompts", Long, "prompts that it was compared on"),
    required("champion_reward", Double, "the champion's mean reward on them"),
    required("challenger_reward", Double, "this version's mean reward on them"),
    required("gain", Double, "mean of the paired differences"),
    required("gain_low", Double, "the interval's lower end"),
    required("gain_high", Double, "the interval's upper end"),
    required("reason", Text, "why it came to this state"),
];

/// Rows of the table.
pub(in crate::lake) fn rows(versions: &[Version]) -> RecordBatch {
    let text = |of: fn(&Version) -> &str| StringArray::from_iter_values(versions.iter().map(of));
    let double = |of: fn(&Version) -> f64| Float64Array::from_iter_values(versions.iter().map(of));
    let number = |v: &Version| i32::try_from(v.reference.number.get()).unwrap_or(i32::MAX);
    let prompts = |v: &Version| i64::try_from(v.holdout_prompts).unwrap_or(i64::MAX);
    let parents = versions.iter().map(|v| v.parent.as_ref().map(ToString::to_string));
    batch(
        TableName::ModelVersion,
        vec![
            Arc::new(text(|v| v.reference.model.as_str())),
            Arc::new(Int32Array::from_iter_values(versions.iter().map(number))),
            Arc::new(text(|v| v.state.as_str())),
            Arc::new(times(versions.iter().map(|v| Some(v.time)))),
            Arc::new(text(|v| v.cycle.as_str())),
            Arc::new(parents.collect::<StringArray>()),
            Arc::new(text(|v| &v.base_hash)),
            Arc::new(text(|v| &v.location)),
            Arc::new(text(|v| &v.adapter_hash)),
            Arc::new(Int64Array::from_iter_values(versions.iter().map(prompts))),
            Arc::new(double(|v| v.champion_reward)),
            Arc::new(double(|v| v.challenger_reward)),
            Arc::new(double(|v| v.gain.mean)),
            Arc::new(double(|v| v.gain.low)),
            Arc::new(double(|v| v.gain.high)),
            Arc::new(text(|v| &v.reason)),
        ],
    )
}

/// The versions that a batch of the table holds.
pub(in crate::lake) fn read(batch: &RecordBatch) -> Result<Vec<Version>> {
    let reader = Reader::new(TableName::ModelVersion, batch);
    let text = |name| reader.required_texts(name);
    let double = |name| Ok(reader.doubles(name)?.into_iter().map(Option::unwrap_or_default).collect::<Vec<f64>>());
    let (models, states, cycles, parents) = (text("model")?, text("state")?, text("cycle")?, reader.texts("parent")?);
    let (bases, locations, hashes, reasons) =
        (text("base_hash")?, text("location")?, text("adapter_hash")?, text("reason")?);
    let (numbers, at, prompts) =
        (reader.ints("version")?, reader.required_times("time")?, reader.longs("holdout_prompts")?);
    let (champion, challenger) = (double("champion_reward")?, double("challenger_reward")?);
    let (gain, low, high): (Vec<f64>, Vec<f64>, Vec<f64>) =
        (double("gain")?, double("gain_low")?, double("gain_high")?);
    let number = |i: usize| {
        let value = numbers[i].and_then(|v| u32::try_from(v).ok()).and_then(VersionNumber::new);
        value.ok_or_else(|| reader.wrong("version", format!("{:?}", numbers[i]), "a number from 1 is expected"))
    };
    let parent = |text: &String| {
        reader.parsed("parent", text, |t| t.parse::<VersionRef>().ok(), "a version such as support-sql@v16 is expected")
    };
    let version = |i: usize| {
        Ok(Version {
            reference: VersionRef {
                model: reader.parsed("model", &models[i], |t| ModelName::new(t).ok(), "a model name is expected")?,
                number: number(i)?,
            },
            state: reader.parsed("state", &states[i], VersionState::parse, "a version's state is expected")?,
            time: at[i],
            cycle: reader.parsed("cycle", &cycles[i], |t| CycleId::new(t).ok(), "a cycle id is expected")?,
            parent: parents[i].as_ref().map(parent).transpose()?,
            base_hash: bases[i].clone(),
            location: locations[i].clone(),
            adapter_hash: hashes[i].clone(),
            holdout_prompts: prompts[i].and_then(|p| u64::try_from(p).ok()).unwrap_or_default(),
            champion_reward: champion[i],
            challenger_reward: challenger[i],
            gain: Interval { mean: gain[i], low: low[i], high: high[i] },
            reason: reasons[i].clone(),
        })
    };
    (0..reader.rows()).map(version).collect()
}
