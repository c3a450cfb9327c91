//! A run between two steps, kept: what a killed one goes on from.
//!
//! One safetensors file, written whole: the adapter, AdamW's moments, the curve. There is no state of a random generator to
//! keep: the fresh adapter and each epoch's order are functions of the seed, so that the number of the step says it all.
//! Numbers are kept by their bits, so that going on gives the adapter of an unbroken run, byte for byte.

use super::{Error, Loss, StepRecord, Task};
use crate::config;
use crate::domain::Finish;
use crate::model::{AdamW, AdamWConfig, Lora, LoraConfig, Tensors, tensors_from_bytes, tensors_to_bytes};
use crate::tao::{Fingerprint, Watch};
use std::collections::HashMap;
use std::path::Path;

/// The name that a run is kept under.
const NAME: &str = "optimize.safetensors";
const ADAPTER: &str = "adapter.";
const MOMENTS: &str = "adamw.";
/// Numbers of a [`StepRecord`].
const FIELDS: usize = 8;

/// A run after its last kept step.
pub(super) struct Saved {
    pub(super) adapter: Lora,
    pub(super) optimizer: AdamW,
    pub(super) skipped: u32,
    /// One a step that was taken.
    pub(super) steps: Vec<StepRecord>,
}

/// What a run depends on.
pub(super) fn fingerprint(
    task: &Task<'_>,
    loss: &Loss,
    lora: &config::Lora,
    options: &config::Optimize,
    seed: u64,
) -> Result<String, Error> {
    let mut print = Fingerprint::new("optimize", task.model);
    print.number(seed);
    print.text(&format!("{loss:?} {lora:?} {options:?}"));
    print.adapter(task.start)?;
    for candidate in task.candidates {
        print.text(&candidate.prompt.to_string());
        print.number(u64::from(candidate.sample) << 1 | u64::from(candidate.finish == Finish::Stop));
        print.number(candidate.reward.map_or(u64::MAX, f64::to_bits));
        print.text(&format!("{:?}", task.prompts.get(&candidate.prompt)));
        print.text(&format!("{:?}", candidate.tokens));
        candidate.logprobs.iter().for_each(|l| print.number(u64::from(l.to_bits())));
    }
    Ok(print.finish())
}

/// Keeps a run.
pub(super) fn keep(
    watch: &Watch<'_>,
    fingerprint: &str,
    (adapter, optimizer): (&Lora, &AdamW),
    steps: &[StepRecord],
    skipped: u32,
) -> Result<(), Error> {
    let mut tensors = Tensors::new();
    tensors.extend(adapter.tensors.iter().map(|(name, tensor)| (format!("{ADAPTER}{name}"), tensor.clone())));
    tensors.extend(optimizer.state()?.into_iter().map(|(name, tensor)| (format!("{MOMENTS}{name}"), tensor)));
    let curve: Vec<String> = steps.iter().flat_map(numbers).map(|bits| format!("{bits:x}")).collect();
    let metadata = HashMap::from([
        ("fingerprint".to_owned(), fingerprint.to_owned()),
        ("curve".to_owned(), curve.join(" ")),
        ("skipped".to_owned(), skipped.to_string()),
    ]);
    watch.keep(NAME, tensors_to_bytes(&tensors, metadata)?).map_err(Error::Save)
}

/// What a killed run left, where it was this one. What is damaged or of another run is not taken: the run begins anew.
pub(super) fn find(
    watch: &Watch<'_>,
    fingerprint: &str,
    lora: LoraConfig,
    config: AdamWConfig,
    device: &candle_core::Device,
) -> Result<Option<Saved>, Error> {
    let Some(bytes) = watch.kept(NAME).map_err(Error::Save)? else { return Ok(None) };
    let Ok((tensors, metadata)) = tensors_from_bytes(&bytes, device) else { return Ok(None) };
    let text = |name: &str| metadata.get(name).map_or("", String::as_str);
    let bits: Option<Vec<u64>> = text("curve").split_whitespace().map(|b| u64::from_str_radix(b, 16).ok()).collect();
    let (Some(bits), Ok(skipped)) = (bits, text("skipped").parse()) else { return Ok(None) };
    if text("fingerprint") != fingerprint || !bits.len().is_multiple_of(FIELDS) {
        return Ok(None);
    }
    let part = |prefix: &str| -> Tensors {
        let own = tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
        own.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
    };
    let Ok(optimizer) = AdamW::from_state(config, &part(MOMENTS), Path::new(NAME)) else { return Ok(None) };
    let adapter = Lora { config: lora, tensors: part(ADAPTER) };
    Ok(Some(Saved { adapter, optimizer, skipped, steps: bits.chunks_exact(FIELDS).map(record).collect() }))
}

fn numbers(record: &StepRecord) -> [u64; FIELDS] {
    [
        record.step as u64,
        record.loss.to_bits(),
        record.reward_mean.to_bits(),
        record.kl.to_bits(),
        record.gradient_norm.to_bits(),
        record.tokens as u64,
        record.learning_rate.to_bits(),
        u64::from(record.skipped),
    ]
}

#[expect(clippy::cast_possible_truncation, reason = "they were of this type when they were written")]
fn record(bits: &[u64]) -> StepRecord {
    StepRecord {
        step: bits[0] as usize,
        loss: f64::from_bits(bits[1]),
        reward_mean: f64::from_bits(bits[2]),
        kl: f64::from_bits(bits[3]),
        gradient_norm: f64::from_bits(bits[4]),
        tokens: bits[5] as usize,
        learning_rate: f64::from_bits(bits[6]),
        skipped: bits[7] != 0,
    }
}
