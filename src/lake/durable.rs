//! A local file system whose writes survive a power cut.
//!
//! object_store 0.13 never calls `fsync` (`LocalFileSystem::with_fsync` came with 0.14, which delta-rs does not use yet),
//! so a log entry could be found empty after a crash while Kafka's group offsets have moved on. Here a file is synced
//! before it gets its name and the folder after it, in the order that makes a name imply its content. Reads and deletes are
//! object_store's own.
//!
//! A table's log is listed from a version on several times a commit. object_store reads the whole folder for that, and so
//! would any listing: a day at one commit a second is 86,400 names, and a commit would cost more with each. Log entries have
//! no gaps, so here the names that may come next are asked for one by one. Where that cannot tell (the version itself was
//! cleaned up, or very many came since), the folder is read.

use crate::runtime::{Failpoint, failpoint};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as DiskPath, PathBuf};

/// The folder of a table's log.
const LOG_FOLDER: &str = "_delta_log";

/// `LocalFileSystem` with synced writes.
#[derive(Debug)]
pub struct DurableFileSystem {
    disk: LocalFileSystem,
    synced: bool,
}

impl DurableFileSystem {
    /// Wraps a local file system.
    #[must_use]
    pub fn new(disk: LocalFileSystem) -> Self {
        Self { disk, synced: true }
    }

    /// The same without a sync: for demos and tests, whose machine is not switched off.
    #[must_use]
    pub fn unsynced(disk: LocalFileSystem) -> Self {
        Self { disk, synced: false }
    }
}

impl std::fmt::Display for DurableFileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Durable({})", self.disk)
    }
}

fn failed(path: &DiskPath, source: io::Error) -> Error {
    let path = path.display().to_string();
    match source.kind() {
        ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: source.into() },
        ErrorKind::NotFound => Error::NotFound { path, source: source.into() },
        _ => Error::Generic { store: "DurableFileSystem", source: format!("{path}: {source}").into() },
    }
}

/// A name beside the target that object_store's lists leave out: `#` and digits.
fn staged(path: &DiskPath) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}#{}", rand::random::<u64>()))
}

fn sync_folder_of(path: &DiskPath) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn write_synced(path: &DiskPath, payload: &PutPayload) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    payload.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

fn put(path: &DiskPath, payload: &PutPayload, mode: &PutMode) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let staging = staged(path);
    let named = write_synced(&staging, payload).and_then(|()| match mode {
        PutMode::Overwrite => fs::rename(&staging, path),
        // A hard link fails where the name is taken: that is the put-if-absent of a commit.
        _ => {
            failpoint(Failpoint::InCommit);
            fs::hard_link(&staging, path)
        }
    });
    // After a rename there is nothing to remove; after a link the staging name is one too many.
    fs::remove_file(&staging).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) }).ok();
    named.and_then(|()| sync_folder_of(path))
}

/// Versions that are asked for by name before the folder is read instead.
const PROBES_MAX: u64 = 512;

/// The log's files from the version on that `after` names, if asking by name can tell: the entries, which have no gaps, and
/// the checkpoints beside them.
fn probe(path: &DiskPath, folder: &Path, after: &str) -> io::Result<Option<Vec<ObjectMeta>>> {
    let version = (after.len() == 20).then(|| after.parse::<u64>().ok()).flatten();
    let Some(first) = version else { return Ok(None) };
    let (mut found, mut checkpoint_found) = (Vec::new(), None);
    for version in first..first.saturating_add(PROBES_MAX) {
        let Some(metadata) = existing(&path.join(entry_name(version)))? else {
            return Ok(is_end(path, first, version, checkpoint_found)?.then_some(found));
        };
        found.push(object(folder, &entry_name(version), &metadata)?);
        let checkpoint = format!("{version:020}.checkpoint.parquet");
        if let Some(metadata) = existing(&path.join(&checkpoint))? {
            found.push(object(folder, &checkpoint, &metadata)?);
            checkpoint_found = Some(version);
        }
    }
    Ok(None)
}

fn entry_name(version: u64) -> String {
    format!("{version:020}.json")
}

/// Whether an entry that is not there is the one that will be written next, and all that matters from `first` on was found.
fn is_end(path: &DiskPath, first: u64, missing: u64, checkpoint_found: Option<u64>) -> io::Result<bool> {
    let is_there = |version: u64| Ok::<_, io::Error>(existing(&path.join(entry_name(version)))?.is_some());
    let is_known = missing > first || first.checked_sub(1).map_or(Ok(false), is_there)?;
    // Somebody took an entry out of the middle: that is for delta-rs to refuse, which sees it in the whole folder.
    if !is_known || is_there(missing + 1)? {
        return Ok(false);
    }
    // A clean-up took it from a reader that slept: then a checkpoint is past it. Others than ours have more files or names.
    Ok(last_checkpoint(path)?.is_none_or(|last| last < first || last < missing && checkpoint_found >= Some(last)))
}

/// The version that the log's pointer names; the highest where it cannot be read, so that nobody relies on it.
fn last_checkpoint(path: &DiskPath) -> io::Result<Option<u64>> {
    match fs::read(path.join("_last_checkpoint")) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
        Ok(bytes) => {
            let hint = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
            Ok(Some(hint.and_then(|hint| hint.get("version")?.as_u64()).unwrap_or(u64::MAX)))
        }
    }
}

