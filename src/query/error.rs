//! What can go wrong with a query, said so that the next try is right.

use super::near::{hint, near_matches, quoted};
use datafusion::common::{DataFusionError, SchemaError};
use std::time::Duration;

/// Why a query gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There was no statement.
    #[error("the query is empty")]
    Empty,
    /// The text is longer than a query can sensibly be.
    #[error("the query has {bytes} bytes; at most {bytes_max} are allowed")]
    TooLong {
        /// Bytes of the text.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// More than one statement was given where one runs.
    #[error("the query has {count} statements; send one at a time")]
    ManyStatements {
        /// How many.
        count: usize,
    },
    /// The text is not SQL.
    #[error("the query is not valid SQL: {message}")]
    Syntax {
        /// The parser's message, with line and column.
        message: String,
    },
    /// The statement would write, or change or reach something outside the tables.
    #[error("{statement} is not allowed: SQL here is read-only; use SELECT, WITH, EXPLAIN, SHOW or DESCRIBE")]
    NotReadOnly {
        /// The statement's leading keywords.
        statement: String,
    },
    /// No table has this name.
    #[error("unknown table `{table}`{}; tables: {}", hint(near), quoted(known, ", "))]
    UnknownTable {
        /// The name as written.
        table: String,
        /// Names like it.
        near: Vec<String>,
        /// All tables.
        known: Vec<String>,
    },
    /// No column has this name.
    #[error("unknown column `{column}`{}", hint_or_all(near, known))]
    UnknownColumn {
        /// The name as written.
        column: String,
        /// Names like it.
        near: Vec<String>,
        /// The columns in reach at that place.
        known: Vec<String>,
    },
    /// `$name` stands in the text and nobody gave it a value.
    #[error("the query uses `${name}`, which has no value here{}", parameters(known))]
    UnknownParameter {
        /// The parameter.
        name: String,
        /// What could have been used.
        known: Vec<String>,
    },
    /// The query needs more memory than the session may take.
    #[error("the query needs more than its {} MiB of memory: {message}", bytes_max / (1024 * 1024))]
    Memory {
        /// The bound.
        bytes_max: usize,
        /// Which operator asked for how much.
        message: String,
    },
    /// The query ran too long.
    #[error("the query ran longer than {} s", duration_max.as_secs_f64())]
    TooSlow {
        /// The bound.
        duration_max: Duration,
    },
    /// The answer has too many rows.
    #[error("the answer has more than {rows_max} rows; add a LIMIT")]
    TooManyRows {
        /// The bound.
        rows_max: usize,
    },
    /// The engine itself broke; the query is the cause, the process goes on.
    #[error("the query engine panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// Anything else that DataFusion refuses.
    #[error("{message}")]
    Failed {
        /// DataFusion's message.
        message: String,
    },
    /// The answer could not be written.
    #[error("the answer could not be written: {0}")]
    Write(#[source] std::io::Error),
}

/// The near matches; where nothing is near, all columns.
fn hint_or_all(near: &[String], known: &[String]) -> String {
    if near.is_empty() { format!("; columns here: {}", quoted(known, ", ")) } else { hint(near) }
}

fn parameters(known: &[String]) -> String {
    match known {
        [] => String::new(),
        names => {
            let names: Vec<String> = names.iter().map(|name| format!("${name}")).collect();
            format!("; a window's SQL may use {}", quoted(&names, " and "))
        }
    }
}

impl Error {
    /// Turns what DataFusion says into the variant that carries what the user needs.
    pub(super) fn from_datafusion(error: &DataFusionError, memory_bytes_max: usize) -> Self {
        match error.find_root() {
            DataFusionError::SchemaError(schema, _) => Self::from_schema(schema),
            DataFusionError::SQL(..) => Self::Syntax { message: plain(error.find_root()) },
            DataFusionError::ResourcesExhausted(message) => {
                Self::Memory { bytes_max: memory_bytes_max, message: message.clone() }
            }
            root => Self::Failed { message: plain(root) },
        }
    }

    fn from_schema(error: &SchemaError) -> Self {
        let SchemaError::FieldNotFound { field, valid_fields } = error else {
            return Self::Failed { message: error.to_string() };
        };
        let mut known: Vec<String> = valid_fields.iter().map(|f| f.name.clone()).collect();
        known.dedup();
        let near = near_matches(&field.name, known.iter().map(String::as_str));
        Self::UnknownColumn { column: field.flat_name(), near, known }
    }
}

/// The message without DataFusion's kind in front (`SQL error: ParserError("…")`), its back trace and line breaks.
fn plain(error: &DataFusionError) -> String {
    let message = match error {
        DataFusionError::SQL(inner, _) => inner.to_string(),
        DataFusionError::Plan(text) | DataFusionError::Execution(text) | DataFusionError::NotImplemented(text) => {
            text.clone()
        }
        DataFusionError::ArrowError(inner, _) => inner.to_string(),
        other => other.strip_backtrace(),
    };
    let message = message.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or("").trim();
    message.trim_start_matches("sql parser error: ").replace('\n', " ")
}
