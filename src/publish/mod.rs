//! Report and adapter to a registered version, and the version to its event.
//!
//! [`Registry`] stores a version's folder, `models/<name>/v<N>/`: the PEFT files, `report.html`, and `manifest.json`, written
//! last. Without a manifest the version does not exist. [`Publisher`] tells Kafka, at least once, with ids that are the
//! same at every try, so that a consumer sees each once.

mod manifest;
mod publisher;
mod registry;
pub mod transition;
pub mod webhook;

pub use manifest::Manifest;
pub use publisher::{PublishError, Publisher, is_away, read_events};
pub use registry::{Error, Registry, Stored};
