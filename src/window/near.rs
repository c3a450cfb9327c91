//! Near-duplicates of prompts, by MinHash: which prompts say nearly the same as one that is there already.
//!
//! A prompt is the set of its runs of three words. Signatures in bands find the pairs that are worth a look (A. Broder, "On the
//! resemblance and containment of documents", 1997; locality-sensitive hashing by bands), and the sets themselves decide: a pair
//! is near where intersection over union is at least the threshold. What the bands miss is kept, never the other way round.

use crate::runtime::derive_seed;
use std::collections::{BTreeSet, HashMap};

/// Hashes of a signature.
const HASHES: usize = 128;
/// Words of a run.
const RUN: usize = 3;

/// What is there already, by the order in which it was added.
pub(super) struct Near {
    threshold: f64,
    rows: usize,
    seeds: Vec<u64>,
    sets: Vec<BTreeSet<u64>>,
    bands: HashMap<(usize, u64), Vec<usize>>,
}

impl Near {
    /// For pairs of at least this Jaccard similarity.
    pub(super) fn new(threshold: f64) -> Self {
        // As many rows a band as still find a pair at the threshold; more rows compare fewer pairs in vain.
        let finds =
            |(bands, rows): &(u32, i32)| f64::from(*bands).recip().powf(f64::from(*rows).recip()) <= threshold * 0.85;
        let rows = [(8, 16), (16, 8), (32, 4), (64, 2)]
            .into_iter()
            .find(finds)
            .map_or(1, |(bands, _)| HASHES / bands as usize);
        let seeds = (0..HASHES as u64).map(|i| derive_seed(1, "minhash", &[i])).collect();
        Self { threshold, rows, seeds, sets: Vec::new(), bands: HashMap::new() }
    }

    /// The first text that is near this one, if any; otherwise it is added.
    pub(super) fn find_or_add(&mut self, text: &str) -> Option<usize> {
        let found = self.find(text);
        if found.is_none() {
            self.add(text);
        }
        found
    }

    pub(super) fn find(&self, text: &str) -> Option<usize> {
        let set = runs(text);
        let keys = self.keys(&set);
        let candidates: BTreeSet<usize> =
            keys.iter().filter_map(|key| self.bands.get(key)).flatten().copied().collect();
        candidates.into_iter().find(|at| similarity(&set, &self.sets[*at]) >= self.threshold)
    }

    pub(super) fn add(&mut self, text: &str) {
        let set = runs(text);
        let at = self.sets.len();
        for key in self.keys(&set) {
            self.bands.entry(key).or_default().push(at);
        }
        self.sets.push(set);
    }

    fn keys(&self, set: &BTreeSet<u64>) -> Vec<(usize, u64)> {
        let least = |seed: &u64| set.iter().map(|run| mix(run ^ seed)).min().unwrap_or(u64::MAX);
        let signature: Vec<u64> = self.seeds.iter().map(least).collect();
        let band = |values: &[u64]| values.iter().fold(0, |key: u64, value| mix(key ^ value));
        signature.chunks(self.rows).map(band).enumerate().collect()
    }
}

/// The hashes of a text's runs of words; of all its words where there are fewer.
fn runs(text: &str) -> BTreeSet<u64> {
    let plain = text.to_lowercase();
    let words: Vec<u64> = plain.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(hash).collect();
    let join = |run: &[u64]| run.iter().fold(0, |key: u64, word| mix(key ^ word));
    if words.len() < RUN { BTreeSet::from([join(&words)]) } else { words.windows(RUN).map(join).collect() }
}

fn similarity(a: &BTreeSet<u64>, b: &BTreeSet<u64>) -> f64 {
    let both = a.intersection(b).count();
    let all = a.len() + b.len() - both;
    #[expect(clippy::cast_precision_loss, reason = "runs of one prompt")]
    let share = both as f64 / all.max(1) as f64;
    share
}

/// FNV-1a: the same on every machine and in every version.
fn hash(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |key, byte| (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_the_same_is_found_and_another_question_is_not() {
        let long =
            "please list all customers in Berlin who ordered more than three times in the last year and paid late";
        let mut near = Near::new(0.7);
        near.add(long);
        for same in [long.to_uppercase(), format!("{long}!"), format!("{long} please")] {
            assert_eq!(near.find(&same), Some(0), "{same}");
        }
        for other in ["please list all customers in Berlin", "how many orders were there", ""] {
            assert_eq!(near.find(other), None, "{other}");
        }
        assert_eq!(near.find_or_add("hi there"), None);
        assert_eq!(near.find_or_add("Hi, there!"), Some(1));
    }

    #[test]
    fn pairs_above_the_threshold_are_found_nearly_always() {
        let text = |shift: usize| (shift..shift + 60).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
        // 58 runs each; shifted by n they share 58 - n of 58 + n.
        for shift in [1, 3, 5] {
            let mut near = Near::new(0.8);
            near.add(&text(0));
            assert_eq!(near.find(&text(shift)), Some(0), "{shift}");
        }
        let mut near = Near::new(0.8);
        near.add(&text(0));
        assert_eq!(near.find(&text(12)), None);
    }
}
