//! The folder of a cycle in the lake, `cycles/<id>/round-N/`: the adapter of each finished round, and its curve.
//!
//! `curve.json` is written last: a round without it is not finished. What an unfinished round has explored and optimized
//! so far lies in `round-N/progress/`, and goes when the round is finished.

use super::Turn;
use super::steps::Tuned;
use crate::model::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Lora, Model};
use crate::runtime::{Failpoint, failpoint};
use crate::tao::{Keeper, SaveError};
use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const CURVE: &str = "curve.json";
const PROGRESS: &str = "progress";

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
    let (store, prefix) = crate::daemon::store_of(turn.job.lake);
    (store, prefix.join("cycles").join(turn.job.id.as_str()).join(format!("round-{round}")))
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
