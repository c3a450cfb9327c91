//! Pauses between tries that grow, with jitter, up to a bound.

use rand::Rng as _;
use std::time::Duration;

/// The pauses of one series of tries.
///
/// Each pause is drawn uniformly from `[step / 2, step]`, and the step doubles up to the maximum ("equal jitter"), so that many
/// daemons that lost the same broker do not come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    step: Duration,
    tries: u32,
}

impl Backoff {
    /// A series that begins at `first` and never pauses longer than `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first: first.min(max), max, step: first.min(max), tries: 0 }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let step = self.step;
        self.step = (step * 2).min(self.max);
        self.tries = self.tries.saturating_add(1);
        step.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Pauses taken since the last success: a failure is worth a warning when this is 0, not again until it works.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// It worked: the next failure begins a new series.
    pub fn reset(&mut self) {
        self.step = self.first;
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_bound_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(900));
        for step in [100, 200, 400, 800, 900, 900] {
            let pause = backoff.next_pause().as_millis();
            assert!((step / 2..=step).contains(&pause), "{pause} for {step}");
        }
        assert_eq!(backoff.tries(), 6);
        backoff.reset();
        assert!(backoff.next_pause().as_millis() <= 100);
    }
}
