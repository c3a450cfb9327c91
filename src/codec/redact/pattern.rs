//! The patterns: one automaton for all of them, and checks for what a regular expression cannot say.

use super::token::Tokens;
use regex_automata::Input;
use regex_automata::meta::Regex;
use std::ops::Range;

/// A pattern that Pelton brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltIn {
    /// E-mail addresses.
    Email,
    /// Phone numbers: international ones, and North American ones with separators.
    Phone,
    /// Credentials by their makers' prefixes, bearer tokens, JSON web tokens, private keys, passwords in URLs.
    Secret,
    /// Payment card numbers: a known issuer's prefix and length, and a right check digit.
    Card,
}

/// A regular expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It cannot be read.
    #[error("pattern `{label}` is not a regular expression: {why}")]
    Syntax {
        /// The pattern's label.
        label: String,
        /// What is wrong with it.
        why: String,
    },
    /// It matches the empty text, and would replace what is not there everywhere.
    #[error("pattern `{0}` matches the empty text; it must match at least one character")]
    Empty(String),
}

/// Runs of digit groups. Which of its groups are a card number is for [`cards`] to say; a lone separator joins groups.
///
/// Digits, spaces and word boundaries are ASCII's here and below: the lazy automaton gives up at a Unicode word boundary, and
/// what takes over is fifty times slower.
const CARD: &str = r"[0-9](?:[ \-]?[0-9]){11,}";
const PHONE: &str = r"(?:\+|(?-u:\b)00)[1-9][0-9]{0,2}(?:[ .\-/]{0,2}\(?[0-9]{1,5}\)?){2,6}|(?:\([0-9]{3}\)[ .\-]?|(?-u:\b)[0-9]{3}[.\-])[0-9]{3}[ .\-][0-9]{4}(?-u:\b)";
const SECRETS: &[&str] = &[
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/= \t\r\n:,\-]*",
    r"(?-u:\b)(?:sk|rk|pk)[-_](?:[a-z]{2,10}[-_])*[A-Za-z0-9_\-]{16,}",
    r"(?-u:\b)(?:AKIA|ASIA|AGPA|AIDA|AROA)[0-9A-Z]{16}(?-u:\b)",
    r"(?-u:\b)gh[pousr]_[A-Za-z0-9]{30,}",
    r"(?-u:\b)github_pat_[A-Za-z0-9_]{20,}",
    r"(?-u:\b)glpat-[A-Za-z0-9_\-]{20,}",
    r"(?-u:\b)xox[abeprs]-[A-Za-z0-9\-]{10,}",
    r"(?-u:\b)AIza[0-9A-Za-z_\-]{30,}",
    r"(?-u:\b)hf_[A-Za-z0-9]{30,}",
    r"(?-u:\b)npm_[A-Za-z0-9]{30,}",
    r"(?-u:\b)dapi[0-9a-f]{32}(?-u:\b)",
    r"(?-u:\b)eyJ[A-Za-z0-9_\-]{8,300}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?",
    r"(?i-u:\bbearer) [A-Za-z0-9._~+/\-]{16,}=*",
    r"://[^ \t\r\n/:@<>]{1,64}:[^ \t\r\n/:@<>]{1,128}@",
];
/// An address from its `@` on; what stands before it is found by going back. An expression that began with the local part
/// would read on to the end of a long word at every step.
const EMAIL: &str = r"@(?:[\p{L}\p{N}\-]+\.)+(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9\-]{2,59}|[\p{Cyrillic}\p{Greek}]{2,24})";
const LOCAL_CHARS_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// What the expression matches is replaced.
    Plain,
    /// … after it was written in lower case for the hash: addresses differ in case only by accident.
    Email,
    /// … if it has the digits of a phone number.
    Phone,
    /// … where its groups of digits are a card number.
    Card,
    /// A replacement of ours, which stays: a message may come through twice.
    Token,
}

/// All patterns as one automaton. The order decides between matches that begin at the same place. No expression of ours may
/// run on far without matching: a text of many matches would be read once for each of them.
#[derive(Debug)]
pub(super) struct Patterns {
    automaton: Option<Regex>,
    kinds: Vec<(String, Check)>,
}

impl Patterns {
    pub(super) fn new(built_in: &[BuiltIn], own: &[(String, String)]) -> Result<Self, PatternError> {
        let mut all: Vec<(String, Check, String)> = Vec::new();
        let mut add = |label: &str, check, expression: &str| all.push((label.to_owned(), check, expression.to_owned()));
        if built_in.contains(&BuiltIn::Phone) {
            add("phone", Check::Phone, PHONE);
        }
        if built_in.contains(&BuiltIn::Card) {
            add("card", Check::Card, CARD);
        }
        if built_in.contains(&BuiltIn::Secret) {
            SECRETS.iter().for_each(|secret| add("secret", Check::Plain, secret));
        }
        own.iter().for_each(|(label, expression)| add(label, Check::Plain, expression));
        if built_in.contains(&BuiltIn::Email) {
            add("email", Check::Email, EMAIL);
        }
        if all.is_empty() {
            return Ok(Self { automaton: None, kinds: Vec::new() });
        }
        for (label, _, expression) in &all {
            check(label, expression)?;
        }
        let labels: Vec<&str> = all.iter().map(|(label, ..)| label.as_str()).collect();
        let token = format!("<(?:{}|withheld):[0-9a-f]{{16}}>", labels.join("|"));
        all.insert(0, ("token".to_owned(), Check::Token, token));
        let expressions: Vec<&str> = all.iter().map(|(.., expression)| expression.as_str()).collect();
        let why =
            |e: regex_automata::meta::BuildError| PatternError::Syntax { label: "all".to_owned(), why: e.to_string() };
        let automaton = Regex::new_many(&expressions).map_err(why)?;
        Ok(Self {
            automaton: Some(automaton),
            kinds: all.into_iter().map(|(label, check, _)| (label, check)).collect(),
        })
    }

