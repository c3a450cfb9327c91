//! The sections of the file that stages other than training read. Each field's text says meaning, unit and default.

use super::formats::{PromotedColumn, Registry, Route};
use crate::domain::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where tables and models are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lake {
    /// A folder, a `file://` URL or `s3://BUCKET/PREFIX`. Default: `./pelton-data`, beside the configuration file.
    #[schemars(length(min = 1))]
    pub url: String,
    /// Options of the object store, such as `aws_endpoint`, `aws_region`, `aws_access_key_id`, `aws_secret_access_key`,
    /// `aws_allow_http`. Default: none; the usual `AWS_…` variables of the environment apply too.
    pub options: BTreeMap<String, String>,
    /// Whether local files are flushed to the disk before a commit counts. Default: true, because a table that must not
    /// lose a row must survive a power cut; a demo may do without.
    pub fsync: bool,
}

impl Default for Lake {
    fn default() -> Self {
        Self { url: "./pelton-data".to_owned(), options: BTreeMap::new(), fsync: true }
    }
}

/// The broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `HOST:PORT`, several separated by commas. Default: `127.0.0.1:9092`.
    #[schemars(length(min = 1))]
    pub brokers: String,
    /// Any librdkafka property for every client, such as `security.protocol`, `sasl.username`. Those that the delivery
    /// promise rests on (`enable.auto.commit`, `isolation.level` …) are refused.
    pub properties: BTreeMap<String, String>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self { brokers: "127.0.0.1:9092".to_owned(), properties: BTreeMap::new() }
    }
}

/// Where a partition begins that has no offset in the tables yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Start {
    /// At the oldest message that the broker has.
    Earliest,
    /// At the next message.
    Latest,
    /// At the first message of this time or later, by the times that Kafka put on them.
    At(Timestamp),
}

impl TryFrom<String> for Start {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            time => Timestamp::parse(time).map(Self::At).ok_or_else(|| {
                format!("`{time}` is none of `earliest`, `latest` and a time such as `2026-11-22T10:00:00Z`")
            }),
        }
    }
}

impl JsonSchema for Start {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Start".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Where a partition begins that has no offset in the tables yet.",
            "oneOf": [
                {"const": "earliest", "description": "At the oldest message that the broker has."},
                {"const": "latest", "description": "At the next message."},
                {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d[T ]", "description": "At the first message of this time or later."}
            ]
        })
    }
}

impl From<Start> for String {
    fn from(start: Start) -> Self {
        match start {
            Start::Earliest => "earliest".to_owned(),
            Start::Latest => "latest".to_owned(),
            Start::At(time) => time.to_string(),
        }
    }
}

/// Logs to tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ingest {
    /// Names the stored offsets; another name reads everything again. Default: `default`.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,63}$"))]
    pub pipeline: String,
    /// The consumer group; daemons of one group share the partitions. Default: `pelton`.
    #[schemars(length(min = 1))]
    pub group: String,
    /// Topics of inference logs. Default: `inference-logs`.
    pub topics: Vec<String>,
    /// Topics of user feedback. Default: none.
    pub feedback_topics: Vec<String>,
    /// Topics of inference logs with a format or a table of their own, or by pattern. Default: none.
    pub routes: Vec<Route>,
    /// The schema registry of framed messages. Default: none.
    pub registry: Option<Registry>,
    /// Fields of `extra` that have columns of their own, by column. Default: none.
    pub columns: BTreeMap<String, PromotedColumn>,
    /// Where a new partition begins: `earliest`, `latest`, or at a time such as `2026-11-22T10:00:00Z` (the first message of
    /// that time or later). It is fixed before the first row and holds from then on. Default: `earliest`, so that nothing is
    /// missed.
    pub start: Start,
    /// A batch is committed at this many rows. Default: 50,000.
    #[schemars(range(min = 1))]
    pub batch_rows_max: usize,
    /// … or at this many bytes of messages, and at a twelfth of `in_flight_bytes_max` at the latest. Default: 64 MiB.
    #[schemars(range(min = 1024))]
    pub batch_bytes_max: usize,
    /// … or at this age in milliseconds where it is worth a file (a quarter of the bytes at which it would be cut) or the
    /// first after a quiet time. Never more than `batch_age_ms_max`. Default: 2,000.
    #[schemars(range(min = 10))]
    pub batch_age_ms_min: u64,
    /// … or at this age in milliseconds, whatever is in it: the longest that a row waits for its commit to begin. Where rows
    /// trickle, a longer time means fewer commits and fewer, larger files. Default: 10,000.
    #[schemars(range(min = 10))]
    pub batch_age_ms_max: u64,
    /// Bytes that ingestion may hold: rows in buffers, being encoded, or waiting for their commit, and what is fetched ahead
    /// (at most an eighth of it). Partitions pause above it. Default: 256 MiB.
    #[schemars(range(min = 1_048_576))]
    pub in_flight_bytes_max: usize,
    /// A larger message becomes a dead letter. Default: 16 MiB.
    #[schemars(range(min = 1024))]
    pub message_bytes_max: usize,
    /// Where dead letters are copied to, beside their table. Default: nowhere.
    pub dead_letter_topic: Option<String>,
    /// Milliseconds that a shutdown may take to commit what was read. Default: 20,000.
    #[schemars(range(min = 100))]
    pub drain_timeout_ms: u64,
    /// The longest pause between two tries at a broker or store that is away, in milliseconds. Default: 10,000.
    #[schemars(range(min = 10))]
    pub retry_backoff_ms_max: u64,
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            pipeline: "default".to_owned(),
            group: "pelton".to_owned(),
            topics: vec!["inference-logs".to_owned()],
            feedback_topics: Vec::new(),
            routes: Vec::new(),
            registry: None,
            columns: BTreeMap::new(),
            start: Start::Earliest,
            batch_rows_max: 50_000,
            batch_bytes_max: 64 << 20,
            batch_age_ms_min: 2_000,
            batch_age_ms_max: 10_000,
            in_flight_bytes_max: 256 << 20,
            message_bytes_max: 16 << 20,
            dead_letter_topic: None,
            drain_timeout_ms: 20_000,
            retry_backoff_ms_max: 10_000,
        }
    }
}

