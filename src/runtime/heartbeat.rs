//! Whether a loop still turns, told without asking it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Ages are monotonic: a clock that jumps makes no loop look dead.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Beaten by a loop at each turn, read by whoever watches it.
#[derive(Debug, Default)]
pub struct Heartbeat {
    /// Milliseconds since the process began, plus one; 0 before the first beat.
    last: AtomicU64,
}

impl Heartbeat {
    /// The loop turned.
    pub fn beat(&self) {
        self.last.store(now_ms() + 1, Relaxed);
    }

    /// How long ago it turned; nothing where it has not begun.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let last = self.last.load(Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(now_ms().saturating_sub(last)))
    }
}

fn now_ms() -> u64 {
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX)
}
