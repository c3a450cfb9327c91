//! The folder of a cycle in the lake, `cycles/<id>/`: what its steps have decided and made, each written once.
//!
//! `plan.json` is what all steps rest on. `round-N/` has the adapter of each finished round, and its curve, which is written
//! last: a round without it is not finished. What an unfinished round has explored and optimized so far lies in
//! `round-N/progress/`, and goes when the round is finished. `evaluation.json` has both sides' answers, `verdict.json` what the
//! gate said of them.

use super::steps::{Compared, Tuned};
use super::{Job, Turn};
use crate::config::Model as ModelConfig;
use crate::domain::{
    Answer, Comparison, EvalReport, PromptHash, Sides, Timestamp, Version, VersionNumber, VersionState,
};
use crate::evaluate::{report_from_json, report_to_json};
use crate::lake::{Lake, TableName};
use crate::model::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Lora, Model};
use crate::publish::transition;
use crate::runtime::{Failpoint, derive_seed, failpoint, now};
use crate::tao::{Keeper, SaveError};
use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const CURVE: &str = "curve.json";
const PROGRESS: &str = "progress";

/// What all steps of a cycle rest on, fixed when it first begins: a later try sees the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// What every random choice derives from.
    pub(super) seed: u64,
    /// The version that serves, `model@vN`: what is tuned further and has to be beaten. The base where absent.
    pub(super) champion: Option<String>,
    /// SHA-256 of the base model.
    pub(super) base_hash: String,
    /// The version of each table that is read.
    pub(super) tables: BTreeMap<String, i64>,
    /// `$until` of the window, microseconds since the epoch.
    pub(super) until_micros: i64,
    /// The how manyth comparison since the last promotion its own will be, from 1.
    pub(super) comparison: u32,
}

impl Plan {
    pub(super) fn version_of(&self, table: TableName) -> i64 {
        self.tables.get(table.as_str()).copied().unwrap_or_default()
    }

    pub(super) fn until(&self) -> Timestamp {
        Timestamp::from_micros(self.until_micros)
    }
}

/// The cycle's plan: the one that is written, or one that is made now and written.
pub(super) async fn plan(job: &Job<'_>, settings: &ModelConfig, base: &Model) -> Result<Plan> {
    if let Some(plan) = read::<Plan>(job, "plan.json").await? {
        return Ok(plan);
    }
    let until_micros = now().micros();
    let versions = job.lake.versions(job.model).await?;
    let turns = versions.iter().map(|v| v.reference.number).max().map_or(0, VersionNumber::get);
    let mut tables = BTreeMap::new();
    for name in job.lake.tables() {
        tables.insert(name.to_string(), job.lake.version(name).await?);
    }
    let plan = Plan {
        seed: derive_seed(settings.seed, "cycle", &[u64::from(turns)]),
        champion: crate::daemon::champion_of(&versions).map(|v| v.reference.to_string()),
        base_hash: base.content_hash().to_owned(),
        tables,
        until_micros,
        comparison: comparisons_since_promotion(&versions) + 1,
    };
    Ok(write_once(job, "plan.json", &plan).await?.unwrap_or(plan))
}

/// Challengers that the gate has refused since a version was promoted last. That a rollback brought one back is no such promotion:
/// the tries before it were as many chances to be wrong.
fn comparisons_since_promotion(versions: &[Version]) -> u32 {
    let since = (0..versions.len())
        .rfind(|at| versions[*at].state == VersionState::Promoted && !transition::ends_rollback(versions, *at))
        .map_or(0, |at| at + 1);
    let refused = versions[since..].iter().filter(|v| v.state == VersionState::Rejected);
    u32::try_from(refused.count()).unwrap_or(u32::MAX - 1)
}

/// Both sides' answers: those that are written, or those of `compare`, which are written.
pub(super) async fn compared(turn: &Turn<'_>, compare: impl FnOnce() -> Result<Compared>) -> Result<Compared> {
    const NAME: &str = "evaluation.json";
    if read::<Value>(turn.job, NAME).await?.is_none() {
        write_once(turn.job, NAME, &compared_to_json(&compare()?)).await?;
    }
    // Always by way of the file, so that a cycle that was killed here sees the same numbers.
    let value: Value = read(turn.job, NAME).await?.context("evaluation.json is gone")?;
    compared_from_json(&value).with_context(|| format!("cycles/{}/{NAME} is not what this Pelton writes", turn.job.id))
}