/// A named choice of prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// SQL over the tables that returns `request_id`, `request_time` and `messages` of the calls to learn from. `$since` and
    /// `$until` stand for the window's times.
    #[schemars(length(min = 1))]
    pub sql: String,
    /// A cycle starts only with this many prompts to train on. Default: 100.
    #[serde(default = "Window::prompts_min")]
    #[schemars(range(min = 1))]
    pub prompts_min: usize,
    /// A cycle takes at most this many prompts, the latest first, holdout included. Default: 2,000.
    #[serde(default = "Window::prompts_max")]
    #[schemars(range(min = 1))]
    pub prompts_max: usize,
    /// The share of prompts that is kept for evaluation. A prompt stays on its side for ever. Default: 0.2.
    #[serde(default = "Window::holdout_share")]
    #[schemars(range(min = 0.01, max = 0.9))]
    pub holdout_share: f64,
    /// How far back the first cycle looks, in hours; later ones begin where the last one ended. Default: 720.
    #[serde(default = "Window::lookback_hours")]
    #[schemars(range(min = 1))]
    pub lookback_hours: u32,
    /// Prompts that share at least this part of their runs of three words (Jaccard similarity) are near-duplicates: the latest is
    /// taken. Default: none, only equal prompts count once.
    #[serde(default)]
    #[schemars(range(min = 0.3, max = 1.0))]
    pub near_duplicates: Option<f64>,
    /// How many prompts one requester may have in a window, the latest first, where the SQL returns `requester`. Default: none,
    /// no cap.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub per_user_max: Option<usize>,
    /// Files of prompts (JSON lines with `prompt` or `messages`) that evaluations use: what says nearly the same is left out, by
    /// `near_duplicates`, or 0.8 where that is none. The suites of gates that read this window count too. Default: none.
    #[serde(default)]
    pub avoid: Vec<String>,
}

impl Window {
    fn prompts_min() -> usize {
        100
    }
    fn prompts_max() -> usize {
        2_000
    }
    fn holdout_share() -> f64 {
        0.2
    }
    fn lookback_hours() -> u32 {
        720
    }
}

/// Health and status over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Console {
    /// `ADDRESS:PORT` of `/healthz`, `/readyz` and `/metrics`. Default: none, so that nothing listens unasked.
    pub listen: Option<String>,
}

#[expect(clippy::derivable_impls, reason = "each section states its defaults in the same way")]
impl Default for Console {
    fn default() -> Self {
        Self { listen: None }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs of the daemon itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// `text` or `json`. Default: `text`.
    pub format: Format,
    /// A level for Pelton's own lines, such as `info`, or a filter of targets, such as `warn,pelton::ingest=debug`. Default:
    /// `info`.
    pub filter: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { format: Format::Text, filter: "info".to_owned() }
    }
}
