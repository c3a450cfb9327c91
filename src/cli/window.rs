//! `pelton window`: what a cycle would take from a window now.

use super::{ConfigFile, print};
use crate::config::{self, Config};
use crate::daemon::{self, schedule::Past};
use crate::domain::{ModelName, Timestamp, WindowName};
use crate::lake::{Lake, TableName};
use crate::query::printable;
use crate::runtime::now;
use crate::window::{Preview, Request, Sample, choose};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Prompts of each side, and rows of each reason, that are printed for people.
const SAMPLES: usize = 5;

/// Arguments of `pelton window`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what a cycle would take now, and why each other row is left out; nothing is written
    Preview(PreviewArgs),
}

#[derive(Debug, clap::Args)]
struct PreviewArgs {
    /// The window, as the configuration names it
    name: String,
    #[command(flatten)]
    config: ConfigFile,
    /// `$since` (RFC 3339); without it, where the last finished cycle ended
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// `$until` (RFC 3339); without it, now
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Print one JSON object, each prompt's id and each row left out with its reason in it
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let Command::Preview(args) = args.command;
    let config = args.config.load()?;
    let (name, window) = find(&config, &args.name)?;
    let lake = daemon::open_lake(&config).await?;
    let until = args.until.as_deref().map_or_else(|| Ok(now()), time)?;
    let since = match args.since.as_deref() {
        Some(text) => time(text)?,
        None => since(&config, &lake, name, window, until).await?,
    };
    let table_version = lake.version(TableName::InferenceLog).await?;
    let avoid = daemon::avoided(&config, name)?;
    let request = Request { name, window, table_version, since, until, avoid: &avoid };
    let at = |table| (table == TableName::InferenceLog).then_some(table_version);
    let set = choose(&request, daemon::sources_at(&config, &lake, at).await?).await?;
    let preview = Preview::of(&set, window);
    if args.json {
        println!("{:#}", as_json(&preview))
    } else {
        show(&preview)
    }
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(config: &'a Config, name: &str) -> Result<(&'a WindowName, &'a config::Window)> {
    let found = config.windows.iter().find(|(known, _)| known.as_str() == name);
    let known = || config.windows.keys().map(WindowName::as_str).collect::<Vec<_>>().join(", ");
    found.with_context(|| format!("the configuration has no window `{name}`; it has {}", known()))
}

fn time(text: &str) -> Result<Timestamp> {
    match Timestamp::parse(text) {
        Some(time) => Ok(time),
        None => bail!("`{text}` is no time; write it like 2026-11-22T10:00:00Z"),
    }
}

/// Where the next cycle of a model that reads this window would begin; of several models, the earliest.
async fn since(
    config: &Config,
    lake: &Lake,
    name: &WindowName,
    window: &config::Window,
    until: Timestamp,
) -> Result<Timestamp> {
    let readers = config.models.iter().filter(|(_, model)| model.window == name.as_str());
    let mut earliest = None;
    for (model, _) in readers {
        let model: &ModelName = model;
        let since = Past::of(&lake.cycle_events(Some(model)).await?, window, until).since;
        earliest = Some(earliest.map_or(since, |e: Timestamp| e.min(since)));
    }
    Ok(earliest.unwrap_or_else(|| Past::of(&[], window, until).since))
}

fn show(preview: &Preview<'_>) {
    let set = preview.set;
    println!("window   {}", set.window);
    println!("times    {} to {}", set.since, set.until);
    println!("table    inference_log at version {}", set.table_version);
    println!("rows     {} returned by its SQL", preview.rows);
    println!("train    {}", set.train.len());
    println!("holdout  {}", set.holdout.len());
    for (why, count) in &preview.left_out {
        println!("left out {count}: {}", why.as_str());
    }
    match &preview.shortage {
        None => println!("A cycle would run on this."),
        Some(shortage) => println!("A cycle would be skipped: {shortage}."),
    }
    for (side, prompts) in [("to train on", &set.train), ("held out", &set.holdout)] {
        if !prompts.is_empty() {
            println!("\nSome of the prompts {side}:");
            let row = |s: Sample| vec![s.request_time, s.request_id, s.prompt];
            let rows = Preview::samples(prompts, SAMPLES).into_iter().map(row).map(clean).collect();
            print::table(&["time", "request", "prompt"], rows);
        }
    }
    for why in preview.left_out.keys() {
        println!("\nSome of the rows left out as {}:", why.as_str());
        let rows = preview.left_out_samples(why, SAMPLES);
        let row = |r: &&crate::domain::LeftOut| vec![r.request_id.clone(), r.prompt.clone().unwrap_or_default()];
        print::table(&["request", "prompt"], rows.iter().map(row).map(clean).collect());
    }
}

/// Prompts are written by strangers: no escape sequence of theirs reaches the terminal.
fn clean(row: Vec<String>) -> Vec<String> {
    row.iter().map(|cell| printable(cell)).collect()
}

fn as_json(preview: &Preview<'_>) -> Value {
    let set = preview.set;
    let prompts = |prompts: &[crate::domain::Prompt]| -> Vec<Value> {
        let all = Preview::samples(prompts, prompts.len()).into_iter();
        all.map(
            |s| json!({"request_id": s.request_id, "time": s.request_time, "prompt_hash": s.hash, "prompt": s.prompt}),
        )
        .collect()
    };
    let counts: serde_json::Map<String, Value> =
        preview.left_out.iter().map(|(why, count)| (why.as_str().to_owned(), json!(count))).collect();
    let left_out = set.left_out.iter();
    json!({
        "window": set.window.as_str(),
        "sql": set.sql,
        "table_version": set.table_version,
        "since": set.since.to_string(),
        "until": set.until.to_string(),
        "rows": preview.rows,
        "train": prompts(&set.train),
        "holdout": prompts(&set.holdout),
        "left_out_counts": counts,
        "left_out": left_out
            .map(|r| json!({"request_id": r.request_id, "prompt": r.prompt, "why": r.why.as_str()}))
            .collect::<Vec<_>>(),
        "would_run": preview.shortage.is_none(),
        "shortage": preview.shortage,
    })
}
