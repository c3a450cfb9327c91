//! The best non-decreasing function through weighted points.

use serde::{Deserialize, Serialize};

/// Blocks' centres, ascending in both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Isotonic {
    points: Vec<(f64, f64)>,
}

impl Isotonic {
    /// Fits pairs of a number and what happened.
    #[must_use]
    pub fn fit(pairs: &[(f64, f64)]) -> Self {
        let mut sorted = pairs.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Sum of x, sum of y, weight.
        let mut blocks: Vec<(f64, f64, f64)> = Vec::new();
        let mut last = f64::NAN;
        for (x, y) in sorted {
            match blocks.last_mut() {
                Some(block) if x == last => *block = (block.0 + x, block.1 + y, block.2 + 1.0),
                _ => {
                    pool(&mut blocks);
                    blocks.push((x, y, 1.0));
                }
            }
            last = x;
        }
        pool(&mut blocks);
        Self { points: blocks.into_iter().map(|(x, y, weight)| (x / weight, y / weight)).collect() }
    }

    /// Its value, by straight lines between the centres and flat beyond them.
    #[must_use]
    pub fn apply(&self, x: f64) -> f64 {
        let after = self.points.partition_point(|(at, _)| *at <= x);
        match (after.checked_sub(1).map(|i| self.points[i]), self.points.get(after)) {
            (Some((x0, y0)), Some((x1, y1))) => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
            (Some((_, y)), None) => y,
            (None, Some((_, y))) => *y,
            (None, None) => x,
        }
    }
}

/// Pools the last blocks as long as the last one does not lie above the one before.
fn pool(blocks: &mut Vec<(f64, f64, f64)>) {
    while let [.., a, b] = blocks.as_slice() {
        if a.1 / a.2 < b.1 / b.2 {
            return;
        }
        let joined = (a.0 + b.0, a.1 + b.1, a.2 + b.2);
        blocks.truncate(blocks.len() - 2);
        blocks.push(joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violators_are_pooled_and_lines_drawn_between() {
        let fitted = Isotonic::fit(&[(0.1, 0.0), (0.2, 1.0), (0.3, 0.0), (0.8, 1.0), (0.8, 1.0)]);
        assert_eq!(fitted.points, vec![(0.1, 0.0), (0.25, 0.5), (0.8, 1.0)]);
        assert_eq!(fitted.apply(0.0), 0.0);
        assert!((fitted.apply(0.175) - 0.25).abs() < 1e-12);
        assert_eq!(fitted.apply(0.9), 1.0);
    }

    #[test]
    fn it_never_falls() {
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        let pairs: Vec<(f64, f64)> = (0..200).map(|_| (random(), f64::from(u8::from(random() < 0.4)))).collect();
        let fitted = Isotonic::fit(&pairs);
        let values: Vec<f64> = (0..=100).map(|i| fitted.apply(f64::from(i) / 100.0)).collect();
        assert!(values.windows(2).all(|w| w[0] <= w[1] + 1e-12));
    }
}
