//! The steps that compute: values in, values out; what is durable is for the caller to write.

use super::{Turn, workspace};
use crate::config::StrategyKind;
use crate::daemon::eval::read_prompts;
use crate::domain::{
    Answer, Candidate, ChatMessage, Comparison, EvalReport, Prompt, PromptHash, Sides, Timestamp, TrainingSet,
};
use crate::evaluate::{Watched, evaluate_watched};
use crate::lake::TableName;
use crate::model::{Lora, PromptGroup};
use crate::runtime::{derive_seed, memory_available_bytes, now};
use crate::tao::explore::{Explored, PastAnswer, Policies};
use crate::tao::score::{Case, Composition, refuses};
use crate::tao::{self, Watch};
use crate::{daemon::schedule::Past, window};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use tokio::task::block_in_place;

/// Holdout prompts, each sampled twice, that the distance from the base is measured on.
const KL_PROMPTS: usize = 16;
/// Samples that go through the base together.
const KL_ROWS: usize = 8;

/// The adapter of one round and how it came about.
pub(super) struct Tuned {
    pub(super) round: u32,
    pub(super) adapter: Lora,
    /// One object a step: loss, mean reward, KL, gradient norm, tokens, learning rate.
    pub(super) curve: Vec<Value>,
    /// Steps that a killed run had taken.
    pub(super) resumed: usize,
}

impl Tuned {
    /// Puts the curve of the rounds before in front, so that steps are numbered through the cycle.
    pub(super) fn follow(&mut self, before: Option<&Self>) {
        let Some(before) = before else { return };
        for step in &mut self.curve {
            step["step"] = json!(step["step"].as_u64().unwrap_or_default() + before.curve.len() as u64);
        }
        self.curve = before.curve.iter().cloned().chain(std::mem::take(&mut self.curve)).collect();
    }

    /// What the gate watches beside the gain.
    pub(super) fn watched(&self, compared: &Compared, comparison: u32) -> Watched {
        // Not the step's own mean: prompts whose samples all earn the same, as after a collapse, are in no step.
        let rewards = self.curve.iter().filter_map(|step| step["round_reward_mean"].as_f64());
        Watched {
            training: compared.training.clone(),
            training_curve: rewards.collect(),
            kl_to_base: Some(compared.kl),
            base_reward: compared.base,
            suites: compared.suites.clone(),
            suites_base: compared.suites_base.clone(),
            comparison,
            refusals: compared.refusals,
            unjudged: compared.unjudged,
            wins: compared.wins.clone(),
        }
    }

    pub(super) fn figures(&self) -> Value {
        let last = self.curve.last().cloned().unwrap_or(Value::Null);
        json!({"round": self.round, "steps": self.curve.len(), "last_step": last, "steps_before": self.resumed})
    }
}

/// The prompts: those that the cycle collected before, or the window's now.
pub(super) async fn collect(turn: &Turn<'_>) -> Result<TrainingSet> {
    let lake = turn.job.lake;
    if let Some(set) = lake.training_set(turn.job.id).await? {
        return Ok(set);
    }
    // The plan's time and table, so that a killed cycle collects the same rows.
    let until = turn.plan.until();
    let past = Past::of(&lake.cycle_events(Some(turn.job.model)).await?, turn.window, until);
    let set = choose(turn, past.since, until).await?;
    lake.append_training_window(turn.job.id, &set, now()).await?;
    Ok(set)
}

pub(super) async fn choose(turn: &Turn<'_>, since: Timestamp, until: Timestamp) -> Result<TrainingSet> {
    let avoid = crate::daemon::avoided(turn.job.config, turn.window_name)?;
    let request = window::Request {
        avoid: &avoid,
        name: turn.window_name,
        window: turn.window,
        table_version: turn.plan.version_of(TableName::InferenceLog),
        since,
        until,
    };
    // As they were when the cycle began, all of them: a window may join what earlier cycles and users said.
    let at = |name: TableName| turn.plan.tables.get(name.as_str()).copied();
    Ok(window::choose(&request, crate::daemon::sources_at(turn.job.config, turn.job.lake, at).await?).await?)
}

