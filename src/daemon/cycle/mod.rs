//! One turn of the wheel: collect → explore → score → optimize → evaluate → gate → register → publish.
//!
//! Each state is a row of the `cycle` table, written when the step begins, with the figures of the step before. A step's
//! output is durable before the next begins: prompts, candidates and comparisons in their tables, the plan, the adapter, the
//! answers and the verdict in `<lake>/cycles/<id>/`, the version in the registry. A cycle that was killed is run again under
//! the same id: what is durable is taken as it is, what is not is computed again from the same seed and comes out the same.
//!
//! Whoever runs a cycle takes it over first, by a fence ([`crate::lake::Fence`]): a process that ran it before and is not as
//! dead as it seemed can write no state and register nothing.

mod control;
pub mod logs;
mod orders;
mod release;
pub mod reproduce;
mod scorers;
mod standing;
mod steps;
mod workspace;

pub use control::{Running, Stop};
pub use orders::{cancel, fail, park_if_spent, registered, reopen, standing};
pub use release::retain;
pub use standing::Standing;

use crate::config::{Config, Model as ModelConfig, Window};
use crate::domain::{
    CycleEvent, CycleId, CycleState, EvalReport, ModelName, Prompt, Timestamp, TrainingSet, Trigger, VersionNumber,
    VersionRef, WindowName,
};
use crate::lake::{Fence, Lake};
use crate::model::{Lora, Model};
use crate::runtime::{Failpoint, Shutdown, failpoint, now};
use crate::telemetry::Event;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::fmt;

/// How far the step under way is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The step.
    pub step: &'static str,
    /// Units done.
    pub done: usize,
    /// Of how many.
    pub total: usize,
}

/// Tells whether answers to prompts are right; only a demo or a benchmark knows.
pub trait Truth: Sync {
    /// For each prompt and answer whether it is right; `None` where no truth is known.
    fn correct(&self, answers: &[(&Prompt, &str)]) -> Vec<Option<bool>>;
}

/// A cycle to run.
pub struct Job<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The tables.
    pub lake: &'a Lake,
    /// The model to tune.
    pub model: &'a ModelName,
    /// The cycle, requested already.
    pub id: &'a CycleId,
    /// The truth, where there is one. It never reaches training or the gate.
    pub truth: Option<&'a dyn Truth>,
    /// The scheduler's fence, where one started it: a cycle of a scheduler that was replaced writes nothing.
    pub scheduler: Option<Fence>,
    /// Who watches.
    pub watch: &'a (dyn Fn(Progress) + Sync),
    /// How the process ends where a step does not stop in time, with the status; nothing in a process that has other work.
    pub exit: Option<fn(u8)>,
}

impl<'a> Job<'a> {
    /// A cycle that a person asked for, in a process that has other work too.
    #[must_use]
    pub fn new(config: &'a Config, lake: &'a Lake, model: &'a ModelName, id: &'a CycleId) -> Self {
        Self { config, lake, model, id, truth: None, scheduler: None, watch: &|_| {}, exit: None }
    }
}

/// How a cycle ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The cycle.
    pub cycle: CycleId,
    /// [`CycleState::Done`], [`CycleState::Skipped`] or [`CycleState::Cancelled`].
    pub state: CycleState,
    /// Why it was skipped; empty otherwise.
    pub reason: String,
    /// The version, where one was registered.
    pub version: Option<VersionRef>,
    /// Whether the version became the champion.
    pub promoted: bool,
    /// What the evaluation found.
    pub report: Option<EvalReport>,
    /// The id of the event that says how the version ended.
    pub event_id: Option<String>,
    /// Whether the broker has that event; otherwise a daemon or `pelton model publish` sends it later.
    pub announced: bool,
    /// Candidates sampled.
    pub candidates: usize,
    /// The adapter's folder.
    pub location: Option<String>,
}

