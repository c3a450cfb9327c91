//! Scores SQL without labels, by rules that a database can verify.
//!
//! Promises that the same candidates and database give the same rewards, that every part of a reward is stored by name,
//! and that nothing a model writes can harm the process ([`executor`]). The reward is the product of what ties a
//! response to its question, times `1 − w + w · agreement` ([`reward`] says why, and why never agreement alone). Never
//! sees a true SQL: [`Scorer::is_correct`] serves evaluation, where a truth is known.

pub mod database;
pub mod executor;
pub mod outcome;
pub mod reward;
pub mod statement;

use super::Error;
use crate::domain::{Candidate, ChatMessage, PromptHash};
pub use database::Database;
pub use executor::{Executor, Limits};
pub use outcome::Outcome;
pub use reward::Parts;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

/// What makes a text "one answer for every question".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConstantGuard {
    /// The share of prompts above which one text earns nothing; default 0.15.
    pub share_max: f64,
    /// Fewer prompts than this say nothing; default 20.
    pub prompts_min: usize,
}

impl Default for ConstantGuard {
    fn default() -> Self {
        Self { share_max: 0.15, prompts_min: 20 }
    }
}

/// Scores responses that are SQL over one database.
#[derive(Debug)]
pub struct Scorer {
    executor: Executor,
    guard: ConstantGuard,
    agreement_weight: f64,
}

/// Figures of one scoring, for the log and the report.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Candidates scored.
    pub candidates: usize,
    /// Their mean reward.
    pub reward_mean: f64,
    /// The share that ran.
    pub executed_share: f64,
    /// The largest share of prompts that were given one and the same text: near 1, the model answers with a constant.
    pub constant_share: f64,
}

impl Scorer {
    /// Opens the folder of Parquet tables.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn open(tables: &Path, limits: Limits) -> Result<Self, Error> {
        Ok(Self::new(Executor::new(Arc::new(Database::open(tables)?), limits)))
    }

    /// Scores with an executor that is at hand.
    #[must_use]
    pub fn new(executor: Executor) -> Self {
        Self { executor, guard: ConstantGuard::default(), agreement_weight: reward::AGREEMENT_WEIGHT }
    }

    /// The same with another weight of agreement, in [0, 1).
    #[must_use]
    pub fn with_agreement_weight(self, agreement_weight: f64) -> Self {
        Self { agreement_weight, ..self }
    }

    /// The executor.
    #[must_use]
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Sets reward and components of every candidate; `prompts` gives each prompt's messages.
    ///
    /// # Errors
    /// [`Error::UnknownPrompt`].
    pub fn score(
        &self,
        prompts: &HashMap<PromptHash, Vec<ChatMessage>>,
        candidates: &mut [Candidate],
    ) -> Result<Summary, Error> {
        let texts: Vec<String> = candidates.iter().map(|c| sql_of(&c.text).to_owned()).collect();
        let outcomes = self.executor.run_all(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let constants = Constants::count(candidates, &texts);
        let mut groups: BTreeMap<PromptHash, Vec<usize>> = BTreeMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            groups.entry(candidate.prompt).or_default().push(at);
        }
        for (prompt, members) in groups {
            let unknown = || Error::UnknownPrompt { prompt, sample: candidates[members[0]].sample };
            let links = self.executor.database().link(question_of(prompts.get(&prompt).ok_or_else(unknown)?));
            let parts: Vec<Parts> = members
                .iter()
                .map(|&at| {
                    let varied = constants.varied(&texts[at], self.guard);
                    Parts { varied, ..self.parts(&links, &texts[at], &outcomes[at]) }
                })
                .collect();
            let keys: Vec<_> = members.iter().map(|&at| outcomes[at].answer().map(|a| a.key)).collect();
            let tied: Vec<f64> = parts.iter().map(Parts::tied).collect();
            for ((&at, agreement), parts) in members.iter().zip(reward::agreement(&keys, &tied)).zip(&parts) {
                candidates[at].reward = Some(reward::reward(parts.tied(), agreement, self.agreement_weight));
                candidates[at].components = parts.components(agreement);
            }
        }
        Ok(summary(candidates, &constants))
    }

    /// The reward of single answers, one a prompt, without agreement: what the gate compares versions by.
    #[must_use]
    pub fn judge(&self, answers: &[(&[ChatMessage], &str)]) -> Vec<f64> {
        self.inspect(answers).iter().map(Parts::tied).collect()
    }

    /// The parts of single answers' rewards.
    #[must_use]
    pub fn inspect(&self, answers: &[(&[ChatMessage], &str)]) -> Vec<Parts> {
        let texts: Vec<&str> = answers.iter().map(|(_, text)| sql_of(text)).collect();
        let outcomes = self.executor.run_all(&texts);
        let each = answers.iter().zip(texts.iter().zip(&outcomes));
        let parts = |(messages, text, outcome): (&[ChatMessage], &str, &Outcome)| {
            self.parts(&self.executor.database().link(question_of(messages)), text, outcome)
        };
        each.map(|((messages, _), (text, outcome))| parts((messages, text, outcome))).collect()
    }

    /// Execution accuracy: whether each response's answer equals its true SQL's. For evaluation only.
    #[must_use]
    pub fn is_correct(&self, pairs: &[(&str, &str)]) -> Vec<bool> {
        let given: Vec<&str> = pairs.iter().map(|(response, _)| sql_of(response)).collect();
        let truth: Vec<&str> = pairs.iter().map(|(_, truth)| *truth).collect();
        let (given, truth) = (self.executor.run_all(&given), self.executor.run_all(&truth));
        given.iter().zip(&truth).map(|(a, b)| a.agrees(b)).collect()
    }

    fn parts(&self, links: &database::Links, text: &str, outcome: &Outcome) -> Parts {
        match statement::read(text, self.executor.limits().sql_bytes_max) {
            Ok(statement) => reward::inspect(links, &statement, outcome),
            Err(_) => Parts::NOTHING,
        }
    }
}

