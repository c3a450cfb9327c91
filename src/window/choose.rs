//! From the SQL's answer to the training set: leave out, de-duplicate, sample, split.

use super::error::Error;
use super::rows::{self, Candidate};
use super::thin::{self, Chosen};
use crate::config;
use crate::domain::{Exclusion, LeftOut, Prompt, PromptHash, Split, Timestamp, TrainingSet, WindowName};
use crate::query::{self, Limits, Session, Sources};
use futures::StreamExt;
use std::collections::BTreeMap;

/// What the split is a hash of, beside the prompt. It never changes: another salt would move prompts that were trained
/// on into the holdout.
pub const SPLIT_SALT: &str = "pelton/holdout/1";
/// Characters of a prompt that a left-out row keeps.
const SHOWN_CHARS_MAX: usize = 120;

/// What a window is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request<'a> {
    /// The window's name.
    pub name: &'a WindowName,
    /// Its configuration.
    pub window: &'a config::Window,
    /// The version of `inference_log` that the tables read, for the record.
    pub table_version: i64,
    /// `$since`: the `until` of the last cycle that finished.
    pub since: Timestamp,
    /// `$until`.
    pub until: Timestamp,
    /// Prompts of evaluation sets: what says nearly the same is not trained on.
    pub avoid: &'a [String],
}

/// Checks a window's SQL on tables without rows ([`Sources::declared`]).
///
/// # Errors
/// What is wrong with the SQL, with near matches for an unknown table or column, or the column that its answer lacks.
pub async fn check(name: &WindowName, sql: &str, declared: Sources) -> Result<(), Error> {
    let failed = |source| sql_error(name, source);
    let session = Session::new(declared, limits()).map_err(failed)?;
    let schema = session.check(sql, &parameters(Timestamp::EPOCH, Timestamp::EPOCH)).await.map_err(failed)?;
    rows::check_schema(name, &schema)
}

/// Runs the window and chooses.
///
/// Of more prompts than `prompts_max` as many of each stratum are taken as there are, in turn, the latest or those that their
/// weights favour.
///
/// # Errors
/// As [`check`], and [`Error::MissingValue`] for a row without an id or a time. Too few prompts are no error here:
/// see [`enough`].
pub async fn choose(request: &Request<'_>, sources: impl Into<Sources>) -> Result<TrainingSet, Error> {
    let candidates = candidates(request, sources.into()).await?;
    let (kept, mut left_out) = deduplicate(candidates);
    let mut chosen = thin::thin(kept, request, &mut left_out);
    chosen.sort_by(|a, b| order(&a.prompt).cmp(&order(&b.prompt)));
    let reasons = chosen.iter().map(|c| (c.prompt.hash, c.reason())).collect();
    let strata = chosen.iter().filter_map(|c| Some((c.prompt.hash, c.about.stratum.clone()?))).collect();
    let kept: Vec<Prompt> = chosen.into_iter().map(|c| c.prompt).collect();
    left_out.sort_by(|a, b| (&a.why, &a.request_id).cmp(&(&b.why, &b.request_id)));
    let share = request.window.holdout_share;
    let (holdout, train) = kept.into_iter().partition(|p| split_of(p.hash, share) == Split::Holdout);
    Ok(TrainingSet {
        window: request.name.clone(),
        sql: request.window.sql.clone(),
        table_version: request.table_version,
        since: request.since,
        until: request.until,
        train,
        holdout,
        left_out,
        reasons,
        strata,
    })
}

/// Whether the set has the window's minimum of prompts to train on, and so many held out as a gate needs to judge by: a cycle
/// with fewer could only end in a version that is refused, and its prompts would be spent.
///
/// # Errors
/// [`Error::TooFew`] and [`Error::TooFewHeldOut`] with the figures.
pub fn enough(set: &TrainingSet, window: &config::Window, holdout_min: usize) -> Result<(), Error> {
    let (found, held_out) = (set.train.len(), set.holdout.len());
    if found >= window.prompts_min {
        if held_out >= holdout_min {
            return Ok(());
        }
        return Err(Error::TooFewHeldOut { window: set.window.clone(), held_out, holdout_min });
    }
    Err(Error::TooFew { window: set.window.clone(), found, prompts_min: window.prompts_min })
}

