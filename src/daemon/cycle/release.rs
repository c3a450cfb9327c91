//! From a tuned adapter to a version that others know: registered, judged, announced.

use super::steps::Tuned;
use super::{Job, Turn, workspace};
use crate::domain::{Comparison, EvalReport, Timestamp, TrainingSet, Verdict, Version, VersionRef, VersionState};
use crate::evaluate::{self, page};
use crate::model::{ADAPTER_WEIGHTS, Lora, Model};
use crate::publish::{Manifest, Publisher, Registry};
use crate::runtime::{Shutdown, now};
use crate::telemetry::Event;
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::collections::BTreeMap;

/// A version in its final state.
pub(super) struct Released {
    pub(super) version: VersionRef,
    pub(super) location: String,
}

/// The version that serves now, with its adapter; nothing where the base does.
pub(super) async fn champion(job: &Job<'_>, base: &Model) -> Result<Option<(VersionRef, Lora)>> {
    let versions = job.lake.versions(job.model).await?;
    let Some(version) = crate::daemon::champion_of(&versions) else { return Ok(None) };
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
    set: &TrainingSet,
    tuned: &Tuned,
    comparisons: &[Comparison],
    report: &EvalReport,
) -> Result<Released> {
    let (store, lake) = crate::daemon::store_of(turn.job.lake);
    let registry = Registry::new(store, &lake);
    let reference = registry.claim(turn.job.model, turn.job.id.as_str()).await?;
    let mut files = workspace::adapter_files(turn, &tuned.adapter)?;
    files.push(("report.html".to_owned(), report_page(turn, set, tuned, comparisons, report, &reference).into_bytes()));
    let manifest = registry.store(&reference, files, manifest(turn, set, report, &reference)).await?;
    let location = location(turn.job, &reference)?;
    turn.job.lake.append_evaluation(turn.job.id, &reference, comparisons, now()).await?;
    let mut version = Version {
        reference: reference.clone(),
        state: VersionState::Registered,
        time: version_time(turn).await?,
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
    let known: Vec<VersionState> = states(turn, &reference).await?;
    if !known.contains(&VersionState::Registered) {
        turn.job.lake.append_version(&version).await?;
    }
    (version.state, version.reason) = match &report.verdict {
        Verdict::Promote => (VersionState::Promoted, "the gate's conditions hold".to_owned()),
        Verdict::Reject(conditions) => (VersionState::Rejected, conditions.join("; ")),
    };
    if !known.contains(&version.state) {
        version.time = version_time(turn).await?;
        turn.job.lake.append_version(&version).await?;
        if version.state == VersionState::Promoted {
            Event::VersionPromoted { version: &reference.to_string(), gain: report.reward_gain.mean }.emit();
        }
    }
    Ok(Released { version: reference, location })
}

/// The present, or just after the model's last state change where the clock has gone back: the champion is the version that
/// was promoted last.
async fn version_time(turn: &Turn<'_>) -> Result<Timestamp> {
    let last = turn.job.lake.versions(turn.job.model).await?.last().map(|v| v.time.micros());
    Ok(last.map_or_else(now, |last| now().max(Timestamp::from_micros(last + 1))))
}

/// The states that a version has come to; a resumed cycle does not write one twice.
async fn states(turn: &Turn<'_>, version: &VersionRef) -> Result<Vec<VersionState>> {
    let all = turn.job.lake.versions(turn.job.model).await?;
    Ok(all.iter().filter(|v| v.reference == *version).map(|v| v.state).collect())
}

/// Sends the events of the version's states, and gives the last one's id. What is sent is what the table holds, so that a
/// repetition has the same ids.
pub(super) async fn announce(turn: &Turn<'_>, released: &Released) -> Result<String> {
    let config = turn.job.config;
    let publisher = Publisher::new(&config.kafka, &config.publish.topic)?;
    let shutdown = Shutdown::new();
    let versions = turn.job.lake.versions(turn.job.model).await?;
    let mut last = None;
    for version in versions.iter().filter(|v| v.reference == released.version) {
        let source = format!("{}models/{}", turn.job.lake.url(), turn.job.model);
        last = Some(publisher.publish(version, &source, &shutdown).await?);
    }
    last.context("the registered version has no row")
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
