//! What keeps tables small and fast, and no commit should wait for: merging small files, checkpoints, dropping days past
//! their retention, the clean-up of the log, and the vacuum.
//!
//! All of it may run in several processes at once and beside ingestion. It moves no offset; it drops rows only by the
//! configured retention, and records their offsets first.

mod clock;
mod compact;
mod plan;
mod retain;
mod vacuum;

pub use compact::Compacted;
pub(super) use plan::Aim;
pub use retain::Dropped;
pub(super) use retain::collect_offsets;
pub use vacuum::Vacuumed;
pub(super) use vacuum::{Unused, delete, delete_staged, staged, unused};

use super::error::{Error, Result};
use super::rewrite::live_files;
use super::{Lake, TableName, log};
use crate::config::Maintenance;
use crate::domain::Timestamp;
use deltalake::DeltaTable;
use deltalake::checkpoints::{cleanup_metadata, create_checkpoint};
use object_store::ObjectStoreExt as _;
use serde::Deserialize;
use std::time::Duration;

/// A checkpoint is written when this many commits follow the last one, or more where that one was large.
const COMMITS_BETWEEN_CHECKPOINTS: i64 = 50;
/// A checkpoint names every file that was replaced within the history, tens of thousands after a day of a commit a second;
/// writing it, and reading it into every handle, costs what it holds. So a commit is waited for with each so many of them …
const ACTIONS_A_COMMIT: i64 = 200;
/// … up to a number that still is quick to list and to read one by one.
const COMMITS_BETWEEN_CHECKPOINTS_MAX: i64 = 400;

/// What a round is to do.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// The present.
    pub now: Timestamp,
    /// Whether days past their retention are dropped, the log is cleaned up and files that nobody needs are deleted: work
    /// that lists folders, and need not be done at every round.
    pub thorough: bool,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// What a round did to one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintained {
    /// The table.
    pub table: TableName,
    /// Its version after the round.
    pub version: i64,
    /// Its files before the round.
    pub files_before: usize,
    /// Its files after it.
    pub files_after: usize,
    /// Bytes of its files after it.
    pub bytes: u64,
    /// What merging did.
    pub compacted: Compacted,
    /// What retention dropped.
    pub dropped: Dropped,
    /// Whether a checkpoint was written, or would be.
    pub checkpoint: bool,
    /// Log files deleted that no readable version needs.
    pub log_files_deleted: usize,
    /// What the vacuum deleted.
    pub vacuumed: Vacuumed,
}

impl Maintained {
    /// Whether anything was changed.
    #[must_use]
    pub fn did_something(&self) -> bool {
        self.compacted != Compacted::default()
            || self.dropped.files > 0
            || self.checkpoint
            || self.log_files_deleted > 0
            || self.vacuumed.files > 0
    }
}