impl Outcome {
    /// The outcome for scripts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let gain = self.report.as_ref().map(|r| json!([r.reward_gain.mean, r.reward_gain.low, r.reward_gain.high]));
        json!({
            "cycle": self.cycle.as_str(),
            "state": self.state.as_str(),
            "reason": self.reason,
            "version": self.version.as_ref().map(ToString::to_string),
            "promoted": self.report.as_ref().map(|_| self.promoted),
            "gain": gain,
            "event_id": self.event_id,
            "announced": self.version.as_ref().map(|_| self.announced),
            "location": self.location,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(version), Some(report)) = (&self.version, &self.report) else {
            return write!(f, "{}: {} ({})", self.cycle, self.state, self.reason);
        };
        let what = if self.promoted { "promoted" } else { "rejected" };
        let gain = crate::evaluate::interval_text(report.reward_gain);
        write!(f, "{version} {what}: gain in reward {gain} on {} holdout prompts", report.prompts)?;
        self.location.iter().try_for_each(|l| write!(f, "\n{l}"))
    }
}

/// Writes that a cycle is asked for, and gives its id.
///
/// # Errors
/// Where the table cannot be written.
pub async fn request(lake: &Lake, model: &ModelName, trigger: Trigger) -> Result<CycleId> {
    let time = now();
    let stamp = chrono::DateTime::from_timestamp_micros(time.micros()).unwrap_or_default().format("%Y%m%dt%H%M%S");
    let tail = uuid::Uuid::new_v4().simple().to_string();
    let id = CycleId::new(format!("{:.40}-{stamp}-{}", model.as_str(), &tail[..6]))?;
    let detail = json!({"trigger": trigger.as_str(), "host": host(), "pid": std::process::id()}).to_string();
    let state = CycleState::Requested;
    let (cycle, model) = (id.clone(), model.clone());
    let event = CycleEvent { cycle, model, state, time, attempt: 1, until: None, version: None, detail };
    lake.append_cycle(&event).await?;
    Ok(id)
}

/// This machine's name: who asked for a cycle, so that only a daemon of the same machine calls it dead.
#[must_use]
pub fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The name of the fence of a cycle's run.
pub(super) fn run_fence(cycle: &CycleId) -> String {
    format!("cycle/{cycle}")
}

/// Runs a cycle to its end, whatever that is; an error is written to the table too.
///
/// # Errors
/// What stopped it; a [`Stop`] where it was told to.
pub async fn run(job: &Job<'_>, shutdown: &Shutdown) -> Result<Outcome> {
    // A scheduler that was replaced must not even take the cycle from whoever runs it by right.
    if let Some(scheduler) = &job.scheduler
        && let Err(error) = job.lake.check_fences(std::slice::from_ref(scheduler)).await
    {
        let stop = error.is_fenced().then_some(Stop::Overtaken);
        return Err(stop.map_or_else(|| error.into(), anyhow::Error::from));
    }
    let mine = job.lake.raise_fence(&run_fence(job.id)).await?;
    // Read only now: what was written before the fence stands, and what its predecessors write after it is refused.
    let standing = orders::standing(job.lake, job.id).await?;
    if standing.state.is_end() {
        bail!("cycle {} has ended: it is {}", job.id, standing.state);
    }
    let fences: Vec<Fence> = std::iter::once(mine).chain(job.scheduler.clone()).collect();
    let attempt = standing.next_attempt();
    let releases = orders::registered(job.lake, &standing).await?.is_some();
    let control = control::Control::start(job, attempt, &fences, releases, shutdown);
    let log = StateLog { job, fences, attempt, until: None, version: standing.version };
    let ended = conclude(job, &control, log).await;
    control.end().await;
    ended
}

