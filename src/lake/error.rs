//! What can go wrong with a table, with the table's name in every message.

use super::table::TableName;
use deltalake::DeltaTableError;
use deltalake::datafusion::error::DataFusionError;

/// Why the lake could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one that a lake can be at.
    #[error("lake url `{url}` is not usable: {reason}; give a path, file:///path or s3://bucket/prefix")]
    Url {
        /// The URL as configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store's options are wrong.
    #[error("lake options for `{url}` are not usable")]
    Store {
        /// The URL as configured.
        url: String,
        /// What the store says.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The table's log or files could not be read or written.
    #[error("table `{table}`: cannot {action}")]
    Table {
        /// The table.
        table: TableName,
        /// What was tried.
        action: &'static str,
        /// What delta-rs says.
        #[source]
        source: Box<DeltaTableError>,
    },
    /// A query over the table failed.
    #[error("table `{table}`: cannot be queried")]
    Query {
        /// The table.
        table: TableName,
        /// What DataFusion says.
        #[source]
        source: Box<DataFusionError>,
    },
    /// The table has no such version.
    #[error("table `{table}` has no version {version}: the newest is {newest}")]
    NoVersion {
        /// The table.
        table: TableName,
        /// The version asked for.
        version: i64,
        /// The newest version.
        newest: i64,
    },
    /// Somebody took over what this process was doing.
    #[error("`{name}` was taken over by another process (its token is {now}, ours is {held}); nothing was written")]
    Fenced {
        /// What was taken over.
        name: String,
        /// The token that this process holds.
        held: i64,
        /// The token that stands in the table.
        now: i64,
    },
    /// A change of a version is not possible as the versions are now.
    #[error("{0}")]
    Refused(String),
    /// A stored value is not one that we write.
    #[error("table `{table}`: column `{column}` holds `{found}`: {right}")]
    Value {
        /// The table.
        table: TableName,
        /// The column.
        column: &'static str,
        /// What it holds.
        found: String,
        /// What would be right.
        right: &'static str,
    },
}

impl Error {
    /// Whether somebody took over.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }

    pub(super) fn table(table: TableName, action: &'static str) -> impl FnOnce(DeltaTableError) -> Self {
        move |source| Self::Table { table, action, source: Box::new(source) }
    }

    pub(super) fn query(table: TableName) -> impl FnOnce(DataFusionError) -> Self {
        move |source| Self::Query { table, source: Box::new(source) }
    }
}

/// The lake's result.
pub type Result<T> = std::result::Result<T, Error>;