fn existing(path: &DiskPath) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn object(folder: &Path, name: &str, metadata: &fs::Metadata) -> io::Result<ObjectMeta> {
    let (location, last_modified) = (folder.clone().join(name), metadata.modified()?.into());
    Ok(ObjectMeta { location, last_modified, size: metadata.len(), e_tag: None, version: None })
}

/// The files of a folder whose names come after a name, in no order, as object_store lists them.
fn entries_after(path: &DiskPath, folder: &Path, after: &str) -> io::Result<Vec<ObjectMeta>> {
    if let Some(found) = probe(path, folder, after)? {
        return Ok(found);
    }
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // `#` marks what is being written.
        let Some(name) = name.to_str().filter(|name| *name > after && !name.contains('#')) else { continue };
        let metadata = match entry.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        if metadata.is_file() {
            found.push(object(folder, name, &metadata)?);
        }
    }
    Ok(found)
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&DiskPath) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let at = path.clone();
    match tokio::task::spawn_blocking(move || work(&at)).await {
        Ok(done) => done.map_err(|e| failed(&path, e)),
        Err(source) => Err(Error::JoinError { source }),
    }
}

#[async_trait]
impl ObjectStore for DurableFileSystem {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if !self.synced || matches!(opts.mode, PutMode::Update(_)) || !opts.attributes.is_empty() {
            return self.disk.put_opts(location, payload, opts).await;
        }
        let path = self.disk.path_to_filesystem(location)?;
        blocking(path, move |path| put(path, &payload, &opts.mode)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        if !self.synced {
            return self.disk.put_multipart_opts(location, opts).await;
        }
        let path = self.disk.path_to_filesystem(location)?;
        Ok(Box::new(DurableUpload { upload: self.disk.put_multipart_opts(location, opts).await?, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.disk.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.disk.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.disk.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.disk.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let names = prefix.filter(|folder| folder.filename() == Some(LOG_FOLDER)).and_then(|folder| {
            let after = offset.prefix_match(folder)?.next()?.as_ref().to_owned();
            Some((folder.clone(), self.disk.path_to_filesystem(folder).ok()?, after))
        });
        let Some((folder, path, after)) = names else { return self.disk.list_with_offset(prefix, offset) };
        let listed = async move { blocking(path, move |path| entries_after(path, &folder, &after)).await };
        let each = |listed: Result<Vec<ObjectMeta>>| match listed {
            Ok(entries) => entries.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        listed.map(each).map(futures::stream::iter).flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.disk.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.disk.copy_opts(from, to, options).await?;
        if !self.synced {
            return Ok(());
        }
        let path = self.disk.path_to_filesystem(to)?;
        blocking(path, |path| File::open(path)?.sync_all().and_then(|()| sync_folder_of(path))).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.disk.rename_opts(from, to, options).await?;
        if !self.synced {
            return Ok(());
        }
        let path = self.disk.path_to_filesystem(to)?;
        blocking(path, sync_folder_of).await
    }
}

/// A streamed file; nothing refers to it before it is complete, so one sync at the end is enough.
#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        let path = self.path.clone();
        blocking(path, |path| File::open(path)?.sync_all().and_then(|()| sync_folder_of(path))).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What is listed from a version on, by asking for names and by reading the folder.
    fn listed(files: &[&str], from: u64) -> (Option<BTreeSet<String>>, BTreeSet<String>) {
        let dir = tempfile::tempdir().expect("a folder");
        for file in files {
            let content = if file.starts_with('_') { "{\"version\":8}" } else { "x" };
            fs::write(dir.path().join(file), content).expect("a file");
        }
        let after = format!("{from:020}");
        let names =
            |found: Vec<ObjectMeta>| found.iter().filter_map(|m| m.location.filename().map(str::to_owned)).collect();
        let folder = Path::from("t/_delta_log");
        let probed = probe(dir.path(), &folder, &after).expect("it can be asked").map(names);
        let is_later = |name: &&&str| **name > after.as_str() && !name.starts_with('_');
        (probed, files.iter().filter(is_later).map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn asking_for_names_finds_what_reading_the_folder_does_or_says_that_it_cannot() {
        let log = [
            "00000000000000000007.json",
            "00000000000000000008.json",
            "00000000000000000008.checkpoint.parquet",
            "00000000000000000009.json",
            "_last_checkpoint",
        ];
        for from in 7..11 {
            let (probed, read) = listed(&log, from);
            assert_eq!(probed, Some(read), "from {from}");
        }
        assert_eq!(listed(&log, 6).0, None, "6 was cleaned up: what came since is for the folder to say");
        assert_eq!(listed(&log, 11).0, None, "nobody knows of 10");
        let half_cleaned = ["00000000000000000003.json", "00000000000000000008.json", "_last_checkpoint"];
        assert_eq!(listed(&half_cleaned, 3).0, None, "4 is not to come: a checkpoint is past it");
        let torn = ["00000000000000000003.json", "00000000000000000005.json"];
        assert_eq!(listed(&torn, 3).0, None, "4 is missing: the folder shows it");
        let of_another = [
            "00000000000000000008.json",
            "00000000000000000008.checkpoint.0000000001.0000000002.parquet",
            "_last_checkpoint",
        ];
        assert_eq!(listed(&of_another, 8).0, None, "a checkpoint in parts has other names");
        assert_eq!(listed(&[], 0).0, None);
    }
}
