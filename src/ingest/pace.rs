//! How old a batch may get before it is committed: soon where it is worth a file, later where rows come slowly.
//!
//! A commit costs the same whatever is in it, and leaves at least one file. So where rows trickle, a batch waits for more of
//! them, up to the configured latency; where they come fast it is cut by its bytes or at the lower age. The first rows after
//! a quiet time are not kept waiting: there are few such commits.

use crate::config::Ingest;
use std::time::{Duration, Instant};

/// A batch of this share of the bytes at which it is cut anyway is worth a file.
const WORTH_A_FILE: usize = 4;

/// The ages at which batches are cut.
#[derive(Debug)]
pub(super) struct Pace {
    age_min: Duration,
    age_max: Duration,
    rows_max: usize,
    bytes_max: usize,
    /// When a batch was cut last.
    cut: Option<Instant>,
}

impl Pace {
    pub(super) fn new(ingest: &Ingest) -> Self {
        let age_max = Duration::from_millis(ingest.batch_age_ms_max);
        Self {
            age_min: Duration::from_millis(ingest.batch_age_ms_min).min(age_max),
            age_max,
            rows_max: ingest.batch_rows_max,
            // Batches that are filled, encoded and committed at once fit the budget.
            bytes_max: ingest.batch_bytes_max.min(ingest.in_flight_bytes_max / 12),
            cut: None,
        }
    }

    /// Whether what was read is to be committed now; `age` is that of its oldest row.
    pub(super) fn is_due(&self, rows: usize, bytes: usize, age: Duration, now: Instant) -> bool {
        rows > 0 && (rows >= self.rows_max || bytes >= self.bytes_max || age >= self.age(bytes, age, now))
    }

    fn age(&self, bytes: usize, age: Duration, now: Instant) -> Duration {
        let began = now.checked_sub(age).unwrap_or(now);
        let was_quiet = self.cut.is_none_or(|cut| began.saturating_duration_since(cut) >= self.age_max);
        let is_worth_a_file = bytes >= self.bytes_max / WORTH_A_FILE;
        if was_quiet || is_worth_a_file { self.age_min } else { self.age_max }
    }

    /// Takes in that a batch was cut.
    pub(super) fn cut(&mut self, now: Instant) {
        self.cut = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds between commits of ten simulated minutes in which so many bytes come each second, a row for each thousand.
    fn commits(bytes_a_second: usize) -> Vec<f64> {
        let ingest = Ingest { batch_age_ms_min: 2_000, batch_age_ms_max: 10_000, ..Ingest::default() };
        let mut pace = Pace::new(&ingest);
        let start = Instant::now();
        let (mut rows, mut bytes, mut since, mut last, mut ages) = (0, 0, start, start, Vec::new());
        for tick in 0..6_000_usize {
            let now = start + Duration::from_millis(tick as u64 * 100);
            let come = bytes_a_second * (tick + 1) / 10 - bytes_a_second * tick / 10;
            if rows == 0 && come > 0 {
                since = now;
            }
            (rows, bytes) = (rows + come.div_ceil(1_000), bytes + come);
            if pace.is_due(rows, bytes, now - since, now) {
                ages.push((now - last).as_secs_f64());
                pace.cut(now);
                (rows, bytes, last) = (0, 0, now);
            }
        }
        ages
    }

    #[test]
    fn slow_topics_commit_seldom_and_fast_ones_by_bytes() {
        for (bytes_a_second, commits_min, commits_max) in
            [(10, 55, 62), (100_000, 55, 62), (1 << 20, 100, 120), (6 << 20, 280, 310), (64 << 20, 1_400, 1_600)]
        {
            let ages = commits(bytes_a_second);
            assert!((commits_min..=commits_max).contains(&ages.len()), "{bytes_a_second} B/s: {} commits", ages.len());
            assert!(ages.iter().all(|age| *age <= 10.3), "{bytes_a_second} B/s: later than the configured latency");
        }
        assert!(commits(10)[0] <= 2.3, "the first rows are not kept waiting");
    }

    #[test]
    fn rows_after_a_quiet_time_are_committed_soon_and_a_short_latency_holds_everywhere() {
        let second = Duration::from_secs(1);
        let ingest = Ingest { batch_age_ms_min: 2_000, batch_age_ms_max: 10_000, ..Ingest::default() };
        let mut pace = Pace::new(&ingest);
        let start = Instant::now();
        pace.cut(start);
        assert!(!pace.is_due(1, 9, 2 * second, start + 5 * second), "rows trickle");
        assert!(pace.is_due(1, 9, 10 * second, start + 13 * second));
        assert!(pace.is_due(1, 9, 2 * second, start + 13 * second), "nothing came for ten seconds");
        assert!(pace.is_due(1, 9 << 20, 2 * second, start + 5 * second), "worth a file");
        assert!(pace.is_due(1, 32 << 20, Duration::ZERO, start));
        assert!(pace.is_due(ingest.batch_rows_max, 9, Duration::ZERO, start));
        assert!(!pace.is_due(0, 0, 99 * second, start + 99 * second), "there is nothing to commit");
        let quick = Pace::new(&Ingest { batch_age_ms_max: 250, ..Ingest::default() });
        assert!(quick.is_due(1, 9, second / 4, start + second));
    }
}
