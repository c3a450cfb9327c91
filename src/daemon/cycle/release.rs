//! From a tuned adapter to a version that others know: registered, judged, announced.

use super::steps::Tuned;
use super::{Job, Turn, workspace};
use crate::config::Config;
use crate::domain::{Comparison, EvalReport, ModelName, TrainingSet, Verdict, Version, VersionRef, VersionState};
use crate::evaluate::{self, page};
use crate::lake::{Fence, Lake};
use crate::model::{ADAPTER_WEIGHTS, Lora, Model};
use crate::publish::{Manifest, Registry, transition};
use crate::runtime::{Failpoint, Shutdown, failpoint, now};
use crate::telemetry::Event;
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// A version, and what the gate made of it.
pub(super) struct Released {
    pub(super) version: VersionRef,
    pub(super) state: VersionState,
    pub(super) reason: String,
    pub(super) location: String,
}

/// A version with its adapter, by its name; nothing where the base serves.
pub(super) async fn champion(job: &Job<'_>, base: &Model, name: Option<&str>) -> Result<Option<(VersionRef, Lora)>> {
    let Some(name) = name else { return Ok(None) };
    let reference: VersionRef = name.parse()?;
    let versions = job.lake.versions(job.model).await?;
    let version = versions.iter().rfind(|v| v.reference == reference);
    let version = version.with_context(|| format!("the champion {reference} has no row in model_version"))?;
    if version.base_hash != base.content_hash() {
        bail!(
            "the champion {} was tuned from a base with the hash {:.12}…, and {} has {:.12}…; \
             give the model another name to begin anew on another base",
            version.reference,
            version.base_hash,
            base.folder().display(),
            base.content_hash()
        );
    }
    let (store, lake) = crate::daemon::store_of(job.lake);
    let folder = Registry::new(store.clone(), &lake).folder(&version.reference);
    let adapter = workspace::read_adapter(&store, &folder, base).await?;
    Ok(Some((version.reference.clone(), adapter)))
}

/// Stores the version's folder, then writes that it is registered, then what the gate says of it.
pub(super) async fn register(
    turn: &Turn<'_>,
    fences: &[Fence],
    set: &TrainingSet,
    tuned: &Tuned,
    comparisons: &[Comparison],
    report: &EvalReport,
) -> Result<Released> {
    let (store, lake) = crate::daemon::store_of(turn.job.lake);
    let registry = Registry::new(store, &lake);
    turn.job.lake.check_fences(fences).await?;
    let reference = registry.claim(turn.job.model, turn.job.id.as_str()).await?;
    failpoint(Failpoint::AfterClaim);
    let mut files = workspace::adapter_files(turn, &tuned.adapter)?;
    files.push(("report.html".to_owned(), report_page(turn, set, tuned, comparisons, report, &reference).into_bytes()));
    let manifest = registry.store(&reference, files, manifest(turn, set, report, &reference)).await?;
    failpoint(Failpoint::AfterFiles);
    let location = location(turn.job, &reference)?;
    turn.job.lake.append_evaluation(turn.job.id, &reference, comparisons, now()).await?;
    let version = Version {
        reference: reference.clone(),
        state: VersionState::Registered,
        time: now(),
        cycle: turn.job.id.clone(),
        parent: turn.champion.as_ref().map(|(v, _)| v.clone()),
        base_hash: turn.base.content_hash().to_owned(),
        location: location.clone(),
        adapter_hash: manifest.files.get(ADAPTER_WEIGHTS).cloned().unwrap_or_default(),
        holdout_prompts: report.prompts as u64,
        champion_reward: report.champion_reward,
        challenger_reward: report.challenger_reward,
        gain: report.reward_gain,
        reason: "the adapter is stored".to_owned(),
    };
    let (state, reason) = match &report.verdict {
        Verdict::Promote => (VersionState::Promoted, "the gate's conditions hold".to_owned()),
        Verdict::Reject(conditions) => (VersionState::Rejected, conditions.join("; ")),
    };
    let compared = turn.champion.as_ref().map(|(v, _)| v.clone());
    let decide = |known: &[Version]| Ok(transition::released(known, &version, (state, &reason), compared.as_ref()));
    let changes = turn.job.lake.change_versions(turn.job.model, fences, decide).await?;
    failpoint(Failpoint::AfterRegister);
    if changes.iter().any(|v| v.state == VersionState::Promoted) {
        Event::VersionPromoted { version: &reference.to_string(), gain: report.reward_gain.mean }.emit();
    }
    // A cycle that goes on after its registration finds what it said then, whatever became of the version since.
    let own = turn.job.lake.versions(turn.job.model).await?;
    let mut said = own.iter().filter(|v| v.reference == reference);
    let second = said.nth(1).context("the registered version has no verdict")?;
    Ok(Released { version: reference, state: second.state, reason: second.reason.clone(), location })
}

/// Sends what the topic lacks of the model's events, and gives the id of this version's verdict and
/// whether it is sent. What the broker does not take in time is owed by whoever follows the table: the version serves already,
/// and other models' cycles wait for this one's end.
pub(super) async fn announce(turn: &Turn<'_>, released: &Released) -> Result<(String, bool)> {
    let never = Shutdown::new();
    let send = crate::daemon::outbox::announce(turn.job.config, turn.job.lake, turn.job.model, &never);
    let seconds = turn.job.config.publish.wait_seconds;
    let owed = match tokio::time::timeout(Duration::from_secs(seconds.into()), send).await {
        Ok(sent) => sent.err().map(|error| format!("{error:#}")),
        Err(_) => Some(format!("the broker did not take it within publish.wait_seconds = {seconds}")),
    };
    if let Some(error) = &owed {
        let version = released.version.to_string();
        tracing::warn!(version, error, "the event is owed: a daemon or `pelton model publish` sends it");
    }
    // The version is published: what could not be tidied up is at the end of the next cycle.
    if let Err(error) = retain(turn.job.config, turn.job.lake, turn.job.model).await {
        tracing::warn!(error = format!("{error:#}"), "old versions could not be archived");
    }
    let versions = turn.job.lake.versions(turn.job.model).await?;
    let verdict = versions.iter().filter(|v| v.reference == released.version).nth(1);
    let verdict = verdict.context("the registered version has no verdict")?;
    Ok((crate::codec::event::event_id(verdict), owed.is_none()))
}