async fn conclude(job: &Job<'_>, control: &control::Control, mut log: StateLog<'_>) -> Result<Outcome> {
    let error = match turn(job, control, &mut log).await {
        Ok(outcome) => {
            log.enter(outcome.state, outcome.to_json()).await?;
            let detail = outcome.to_string();
            Event::CycleEnded { cycle: job.id.as_str(), state: outcome.state.as_str(), detail: &detail }.emit();
            return Ok(outcome);
        }
        Err(error) => error,
    };
    let fenced = error.downcast_ref::<crate::lake::Error>().is_some_and(crate::lake::Error::is_fenced);
    match control.stopped().or(fenced.then_some(Stop::Overtaken)) {
        // A shutdown leaves the cycle open: it goes on under the same id.
        Some(stop @ (Stop::Shutdown | Stop::Overtaken)) => Err(error.context(stop)),
        Some(Stop::Cancelled) => {
            let outcome = ended_early(job, CycleState::Cancelled, "cancelled".to_owned());
            log.enter(outcome.state, outcome.to_json()).await?;
            Ok(outcome)
        }
        None => {
            let detail = format!("{error:#}");
            Event::CycleEnded { cycle: job.id.as_str(), state: "failed", detail: &detail }.emit();
            log.enter(CycleState::Failed, json!({ "error": detail })).await?;
            Err(error)
        }
    }
}

/// Writes the states of one cycle.
struct StateLog<'a> {
    job: &'a Job<'a>,
    fences: Vec<Fence>,
    attempt: u32,
    until: Option<Timestamp>,
    version: Option<VersionNumber>,
}

impl StateLog<'_> {
    async fn enter(&self, state: CycleState, detail: Value) -> Result<()> {
        let detail = detail.to_string();
        Event::CycleStep { cycle: self.job.id.as_str(), state: state.as_str(), detail: &detail }.emit();
        let (cycle, model) = (self.job.id.clone(), self.job.model.clone());
        let (until, version, attempt) = (self.until, self.version, self.attempt);
        let event = CycleEvent { cycle, model, state, time: now(), attempt, until, version, detail };
        self.job.lake.append_cycle_fenced(&event, &self.fences).await?;
        failpoint(Failpoint::InState);
        Ok(())
    }
}

/// What every step needs.
struct Turn<'a> {
    job: &'a Job<'a>,
    settings: &'a ModelConfig,
    window_name: &'a WindowName,
    window: &'a Window,
    base: Model,
    scorers: scorers::Scorers,
    champion: Option<(VersionRef, Lora)>,
    plan: workspace::Plan,
    seed: u64,
    control: &'a control::Control,
}

impl Turn<'_> {
    /// Says how far a step is, to whoever watches and to the table.
    fn report(&self, step: &'static str, done: usize, total: usize) {
        let progress = Progress { step, done, total };
        self.control.note(progress);
        (self.job.watch)(progress);
    }
}

async fn turn(job: &Job<'_>, control: &control::Control, log: &mut StateLog<'_>) -> Result<Outcome> {
    let turn = prepare(job, control).await?;
    all_steps(&turn, log).await
}

async fn prepare<'a>(job: &'a Job<'a>, control: &'a control::Control) -> Result<Turn<'a>> {
    let settings = job.config.models.get(job.model).with_context(|| format!("there is no model `{}`", job.model))?;
    let (window_name, window) = job.config.window_of(settings).context("the model's window is gone")?;
    let folder = job.config.resolve(&settings.base);
    let base = tokio::task::block_in_place(|| Model::load(&folder, &candle_core::Device::Cpu))
        .with_context(|| format!("models.{}.base", job.model))?;
    let plan = workspace::plan(job, settings, &base).await?;
    let champion = release::champion(job, &base, plan.champion.as_deref()).await?;
    let seed = plan.seed;
    let scorers = scorers::open(job, settings, seed, &plan.tables).await?;
    Ok(Turn { job, settings, window_name, window, base, scorers, champion, plan, seed, control })
}

