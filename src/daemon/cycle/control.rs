//! What goes on beside the steps of a running cycle: its heartbeat, its progress, and whether it has to stop.
//!
//! `cycles/<id>/run.json` is written anew every few seconds while a process runs the cycle, and goes when it ends. It only tells
//! people and schedulers who seems to be at work: that two never write is the fences' part. The steps look at a flag; one that
//! does not look in time ends with the process, which a cycle survives.

use super::{Job, Progress, host};
use crate::domain::{CycleEvent, CycleId, CycleState, ModelName, Timestamp};
use crate::lake::{Fence, Lake, TableName};
use crate::runtime::{Shutdown, now};
use anyhow::{Context as _, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often the table is looked at for a cancellation or a new owner.
const LOOK: Duration = Duration::from_secs(1);
/// How often the heartbeat is written.
const BEAT: Duration = Duration::from_secs(5);
/// A heartbeat of this age is a process that is gone, whatever it was doing: several were missed.
const SILENCE_MICROS: i64 = 30_000_000;
/// How long a step may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Why a run stops before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The process was asked to end; the cycle stays open.
    #[error("interrupted; `pelton cycle resume` goes on where it stopped")]
    Shutdown,
    /// Somebody cancelled the cycle.
    #[error("cancelled")]
    Cancelled,
    /// Another process runs the cycle, or another scheduler does.
    #[error("another process has taken this cycle over; nothing more was written")]
    Overtaken,
}

impl Stop {
    /// The status that `pelton cycle run` exits with.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Cancelled => 3,
            Self::Overtaken => 4,
            Self::Shutdown => 5,
        }
    }
}

/// Who runs a cycle, as its heartbeat says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// The cycle's fencing token that it holds.
    pub token: i64,
    /// When it was written, microseconds since the epoch.
    pub time_micros: i64,
    /// The step under way.
    pub step: String,
    /// Units of it that are done.
    pub done: usize,
    /// Of how many.
    pub total: usize,
}

impl Running {
    /// Reads a cycle's heartbeat; nothing where none is there, or where its process is gone.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn of(lake: &Lake, cycle: &CycleId) -> Result<Option<Self>> {
        let (store, path) = place(lake, cycle);
        let found = match store.get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error).context("the cycle's heartbeat"),
        };
        // What cannot be read was cut off: nobody is at work who will not write it again.
        let running: Option<Self> = serde_json::from_slice(&found).ok();
        Ok(running.filter(|r| r.is_alive(now())))
    }

    fn is_alive(&self, now: Timestamp) -> bool {
        let here = self.host != host() || std::path::Path::new(&format!("/proc/{}", self.pid)).exists();
        here && (now.micros() - self.time_micros).abs() < SILENCE_MICROS
    }
}

fn place(lake: &Lake, cycle: &CycleId) -> (Arc<dyn ObjectStore>, Path) {
    let (store, prefix) = crate::daemon::store_of(lake);
    (store, prefix.join("cycles").join(cycle.as_str()).join("run.json"))
}

struct Shared {
    flag: AtomicBool,
    order: Mutex<Order>,
    progress: Mutex<Option<Progress>>,
}

/// What a run was told first.
#[derive(Debug, Default)]
struct Order {
    stop: Option<Stop>,
    /// It registers its version: a cancellation comes too late.
    releases: bool,
}

impl Shared {
    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the run has to stop for that.
    fn accept(&self, stop: Stop) -> bool {
        let mut order = self.order();
        if order.releases && stop == Stop::Cancelled {
            return false;
        }
        order.stop.get_or_insert(stop);
        true
    }
}

/// The handle that the steps hold.
pub(super) struct Control {
    shared: Arc<Shared>,
    over: CancellationToken,
    /// None beside a turn that is no cycle of the table.
    beside: Option<JoinHandle<()>>,
    lake: Lake,
    cycle: CycleId,
}

/// What the task beside the steps knows.
struct Beside {
    shared: Arc<Shared>,
    lake: Lake,
    cycle: CycleId,
    model: ModelName,
    attempt: u32,
    fences: Vec<Fence>,
    progress_every: Duration,
    exit: Option<fn(u8)>,
}

impl Control {
    /// `releases`: its version is registered already, by a try that did not come to its end.
    pub(super) fn start(job: &Job<'_>, attempt: u32, fences: &[Fence], releases: bool, shutdown: &Shutdown) -> Self {
        let order = Mutex::new(Order { stop: None, releases });
        let shared = Arc::new(Shared { flag: AtomicBool::new(false), order, progress: Mutex::new(None) });
        let beside = Beside {
            shared: Arc::clone(&shared),
            lake: job.lake.clone(),
            cycle: job.id.clone(),
            model: job.model.clone(),
            attempt,
            fences: fences.to_vec(),
            progress_every: Duration::from_secs(job.config.cycle.progress_seconds.into()),
            exit: job.exit,
        };
        let over = CancellationToken::new();
        let beside = Some(tokio::spawn(beside.run(over.clone(), shutdown.clone())));
        Self { shared, over, beside, lake: job.lake.clone(), cycle: job.id.clone() }
    }

