//! The sense of scorers: at least one that can stand alone, patterns that compile, schemas that are schemas.

use super::check::Problems;
use super::load::Problem;
use super::{AnswerScore, Endpoint, JudgeScore, Score};
use regex_automata::meta::Regex;

/// All that is wrong with scorers in a file of their own.
pub(super) fn alone(score: &Score) -> Vec<Problem> {
    let mut problems = Problems::default();
    self::score("score", score, &mut problems);
    problems.into_sorted()
}

pub(super) fn score(at: &str, score: &Score, problems: &mut Problems) {
    let names = score.names();
    if names.is_empty() {
        problems.add(at, format!("names no scorer; add [{at}.sql] or another, such as [{at}.judge]"));
    }
    for (name, regex) in &score.regex {
        pattern(format!("{at}.regex.{name}.pattern"), &regex.pattern, problems);
    }
    if let Some(answer) = &score.answer {
        self::answer(&format!("{at}.answer"), answer, names.len(), problems);
    }
    if let Some(json) = &score.json_schema {
        if json.file.is_some() && json.schema.is_some() {
            problems.add(format!("{at}.json_schema"), "has `file` and `schema`; leave one of them out");
        }
        if let Some(why) = json.schema.as_ref().and_then(|s| jsonschema::validator_for(s).err()) {
            problems.add(format!("{at}.json_schema.schema"), format!("is no JSON Schema: {why}"));
        }
    }
    if let Some(length) = score.length.as_ref().filter(|l| l.words_min > l.words_max) {
        let message = format!("{} is above words_max, {}", length.words_min, length.words_max);
        problems.add(format!("{at}.length.words_min"), message);
    }
    if let Some(judge) = &score.judge {
        self::judge(&format!("{at}.judge"), judge, problems);
    }
    if let Some(grounded) = score.grounded.as_ref().filter(|g| g.begin.is_some() != g.end.is_some()) {
        let lacks = if grounded.begin.is_none() { "begin" } else { "end" };
        problems.add(format!("{at}.grounded.{lacks}"), "is missing; give both marks of the document, or neither");
    }
}

fn answer(at: &str, answer: &AnswerScore, scorers: usize, problems: &mut Problems) {
    if let Some(text) = &answer.pattern {
        pattern(format!("{at}.pattern"), text, problems);
        if Regex::new(text).is_ok_and(|r| r.group_info().group_len(regex_automata::PatternID::ZERO) < 2) {
            problems.add(format!("{at}.pattern"), "has no group; put the answer's part in parentheses");
        }
    }
    if answer.agreement_weight > 0.0 && scorers < 2 {
        problems.add(
            format!("{at}.agreement_weight"),
            "agreement would be the only reward: samples that all say the same are then perfect, right or not; \
             add a scorer that ties the answer to the question, such as grounded or judge",
        );
    }
}

fn judge(at: &str, judge: &JudgeScore, problems: &mut Problems) {
    match (&judge.endpoint, &judge.model) {
        (None, None) => {
            problems.add(at, "has no judge; add `endpoint` with `url` and `model`, or `model` with a folder")
        }
        (Some(_), Some(_)) => problems.add(at, "has `endpoint` and `model`; leave one of them out"),
        (Some(endpoint), None) => self::endpoint(&format!("{at}.endpoint"), endpoint, problems),
        (None, Some(_)) => {}
    }
}

fn endpoint(at: &str, endpoint: &Endpoint, problems: &mut Problems) {
    match endpoint.url.parse::<url::Url>() {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => {}
        _ => problems.add(
            format!("{at}.url"),
            format!("`{}` is not the base of an API, such as http://127.0.0.1:8000/v1", endpoint.url),
        ),
    }
    let priced = endpoint.price_per_million_prompt + endpoint.price_per_million_answer > 0.0;
    if endpoint.price_max.is_some() && !priced {
        problems.add(format!("{at}.price_max"), "needs price_per_million_prompt and price_per_million_answer");
    }
}

fn pattern(at: String, text: &str, problems: &mut Problems) {
    if let Err(e) = Regex::new(text) {
        let why = e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string);
        problems.add(at, format!("is not a regular expression: {why}"));
    }
}
