//! A version made again: from the same versions of the tables, with the same settings and seeds, and compared byte for byte.
//!
//! The manifest names everything that a cycle rests on. On the CPU the same adapter comes out; where something of it is gone or
//! another (the base, the table's history, scorers that are other people's services), it is said what.

use super::control::Control;
use super::{Job, StateLog, Turn, release, scorers, steps, workspace};
use crate::config::{Config, Model as ModelConfig, Window};
use crate::domain::{CycleId, Timestamp, TrainingSet, VersionRef, WindowName};
use crate::lake::Lake;
use crate::model::{ADAPTER_WEIGHTS, Model};
use crate::publish::{Manifest, Registry};
use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Reproduced {
    /// The version.
    pub version: VersionRef,
    /// SHA-256 of the adapter that is registered.
    pub registered: String,
    /// SHA-256 of the adapter that was made now.
    pub made: String,
    /// Bytes of it.
    pub bytes: usize,
    /// Prompts that it was trained on.
    pub prompts: usize,
    /// Where the prompts came from: the window's SQL on the same version of the table, or the rows that the cycle kept.
    pub source: &'static str,
}

impl Reproduced {
    /// Whether both adapters are the same, byte for byte.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.registered == self.made
    }

    /// The result for scripts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"version": self.version.to_string(), "same": self.is_same(), "registered": self.registered,
               "made": self.made, "bytes": self.bytes, "prompts": self.prompts, "source": self.source})
    }
}

/// Makes a version again.
///
/// # Errors
/// What it rests on that is gone or another.
pub async fn reproduce(
    config: &Config,
    lake: &Lake,
    version: &VersionRef,
    watch: &(dyn Fn(super::Progress) + Sync),
) -> Result<Reproduced> {
    let (store, root) = crate::daemon::store_of(lake);
    let manifest = Registry::new(store, &root).manifest(version).await?;
    let config = as_it_was(config, &manifest, version)?;
    let tail = uuid::Uuid::new_v4().simple().to_string();
    let id = CycleId::new(format!("reproduce-{tail}"))?;
    let job = Job { watch, ..Job::new(&config, lake, &version.model, &id) };
    let control = Control::quiet(&job);
    let made = again(&job, &control, &manifest).await;
    let (store, folder) = workspace::folder(lake, &id);
    let left: Vec<_> = store.list(Some(&folder)).map_ok(|object| object.location).try_collect().await?;
    for object in left {
        store.delete(&object).await?;
    }
    let (adapter, prompts, source) = made?;
    let made = Sha256::digest(&adapter).iter().map(|b| format!("{b:02x}")).collect();
    let registered = manifest.files.get(ADAPTER_WEIGHTS).cloned().unwrap_or_default();
    Ok(Reproduced { version: version.clone(), registered, made, bytes: adapter.len(), prompts, source })
}

/// The configuration of the version's cycle: its model's settings and its window are the manifest's.
fn as_it_was(config: &Config, manifest: &Manifest, version: &VersionRef) -> Result<Config> {
    let settings: ModelConfig = serde_json::from_value(manifest.settings.clone())
        .context("the manifest's `settings` are not a model's section that this Pelton reads")?;
    let name: WindowName = manifest.window["name"].as_str().context("the manifest names no window")?.parse()?;
    let window = &manifest.window["settings"];
    if window.is_null() {
        bail!("{version} was made by a Pelton that did not keep its window's settings; only its prompts are on record");
    }
    let window: Window = serde_json::from_value(window.clone()).context("the manifest's `window.settings`")?;
    let models = BTreeMap::from([(version.model.clone(), settings)]);
    Ok(Config { models, windows: BTreeMap::from([(name, window)]), ..config.clone() })
}

async fn again(job: &Job<'_>, control: &Control, manifest: &Manifest) -> Result<(Vec<u8>, usize, &'static str)> {
    let settings = job.config.models.get(job.model).context("the model is gone")?;
    let (window_name, window) = job.config.window_of(settings).context("the window is gone")?;
    let folder = job.config.resolve(&settings.base);
    let base = tokio::task::block_in_place(|| Model::load(&folder, &candle_core::Device::Cpu))?;
    if base.content_hash() != manifest.base_hash {
        bail!(
            "{} has the hash {:.12}…, and the version was made from {:.12}…",
            folder.display(),
            base.content_hash(),
            manifest.base_hash
        );
    }
    let time = |name: &str| {
        let text = manifest.window[name].as_str().and_then(Timestamp::parse);
        text.with_context(|| format!("the manifest's `window.{name}` is no time"))
    };
    let (since, until) = (time("since")?, time("until")?);
    let plan = workspace::Plan {
        seed: *manifest.seeds.get("cycle").context("the manifest has no seed of the cycle")?,
        champion: manifest.parent.clone(),
        base_hash: manifest.base_hash.clone(),
        tables: serde_json::from_value(manifest.window["tables"].clone()).context("the manifest's `window.tables`")?,
        until_micros: until.micros(),
        comparison: 1,
    };
    let champion = release::champion(job, &base, plan.champion.as_deref()).await?;
    let scorers = scorers::open(job, settings, plan.seed, &plan.tables).await?;
    let seed = plan.seed;
    let turn = Turn { job, settings, window_name, window, base, scorers, champion, plan, seed, control };
    let (set, source) = prompts(&turn, manifest, since, until).await?;
    let (tuned, _) = super::tune(&turn, None::<&StateLog<'_>>, &set).await?;
    let files = workspace::adapter_files(&turn, &tuned.adapter)?;
    let weights = files.into_iter().find(|(name, _)| name == ADAPTER_WEIGHTS).context("no weights were made")?;
    Ok((weights.1, set.train.len(), source))
}

/// The prompts by the window's SQL on the same version of the table; where its history is gone, those that the cycle kept.
async fn prompts(
    turn: &Turn<'_>,
    manifest: &Manifest,
    since: Timestamp,
    until: Timestamp,
) -> Result<(TrainingSet, &'static str)> {
    let cycle: CycleId = manifest.cycle.parse()?;
    let kept = turn.job.lake.training_set(&cycle).await?;
    match steps::choose(turn, since, until).await {
        Ok(set) => {
            let same = |kept: &TrainingSet| kept.train == set.train && kept.holdout == set.holdout;
            if kept.as_ref().is_some_and(|kept| !same(kept)) {
                bail!(
                    "the window's SQL on the same version of the table gives other prompts than training_window keeps"
                );
            }
            Ok((set, "the window's SQL on the same version of inference_log"))
        }
        Err(error) => {
            let set =
                kept.with_context(|| format!("neither the table's history nor its prompts are there: {error:#}"))?;
            tracing::warn!(
                error = format!("{error:#}"),
                "the table's history is gone; the prompts are those that were kept"
            );
            Ok((set, "training_window: the table's history is gone"))
        }
    }
}
