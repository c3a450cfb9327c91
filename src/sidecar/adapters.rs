//! Keeps on every server the versions that should be there, and moves traffic once they are.
//!
//! It compares what is wanted with what each server lists, again and again: a server that was restarted gets its versions back
//! as a new one gets its first. A load counts only when the server's own list shows it. Traffic moves to a version when all
//! servers that are well have it; a server that lacks it gets none of its requests. What fails is said, counted and tried
//! again, less often each time.

use super::upstream::{HttpClient, Replica, Upstreams};
use super::versions::{Versions, Wanted};
use crate::config::{AdapterSource, Adapters};
use crate::domain::Version;
use crate::runtime::{Backoff, Shutdown};
use crate::telemetry::{Event, metric};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How long requests are kept away while the topic of versions cannot be read. Then what is known has to do: a server that
/// answers with the base is better than none.
const VERSIONS_WAIT: Duration = Duration::from_secs(30);
/// The longest pause before a load is tried again.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Brings a version's folder here, checked against its manifest.
#[async_trait]
pub trait Puller: Send + Sync {
    /// Writes the version's files into a folder that does not exist yet.
    ///
    /// # Errors
    /// What went wrong, for the log.
    async fn pull(&self, version: &Version, folder: &Path) -> Result<(), String>;
}

/// The keeper; see the module.
pub struct Keeper {
    /// The servers.
    pub upstreams: Arc<Upstreams>,
    /// The client.
    pub client: HttpClient,
    /// What is wanted.
    pub versions: Arc<Versions>,
    /// How versions come to the servers.
    pub settings: Adapters,
    /// The folder of pulled adapters.
    pub dir: PathBuf,
    /// Where folders are pulled from.
    pub puller: Option<Arc<dyn Puller>>,
    /// Something is wanted that was not before.
    pub changed: Arc<Notify>,
    /// Whether it knows the versions, and the servers have them as far as they can.
    pub looked: Arc<AtomicBool>,
    /// Whether the topic of versions was read to its end.
    pub caught_up: Arc<AtomicBool>,
}

/// What the keeper remembers between two looks.
#[derive(Default)]
struct Memory {
    /// When a load that failed may be tried again, by server and version.
    again: BTreeMap<(Arc<str>, String), (Instant, Backoff)>,
    /// Since when a version is not wanted.
    unwanted: BTreeMap<(Arc<str>, String), Instant>,
    /// Loads under way, one task a server: a server that hangs holds up no other, and no withdrawal.
    busy: BTreeMap<Arc<str>, JoinHandle<Outcome>>,
}