/// How many prompts were given each text.
pub(super) struct Constants {
    prompts: usize,
    given: HashMap<String, usize>,
}

impl Constants {
    pub(super) fn count(candidates: &[Candidate], texts: &[String]) -> Self {
        let prompts: BTreeSet<PromptHash> = candidates.iter().map(|c| c.prompt).collect();
        let pairs: BTreeSet<(&str, PromptHash)> =
            texts.iter().zip(candidates).map(|(text, c)| (text.as_str(), c.prompt)).collect();
        let mut given: HashMap<String, usize> = HashMap::new();
        for (text, _) in pairs {
            *given.entry(text.to_owned()).or_default() += 1;
        }
        Self { prompts: prompts.len(), given }
    }

    #[expect(clippy::cast_precision_loss, reason = "prompts are counted in thousands")]
    pub(super) fn share(&self, text: &str) -> f64 {
        self.given.get(text).map_or(0.0, |&count| count as f64 / self.prompts as f64)
    }

    pub(super) fn varied(&self, text: &str, guard: ConstantGuard) -> f64 {
        let says_nothing = self.prompts < guard.prompts_min;
        f64::from(u8::from(says_nothing || self.share(text) <= guard.share_max))
    }
}

#[expect(clippy::cast_precision_loss, reason = "candidates are counted in thousands")]
fn summary(candidates: &[Candidate], constants: &Constants) -> Summary {
    let mean =
        |value: &dyn Fn(&Candidate) -> f64| candidates.iter().map(value).sum::<f64>() / candidates.len().max(1) as f64;
    let executes = |c: &Candidate| c.components.iter().find(|p| p.name == "executes").map_or(0.0, |p| p.value);
    Summary {
        candidates: candidates.len(),
        reward_mean: mean(&|c| c.reward.unwrap_or(0.0)),
        executed_share: mean(&executes),
        constant_share: constants.given.keys().map(|text| constants.share(text)).fold(0.0, f64::max),
    }
}

/// The question: the last user turn.
fn question_of(messages: &[ChatMessage]) -> &str {
    messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.content.as_str())
}

/// The SQL of a response: a fenced block's content where there is one, else all of it, without a closing semicolon.
#[must_use]
pub fn sql_of(response: &str) -> &str {
    let fenced = response
        .split_once("```")
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(block, _)| block.strip_prefix("sql").or_else(|| block.strip_prefix("SQL")).unwrap_or(block));
    fenced.unwrap_or(response).trim().trim_end_matches(';').trim_end()
}
