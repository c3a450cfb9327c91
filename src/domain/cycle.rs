//! The states of one turn of the wheel.

use super::ids::{CycleId, ModelName, VersionNumber};
use super::time::Timestamp;
use std::fmt;

/// Where a cycle stands. Each state names the step that is under way; its output is durable before the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CycleState {
    /// Asked for, not begun.
    Requested,
    /// The window's SQL chooses prompts.
    Collect,
    /// Responses are sampled.
    Explore,
    /// Responses are scored.
    Score,
    /// The adapter is trained.
    Optimize,
    /// Champion and challenger answer the holdout.
    Evaluate,
    /// The gate decides on what the evaluation found.
    Gate,
    /// The version is registered, with the gate's verdict.
    Register,
    /// The event is sent.
    Publish,
    /// The end: a version was registered, promoted or rejected.
    Done,
    /// The end: the window had too few prompts.
    Skipped,
    /// Somebody asked for the end; whoever runs it stops.
    Cancelling,
    /// One try ended with an error, in the row's detail; another follows.
    Failed,
    /// The end: it failed as often as it may, and waits for `pelton cycle retry`.
    Parked,
    /// The end: cancelled by hand.
    Cancelled,
}

impl CycleState {
    /// All states, in order.
    pub const ALL: [Self; 15] = [
        Self::Requested,
        Self::Collect,
        Self::Explore,
        Self::Score,
        Self::Optimize,
        Self::Evaluate,
        Self::Gate,
        Self::Register,
        Self::Publish,
        Self::Done,
        Self::Skipped,
        Self::Cancelling,
        Self::Failed,
        Self::Parked,
        Self::Cancelled,
    ];

    /// The state as the table stores it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Collect => "collect",
            Self::Explore => "explore",
            Self::Score => "score",
            Self::Optimize => "optimize",
            Self::Evaluate => "evaluate",
            Self::Gate => "gate",
            Self::Register => "register",
            Self::Publish => "publish",
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Cancelling => "cancelling",
            Self::Failed => "failed",
            Self::Parked => "parked",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether nothing follows by itself.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Skipped | Self::Parked | Self::Cancelled)
    }
}

impl fmt::Display for CycleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What started a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// The cron expression.
    Cron,
    /// The window had its minimum of fresh prompts.
    FreshPrompts,
    /// A person, by `pelton cycle run`.
    Hand,
    /// A person, who leaves it to a daemon to run it.
    Queued,
}

impl Trigger {
    /// The trigger as the table stores it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cron => "cron",
            Self::FreshPrompts => "fresh_prompts",
            Self::Hand => "hand",
            Self::Queued => "queued",
        }
    }
}

/// One state change of one cycle: a row of the `cycle` table.
#[derive(Debug, Clone, PartialEq)]
pub struct CycleEvent {
    /// The cycle.
    pub cycle: CycleId,
    /// The model that it tunes.
    pub model: ModelName,
    /// The state that it came to.
    pub state: CycleState,
    /// When.
    pub time: Timestamp,
    /// Which try of the cycle this is, from 1: a later one reopens what an earlier one ended.
    pub attempt: u32,
    /// `$until` of its window, once known: the next cycle's `$since`.
    pub until: Option<Timestamp>,
    /// The version that it registered, once known.
    pub version: Option<VersionNumber>,
    /// Figures of the step that ended, or the error, as JSON.
    pub detail: String,
}