/// What the gate said: what is written, or what `judge` says, which is written.
pub(super) async fn verdict(turn: &Turn<'_>, judge: impl FnOnce() -> EvalReport) -> Result<EvalReport> {
    const NAME: &str = "verdict.json";
    if let Some(report) = read::<Value>(turn.job, NAME).await?.as_ref().and_then(report_from_json) {
        return Ok(report);
    }
    let report = judge();
    let found = write_once(turn.job, NAME, &report_to_json(&report, &turn.settings.gate)).await?;
    Ok(found.as_ref().and_then(report_from_json).unwrap_or(report))
}

fn compared_to_json(compared: &Compared) -> Value {
    let answer = |a: &Answer| json!({"text": a.text, "reward": a.reward, "correct": a.correct, "tokens": a.tokens});
    let one = |c: &Comparison| {
        json!({"prompt": c.prompt.to_string(), "question": c.question, "slice": c.slice,
               "champion": answer(&c.champion), "challenger": answer(&c.challenger)})
    };
    let all: Vec<Value> = compared.comparisons.iter().map(one).collect();
    json!({"comparisons": all, "training": compared.training, "kl": compared.kl, "base": compared.base,
           "suites": compared.suites, "suites_base": compared.suites_base, "unjudged": compared.unjudged, "wins": compared.wins,
           "refusals": compared.refusals.map(|r| [r.champion, r.challenger])})
}

fn compared_from_json(value: &Value) -> Option<Compared> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let answer = |v: &Value| {
        let tokens = u32::try_from(v["tokens"].as_u64()?).ok()?;
        Some(Answer { text: text(&v["text"])?, reward: v["reward"].as_f64()?, correct: v["correct"].as_bool(), tokens })
    };
    let one = |v: &Value| {
        let (prompt, question) = (PromptHash::parse(v["prompt"].as_str()?)?, text(&v["question"])?);
        let (champion, challenger) = (answer(&v["champion"])?, answer(&v["challenger"])?);
        Some(Comparison { prompt, question, slice: text(&v["slice"]), champion, challenger })
    };
    let pair = |v: &Value| Some((v[0].as_f64()?, v[1].as_f64()?));
    let training = value["training"].as_array();
    Some(Compared {
        comparisons: value["comparisons"].as_array()?.iter().map(one).collect::<Option<_>>()?,
        training: training.map(|all| all.iter().map(pair).collect::<Option<_>>()).unwrap_or_default(),
        kl: value["kl"].as_f64()?,
        base: value["base"].as_f64(),
        suites: serde_json::from_value(value["suites"].clone()).ok()?,
        // A cycle that an older Pelton began has none of these.
        suites_base: serde_json::from_value(value["suites_base"].clone()).unwrap_or_default(),
        unjudged: value["unjudged"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or_default(),
        refusals: pair(&value["refusals"]).map(|(champion, challenger)| Sides { champion, challenger }),
        wins: serde_json::from_value(value["wins"].clone()).ok()?,
    })
}

/// The folder of a cycle.
pub(super) fn folder(lake: &Lake, cycle: &crate::domain::CycleId) -> (Arc<dyn ObjectStore>, Path) {
    let (store, prefix) = crate::daemon::store_of(lake);
    (store, prefix.join("cycles").join(cycle.as_str()))
}

