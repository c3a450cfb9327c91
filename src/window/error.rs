//! What can be wrong with a window.

use crate::domain::WindowName;
use crate::query;

/// Why a window gave no set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The SQL cannot run on the tables as they are.
    #[error("window `{window}`: {source}")]
    Sql {
        /// The window.
        window: WindowName,
        /// What is wrong, with near matches.
        source: Box<query::Error>,
    },
    /// The SQL runs, and its answer lacks a column that a prompt needs.
    #[error("window `{window}`: its SQL returns no column `{column}`{alternative}; it returns {}", found.join(", "))]
    MissingColumn {
        /// The window.
        window: WindowName,
        /// The column.
        column: &'static str,
        /// What would do instead.
        alternative: &'static str,
        /// The columns that it returns.
        found: Vec<String>,
    },
    /// A column has a type that cannot be what its name says.
    #[error("window `{window}`: column `{column}` has the type {found}, and must be a {wanted}")]
    ColumnType {
        /// The window.
        window: WindowName,
        /// The column.
        column: &'static str,
        /// Its type.
        found: String,
        /// What would be right.
        wanted: &'static str,
    },
    /// A row has no id or no time.
    #[error("window `{window}`: row {row} of its answer has no `{column}`; leave such rows out by a WHERE")]
    MissingValue {
        /// The window.
        window: WindowName,
        /// The row, from 1.
        row: usize,
        /// The column.
        column: &'static str,
    },
    /// There are too few prompts to learn from.
    #[error("window `{window}` has {found} prompts to train on, and needs {prompts_min}")]
    TooFew {
        /// The window.
        window: WindowName,
        /// Prompts on the training side, after de-duplication.
        found: usize,
        /// The configured minimum.
        prompts_min: usize,
    },

    /// There are too few prompts to judge by.
    #[error(
        "window `{window}` holds {held_out} prompts out, and the gate needs {holdout_min} (gate.prompts_min); wait for more, \
         or raise holdout_share"
    )]
    TooFewHeldOut {
        /// The window.
        window: WindowName,
        /// Prompts on the holdout side, after de-duplication.
        held_out: usize,
        /// The gate's minimum.
        holdout_min: usize,
    },
}
