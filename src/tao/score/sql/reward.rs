//! The reward of one response, as a pure function of what was found out about it.
//!
//! Promises a number in [0, 1] that is zero for anything that does not run, reads no table, returns nothing, invents a
//! literal, or is one answer given to many questions. Agreement among a prompt's samples only weighs among responses
//! that are tied to the question: measured on real questions, agreement by itself is hacked within a hundred steps, by
//! one constant query that agrees with itself. Never sees a label.

use super::database::{Links, number, singulars, words};
use super::outcome::Outcome;
use super::statement::{Literal, Operation, Statement};
use crate::domain::Component;
use std::collections::BTreeSet;

/// The share of the reward that agreement decides: a response that is right alone keeps the rest.
pub const AGREEMENT_WEIGHT: f64 = 0.4;

/// What was found out about one response, each part in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// Parses as one read-only query that reads a table.
    pub reads: f64,
    /// Runs within its limits.
    pub executes: f64,
    /// Returns a value; a lone zero counts half, since it is mostly a filter that met nothing.
    pub non_empty: f64,
    /// Every literal comes from the question.
    pub grounded: f64,
    /// The share of database values and numbers named in the question that the SQL uses.
    pub values: f64,
    /// The share of schema words named in the question that the SQL uses.
    pub schema: f64,
    /// How well the operations fit the question's words ("average", "each", "more than").
    pub operations: f64,
    /// Whether it is *not* one text that many prompts were given.
    pub varied: f64,
}

impl Parts {
    /// A response that is no query.
    pub const NOTHING: Self = Self {
        reads: 0.0,
        executes: 0.0,
        non_empty: 0.0,
        grounded: 0.0,
        values: 0.0,
        schema: 0.0,
        operations: 0.0,
        varied: 1.0,
    };

    /// The product of all parts: how far the response is tied to the question.
    #[must_use]
    pub fn tied(&self) -> f64 {
        self.named().iter().map(|(_, value)| value).product()
    }

