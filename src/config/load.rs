//! Text to [`Config`], in four steps that each report all that they find: environment, schema, types, sense.

use super::Score;
use super::check_score;
use super::{
    Config, Console, Cycle, Ingest, Kafka, Lake, Maintenance, Model, Publish, Redact, Scheduler, Sidecar, Telemetry,
    Window, check,
};
use jsonschema::error::{ValidationError, ValidationErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// The one version of the file's format.
const VERSION: u64 = 1;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The field, such as `models.support-sql.lora.rank`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file can be read and is not right.
    #[error("{path} has {}:\n{}", count(problems), lines(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong with it.
        problems: Vec<Problem>,
    },
}

fn count(problems: &[Problem]) -> String {
    if problems.len() == 1 { "one problem".to_owned() } else { format!("{} problems", problems.len()) }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")
}

/// Settings of a Pelton daemon (TOML). Strings may hold `${NAME}`: the value of that environment variable.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Pelton configuration, version 1")]
struct Raw {
    /// The version of this format: 1.
    #[schemars(range(min = 1, max = 1))]
    version: u64,
    /// Where tables and models are stored.
    #[serde(default)]
    lake: Lake,
    /// The broker.
    #[serde(default)]
    kafka: Kafka,
    /// Logs to tables.
    #[serde(default)]
    ingest: Ingest,
    /// Keeping the tables in order.
    #[serde(default)]
    maintenance: Maintenance,
    /// What is replaced before anything is stored.
    #[serde(default)]
    redact: Redact,
    /// Named choices of prompts, by name.
    #[serde(default)]
    windows: BTreeMap<String, Window>,
    /// Models to tune, by name.
    #[serde(default)]
    models: BTreeMap<String, Model>,
    /// Which of many daemons starts cycles.
    #[serde(default)]
    scheduler: Scheduler,
    /// The process that a cycle runs in.
    #[serde(default)]
    cycle: Cycle,
    /// Events about versions.
    #[serde(default)]
    publish: Publish,
    /// The proxy before inference servers (`pelton sidecar`).
    #[serde(default)]
    sidecar: Sidecar,
    /// Health and status over HTTP.
    #[serde(default)]
    console: Console,
    /// Logs of the daemon itself.
    #[serde(default)]
    telemetry: Telemetry,
}

/// Reads and checks a file.
///
/// # Errors
/// [`Error::Read`] where the file cannot be read, else [`Error::Invalid`] with every problem at once.
pub fn load(path: &Path) -> Result<Config, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    from_text(path, &text, |name| std::env::var(name).ok())
}

/// Checks a text as if it had been read from `path`, with the environment as a function.
///
/// # Errors
/// [`Error::Invalid`] with every problem at once.
pub fn from_text(path: &Path, text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Config, Error> {
    let invalid = |problems| Error::Invalid { path: path.to_owned(), problems };
    let mut value = parse(text).map_err(|p| invalid(vec![p]))?;
    let mut problems = Vec::new();
    substitute(&mut value, "", &environment, &mut problems);
    problems.extend(against_schema(&value));
    if !problems.is_empty() {
        problems.sort();
        problems.dedup();
        return Err(invalid(problems));
    }
    let raw: Raw = serde_path_to_error::deserialize(value)
        .map_err(|e| invalid(vec![Problem { path: e.path().to_string(), message: e.inner().to_string() }]))?;
    check::config(path, &hash(text), raw.into()).map_err(invalid)
}

/// Reads and checks a file of scorers, of the form of a model's `score` section.
///
/// # Errors
/// As [`load`].
pub fn load_score(path: &Path) -> Result<Score, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let invalid = |problems| Error::Invalid { path: path.to_owned(), problems };
    let score: Score = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        invalid(vec![Problem { path: format!("line {line}"), message: e.message().trim_end().to_owned() }])
    })?;
    let problems = check_score::alone(&score);
    if problems.is_empty() { Ok(score) } else { Err(invalid(problems)) }
}

/// The JSON Schema of the file, as `schemas/config.v1.json` holds it.
#[must_use]
pub fn schema_json() -> Value {
    serde_json::to_value(schemars::schema_for!(Raw)).expect("a schema is plain JSON")
}

/// What [`check`] turns into a [`Config`].
pub(super) struct Sections {
    pub lake: Lake,
    pub kafka: Kafka,
    pub ingest: Ingest,
    pub maintenance: Maintenance,
    pub redact: Redact,
    pub windows: BTreeMap<String, Window>,
    pub models: BTreeMap<String, Model>,
    pub scheduler: Scheduler,
    pub cycle: Cycle,
    pub publish: Publish,
    pub sidecar: Sidecar,
    pub console: Console,
    pub telemetry: Telemetry,
}

