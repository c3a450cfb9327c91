//! Whether a version does worse than the one before it in the logs of real traffic: a one-sided test of two shares.
//!
//! It is looked at again and again while logs come in, and each look is another chance to be wrong: the k-th look may use up
//! `α / (k (k + 1))` of the whole error α, whose sum over all looks is α, so that the promise holds however often it is looked.

use super::normal::cdf;

/// What one side's requests say: each is bad by 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Side {
    /// Requests.
    pub count: u64,
    /// The sum of how bad they were.
    pub bad: f64,
}

impl Side {
    /// Adds a request.
    pub fn add(&mut self, bad: f64) {
        self.count += 1;
        self.bad += bad.clamp(0.0, 1.0);
    }

    /// The mean; 0 without requests.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.bad / to_f64(self.count) }
    }

    /// The variance of the mean, from above: numbers between 0 and 1 vary at most as yes and no do. One bad and one good request
    /// are added, so that a side without a fault is not sure to have none.
    fn variance(&self) -> f64 {
        let (count, bad) = (to_f64(self.count) + 2.0, self.bad + 1.0);
        let share = bad / count;
        share * (1.0 - share) / count
    }
}

/// The probability of seeing `new` so much worse than `old` where it is worse by `fall_min` at most.
#[must_use]
pub fn chance_of_fall(old: Side, new: Side, fall_min: f64) -> f64 {
    if old.count == 0 || new.count == 0 {
        return 1.0;
    }
    let z = (new.mean() - old.mean() - fall_min) / (old.variance() + new.variance()).sqrt();
    1.0 - cdf(z)
}

/// The error that the k-th look may use up, from 1.
#[must_use]
pub fn error_of_look(error: f64, look: u64) -> f64 {
    let look = to_f64(look.max(1));
    error / (look * (look + 1.0))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(count: u64, bad: f64) -> Side {
        Side { count, bad }
    }

    #[test]
    fn a_fall_is_told_from_chance() {
        let check = |old, new, sure: bool| {
            let chance = chance_of_fall(old, new, 0.02);
            assert_eq!(chance < 0.001, sure, "{old:?} {new:?}: {chance}");
        };
        check(side(500, 5.0), side(200, 60.0), true);
        check(side(500, 5.0), side(200, 4.0), false);
        check(side(500, 0.0), side(5, 1.0), false);
        check(side(0, 0.0), side(200, 200.0), false);
        check(side(500, 500.0), side(200, 200.0), false);
        // Worse by less than matters, however sure.
        check(side(100_000, 1000.0), side(100_000, 2000.0), false);
    }

    #[test]
    fn all_looks_together_are_wrong_no_more_often_than_promised() {
        let spent: f64 = (1..100_000).map(|look| error_of_look(0.01, look)).sum();
        assert!((0.0099..0.01).contains(&spent), "{spent}");
        // Both sides the same, looked at after each ten requests: falls are seen in far fewer runs than one in twenty.
        use rand::{Rng as _, SeedableRng as _};
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let runs = 400;
        let alarms = (0..runs).filter(|_| {
            let (mut old, mut new) = (Side::default(), Side::default());
            (1..=60).any(|look| {
                for _ in 0..10 {
                    old.add(f64::from(u8::from(random.random_bool(0.1))));
                    new.add(f64::from(u8::from(random.random_bool(0.1))));
                }
                chance_of_fall(old, new, 0.0) < error_of_look(0.05, look)
            })
        });
        assert!(alarms.count() <= runs / 20);
    }
}
