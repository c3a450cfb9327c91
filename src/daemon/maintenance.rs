//! The loop that keeps the tables in order, and whether the clock may say what is old.
//!
//! Each round merges small files; every `ROUNDS_A_THOROUGH_ONE`th also drops days past their retention and deletes what
//! nobody needs. Such a round goes by the wall clock, and a wall clock can jump. So it is done only while the clock is
//! believed: a message is dated shortly before its present, or it has run in step with the monotonic clock since one was.
//! Otherwise nothing is removed, which is said once, until a message or an operator (`pelton maintain --trust-clock`) says
//! that the time is right.

use crate::config::{Config, Maintenance};
use crate::domain::Timestamp;
use crate::lake::{Lake, Maintained, Result as LakeResult, Round};
use crate::runtime::{Shutdown, now};
use crate::telemetry::Event;
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Listing folders, dropping and deleting is done at every so many rounds of maintenance, the first among them.
const ROUNDS_A_THOROUGH_ONE: u64 = 20;
/// What a clock that is kept by NTP may differ by from the monotonic one, however long the process runs.
const DRIFT_MAX: Duration = Duration::from_secs(300);

/// Keeps the tables in order until the shutdown.
///
/// # Errors
/// Where maintenance panicked; what fails is tried again.
pub(super) async fn run(config: Arc<Config>, lake: Lake, shutdown: Shutdown) -> Result<()> {
    let period = Duration::from_secs(config.maintenance.period_seconds);
    let (mut watch, mut failed) = (ClockWatch::new(&config.maintenance), false);
    for number in 1u64.. {
        // Daemons of one group start together; they should not merge the same files at the same time.
        let pause = period.mul_f64(rand::random_range(0.75..1.25));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => break,
        }
        let thorough = number % ROUNDS_A_THOROUGH_ONE == 1;
        let (lake, config, shutdown) = (lake.clone(), Arc::clone(&config), shutdown.clone());
        let runtime = Handle::current();
        let mut watched = watch.clone();
        // Decoding and encoding take their time: not on the threads that answer and wait.
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    done = round(&lake, &config.maintenance, &mut watched, thorough) => Some((done, watched)),
                    // Ended anywhere it leaves files that nothing refers to, as a crash would; the vacuum takes them later.
                    () = shutdown.cancelled() => None,
                }
            })
        };
        let began = Instant::now();
        let Some((done, watched)) = tokio::task::spawn_blocking(work).await.context("maintenance panicked")? else {
            break;
        };
        watch = watched;
        failed = tell(done, thorough, began.elapsed(), failed);
    }
    Ok(())
}

async fn round(
    lake: &Lake,
    settings: &Maintenance,
    watch: &mut ClockWatch,
    thorough: bool,
) -> LakeResult<Vec<Maintained>> {
    let now = now();
    let thorough = thorough && watch.is_believed(lake, now).await?;
    lake.maintain(settings, &[], Round { now, thorough, dry_run: false }).await
}

/// Says what a round did; whether it failed.
fn tell(done: LakeResult<Vec<Maintained>>, thorough: bool, duration: Duration, failed: bool) -> bool {
    match done {
        Ok(done) => {
            for one in &done {
                Event::Maintained {
                    table: one.table.as_str(),
                    files: one.files_after,
                    bytes: one.bytes,
                    files_merged: one.compacted.files_merged as u64,
                    bytes_merged: one.compacted.bytes,
                    rows_dropped: one.dropped.rows,
                    files_vacuumed: one.vacuumed.files as u64,
                    detail: one,
                }
                .emit();
            }
            Event::MaintenanceDone { thorough, duration, time: now(), recovered: failed }.emit();
            false
        }
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            Event::MaintenanceFailed { error: &error, again: failed }.emit();
            true
        }
    }
}

/// How long before a time a message may be dated that attests it: half as long as replaced files are kept, so that a clock
/// that is believed and wrong takes at most half of that from them.
#[must_use]
pub fn attestation_max(settings: &Maintenance) -> Duration {
    settings.history() / 2
}

/// Whether the clock may say what is old.
#[derive(Debug, Clone)]
pub struct ClockWatch {
    slack: Duration,
    /// The clock and the monotonic one when a message attested the time last.
    attested: Option<(Timestamp, Instant)>,
    doubted: bool,
}

impl ClockWatch {
    /// A watch that has seen nothing.
    #[must_use]
    pub fn new(settings: &Maintenance) -> Self {
        Self { slack: attestation_max(settings), attested: None, doubted: false }
    }

    /// Whether the present is what the clock says; says once where it is not believed, and once where it is again.
    ///
    /// # Errors
    /// Where the tables cannot be read.
    pub async fn is_believed(&mut self, lake: &Lake, now: Timestamp) -> LakeResult<bool> {
        let believed = if self.keeps_time(now, Instant::now()) {
            true
        } else {
            let attested = lake.attests(now, self.slack).await?;
            self.attested = attested.then(|| (now, Instant::now()));
            attested
        };
        if !believed && !self.doubted {
            let newest = lake.newest_message_until(now).await?;
            // Without a row there is nothing to remove, and nothing to say.
            self.doubted = newest.is_some();
            if let Some(newest) = newest {
                Event::ClockDoubted { now, newest }.emit();
            }
        } else if believed && std::mem::take(&mut self.doubted) {
            Event::ClockBelieved { now }.emit();
        }
        Ok(believed)
    }

    /// Whether the clock has run in step with the monotonic one since a message attested it.
    fn keeps_time(&self, now: Timestamp, at: Instant) -> bool {
        self.attested.is_some_and(|(then, since)| {
            let clock = now.micros().abs_diff(then.micros());
            let elapsed = u64::try_from(at.saturating_duration_since(since).as_micros()).unwrap_or(u64::MAX);
            now >= then && Duration::from_micros(clock.abs_diff(elapsed)) <= DRIFT_MAX
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_believed_as_long_as_it_runs_in_step_with_the_monotonic_one() {
        let (then, since) = (Timestamp::from_micros(1_795_348_800_000_000), Instant::now());
        let watch = ClockWatch { attested: Some((then, since)), ..ClockWatch::new(&Maintenance::default()) };
        let keeps = |clock_seconds: i64, elapsed_seconds: u64| {
            let now = Timestamp::from_micros(then.micros() + clock_seconds * 1_000_000);
            watch.keeps_time(now, since + Duration::from_secs(elapsed_seconds))
        };
        assert!(keeps(0, 0) && keeps(86_400 * 300, 86_400 * 300) && keeps(3600, 3590));
        assert!(!keeps(86_400, 60), "a day ahead");
        assert!(!keeps(-60, 60), "back");
        assert!(!keeps(60, 86_400), "behind: the process was stopped, or the clock");
        assert!(!ClockWatch::new(&Maintenance::default()).keeps_time(then, since), "nobody attested anything");
    }
}