    /// The parts by name, as candidates store them.
    #[must_use]
    pub fn named(&self) -> [(&'static str, f64); 8] {
        [
            ("reads", self.reads),
            ("executes", self.executes),
            ("non_empty", self.non_empty),
            ("grounded", self.grounded),
            ("values", self.values),
            ("schema", self.schema),
            ("operations", self.operations),
            ("varied", self.varied),
        ]
    }

    /// The parts, agreement and product as components.
    #[must_use]
    pub fn components(&self, agreement: f64) -> Vec<Component> {
        let parts = self.named().into_iter().chain([("agreement", agreement), ("tied", self.tied())]);
        parts.map(|(name, value)| Component { name: name.to_owned(), value }).collect()
    }
}

/// `tied · (1 − w + w · agreement)`, where w is agreement's weight.
#[must_use]
pub fn reward(tied: f64, agreement: f64, weight: f64) -> f64 {
    tied * (1.0 - weight + weight * agreement)
}

/// For each sample, the share of the prompt's weight on samples with the same answer.
///
/// `keys[i]` identifies sample i's answer (none: it has no answer), `weights[i]` its tied product. A wrong majority
/// that is not tied to the question has no weight, so it agrees with nothing.
#[must_use]
pub fn agreement(keys: &[Option<u128>], weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    let mass = |key: u128| keys.iter().zip(weights).filter(|(k, _)| **k == Some(key)).map(|(_, w)| w).sum::<f64>();
    keys.iter().map(|key| key.filter(|_| total > 0.0).map_or(0.0, |key| mass(key) / total)).collect()
}

/// Looks at one response to one question.
#[must_use]
pub fn inspect(links: &Links, statement: &Statement, outcome: &Outcome) -> Parts {
    let Some(answer) = outcome.answer() else {
        return Parts { reads: f64::from(statement.reads_table), ..Parts::NOTHING };
    };
    let non_empty = match (answer.rows > 0 && answer.has_value, answer.is_zero) {
        (false, _) => 0.0,
        (true, true) => 0.5,
        (true, false) => 1.0,
    };
    Parts {
        reads: f64::from(u8::from(statement.reads_table)),
        executes: 1.0,
        non_empty,
        grounded: grounded(links, statement),
        values: values(links, statement),
        schema: schema(links, statement),
        operations: operations(links, statement, answer.has_number),
        varied: 1.0,
    }
}

/// 1 if every literal is a value or number of the question, else 0.
fn grounded(links: &Links, statement: &Statement) -> f64 {
    let stems = singulars(&links.words);
    let known = |literal: &Literal| match literal {
        Literal::Number(digits) => words(digits).iter().all(|w| number(w).is_some_and(|n| links.numbers.contains(&n))),
        Literal::Text(text) => {
            let text = singulars(&words(text));
            !text.is_empty() && stems.windows(text.len()).any(|window| window == text)
        }
    };
    f64::from(u8::from(statement.literals.iter().all(known)))
}

/// The share of named values and numbers that appear as literals, spelled as the database spells them.
fn values(links: &Links, statement: &Statement) -> f64 {
    let texts: BTreeSet<&str> = statement
        .literals
        .iter()
        .filter_map(|l| if let Literal::Text(t) = l { Some(t.as_str()) } else { None })
        .collect();
    let numbers: BTreeSet<String> = statement.literals.iter().flat_map(literal_numbers).collect();
    let named = links.values.iter().map(|spellings| spellings.iter().any(|s| texts.contains(s.as_str())));
    // "One" and "zero" are rarely figures ("which one …"), so they are allowed but not asked for.
    let figures = links.numbers.iter().filter(|n| !matches!(n.as_str(), "0" | "1")).map(|n| numbers.contains(n));
    share(named.chain(figures))
}

fn literal_numbers(literal: &Literal) -> Vec<String> {
    match literal {
        Literal::Number(digits) => words(digits).iter().filter_map(|w| number(w)).collect(),
        Literal::Text(text) => words(text).iter().filter_map(|w| number(w)).collect(),
    }
}

/// The share of named schema words that are in the SQL's tables and columns.
fn schema(links: &Links, statement: &Statement) -> f64 {
    let used: BTreeSet<String> = statement.names.iter().flat_map(|n| super::database::name_words(n)).collect();
    share(links.schema_words.iter().map(|word| used.contains(word)))
}

/// Question words that ask for an operation, each a phrase of whole words, and what satisfies them.
const ASKED: &[(&[&str], &[Operation])] = &[
    (&["average", "mean", "avg"], &[Operation::Average]),
    (&["total", "sum", "altogether", "overall", "combined", "add up"], &[Operation::Sum, Operation::Count]),
    (&["each", "every", "per", "break down", "grouped by"], &[Operation::Group]),
    (
        &["highest", "most", "largest", "biggest", "best", "greatest", "top", "maximum", "longest", "newest", "latest"],
        &[Operation::Highest, Operation::Lowest],
    ),
    (
        &["lowest", "least", "smallest", "cheapest", "fewest", "minimum", "shortest", "oldest", "earliest", "first"],
        &[Operation::Lowest, Operation::Highest],
    ),
    (&["over", "above", "more than", "higher than", "greater than", "at least", "after", "since"], &[Operation::Above]),
    (&["under", "below", "less than", "lower than", "fewer than", "at most", "before"], &[Operation::Below]),
    (&["different", "distinct", "unique"], &[Operation::Distinct, Operation::Group]),
];

/// The share of asked operations that the SQL has; less where "how many" is answered without a number, and where the
/// SQL averages or picks an extreme although no word asks for it.
fn operations(links: &Links, statement: &Statement, has_number: bool) -> f64 {
    let text = format!(" {} ", links.words.join(" "));
    let says = |phrase: &&str| text.contains(&format!(" {phrase} "));
    let asked = ASKED.iter().filter(|(phrases, _)| phrases.iter().any(&says));
    let done = |wanted: &[Operation]| wanted.iter().any(|o| statement.operations.contains(o));
    let fits = share(asked.map(|(_, wanted)| done(wanted)));
    let wants_number = ["how many", "how much", "number of", "count"].iter().any(says);
    let superlative = |w: &String| w.len() > 4 && (w.ends_with("est") || w.ends_with("most"));
    let extreme =
        ["most", "least", "top", "best", "first", "last", "maximum", "minimum", "max", "min"].iter().any(says)
            || links.words.iter().any(superlative);
    let average = ["average", "mean", "avg", "typical", "usual"].iter().any(says);
    let unasked =
        (done(&[Operation::Average]) && !average) || (done(&[Operation::Highest, Operation::Lowest]) && !extreme);
    fits * if wants_number && !has_number { 0.5 } else { 1.0 } * if unasked { 0.5 } else { 1.0 }
}

/// The share of `true`; 1 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a question names few things")]
fn share(found: impl Iterator<Item = bool>) -> f64 {
    let (mut all, mut yes) = (0usize, 0usize);
    for is in found {
        all += 1;
        yes += usize::from(is);
    }
    if all == 0 { 1.0 } else { yes as f64 / all as f64 }
}
