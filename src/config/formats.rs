//! What topics hold, where their rows go, and what must not be stored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What a topic's messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Whatever each message looks like: Pelton's envelope, a plain row, log records of OpenTelemetry, or framed for the
    /// schema registry where one is configured.
    #[default]
    Auto,
    /// Pelton's envelope (`pelton schema inference-log.v1`) or a row of Databricks' inference tables.
    Json,
    /// Log records of OpenTelemetry's GenAI conventions (OTLP/JSON).
    Otlp,
    /// Avro or JSON framed for the schema registry (Confluent's wire format).
    Registry,
}

/// Topics of inference logs with a format or a table of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A topic's name or, beginning with `^`, a regular expression of names. Topics that are made later are found within ten
    /// seconds. Of several routes the first that fits counts; `ingest.topics` and `ingest.feedback_topics` go before all.
    #[schemars(length(min = 1))]
    pub topics: String,
    /// What the messages are: `auto`, `json`, `otlp` or `registry`. Default: `auto`.
    #[serde(default)]
    pub format: Format,
    /// The table of the rows; one that does not exist is made with the columns of `inference_log`. Default: `inference_log`.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9_]{0,62}$"))]
    pub table: Option<String>,
}

/// A schema registry that speaks Confluent's API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Its URL, such as `http://registry:8081`.
    #[schemars(length(min = 1))]
    pub url: String,
    /// The user of HTTP's basic authentication. Default: none.
    pub username: Option<String>,
    /// That user's password, best as `${NAME}`. Default: none.
    pub password: Option<Secret>,
    /// A bearer token, best as `${NAME}`; instead of user and password. Default: none.
    pub token: Option<Secret>,
    /// Milliseconds that one answer may take. Default: 10,000.
    #[serde(default = "Registry::timeout_ms")]
    #[schemars(range(min = 10))]
    pub timeout_ms: u64,
}

impl Registry {
    fn timeout_ms() -> u64 {
        10_000
    }
}

/// The type of a promoted column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// Text.
    String,
    /// A whole number of 64 bits.
    Long,
    /// A number.
    Double,
    /// True or false.
    Boolean,
    /// A point in time: RFC 3339, `YYYY-MM-DD HH:MM:SS` or epoch milliseconds.
    Timestamp,
}

/// A field of `extra` with a column of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromotedColumn {
    /// The field, as the message names it.
    #[schemars(length(min = 1))]
    pub field: String,
    /// `string`, `long`, `double`, `boolean` or `timestamp`. A value of another type stays in `extra`.
    pub r#type: ColumnType,
}

/// Patterns that Pelton brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// E-mail addresses.
    Email,
    /// Phone numbers.
    Phone,
    /// API keys, tokens, private keys, passwords in URLs.
    Secret,
    /// Payment card numbers with a right check digit.
    Card,
}

/// What is replaced before anything is stored: in rows, dead letters and their copies, and all that is derived from them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redact {
    /// Fields by path, such as `requester`, `request.user` or `request.messages.name`: `*` stands for any one name, and lists
    /// are looked through. Default: none.
    pub fields: Vec<String>,
    /// Some of `email`, `phone`, `secret`, `card`. Default: none.
    pub patterns: Vec<Pattern>,
    /// Own regular expressions (the syntax of Rust's `regex`), by label. Default: none.
    pub custom: BTreeMap<String, String>,
    /// A key of at least 16 bytes, best as `${NAME}`: a replacement then ends in a keyed hash, so that equal values stay equal
    /// (`<email:9f3ad05c6e21b874>`). Default: none; all values of a kind look alike (`<email>`).
    pub key: Option<Secret>,
    /// A file that holds the key; a line break at its end does not count. Default: none.
    pub key_file: Option<String>,
}

impl Redact {
    /// Whether there is anything to replace.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !(self.fields.is_empty() && self.patterns.is_empty() && self.custom.is_empty())
    }
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The value, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
