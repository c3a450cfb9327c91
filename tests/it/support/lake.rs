//! Lakes in a temporary folder.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use pelton::config;
use pelton::domain::{Prompt, Timestamp, TrainingSet};
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

/// What a window chose, as far as a cycle looks at it.
pub fn training_set(train: Vec<Prompt>, holdout: Vec<Prompt>) -> TrainingSet {
    TrainingSet {
        window: "w".parse().unwrap(),
        sql: "SELECT 1".to_owned(),
        table_version: 0,
        since: Timestamp::EPOCH,
        until: Timestamp::from_micros(1),
        train,
        holdout,
        left_out: Vec::new(),
        reasons: std::collections::BTreeMap::new(),
        strata: std::collections::BTreeMap::new(),
    }
}

/// What a query over one table gives.
pub async fn query(lake: &Lake, table: TableName, sql: &str) -> Vec<RecordBatch> {
    let session = SessionContext::new();
    let (url, store) = lake.object_store();
    session.register_object_store(&url, store);
    session.register_table(table.as_str(), lake.provider(table, None).await.unwrap()).unwrap();
    session.sql(sql).await.unwrap().collect().await.unwrap()
}

/// One number that a query over one table gives.
pub async fn number(lake: &Lake, table: TableName, sql: &str) -> i64 {
    query(lake, table, sql).await[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// The raw message of the one dead letter for which a condition holds.
pub async fn payload(lake: &Lake, condition: &str) -> Vec<u8> {
    let sql = format!("SELECT payload FROM dead_letter WHERE {condition}");
    let batches = query(lake, TableName::DeadLetter, &sql).await;
    let column = arrow::compute::cast(batches[0].column(0), &arrow::datatypes::DataType::Binary).unwrap();
    column.as_binary::<i32>().value(0).to_vec()
}

/// The rows of a table for which a condition holds; all where it is empty.
pub async fn count(lake: &Lake, table: TableName, condition: &str) -> i64 {
    let only = if condition.is_empty() { String::new() } else { format!(" WHERE {condition}") };
    number(lake, table, &format!("SELECT count(*) FROM {table}{only}")).await
}
