//! What a configuration says of the sidecar, as the stage takes it; and versions from the registry for it to hand on.

use super::{formats, open_lake, store_of};
use crate::config::{AdapterSource, Config};
use crate::domain::Version;
use crate::publish::Registry;
use crate::sidecar::{Parts, Puller};
use anyhow::Result;
use async_trait::async_trait;
use std::path::Path;
use std::sync::Arc;

/// The parts of a configuration's sidecar.
///
/// # Errors
/// Where the key of the redaction cannot be read.
pub fn parts(config: &Config) -> Result<Parts> {
    let settings = config.sidecar.clone();
    let pulls = settings.adapters.source == AdapterSource::Pull;
    Ok(Parts {
        kafka: config.kafka.clone(),
        log_topic: settings.log.topic.clone().or_else(|| config.ingest.topics.first().cloned()),
        feedback_topic: settings.log.feedback_topic.clone().or_else(|| config.ingest.feedback_topics.first().cloned()),
        versions_topic: config.publish.topic.clone(),
        redactor: formats::redactor(config)?,
        spill_dir: config.resolve(&settings.log.spill_dir),
        adapters_dir: config.resolve(&settings.adapters.dir),
        puller: pulls.then(|| Arc::new(FromRegistry { config: config.clone() }) as Arc<dyn Puller>),
        tls: settings.tls.as_ref().map(|tls| (config.resolve(&tls.certificate), config.resolve(&tls.key))),
        settings,
    })
}

/// Pulls from the lake's registry; the lake is opened for each pull, because pulls are rare and a store may have been away.
struct FromRegistry {
    config: Config,
}

#[async_trait]
impl Puller for FromRegistry {
    async fn pull(&self, version: &Version, folder: &Path) -> Result<(), String> {
        pull(&self.config, version, folder).await.map_err(|error| format!("{error:#}"))
    }
}

async fn pull(config: &Config, version: &Version, folder: &Path) -> Result<()> {
    let lake = open_lake(config).await?;
    let (store, prefix) = store_of(&lake);
    let registry = Registry::new(store, &prefix);
    let files = registry.files(&version.reference).await?;
    let manifest = registry.manifest(&version.reference).await?;
    std::fs::create_dir_all(folder)?;
    for (file, bytes) in files {
        std::fs::write(folder.join(file), bytes)?;
    }
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    Ok(())
}
