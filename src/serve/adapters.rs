//! The adapters that a server holds, by name.

use crate::model::{Decoder, Lora, Model};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, RwLock};

/// Why an adapter was not loaded or unloaded; the texts follow vLLM's.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The name is in use.
    #[error("the lora adapter '{0}' has already been loaded")]
    AlreadyLoaded(String),
    /// No adapter has the name.
    #[error("the lora adapter '{0}' cannot be found")]
    NotFound(String),
    /// The folder is no adapter for this base.
    #[error("loading the lora adapter '{name}' failed")]
    Load {
        /// The adapter's name.
        name: String,
        /// The cause.
        source: crate::model::Error,
    },
}

/// Named adapters over one base.
pub(super) struct Adapters {
    base: Arc<Model>,
    /// One handle for all requests: those on the same weights are generated together.
    base_decoder: Arc<Decoder>,
    base_name: String,
    loaded: RwLock<BTreeMap<String, Arc<Decoder>>>,
}

impl Adapters {
    pub(super) fn new(base: Arc<Model>, base_name: String) -> Self {
        let base_decoder = Arc::new(base.decoder().clone());
        Self { base, base_decoder, base_name, loaded: RwLock::default() }
    }

    pub(super) fn base(&self) -> &Arc<Model> {
        &self.base
    }

    pub(super) fn load(&self, name: &str, folder: &Path) -> Result<(), AdapterError> {
        if name == self.base_name || self.read().contains_key(name) {
            return Err(AdapterError::AlreadyLoaded(name.to_owned()));
        }
        let failed = |source| AdapterError::Load { name: name.to_owned(), source };
        let device = candle_core::Device::Cpu;
        let lora = Lora::load(folder, self.base.config(), &device).map_err(failed)?;
        let decoder = self.base.decoder().with_adapter(&lora).map_err(failed)?;
        self.loaded
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(name.to_owned(), Arc::new(decoder));
        Ok(())
    }

    pub(super) fn unload(&self, name: &str) -> Result<(), AdapterError> {
        let removed = self.loaded.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(name);
        removed.map(drop).ok_or_else(|| AdapterError::NotFound(name.to_owned()))
    }

    /// What answers to a name: the base (no version), or an adapter (its name is the version).
    pub(super) fn resolve(&self, name: &str) -> Option<(Option<String>, Arc<Decoder>)> {
        if name == self.base_name {
            return Some((None, Arc::clone(&self.base_decoder)));
        }
        self.read().get(name).map(|decoder| (Some(name.to_owned()), Arc::clone(decoder)))
    }

    /// The base's name, then the adapters'.
    pub(super) fn names(&self) -> Vec<String> {
        std::iter::once(self.base_name.clone()).chain(self.read().keys().cloned()).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Decoder>>> {
        self.loaded.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_for_the_base_share_its_weights_and_their_steps() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sql-tiny");
        let base = Model::load(&folder, &candle_core::Device::Cpu).unwrap();
        let adapters = Adapters::new(Arc::new(base), "base".to_owned());
        let decoder = || adapters.resolve("base").unwrap().1;
        assert!(Arc::ptr_eq(&decoder(), &decoder()));
    }
}