    /// Whether there is something to replace.
    pub(super) fn finds(&self, text: &str) -> bool {
        let mut found = false;
        self.each(text, |_, _, _| found = true);
        found
    }

    /// The text with everything replaced that is found; nothing where nothing is.
    pub(super) fn replace(&self, text: &str, tokens: &Tokens) -> Option<String> {
        let mut out = String::new();
        let mut copied = 0;
        self.each(text, |label, check, range| {
            out.push_str(&text[copied..range.start]);
            let value = &text[range.clone()];
            // Equal values are equal however they are written: case of an address, separators of a number.
            let normal = match check {
                Check::Email => value.to_lowercase(),
                Check::Phone | Check::Card => value.chars().filter(char::is_ascii_digit).collect(),
                Check::Plain | Check::Token => value.to_owned(),
            };
            out.push_str(&tokens.of(label, normal.as_bytes()));
            copied = range.end;
        });
        (copied > 0).then(|| out + &text[copied..])
    }

    /// Calls back for each part of the text that is to be replaced, in order.
    fn each(&self, text: &str, mut found: impl FnMut(&str, Check, Range<usize>)) {
        let Some(automaton) = &self.automaton else { return };
        let mut at = 0;
        while let Some(hit) = automaton.search(&Input::new(text).range(at..)) {
            let (label, check) = &self.kinds[hit.pattern().as_usize()];
            let range = hit.range();
            match check {
                Check::Token => {}
                Check::Card => cards(&text[range.clone()], |card| {
                    found(label, Check::Card, range.start + card.start..range.start + card.end);
                }),
                Check::Phone if !is_phone(&text[range.clone()]) => {}
                Check::Email => {
                    let local = local_part(&text[at..range.start]);
                    if local > 0 {
                        found(label, Check::Email, range.start - local..range.end);
                    }
                }
                check => found(label, *check, range.clone()),
            }
            // Every match is passed as a whole, replaced or not, so that a long text is read once.
            at = range.end.max(at + 1);
        }
    }
}

fn check(label: &str, expression: &str) -> Result<(), PatternError> {
    let why = |e: regex_automata::meta::BuildError| PatternError::Syntax {
        label: label.to_owned(),
        why: e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string),
    };
    let one = Regex::new(expression).map_err(why)?;
    if one.is_match("") { Err(PatternError::Empty(label.to_owned())) } else { Ok(()) }
}

/// How many bytes at the end of a text are an address's local part.
fn local_part(text: &str) -> usize {
    // Scripts without spaces begin behind U+2E80: there the word before an address is no part of it.
    let is_part = |c: &char| (c.is_alphanumeric() && *c < '\u{2e80}') || "._%+'-".contains(*c);
    text.chars().rev().take(LOCAL_CHARS_MAX).take_while(is_part).map(char::len_utf8).sum()
}

/// E.164 allows 15 digits; fewer than 8 are an extension, a year range or a price.
fn is_phone(text: &str) -> bool {
    (8..=17).contains(&text.bytes().filter(u8::is_ascii_digit).count())
}

/// The parts of a run of digit groups that are card numbers. A number begins and ends with a group: digits within a longer
/// number are no card.
fn cards(run: &str, mut found: impl FnMut(Range<usize>)) {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, byte) in run.bytes().enumerate() {
        match groups.last_mut() {
            Some(group) if byte.is_ascii_digit() && group.end == at => group.end = at + 1,
            _ if byte.is_ascii_digit() => groups.push(at..at + 1),
            _ => {}
        }
    }
    let mut first = 0;
    while first < groups.len() {
        // A card has at most 19 digits, so at most 19 groups; the longest that fits counts.
        let ends = (first..groups.len().min(first + 19)).rev();
        let card = ends
            .map(|last| (last, groups[first].start..groups[last].end))
            .find(|(_, range)| is_card(&run[range.clone()]));
        match card {
            Some((last, range)) => {
                found(range);
                first = last + 1;
            }
            None => first += 1,
        }
    }
}

/// Whether digits are a card number: issuer's prefix, its lengths, and Luhn's check digit.
fn is_card(text: &str) -> bool {
    if text.len() > 19 * 2 {
        return false;
    }
    let digits: Vec<u32> = text.bytes().filter(u8::is_ascii_digit).map(|b| u32::from(b - b'0')).collect();
    if !(13..=19).contains(&digits.len()) {
        return false;
    }
    let prefix = |n: usize| digits[..n].iter().fold(0, |sum, digit| sum * 10 + digit);
    let lengths: &[usize] = match (prefix(2), prefix(4)) {
        (40..=49, _) => &[13, 16, 19],
        (51..=55, _) | (_, 2221..=2720) => &[16],
        (34 | 37, _) => &[15],
        (36 | 38 | 39, _) | (_, 3000..=3059 | 3095) => &[14, 16, 17, 18, 19],
        (35, _) | (_, 6011) | (64 | 65, _) => &[16, 17, 18, 19],
        (62 | 81, _) => &[16, 17, 18, 19],
        (50 | 56..=58 | 60 | 61 | 63 | 66..=69, _) => &[13, 14, 15, 16, 17, 18, 19],
        _ => &[],
    };
    lengths.contains(&digits.len()) && luhn(&digits)
}

fn luhn(digits: &[u32]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &digit)| if i % 2 == 0 { digit } else { digit * 2 - if digit > 4 { 9 } else { 0 } })
        .sum();
    sum.is_multiple_of(10)
}