/// Refuses a round whose memory would not suffice, before it takes any.
pub(super) fn check_memory(turn: &Turn<'_>, set: &TrainingSet) -> Result<()> {
    let settings = turn.settings;
    let available = settings.memory_bytes_max.or_else(memory_available_bytes).unwrap_or(u64::MAX);
    let encoded = block_in_place(|| tao::explore::encode(&turn.base, &set.train, settings.explore.tokens_max))?;
    let longest = encoded.tokens.values().map(Vec::len).max().unwrap_or(0);
    let (explore, optimize) = (&settings.explore, &settings.optimize);
    Ok(tao::memory::check(turn.base.config(), longest, &settings.lora, (explore, optimize), available)?)
}

pub(super) fn explore(
    turn: &Turn<'_>,
    set: &TrainingSet,
    round: u32,
    start: Option<&Lora>,
    past: &[PastAnswer],
) -> Result<Explored> {
    let options = &turn.settings.explore;
    let seed = derive_seed(turn.seed, "explore", &[u64::from(round)]);
    let report = |p: tao::Progress| turn.report("explore", p.done, p.total);
    let progress = workspace::Progress::of(turn, round);
    let watch = Watch::new(&report, turn.control.flag()).keeping(&progress);
    let champion = turn.champion.as_ref().map(|(_, adapter)| adapter);
    let policies = Policies { model: &turn.base, adapter: start, champion, past };
    let mut explored = block_in_place(|| tao::explore::explore_by(policies, &set.train, options, seed, &watch))?;
    // Sample numbers go on from round to round, so that a row of `candidate` is one response.
    for candidate in &mut explored.candidates {
        candidate.sample += (round - 1) * options.samples;
    }
    Ok(explored)
}

/// Earlier cycles of the model that few-shot examples are taken from, the latest.
const PAST_CYCLES: usize = 3;

/// The best answer to each question of the model's latest cycles, where exploration shows examples.
pub(super) async fn past_answers(turn: &Turn<'_>) -> Result<Vec<PastAnswer>> {
    let shown = |s: &&crate::config::Strategy| s.kind == StrategyKind::FewShot;
    let Some(reward_min) = turn.settings.explore.strategies.iter().filter(shown).map(|s| s.reward_min).reduce(f64::min)
    else {
        return Ok(Vec::new());
    };
    let lake = turn.job.lake;
    let events = lake.cycle_events(Some(turn.job.model)).await?;
    let until = turn.plan.until();
    let ended = events.iter().rev().filter(|e| e.state == crate::domain::CycleState::Done && e.time <= until);
    let mut best: BTreeMap<PromptHash, PastAnswer> = BTreeMap::new();
    for event in ended.take(PAST_CYCLES) {
        let Some(set) = lake.training_set(&event.cycle).await? else { continue };
        let known: HashMap<PromptHash, &Prompt> = set.train.iter().map(|p| (p.hash, p)).collect();
        for candidate in lake.candidates(&event.cycle).await? {
            let (Some(prompt), Some(reward)) = (known.get(&candidate.prompt), candidate.reward) else { continue };
            let better = best.get(&candidate.prompt).is_none_or(|b| reward > b.reward);
            if reward >= reward_min && better {
                let (messages, text) = (prompt.messages.clone(), candidate.text);
                best.insert(candidate.prompt, PastAnswer { prompt: candidate.prompt, messages, text, reward });
            }
        }
    }
    Ok(best.into_values().collect())
}

pub(super) fn score(turn: &Turn<'_>, set: &TrainingSet, explored: &mut Explored) -> Result<Value> {
    let messages: HashMap<PromptHash, Vec<ChatMessage>> =
        set.train.iter().map(|p| (p.hash, p.messages.clone())).collect();
    let report = |p: tao::Progress| turn.report("score", p.done, p.total);
    let watch = Watch::new(&report, turn.control.flag());
    let summary = block_in_place(|| turn.scorers.training.score(&messages, &mut explored.candidates, &watch))?;
    Ok(json!({
        "candidates": summary.candidates,
        "reward_mean": summary.reward_mean,
        "executed_share": summary.means.get("executes"),
        "constant_share": summary.constant_share,
        "without_verdict": summary.without_verdict,
        "means": summary.means,
        "spent": summary.spent,
        "calibration": turn.scorers.calibration,
        "truncated": explored.truncated,
        "prompts_too_long": explored.too_long.len(),
        "without_answer": explored.without_answer,
        "prompts_explored_before": explored.resumed,
    }))
}