impl From<Raw> for Sections {
    fn from(raw: Raw) -> Self {
        Self {
            lake: raw.lake,
            kafka: raw.kafka,
            ingest: raw.ingest,
            maintenance: raw.maintenance,
            redact: raw.redact,
            windows: raw.windows,
            models: raw.models,
            scheduler: raw.scheduler,
            cycle: raw.cycle,
            publish: raw.publish,
            sidecar: raw.sidecar,
            console: raw.console,
            telemetry: raw.telemetry,
        }
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

fn parse(text: &str) -> Result<Value, Problem> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = e.span().map_or(0, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        Problem { path: String::new(), message: format!("line {line} is not TOML: {}", e.message().trim_end()) }
    })?;
    let value = serde_json::to_value(&table)
        .map_err(|e| Problem { path: String::new(), message: format!("a value cannot be read: {e}") })?;
    match value.get("version").and_then(Value::as_u64) {
        Some(VERSION) => Ok(value),
        Some(other) => Err(Problem {
            path: "version".to_owned(),
            message: format!("{other} is not a version that this Pelton reads; it reads version {VERSION}"),
        }),
        None => Err(Problem {
            path: "version".to_owned(),
            message: format!("is missing or no number; begin the file with `version = {VERSION}`"),
        }),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn substitute(
    value: &mut Value,
    path: &str,
    environment: &impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) {
    match value {
        Value::String(text) => match expand(text, environment) {
            Ok(expanded) => *text = expanded,
            Err(message) => problems.push(Problem { path: path.to_owned(), message }),
        },
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                substitute(item, &join(path, &i.to_string()), environment, problems);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                substitute(item, &join(path, key), environment, problems);
            }
        }
        _ => {}
    }
}

fn expand(text: &str, environment: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else {
            return Err("has `${` without a closing `}`".to_owned());
        };
        out.push_str(before);
        out.push_str(&environment(name).ok_or_else(|| format!("the environment has no variable `{name}`"))?);
        rest = tail;
    }
    Ok(out + rest)
}

fn against_schema(value: &Value) -> Vec<Problem> {
    let schema = schema_json();
    let validator = jsonschema::validator_for(&schema).expect("our own schema is valid; a test compiles it");
    let mut fields = BTreeSet::new();
    property_names(&schema, &mut fields);
    validator.iter_errors(value).flat_map(|e| explain(&e, &fields)).collect()
}

fn property_names(schema: &Value, out: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                out.extend(properties.keys().cloned());
            }
            map.values().for_each(|v| property_names(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| property_names(v, out)),
        _ => {}
    }
}

fn explain(error: &ValidationError<'_>, fields: &BTreeSet<String>) -> Vec<Problem> {
    let path = error.instance_path().as_str().trim_start_matches('/').replace('/', ".");
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|name| Problem { path: join(&path, name), message: unknown(name, fields) }).collect()
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            vec![Problem { path: join(&path, name), message: "is missing".to_owned() }]
        }
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            alternatives(&path, error, context, fields)
        }
        _ => vec![Problem { path, message: error.to_string() }],
    }
}

fn unknown(name: &str, fields: &BTreeSet<String>) -> String {
    let near = fields.iter().map(|f| (strsim::jaro_winkler(name, f), f)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((score, field)) if score > 0.88 => format!("is no known field; did you mean `{field}`?"),
        _ => "is no known field".to_owned(),
    }
}

/// An enumeration's values arrive as one constant an alternative, an optional section as the section or null.
fn alternatives(
    path: &str,
    error: &ValidationError<'_>,
    context: &[Vec<ValidationError<'static>>],
    fields: &BTreeSet<String>,
) -> Vec<Problem> {
    let constants: Vec<String> = context
        .iter()
        .flatten()
        .filter_map(|e| match e.kind() {
            ValidationErrorKind::Constant { expected_value } => Some(format!("`{}`", expected_value.as_str()?)),
            // The only text that stands beside constants is a time.
            ValidationErrorKind::Pattern { .. } => Some("a time such as `2026-11-22T10:00:00Z`".to_owned()),
            _ => None,
        })
        .collect();
    if !constants.is_empty() {
        let message = format!("{} is none of {}", error.instance(), constants.join(", "));
        return vec![Problem { path: path.to_owned(), message }];
    }
    context.first().map(|errors| errors.iter().flat_map(|e| explain(e, fields)).collect()).unwrap_or_default()
}
