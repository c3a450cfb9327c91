//! The scorers of a cycle: those that train, those that decide, and what users said that both may be fitted to.

use super::Job;
use crate::config::{Model, Score};
use crate::query::{Limits, Session, messages_from_json};
use crate::runtime::derive_seed;
use crate::tao::Watch;
use crate::tao::score::calibrate::{Calibration, Sample, calibrate};
use crate::tao::score::{Case, Composition, Judge, Rated};
use anyhow::{Context as _, Result};
use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::Float64Type;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use tokio::task::block_in_place;

/// Rated answers that are read, the newest first: more would fit nothing better.
const RATED_MAX: usize = 20_000;
/// The mean of thumbs and scores from which on users count as content.
const CONTENT_MIN: f64 = 0.5;

/// What scores in one cycle.
pub(super) struct Scorers {
    /// What the training maximises.
    pub(super) training: Composition,
    /// What the gate decides by, where it is another.
    pub(super) held_out: Option<Composition>,
    /// Pinned suites' own scorers, by the suite's name.
    pub(super) suites: BTreeMap<String, Composition>,
    /// The judge who sees both answers, where the gate asks one.
    pub(super) win_rate: Option<Judge>,
    /// What the fit to users' feedback found, where it was asked for.
    pub(super) calibration: Option<Calibration>,
}

impl Scorers {
    /// What the gate decides by.
    pub(super) fn gate(&self) -> &Composition {
        self.held_out.as_ref().unwrap_or(&self.training)
    }
}

pub(super) async fn open(
    job: &Job<'_>,
    settings: &Model,
    seed: u64,
    tables: &BTreeMap<String, i64>,
) -> Result<Scorers> {
    let gate = settings.gate.score.as_ref();
    let wants = |score: &Score| score.calibrate || score.feedback.is_some();
    let wanted = wants(&settings.score) || gate.is_some_and(wants);
    let rated = if wanted { rated(job, tables).await.context("feedback")? } else { Vec::new() };
    let resolve = |path: &str| job.config.resolve(path);
    let section = |part: &str| format!("models.{}.{part}", job.model);
    block_in_place(|| {
        let training = Composition::open(&settings.score, &resolve, &rated).with_context(|| section("score"))?;
        let calibration = if settings.score.calibrate { Some(fit(&training, &rated, seed)?) } else { None };
        let mapping = calibration.as_ref().and_then(|c| c.mapping.clone());
        let held_out =
            gate.map(|score| Composition::open(score, &resolve, &rated).with_context(|| section("gate.score")));
        // All that the gate needs is opened now: a wrong path is not to be met after hours of training.
        let mut suites = BTreeMap::new();
        for (name, suite) in &settings.gate.suites {
            if let Some(score) = &suite.score {
                let place = || section(&format!("gate.suites.{name}.score"));
                suites.insert(name.clone(), Composition::open(score, &resolve, &[]).with_context(place)?);
            }
        }
        let win_rate = settings.gate.win_rate.as_ref();
        let win_rate =
            win_rate.map(|w| Judge::open(&w.judge, &resolve).with_context(|| section("gate.win_rate.judge")));
        Ok(Scorers {
            training: training.with_mapping(mapping),
            held_out: held_out.transpose()?,
            suites,
            win_rate: win_rate.transpose()?,
            calibration,
        })
    })
}

/// Scores the rated answers and fits the mapping.
fn fit(training: &Composition, rated: &[Rated], seed: u64) -> Result<Calibration> {
    let cases: Vec<Case<'_>> = rated.iter().map(|r| Case::new(&r.messages, &r.response)).collect();
    let cancelled = AtomicBool::new(false);
    let verdicts = training.judge(&cases, &Watch::new(&|_| {}, &cancelled))?;
    let sample = |(rated, verdict): (&Rated, &crate::tao::score::Verdict)| {
        let single = verdict.components.iter().filter(|c| !c.name.contains('.') || c.name.starts_with("regex."));
        Some(Sample {
            prompt: crate::domain::PromptHash::of(&rated.messages).low(),
            plain: verdict.reward?,
            numbers: single.map(|c| (c.name.clone(), c.value)).collect::<BTreeMap<_, _>>(),
            content: rated.score >= CONTENT_MIN,
        })
    };
    let samples: Vec<Sample> = rated.iter().zip(&verdicts).filter_map(sample).collect();
    Ok(calibrate(&samples, derive_seed(seed, "calibrate", &[])))
}

/// Logged answers that users rated: thumbs as 1 and 0, together with scores.
async fn rated(job: &Job<'_>, tables: &BTreeMap<String, i64>) -> Result<Vec<Rated>> {
    let sql = format!(
        "SELECT messages, completion,
                CAST((coalesce(thumbs_up, 0) + coalesce(score_mean, 0)) /
                (coalesce(thumbs_up, 0) + coalesce(thumbs_down, 0)
                 + CASE WHEN score_mean IS NULL THEN 0 ELSE 1 END) AS DOUBLE) AS score
         FROM request_feedback
         WHERE feedback_count > 0 AND messages IS NOT NULL AND completion IS NOT NULL
           AND (coalesce(thumbs_up, 0) + coalesce(thumbs_down, 0) > 0 OR score_mean IS NOT NULL)
         ORDER BY request_time DESC, request_id LIMIT {RATED_MAX}"
    );
    let session = Session::new(
        crate::daemon::sources_at(job.config, job.lake, |name| tables.get(name.as_str()).copied()).await?,
        Limits::default(),
    )?;
    let mut rated = Vec::new();
    for batch in session.query(&sql).await?.collect().await? {
        let text = |name: &str| -> Result<Vec<Option<String>>> {
            let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
            let column = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8)?;
            Ok(column.as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect())
        };
        let scores = batch.column_by_name("score").context("no column score")?;
        let scores = scores.as_primitive::<Float64Type>();
        for (i, (messages, response)) in text("messages")?.into_iter().zip(text("completion")?).enumerate() {
            let messages = messages.as_deref().and_then(messages_from_json);
            if let (Some(messages), Some(response), true) = (messages, response, scores.is_valid(i)) {
                rated.push(Rated { messages, response, score: scores.value(i).clamp(0.0, 1.0) });
            }
        }
    }
    Ok(rated)
}
