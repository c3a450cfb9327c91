//! How tables are kept small and fast. Each field's text says meaning, unit and default.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Keeping the tables in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Maintenance {
    /// Seconds between two rounds of the daemon: small files are merged and checkpoints written in each. Default: 30.
    #[schemars(range(min = 1))]
    pub period_seconds: u64,
    /// Files are merged up to about this many bytes. Default: 128 MiB: large enough to scan fast, small enough to rewrite
    /// while ingestion runs.
    #[schemars(range(min = 65_536))]
    pub file_bytes_target: u64,
    /// A partition that is still written to keeps at most about this many files of like size before they become one. Default:
    /// 12: fewer means more rewriting, more means more files to open.
    #[schemars(range(min = 2))]
    pub files_alike_max: usize,
    /// Hours that old versions can be read back: so long are log entries kept, and files that no newer version needs.
    /// Default: 24.
    #[schemars(range(min = 1, max = 8_760))]
    pub history_hours: u32,
    /// Days that rows are kept, by table, such as `inference_log = 90`; tables of routes too. A day is dropped whole. Default:
    /// for ever.
    pub retention_days: BTreeMap<String, u32>,
}

impl Maintenance {
    /// The tables of every lake that retention may drop days of. `cycle`, `model_version` and `removal` are records that stay.
    pub const RETAINED: [&'static str; 6] =
        ["inference_log", "dead_letter", "feedback", "training_window", "candidate", "evaluation"];

    /// How long old versions can be read back.
    #[must_use]
    pub fn history(&self) -> Duration {
        Duration::from_secs(u64::from(self.history_hours) * 3600)
    }
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            period_seconds: 30,
            file_bytes_target: 128 << 20,
            files_alike_max: 12,
            history_hours: 24,
            retention_days: BTreeMap::new(),
        }
    }
}
