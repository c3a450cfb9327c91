//! The loop that starts cycles as processes of their own, one at a time, in one daemon of many.
//!
//! The owner of the seat (module `election`) raises the scheduler's fence first, so that whoever had it before can commit nothing for
//! its cycles. It runs on what was left behind, tries failed cycles again after a pause, parks those that failed too often, and
//! starts new ones by each model's schedule. At a shutdown the child is asked to end; its cycle stays open and the next owner
//! goes on with it.

mod child;
mod election;

use super::cycle::{self, Running, Standing, Stop};
use super::schedule::{Past, decide};
use super::{outbox, rollback};
use crate::config::{Config, Model, Window};
use crate::domain::{CycleEvent, CycleId, CycleState, ModelName, Timestamp, WindowName};
use crate::lake::{Fence, Lake, TableName};
use crate::runtime::{Shutdown, now};
use crate::window;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the schedule is looked at.
const TICK: Duration = Duration::from_secs(2);
/// The pause before a cycle is run on that its process left as it is: a launcher may do that each time.
const LEFT_PAUSE: Duration = Duration::from_secs(15);
/// Pauses between two counts of a window's fresh prompts are so many times what a count took: rows come with each of ingestion's
/// commits, and a window may look at many of them.
const COUNT_PAUSE: u32 = 20;
/// The name of the fence that the owner of the seat holds.
pub const SCHEDULER: &str = "scheduler";

/// One model's place in the loop.
struct Watched {
    name: ModelName,
    /// The version of `inference_log` that was counted last: without new rows there are no new prompts.
    counted: Option<i64>,
    enough: bool,
    /// No window is counted before.
    count_again: Option<Instant>,
    /// The model's rows of `cycle`, and the table's version when they were read.
    read: Option<(i64, Arc<[CycleEvent]>)>,
    /// No open cycle is run on before: its process left it as it is.
    again: Option<Instant>,
}

impl Watched {
    fn new(name: &ModelName) -> Self {
        Self { name: name.clone(), counted: None, enough: false, count_again: None, read: None, again: None }
    }

    /// All rows of the model's cycles; read only where the table has changed, which is seldom beside how often it is looked at.
    async fn events(&mut self, lake: &Lake) -> Result<Arc<[CycleEvent]>> {
        let version = lake.version(TableName::Cycle).await?;
        if let Some((_, events)) = self.read.as_ref().filter(|(read, _)| *read == version) {
            return Ok(Arc::clone(events));
        }
        let events: Arc<[CycleEvent]> = lake.cycle_events(Some(&self.name)).await?.into();
        self.read = Some((version, Arc::clone(&events)));
        Ok(events)
    }
}

/// Runs until the shutdown.
///
/// # Errors
/// None that a later turn could mend: those are logged.
pub async fn run(config: Arc<Config>, lake: Lake, shutdown: Shutdown) -> Result<()> {
    let started = now();
    if config.models.is_empty() {
        return Ok(());
    }
    let mut seat = election::stand(Arc::clone(&config), shutdown.clone());
    while !shutdown.is_cancelled() {
        let taken = *seat.borrow_and_update();
        if taken {
            let term = shutdown.child_token();
            let until_lost = async {
                while *seat.borrow_and_update() {
                    if seat.changed().await.is_err() {
                        break;
                    }
                }
                term.cancel();
                // The term ends its tasks in order.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = serve(&config, &lake, started, &term) => {}
                () = until_lost => {}
            }
            continue;
        }
        tokio::select! {
            changed = seat.changed() => if changed.is_err() { break },
            () = shutdown.cancelled() => break,
        }
    }
    Ok(())
}

/// What the owner of the seat does, until its term ends.
///
/// Another daemon that raised the fence later has the seat, or raised it just before it lost the seat to this one: Kafka's word
/// decides. Where that has not changed when a session would have run out, the fence is raised anew.
async fn serve(config: &Arc<Config>, lake: &Lake, started: Timestamp, term: &Shutdown) {
    let session = Duration::from_millis(config.scheduler.session_timeout_ms.into());
    while let Some(fence) = take(lake, term).await {
        tracing::info!(token = fence.token, "this daemon starts the cycles");
        let held = term.child_token();
        let ends_all = |fenced: bool| {
            if fenced {
                held.cancel();
            }
        };
        tokio::join!(
            async { ends_all(cycles(config, lake, &fence, started, &held).await) },
            outbox::run(config, lake, &held),
            async { ends_all(rollback::run(config, lake, &fence, &held).await) }
        );
        tracing::info!(token = fence.token, "this daemon starts no more cycles");
        tokio::select! {
            () = tokio::time::sleep(session) => {}
            () = term.cancelled() => return,
        }
    }
}

/// Raises the scheduler's fence; nothing where the term ended first.
async fn take(lake: &Lake, term: &Shutdown) -> Option<Fence> {
    loop {
        let raised = tokio::select! {
            raised = lake.raise_fence(SCHEDULER) => raised,
            () = term.cancelled() => return None,
        };
        let error = match raised {
            Ok(fence) => return Some(fence),
            Err(error) => format!("{:#}", anyhow::Error::new(error)),
        };
        tracing::warn!(error, "the seat cannot be taken yet");
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = term.cancelled() => return None,
        }
    }
}

