//! Taking every row that is about a requester out of every table, and its bytes out of the store.
//!
//! Tables that hang on the log go first and the log last, so a run that was cut short finds its way again. The offsets of
//! rows from Kafka are recorded in `removal` before they go: the audit stays clean. Files are rewritten without the rows;
//! then every file that still holds one (replaced ones that old versions refer to, and orphans) is deleted at once. Old
//! versions of a table that need such a file cannot be read any more: that is the point.
//!
//! Only one kind of file is spared: one that was written moments ago and that no version refers to. It may be a commit of a
//! daemon that is about to be made, with rows that came after the request. Such files are named as pending; the command done
//! again takes their rows.

mod who;

use super::error::{Error, Result};
use super::maintain::{Unused, collect_offsets, delete, delete_staged, staged, unused};
use super::ranges::{Gap, ranges_of};
use super::rewrite::{LiveFile, Outcome, Rewrite, live_files, open};
use super::splice::write_rows_of;
use super::tables::removal::Reason;
use super::{Lake, PartitionKey, TableName, files, log};
use crate::domain::Timestamp;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch, not};
use arrow::datatypes::DataType;
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt as _;
use std::collections::{BTreeMap, BTreeSet};
use who::Who;

/// The tables that can hold a requester's rows; those that are found through others first.
const TABLES: [TableName; 6] = [
    TableName::Evaluation,
    TableName::Candidate,
    TableName::TrainingWindow,
    TableName::Feedback,
    TableName::DeadLetter,
    TableName::InferenceLog,
];
/// Rows may come, and files be merged, while others are rewritten: then the table is looked through again.
const PASSES_MAX: usize = 20;
/// An unreferenced file younger than this may belong to a commit that is being made.
const UNCOMMITTED_MS_MAX: i64 = 15 * 60 * 1000;

/// What is to be forgotten, and how it is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The requester, exactly as the logs name it.
    pub requester: &'a str,
    /// What `removal` says instead of the name: a hash.
    pub mark: &'a str,
    /// The present.
    pub now: Timestamp,
    /// Only counts.
    pub dry_run: bool,
}

/// What was taken out of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgottenTable {
    /// The table.
    pub table: TableName,
    /// Its version before.
    pub version_before: i64,
    /// Its version after.
    pub version_after: i64,
    /// Rows taken out.
    pub rows: u64,
    /// Files that were written anew without them.
    pub files_rewritten: usize,
    /// Files deleted from the store because they held such rows.
    pub files_deleted: usize,
    /// Files that hold such rows and may belong to a commit that is being made: run again later.
    pub files_pending: Vec<String>,
}

/// What was taken out of all tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Each table that can hold such rows.
    pub tables: Vec<ForgottenTable>,
    /// Cycles that learned from or were measured on the requester's prompts.
    pub cycles: BTreeSet<String>,
}

impl Forgotten {
    /// Rows of all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|t| t.rows).sum()
    }

    /// Whether a file is left that must be looked at again.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.tables.iter().any(|t| !t.files_pending.is_empty())
    }
}

impl Lake {
    /// Forgets a requester. May be done beside daemons that ingest and maintain; what they add later is not covered.
    ///
    /// # Errors
    /// [`Error::Table`] and [`Error::Query`] where a table cannot be read or written: do it again.
    pub async fn forget(&self, request: Request<'_>) -> Result<Forgotten> {
        let mut who = Who::new(request.requester);
        self.find_calls(&mut who, request.requester).await?;
        let mut done = Forgotten::default();
        let own = self.tables().filter(|name| matches!(name, TableName::Log(_)));
        for name in TABLES.into_iter().chain(own) {
            done.tables.push(self.forget_in(name, &who, request, &mut done.cycles).await?);
        }
        // Files go when all rows are gone: a file that a pass over one table read may have been written by another's.
        if !request.dry_run {
            for one in &mut done.tables {
                (one.files_deleted, one.files_pending) = self.delete_files(one.table, &who, request).await?;
            }
        }
        Ok(done)
    }

    /// The requester's calls, and the prompts that nobody else asked.
    async fn find_calls(&self, who: &mut Who, requester: &str) -> Result<()> {
        let name = requester.replace('\'', "''");
        let ids = format!("SELECT DISTINCT request_id FROM logs WHERE requester = '{name}'");
        let hashes = format!(
            "SELECT prompt_hash FROM logs WHERE prompt_hash IN \
             (SELECT prompt_hash FROM logs WHERE requester = '{name}') GROUP BY prompt_hash \
             HAVING sum(CASE WHEN requester IS NOT DISTINCT FROM '{name}' THEN 0 ELSE 1 END) = 0"
        );
        who.requests = texts(&self.query_logs(&ids).await?).collect();
        who.prompts = texts(&self.query_logs(&hashes).await?).collect();
        Ok(())
    }