async fn read<T: serde::de::DeserializeOwned>(job: &Job<'_>, name: &str) -> Result<Option<T>> {
    let (store, folder) = folder(job.lake, job.id);
    let path = folder.join(name);
    match store.get(&path).await {
        Ok(found) => Ok(Some(serde_json::from_slice(&found.bytes().await?).with_context(|| path.to_string())?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes what is not there yet; else gives what is. Fences guard tables and not these objects: a process that was paused
/// between its look and its write must not change what its successor rests on.
async fn write_once<T>(job: &Job<'_>, name: &str, value: &T) -> Result<Option<T>>
where
    T: Serialize + serde::de::DeserializeOwned + Sync,
{
    let (store, folder) = folder(job.lake, job.id);
    let bytes = serde_json::to_vec_pretty(value)?;
    match store.put_opts(&folder.join(name), bytes.into(), PutMode::Create.into()).await {
        Ok(_) => Ok(None),
        Err(object_store::Error::AlreadyExists { .. }) => read(job, name).await,
        Err(error) => Err(error.into()),
    }
}

/// The files of an adapter folder, by name.
pub(super) type Files = Vec<(String, Vec<u8>)>;

/// Writes a round's adapter, then its curve.
pub(super) async fn save(turn: &Turn<'_>, tuned: &Tuned) -> Result<()> {
    let (store, folder) = place(turn, tuned.round);
    for (name, bytes) in adapter_files(turn, &tuned.adapter)? {
        store.put(&folder.clone().join(name), bytes.into()).await?;
    }
    let curve = serde_json::to_vec(&tuned.curve)?;
    store.put(&folder.clone().join(CURVE), curve.into()).await?;
    let progress: Vec<_> =
        store.list(Some(&folder.join(PROGRESS))).map_ok(|object| object.location).try_collect().await?;
    for object in progress {
        store.delete(&object).await?;
    }
    Ok(())
}

/// Where the steps of a round keep what they have done so far. Used from threads that may block.
pub(super) struct Progress {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    every: Duration,
    last: Mutex<Instant>,
    runtime: Handle,
}

impl Progress {
    pub(super) fn of(turn: &Turn<'_>, round: u32) -> Self {
        let (store, folder) = place(turn, round);
        let every = Duration::from_secs(turn.settings.keep_seconds.into());
        let (folder, runtime) = (folder.join(PROGRESS), Handle::current());
        Self { store, folder, every, last: Mutex::new(Instant::now()), runtime }
    }
}

impl Keeper for Progress {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, SaveError> {
        let path = self.folder.clone().join(name);
        self.runtime.block_on(async {
            match self.store.get(&path).await {
                Ok(found) => Ok(Some(found.bytes().await?.to_vec())),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), SaveError> {
        self.runtime.block_on(self.store.put(&self.folder.clone().join(name), bytes.into()))?;
        failpoint(if name.starts_with("explore") { Failpoint::InExplore } else { Failpoint::InOptimize });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= self.every
    }
}

/// The last round that is finished, where there is one.
pub(super) async fn latest_round(turn: &Turn<'_>, rounds: u32) -> Result<Option<Tuned>> {
    for round in (1..=rounds).rev() {
        let (store, folder) = place(turn, round);
        let curve = match store.get(&folder.clone().join(CURVE)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let adapter = read_adapter(&store, &folder, &turn.base).await?;
        let curve: Vec<Value> = serde_json::from_slice(&curve).with_context(|| format!("{folder}/{CURVE}"))?;
        return Ok(Some(Tuned { round, adapter, curve, resumed: 0 }));
    }
    Ok(None)
}

/// The adapter as PEFT files.
pub(super) fn adapter_files(turn: &Turn<'_>, adapter: &Lora) -> Result<Files> {
    let folder = scratch()?;
    adapter.save(folder.path(), &turn.settings.base)?;
    let read = |name: &str| Ok((name.to_owned(), std::fs::read(folder.path().join(name))?));
    [ADAPTER_WEIGHTS, ADAPTER_CONFIG].into_iter().map(read).collect()
}

/// An adapter folder of the lake for a base.
pub(super) async fn read_adapter(store: &Arc<dyn ObjectStore>, folder: &Path, base: &Model) -> Result<Lora> {
    let local = scratch()?;
    for name in [ADAPTER_WEIGHTS, ADAPTER_CONFIG] {
        let bytes = store.get(&folder.clone().join(name)).await?.bytes().await?;
        std::fs::write(local.path().join(name), bytes)?;
    }
    Lora::load(local.path(), base.config(), base.decoder().device()).with_context(|| format!("the adapter at {folder}"))
}

fn place(turn: &Turn<'_>, round: u32) -> (Arc<dyn ObjectStore>, Path) {
    let (store, folder) = folder(turn.job.lake, turn.job.id);
    (store, folder.join(format!("round-{round}")))
}

/// A folder of the machine's own that goes when it is dropped: adapters are files to `model`, objects to the lake.
fn scratch() -> Result<Scratch> {
    let path = std::env::temp_dir().join(format!("pelton-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
    Ok(Scratch(path))
}

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind in the machine's temporary folder is the machine's to clear.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