/// Starts cycles until the term ends; gives whether it ended because another daemon has raised the fence.
async fn cycles(config: &Config, lake: &Lake, fence: &Fence, mut started: Timestamp, term: &Shutdown) -> bool {
    let mut models: Vec<Watched> = config.models.keys().map(Watched::new).collect();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = term.cancelled() => return false,
        }
        // The clock may have been ahead when the daemon started.
        started = started.min(now());
        for watched in &mut models {
            let Err(error) = look(config, lake, watched, (fence, started), term).await else { continue };
            if error.downcast_ref::<crate::lake::Error>().is_some_and(crate::lake::Error::is_fenced) {
                tracing::warn!("another daemon has taken the seat over");
                return true;
            }
            let (model, error) = (watched.name.as_str(), format!("{error:#}"));
            tracing::warn!(model, error, "the schedule could not be followed, trying again");
        }
    }
}

async fn look(
    config: &Config,
    lake: &Lake,
    watched: &mut Watched,
    (fence, started): (&Fence, Timestamp),
    term: &Shutdown,
) -> Result<()> {
    let model = config.models.get(&watched.name).context("the model is gone")?;
    let (window_name, window) = config.window_of(model).context("the window is gone")?;
    let events = watched.events(lake).await?;
    let past = Past::of(&events, window, now());
    for standing in open_cycles(&events) {
        // By hand, or what a daemon left behind that is not dead yet: two at once would be too much for most machines.
        if Running::of(lake, &standing.cycle).await?.is_some() {
            return Ok(());
        }
        if standing.cancelling && cycle::registered(lake, &standing).await?.is_none() {
            cycle::cancel(lake, &standing.cycle, "cancelled; its process had gone").await?;
            continue;
        }
        let waits = standing.state == CycleState::Failed;
        if waits && now() < standing.retry_time(model.schedule.retry_pause_seconds) {
            continue;
        }
        if standing.is_ours() {
            if watched.again.is_some_and(|again| Instant::now() < again) {
                continue;
            }
            let left = supervise(config, lake, (&watched.name, model), &standing.cycle, fence, term).await?;
            watched.again = left.then(|| Instant::now() + LEFT_PAUSE);
            return Ok(());
        }
    }
    if past.may_count(model, now()) {
        count((config, lake), watched, (window_name, window, model.gate.prompts_min), past.since).await?;
    }
    if let Some(trigger) = decide(&past, model, watched.enough, started, now()) {
        lake.check_fences(std::slice::from_ref(fence)).await?;
        let id = cycle::request(lake, &watched.name, trigger).await?;
        (watched.counted, watched.enough, watched.count_again) = (None, false, None);
        let left = supervise(config, lake, (&watched.name, model), &id, fence, term).await?;
        watched.again = left.then(|| Instant::now() + LEFT_PAUSE);
    }
    Ok(())
}

/// The cycles that have not ended, the oldest first.
fn open_cycles(events: &[CycleEvent]) -> Vec<Standing> {
    let mut by_cycle: BTreeMap<&CycleId, Vec<CycleEvent>> = BTreeMap::new();
    for event in events {
        by_cycle.entry(&event.cycle).or_default().push(event.clone());
    }
    by_cycle.values().filter_map(|events| Standing::of(events)).filter(|s| !s.state.is_end()).collect()
}

/// Counts the window's fresh prompts, where the table has changed since the last count; a long count is not made again soon.
async fn count(
    (config, lake): (&Config, &Lake),
    watched: &mut Watched,
    (name, window, holdout_min): (&WindowName, &Window, usize),
    since: Timestamp,
) -> Result<()> {
    let table_version = lake.version(TableName::InferenceLog).await?;
    if watched.counted == Some(table_version) || watched.count_again.is_some_and(|again| Instant::now() < again) {
        return Ok(());
    }
    let began = Instant::now();
    let avoid = super::avoided(config, name)?;
    let request = window::Request { name, window, table_version, since, until: now(), avoid: &avoid };
    let at = |table| (table == TableName::InferenceLog).then_some(table_version);
    let set = window::choose(&request, super::sources_at(config, lake, at).await?).await?;
    watched.enough = window::enough(&set, window, holdout_min).is_ok();
    watched.counted = Some(table_version);
    watched.count_again = Some(Instant::now() + began.elapsed() * COUNT_PAUSE);
    Ok(())
}

/// Runs a cycle in its process and writes what that could not say itself; gives whether the process left it as it is.
async fn supervise(
    config: &Config,
    lake: &Lake,
    (name, model): (&ModelName, &Model),
    id: &CycleId,
    fence: &Fence,
    term: &Shutdown,
) -> Result<bool> {
    let attempt = cycle::standing(lake, id).await?.next_attempt();
    let ended = child::run(config, lake, (name, id), fence, term).await;
    let fences = std::slice::from_ref(fence);
    let mut leaves = false;
    let error = match ended {
        Ok(child::End::Asked) => return Ok(true),
        Ok(child::End::Died(why)) => Some(why),
        Ok(child::End::Exited { code, last }) => {
            let left = [Stop::Shutdown, Stop::Overtaken].map(|stop| i32::from(stop.exit_code()));
            // Those leave the cycle as it is, for whoever goes on with it.
            leaves = left.contains(&code);
            (code != 0 && !leaves)
                .then(|| format!("the cycle's process ended with status {code} and left no word in the table: {last}"))
        }
        Err(error) => Some(format!("{error:#}")),
    };
    if leaves {
        // Because another daemon has the seat? The child was told so, and ours is to know it, too.
        lake.check_fences(fences).await?;
    }
    if let Some(error) = error {
        cycle::fail(lake, id, attempt, &error, fences).await?;
    }
    cycle::park_if_spent(lake, id, model.schedule.retries_max, fences).await?;
    Ok(leaves)
}
