//! Where a step leaves what it has done so far, so that a killed one goes on, and by what it knows its own again.

use crate::model::{Lora, Model, Result as ModelResult};
use sha2::{Digest, Sha256};

/// Why work could not be kept or read back.
pub type SaveError = Box<dyn std::error::Error + Send + Sync>;

/// A folder of a running step. Implemented by who knows the store; a `put` is there as a whole or not at all.
pub trait Keeper: Sync {
    /// What was put under a name, by this run or a killed one.
    ///
    /// # Errors
    /// Where the store cannot be read.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, SaveError>;

    /// Keeps bytes under a name, in place of what was there.
    ///
    /// # Errors
    /// Where the store cannot be written.
    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), SaveError>;

    /// Whether enough was done since the last put that the next is worth its time.
    fn is_due(&self) -> bool;
}

/// A hash of all that a step's result depends on: kept work of anything else is not taken.
#[derive(Debug, Clone)]
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    /// Of a step on a base, by this version of Pelton.
    pub(crate) fn new(step: &str, model: &Model) -> Self {
        let mut print = Self(Sha256::new());
        print.text(env!("CARGO_PKG_VERSION"));
        print.text(step);
        print.text(model.content_hash());
        print
    }

    /// A text; its length separates it from what follows.
    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    /// A number.
    pub(crate) fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    /// An adapter's every bit, or that there is none.
    pub(crate) fn adapter(&mut self, adapter: Option<&Lora>) -> ModelResult<()> {
        let Some(lora) = adapter else {
            self.number(0);
            return Ok(());
        };
        self.number(1);
        self.text(&format!("{:?}", lora.config));
        for (name, tensor) in &lora.tensors {
            self.text(name);
            for value in tensor.flatten_all()?.to_vec1::<f32>()? {
                self.0.update(value.to_bits().to_be_bytes());
            }
        }
        Ok(())
    }

    /// In hexadecimal.
    pub(crate) fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
