//! Tables that were made before a column was declared: they get it by a commit of metadata, and batches fit them by name.
//!
//! Older files read as null. A process that does not know a column yet (an older one, or one with an older configuration)
//! goes on beside those that do: what it writes is null there.

use super::error::{Error, Result};
use super::log;
use super::promoted::Promoted;
use super::table::TableName;
use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use deltalake::kernel::StructField;
use deltalake::{DeltaTable, DeltaTableError};
use std::sync::Arc;
use std::time::Duration;

/// Tries against commits of others; each loses only to a commit that came in between.
const ATTEMPTS_MAX: u32 = 20;

/// Adds the declared columns that a table lacks. Several processes may do so at once, beside committers: whoever comes
/// second finds them there.
pub(super) async fn add_missing_columns(
    mut table: DeltaTable,
    name: TableName,
    promoted: &Promoted,
) -> Result<DeltaTable> {
    for attempt in 1.. {
        let missing = missing(&table, name, promoted)?;
        if missing.is_empty() {
            break;
        }
        let added = table.clone().add_columns().with_fields(missing).with_commit_properties(log::quiet()).await;
        if let Err(e) = added.map(drop)
            && attempt == ATTEMPTS_MAX
        {
            return Err(Error::table(name, "add a column")(e));
        }
        tokio::time::sleep(Duration::from_millis(10) * attempt).await;
        table.update_state().await.map_err(Error::table(name, "read the log"))?;
    }
    Ok(table)
}

fn missing(table: &DeltaTable, name: TableName, promoted: &Promoted) -> Result<Vec<StructField>> {
    let snapshot = table.snapshot().map_err(Error::table(name, "read the log"))?;
    let schema = snapshot.schema();
    let there = |field: &StructField| schema.field(field.name()).is_some();
    let declared = promoted.delta_fields(name).filter(|field| !there(field));
    // Rows of before have no value, so that no added column can demand one.
    Ok(declared.map(|field| StructField { nullable: true, ..field }).collect())
}

/// The batch with the columns of the table, in its order: null where the batch has none. A column that the table lacks is
/// an error, because its values would be lost.
pub(super) fn conform(batch: &RecordBatch, to: &SchemaRef) -> std::result::Result<RecordBatch, DeltaTableError> {
    let from = batch.schema();
    if let Some(lost) = from.fields().iter().find(|field| to.field_with_name(field.name()).is_err()) {
        return Err(DeltaTableError::Generic(format!("the table has no column `{}`", lost.name())));
    }
    let column = |name: &str, kind| match batch.column_by_name(name) {
        Some(column) => Arc::clone(column),
        None => new_null_array(kind, batch.num_rows()),
    };
    let columns = to.fields().iter().map(|field| column(field.name(), field.data_type())).collect();
    Ok(RecordBatch::try_new(Arc::clone(to), columns)?)
}
