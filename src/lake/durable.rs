//! A local file system whose writes survive a power cut.
//!
//! object_store 0.13 never calls `fsync` (`LocalFileSystem::with_fsync` came with 0.14, which delta-rs does not use yet),
//! so a log entry could be found empty after a crash while Kafka's group offsets have moved on. Here a file is synced
//! before it gets its name and the folder after it, in the order that makes a name imply its content. Reads and deletes are
//! object_store's own.
//!
//! A table's log is listed from a version on at each commit. object_store walks the whole folder for that and makes a path
//! of each name; a day at one commit a second is 86,400 of them. Here names are compared before anything is made of them.

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

/// The files of a folder whose names come after a name, in no order, as object_store lists them.
fn entries_after(path: &DiskPath, folder: &Path, after: &str) -> io::Result<Vec<ObjectMeta>> {
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
            let (location, last_modified) = (folder.clone().join(name), metadata.modified()?.into());
            found.push(ObjectMeta { location, last_modified, size: metadata.len(), e_tag: None, version: None });
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