impl Keeper {
    /// Works until the shutdown.
    pub async fn run(self, end: Shutdown) {
        let (keeper, began) = (Arc::new(self), Instant::now());
        let mut memory = Memory::default();
        loop {
            tokio::select! {
                () = keeper.look(&mut memory) => {}
                () = end.cancelled() => break,
            }
            keeper.ready(&memory, began);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(keeper.settings.interval_ms)) => {}
                () = keeper.changed.notified() => {}
                () = end.cancelled() => break,
            }
        }
        memory.busy.into_values().for_each(|task| task.abort());
    }

    /// Lets requests come once the versions are known and every server was asked to load them.
    fn ready(&self, memory: &Memory, began: Instant) {
        if self.looked.load(Relaxed) {
            return;
        }
        let knows = self.caught_up.load(Relaxed) && memory.busy.is_empty();
        if !knows && began.elapsed() > VERSIONS_WAIT {
            tracing::warn!("the promoted versions are not known or not loaded yet; requests are taken all the same");
        }
        if knows || began.elapsed() > VERSIONS_WAIT {
            self.looked.store(true, Relaxed);
        }
    }

    /// One look at all servers. Loads go on beside it; each ends in another look.
    async fn look(self: &Arc<Self>, memory: &mut Memory) {
        memory.collect().await;
        let wanted = self.versions.wanted();
        let all = &self.upstreams.all;
        let listed = futures::future::join_all(all.iter().map(|replica| replica.list(&self.client))).await;
        for (replica, listed) in all.iter().zip(listed) {
            match listed {
                Ok(listed) => replica.set_models(listed),
                // Where it is only slow, what it said last holds; where it is away, it was forgotten when it went.
                Err(error) => {
                    tracing::debug!(upstream = %replica.name, %error, "it did not list its models");
                    continue;
                }
            }
            if !replica.loads_adapters() || memory.busy.contains_key(&replica.name) {
                continue;
            }
            let due = due(memory, replica, &wanted);
            let lacks = |one: &&Wanted| due.contains(&one.name) && !replica.has(&one.name);
            let lacking: Vec<Wanted> = wanted.iter().filter(lacks).cloned().collect();
            if !lacking.is_empty() {
                let (keeper, replica) = (Arc::clone(self), Arc::clone(replica));
                let name = Arc::clone(&replica.name);
                let task = tokio::spawn(async move {
                    let outcome = keeper.adjust(&replica, lacking).await;
                    keeper.changed.notify_one();
                    outcome
                });
                memory.busy.insert(name, task);
            }
        }
        self.unload(memory, &wanted).await;
        self.versions.settle(&self.everywhere(&wanted));
        let state = |replica: &Arc<Replica>, one: &Wanted| {
            (vec![replica.name.to_string(), one.name.clone()], i64::from(replica.has(&one.name)))
        };
        let chosen = self.upstreams.all.iter().filter(|replica| replica.loads_adapters());
        let all = chosen.flat_map(|replica| wanted.iter().map(move |one| state(replica, one)));
        metric::ADAPTER_LOADED.replace(all);
    }

    /// The wanted versions that all servers have that are well and load adapters.
    fn everywhere(&self, wanted: &[Wanted]) -> BTreeSet<String> {
        let chosen: Vec<_> = self.upstreams.all.iter().filter(|r| r.loads_adapters() && r.is_up()).collect();
        let all_have = |name: &str| !chosen.is_empty() && chosen.iter().all(|replica| replica.has(name));
        wanted.iter().map(|one| one.name.clone()).filter(|name| all_have(name)).collect()
    }

    /// Loads what a server lacks, one after the other, and asks it what it has.
    async fn adjust(&self, replica: &Arc<Replica>, lacking: Vec<Wanted>) -> Outcome {
        let mut outcome = Outcome { replica: Arc::clone(&replica.name), loaded: Vec::new(), failed: Vec::new() };
        let patience = Duration::from_millis(self.settings.load_timeout_ms);
        for one in lacking {
            let path = tokio::time::timeout(patience, self.path(&one)).await;
            let path = path.unwrap_or_else(|_| Err(format!("it was not pulled within {} s", patience.as_secs())));
            let loaded = match path {
                Ok(path) => replica.load(&self.client, &one.name, &path, patience).await.map_err(|e| e.to_string()),
                Err(error) => Err(error),
            };
            // Its own list decides, whatever it answered: another sidecar may have been quicker.
            let has = match replica.list(&self.client).await {
                Ok(now) => {
                    let has = now.contains(&one.name);
                    replica.set_models(now);
                    has
                }
                Err(_) => false,
            };
            match (has, loaded) {
                (true, _) => {
                    Event::AdapterLoaded { upstream: &replica.name, version: &one.name }.emit();
                    outcome.loaded.push(one.name.clone());
                }
                (false, loaded) => {
                    let error = loaded.err().unwrap_or_else(|| "it said yes and does not list it".to_owned());
                    Event::AdapterFailed { upstream: &replica.name, version: &one.name, error: &error }.emit();
                    outcome.failed.push(one.name.clone());
                }
            }
        }
        outcome
    }

    /// Unloads our versions that nobody wanted for a while.
    async fn unload(&self, memory: &mut Memory, wanted: &[Wanted]) {
        let keep = Duration::from_millis(self.settings.keep_ms);
        let mut unwanted = BTreeMap::new();
        for replica in self.upstreams.all.iter().filter(|r| r.loads_adapters() && r.is_up()) {
            for name in replica.models().iter().filter(|name| self.versions.owns(name)) {
                if wanted.iter().any(|one| one.name == *name) {
                    continue;
                }
                let key = (Arc::clone(&replica.name), name.clone());
                let since = memory.unwanted.get(&key).copied().unwrap_or_else(Instant::now);
                if since.elapsed() < keep {
                    unwanted.insert(key, since);
                } else if let Err(error) = replica.unload(&self.client, name).await {
                    Event::AdapterFailed { upstream: &replica.name, version: name, error: &error.to_string() }.emit();
                    unwanted.insert(key, since);
                } else {
                    let left = replica.models().iter().filter(|other| *other != name).cloned().collect();
                    replica.set_models(left);
                }
            }
        }
        memory.unwanted = unwanted;
    }

    /// The folder of a version as the servers see it; pulled first where that is configured.
    async fn path(&self, wanted: &Wanted) -> Result<String, String> {
        let version = wanted.version.as_ref().ok_or("no event of the topic tells where it is")?;
        if self.settings.source == AdapterSource::Shared {
            return shared_path(&version.location);
        }
        let name = wanted.name.clone();
        let folder = self.dir.join(&name);
        if !folder.join("manifest.json").exists() {
            let puller = self.puller.as_ref().ok_or("nothing is configured to pull from")?;
            let partial = self.dir.join(format!(".{name}-{}", uuid::Uuid::new_v4().simple()));
            let pulled = puller.pull(version, &partial).await;
            // Whole or not at all: the folder gets its name when all is in it.
            let placed = pulled
                .and_then(|()| std::fs::rename(&partial, &folder).map_err(|e| format!("{}: {e}", folder.display())));
            if placed.is_err() {
                drop(std::fs::remove_dir_all(&partial));
                // Another task may have been quicker.
                if !folder.join("manifest.json").exists() {
                    placed?;
                }
            }
        }
        Ok(match &self.settings.dir_on_servers {
            Some(theirs) => format!("{}/{name}", theirs.trim_end_matches('/')),
            None => folder.display().to_string(),
        })
    }
}

