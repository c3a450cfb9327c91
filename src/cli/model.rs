//! `pelton model`: registered versions, where they came from, and the events that announced them.

use super::{ConfigFile, model_change, print};
use crate::codec::event::{self, EventMessage};
use crate::daemon;
use crate::domain::{ModelName, Version, VersionRef, VersionState};
use crate::evaluate::interval_text;
use crate::publish::{Manifest, Registry, read_events};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `pelton model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the versions, the newest last; `*` marks each model's champion
    List(ListArgs),
    /// Show a version: its states, its evaluation and where it came from; its files are checked against their hashes
    Show(ShowArgs),
    /// Trace a version to the rows that made it: base, parents, tables, SQL, seeds, configuration, evaluation
    Lineage(ShowArgs),
    /// Make a version the champion
    Promote(model_change::PromoteArgs),
    /// Withdraw the champion; the version before it serves again
    Rollback(model_change::RollbackArgs),
    /// Put a version away for the record
    Archive(model_change::ArchiveArgs),
    /// Show in what two versions' manifests differ
    Diff(model_change::DiffArgs),
    /// Copy a version's files to a folder, each checked against its hash
    Pull(model_change::PullArgs),
    /// Make a version again from the same rows and compare the adapters byte for byte
    Reproduce(model_change::ReproduceArgs),
    /// Send the events that the topic and the webhooks lack
    Publish(model_change::PublishArgs),
    /// Print the events of the topic, from its beginning to where it ends now
    Events(EventsArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Only this model's
    #[arg(long)]
    model: Option<String>,
    /// Print JSON, one object a version
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The version, such as support-sql@v3; a model's name alone means its champion
    version: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct EventsArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// How long the broker may take to answer, in seconds
    #[arg(long, default_value_t = 30)]
    timeout_s: u64,
    /// Print JSON, one object an event: key, headers, data
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::List(args) => list(args).await,
        Command::Show(args) => show(args).await,
        Command::Lineage(args) => lineage(args).await,
        Command::Promote(args) => model_change::promote(args).await,
        Command::Rollback(args) => model_change::rollback(args).await,
        Command::Archive(args) => model_change::archive(args).await,
        Command::Diff(args) => model_change::diff(args).await,
        Command::Pull(args) => model_change::pull(args).await,
        Command::Reproduce(args) => model_change::reproduce(args).await,
        Command::Publish(args) => model_change::publish(args).await,
        Command::Events(args) => events(args).await,
    }
}

async fn list(args: ListArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let model = args.model.map(|m| m.parse::<ModelName>()).transpose()?;
    let all = lake.all_versions().await?;
    let wanted: Vec<Version> =
        all.into_iter().filter(|v| model.as_ref().is_none_or(|m| v.reference.model == *m)).collect();
    let champions = champions(&wanted);
    // The rows come in the order of time, so the last of a version is its state now.
    let newest: BTreeMap<&VersionRef, &Version> = wanted.iter().map(|v| (&v.reference, v)).collect();
    if args.json {
        for version in newest.values() {
            println!("{}", summary(version, champions.contains(&version.reference)));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let row = |v: &&Version| {
        let mark = if champions.contains(&v.reference) { "*" } else { "" };
        vec![
            format!("{}{mark}", v.reference),
            v.state.as_str().to_owned(),
            interval_text(v.gain),
            v.holdout_prompts.to_string(),
            v.parent.as_ref().map_or_else(|| "base".to_owned(), ToString::to_string),
            v.time.to_string(),
        ]
    };
    let rows = newest.values().map(row).collect();
    print::table(&["version", "state", "gain in reward", "prompts", "parent", "since"], rows);
    Ok(ExitCode::SUCCESS)
}

/// The champion of each model that has one.
fn champions(versions: &[Version]) -> Vec<VersionRef> {
    let mut by_model: BTreeMap<&ModelName, Vec<Version>> = BTreeMap::new();
    for version in versions {
        by_model.entry(&version.reference.model).or_default().push(version.clone());
    }
    by_model.values().filter_map(|v| daemon::champion_of(v)).map(|v| v.reference.clone()).collect()
}

fn summary(version: &Version, champion: bool) -> Value {
    json!({
        "version": version.reference.to_string(),
        "state": version.state.as_str(),
        "champion": champion,
        "since": version.time.to_string(),
        "cycle": version.cycle.as_str(),
        "parent": version.parent.as_ref().map(ToString::to_string),
        "holdout_prompts": version.holdout_prompts,
        "champion_reward": version.champion_reward,
        "challenger_reward": version.challenger_reward,
        "gain": version.gain.mean,
        "gain_low": version.gain.low,
        "gain_high": version.gain.high,
        "location": version.location,
        "reason": version.reason,
    })
}

async fn show(args: ShowArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let all = lake.all_versions().await?;
    let reference = choose(&args.version, &all)?;
    let states: Vec<&Version> = all.iter().filter(|v| v.reference == reference).collect();
    let (store, root) = daemon::store_of(&lake);
    let registry = Registry::new(store, &root);
    let manifest = registry.manifest(&reference).await?;
    // The adapter of an archived version may be gone, which is no fault of its record.
    let archived = states.last().is_some_and(|v| v.state == VersionState::Archived);
    let files = if archived { Vec::new() } else { registry.files(&reference).await? };
    let sizes: BTreeMap<String, usize> = files.into_iter().map(|(name, bytes)| (name, bytes.len())).collect();
    if args.json {
        let states: Vec<Value> = states
            .iter()
            .map(|v| json!({"state": v.state.as_str(), "time": v.time.to_string(), "reason": v.reason}))
            .collect();
        let location = all.iter().find(|v| v.reference == reference).map(|v| v.location.as_str());
        println!("{:#}", json!({"location": location, "states": states, "manifest": manifest, "file_bytes": sizes}));
    } else {
        print_version(&states, &manifest, &sizes);
    }
    Ok(ExitCode::SUCCESS)
}

/// The models that have versions.
pub(super) fn named(versions: &[Version]) -> BTreeSet<ModelName> {
    versions.iter().map(|v| v.reference.model.clone()).collect()
}

pub(super) fn choose(text: &str, versions: &[Version]) -> Result<VersionRef> {
    if text.contains('@') {
        return Ok(text.parse()?);
    }
    let model: ModelName = text.parse()?;
    let own: Vec<Version> = versions.iter().filter(|v| v.reference.model == model).cloned().collect();
    if own.is_empty() {
        bail!("no model `{model}` has a version; `pelton model list` lists them");
    }
    let champion = daemon::champion_of(&own).map(|v| v.reference.clone());
    champion.with_context(|| format!("no version of `{model}` was promoted; name one, such as {model}@v1"))
}

fn print_version(states: &[&Version], manifest: &Manifest, sizes: &BTreeMap<String, usize>) {
    println!("{}", manifest.name);
    for version in states {
        println!("  {:<12} {}  {}", version.state.as_str(), version.time, version.reason);
    }
    if let Some(last) = states.last() {
        println!("\nEvaluation");
        println!("  holdout      {} prompts", last.holdout_prompts);
        println!("  mean reward  {:.3} before, {:.3} after", last.champion_reward, last.challenger_reward);
        println!("  gain         {}", interval_text(last.gain));
        println!("\nLocation\n  {}", last.location);
    }
    println!("\nWhere it came from");
    println!("  cycle        {}", manifest.cycle);
    println!("  base         {}", manifest.base_hash);
    println!("  parent       {}", manifest.parent.as_deref().unwrap_or("the base"));
    let text = |name: &str| manifest.window.get(name).map(print::plain).unwrap_or_default();
    println!("  window       {} on inference_log at version {}", text("name"), text("table_version"));
    println!("  times        {} to {}", text("since"), text("until"));
    println!("  sql          {}", text("sql").split_whitespace().collect::<Vec<_>>().join(" "));
    let seeds: Vec<String> = manifest.seeds.iter().map(|(name, seed)| format!("{name} {seed}")).collect();
    println!("  seeds        {}", seeds.join(", "));
    println!("  config       {}", manifest.config_hash);
    if !sizes.is_empty() {
        println!("\nFiles, each with the hash that the manifest names");
    }
    for (name, bytes) in sizes {
        println!("  {name:<28} {bytes:>12} bytes  {}", manifest.files.get(name).map_or("", String::as_str));
    }
}

/// The version and its parents down to the base, each with what it was made from.
async fn lineage(args: ShowArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let all = lake.all_versions().await?;
    let (store, root) = daemon::store_of(&lake);
    let registry = Registry::new(store, &root);
    let mut next = Some(choose(&args.version, &all)?);
    let mut line = Vec::new();
    while let Some(version) = next {
        let manifest = registry.manifest(&version).await?;
        next = manifest.parent.as_deref().map(str::parse).transpose()?;
        line.push((version, manifest));
    }
    if args.json {
        let one = |(version, m): &(VersionRef, Manifest)| {
            json!({"version": version.to_string(), "parent": m.parent, "base_hash": m.base_hash, "cycle": m.cycle,
                   "window": m.window, "seeds": m.seeds, "config_hash": m.config_hash, "settings": m.settings,
                   "evaluation": m.evaluation, "calibration": m.calibration, "files": m.files, "pelton": m.pelton})
        };
        println!("{:#}", json!(line.iter().map(one).collect::<Vec<_>>()));
        return Ok(ExitCode::SUCCESS);
    }
    for (version, manifest) in &line {
        let states: Vec<&Version> = all.iter().filter(|v| v.reference == *version).collect();
        print_version(&states, manifest, &BTreeMap::new());
        let tables = manifest.window.get("tables").and_then(Value::as_object).into_iter().flatten();
        let tables: Vec<String> = tables.map(|(name, at)| format!("{name} {at}")).collect();
        println!("  tables       {}\n", tables.join(", "));
    }
    println!("the base       {}", line.last().map_or("", |(_, m)| m.base_hash.as_str()));
    Ok(ExitCode::SUCCESS)
}

async fn events(args: EventsArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let timeout = Duration::from_secs(args.timeout_s);
    let (kafka, topic) = (config.kafka.clone(), config.publish.topic.clone());
    let messages = tokio::task::spawn_blocking(move || read_events(&kafka, &topic, timeout)).await??;
    if args.json {
        messages.iter().for_each(|message| println!("{}", event_json(message)));
        return Ok(ExitCode::SUCCESS);
    }
    print::table(&["key", "type", "time", "gain in reward", "id"], messages.iter().map(event_row).collect());
    Ok(ExitCode::SUCCESS)
}

fn header<'a>(message: &'a EventMessage, name: &str) -> &'a str {
    message.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

fn event_row(message: &EventMessage) -> Vec<String> {
    let version = event::read(message);
    vec![
        message.key.clone(),
        header(message, "ce_type").to_owned(),
        header(message, "ce_time").to_owned(),
        version.map_or_else(
            |e| format!("unreadable: {e}"),
            |v| v.map_or_else(|| "the base serves".to_owned(), |v| interval_text(v.gain)),
        ),
        header(message, "ce_id").to_owned(),
    ]
}

fn event_json(message: &EventMessage) -> Value {
    let headers: BTreeMap<&str, &str> = message.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let data: Value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
    json!({"key": message.key, "headers": headers, "data": data})
}
