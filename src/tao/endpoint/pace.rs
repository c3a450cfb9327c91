//! Calls begun in a minute, evenly spaced, and the rest that a server asks for.

use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// When the next call may begin.
#[derive(Debug)]
pub(super) struct Pace {
    next: Mutex<Option<Instant>>,
    gap: Duration,
}

impl Pace {
    pub(super) fn new(requests_per_minute: Option<u32>) -> Self {
        let gap = requests_per_minute.map_or(Duration::ZERO, |n| Duration::from_secs(60) / n.max(1));
        Self { next: Mutex::new(None), gap }
    }

    /// Waits for a turn, which is then the caller's.
    pub(super) async fn turn(&self) {
        let begin = {
            let mut next = self.next.lock().expect("no holder of the lock panics");
            let begin = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(begin + self.gap);
            begin
        };
        tokio::time::sleep_until(begin).await;
    }

    /// Nobody's turn comes before the pause is over.
    pub(super) fn rest(&self, pause: Duration) {
        let mut next = self.next.lock().expect("no holder of the lock panics");
        let until = Instant::now() + pause;
        *next = Some(next.map_or(until, |n| n.max(until)));
    }
}
