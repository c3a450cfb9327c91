//! `pelton cycle`: turns of the wheel, by hand and as the daemon's child; what they are doing and did.

use super::{ConfigFile, print};
use crate::config::Config;
use crate::daemon::cycle::{self, Progress};
use crate::domain::{CycleEvent, CycleId, CycleState, ModelName, Trigger};
use crate::lake::Lake;
use crate::{runtime, telemetry};
use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;

/// Arguments of `pelton cycle`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Turn the wheel once: collect, explore, score, optimize, evaluate, register, publish
    Run(RunArgs),
    /// List the cycles, the newest last
    List(ListArgs),
    /// Show each state that one cycle came to, with its figures
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 0 where the cycle ended with a version (promoted or rejected),\n\
                        with 2 where its window had too few prompts, with 1 where it failed.")]
struct RunArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// The model to tune; may be left out where the configuration has one
    #[arg(long)]
    model: Option<String>,
    /// A cycle that was requested already, as the daemon does; it goes on where it stopped
    #[arg(long)]
    id: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// End when standard input does: it is the daemon's end of a pipe, and a cycle must not outlive its daemon
    #[arg(long, hide = true)]
    supervised: bool,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
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
struct ShowArgs {
    /// The cycle
    id: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON, one object a state
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Run(args) => turn(args).await,
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
    }
}

async fn turn(args: RunArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    telemetry::install(&config.telemetry).map_err(anyhow::Error::msg)?;
    let lake = crate::daemon::open_lake(&config).await?;
    let (id, model) = match &args.id {
        Some(id) => requested(&lake, id).await?,
        None => {
            let model = choose_model(&config, args.model.as_deref())?;
            (cycle::request(&lake, &model, Trigger::Hand).await?, model)
        }
    };
    if args.supervised {
        end_with_standard_input()?;
    }
    let shutdown = runtime::on_signal()?;
    let bars = Bars::default();
    let watch = |progress: Progress| bars.show(&progress);
    let job = cycle::Job { config: &config, lake: &lake, model: &model, id: &id, truth: None, watch: &watch };
    let outcome = cycle::run(&job, &shutdown).await?;
    bars.finish();
    if args.json {
        println!("{}", outcome.to_json());
    } else {
        println!("{outcome}");
    }
    Ok(if outcome.state == CycleState::Skipped { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// A daemon that was killed cannot say so, but its end of the pipe closes. The cycle then ends as by `kill -9`, which it
/// survives: the next daemon runs it on, and must not find it running.
fn end_with_standard_input() -> Result<()> {
    let watch = || {
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        std::process::exit(1);
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(watch)?;
    Ok(())
}

async fn requested(lake: &Lake, id: &str) -> Result<(CycleId, ModelName)> {
    let id: CycleId = id.parse()?;
    let events = lake.events_of_cycle(&id).await?;
    let Some(last) = events.last() else { bail!("there is no cycle `{id}`; `pelton cycle list` lists them") };
    if last.state.is_end() {
        bail!("cycle {id} has ended: {}", last.state);
    }
    Ok((id, last.model.clone()))
}

/// The model that was asked for, or the only one.
pub(super) fn choose_model(config: &Config, asked: Option<&str>) -> Result<ModelName> {
    let known: Vec<&str> = config.models.keys().map(ModelName::as_str).collect();
    match (asked, known.as_slice()) {
        (Some(name), _) if known.contains(&name) => Ok(name.parse()?),
        (Some(name), _) => bail!("the configuration has no model `{name}`; it has {}", known.join(", ")),
        (None, [only]) => Ok(only.parse()?),
        (None, []) => bail!("the configuration has no model; add [models.NAME]"),
        (None, _) => bail!("name one with --model: {}", known.join(", ")),
    }
}

async fn list(args: ListArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let model = args.model.map(|m| m.parse::<ModelName>()).transpose()?;
    let mut cycles: BTreeMap<CycleId, Vec<CycleEvent>> = BTreeMap::new();
    for event in lake.cycle_events(model.as_ref()).await? {
        cycles.entry(event.cycle.clone()).or_default().push(event);
    }
    if args.json {
        for (id, events) in &cycles {
            println!("{}", summary(id, events));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let row = |(id, events): (&CycleId, &Vec<CycleEvent>)| {
        let (first, last) = (events.first(), events.last());
        let version = events.iter().rev().find_map(|e| e.version);
        vec![
            id.to_string(),
            last.map(|e| e.model.to_string()).unwrap_or_default(),
            last.map(|e| e.state.to_string()).unwrap_or_default(),
            version.map(|v| v.to_string()).unwrap_or_default(),
            first.map(|e| e.time.to_string()).unwrap_or_default(),
        ]
    };
    print::table(&["cycle", "model", "state", "version", "requested"], cycles.iter().map(row).collect());
    Ok(ExitCode::SUCCESS)
}

fn summary(id: &CycleId, events: &[CycleEvent]) -> serde_json::Value {
    let last = events.last();
    json!({
        "cycle": id.as_str(),
        "model": last.map(|e| e.model.as_str()),
        "state": last.map(|e| e.state.as_str()),
        "version": events.iter().rev().find_map(|e| e.version).map(|v| v.to_string()),
        "requested": events.first().map(|e| e.time.to_string()),
        "changed": last.map(|e| e.time.to_string()),
    })
}

async fn show(args: ShowArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = crate::daemon::open_lake(&config).await?;
    let id: CycleId = args.id.parse()?;
    let events = lake.events_of_cycle(&id).await?;
    if events.is_empty() {
        bail!("there is no cycle `{id}`; `pelton cycle list` lists them");
    }
    for event in &events {
        let detail: serde_json::Value = serde_json::from_str(&event.detail).unwrap_or_else(|_| json!(event.detail));
        if args.json {
            let version = event.version.map(|v| v.to_string());
            println!(
                "{}",
                json!({"cycle": id.as_str(), "model": event.model.as_str(), "state": event.state.as_str(),
                       "time": event.time.to_string(), "version": version, "detail": detail})
            );
        } else {
            println!("{:<27} {:<10} {}", event.time.to_string(), event.state.to_string(), print::plain(&detail));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One progress bar a step, where standard error is a terminal.
#[derive(Default)]
pub struct Bars {
    current: Mutex<Option<(&'static str, ProgressBar)>>,
}

impl Bars {
    /// Shows how far a step is; another step than the last begins a bar of its own.
    pub fn show(&self, progress: &Progress) {
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if current.as_ref().is_none_or(|(step, _)| *step != progress.step) {
            if let Some((_, bar)) = current.take() {
                bar.finish();
            }
            *current = Some((progress.step, bar(progress)));
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_position(progress.done as u64);
        }
    }

    /// Ends the last bar.
    pub fn finish(&self) {
        if let Some((_, bar)) = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            bar.finish();
        }
    }
}

fn bar(progress: &Progress) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>11} [{bar:32}] {pos}/{len} {elapsed}, {eta} to go")
        .expect("the template is valid; it is a constant");
    let bar = ProgressBar::new(progress.total as u64).with_style(style.progress_chars("=> "));
    bar.set_prefix(progress.step);
    bar
}