async fn all_steps(turn: &Turn<'_>, log: &mut StateLog<'_>) -> Result<Outcome> {
    log.enter(CycleState::Collect, json!({ "seed": turn.seed, "champion": turn.plan.champion })).await?;
    let set = steps::collect(turn).await?;
    // Who asked for it by hand may want to see what it comes to; a schedule must not spend prompts for nothing.
    let by_hand = standing(turn.job.lake, turn.job.id).await?.trigger == crate::domain::Trigger::Hand.as_str();
    let holdout_min = if by_hand { 1 } else { turn.settings.gate.prompts_min };
    if let Err(reason) = crate::window::enough(&set, turn.window, holdout_min) {
        return Ok(ended_early(turn.job, CycleState::Skipped, reason.to_string()));
    }
    if set.train.is_empty() || set.holdout.is_empty() {
        return Ok(ended_early(turn.job, CycleState::Skipped, "one side of the split is empty".to_owned()));
    }
    log.until = Some(set.until);
    let (tuned, candidates) = tune(turn, Some(log), &set).await?;
    log.enter(CycleState::Evaluate, tuned.figures()).await?;
    let compared = workspace::compared(turn, || steps::compare(turn, &set, &tuned.adapter)).await?;
    log.enter(CycleState::Gate, json!({"compared": compared.comparisons.len(), "kl_to_base": compared.kl})).await?;
    let report = workspace::verdict(turn, || steps::judge(turn, &tuned, &compared)).await?;
    turn.control.release()?;
    log.enter(CycleState::Register, crate::evaluate::report_to_json(&report, &turn.settings.gate)).await?;
    let comparisons = &compared.comparisons;
    let released = release::register(turn, &log.fences, &set, &tuned, comparisons, &report).await?;
    log.version = Some(released.version.number);
    let said = json!({"version": released.version.to_string(), "state": released.state.as_str()});
    log.enter(CycleState::Publish, said).await?;
    let (event_id, announced) = release::announce(turn, &released).await?;
    Ok(Outcome {
        cycle: turn.job.id.clone(),
        state: CycleState::Done,
        reason: released.reason,
        version: Some(released.version),
        promoted: released.state == crate::domain::VersionState::Promoted,
        report: Some(report),
        event_id: Some(event_id),
        announced,
        candidates,
        location: Some(released.location),
    })
}

/// Explore, score and optimize, as many rounds as are configured; a finished round is not run again.
///
/// Without a log nothing is written but the workspace.
async fn tune(turn: &Turn<'_>, log: Option<&StateLog<'_>>, set: &TrainingSet) -> Result<(steps::Tuned, usize)> {
    let rounds = turn.settings.optimize.rounds;
    let per_round = set.train.len() * turn.settings.explore.samples as usize;
    let mut tuned = workspace::latest_round(turn, rounds).await?;
    let first = tuned.as_ref().map_or(1, |t| t.round + 1);
    let past = steps::past_answers(turn).await?;
    if first <= rounds {
        steps::check_memory(turn, set)?;
    }
    for round in first..=rounds {
        let start = tuned.as_ref().map(|t| &t.adapter).or(turn.champion.as_ref().map(|(_, adapter)| adapter));
        enter(log, CycleState::Explore, json!({"round": round, "prompts": set.train.len()})).await?;
        let mut explored = steps::explore(turn, set, round, start, &past)?;
        enter(log, CycleState::Score, json!({"round": round, "candidates": explored.candidates.len()})).await?;
        let figures = steps::score(turn, set, &mut explored)?;
        let step = format!("score-{round}");
        if log.is_some() {
            turn.job.lake.append_candidates(turn.job.id, &step, &explored.candidates, now()).await?;
        }
        enter(log, CycleState::Optimize, figures).await?;
        let mut next = steps::optimize(turn, &explored, round, start)?;
        next.follow(tuned.as_ref());
        workspace::save(turn, &next).await?;
        tuned = Some(next);
    }
    let tuned = tuned.context("optimize.rounds is 0")?;
    Ok((tuned, per_round * rounds as usize))
}

async fn enter(log: Option<&StateLog<'_>>, state: CycleState, detail: Value) -> Result<()> {
    match log {
        Some(log) => log.enter(state, detail).await,
        None => Ok(()),
    }
}

fn ended_early(job: &Job<'_>, state: CycleState, reason: String) -> Outcome {
    Outcome {
        cycle: job.id.clone(),
        state,
        reason,
        version: None,
        promoted: false,
        report: None,
        event_id: None,
        announced: false,
        candidates: 0,
        location: None,
    }
}