pub(super) fn optimize(turn: &Turn<'_>, explored: &Explored, round: u32, start: Option<&Lora>) -> Result<Tuned> {
    let candidates: &[Candidate] = &explored.candidates;
    let task = tao::optimize::Task { model: &turn.base, start, prompts: &explored.prompt_tokens, candidates };
    let seed = derive_seed(turn.seed, "optimize", &[u64::from(round)]);
    let report = |p: tao::Progress| turn.report("optimize", p.done, p.total);
    let progress = workspace::Progress::of(turn, round);
    let watch = Watch::new(&report, turn.control.flag()).keeping(&progress);
    let (lora, options) = (&turn.settings.lora, &turn.settings.optimize);
    let trained = block_in_place(|| tao::optimize::optimize(&task, lora, options, seed, &watch))?;
    #[expect(clippy::cast_precision_loss, reason = "candidates are counted in thousands")]
    let round_reward_mean = candidates.iter().filter_map(|c| c.reward).sum::<f64>() / candidates.len().max(1) as f64;
    let record = |s: &tao::optimize::StepRecord| {
        json!({
            "step": s.step, "loss": s.loss, "reward_mean": s.reward_mean, "round_reward_mean": round_reward_mean, "kl": s.kl,
            "gradient_norm": s.gradient_norm, "tokens": s.tokens, "learning_rate": s.learning_rate, "skipped": s.skipped,
        })
    };
    let curve = trained.steps.iter().map(record).collect();
    Ok(Tuned { round, adapter: trained.adapter, curve, resumed: trained.resumed })
}

/// Both sides' answers to the holdout, judged.
pub(super) struct Compared {
    /// By the gate's scorers; prompts about which they have no verdict are left out.
    pub(super) comparisons: Vec<Comparison>,
    /// The same answers by the training's scorers, where the gate has others.
    pub(super) training: Option<Vec<(f64, f64)>>,
    /// The challenger's distance from the base, nats a token.
    pub(super) kl: f64,
    /// The base's mean reward, where another than it is the champion.
    pub(super) base: Option<f64>,
    /// Both sides' rewards on each pinned suite.
    pub(super) suites: BTreeMap<String, Vec<(f64, f64)>>,
    /// What the base alone earns on each, where another than it is the champion.
    pub(super) suites_base: BTreeMap<String, f64>,
    /// Prompts that are left out because the gate's scorers have no verdict on one of the answers.
    pub(super) unjudged: usize,
    /// The shares of answers that refuse.
    pub(super) refusals: Option<Sides>,
    /// What the challenger's answers win against the champion's, where a judge is asked.
    pub(super) wins: Option<Vec<Option<f64>>>,
}

/// Champion and challenger answer the holdout, greedily; the gate's scorers judge both.
pub(super) fn compare(turn: &Turn<'_>, set: &TrainingSet, challenger: &Lora) -> Result<Compared> {
    let champion = turn.champion.as_ref().map(|(_, adapter)| adapter);
    // A prompt that leaves no room for an answer cannot be compared; the rest can.
    let encoded = tao::explore::encode(&turn.base, &set.holdout, turn.settings.explore.tokens_max)?;
    let fitting = |p: &&Prompt| encoded.tokens.contains_key(&p.hash);
    let prompts: Vec<Prompt> = set.holdout.iter().filter(fitting).cloned().collect();
    let prompts = prompts.as_slice();
    turn.report("evaluate", 0, 2 * prompts.len());
    let before = texts(turn, prompts, champion)?;
    turn.report("evaluate", prompts.len(), 2 * prompts.len());
    let after = texts(turn, prompts, Some(challenger))?;
    turn.report("evaluate", 2 * prompts.len(), 2 * prompts.len());
    let scorers = &turn.scorers;
    let gate = scorers.gate();
    let judged = both(turn, gate, prompts, &before, &after)?;
    let training = match scorers.held_out {
        Some(_) => Some(both(turn, &scorers.training, prompts, &before, &after)?),
        None => None,
    };
    let correct = [correct(turn, prompts, &before), correct(turn, prompts, &after)];
    let answer = |side: usize, i: usize, reward: f64| {
        let (text, tokens) = if side == 0 { &before[i] } else { &after[i] };
        Answer { text: text.clone(), reward, correct: correct[side][i], tokens: *tokens }
    };
    let (suites, suites_base) = suites(turn, champion, challenger)?;
    let mut compared = Compared {
        comparisons: Vec::new(),
        training: None,
        kl: kl_to_base(turn, prompts, challenger)?,
        base: base_reward(turn, gate, prompts)?,
        suites,
        suites_base,
        unjudged: judged.iter().filter(|(before, after)| before.is_none() || after.is_none()).count(),
        refusals: Some(Sides { champion: refusals(&before), challenger: refusals(&after) }),
        wins: wins(turn, prompts, &before, &after)?,
    };
    for (i, prompt) in prompts.iter().enumerate() {
        let (Some(champion), Some(challenger)) = judged[i] else { continue };
        let question = prompt.messages.iter().rev().find(|m| m.role == "user").map(|m| m.content.clone());
        let (champion, challenger) = (answer(0, i, champion), answer(1, i, challenger));
        let (question, slice) = (question.unwrap_or_default(), set.strata.get(&prompt.hash).cloned());
        compared.comparisons.push(Comparison { prompt: prompt.hash, question, slice, champion, challenger });
        if let Some((Some(before), Some(after))) = training.as_ref().map(|t| t[i]) {
            compared.training.get_or_insert_default().push((before, after));
        }
    }
    Ok(compared)
}

