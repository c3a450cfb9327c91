//! Scores candidates without labels: [`Composition`] of scorers by rule, by judge, by reward model and by users.
//!
//! Promises that the same candidates, settings and verdicts give the same rewards, each from 0 to 1; that every part of a
//! reward is stored by name; that a candidate about which a scorer says nothing neither gains nor loses by it; that
//! agreement among samples only weighs among samples that earn something otherwise; and that one text given to many
//! prompts earns nothing. Never sees a label, but for a reference that a prompt itself carries.
//!
//! [`sql`] runs model-written SQL in isolation; [`rules`](self) verify; the judge's calls are bounded and paid once.

pub mod calibrate;
mod case;
mod compose;
mod feedback;
mod judge;
mod member;
mod reward_model;
mod rules;
pub mod sql;
mod text;

pub use case::{Case, Verdict};
pub use compose::{Composition, Summary, combine};
pub use feedback::Rated;
pub use judge::Judge;
pub use reward_model::RewardModel;
pub use rules::refuses;
pub use sql::{
    Database, Executor, Limits, Outcome, Parts, Scorer, database, executor, outcome, reward, sql_of, statement,
};

use super::endpoint;
use crate::domain::PromptHash;
use crate::model;

/// Why scoring cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of tables, or a file in it, cannot be read.
    #[error("cannot read the scorer's tables at {path}: {reason}")]
    Tables {
        /// The folder or file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A candidate answers a prompt that was not given.
    #[error("candidate {sample} answers the prompt {prompt}, which is not among the prompts to score")]
    UnknownPrompt {
        /// The prompt.
        prompt: PromptHash,
        /// The sample's number.
        sample: u32,
    },
    /// No scorer is configured.
    #[error("no scorer is given; add one, such as sql, judge or grounded")]
    Nothing,
    /// A scorer cannot be set up.
    #[error("scorer {name}: {reason}")]
    Setting {
        /// The scorer.
        name: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The judge's file of verdicts cannot be read or written.
    #[error("scorer judge: cannot use the cache {path}")]
    Cache {
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The judge gave too few verdicts to go on.
    #[error(
        "scorer judge: {without} of {asked} responses have no verdict, more than without_share_max allows; the last problem: {last}"
    )]
    Judge {
        /// Responses without a verdict.
        without: usize,
        /// Responses asked about.
        asked: usize,
        /// What the judge said instead.
        last: String,
    },
    /// The judge's budget is spent, and its setting says to stop then.
    #[error("scorer judge: {0}, or set when_spent = \"leave_out\"")]
    Budget(endpoint::Error),
    /// The cancellation flag was set.
    #[error("cancelled while scoring")]
    Cancelled,
    /// A model of a scorer failed.
    #[error("scorer {name}: its model failed")]
    Model {
        /// The scorer.
        name: &'static str,
        /// The cause.
        source: model::Error,
    },
}
