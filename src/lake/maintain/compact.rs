//! Small files into few: rows are moved, never changed, in one commit a round.

use super::super::error::{Error, Result};
use super::super::rewrite::{LiveFile, Outcome, Rewrite, live_files};
use super::super::splice::write_rows_of;
use super::super::{Lake, TableName};
use super::plan::{Aim, bins};
use deltalake::DeltaTable;
use deltalake::protocol::DeltaOperation;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Files that one commit takes out at most: more make a log entry that every reader pays for at once.
const FILES_A_COMMIT_MAX: usize = 2_000;

/// What merging did to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Files that were merged.
    pub files_merged: usize,
    /// Files that they became.
    pub files_written: usize,
    /// Bytes of the files that were merged.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
    /// Row groups that were large enough to be copied as they were, without being decoded.
    pub groups_copied: usize,
    /// Merges that another writer made useless by being first.
    pub overtaken: usize,
}

impl Lake {
    /// Merges a table's small files. Ingestion goes on beside it, in this process and in others.
    pub(super) async fn compact(&self, name: TableName, aim: Aim, dry_run: bool) -> Result<Compacted> {
        // A copy, so that no reader waits while files are rewritten.
        let table = self.fresh(name).await?.clone();
        let files = live_files(&table).map_err(Error::table(name, "list its files"))?;
        let mut done = Compacted::default();
        for bins in commits(bins(&files, aim)) {
            let bins: Vec<Vec<&LiveFile>> = bins.iter().map(|bin| bin.iter().map(|&i| &files[i]).collect()).collect();
            if dry_run {
                done.files_merged += bins.iter().map(Vec::len).sum::<usize>();
                done.files_written += bins.len();
                done.bytes += bins.iter().flatten().map(|f| f.bytes).sum::<u64>();
                done.rows += bins.iter().flatten().filter_map(|f| f.rows).sum::<u64>();
            } else {
                self.merge(name, &table, &bins, aim, &mut done).await?;
            }
        }
        Ok(done)
    }

    async fn merge(
        &self,
        name: TableName,
        table: &DeltaTable,
        bins: &[Vec<&LiveFile>],
        aim: Aim,
        done: &mut Compacted,
    ) -> Result<()> {
        let mut rewrite = Rewrite {
            removes: Vec::new(),
            adds: Vec::new(),
            operation: DeltaOperation::Optimize {
                predicate: None,
                target_size: i64::try_from(aim.bytes_target).unwrap_or(i64::MAX),
            },
        };
        let (mut rows, mut copied) = (0, 0);
        let merging = Counted::new(&self.inner.merging);
        for bin in bins {
            let written = write_rows_of(table, name, bin, aim.bytes_target, None).await;
            let written = written.map_err(Error::table(name, "merge small files"))?;
            rows += written.rows_written;
            copied += written.groups_copied;
            rewrite.removes.extend(bin.iter().map(|file| file.remove(false)));
            rewrite.adds.extend(written.adds);
        }
        drop(merging);
        match self.rewrite(name, &rewrite).await? {
            Outcome::Done(_) => {
                done.files_merged += rewrite.removes.len();
                done.files_written += rewrite.adds.len();
                done.bytes += bins.iter().flatten().map(|f| f.bytes).sum::<u64>();
                done.rows += rows;
                done.groups_copied += copied;
            }
            Outcome::Overtaken => done.overtaken += bins.len(),
        }
        Ok(())
    }
}

/// Bins in groups that fit one commit.
fn commits(bins: Vec<Vec<usize>>) -> Vec<Vec<Vec<usize>>> {
    let mut commits: Vec<Vec<Vec<usize>>> = Vec::new();
    let mut files = FILES_A_COMMIT_MAX;
    for bin in bins {
        if files + bin.len() > FILES_A_COMMIT_MAX {
            commits.push(Vec::new());
            files = 0;
        }
        files += bin.len();
        commits.last_mut().expect("one was just pushed").push(bin);
    }
    commits
}

/// One more for as long as it is there.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
