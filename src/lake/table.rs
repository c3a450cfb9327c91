//! The names of the tables, and how each is laid out.

use super::column::{Column, arrow_schema};
use super::tables;
use crate::domain::LogName;
use arrow::datatypes::SchemaRef;
use std::fmt;
use std::str::FromStr;

/// A table of the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableName {
    /// One logged call a row.
    InferenceLog,
    /// One message a row that could not become one of the others.
    DeadLetter,
    /// One user signal a row.
    Feedback,
    /// One prompt a row, chosen for one cycle.
    TrainingWindow,
    /// One sampled response a row.
    Candidate,
    /// One state change of a cycle a row.
    Cycle,
    /// One holdout prompt's comparison a row.
    Evaluation,
    /// One state change of a version a row.
    ModelVersion,
    /// One range of offsets a row, whose rows were taken out on purpose.
    Removal,
    /// One logged call a row, of the topics that a configuration gives a table of their own.
    Log(LogName),
}

impl TableName {
    /// The tables that every lake has, in the order data flows.
    pub const ALL: [Self; 9] = [
        Self::InferenceLog,
        Self::DeadLetter,
        Self::Feedback,
        Self::TrainingWindow,
        Self::Candidate,
        Self::Cycle,
        Self::Evaluation,
        Self::ModelVersion,
        Self::Removal,
    ];

    /// The name in SQL and in paths.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InferenceLog => "inference_log",
            Self::DeadLetter => "dead_letter",
            Self::Feedback => "feedback",
            Self::TrainingWindow => "training_window",
            Self::Candidate => "candidate",
            Self::Cycle => "cycle",
            Self::Evaluation => "evaluation",
            Self::ModelVersion => "model_version",
            Self::Removal => "removal",
            Self::Log(name) => name.as_str(),
        }
    }

    /// What a row of the table is.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::InferenceLog | Self::Log(_) => "one logged call of a model",
            Self::DeadLetter => "one message that could not become a row",
            Self::Feedback => "one user signal on a logged call",
            Self::TrainingWindow => "one prompt chosen for one cycle",
            Self::Candidate => "one sampled response and what it earned",
            Self::Cycle => "one state change of one cycle; the current state is the last row",
            Self::Evaluation => "one holdout prompt, champion and challenger side by side",
            Self::ModelVersion => "one state change of one model version",
            Self::Removal => "one range of offsets whose rows were taken out on purpose",
        }
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::InferenceLog | Self::Log(_) => tables::inference_log::COLUMNS,
            Self::DeadLetter => tables::dead_letter::COLUMNS,
            Self::Feedback => tables::feedback::COLUMNS,
            Self::TrainingWindow => tables::training_window::COLUMNS,
            Self::Candidate => tables::candidate::COLUMNS,
            Self::Cycle => tables::cycle::COLUMNS,
            Self::Evaluation => tables::evaluation::COLUMNS,
            Self::ModelVersion => tables::model_version::COLUMNS,
            Self::Removal => tables::removal::COLUMNS,
        }
    }

    /// The table of rows of logs of its own.
    ///
    /// # Errors
    /// [`ReservedTable`] where Pelton has a table of this name for something else.
    pub fn of_log(name: LogName) -> Result<Self, ReservedTable> {
        match Self::ALL.into_iter().find(|table| table.as_str() == name.as_str()) {
            None => Ok(Self::Log(name)),
            Some(Self::InferenceLog) => Ok(Self::InferenceLog),
            Some(_) => Err(ReservedTable(name.as_str())),
        }
    }

    /// Whether it holds logged calls.
    #[must_use]
    pub fn is_log(self) -> bool {
        matches!(self, Self::InferenceLog | Self::Log(_))
    }

    /// Whether the offsets of topics stand in its log: every message of a topic is in its table or in `dead_letter`.
    #[must_use]
    pub fn has_offsets(self) -> bool {
        self.is_log() || self == Self::Feedback
    }

    /// The table's Arrow schema.
    #[must_use]
    pub fn arrow_schema(self) -> SchemaRef {
        arrow_schema(self.columns())
    }

    /// Whether Kafka feeds it: its rows carry the offsets that they came from.
    #[must_use]
    pub fn is_ingested(self) -> bool {
        self.has_offsets() || self == Self::DeadLetter
    }

    pub(super) fn is_partitioned(self) -> bool {
        !self.partition_columns().is_empty()
    }

    pub(super) fn partition_columns(self) -> &'static [&'static str] {
        match self {
            Self::InferenceLog | Self::Log(_) => &["request_date"],
            _ => &[],
        }
    }

    /// Columns with minimum and maximum in the log: what queries and the audit skip files by. Raw JSON has none.
    pub(super) fn statistics_columns(self) -> &'static [&'static str] {
        match self {
            Self::InferenceLog | Self::Log(_) => &[
                "request_id",
                "request_time",
                "status_code",
                "model",
                "model_version",
                "prompt_hash",
                "kafka_topic",
                "kafka_partition",
                "kafka_offset",
                "ingest_time",
                "replay_time",
            ],
            Self::DeadLetter => &["code", "kafka_topic", "kafka_partition", "kafka_offset", "ingest_time"],
            Self::Feedback => {
                &["request_id", "feedback_time", "kafka_topic", "kafka_partition", "kafka_offset", "replay_time"]
            }
            Self::TrainingWindow => &["cycle", "split", "prompt_hash", "request_time"],
            Self::Candidate => &["cycle", "prompt_hash", "sample", "reward"],
            Self::Cycle => &["cycle", "model", "state", "time"],
            Self::Evaluation => &["cycle", "model", "version"],
            Self::ModelVersion => &["model", "version", "state", "time"],
            Self::Removal => &["table_name", "kafka_topic", "kafka_partition", "first_offset", "last_offset"],
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that rows of logs cannot be stored under.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is a table of Pelton's own; give the logs' table another name")]
pub struct ReservedTable(pub &'static str);

/// A text is not the name of a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a table: the tables are {tables}")]
pub struct UnknownTable {
    name: String,
    tables: String,
}

impl UnknownTable {
    pub(super) fn new(name: &str, tables: impl Iterator<Item = TableName>) -> Self {
        Self { name: name.to_owned(), tables: tables.map(TableName::as_str).collect::<Vec<_>>().join(", ") }
    }
}

impl FromStr for TableName {
    type Err = UnknownTable;
    fn from_str(text: &str) -> Result<Self, UnknownTable> {
        let found = Self::ALL.into_iter().find(|t| t.as_str() == text);
        found.ok_or_else(|| UnknownTable::new(text, Self::ALL.into_iter()))
    }
}
