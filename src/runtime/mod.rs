//! Tasks, shutdown, retry, clock and seeds: the only place that reads signals or tells the time.

mod backoff;
mod failpoint;
mod heartbeat;
mod memory;
mod seed;
mod shutdown;

pub use backoff::Backoff;
pub use failpoint::{Failpoint, arm_failpoint, failpoint};
pub use heartbeat::Heartbeat;
pub use memory::memory_available_bytes;
pub use seed::derive_seed;
pub use shutdown::{Shutdown, on_signal};

use crate::domain::Timestamp;

/// The present.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::from(chrono::Utc::now())
}

/// The anonymous memory that this process has resident now, in bytes: its heap and stacks, not the pages of files
/// (`/proc/self/statm`; 0 where there is none).
#[must_use]
pub fn anonymous_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split(' ').skip(1).map(|n| n.parse::<usize>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * 4096
}

/// The most memory that this process has had resident, in bytes (`VmHWM` of `/proc/self/status`; 0 where there is none).
#[must_use]
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
