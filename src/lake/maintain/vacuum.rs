//! Deleting files that no readable version refers to: those that newer versions replaced, and those of commits that never
//! came to be.
//!
//! Only age decides. A file may be written and not yet committed, by this process or another, so nothing that is younger
//! than the history is deleted unless the log says that it was taken out before. A clock that is ahead makes such a file look
//! old; so it is spared, too, while it is among the youngest of its table, by the clock that dates the files.

use super::super::error::{Error, Result};
use super::super::{Lake, TableName};
use deltalake::{DeltaTable, DeltaTableError};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use std::collections::{HashMap, HashSet};
use std::path::{Path as DiskPath, PathBuf};
use std::time::{Duration, SystemTime};

/// What the vacuum deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vacuumed {
    /// Files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A file that no version refers to is spared while no file of the table is so much younger: it may be about to be committed,
/// whatever our clock says of it.
const YOUNGEST_MS: i64 = 900_000;

/// A file under a table's folder that its newest version does not refer to.
#[derive(Debug, Clone)]
pub(in crate::lake) struct Unused {
    pub(in crate::lake) path: deltalake::Path,
    pub(in crate::lake) bytes: u64,
    /// When it was taken out of the table, in milliseconds since the epoch; nothing where the log does not know it.
    pub(in crate::lake) removed_ms: Option<i64>,
    /// When it was written.
    pub(in crate::lake) written_ms: i64,
    /// Whether it is among the youngest files under the table's folder, and no version ever referred to it.
    pub(in crate::lake) may_be_committed: bool,
}

impl Lake {
    pub(super) async fn vacuum(
        &self,
        name: TableName,
        history: Duration,
        now_ms: i64,
        dry_run: bool,
    ) -> Result<Vacuumed> {
        let table = self.fresh(name).await?.clone();
        let unused = unused(&table).await.map_err(Error::table(name, "list its folder"))?;
        let before = now_ms - i64::try_from(history.as_millis()).unwrap_or(i64::MAX);
        let old: Vec<Unused> = unused
            .into_iter()
            .filter(|f| f.removed_ms.unwrap_or(f.written_ms) < before && !f.may_be_committed)
            .collect();
        let staged = staged(&table, before);
        let done = Vacuumed {
            files: old.len() + staged.len(),
            bytes: old.iter().map(|f| f.bytes).chain(staged.iter().map(|(_, bytes)| *bytes)).sum(),
        };
        if !dry_run {
            delete(&table, &old).await.map_err(Error::table(name, "delete old files"))?;
            delete_staged(&staged);
        }
        Ok(done)
    }
}

/// The files under a table's folder that the loaded version does not refer to.
pub(in crate::lake) async fn unused(table: &DeltaTable) -> std::result::Result<Vec<Unused>, DeltaTableError> {
    // The listing comes first: what is committed after it was read is not in it.
    let listed: Vec<_> = table.object_store().list(None).try_collect().await?;
    let mut table = table.clone();
    table.update_state().await?;
    let snapshot = table.snapshot()?;
    let live: HashSet<String> = snapshot.log_data().iter().map(|v| v.object_store_path().to_string()).collect();
    let removed: HashMap<String, i64> = snapshot
        .all_tombstones(table.log_store().as_ref())
        .map_ok(|t| (t.path().into_owned(), t.deletion_timestamp().unwrap_or_default()))
        .try_collect()
        .await?;
    let youngest_ms = listed.iter().map(|meta| meta.last_modified.timestamp_millis()).max().unwrap_or_default();
    let is_data = |path: &str| !path.starts_with("_delta_log") && path.ends_with(".parquet");
    let unused = listed.into_iter().filter(|m| is_data(m.location.as_ref()) && !live.contains(m.location.as_ref()));
    let unused = unused.map(|meta| {
        let (removed_ms, written_ms) =
            (removed.get(meta.location.as_ref()).copied(), meta.last_modified.timestamp_millis());
        let may_be_committed = removed_ms.is_none() && youngest_ms - written_ms < YOUNGEST_MS;
        Unused { removed_ms, written_ms, may_be_committed, bytes: meta.size, path: meta.location }
    });
    Ok(unused.collect())
}

/// Files on a local disk that were being written before a time when their process died: their names end in `#` and digits,
/// and no object store lists them. On S3 such uploads have no name; a lifecycle rule of the bucket takes them.
pub(in crate::lake) fn staged(table: &DeltaTable, before_ms: i64) -> Vec<(PathBuf, u64)> {
    fn walk(folder: &DiskPath, before: SystemTime, found: &mut Vec<(PathBuf, u64)>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name();
            let is_staged = name
                .to_str()
                .and_then(|n| n.rsplit_once('#'))
                .is_some_and(|(_, tail)| !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_digit()));
            if metadata.is_dir() {
                walk(&entry.path(), before, found);
            } else if is_staged && metadata.modified().is_ok_and(|at| at < before) {
                found.push((entry.path(), metadata.len()));
            }
        }
    }
    let root = table.log_store().root_url().clone();
    let before = u64::try_from(before_ms).ok().map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    let mut found = Vec::new();
    if let (true, Ok(folder), Some(before)) = (root.scheme() == "file", root.to_file_path(), before) {
        walk(&folder, before, &mut found);
    }
    found
}

/// Deletes such files. One that another process deleted first, or that cannot be deleted now, is met again next time.
pub(in crate::lake) fn delete_staged(files: &[(PathBuf, u64)]) {
    for (path, _) in files {
        std::fs::remove_file(path).ok();
    }
}

/// Deletes files; one that is gone already is no error.
pub(in crate::lake) async fn delete(table: &DeltaTable, files: &[Unused]) -> std::result::Result<(), DeltaTableError> {
    let store = table.object_store();
    let paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
    let deletes = futures::stream::iter(paths).map(|path| {
        let store = store.clone();
        async move {
            match store.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        }
    });
    deletes.buffer_unordered(16).try_collect::<Vec<()>>().await?;
    Ok(())
}
