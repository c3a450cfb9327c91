//! Seeds that derive from one another, so that one number in the configuration fixes every random choice.

use sha2::{Digest, Sha256};

/// A seed for a purpose: the first 64 bits of SHA-256 over the parent seed, the purpose and the coordinates.
///
/// Independent for each purpose and coordinate, and the same on every machine.
#[must_use]
pub fn derive_seed(parent: u64, purpose: &str, coordinates: &[u64]) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(parent.to_be_bytes());
    hasher.update(purpose.as_bytes());
    for coordinate in coordinates {
        hasher.update(coordinate.to_be_bytes());
    }
    let mut head = [0; 8];
    head.copy_from_slice(&hasher.finalize()[..8]);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_depends_on_everything_that_it_derives_from() {
        let base = derive_seed(1, "explore", &[2, 3]);
        assert_eq!(base, derive_seed(1, "explore", &[2, 3]));
        for other in [
            derive_seed(2, "explore", &[2, 3]),
            derive_seed(1, "optimize", &[2, 3]),
            derive_seed(1, "explore", &[3, 2]),
            derive_seed(1, "explore", &[2]),
        ] {
            assert_ne!(base, other);
        }
    }
}
