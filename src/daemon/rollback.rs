//! A promoted version is watched in the logs of real traffic, and withdrawn where it does worse than the one before it.
//!
//! Each check is a SQL query on a schedule; what it returns is compared by [`crate::evaluate::live`]. A rollback is a commit like
//! any other change of a version: made only if the version still is the champion, by a scheduler that still has its seat, and
//! told by events. A check that fails is logged and holds up no other. A promotion that is itself the end of a rollback is not watched: there is nothing proven to return to.

use crate::config::{Config, Model, Rollback, Score};
use crate::domain::{ChatMessage, ModelName, Timestamp, Version, VersionRef};
use crate::evaluate::live::{Side, chance_of_fall, error_of_look};
use crate::lake::{Fence, Lake};
use crate::publish::transition;
use crate::query::{Limits, Session, Sources, messages_from_json};
use crate::runtime::{Shutdown, now};
use crate::tao::Watch;
use crate::tao::score::{Case, Composition};
use crate::telemetry::Event;
use anyhow::{Context as _, Result, bail};
use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};
use futures::TryStreamExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it is asked whether a look is due.
const TICK: Duration = Duration::from_secs(1);
/// A version whose answers score less by no more than this is kept.
const SCORE_FALL_MIN: f64 = 0.02;

/// What a check's SQL returns.
const COLUMNS: [&str; 3] = ["version", "request_time", "bad"];

/// A promotion that is watched.
#[derive(Debug, Clone, PartialEq)]
struct Watched {
    version: VersionRef,
    promoted: Timestamp,
    /// What served before; the base where absent.
    before: Option<VersionRef>,
}

