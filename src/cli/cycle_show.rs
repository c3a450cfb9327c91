//! `pelton cycle list`, `show` and `logs`: what cycles are doing and did. They change nothing.

use super::{ConfigFile, print};
use crate::daemon::cycle::{self, Running, Standing};
use crate::domain::{CycleEvent, CycleId, ModelName};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Only this model's
    #[arg(long)]
    model: Option<String>,
    /// Print JSON, one object a cycle
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The cycle
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON, one object a state
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// The cycle
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Go on printing until the cycle ends
    #[arg(long)]
    follow: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(args: ListArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let model = args.model.map(|m| m.parse::<ModelName>()).transpose()?;
    let mut cycles: BTreeMap<CycleId, Vec<CycleEvent>> = BTreeMap::new();
    for event in lake.cycle_events(model.as_ref()).await? {
        cycles.entry(event.cycle.clone()).or_default().push(event);
    }
    let mut all: Vec<(Standing, Option<Running>)> = Vec::new();
    for standing in cycles.values().filter_map(|events| Standing::of(events)) {
        let running = if standing.state.is_end() { None } else { Running::of(&lake, &standing.cycle).await? };
        all.push((standing, running));
    }
    all.sort_by(|(a, _), (b, _)| (a.requested, &a.cycle).cmp(&(b.requested, &b.cycle)));
    if args.json {
        all.iter().for_each(|(standing, running)| println!("{}", summary(standing, running.as_ref())));
        return Ok(ExitCode::SUCCESS);
    }
    let row = |(standing, running): &(Standing, Option<Running>)| {
        vec![
            standing.cycle.to_string(),
            standing.model.to_string(),
            standing.state.to_string(),
            running.as_ref().map(doing).unwrap_or_default(),
            standing.attempt.to_string(),
            standing.version.map(|v| v.to_string()).unwrap_or_default(),
            standing.requested.to_string(),
        ]
    };
    let heads = ["cycle", "model", "state", "at work", "try", "version", "requested"];
    print::table(&heads, all.iter().map(row).collect());
    Ok(ExitCode::SUCCESS)
}

fn doing(running: &Running) -> String {
    format!("{} {}/{} on {}", running.step, running.done, running.total, running.host)
}

/// How a cycle stands, for scripts.
pub(super) fn summary(standing: &Standing, running: Option<&Running>) -> Value {
    json!({
        "cycle": standing.cycle.as_str(),
        "model": standing.model.as_str(),
        "state": standing.state.as_str(),
        "cancelling": standing.cancelling,
        "attempt": standing.attempt,
        "failures": standing.failures,
        "error": standing.error,
        "trigger": standing.trigger,
        "version": standing.version.map(|v| v.to_string()),
        "requested": standing.requested.to_string(),
        "changed": standing.changed.to_string(),
        "running": running.map(|r| json!({"host": r.host, "pid": r.pid, "step": r.step, "done": r.done, "total": r.total})),
    })
}

pub(super) async fn show(args: ShowArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let id: CycleId = args.id.parse()?;
    let events = lake.events_of_cycle(&id).await?;
    if events.is_empty() {
        bail!("there is no cycle `{id}`; `pelton cycle list` lists them");
    }
    for event in &events {
        let detail: Value = serde_json::from_str(&event.detail).unwrap_or_else(|_| json!(event.detail));
        if args.json {
            let version = event.version.map(|v| v.to_string());
            println!(
                "{}",
                json!({"cycle": id.as_str(), "model": event.model.as_str(), "state": event.state.as_str(),
                       "attempt": event.attempt, "time": event.time.to_string(), "version": version, "detail": detail})
            );
        } else {
            println!("{:<27} {:<10} {}", event.time.to_string(), event.state.to_string(), print::plain(&detail));
        }
    }
    if let Some(running) = Running::of(&lake, &id).await?.filter(|_| !args.json) {
        println!("at work: {} (process {})", doing(&running), running.pid);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn logs(args: LogsArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let id: CycleId = args.id.parse()?;
    let mut printed = 0;
    loop {
        // Before the log, so that what a cycle wrote at its end is printed too.
        let ended = cycle::standing(&lake, &id).await?.state.is_end();
        let log = cycle::logs::read(&lake, &id).await?;
        if log.is_empty() && !args.follow {
            eprintln!("pelton: {id} left no log: it has not run, or ran in a terminal and wrote there");
        }
        let whole = log.rfind('\n').map_or(0, |end| end + 1).max(printed);
        for line in log[printed..whole].lines() {
            match args.json {
                true => println!("{}", json!({"cycle": id.as_str(), "line": line})),
                false => println!("{line}"),
            }
        }
        printed = whole;
        std::io::stdout().flush()?;
        if ended || !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