/// What became of a server's loads.
struct Outcome {
    replica: Arc<str>,
    loaded: Vec<String>,
    failed: Vec<String>,
}

/// The versions whose load may be tried now.
fn due(memory: &Memory, replica: &Replica, wanted: &[Wanted]) -> BTreeSet<String> {
    let now = Instant::now();
    let may = |name: &&String| {
        memory.again.get(&(Arc::clone(&replica.name), (*name).clone())).is_none_or(|(after, _)| *after <= now)
    };
    wanted.iter().map(|one| &one.name).filter(may).cloned().collect()
}

impl Memory {
    /// Takes in what became of loads that ended.
    async fn collect(&mut self) {
        let ended = |name: &&Arc<str>| self.busy[*name].is_finished();
        let ended: Vec<Arc<str>> = self.busy.keys().filter(ended).cloned().collect();
        for name in ended {
            if let Some(task) = self.busy.remove(&name)
                && let Ok(outcome) = task.await
            {
                remember(self, outcome);
            }
        }
    }
}

fn remember(memory: &mut Memory, outcome: Outcome) {
    let Outcome { replica, loaded, failed } = outcome;
    for name in loaded {
        memory.again.remove(&(Arc::clone(&replica), name));
    }
    for name in failed {
        let begin = || (Instant::now(), Backoff::new(Duration::from_millis(500), RETRY_MAX));
        let entry = memory.again.entry((Arc::clone(&replica), name)).or_insert_with(begin);
        entry.0 = Instant::now() + entry.1.next_pause();
    }
}

/// A location that servers see as it is.
fn shared_path(location: &str) -> Result<String, String> {
    if let Some(path) = location.strip_prefix("file://") {
        return Ok(path.trim_end_matches('/').to_owned());
    }
    match location.split_once("://") {
        Some((scheme, _)) => Err(format!(
            "its folder is {location}, and servers cannot read {scheme}://; set sidecar.adapters.source = \"pull\""
        )),
        None => Ok(location.trim_end_matches('/').to_owned()),
    }
}
