//! The names of the tables, and how each is laid out.

use super::column::{Column, arrow_schema};
use super::tables;
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
}

impl TableName {
    /// All tables, in the order data flows.
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
        }
    }

    /// What a row of the table is.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::InferenceLog => "one logged call of a model",
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
            Self::InferenceLog => tables::inference_log::COLUMNS,
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

    /// The table's Arrow schema.
    #[must_use]
    pub fn arrow_schema(self) -> SchemaRef {
        arrow_schema(self.columns())
    }

    /// Whether Kafka feeds it: its rows carry the offsets that they came from.
    #[must_use]
    pub fn is_ingested(self) -> bool {
        matches!(self, Self::InferenceLog | Self::Feedback | Self::DeadLetter)
    }

    pub(super) fn is_partitioned(self) -> bool {
        !self.partition_columns().is_empty()
    }

    pub(super) fn partition_columns(self) -> &'static [&'static str] {
        match self {
            Self::InferenceLog => &["request_date"],
            _ => &[],
        }
    }

    /// Columns with minimum and maximum in the log: what queries and the audit skip files by. Raw JSON has none.
    pub(super) fn statistics_columns(self) -> &'static [&'static str] {
        match self {
            Self::InferenceLog => &[
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

/// A text is not the name of a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a table: the tables are {names}", names = TableName::ALL.map(TableName::as_str).join(", "))]
pub struct UnknownTable(pub String);

impl FromStr for TableName {
    type Err = UnknownTable;
    fn from_str(text: &str) -> Result<Self, UnknownTable> {
        Self::ALL.into_iter().find(|t| t.as_str() == text).ok_or_else(|| UnknownTable(text.to_owned()))
    }
}
