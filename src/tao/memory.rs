//! Whether a round's memory suffices, said before it starts: the estimate, and which setting lowers it.

use crate::config::{self, Explore, Optimize, Strategy, StrategyKind};
use crate::model::{Footprint, Keep, Load, LoraConfig, ModelConfig};

/// A round needs more memory than there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} needs about {} beyond the loaded base (weights {}, adapter {}, activations {}, logits {}), and {} can be had; \
     {remedy}",
    size(needs.total()), size(needs.weights), size(needs.adapter), size(needs.activations), size(needs.logits),
    size(*available)
)]
pub struct Short {
    /// `exploring` or `training`.
    pub what: &'static str,
    /// The estimate.
    pub needs: Footprint,
    /// Bytes that can be had.
    pub available: u64,
    /// Which settings would make it fit.
    pub remedy: String,
}

/// What allocators and threads add to the estimate.
const MARGIN_PERCENT: u64 = 115;

/// Refuses a round whose exploring or training would not fit into the bytes that can be had; `prompt_tokens` is the longest
/// prompt's length.
///
/// # Errors
/// [`Short`], with the settings that would make it fit.
pub fn check(
    model: &ModelConfig,
    prompt_tokens: usize,
    lora: &config::Lora,
    (explore, optimize): (&Explore, &Optimize),
    available: u64,
) -> Result<(), Short> {
    let fits = |needs: Footprint| needs.total() / 100 * MARGIN_PERCENT <= available;
    let exploring = |rows: usize| Footprint::of_exploring(model, load(prompt_tokens, rows, explore, optimize));
    let needs = exploring(explore.batch_rows);
    if !fits(needs) {
        let fitting = halves(explore.batch_rows).find(|rows| fits(exploring(*rows)));
        let remedy = fitting.map(|rows| format!("set explore.batch_rows = {rows}"));
        return Err(Short { what: "exploring", needs, available, remedy: remedy.unwrap_or_else(smaller) });
    }
    let lora = LoraConfig { rank: lora.rank, alpha: lora.alpha, targets: lora.targets.clone() };
    let training = |tokens: usize, keep| {
        let load = Load { batch_tokens: tokens, ..load(prompt_tokens, explore.batch_rows, explore, optimize) };
        Footprint::of_training(model, &lora, load, keep)
    };
    let keep = if optimize.recompute_layers { Keep::LayerInputs } else { Keep::Everything };
    let tokens = load(prompt_tokens, explore.batch_rows, explore, optimize).batch_tokens;
    let needs = training(tokens, keep);
    if fits(needs) {
        return Ok(());
    }
    let least = prompt_tokens + explore.tokens_max;
    let fitting = |keep| halves(tokens).take_while(|t| *t >= least).find(|t| fits(training(*t, keep)));
    let remedy = if let Some(tokens) = fitting(keep) {
        format!("set optimize.batch_tokens_max = {tokens}")
    } else if fits(training(tokens, Keep::LayerInputs)) {
        "set optimize.recompute_layers = true".to_owned()
    } else if let Some(tokens) = fitting(Keep::LayerInputs) {
        format!("set optimize.recompute_layers = true and optimize.batch_tokens_max = {tokens}")
    } else {
        smaller()
    };
    Err(Short { what: "training", needs, available, remedy })
}

fn smaller() -> String {
    "take a smaller base, a lower explore.tokens_max, or a machine with more memory".to_owned()
}

/// What is computed at once; a step has no more tokens than its prompts and their samples.
fn load(prompt_tokens: usize, rows: usize, explore: &Explore, optimize: &Optimize) -> Load {
    let thinks = |s: &&Strategy| matches!(s.kind, StrategyKind::ChainOfThought | StrategyKind::Structured);
    let thoughts = explore.strategies.iter().filter(thinks).map(|s| s.tokens_max.unwrap_or(4 * explore.tokens_max));
    let thought = thoughts.max().unwrap_or(0);
    let group = prompt_tokens + explore.samples as usize * explore.tokens_max;
    Load {
        rows,
        prompt_tokens,
        new_tokens: explore.tokens_max.max(thought),
        batch_tokens: optimize.batch_tokens_max.min(optimize.prompts_per_step * group),
    }
}

fn halves(from: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(from / 2), |n| Some(n / 2)).take_while(|n| *n > 0)
}

/// Bytes for people.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.1} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}
