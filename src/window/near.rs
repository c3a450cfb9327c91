//! Near-duplicates of prompts, by MinHash: which prompts say nearly the same as one that is there already.
//!
//! A prompt is the set of its runs of three words. Signatures in bands find the pairs that are worth a look (A. Broder, "On the
//! resemblance and containment of documents", 1997; locality-sensitive hashing by bands), and the sets themselves decide: a pair
//! is near where intersection over union is at least the threshold. What the bands miss is kept, never the other way round.

use crate::runtime::derive_seed;
use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

/// Hashes of a signature.
const HASHES: usize = 128;
/// Words of a run.
const RUN: usize = 3;

/// What a text is compared by: its runs of words, and their signature.
pub(super) struct Sketch {
    runs: BTreeSet<u64>,
    signature: Vec<u64>,
}

impl Sketch {
    /// Nothing where there are no words: of what has none, such as an image, nothing can be said.
    pub(super) fn of(text: &str) -> Option<Self> {
        static SEEDS: LazyLock<Vec<u64>> =
            LazyLock::new(|| (0..HASHES as u64).map(|i| derive_seed(1, "minhash", &[i])).collect());
        let runs = runs(text)?;
        let least = |seed: &u64| runs.iter().map(|run| mix(run ^ seed)).min().unwrap_or(u64::MAX);
        let signature = SEEDS.iter().map(least).collect();
        Some(Self { runs, signature })
    }
}

/// What is there already, by the order in which it was added.
pub(super) struct Near {
    threshold: f64,
    rows: usize,
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
        Self { threshold, rows, sets: Vec::new(), bands: HashMap::new() }
    }

    /// The first text that is near this one.
    pub(super) fn find(&self, sketch: &Sketch) -> Option<usize> {
        let candidates: BTreeSet<usize> =
            self.keys(sketch).filter_map(|key| self.bands.get(&key)).flatten().copied().collect();
        candidates.into_iter().find(|at| similarity(&sketch.runs, &self.sets[*at]) >= self.threshold)
    }

    pub(super) fn add(&mut self, sketch: Sketch) {
        let (at, keys) = (self.sets.len(), self.keys(&sketch).collect::<Vec<_>>());
        for key in keys {
            self.bands.entry(key).or_default().push(at);
        }
        self.sets.push(sketch.runs);
    }

    fn keys<'s>(&self, sketch: &'s Sketch) -> impl Iterator<Item = (usize, u64)> + use<'s> {
        let band = |values: &[u64]| values.iter().fold(0, |key: u64, value| mix(key ^ value));
        sketch.signature.chunks(self.rows).map(band).enumerate()
    }
}

/// The hashes of a text's runs of words; of all its words where there are fewer; nothing where there are none.
fn runs(text: &str) -> Option<BTreeSet<u64>> {
    let plain = text.to_lowercase();
    let words: Vec<u64> = plain.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(hash).collect();
    let join = |run: &[u64]| run.iter().fold(0, |key: u64, word| mix(key ^ word));
    match words.len() {
        0 => None,
        1..RUN => Some(BTreeSet::from([join(&words)])),
        _ => Some(words.windows(RUN).map(join).collect()),
    }
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
        near.add(Sketch::of(long).unwrap());
        let find = |near: &Near, text: &str| near.find(&Sketch::of(text).unwrap());
        for same in [long.to_uppercase(), format!("{long}!"), format!("{long} please")] {
            assert_eq!(find(&near, &same), Some(0), "{same}");
        }
        for other in ["please list all customers in Berlin", "how many orders were there"] {
            assert_eq!(find(&near, other), None, "{other}");
        }
        near.add(Sketch::of("hi there").unwrap());
        assert_eq!(find(&near, "Hi, there!"), Some(1));
        assert!(Sketch::of(" …!").is_none(), "nothing can be said of it");
    }

    #[test]
    fn pairs_above_the_threshold_are_found_nearly_always() {
        let text = |shift: usize| (shift..shift + 60).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
        // 58 runs each; shifted by n they share 58 - n of 58 + n.
        for shift in [1, 3, 5] {
            let mut near = Near::new(0.8);
            near.add(Sketch::of(&text(0)).unwrap());
            assert_eq!(near.find(&Sketch::of(&text(shift)).unwrap()), Some(0), "{shift}");
        }
        let mut near = Near::new(0.8);
        near.add(Sketch::of(&text(0)).unwrap());
        assert_eq!(near.find(&Sketch::of(&text(12)).unwrap()), None);
    }
}
