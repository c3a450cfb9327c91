//! An answer that can be compared: with a reference, or with the prompt's other samples.

use super::super::Error;
use super::super::case::{Case, Finding};
use super::super::member::Says;
use super::super::text::words;
use super::form::compile;
use crate::config::{AnswerKind, AnswerScore};
use regex_automata::meta::Regex;

/// Words that a short answer may have or lack.
const ARTICLES: &[&str] = &["a", "an", "the"];

#[derive(Debug, Clone)]
pub(in super::super) struct Answer {
    kind: AnswerKind,
    pattern: Option<Regex>,
}

impl Answer {
    pub(in super::super) fn open(score: &AnswerScore) -> Result<Self, Error> {
        let pattern = score.pattern.as_ref().map(|text| compile("answer", text)).transpose()?;
        Ok(Self { kind: score.kind, pattern })
    }

    /// The answer in the one form in which equal answers are equal; nothing where the response has none.
    pub(in super::super) fn key(&self, response: &str) -> Option<String> {
        let part = match &self.pattern {
            None => response,
            Some(pattern) => {
                let mut found = pattern.create_captures();
                pattern.captures(response, &mut found);
                &response[found.get_group(1)?.range()]
            }
        };
        self.canonical(part)
    }

    fn agrees(&self, given: &str, truth: &str) -> bool {
        match self.kind {
            AnswerKind::Exact | AnswerKind::Number => given == truth,
            AnswerKind::Contains => format!(" {given} ").contains(&format!(" {truth} ")),
        }
    }

    fn canonical(&self, part: &str) -> Option<String> {
        match self.kind {
            AnswerKind::Exact | AnswerKind::Contains => {
                let words: Vec<String> = words(part).into_iter().filter(|w| !ARTICLES.contains(&w.as_str())).collect();
                (!words.is_empty()).then(|| words.join(" "))
            }
            AnswerKind::Number => last_number(part).map(|n| format!("{n:.8e}")),
        }
    }
}

impl Says for Answer {
    fn says(&self, case: &Case<'_>) -> Finding {
        let given = self.key(case.response);
        match case.reference {
            // A reference is the answer itself: the pattern is about responses.
            Some(reference) => {
                let truth = self.canonical(reference);
                Finding::from(given.zip(truth).is_some_and(|(given, truth)| self.agrees(&given, &truth)))
            }
            None => Finding::from(given.is_some()),
        }
    }
}

/// The last number of a text; commas between digits are skipped, a sign before it counts where no word or digit is before that.
fn last_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let mut from = end;
    while from > 0 && (digit(from - 1) || matches!(bytes[from - 1], b'.' | b',') && from >= 2 && digit(from - 2)) {
        from -= 1;
    }
    let number: f64 = text[from..end].replace(',', "").parse().ok()?;
    let minus = text[..from].chars().next_back().is_some_and(|c| matches!(c, '-' | '−'));
    let before = text[..from].trim_end_matches(['-', '−']).chars().next_back();
    let negative = minus && !before.is_some_and(char::is_alphanumeric);
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let cases = [
            ("The total is 1,234.50 €.", Some(1234.5)),
            ("12 %", Some(12.0)),
            ("between 3 and -4", Some(-4.0)),
            ("in 2019-2020", Some(2020.0)),
            ("none", None),
            ("0.1.", Some(0.1)),
        ];
        for (text, number) in cases {
            assert_eq!(last_number(text), number, "{text}");
        }
    }
}
