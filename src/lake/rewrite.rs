//! Replacing files of a table by others in one commit: what compaction, retention and forgetting are made of.
//!
//! delta-rs' own conflict check ignores removes that change no data, so two rewrites of one file would both be let in and
//! its rows be there twice. Here a commit is made only on exactly the version on which every replaced file was seen alive:
//! whatever another writer commits in between, the check is made anew. That holds against rewrites of other programs as well
//! as against our own, in this process or another.
//!
//! Files whose commit was tried and not made are left for the vacuum, never deleted at once: a commit whose answer was lost
//! may still arrive.

use super::error::{Error, Result};
use super::files::{self, Batches};
use super::{Lake, TableName, log};
use deltalake::kernel::transaction::CommitBuilder;
use deltalake::kernel::{Action, Add, LogicalFileView, Remove};
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, DeltaTableError};
use object_store::ObjectStoreExt as _;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Tries at a commit that others keep overtaking.
const ATTEMPTS_MAX: u32 = 60;

type Delta<T> = std::result::Result<T, DeltaTableError>;

/// A file of a snapshot.
#[derive(Debug, Clone)]
pub(super) struct LiveFile {
    /// Its path under the table's folder.
    pub(super) path: String,
    /// Its size.
    pub(super) bytes: u64,
    /// When its youngest row was written, in milliseconds since the epoch.
    pub(super) modified_ms: i64,
    /// Its partition's columns and values.
    pub(super) partition: BTreeMap<String, Option<String>>,
    /// Its rows, where the log says.
    pub(super) rows: Option<u64>,
    /// Whether another program marked some of its rows as deleted.
    pub(super) has_deletions: bool,
    remove: Remove,
}

impl LiveFile {
    fn new(view: &LogicalFileView) -> Self {
        Self {
            path: view.object_store_path().to_string(),
            bytes: u64::try_from(view.size()).unwrap_or(0),
            modified_ms: view.modification_time(),
            partition: view.partition_values_map().into_iter().collect(),
            rows: view.num_records().and_then(|n| u64::try_from(n).ok()),
            has_deletions: view.deletion_vector_descriptor().is_some(),
            remove: view.remove_action(false),
        }
    }

    /// The action that takes the file out of the table; `data_change` says whether rows go with it.
    pub(super) fn remove(&self, data_change: bool) -> Remove {
        let now = crate::runtime::now().micros() / 1000;
        Remove { data_change, deletion_timestamp: Some(now), ..self.remove.clone() }
    }
}

/// The files of the snapshot that a handle has loaded.
pub(super) fn live_files(table: &DeltaTable) -> Delta<Vec<LiveFile>> {
    Ok(table.snapshot()?.log_data().iter().map(|view| LiveFile::new(&view)).collect())
}

/// What a rewrite takes out and puts in.
pub(super) struct Rewrite {
    pub(super) removes: Vec<Remove>,
    pub(super) adds: Vec<Add>,
    pub(super) operation: DeltaOperation,
}

/// What became of a rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is committed, at this version or before it.
    Done(i64),
    /// Another writer took one of the files out first: nothing was changed.
    Overtaken,
}

impl Lake {
    /// Commits a rewrite, or finds that another writer was first.
    pub(super) async fn rewrite(&self, name: TableName, rewrite: &Rewrite) -> Result<Outcome> {
        let failed = Error::table(name, "commit rewritten files");
        let mut last = None;
        for attempt in 1..=ATTEMPTS_MAX {
            match self.try_rewrite(name, rewrite).await {
                Ok(Some(Outcome::Overtaken)) if attempt == 1 => {
                    // Nothing was tried, so nothing can arrive late: the new files are of no use to anybody.
                    self.drop_written(name, &rewrite.adds).await;
                    return Ok(Outcome::Overtaken);
                }
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
            let jitter: f64 = rand::random_range(0.5..1.0);
            tokio::time::sleep(Duration::from_millis(20 * u64::from(attempt.min(25))).mul_f64(jitter)).await;
        }
        Err(failed(last.unwrap_or_else(|| DeltaTableError::generic("other writers were always first"))))
    }

    /// Deletes files that were written in vain, as far as the store lets it; the vacuum would.
    async fn drop_written(&self, name: TableName, adds: &[Add]) {
        let store = self.inner.tables[&name].lock().await.object_store();
        for add in adds {
            if let Ok(path) = deltalake::Path::parse(&add.path) {
                store.delete(&path).await.ok();
            }
        }
    }

    async fn try_rewrite(&self, name: TableName, rewrite: &Rewrite) -> Delta<Option<Outcome>> {
        // Within this process the committer waits, so the version cannot move between the check and the commit.
        let _turn = self.turn(name).await;
        let mut table = self.inner.tables[&name].lock().await;
        log::ensure_there(&table)?;
        table.update_state().await?;
        let live: HashSet<String> = table.snapshot()?.log_data().iter().map(|v| v.path().into_owned()).collect();
        let version = log::version_of(&table);
        let (gone, there) = (
            rewrite.removes.iter().filter(|r| !live.contains(&r.path)).count(),
            rewrite.adds.iter().filter(|a| live.contains(&a.path)).count(),
        );
        // The answer of an earlier try was lost. Where nothing is added, gone is gone, whoever did it.
        if there == rewrite.adds.len() && gone == rewrite.removes.len() {
            return Ok(Some(Outcome::Done(version)));
        }
        if gone > 0 {
            return Ok(Some(Outcome::Overtaken));
        }
        let removes = rewrite.removes.iter().cloned().map(Action::Remove);
        let actions = removes.chain(rewrite.adds.iter().cloned().map(Action::Add)).collect();
        let exactly_here = log::quiet().with_max_retries(0);
        let committed = CommitBuilder::from(exactly_here)
            .with_actions(actions)
            .build(Some(table.snapshot()?), table.log_store(), rewrite.operation.clone())
            .await;
        match committed {
            Ok(done) => {
                table.state = Some(done.snapshot());
                Ok(Some(Outcome::Done(log::version_of(&table))))
            }
            // Whether it was overtaken or its answer was lost is seen on the next snapshot.
            Err(DeltaTableError::Transaction { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The rows of a file, of these columns or of all.
pub(super) async fn open(table: &DeltaTable, file: &LiveFile, columns: Option<&[&str]>) -> Delta<Batches> {
    files::read(table, &file.path, file.bytes, columns).await
}
