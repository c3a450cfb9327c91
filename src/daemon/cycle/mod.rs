//! One turn of the wheel: collect → explore → score → optimize → evaluate → register → publish.
//!
//! Each state is a row of the `cycle` table, written when the step begins, with the figures of the step before. A step's
//! output is durable before the next begins: prompts, candidates and comparisons in their tables, the adapter in
//! `<lake>/cycles/<id>/`, the version in the registry. A cycle that was killed is run again under the same id: what is
//! durable is taken as it is, what is not is computed again from the same seed and comes out the same.

mod release;
mod scorers;
mod steps;
mod workspace;

use crate::config::{Config, Model as ModelConfig, Window};
use crate::domain::{
    CycleEvent, CycleId, CycleState, EvalReport, ModelName, Prompt, Timestamp, TrainingSet, Trigger, VersionNumber,
    VersionRef, WindowName,
};
use crate::lake::Lake;
use crate::model::{Lora, Model};
use crate::runtime::{Shutdown, derive_seed, now};
use crate::telemetry::Event;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    /// Who watches.
    pub watch: &'a (dyn Fn(Progress) + Sync),
}

/// How a cycle ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The cycle.
    pub cycle: CycleId,
    /// [`CycleState::Done`] or [`CycleState::Skipped`].
    pub state: CycleState,
    /// Why it was skipped; empty otherwise.
    pub reason: String,
    /// The version, where one was registered.
    pub version: Option<VersionRef>,
    /// What the evaluation found.
    pub report: Option<EvalReport>,
    /// The id of the event that says how the version ended.
    pub event_id: Option<String>,
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
            "promoted": self.report.as_ref().map(|r| r.verdict.is_promote()),
            "gain": gain,
            "event_id": self.event_id,
            "location": self.location,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(version), Some(report)) = (&self.version, &self.report) else {
            return write!(f, "{}: {} ({})", self.cycle, self.state, self.reason);
        };
        let what = if report.verdict.is_promote() { "promoted" } else { "rejected" };
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
    let event = CycleEvent { cycle: id.clone(), model: model.clone(), state, time, until: None, version: None, detail };
    lake.append_cycle(&event).await?;
    Ok(id)
}