/// Archives the versions beyond `keep_versions`, and takes their adapters away; rows, manifests and reports stay. The champion
/// and the one that a rollback returns to are kept.
///
/// # Errors
/// Where the store is away.
pub async fn retain(config: &Config, lake: &Lake, model: &ModelName) -> Result<Vec<VersionRef>> {
    let Some(keep) = config.models.get(model).and_then(|m| m.keep_versions) else { return Ok(Vec::new()) };
    let reason = format!("beyond the newest {keep} versions");
    let decide = |known: &[Version]| {
        let old = transition::beyond(known, keep);
        let archived = old.iter().map(|v| transition::archive(known, v, &reason, now()));
        let all: Result<Vec<_>, _> = archived.collect();
        Ok(all.map_err(|e| e.to_string())?.into_iter().flatten().collect())
    };
    let changed: Vec<VersionRef> =
        lake.change_versions(model, &[], decide).await?.into_iter().map(|v| v.reference).collect();
    let (store, root) = crate::daemon::store_of(lake);
    let registry = Registry::new(store, &root);
    // All that are archived for their age: a process may have died between the row and the files.
    for version in lake.versions(model).await? {
        if version.state == VersionState::Archived && version.reason.starts_with("beyond the newest") {
            registry.remove_weights(&version.reference).await?;
        }
    }
    Ok(changed)
}

fn location(job: &Job<'_>, version: &VersionRef) -> Result<String> {
    let relative = format!("models/{}/{}", version.model, version.number);
    let url = job.lake.url().join(&relative).context("the lake's URL takes no path")?;
    Ok(url.to_string())
}

fn champion_name(turn: &Turn<'_>) -> String {
    turn.champion.as_ref().map_or_else(|| format!("{} (base)", turn.job.model), |(v, _)| v.to_string())
}

fn manifest(turn: &Turn<'_>, set: &TrainingSet, report: &EvalReport, version: &VersionRef) -> Manifest {
    Manifest {
        format: 1,
        name: version.to_string(),
        created: now().to_string(),
        cycle: turn.job.id.to_string(),
        base_hash: turn.base.content_hash().to_owned(),
        parent: turn.champion.as_ref().map(|(v, _)| v.to_string()),
        window: json!({
            "name": set.window.as_str(),
            "sql": set.sql,
            "table": "inference_log",
            "table_version": set.table_version,
            "since": set.since.to_string(),
            "until": set.until.to_string(),
            "train": set.train.len(),
            "holdout": set.holdout.len(),
            "settings": turn.window,
            "tables": turn.plan.tables,
        }),
        seeds: BTreeMap::from([("model".to_owned(), turn.settings.seed), ("cycle".to_owned(), turn.seed)]),
        config_hash: turn.job.config.hash.clone(),
        settings: serde_json::to_value(turn.settings).unwrap_or_default(),
        evaluation: evaluate::report_to_json(report, &turn.settings.gate),
        calibration: turn.scorers.calibration.as_ref().and_then(|c| serde_json::to_value(c).ok()),
        pelton: env!("CARGO_PKG_VERSION").to_owned(),
        files: BTreeMap::new(),
    }
}

fn report_page(
    turn: &Turn<'_>,
    set: &TrainingSet,
    tuned: &Tuned,
    comparisons: &[Comparison],
    report: &EvalReport,
    version: &VersionRef,
) -> String {
    let lineage = [
        ("Cycle", turn.job.id.to_string()),
        ("Base", format!("{} ({:.12}…)", turn.base.folder().display(), turn.base.content_hash())),
        ("Window", format!("{}: {} to train on, {} held out", set.window, set.train.len(), set.holdout.len())),
        ("Table", format!("inference_log at version {}", set.table_version)),
        ("Times", format!("{} to {}", set.since, set.until)),
        ("SQL", set.sql.clone()),
        ("Seed", turn.seed.to_string()),
        ("Configuration", format!("SHA-256 {:.12}…", turn.job.config.hash)),
        (
            "Calibration",
            turn.scorers.calibration.as_ref().map_or_else(|| "not asked for".to_owned(), ToString::to_string),
        ),
    ];
    page::render(&page::Page {
        version: &version.to_string(),
        champion: &champion_name(turn),
        report,
        gate: &turn.settings.gate,
        comparisons,
        curves: &curves(tuned),
        lineage: &lineage.map(|(k, v)| (k.to_owned(), v)),
    })
}

/// The curves over all rounds' steps.
fn curves(tuned: &Tuned) -> Vec<page::Curve> {
    let series = |name: &str, field: &str| page::Curve {
        name: name.to_owned(),
        points: tuned.curve.iter().filter_map(|s| Some((s["step"].as_f64()?, s[field].as_f64()?))).collect(),
    };
    vec![
        series("Mean reward of the step's samples", "reward_mean"),
        series("Loss", "loss"),
        series("KL to the behaviour policy, nats a token", "kl"),
        series("Gradient norm", "gradient_norm"),
    ]
}