/// Watches every model that is configured so, until the shutdown; gives whether it ended because the fence is another daemon's.
pub(super) async fn run(config: &Config, lake: &Lake, fence: &Fence, shutdown: &Shutdown) -> bool {
    let mut looked: BTreeMap<ModelName, Timestamp> = BTreeMap::new();
    let mut told = BTreeSet::new();
    let watching = || config.models.iter().filter_map(|(name, model)| Some((name, model, model.rollback.as_ref()?)));
    while !shutdown.is_cancelled() && watching().next().is_some() {
        for (name, model, settings) in watching() {
            let every = i64::from(settings.look_seconds) * 1_000_000;
            let now = now();
            if looked.get(name).is_some_and(|last| (0..every).contains(&(now.micros() - last.micros()))) {
                continue;
            }
            looked.insert(name.clone(), now);
            let looks = look(config, lake, (name, model, settings), fence, &mut told, shutdown);
            if let Err(error) = looks.await {
                if error.downcast_ref::<crate::lake::Error>().is_some_and(crate::lake::Error::is_fenced) {
                    return true;
                }
                let (model, error) = (name.as_str(), format!("{error:#}"));
                tracing::warn!(model, error, "the promoted version could not be watched, trying again");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = shutdown.cancelled() => {}
        }
    }
    false
}

/// Looks once at a model's promotion, and rolls it back where it fell.
async fn look(
    config: &Config,
    lake: &Lake,
    (name, model, settings): (&ModelName, &Model, &Rollback),
    fence: &Fence,
    told: &mut BTreeSet<(String, Timestamp)>,
    shutdown: &Shutdown,
) -> Result<()> {
    let Some(watched) = watched(&lake.versions(name).await?) else { return Ok(()) };
    let age = now().micros() - watched.promoted.micros();
    if age > i64::from(settings.watch_hours) * 3_600_000_000 {
        return Ok(());
    }
    let look = u64::try_from(age / (i64::from(settings.look_seconds) * 1_000_000)).unwrap_or(0) + 1;
    let chance_max = error_of_look(1.0 - settings.confidence, look);
    let mut figures = Vec::new();
    for (check, of) in &settings.checks {
        figures.push((check.as_str(), by_sql((config, lake), name, settings, &watched, &of.sql).await, of.fall_min));
    }
    if settings.score_sample > 0 {
        let sides = by_score(config, lake, (name, model, settings), &watched, shutdown).await;
        figures.push(("score", sides, SCORE_FALL_MIN));
    }
    // All checks together share a look's error, those that fail now too: they may work at the next.
    let share = chance_max / f64::from(u32::try_from(figures.len().max(1)).unwrap_or(1));
    for (check, sides, fall_min) in figures {
        let (old, new) = match sides {
            Ok(sides) => sides,
            Err(_) if shutdown.is_cancelled() => return Ok(()),
            Err(error) => {
                let (model, error) = (name.as_str(), format!("{error:#}"));
                tracing::warn!(model, check, error, "a check of the promoted version failed, the others are made");
                continue;
            }
        };
        let blind = new.count >= settings.requests_min && old.count < settings.requests_min;
        if blind && told.insert((format!("{} {check}", watched.version), watched.promoted)) {
            let (version, before) = (watched.version.to_string(), transition::champion_text(watched.before.as_ref()));
            let (found, requests_min) = (old.count, settings.requests_min);
            tracing::warn!(
                version,
                check,
                before,
                found,
                requests_min,
                "a promoted version is not watched: too few requests of what served before it to compare with"
            );
        }
        let enough = old.count >= settings.requests_min && new.count >= settings.requests_min;
        let chance = chance_of_fall(old, new, fall_min);
        tracing::debug!(check, version = %watched.version, ?old, ?new, chance, "watched");
        if !enough || chance >= share {
            continue;
        }
        let reason = format!(
            "{check}: {:.3} on {} requests, {:.3} on {} of {} before it; chance explains that with probability {chance:.1e}",
            new.mean(),
            new.count,
            old.mean(),
            old.count,
            transition::champion_text(watched.before.as_ref())
        );
        let decide = |known: &[Version]| {
            transition::roll_back(known, &watched.version, None, &reason, now()).map_err(|e| e.to_string())
        };
        if !lake.change_versions(name, std::slice::from_ref(fence), decide).await?.is_empty() {
            Event::VersionRolledBack { version: &watched.version.to_string(), reason: &reason }.emit();
        }
        return Ok(());
    }
    Ok(())
}

/// The promotion that is to be watched; nothing where the base serves, or where the champion came back by a rollback.
fn watched(versions: &[Version]) -> Option<Watched> {
    let champion = transition::champion(versions)?;
    let at = versions.iter().rposition(|v| v == champion)?;
    let before = transition::champion(&versions[..at]).map(|v| v.reference.clone());
    let watched = Watched { version: champion.reference.clone(), promoted: champion.time, before };
    (!transition::ends_rollback(versions, at)).then_some(watched)
}

fn times(settings: &Rollback, watched: &Watched) -> [(&'static str, Timestamp); 2] {
    let back = i64::from(settings.watch_hours) * 3_600_000_000;
    [("since", Timestamp::from_micros(watched.promoted.micros() - back)), ("until", now())]
}

/// Sorts requests to the side before and the side after.
struct Sides<'a> {
    watched: &'a Watched,
    new_name: String,
    old_name: String,
    old: Side,
    new: Side,
}

impl<'a> Sides<'a> {
    fn of(model: &ModelName, watched: &'a Watched) -> Self {
        let old_name = watched.before.as_ref().map_or_else(|| model.to_string(), ToString::to_string);
        let new_name = watched.version.to_string();
        Self { watched, new_name, old_name, old: Side::default(), new: Side::default() }
    }

    fn side(&mut self, version: &str, time: Timestamp) -> Option<&mut Side> {
        if version == self.new_name && time >= self.watched.promoted {
            return Some(&mut self.new);
        }
        (version == self.old_name).then_some(&mut self.old)
    }
}

async fn by_sql(
    (config, lake): (&Config, &Lake),
    model: &ModelName,
    settings: &Rollback,
    watched: &Watched,
    sql: &str,
) -> Result<(Side, Side)> {
    let session = Session::new(super::sources(config, lake).await?, Limits::default())?;
    let mut sides = Sides::of(model, watched);
    // A row a request: they are added up as they come, never held together.
    let mut batches = session.query_with(sql, &times(settings, watched)).await?.batches;
    while let Some(batch) = batches.try_next().await? {
        let column = |name: &str, kind: &DataType| {
            let found = batch.column_by_name(name).with_context(|| format!("its SQL returns no column `{name}`"))?;
            cast(found, kind).with_context(|| format!("column `{name}` has the type {}", found.data_type()))
        };
        let versions = column("version", &DataType::Utf8)?;
        let at = column("request_time", &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))?;
        let bad = column("bad", &DataType::Float64)?;
        let (versions, at) = (versions.as_string::<i32>(), at.as_primitive::<TimestampMicrosecondType>());
        let bad = bad.as_primitive::<Float64Type>();
        for row in
            (0..batch.num_rows()).filter(|row| versions.is_valid(*row) && at.is_valid(*row) && bad.is_valid(*row))
        {
            if let Some(side) = sides.side(versions.value(row), Timestamp::from_micros(at.value(row))) {
                side.add(bad.value(row));
            }
        }
    }
    Ok((sides.old, sides.new))
}

