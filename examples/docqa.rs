//! Writes the second task: questions about passages, answered from the passage alone.
//!
//! ```text
//! cargo run --release --example docqa -- DIR [COUNT [SEED]]
//! pelton eval DIR/eval.jsonl --model PATH --scorers DIR/truth.toml
//! pelton eval DIR/eval.jsonl --model PATH --scorers DIR/scorers.toml
//! ```
//!
//! `eval.jsonl` has prompts with the right answers, `train.jsonl` other prompts without; `scorers.toml` scores without labels
//! (training), `truth.toml` knows the right answer (evaluation, and a gate in a test).

use anyhow::{Context as _, Result};
use pelton::demo::passages::{Passage, SCORERS, TRUTH, passages};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().context("usage: docqa DIR [COUNT [SEED]]")?);
    let count: usize = arguments.next().map_or(Ok(200), |n| n.parse()).context("COUNT")?;
    let seed: u64 = arguments.next().map_or(Ok(1), |n| n.parse()).context("SEED")?;
    std::fs::create_dir_all(&dir)?;
    let all = passages(seed, 2 * count);
    let (eval, train) = all.split_at(count);
    write(&dir.join("eval.jsonl"), eval.iter().map(|p| labelled(p, true)))?;
    write(&dir.join("train.jsonl"), train.iter().map(|p| labelled(p, false)))?;
    std::fs::write(dir.join("scorers.toml"), SCORERS)?;
    std::fs::write(dir.join("truth.toml"), TRUTH)?;
    println!("{count} prompts to evaluate on, {count} to train on, in {}", dir.display());
    Ok(())
}

fn labelled(passage: &Passage, with_reference: bool) -> Value {
    let messages: Vec<Value> =
        passage.messages().iter().map(|m| json!({"role": m.role, "content": m.content})).collect();
    if with_reference {
        json!({"messages": messages, "reference": passage.reference})
    } else {
        json!({"messages": messages})
    }
}

fn write(path: &Path, lines: impl Iterator<Item = Value>) -> Result<()> {
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
