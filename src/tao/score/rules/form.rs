//! How a response looks: patterns, length, refusals, repetition.

use super::super::Error;
use super::super::case::{Case, Finding};
use super::super::member::Says;
use super::super::text::words;
use crate::config::{LengthScore, RefusalScore, RegexScore};
use regex_automata::meta::Regex;
use std::collections::HashSet;

/// How far into a response a refusal is looked for: what comes later is about something else.
const REFUSAL_WORDS: usize = 30;
/// How refusals begin, lower case, without apostrophes.
const REFUSALS: &[&str] = &[
    "i cannot",
    "i cant",
    "i can not",
    "i am unable",
    "im unable",
    "i am not able",
    "im not able",
    "i am sorry but",
    "im sorry but",
    "i wont",
    "i will not",
    "as an ai",
    "as a language model",
    "as a large language model",
    "i must decline",
    "i do not have access",
    "i dont have access",
];

#[derive(Debug)]
pub(in super::super) struct Pattern {
    regex: Regex,
    forbid: bool,
}

impl Pattern {
    pub(in super::super) fn compile(name: &str, score: &RegexScore) -> Result<Self, Error> {
        let regex = compile(name, &score.pattern)?;
        Ok(Self { regex, forbid: score.forbid })
    }
}

pub(super) fn compile(name: &str, pattern: &str) -> Result<Regex, Error> {
    Regex::new(pattern).map_err(|e| {
        let why = e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string);
        Error::Setting { name: name.to_owned(), reason: format!("`{pattern}` is not a regular expression: {why}") }
    })
}

impl Says for Pattern {
    fn says(&self, case: &Case<'_>) -> Finding {
        Finding::from(self.regex.is_match(case.response) != self.forbid)
    }
}

#[derive(Debug)]
pub(in super::super) struct Length(pub(in super::super) LengthScore);

impl Says for Length {
    #[expect(clippy::cast_precision_loss, reason = "a response has few words")]
    fn says(&self, case: &Case<'_>) -> Finding {
        let count = case.response.split_whitespace().count();
        let (least, most) = (self.0.words_min, self.0.words_max);
        let value = if count < least {
            count as f64 / least as f64
        } else if count > most {
            (2.0 - count as f64 / most as f64).max(0.0)
        } else {
            1.0
        };
        Finding { value: Some(value), parts: vec![("words", count as f64)] }
    }
}

#[derive(Debug)]
pub(in super::super) struct Refusal(Vec<String>);

impl Refusal {
    pub(in super::super) fn new(score: &RefusalScore) -> Self {
        let own = score.phrases.iter().map(|p| words(p).join(" "));
        Self(REFUSALS.iter().map(|p| (*p).to_owned()).chain(own).filter(|p| !p.is_empty()).collect())
    }
}

impl Says for Refusal {
    fn says(&self, case: &Case<'_>) -> Finding {
        Finding::from(!refuses_by(self.0.iter().map(String::as_str), case.response))
    }
}

/// Whether a response refuses to answer, by how refusals usually begin, or is empty.
#[must_use]
pub fn refuses(response: &str) -> bool {
    refuses_by(REFUSALS.iter().copied(), response)
}

fn refuses_by<'a>(mut phrases: impl Iterator<Item = &'a str>, response: &str) -> bool {
    let words = words(response);
    let head = format!(" {} ", words[..words.len().min(REFUSAL_WORDS)].join(" "));
    words.is_empty() || phrases.any(|phrase| head.contains(&format!(" {phrase} ")))
}

/// Words in a run.
#[derive(Debug)]
pub(in super::super) struct Repetition(pub(in super::super) usize);

impl Says for Repetition {
    #[expect(clippy::cast_precision_loss, reason = "a response has few words")]
    fn says(&self, case: &Case<'_>) -> Finding {
        let words = words(case.response);
        let runs: Vec<&[String]> = words.windows(self.0).collect();
        let distinct: HashSet<&[String]> = runs.iter().copied().collect();
        Finding::of(if runs.is_empty() { 1.0 } else { distinct.len() as f64 / runs.len() as f64 })
    }
}