/// This machine's name: who asked for a cycle, so that only a daemon of the same machine calls it dead.
#[must_use]
pub fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Runs a cycle to its end, whatever that is; an error is written to the table too.
///
/// # Errors
/// What stopped it.
pub async fn run(job: &Job<'_>, shutdown: &Shutdown) -> Result<Outcome> {
    let mut log = StateLog { job, until: None, version: None };
    match turn(job, &mut log, shutdown).await {
        Ok(outcome) => {
            log.enter(outcome.state, outcome.to_json()).await?;
            let detail = outcome.to_string();
            Event::CycleEnded { cycle: job.id.as_str(), state: outcome.state.as_str(), detail: &detail }.emit();
            Ok(outcome)
        }
        // A shutdown leaves the cycle open: it goes on under the same id.
        Err(error) if shutdown.is_cancelled() => Err(error.context("interrupted; run it again with --id to go on")),
        Err(error) => {
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
    until: Option<Timestamp>,
    version: Option<VersionNumber>,
}

impl StateLog<'_> {
    async fn enter(&self, state: CycleState, detail: Value) -> Result<()> {
        let detail = detail.to_string();
        Event::CycleStep { cycle: self.job.id.as_str(), state: state.as_str(), detail: &detail }.emit();
        let (cycle, model) = (self.job.id.clone(), self.job.model.clone());
        let event = CycleEvent { cycle, model, state, time: now(), until: self.until, version: self.version, detail };
        Ok(self.job.lake.append_cycle(&event).await?)
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
    seed: u64,
    cancelled: AtomicBool,
}

async fn turn(job: &Job<'_>, log: &mut StateLog<'_>, shutdown: &Shutdown) -> Result<Outcome> {
    let turn = prepare(job).await?;
    let watching = watch_shutdown(shutdown, &turn.cancelled);
    tokio::pin!(watching);
    tokio::select! {
        outcome = all_steps(&turn, log) => outcome,
        never = &mut watching => never,
    }
}

/// Sets the flag that the steps look at when the shutdown comes; never ends by itself, so that a step ends in order.
async fn watch_shutdown(shutdown: &Shutdown, cancelled: &AtomicBool) -> Result<Outcome> {
    shutdown.cancelled().await;
    cancelled.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    bail!("the step under way did not end within 30 s")
}

async fn prepare<'a>(job: &'a Job<'a>) -> Result<Turn<'a>> {
    let settings = job.config.models.get(job.model).with_context(|| format!("there is no model `{}`", job.model))?;
    let (window_name, window) = job.config.window_of(settings).context("the model's window is gone")?;
    let folder = job.config.resolve(&settings.base);
    let base = tokio::task::block_in_place(|| Model::load(&folder, &candle_core::Device::Cpu))
        .with_context(|| format!("models.{}.base", job.model))?;
    let champion = release::champion(job, &base).await?;
    let turns = job.lake.versions(job.model).await?.iter().map(|v| v.reference.number).max();
    let seed = derive_seed(settings.seed, "cycle", &[u64::from(turns.map_or(0, VersionNumber::get))]);
    let scorers = scorers::open(job, settings, seed).await?;
    let cancelled = AtomicBool::new(false);
    Ok(Turn { job, settings, window_name, window, base, scorers, champion, seed, cancelled })
}

async fn all_steps(turn: &Turn<'_>, log: &mut StateLog<'_>) -> Result<Outcome> {
    log.enter(CycleState::Collect, json!({ "seed": turn.seed })).await?;
    let set = steps::collect(turn).await?;
    if let Err(reason) = crate::window::enough(&set, turn.window) {
        return Ok(skipped(turn, reason.to_string()));
    }
    if set.train.is_empty() || set.holdout.is_empty() {
        return Ok(skipped(turn, "one side of the split is empty".to_owned()));
    }
    log.until = Some(set.until);
    let (tuned, candidates) = tune(turn, log, &set).await?;
    log.enter(CycleState::Evaluate, tuned.figures()).await?;
    let compared = steps::compare(turn, &set, &tuned.adapter)?;
    let watched = tuned.watched(&compared);
    let seed = derive_seed(turn.seed, "gate", &[]);
    let comparisons = compared.comparisons;
    let report = crate::evaluate::evaluate_watched(&comparisons, &watched, &turn.settings.gate, seed);
    log.enter(CycleState::Register, crate::evaluate::report_to_json(&report, &turn.settings.gate)).await?;
    let released = release::register(turn, &set, &tuned, &comparisons, &report).await?;
    log.version = Some(released.version.number);
    log.enter(CycleState::Publish, json!({"version": released.version.to_string()})).await?;
    let event_id = release::announce(turn, &released).await?;
    Ok(Outcome {
        cycle: turn.job.id.clone(),
        state: CycleState::Done,
        reason: String::new(),
        version: Some(released.version),
        report: Some(report),
        event_id: Some(event_id),
        candidates,
        location: Some(released.location),
    })
}

/// Explore, score and optimize, as many rounds as are configured; a finished round is not run again.
async fn tune(turn: &Turn<'_>, log: &StateLog<'_>, set: &TrainingSet) -> Result<(steps::Tuned, usize)> {
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
        log.enter(CycleState::Explore, json!({"round": round, "prompts": set.train.len()})).await?;
        let mut explored = steps::explore(turn, set, round, start, &past)?;
        log.enter(CycleState::Score, json!({"round": round, "candidates": explored.candidates.len()})).await?;
        let figures = steps::score(turn, set, &mut explored)?;
        let step = format!("score-{round}");
        turn.job.lake.append_candidates(turn.job.id, &step, &explored.candidates, now()).await?;
        log.enter(CycleState::Optimize, figures).await?;
        let mut next = steps::optimize(turn, &explored, round, start)?;
        next.follow(tuned.as_ref());
        workspace::save(turn, &next).await?;
        tuned = Some(next);
    }
    let tuned = tuned.context("optimize.rounds is 0")?;
    Ok((tuned, per_round * rounds as usize))
}

fn skipped(turn: &Turn<'_>, reason: String) -> Outcome {
    Outcome {
        cycle: turn.job.id.clone(),
        state: CycleState::Skipped,
        reason,
        version: None,
        report: None,
        event_id: None,
        candidates: 0,
        location: None,
    }
}
