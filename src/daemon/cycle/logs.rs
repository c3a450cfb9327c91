//! The log of a cycle's processes, kept in its folder: `cycles/<id>/logs/<time>-<pid>-<n>.txt`.
//!
//! Objects cannot be appended to: the newest is written anew every few seconds until it is large, then the next begins. A
//! supervisor that dies loses the lines of its last seconds and nothing else.

use super::workspace;
use crate::domain::CycleId;
use crate::lake::Lake;
use anyhow::Result;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often what is new is stored.
const FLUSH: Duration = Duration::from_secs(2);
/// An object of this size is closed.
const OBJECT_BYTES: usize = 256 << 10;
/// A cycle's process that writes more than this is a fault of its own: the rest is left out, and said so.
const OBJECTS_MAX: usize = 256;
/// Lines of the end that an error quotes.
const LAST: usize = 5;

#[derive(Default)]
struct Lines {
    object: Vec<u8>,
    number: usize,
    dirty: bool,
    last: VecDeque<String>,
}

/// Takes lines, from any thread.
#[derive(Clone)]
pub(in crate::daemon) struct LogWriter {
    lines: Arc<Mutex<Lines>>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    over: CancellationToken,
}

impl LogWriter {
    pub(in crate::daemon) fn start(lake: &Lake, cycle: &CycleId) -> Self {
        let lines = Arc::new(Mutex::new(Lines::default()));
        let over = CancellationToken::new();
        let stamp = chrono::Utc::now().format("%Y%m%dT%H%M%S%.3fZ");
        let (store, folder) = workspace::folder(lake, cycle);
        let named = format!("{stamp}-{}", std::process::id());
        let writing = write(store, folder.join("logs"), named, Arc::clone(&lines), over.clone());
        let writer = Arc::new(Mutex::new(Some(tokio::spawn(writing))));
        Self { lines, writer, over }
    }

    pub(in crate::daemon) fn line(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.len() == LAST {
            lines.last.pop_front();
        }
        lines.last.push_back(line.trim_end().to_owned());
        if lines.number < OBJECTS_MAX {
            lines.object.extend_from_slice(line.trim_end().as_bytes());
            lines.object.push(b'\n');
            lines.dirty = true;
        }
    }

    /// Waits for those who bring lines, stores the rest, and gives the last lines.
    pub(in crate::daemon) async fn end(self, sources: impl IntoIterator<Item = Option<JoinHandle<()>>>) -> String {
        for source in sources.into_iter().flatten() {
            // A grandchild that holds the pipe open must not hold us up.
            drop(tokio::time::timeout(Duration::from_secs(5), source).await);
        }
        self.over.cancel();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            drop(writer.await);
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.last.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

async fn write(
    store: Arc<dyn ObjectStore>,
    folder: Path,
    named: String,
    lines: Arc<Mutex<Lines>>,
    over: CancellationToken,
) {
    loop {
        let ending = tokio::select! {
            () = tokio::time::sleep(FLUSH) => false,
            () = over.cancelled() => true,
        };
        let (number, bytes) = {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            let full = lines.object.len() >= OBJECT_BYTES;
            let number = lines.number;
            let bytes = std::mem::take(&mut lines.dirty).then(|| lines.object.clone());
            if full {
                lines.object.clear();
                lines.number += 1;
                if lines.number == OBJECTS_MAX {
                    lines.object.extend_from_slice(b"the rest of the log is left out\n");
                }
            }
            (number, bytes)
        };
        if let Some(bytes) = bytes {
            let path = folder.clone().join(format!("{named}-{number:04}.txt"));
            if let Err(error) = store.put(&path, bytes.into()).await {
                tracing::debug!(%error, "the cycle's log could not be written");
            }
        }
        if ending {
            return;
        }
    }
}

/// The whole log of a cycle, all its processes in the order of their starts; empty where it ran in a terminal.
///
/// # Errors
/// Where the store cannot be read.
pub async fn read(lake: &Lake, cycle: &CycleId) -> Result<String> {
    let (store, folder) = workspace::folder(lake, cycle);
    let mut paths: Vec<Path> =
        store.list(Some(&folder.join("logs"))).map_ok(|object| object.location).try_collect().await?;
    paths.sort();
    let mut all = String::new();
    for path in paths {
        all.push_str(&String::from_utf8_lossy(&store.get(&path).await?.bytes().await?));
    }
    Ok(all)
}