/// What the gate says of the comparisons: pure but for the seed.
pub(super) fn judge(turn: &Turn<'_>, tuned: &Tuned, compared: &Compared) -> EvalReport {
    let seed = derive_seed(turn.seed, "gate", &[]);
    evaluate_watched(&compared.comparisons, &tuned.watched(compared, turn.plan.comparison), &turn.settings.gate, seed)
}

#[expect(clippy::cast_precision_loss, reason = "prompts are counted in thousands")]
fn refusals(answers: &[(String, u32)]) -> f64 {
    answers.iter().filter(|(text, _)| refuses(text)).count() as f64 / answers.len().max(1) as f64
}

/// What a judge who sees both answers gives the challenger's, where the gate asks one.
fn wins(
    turn: &Turn<'_>,
    prompts: &[Prompt],
    before: &[(String, u32)],
    after: &[(String, u32)],
) -> Result<Option<Vec<Option<f64>>>> {
    let Some(judge) = &turn.scorers.win_rate else { return Ok(None) };
    let report = |p: tao::Progress| turn.report("judge", p.done, p.total);
    let watch = Watch::new(&report, turn.control.flag());
    let duels: Vec<(Case<'_>, &str)> = prompts
        .iter()
        .zip(before.iter().zip(after))
        .map(|(p, ((before, _), (after, _)))| (Case::new(&p.messages, after), before.as_str()))
        .collect();
    let place = || format!("models.{}.gate.win_rate.judge", turn.job.model);
    Ok(Some(block_in_place(|| judge.duels(&duels, &watch)).with_context(place)?))
}

/// What the base alone earns on the holdout; nothing where it is the champion.
fn base_reward(turn: &Turn<'_>, gate: &Composition, prompts: &[Prompt]) -> Result<Option<f64>> {
    if turn.champion.is_none() {
        return Ok(None);
    }
    let answers = texts(turn, prompts, None)?;
    Ok(mean(rewards(turn, gate, &cases(prompts, &answers))?.into_iter()))
}

/// The mean of the rewards that there are.
fn mean(rewards: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let rewards: Vec<f64> = rewards.flatten().collect();
    #[expect(clippy::cast_precision_loss, reason = "prompts are counted in thousands")]
    (!rewards.is_empty()).then(|| rewards.iter().sum::<f64>() / rewards.len() as f64)
}

/// Both sides' rewards on each suite, and the base's mean where another is the champion.
type OnSuites = (BTreeMap<String, Vec<(f64, f64)>>, BTreeMap<String, f64>);

/// Both sides on the pinned suites, each by its own scorers or the gate's.
fn suites(turn: &Turn<'_>, champion: Option<&Lora>, challenger: &Lora) -> Result<OnSuites> {
    let (mut all, mut bases) = (BTreeMap::new(), BTreeMap::new());
    for (name, suite) in &turn.settings.gate.suites {
        let place = || format!("models.{}.gate.suites.{name}", turn.job.model);
        let asked = read_prompts(&turn.job.config.resolve(&suite.path)).with_context(place)?;
        let scorers = turn.scorers.suites.get(name).unwrap_or_else(|| turn.scorers.gate());
        let conversations: Vec<_> = asked.iter().map(|a| a.messages.clone()).collect();
        let earned = |adapter: Option<&Lora>| {
            let options = &turn.settings.explore;
            let answers =
                block_in_place(|| tao::explore::answer_greedily(&turn.base, adapter, &conversations, options))?;
            let cases: Vec<Case<'_>> = asked.iter().zip(&answers).map(|(a, (text, _))| a.case(text)).collect();
            rewards(turn, scorers, &cases)
        };
        let pairs = earned(champion)?.into_iter().zip(earned(Some(challenger))?);
        all.insert(name.clone(), pairs.filter_map(|(before, after)| Some((before?, after?))).collect());
        if champion.is_some()
            && let Some(base) = mean(earned(None)?.into_iter())
        {
            bases.insert(name.clone(), base);
        }
    }
    Ok((all, bases))
}

fn texts(turn: &Turn<'_>, prompts: &[Prompt], adapter: Option<&Lora>) -> Result<Vec<(String, u32)>> {
    let conversations: Vec<_> = prompts.iter().map(|p| p.messages.clone()).collect();
    let answers =
        block_in_place(|| tao::explore::answer_greedily(&turn.base, adapter, &conversations, &turn.settings.explore));
    Ok(answers?)
}

/// The rewards of both sides' answers, prompt by prompt.
fn both(
    turn: &Turn<'_>,
    scorers: &Composition,
    prompts: &[Prompt],
    before: &[(String, u32)],
    after: &[(String, u32)],
) -> Result<Vec<(Option<f64>, Option<f64>)>> {
    let side = |texts: &[(String, u32)]| rewards(turn, scorers, &cases(prompts, texts));
    Ok(side(before)?.into_iter().zip(side(after)?).collect())
}

fn cases<'a>(prompts: &'a [Prompt], answers: &'a [(String, u32)]) -> Vec<Case<'a>> {
    prompts.iter().zip(answers).map(|(p, (text, _))| Case::new(&p.messages, text)).collect()
}

fn rewards(turn: &Turn<'_>, scorers: &Composition, cases: &[Case<'_>]) -> Result<Vec<Option<f64>>> {
    let report = |p: tao::Progress| turn.report("judge", p.done, p.total);
    let watch = Watch::new(&report, turn.control.flag());
    Ok(block_in_place(|| scorers.judge(cases, &watch))?.into_iter().map(|v| v.reward).collect())
}

