//! The identity of a prompt.

use super::message::{ChatMessage, canonical_json};
use sha2::{Digest, Sha256};
use std::fmt;

/// The first 128 bits of the SHA-256 of a prompt's canonical messages: what "the same prompt" means everywhere.
///
/// The train and holdout split is a function of this value alone, so a prompt stays on its side for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromptHash(u128);

impl PromptHash {
    /// Hashes messages as [`canonical_json`] writes them.
    #[must_use]
    pub fn of(messages: &[ChatMessage]) -> Self {
        Self::of_canonical(&canonical_json(messages))
    }

    /// Hashes canonical JSON that is at hand already.
    #[must_use]
    pub fn of_canonical(json: &str) -> Self {
        let digest = Sha256::digest(json.as_bytes());
        let mut head = [0; 16];
        head.copy_from_slice(&digest[..16]);
        Self(u128::from_be_bytes(head))
    }

    /// Reads the 32 hexadecimal digits that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    /// A number in `[0, 1)` that is uniform over prompts and independent for each `salt`.
    #[must_use]
    pub fn uniform(self, salt: &str) -> f64 {
        let digest = Sha256::new().chain_update(salt.as_bytes()).chain_update(self.0.to_be_bytes()).finalize();
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
        let fraction = (u64::from_be_bytes(head) >> 11) as f64;
        fraction / (1u64 << 53) as f64
    }

    /// The low 64 bits, to derive seeds from.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    pub fn low(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for PromptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fixed_for_ever_and_round_trips() {
        let hash = PromptHash::of(&[ChatMessage::user("How many orders?")]);
        assert_eq!(PromptHash::parse(&hash.to_string()), Some(hash));
        assert_eq!(hash, PromptHash::of_canonical(r#"[{"role":"user","content":"How many orders?"}]"#));
        assert_ne!(hash, PromptHash::of(&[ChatMessage::user("How many orders? ")]));
    }

    #[test]
    fn uniform_is_spread_and_depends_on_the_salt() {
        let hashes: Vec<_> = (0..4000).map(|i| PromptHash::of_canonical(&i.to_string())).collect();
        let below = hashes.iter().filter(|h| h.uniform("split") < 0.25).count();
        assert!((900..1100).contains(&below), "{below} of 4000 below a quarter");
        assert_ne!(hashes[0].uniform("a"), hashes[0].uniform("b"));
    }
}
