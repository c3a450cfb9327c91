//! Training set to adapter: [`explore`], [`score`], [`optimize`].
//!
//! Each step takes plain values and gives plain values, so that a cycle can make each durable before the next begins:
//! prompts to candidates, candidates to rewards with their components, scored candidates to an adapter and its curve.
//! Everything random derives from one seed by [`rng_seed`]. Nothing here reads a label, a table of the lake or a clock.

pub mod endpoint;
pub mod explore;
mod kept;
pub mod memory;
pub mod optimize;
pub mod score;

pub(crate) use kept::Fingerprint;
pub use kept::{Keeper, SaveError};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicBool, Ordering};

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The step: `explore` or `optimize`.
    pub what: &'static str,
    /// Prompts explored, or updates made.
    pub done: usize,
    /// Of how many.
    pub total: usize,
}

/// Who watches a step, may end it, and keeps what it has done so far.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    progress: &'a (dyn Fn(Progress) + Sync),
    cancelled: &'a AtomicBool,
    keeper: Option<&'a dyn Keeper>,
}

impl<'a> Watch<'a> {
    /// Reports to `progress`; ends early when `cancelled` is set.
    #[must_use]
    pub fn new(progress: &'a (dyn Fn(Progress) + Sync), cancelled: &'a AtomicBool) -> Self {
        Self { progress, cancelled, keeper: None }
    }

    /// The same, with a place for what the step has done so far: a step that finds its own there goes on from it.
    #[must_use]
    pub fn keeping(self, keeper: &'a dyn Keeper) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    fn keeps(&self) -> bool {
        self.keeper.is_some()
    }

    fn is_due(&self) -> bool {
        self.keeper.is_some_and(Keeper::is_due)
    }

    fn kept(&self, name: &str) -> Result<Option<Vec<u8>>, SaveError> {
        self.keeper.map_or(Ok(None), |keeper| keeper.get(name))
    }

    fn keep(&self, name: &str, bytes: Vec<u8>) -> Result<(), SaveError> {
        self.keeper.map_or(Ok(()), |keeper| keeper.put(name, bytes))
    }

    /// The same flag with another reporter.
    #[must_use]
    pub fn with(&self, progress: &'a (dyn Fn(Progress) + Sync)) -> Self {
        Self { progress, ..*self }
    }

    /// Tells how far a step is.
    pub fn report(&self, progress: Progress) {
        (self.progress)(progress);
    }

    /// Whether the step is to end early.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// One seed from many: cycle seed, round, prompt, sample.
///
/// A hash, not a sum, so that neighbouring prompts and samples have unrelated streams.
#[must_use]
pub fn rng_seed(parts: &[u64]) -> u64 {
    let digest = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part.to_be_bytes())).finalize();
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(head)
}
