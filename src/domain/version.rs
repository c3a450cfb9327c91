//! Registered versions of a model.

use super::ids::{CycleId, VersionRef};
use super::time::Timestamp;

/// The state of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionState {
    /// Its folder is complete and the gate has not spoken.
    Registered,
    /// The gate refused it.
    Rejected,
    /// It is the champion, or was until a later one was promoted.
    Promoted,
    /// It was champion and was withdrawn.
    RolledBack,
    /// It is kept for the record only; its adapter may be gone.
    Archived,
}

impl VersionState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Registered, Self::Rejected, Self::Promoted, Self::RolledBack, Self::Archived];

    /// The state as tables and events name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Rejected => "rejected",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Archived => "archived",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// One state change of one version: a row of `model_version`, and the content of its event.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Model and number.
    pub reference: VersionRef,
    /// The state that it came to.
    pub state: VersionState,
    /// When.
    pub time: Timestamp,
    /// The cycle that made it.
    pub cycle: CycleId,
    /// The version that it started from; the base where absent.
    pub parent: Option<VersionRef>,
    /// SHA-256 of the base model, hexadecimal.
    pub base_hash: String,
    /// The adapter folder's URL or path.
    pub location: String,
    /// SHA-256 of `adapter_model.safetensors`, hexadecimal.
    pub adapter_hash: String,
    /// Prompts that it was compared on.
    pub holdout_prompts: u64,
    /// The champion's mean reward.
    pub champion_reward: f64,
    /// This version's mean reward.
    pub challenger_reward: f64,
    /// The gain in reward, and its interval.
    pub gain: super::evaluation::Interval,
    /// Why it came to this state.
    pub reason: String,
}