    async fn forget_in(
        &self,
        name: TableName,
        who: &Who,
        request: Request<'_>,
        cycles: &mut BTreeSet<String>,
    ) -> Result<ForgottenTable> {
        let version = self.version(name).await?;
        let mut done = ForgottenTable {
            table: name,
            version_before: version,
            version_after: version,
            rows: 0,
            files_rewritten: 0,
            files_deleted: 0,
            files_pending: Vec::new(),
        };
        for _ in 0..PASSES_MAX {
            let table = self.fresh(name).await?.clone();
            let mut found = Found::default();
            let all = live_files(&table).map_err(Error::table(name, "list its files"))?;
            let mut hit = Vec::new();
            for file in &all {
                let before = found.rows;
                look_through(&table, file, who, &mut found).await.map_err(Error::table(name, "look through a file"))?;
                if found.rows > before {
                    hit.push(file);
                }
            }
            cycles.append(&mut found.cycles);
            if hit.is_empty() || request.dry_run {
                done.rows += found.rows;
                done.files_rewritten += hit.len();
                done.version_after = self.version(name).await?;
                return Ok(done);
            }
            if self.rewrite_without(name, &table, &hit, who, found.offsets, request).await? {
                done.rows += found.rows;
                done.files_rewritten += hit.len();
            }
        }
        let busy =
            DeltaTableError::generic("rows of the requester kept coming while others were taken out: do it again");
        Err(Error::table(name, "take the rows out")(busy))
    }

    /// Writes files anew without the rows; false where another writer was first.
    async fn rewrite_without(
        &self,
        name: TableName,
        table: &DeltaTable,
        hit: &[&LiveFile],
        who: &Who,
        offsets: BTreeMap<PartitionKey, Vec<i64>>,
        request: Request<'_>,
    ) -> Result<bool> {
        if name.is_ingested() {
            let gone: BTreeMap<PartitionKey, Vec<Gap>> =
                offsets.into_iter().map(|(key, offsets)| (key, ranges_of(offsets))).collect();
            self.record_removals(name, Reason::Forget, &gone, request.mark, request.now).await?;
        }
        let operation = DeltaOperation::Delete { predicate: Some("forget".to_owned()) };
        let mut rewrite = Rewrite { removes: Vec::new(), adds: Vec::new(), operation };
        for &file in hit {
            let keep = |batch: &RecordBatch| Ok(not(&who.matches(batch)?)?);
            let written = write_rows_of(table, name, &[file], log::FILE_BYTES_TARGET, Some(&keep)).await;
            rewrite.adds.extend(written.map_err(Error::table(name, "write a file without the rows"))?.adds);
            rewrite.removes.push(file.remove(true));
        }
        for add in &mut rewrite.adds {
            add.data_change = true;
        }
        Ok(matches!(self.rewrite(name, &rewrite).await?, Outcome::Done(_)))
    }

    /// Deletes every file that no version needs from now on and that holds such rows; gives the paths of those spared.
    async fn delete_files(&self, name: TableName, who: &Who, request: Request<'_>) -> Result<(usize, Vec<String>)> {
        let table = self.fresh(name).await?.clone();
        let unused = unused(&table).await.map_err(Error::table(name, "list its folder"))?;
        let now_ms = request.now.micros() / 1000;
        let (mut holding, mut pending) = (Vec::new(), Vec::new());
        for file in unused {
            match holds(&table, &file, who).await {
                Ok(false) => {}
                Ok(true) if file.removed_ms.is_none() && now_ms - file.written_ms < UNCOMMITTED_MS_MAX => {
                    pending.push(file.path.to_string());
                }
                Ok(true) => holding.push(file),
                // The vacuum of another process took it in between.
                Err(DeltaTableError::ObjectStore { source: object_store::Error::NotFound { .. } }) => {}
                Err(error) => return Err(Error::table(name, "look through an old file")(error)),
            }
        }
        delete(&table, &holding).await.map_err(Error::table(name, "delete files"))?;
        // What a process was writing when it died has no end and cannot be looked through.
        let staged = staged(&table, now_ms - UNCOMMITTED_MS_MAX);
        delete_staged(&staged);
        Ok((holding.len() + staged.len(), pending))
    }
}

/// What looking through files found.
#[derive(Default)]
struct Found {
    rows: u64,
    offsets: BTreeMap<PartitionKey, Vec<i64>>,
    cycles: BTreeSet<String>,
}

async fn look_through(
    table: &DeltaTable,
    file: &LiveFile,
    who: &Who,
    found: &mut Found,
) -> std::result::Result<(), DeltaTableError> {
    let mut batches = open(table, file, Some(who::COLUMNS)).await?;
    while let Some(batch) = batches.try_next().await? {
        let hits = filter_record_batch(&batch, &who.matches(&batch)?)?;
        if hits.num_rows() == 0 {
            continue;
        }
        found.rows += hits.num_rows() as u64;
        if hits.column_by_name("kafka_offset").is_some() {
            collect_offsets(&hits, &mut found.offsets)?;
        }
        if let Some(cycles) = hits.column_by_name("cycle") {
            let cycles = cast(cycles, &DataType::Utf8)?;
            found.cycles.extend(cycles.as_string::<i32>().iter().flatten().map(str::to_owned));
        }
    }
    Ok(())
}

async fn holds(table: &DeltaTable, file: &Unused, who: &Who) -> std::result::Result<bool, DeltaTableError> {
    let mut batches = files::read(table, file.path.as_ref(), file.bytes, Some(who::COLUMNS)).await?;
    while let Some(batch) = batches.try_next().await? {
        if who.matches(&batch)?.true_count() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn texts(batches: &[RecordBatch]) -> impl Iterator<Item = String> {
    let column = |batch: &RecordBatch| cast(batch.column(0), &DataType::Utf8).ok();
    let all: Vec<String> = batches
        .iter()
        .filter_map(column)
        .flat_map(|c| c.as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    all.into_iter()
}
