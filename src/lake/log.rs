//! The few operations on a table's log that everything else is made of.

use super::encode::EncodedFile;
use super::error::{Error, Result};
use super::evolve;
use super::promoted::Promoted;
use super::store::Store;
use super::table::TableName;
use arrow::array::RecordBatch;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::protocol::{DeltaOperation, OutputMode, SaveMode};
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError, Path};
use object_store::ObjectStoreExt as _;

/// How long versions can be read back until maintenance sets what is configured. Clean-up is a task of ours, never part of
/// a commit.
const HISTORY: &str = "interval 24 hours";
/// The table's property for log entries.
pub(super) const LOG_RETENTION: &str = "delta.logRetentionDuration";
/// The table's property for files that no newer version needs; checkpoints forget them after it.
pub(super) const FILE_RETENTION: &str = "delta.deletedFileRetentionDuration";
/// Commits that lost the race to another writer try again at the next version this often.
const COMMIT_RETRIES_MAX: usize = 100;
/// A file that reaches this size is closed and the next begun.
pub(super) const FILE_BYTES_TARGET: u64 = 128 * 1024 * 1024;

/// A handle on a table whose log is not read yet.
pub(super) fn unloaded(store: &Store, name: TableName) -> Result<DeltaTable> {
    let url = store.folder(&format!("tables/{name}"));
    DeltaTableBuilder::from_url(url.clone())
        .and_then(|builder| builder.with_storage_backend(store.root.clone(), url).build())
        .map_err(Error::table(name, "reach the store"))
}

/// Loads a table, and creates it where there is none. Two processes may do so at once: one of them creates it.
pub(super) async fn open_or_create(store: &Store, name: TableName, promoted: &Promoted) -> Result<DeltaTable> {
    let mut table = unloaded(store, name)?;
    let exists = table.verify_deltatable_existence().await.map_err(Error::table(name, "reach the store"))?;
    let created = if exists { Ok(()) } else { create(&table, name, promoted).await };
    // Whoever lost the race to create it finds it now; anything else is told by the error of the creation.
    match (table.load().await, created) {
        (Ok(()), _) => evolve::add_missing_columns(table, name, promoted).await,
        (Err(_), Err(e)) => Err(Error::table(name, "create it")(e)),
        (Err(e), Ok(())) => Err(Error::table(name, "read the log")(e)),
    }
}

async fn create(table: &DeltaTable, name: TableName, promoted: &Promoted) -> std::result::Result<(), DeltaTableError> {
    let create = table
        .clone()
        .create()
        .with_table_name(name.as_str())
        .with_comment(name.about())
        .with_columns(promoted.delta_fields(name))
        .with_partition_columns(name.partition_columns().iter().copied())
        .with_configuration([
            (LOG_RETENTION, Some(HISTORY.to_owned())),
            (FILE_RETENTION, Some(HISTORY.to_owned())),
            ("delta.enableExpiredLogCleanup", Some("false".to_owned())),
            ("delta.dataSkippingStatsColumns", Some(name.statistics_columns().join(","))),
        ])
        // Without this the loser of a race would commit its own metadata as version 1.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .with_save_mode(SaveMode::Ignore);
    create.await.map(drop)
}

/// A local folder that is not mounted looks like a log without news, and a commit would begin another table in its place.
pub(super) fn ensure_there(table: &DeltaTable) -> std::result::Result<(), DeltaTableError> {
    let url = table.log_store().root_url().clone();
    let folder = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    match folder.map(|folder| folder.join("_delta_log")) {
        Some(log) if !log.is_dir() => Err(DeltaTableError::NotATable(format!("{} is gone", log.display()))),
        _ => Ok(()),
    }
}

/// The version that the handle has loaded.
pub(super) fn version_of(table: &DeltaTable) -> i64 {
    table.version().and_then(|v| i64::try_from(v).ok()).unwrap_or(-1)
}

/// A writer of Parquet files that no version refers to yet.
pub(super) fn writer(
    table: &DeltaTable,
    name: TableName,
    bytes_target: u64,
) -> std::result::Result<RecordBatchWriter, DeltaTableError> {
    let writer = RecordBatchWriter::for_table(table)?;
    Ok(writer.with_target_file_size(bytes_target).with_writer_properties(name.writer_properties()))
}

/// Writes batches as Parquet files that no version refers to yet.
pub(super) async fn write(
    table: &DeltaTable,
    name: TableName,
    batches: Vec<RecordBatch>,
) -> std::result::Result<Vec<Add>, DeltaTableError> {
    let mut writer = writer(table, name, FILE_BYTES_TARGET)?;
    for batch in batches.into_iter().filter(|b| b.num_rows() > 0) {
        writer.write(evolve::conform(&batch, &writer.arrow_schema())?).await?;
    }
    writer.flush().await
}

/// A commit that does nothing beside: checkpoints and clean-up are maintenance's.
pub(super) fn quiet() -> CommitProperties {
    CommitProperties::default().with_create_checkpoint(false).with_cleanup_expired_logs(Some(false))
}

/// Stores encoded files that no version refers to yet.
pub(super) async fn store(table: &DeltaTable, files: &[EncodedFile]) -> std::result::Result<(), DeltaTableError> {
    let store = table.object_store();
    for file in files {
        store.put(&Path::parse(&file.add.path)?, file.bytes.clone().into()).await?;
    }
    Ok(())
}

/// Adds files and moves application transactions in one commit; the handle then stands at the new version.
///
/// A concurrent writer that moved one of the same transactions makes it fail; other concurrent appends do not.
pub(super) async fn commit(
    table: &mut DeltaTable,
    adds: Vec<Add>,
    transactions: Vec<Transaction>,
) -> std::result::Result<(), DeltaTableError> {
    let properties = quiet().with_application_transactions(transactions).with_max_retries(COMMIT_RETRIES_MAX);
    commit_with(table, adds, properties).await
}

/// As [`commit`], as exactly the version after the one that the handle stands at: an error of
/// [`DeltaTableError::Transaction`] says that another commit may have come first.
pub(super) async fn commit_exactly(
    table: &mut DeltaTable,
    adds: Vec<Add>,
    transactions: Vec<Transaction>,
) -> std::result::Result<(), DeltaTableError> {
    let properties = quiet().with_application_transactions(transactions).with_max_retries(0);
    commit_with(table, adds, properties).await
}

async fn commit_with(
    table: &mut DeltaTable,
    adds: Vec<Add>,
    properties: CommitProperties,
) -> std::result::Result<(), DeltaTableError> {
    let operation = DeltaOperation::StreamingUpdate {
        output_mode: OutputMode::Append,
        query_id: "pelton".to_owned(),
        epoch_id: version_of(table) + 1,
    };
    let actions = adds.into_iter().map(Action::Add).collect();
    let committed = CommitBuilder::from(properties)
        .with_actions(actions)
        .build(Some(table.snapshot()?), table.log_store(), operation)
        .await?;
    table.state = Some(committed.snapshot());
    Ok(())
}

/// The version of an application transaction; nothing where there is none.
pub(super) async fn transaction(table: &DeltaTable, id: &str) -> std::result::Result<Option<i64>, DeltaTableError> {
    table.snapshot()?.transaction_version(table.log_store().as_ref(), id).await
}
