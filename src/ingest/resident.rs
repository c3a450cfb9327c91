//! What ingestion has made the process hold, whoever holds it: rows, the allocators' free pages, librdkafka, merges.
//!
//! The counts of rows say how much there is; the allocators decide how much memory that takes, and keep what was freed for a
//! while. So what the process holds beside what is counted is taken from the budget: it bounds both together.

use crate::runtime::anonymous_bytes;
use std::time::{Duration, Instant};

/// How often the kernel is asked.
const EVERY: Duration = Duration::from_millis(20);
/// A batch of some size: what has less to do with is not made smaller.
const BATCH_BYTES: usize = 8 << 20;

/// Anonymous memory since ingestion began.
pub(super) struct Resident {
    at_start: usize,
    asked: Instant,
    grown: usize,
}

impl Resident {
    pub(super) fn new() -> Self {
        Self { at_start: anonymous_bytes(), asked: Instant::now(), grown: 0 }
    }

    /// How much of the budget is there for what is counted: not an eighth, for what comes between two looks, and not what others
    /// hold; at least half of it, and of a small one as much as a batch takes, so that batches keep their size whatever that is.
    pub(super) fn room(&mut self, budget: usize, counted: usize) -> usize {
        if self.asked.elapsed() >= EVERY {
            self.asked = Instant::now();
            self.grown = anonymous_bytes().saturating_sub(self.at_start);
        }
        let beside = budget / 8 + self.grown.saturating_sub(counted);
        budget - beside.min(budget / 2).min(budget.saturating_sub(BATCH_BYTES))
    }
}