fn correct(turn: &Turn<'_>, prompts: &[Prompt], texts: &[(String, u32)]) -> Vec<Option<bool>> {
    let known: Vec<(&Prompt, &str)> = prompts.iter().zip(texts).map(|(p, (text, _))| (p, text.as_str())).collect();
    match turn.job.truth {
        Some(truth) => block_in_place(|| truth.correct(&known)),
        None => vec![None; known.len()],
    }
}

/// How far the challenger has moved from the base, not only from the last champion: KL(challenger ‖ base) in nats a token over
/// samples that it draws itself, by the estimator `ρ − 1 − ln ρ`, which is never negative (Schulman's k3).
fn kl_to_base(turn: &Turn<'_>, prompts: &[Prompt], challenger: &Lora) -> Result<f64> {
    let plain = crate::config::Explore { samples: 2, temperatures: vec![1.0], ..turn.settings.explore.clone() };
    // Other ways to explore are not what it serves by.
    let options = crate::config::Explore { strategies: Vec::new(), ..plain };
    let seed = derive_seed(turn.seed, "kl", &[]);
    let quiet = |_: tao::Progress| {};
    let watch = Watch::new(&quiet, turn.control.flag());
    let some = &prompts[..prompts.len().min(KL_PROMPTS)];
    let drawn = block_in_place(|| tao::explore::explore(&turn.base, Some(challenger), some, &options, seed, &watch))?;
    let group = |c: &Candidate| PromptGroup {
        prompt: drawn.prompt_tokens[&c.prompt].clone(),
        completions: vec![c.tokens.clone()],
    };
    let (mut sum, mut tokens) = (0.0, 0usize);
    for some in drawn.candidates.chunks(KL_ROWS) {
        let groups: Vec<PromptGroup> = some.iter().map(group).collect();
        let base = block_in_place(|| turn.base.decoder().logprobs(&groups, 1.0))?;
        for (ours, theirs) in some.iter().map(|c| &c.logprobs).zip(&base) {
            let log_ratios = theirs.iter().zip(ours).map(|(base, ours)| f64::from(base - ours));
            sum += log_ratios.map(|l| l.exp() - 1.0 - l).sum::<f64>();
            tokens += theirs.len();
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "tokens are counted in thousands")]
    Ok(sum / tokens.max(1) as f64)
}