impl Lake {
    /// One round over tables; all of them where none is named. What fails in one table keeps no other from its round.
    ///
    /// # Errors
    /// [`Error::Table`] with the first table that could not be maintained.
    pub async fn maintain(
        &self,
        settings: &Maintenance,
        tables: &[TableName],
        round: Round,
    ) -> Result<Vec<Maintained>> {
        let tables = if tables.is_empty() { self.tables().collect() } else { tables.to_vec() };
        let (mut done, mut failed) = (Vec::new(), None);
        for name in tables {
            match self.maintain_table(name, settings, round).await {
                Ok(one) => done.push(one),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(done), Err)
    }

    async fn maintain_table(&self, name: TableName, settings: &Maintenance, round: Round) -> Result<Maintained> {
        let now_ms = round.now.micros() / 1000;
        let aim = Aim { bytes_target: settings.file_bytes_target, files_alike_max: settings.files_alike_max, now_ms };
        let files_before = live_files(&*self.fresh(name).await?).map_err(Error::table(name, "list its files"))?.len();
        let mut dropped = Dropped::default();
        if let (true, Some(days)) = (round.thorough, settings.retention_days.get(name.as_str())) {
            dropped = self.retain(name, *days, round.now, round.dry_run).await?;
        }
        let compacted = self.compact(name, aim, round.dry_run).await?;
        if round.thorough && !round.dry_run {
            self.keep_history(name, settings.history()).await?;
        }
        let checkpoint = self.checkpoint(name, round.dry_run).await?;
        let (mut log_files_deleted, mut vacuumed) = (0, Vacuumed::default());
        if round.thorough {
            if !round.dry_run {
                let table = self.fresh(name).await?.clone();
                log_files_deleted =
                    cleanup_metadata(&table, None).await.map_err(Error::table(name, "clean the log up"))?;
            }
            vacuumed = self.vacuum(name, settings.history(), now_ms, round.dry_run).await?;
        }
        let table = self.fresh(name).await?;
        let files = live_files(&table).map_err(Error::table(name, "list its files"))?;
        Ok(Maintained {
            table: name,
            version: log::version_of(&table),
            files_before,
            files_after: files.len(),
            bytes: files.iter().map(|f| f.bytes).sum(),
            compacted,
            dropped,
            checkpoint,
            log_files_deleted,
            vacuumed,
        })
    }

    async fn checkpoint(&self, name: TableName, dry_run: bool) -> Result<bool> {
        // A copy, so that no reader waits while the checkpoint is written.
        let table = self.fresh(name).await?.clone();
        let last = last_checkpoint(&table).await;
        if log::version_of(&table) - last.version < commits_between(last.size) {
            return Ok(false);
        }
        if !dry_run {
            create_checkpoint(&table, None).await.map_err(Error::table(name, "write a checkpoint"))?;
        }
        Ok(true)
    }

    /// Makes the table's own properties say what is configured: checkpoints forget replaced files by them, and other
    /// programs that maintain the table go by them.
    async fn keep_history(&self, name: TableName, history: Duration) -> Result<()> {
        let wanted = format!("interval {} seconds", history.as_secs());
        let table = self.fresh(name).await?.clone();
        let snapshot = table.snapshot().map_err(Error::table(name, "read its properties"))?;
        let stored = snapshot.table_config();
        if [stored.log_retention_duration, stored.deleted_file_retention_duration] == [Some(history); 2] {
            return Ok(());
        }
        let properties = [log::LOG_RETENTION, log::FILE_RETENTION].map(|key| (key.to_owned(), wanted.clone())).into();
        let set = table.set_tbl_properties().with_properties(properties).with_commit_properties(log::quiet());
        set.await.map_err(Error::table(name, "set how long history is kept"))?;
        Ok(())
    }
}

/// How many commits follow a checkpoint of so many actions before the next.
fn commits_between(actions: i64) -> i64 {
    (actions / ACTIONS_A_COMMIT).clamp(COMMITS_BETWEEN_CHECKPOINTS, COMMITS_BETWEEN_CHECKPOINTS_MAX)
}

/// What the log's pointer says of the last checkpoint.
#[derive(Debug, Default, Deserialize)]
struct Hint {
    version: i64,
    /// The actions in it.
    #[serde(default)]
    size: i64,
}

/// The last checkpoint; version 0 where there is none or its pointer is unreadable (it is only a hint).
async fn last_checkpoint(table: &DeltaTable) -> Hint {
    let path = deltalake::Path::from("_delta_log/_last_checkpoint");
    let Ok(found) = table.object_store().get(&path).await else { return Hint::default() };
    let Ok(bytes) = found.bytes().await else { return Hint::default() };
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::commits_between;

    #[test]
    fn large_checkpoints_are_written_more_seldom_up_to_a_bound() {
        for (actions, commits) in [(0, 50), (9_000, 50), (20_000, 100), (60_268, 301), (1_000_000, 400)] {
            assert_eq!(commits_between(actions), commits, "{actions}");
        }
    }
}
