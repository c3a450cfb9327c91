//! Training set to adapter: [`explore`], [`score`], [`optimize`].
//!
//! Each step takes plain values and gives plain values, so that a cycle can make each durable before the next begins:
//! prompts to candidates, candidates to rewards with their components, scored candidates to an adapter and its curve.
//! Everything random derives from one seed by [`rng_seed`]. Nothing here reads a label, a table of the lake or a clock.

pub mod endpoint;
pub mod explore;
pub mod optimize;
pub mod score;

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

/// Who watches a step, and may end it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    progress: &'a (dyn Fn(Progress) + Sync),
    cancelled: &'a AtomicBool,
}

impl<'a> Watch<'a> {
    /// Reports to `progress`; ends early when `cancelled` is set.
    #[must_use]
    pub fn new(progress: &'a (dyn Fn(Progress) + Sync), cancelled: &'a AtomicBool) -> Self {
        Self { progress, cancelled }
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