    /// For steps that are made again beside the table: no heartbeat, no rows, and nothing that stops them.
    pub(super) fn quiet(job: &Job<'_>) -> Self {
        let (flag, order, progress) = (AtomicBool::new(false), Mutex::default(), Mutex::new(None));
        let shared = Arc::new(Shared { flag, order, progress });
        Self { shared, over: CancellationToken::new(), beside: None, lake: job.lake.clone(), cycle: job.id.clone() }
    }

    /// The flag that steps look at.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.shared.flag
    }

    pub(super) fn stopped(&self) -> Option<Stop> {
        self.shared.order().stop
    }

    /// From here on the cycle ends in a version, whoever cancels it: half a release would be a champion that nobody is told of.
    pub(super) fn release(&self) -> Result<(), Stop> {
        let mut order = self.shared.order();
        order.releases = order.stop.is_none();
        order.stop.map_or(Ok(()), Err)
    }

    pub(super) fn note(&self, progress: Progress) {
        *self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    /// Ends the heartbeat; nobody is at work any more.
    pub(super) async fn end(self) {
        self.over.cancel();
        if let Some(beside) = self.beside {
            drop(beside.await);
        }
        let (store, path) = place(&self.lake, &self.cycle);
        let running = Running::of(&self.lake, &self.cycle).await;
        // Whoever took over says so there himself. Where it stays, its process is gone and it counts for nothing.
        if !running.is_ok_and(|running| running.is_some_and(|r| (r.host, r.pid) != (host(), std::process::id()))) {
            drop(store.delete(&path).await);
        }
    }
}

impl Beside {
    async fn run(self, over: CancellationToken, shutdown: Shutdown) {
        let (mut seen, mut told) = (None, None);
        let (mut beat, mut row) = (None::<Instant>, Instant::now());
        let stop = loop {
            if beat.is_none_or(|at| at.elapsed() >= BEAT) {
                beat = Some(Instant::now());
                self.beat().await;
            }
            if row.elapsed() >= self.progress_every {
                row = Instant::now();
                self.tell(&mut told).await;
            }
            if let Some(stop) = self.look(&mut seen).await
                && self.shared.accept(stop)
            {
                break stop;
            }
            tokio::select! {
                () = over.cancelled() => return,
                () = shutdown.cancelled() => {
                    self.shared.accept(Stop::Shutdown);
                    break Stop::Shutdown;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        };
        self.shared.flag.store(true, Ordering::Relaxed);
        if tokio::time::timeout(GRACE, over.cancelled()).await.is_ok() {
            return;
        }
        let Some(exit) = self.exit else { return };
        if stop == Stop::Cancelled {
            let detail = json!({"reason": "cancelled", "while": self.step()});
            if let Err(error) = self.append(CycleState::Cancelled, detail).await {
                tracing::warn!(error = format!("{error:#}"), "the cancellation could not be written");
            }
        }
        exit(stop.exit_code());
    }

    fn progress(&self) -> Option<Progress> {
        *self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> &'static str {
        self.progress().map_or("begin", |p| p.step)
    }

    async fn beat(&self) {
        let (done, total) = self.progress().map_or((0, 0), |p| (p.done, p.total));
        let running = Running {
            host: host(),
            pid: std::process::id(),
            token: self.fences.first().map_or(0, |f| f.token),
            time_micros: now().micros(),
            step: self.step().to_owned(),
            done,
            total,
        };
        let (store, path) = place(&self.lake, &self.cycle);
        let bytes = serde_json::to_vec(&running).unwrap_or_default();
        if let Err(error) = store.put(&path, bytes.into()).await {
            tracing::debug!(%error, "the heartbeat could not be written");
        }
    }

    /// A row that says how far the step is, where it went on.
    async fn tell(&self, told: &mut Option<(&'static str, usize)>) {
        let Some(progress) = self.progress() else { return };
        let Some(state) = CycleState::parse(progress.step) else { return };
        if *told == Some((progress.step, progress.done)) {
            return;
        }
        *told = Some((progress.step, progress.done));
        let detail = json!({"progress": {"done": progress.done, "total": progress.total}});
        if let Err(error) = self.append(state, detail).await {
            tracing::debug!(error = format!("{error:#}"), "the progress could not be written");
        }
    }

    async fn append(&self, state: CycleState, detail: serde_json::Value) -> Result<()> {
        let (cycle, model) = (self.cycle.clone(), self.model.clone());
        let (until, version, attempt, detail) = (None, None, self.attempt, detail.to_string());
        let event = CycleEvent { cycle, model, state, time: now(), attempt, until, version, detail };
        Ok(self.lake.append_cycle_fenced(&event, &self.fences).await?)
    }

    /// Looks whether the table says to stop, where it has changed.
    async fn look(&self, seen: &mut Option<i64>) -> Option<Stop> {
        // A store that is away says nothing; the steps find that out by themselves.
        let version = self.lake.version(TableName::Cycle).await.ok()?;
        if *seen == Some(version) {
            return None;
        }
        if self.lake.check_fences(&self.fences).await.is_err_and(|e| e.is_fenced()) {
            return Some(Stop::Overtaken);
        }
        let events = self.lake.events_of_cycle(&self.cycle).await.ok()?;
        *seen = Some(version);
        let asked = events.iter().any(|e| e.state == CycleState::Cancelling && e.attempt == self.attempt);
        asked.then_some(Stop::Cancelled)
    }
}
