//! What stands in a secret's place.

use super::Key;
use sha2::{Digest, Sha256};

const BLOCK_BYTES: usize = 64;

/// Makes replacements: `<label:0123456789abcdef>` with a key, `<label>` without one.
pub(super) struct Tokens {
    /// HMAC-SHA256 (RFC 2104) with the key's two pads taken in already.
    keyed: Option<(Sha256, Sha256)>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.keyed.is_some() { "Tokens(keyed)" } else { "Tokens" })
    }
}

impl Tokens {
    pub(super) fn new(key: Option<&Key>) -> Self {
        Self { keyed: key.map(|key| (padded(&key.0, 0x36), padded(&key.0, 0x5c))) }
    }

    /// The replacement of a value. 64 bits of the hash: equal by chance once in billions of values.
    pub(super) fn of(&self, label: &str, value: &[u8]) -> String {
        match self.mac(value) {
            Some(mac) => {
                let hash: String = mac[..8].iter().map(|b| format!("{b:02x}")).collect();
                format!("<{label}:{hash}>")
            }
            None => format!("<{label}>"),
        }
    }

    fn mac(&self, value: &[u8]) -> Option<[u8; 32]> {
        let (inner, outer) = self.keyed.as_ref()?;
        let inner = inner.clone().chain_update(value).finalize();
        Some(outer.clone().chain_update(inner).finalize().into())
    }
}

fn padded(key: &[u8], pad: u8) -> Sha256 {
    let mut block = [0; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    Sha256::new().chain_update(block.map(|b| b ^ pad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_hmac_sha256() {
        // RFC 4231, test cases 1, 2 and 6 (a key longer than a block).
        let cases: [(Vec<u8>, &[u8], &str); 3] = [
            (vec![0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, value, mac) in cases {
            let found = Tokens::new(Some(&Key(key))).mac(value).unwrap();
            assert_eq!(found.iter().map(|b| format!("{b:02x}")).collect::<String>(), mac);
        }
    }
}
