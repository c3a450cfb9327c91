//! Ranges of offsets: what is in no row, and what was taken out on purpose.

/// A range of offsets, both ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// Its first offset.
    pub first: i64,
    /// Its last offset.
    pub last: i64,
}

impl Gap {
    /// Offsets in it.
    #[must_use]
    pub fn offsets(&self) -> u64 {
        u64::try_from(self.last - self.first + 1).unwrap_or(0)
    }
}

/// Offsets, in any order and any number of times, as the fewest ranges in order.
pub(super) fn ranges_of(mut offsets: Vec<i64>) -> Vec<Gap> {
    offsets.sort_unstable();
    union(offsets.into_iter().map(|o| Gap { first: o, last: o }))
}

/// The union of ranges that come in the order of their firsts.
pub(super) fn union(ordered: impl IntoIterator<Item = Gap>) -> Vec<Gap> {
    let mut all: Vec<Gap> = Vec::new();
    for gap in ordered {
        match all.last_mut() {
            Some(before) if gap.first <= before.last.saturating_add(1) => before.last = before.last.max(gap.last),
            _ => all.push(gap),
        }
    }
    all
}

/// What is in `from` and not in `taken`. Both are unions: in order, without overlaps.
pub(super) fn subtract(from: &[Gap], taken: &[Gap]) -> Vec<Gap> {
    let (mut left, mut next) = (Vec::new(), 0);
    for gap in from {
        let mut first = gap.first;
        while next < taken.len() && taken[next].last < first {
            next += 1;
        }
        for hole in taken[next..].iter().take_while(|hole| hole.first <= gap.last) {
            if hole.first > first {
                left.push(Gap { first, last: hole.first - 1 });
            }
            first = first.max(hole.last.saturating_add(1));
        }
        if first <= gap.last {
            left.push(Gap { first, last: gap.last });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(ranges: &[Gap]) -> BTreeSet<i64> {
        ranges.iter().flat_map(|g| g.first..=g.last).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_the_same_offsets(a in proptest::collection::vec(0i64..60, 0..40), b in proptest::collection::vec(0i64..60, 0..40)) {
            let (a_set, b_set): (BTreeSet<i64>, BTreeSet<i64>) = (a.iter().copied().collect(), b.iter().copied().collect());
            let (a, b) = (ranges_of(a), ranges_of(b));
            prop_assert_eq!(&set(&a), &a_set);
            prop_assert!(a.windows(2).all(|w| w[0].last + 1 < w[1].first), "{:?} has ranges that touch", a);
            let left = subtract(&a, &b);
            prop_assert_eq!(set(&left), a_set.difference(&b_set).copied().collect::<BTreeSet<_>>());
        }
    }
}
