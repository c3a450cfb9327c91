//! `manifest.json`: where a version came from, down to the rows that made it, and what each of its files must hash to.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The manifest, version 1. Its existence makes the version exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format: 1.
    pub format: u32,
    /// `model@vN`.
    pub name: String,
    /// RFC 3339.
    pub created: String,
    /// The cycle that made it.
    pub cycle: String,
    /// SHA-256 of the base model.
    pub base_hash: String,
    /// The version that it was tuned from; the base where absent.
    pub parent: Option<String>,
    /// The window: its name, SQL, `since`, `until` and the version of `inference_log` that it read.
    pub window: Value,
    /// The seeds.
    pub seeds: BTreeMap<String, u64>,
    /// SHA-256 of the configuration's text.
    pub config_hash: String,
    /// The model's section of the configuration.
    pub settings: Value,
    /// The evaluation, as the report has it.
    pub evaluation: Value,
    /// What the fit of the reward to users' feedback found, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Value>,
    /// The Pelton that made it.
    pub pelton: String,
    /// SHA-256 of each file of the folder, by name.
    pub files: BTreeMap<String, String>,
}