/// The side of a prompt, for ever.
#[must_use]
pub fn split_of(hash: PromptHash, holdout_share: f64) -> Split {
    if hash.uniform(SPLIT_SALT) < holdout_share { Split::Holdout } else { Split::Train }
}

/// One partition, so that an unordered LIMIT takes the same rows each time.
fn limits() -> Limits {
    Limits { threads: 1, ..Limits::default() }
}

fn parameters(since: Timestamp, until: Timestamp) -> [(&'static str, Timestamp); 2] {
    [("since", since), ("until", until)]
}

fn sql_error(window: &WindowName, source: query::Error) -> Error {
    Error::Sql { window: window.clone(), source: Box::new(source) }
}

async fn candidates(request: &Request<'_>, sources: Sources) -> Result<Vec<Candidate>, Error> {
    let failed = |source| sql_error(request.name, source);
    let session = Session::new(sources, limits()).map_err(failed)?;
    let parameters = parameters(request.since, request.until);
    let mut answer = session.query_with(&request.window.sql, &parameters).await.map_err(failed)?;
    rows::check_schema(request.name, &answer.schema)?;
    let mut candidates = Vec::new();
    while let Some(batch) = answer.batches.next().await {
        rows::read(request.name, &batch.map_err(failed)?, &mut candidates)?;
    }
    Ok(candidates)
}

/// Keeps the latest of equal prompts; of equal times the greatest id, so that the order of the rows does not matter.
fn deduplicate(candidates: Vec<Candidate>) -> (Vec<Chosen>, Vec<LeftOut>) {
    let mut latest: BTreeMap<PromptHash, Chosen> = BTreeMap::new();
    let mut left_out = Vec::new();
    for candidate in candidates {
        let Some(prompt) = candidate.prompt else {
            left_out.push(LeftOut { request_id: candidate.request_id, prompt: None, why: Exclusion::NoPrompt });
            continue;
        };
        if candidate.about.error {
            left_out.push(left_out_prompt(prompt, Exclusion::Error));
            continue;
        }
        let mut next = Chosen { prompt, about: candidate.about, calls: 1 };
        if let Some(mut known) = latest.remove(&next.prompt.hash) {
            let calls = known.calls + 1;
            if !newer(&next.prompt, &known.prompt) {
                std::mem::swap(&mut next, &mut known);
            }
            next.calls = calls;
            left_out.push(left_out_prompt(known.prompt, Exclusion::Duplicate));
        }
        latest.insert(next.prompt.hash, next);
    }
    (latest.into_values().collect(), left_out)
}

fn newer(a: &Prompt, b: &Prompt) -> bool {
    (a.request_time, &a.request_id) > (b.request_time, &b.request_id)
}

/// By time, then by id, then by hash: total, because equal hashes are gone.
pub(super) fn order(prompt: &Prompt) -> (Timestamp, &str, PromptHash) {
    (prompt.request_time, &prompt.request_id, prompt.hash)
}

pub(super) fn left_out_prompt(prompt: Prompt, why: Exclusion) -> LeftOut {
    let shown = shorten(last_user_turn(&prompt), SHOWN_CHARS_MAX);
    LeftOut { request_id: prompt.request_id, prompt: Some(shown), why }
}

/// The text of the last user turn; empty where there is none.
pub(super) fn last_user_turn(prompt: &Prompt) -> &str {
    prompt.messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.content.as_str())
}

/// The first `chars_max` characters on one line, with `…` where more followed.
pub(super) fn shorten(text: &str, chars_max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(chars_max) {
        None => line,
        Some((at, _)) => format!("{}…", &line[..at]),
    }
}
