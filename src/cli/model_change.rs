//! `pelton model promote`, `rollback`, `archive`, `pull`, `reproduce`, `diff` and `publish`.
//!
//! A change is committed only on the versions that it was decided on: of two people who promote at once, the second is told what
//! the first did. Events follow the commit; where the broker is away, the daemon sends them later.

use super::model::{choose, named};
use super::{ConfigFile, print};
use crate::config::Config;
use crate::daemon::{self, cycle, outbox};
use crate::domain::{Version, VersionRef};
use crate::lake::Lake;
use crate::publish::transition::Refusal;
use crate::publish::{Manifest, Registry, transition};
use crate::runtime::{Shutdown, now};
use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a command waits for the broker before it leaves the events to the daemon.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(super) struct PromoteArgs {
    /// The version, such as support-sql@v3
    version: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Why, for the record and the event
    #[arg(long, default_value = "by hand")]
    reason: String,
    /// Only if this version is the champion now (`base` for none)
    #[arg(long, value_name = "VERSION")]
    expect: Option<String>,
    /// Print the changes as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// The champion, such as support-sql@v3; a model's name alone means it too
    version: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Why, for the record and the event
    #[arg(long, default_value = "by hand")]
    reason: String,
    /// The version that serves then; without it, the one that was promoted before
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    /// Print the changes as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ArchiveArgs {
    /// The version, such as support-sql@v3
    version: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Why, for the record and the event
    #[arg(long, default_value = "by hand")]
    reason: String,
    /// Take its adapter away too; its manifest and report stay
    #[arg(long)]
    delete: bool,
    /// Print the changes as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// The version, such as support-sql@v3; a model's name alone means its champion
    version: String,
    /// The folder that its files are written to
    dir: PathBuf,
    #[command(flatten)]
    config: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 0 where both adapters are the same byte for byte, with 1 where they differ.")]
pub(super) struct ReproduceArgs {
    /// The version, such as support-sql@v3
    version: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// One version
    a: String,
    /// The other
    b: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Print one JSON object: each field that differs, with both values
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// How long the broker may be away, in seconds
    #[arg(long, default_value_t = 60)]
    timeout_s: u64,
    /// Print one JSON object a model
    #[arg(long)]
    json: bool,
}

pub(super) async fn promote(args: PromoteArgs) -> Result<ExitCode> {
    let (config, lake, version) = opened(&args.config, &args.version).await?;
    let expected = match args.expect.as_deref() {
        None => None,
        Some("base") => Some(None),
        Some(name) => Some(Some(name.parse::<VersionRef>()?)),
    };
    let decide = |known: &[Version]| {
        let expected = expected.as_ref().map(Option::as_ref);
        transition::promote(known, &version, expected, &args.reason, now()).map_err(|e| e.to_string())
    };
    changed(&config, &lake, &version, args.json, decide).await
}

pub(super) async fn rollback(args: RollbackArgs) -> Result<ExitCode> {
    let (config, lake, version) = opened(&args.config, &args.version).await?;
    let to = args.to.as_deref().map(str::parse::<VersionRef>).transpose()?;
    let decide = |known: &[Version]| {
        transition::roll_back(known, &version, to.as_ref(), &args.reason, now()).map_err(|e| e.to_string())
    };
    changed(&config, &lake, &version, args.json, decide).await
}

pub(super) async fn archive(args: ArchiveArgs) -> Result<ExitCode> {
    let (config, lake, version) = opened(&args.config, &args.version).await?;
    let decide = |known: &[Version]| match transition::archive(known, &version, &args.reason, now()) {
        // Its weights may still be there: it was archived without `--delete`, or a process died before it took them away.
        Err(Refusal::Already { .. }) if args.delete => Ok(Vec::new()),
        decided => decided.map_err(|e| e.to_string()),
    };
    let code = changed(&config, &lake, &version, args.json, decide).await?;
    if args.delete {
        let (store, root) = daemon::store_of(&lake);
        Registry::new(store, &root).remove_weights(&version).await?;
    }
    Ok(code)
}

async fn opened(config: &ConfigFile, version: &str) -> Result<(Config, Lake, VersionRef)> {
    let config = config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let version = choose(version, &lake.all_versions().await?)?;
    Ok((config, lake, version))
}

async fn changed(
    config: &Config,
    lake: &Lake,
    version: &VersionRef,
    as_json: bool,
    decide: impl Fn(&[Version]) -> Result<Vec<Version>, String>,
) -> Result<ExitCode> {
    let changes = lake.change_versions(&version.model, &[], decide).await?;
    let champion = daemon::champion_of(&lake.versions(&version.model).await?).map(|v| v.reference.clone());
    let sent = tokio::time::timeout(PATIENCE, outbox::announce(config, lake, &version.model, &Shutdown::new())).await;
    let announced = matches!(sent, Ok(Ok(_)));
    if let Ok(Err(error)) = &sent {
        eprintln!("pelton: the events were not sent: {error:#}");
    }
    if as_json {
        let change =
            |v: &Version| json!({"version": v.reference.to_string(), "state": v.state.as_str(), "reason": v.reason});
        let changes: Vec<Value> = changes.iter().map(change).collect();
        let champion = champion.as_ref().map(ToString::to_string);
        println!("{}", json!({"changes": changes, "champion": champion, "announced": announced}));
    } else {
        changes.iter().for_each(|v| println!("{} is {}: {}", v.reference, v.state.as_str(), v.reason));
        println!("champion: {}", transition::champion_text(champion.as_ref()));
    }
    if !announced {
        eprintln!(
            "pelton: the change is made; its events wait for the broker, and a daemon or `pelton model publish` sends them"
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn pull(args: PullArgs) -> Result<ExitCode> {
    let (_, lake, version) = opened(&args.config, &args.version).await?;
    let (store, root) = daemon::store_of(&lake);
    let files = Registry::new(store, &root).files(&version).await?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make the folder {}", args.dir.display()))?;
    for (name, bytes) in &files {
        // A reader of the folder sees a file whole or not at all.
        let (to, part) = (args.dir.join(name), args.dir.join(format!(".{name}.part")));
        std::fs::write(&part, bytes)
            .and_then(|()| std::fs::rename(&part, &to))
            .with_context(|| to.display().to_string())?;
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    if args.json {
        println!("{}", json!({"version": version.to_string(), "dir": args.dir, "files": names}));
    } else {
        println!("{version}: {} in {}, each checked against its hash", names.join(", "), args.dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn reproduce(args: ReproduceArgs) -> Result<ExitCode> {
    let (config, lake, version) = opened(&args.config, &args.version).await?;
    let bars = super::cycle::Bars::default();
    let made = cycle::reproduce::reproduce(&config, &lake, &version, &|progress| bars.show(&progress)).await;
    bars.finish();
    let made = made?;
    if args.json {
        println!("{}", made.to_json());
    } else {
        let same = if made.is_same() { "the same, byte for byte" } else { "another" };
        println!("{version}: the adapter made now is {same} ({} bytes, {} prompts)", made.bytes, made.prompts);
        println!("  prompts      {}", made.source);
        println!("  registered   {}\n  made now     {}", made.registered, made.made);
    }
    Ok(if made.is_same() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn diff(args: DiffArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let all = lake.all_versions().await?;
    let (store, root) = daemon::store_of(&lake);
    let registry = Registry::new(store, &root);
    let flat = async |text: &str| -> Result<(VersionRef, Map<String, Value>)> {
        let version = choose(text, &all)?;
        let manifest: Manifest = registry.manifest(&version).await?;
        let mut flat = Map::new();
        flatten("", &serde_json::to_value(&manifest)?, &mut flat);
        Ok((version, flat))
    };
    let ((a, left), (b, right)) = (flat(&args.a).await?, flat(&args.b).await?);
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let own = |name: &str| ["name", "created", "cycle"].contains(&name);
    let differ: Vec<&String> = names.into_iter().filter(|n| !own(n) && left.get(*n) != right.get(*n)).collect();
    if args.json {
        let pair = |n: &&String| ((*n).clone(), json!([left.get(*n), right.get(*n)]));
        println!(
            "{:#}",
            json!({"a": a.to_string(), "b": b.to_string(), "differ": differ.iter().map(pair).collect::<Map<_, _>>()})
        );
    } else {
        let cell = |side: &Map<String, Value>, name: &str| side.get(name).map(print::plain).unwrap_or_default();
        let row = |n: &&String| vec![(*n).clone(), cell(&left, n), cell(&right, n)];
        print::table(&["field", &a.to_string(), &b.to_string()], differ.iter().map(row).collect());
    }
    Ok(ExitCode::SUCCESS)
}

/// The leaves of a value by their paths; lists stay whole.
fn flatten(at: &str, value: &Value, into: &mut Map<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&if at.is_empty() { name.clone() } else { format!("{at}.{name}") }, value, into);
            }
        }
        leaf => drop(into.insert(at.to_owned(), leaf.clone())),
    }
}

pub(super) async fn publish(args: PublishArgs) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    for model in named(&lake.all_versions().await?) {
        let (shutdown, wait) = (Shutdown::new(), Duration::from_secs(args.timeout_s));
        let sent = tokio::time::timeout(wait, outbox::announce(&config, &lake, &model, &shutdown)).await;
        let Ok(sent) = sent else { bail!("the broker was away for {} s; the events wait", args.timeout_s) };
        let sent = sent?;
        let mut posted = Map::new();
        for hook in &config.publish.webhooks {
            posted.insert(hook.name.clone(), json!(outbox::post(hook, &lake, &model).await?));
        }
        if args.json {
            println!("{}", json!({"model": model.as_str(), "sent": sent, "posted": posted}));
        } else {
            println!("{model}: {} events sent, {} webhooks up to date", sent.len(), posted.len());
        }
    }
    Ok(ExitCode::SUCCESS)
}
