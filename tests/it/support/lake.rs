//! Lakes in a temporary folder.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use pelton::config;
use pelton::lake::{Lake, TableName};
use std::path::Path;
use tempfile::TempDir;

/// The configuration of a lake in a folder. Without fsync: a test's machine is not switched off.
pub fn config(dir: &Path) -> config::Lake {
    config::Lake { url: dir.join("lake").display().to_string(), fsync: false, ..config::Lake::default() }
}

/// A fresh lake; it is gone with the folder.
pub async fn open() -> (TempDir, Lake) {
    let dir = tempfile::tempdir().unwrap();
    let lake = Lake::open(&config(dir.path())).await.unwrap();
    (dir, lake)
}

/// One number that a query over one table gives.
pub async fn number(lake: &Lake, table: TableName, sql: &str) -> i64 {
    let session = SessionContext::new();
    let (url, store) = lake.object_store();
    session.register_object_store(&url, store);
    session.register_table(table.as_str(), lake.provider(table, None).await.unwrap()).unwrap();
    let batches = session.sql(sql).await.unwrap().collect().await.unwrap();
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// The rows of a table for which a condition holds; all where it is empty.
pub async fn count(lake: &Lake, table: TableName, condition: &str) -> i64 {
    let only = if condition.is_empty() { String::new() } else { format!(" WHERE {condition}") };
    number(lake, table, &format!("SELECT count(*) FROM {table}{only}")).await
}