/// The newest answers of both versions, scored as the gate scores; the same prompt is not needed.
async fn by_score(
    config: &Config,
    lake: &Lake,
    (name, model, settings): (&ModelName, &Model, &Rollback),
    watched: &Watched,
    shutdown: &Shutdown,
) -> Result<(Side, Side)> {
    let session = Session::new(super::sources(config, lake).await?, Limits::default())?;
    let names = Sides::of(name, watched);
    let [(_, since), (_, until)] = times(settings, watched);
    let mut both = Vec::new();
    for (version, since) in [(&names.old_name, since), (&names.new_name, watched.promoted)] {
        let sql = format!(
            "SELECT messages, completion FROM inference_log WHERE coalesce(model_version, model) = '{version}' \
             AND request_time >= $since AND request_time < $until AND messages IS NOT NULL AND completion IS NOT NULL \
             ORDER BY request_time DESC, request_id LIMIT {}",
            settings.score_sample
        );
        let mut answers = Vec::new();
        for batch in session.query_with(&sql, &[("since", since), ("until", until)]).await?.collect().await? {
            let text = |name: &str| {
                let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
                anyhow::Ok(cast(column, &DataType::Utf8)?)
            };
            let (messages, completions) = (text("messages")?, text("completion")?);
            let (messages, completions) = (messages.as_string::<i32>(), completions.as_string::<i32>());
            let each = (0..batch.num_rows())
                .filter_map(|row| Some((messages_from_json(messages.value(row))?, completions.value(row).to_owned())));
            answers.extend(each);
        }
        both.push(answers);
    }
    // On a thread of its own: events and cycles of the same daemon go on meanwhile, and a shutdown ends it.
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, config, score) =
        (Arc::clone(&stop), config.clone(), model.gate.score.clone().unwrap_or_else(|| model.score.clone()));
    let scored = tokio::task::spawn_blocking(move || judge(&config, &score, &both, &flag));
    tokio::select! {
        sides = scored => sides.context("the scorers panicked")?,
        () = shutdown.cancelled() => {
            stop.store(true, Ordering::Relaxed);
            bail!("the shutdown came first")
        }
    }
}

/// Conversations and their answers.
type Answers = Vec<(Vec<ChatMessage>, String)>;

/// Scores both versions' answers. Blocks.
fn judge(config: &Config, score: &Score, both: &[Answers], stop: &AtomicBool) -> Result<(Side, Side)> {
    let composition = Composition::open(score, &|path| config.resolve(path), &[])?;
    let mut sides = Vec::new();
    for answers in both {
        let cases: Vec<Case<'_>> = answers.iter().map(|(messages, text)| Case::new(messages, text)).collect();
        let verdicts = composition.judge(&cases, &Watch::new(&|_| {}, stop))?;
        let mut side = Side::default();
        verdicts.iter().filter_map(|v| v.reward).for_each(|reward| side.add(1.0 - reward));
        sides.push(side);
    }
    Ok((sides[0], sides[1]))
}

/// Plans every check's SQL on tables without rows ([`Sources::declared`]).
///
/// # Errors
/// The first check whose SQL does not fit, or lacks a column.
pub(super) async fn check(config: &Config, declared: Sources) -> Result<()> {
    for (model, settings) in config.models.iter().filter_map(|(name, m)| Some((name, m.rollback.as_ref()?))) {
        for (check, of) in &settings.checks {
            let at = || format!("models.{model}.rollback.checks.{check}.sql");
            let session = Session::new(declared.clone(), Limits::default())?;
            let times = [("since", Timestamp::EPOCH), ("until", Timestamp::EPOCH)];
            let schema = session.check(&of.sql, &times).await.with_context(at)?;
            if let Some(lacks) = COLUMNS.iter().find(|name| schema.column_with_name(name).is_none()) {
                bail!("{}: returns no column `{lacks}`; {} are needed", at(), COLUMNS.join(", "));
            }
        }
    }
    Ok(())
}
