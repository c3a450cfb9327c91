//! TOML to a trusted [`Config`]: versioned, unknown fields denied, every problem reported at once with its path.
//!
//! The only reader of files and environment for settings. Reading checks form and sense without any I/O beyond the file
//! itself; whether a broker answers or a window's SQL fits its table is for the stages to say.

mod check;
mod check_cycle;
mod check_formats;
mod check_score;
mod check_sidecar;
mod cycle;
mod formats;
mod load;
mod maintenance;
mod model;
mod sections;
mod sidecar;

pub use cycle::{Cycle, EventMode, Publish, Scheduler, Webhook};
pub use formats::{ColumnType, Format as MessageFormat, Pattern, PromotedColumn, Redact, Registry, Route, Secret};
pub use load::{Error, Problem, from_text, load, load_score, schema_json};
pub use maintenance::Maintenance;
pub use model::{
    Algorithm, AnswerKind, AnswerScore, Budget, DpoPairs, DpoReference, Endpoint, Explore, FeedbackScore, Gate,
    GroundedScore, JsonSchemaScore, JudgeScore, LengthScore, Lora, Model, Optimize, RefusalScore, RegexScore,
    RepetitionScore, RewardModelScore, Rollback, RollbackCheck, Schedule, Score, Share, Spent, SqlScore, Strategy,
    StrategyKind, Suite, WinRate, quiet_minutes,
};
pub use sections::{Console, Format, Ingest, Kafka, Lake, Start, Telemetry, Window};
pub use sidecar::{
    AdapterSource, Adapters, Alias, CallLog, ClientKey, Durability, RolloutStep, SampleRule, Shadow, Sidecar, Sticky,
    Tls, Upstream, UpstreamKind,
};

use crate::domain::{ModelName, WindowName};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings of one daemon, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from; relative paths in it are relative to this file's folder.
    pub path: PathBuf,
    /// SHA-256 of the text as it was read, hexadecimal: a cycle's manifest names it.
    pub hash: String,
    /// Where tables and models are stored.
    pub lake: Lake,
    /// The broker.
    pub kafka: Kafka,
    /// Logs to tables.
    pub ingest: Ingest,
    /// Keeping the tables in order.
    pub maintenance: Maintenance,
    /// What is replaced before anything is stored.
    pub redact: Redact,
    /// Named choices of prompts.
    pub windows: BTreeMap<WindowName, Window>,
    /// Models to tune.
    pub models: BTreeMap<ModelName, Model>,
    /// Which of many daemons starts cycles.
    pub scheduler: Scheduler,
    /// The process that a cycle runs in.
    pub cycle: Cycle,
    /// Events about versions.
    pub publish: Publish,
    /// The proxy before inference servers.
    pub sidecar: Sidecar,
    /// Health and status over HTTP.
    pub console: Console,
    /// Logs of the daemon itself.
    pub telemetry: Telemetry,
}

impl Config {
    /// The window that a model's cycles read; the check made sure that it is there.
    #[must_use]
    pub fn window_of(&self, model: &Model) -> Option<(&WindowName, &Window)> {
        self.windows.iter().find(|(name, _)| name.as_str() == model.window)
    }

    /// A path of the configuration, relative to the file's folder unless it is absolute.
    #[must_use]
    pub fn resolve(&self, path: &str) -> PathBuf {
        let base = self.path.parent().map(PathBuf::from).unwrap_or_default();
        base.join(path)
    }
}
