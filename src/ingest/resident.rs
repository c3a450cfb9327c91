//! What ingestion has made the process hold, whoever holds it: rows, the allocators' free pages, librdkafka, merges.
//!
//! The counts of rows say how much there is; the allocators decide how much memory that takes, and keep what was freed for a
//! while. So the budget bounds both: what is counted, and, while there are rows, what the process really holds.

use crate::runtime::anonymous_bytes;
use std::time::{Duration, Instant};

/// How often the kernel is asked.
const EVERY: Duration = Duration::from_millis(20);

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

    /// Bytes that the process holds more than when ingestion began.
    pub(super) fn grown(&mut self) -> usize {
        if self.asked.elapsed() >= EVERY {
            self.asked = Instant::now();
            self.grown = anonymous_bytes().saturating_sub(self.at_start);
        }
        self.grown
    }
}
