//! What a window hands to a cycle.

use super::hash::PromptHash;
use super::ids::WindowName;
use super::message::ChatMessage;
use super::time::Timestamp;
use std::collections::BTreeMap;

/// One prompt that real users sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The call that it was taken from: the latest with this hash.
    pub request_id: String,
    /// Its identity.
    pub hash: PromptHash,
    /// All turns, the answer left out.
    pub messages: Vec<ChatMessage>,
    /// When it was asked.
    pub request_time: Timestamp,
}

/// Which side of the split a prompt is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Explored and trained on.
    Train,
    /// Kept for evaluation, in this cycle and every later one.
    Holdout,
}

impl Split {
    /// The side as the table stores it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Holdout => "holdout",
        }
    }
}

/// Why a row that the window's SQL returned is not in the set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exclusion {
    /// Another row with the same prompt hash was taken.
    Duplicate,
    /// The row has no prompt: no messages, or no user turn.
    NoPrompt,
    /// Its call was answered with an error.
    Error,
    /// It says nearly the same as a prompt that was taken.
    NearDuplicate,
    /// It says nearly the same as a prompt of an evaluation set.
    Contaminated,
    /// Its requester had as many as one may have.
    UserMaximum,
    /// The window had its maximum already.
    OverMaximum,
}

impl Exclusion {
    /// The reason as the table and the preview show it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate prompt",
            Self::NoPrompt => "no prompt",
            Self::Error => "answered with an error",
            Self::NearDuplicate => "nearly the same as another",
            Self::Contaminated => "nearly the same as a prompt of an evaluation set",
            Self::UserMaximum => "over its requester's maximum",
            Self::OverMaximum => "over the window's maximum",
        }
    }
}

/// A row that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The call.
    pub request_id: String,
    /// Its prompt, shortened, where it has one.
    pub prompt: Option<String>,
    /// The reason.
    pub why: Exclusion,
}

/// The prompts of one cycle. The same table version, SQL, times and seed give the same set.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSet {
    /// The window that chose them.
    pub window: WindowName,
    /// The window's SQL as it ran.
    pub sql: String,
    /// The version of `inference_log` that was read.
    pub table_version: i64,
    /// `$since`.
    pub since: Timestamp,
    /// `$until`.
    pub until: Timestamp,
    /// Prompts to train on, in a fixed order.
    pub train: Vec<Prompt>,
    /// Prompts to evaluate on, in a fixed order.
    pub holdout: Vec<Prompt>,
    /// Rows of the SQL's result that are in neither.
    pub left_out: Vec<LeftOut>,
    /// Why each prompt was taken; written to the table, and not read back.
    pub reasons: BTreeMap<PromptHash, String>,
    /// The stratum of each prompt that has one.
    pub strata: BTreeMap<PromptHash, String>,
}
