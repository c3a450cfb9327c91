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
/// So many bytes wait for a store that is slow or away; what comes beyond is left out, and said so.
const WAITING_BYTES_MAX: usize = 4 * OBJECT_BYTES;
/// Lines of the end that an error quotes.
const LAST: usize = 5;

#[derive(Default)]
struct Lines {
    object: Vec<u8>,
    number: usize,
    dirty: bool,
    /// Lines that did not fit in.
    left_out: usize,
    last: VecDeque<String>,
}

impl Lines {
    fn add(&mut self, line: &str) {
        let line = line.trim_end();
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        if self.number >= OBJECTS_MAX {
            return;
        }
        if self.object.len() + line.len() >= WAITING_BYTES_MAX {
            self.left_out += 1;
            return;
        }
        self.object.extend_from_slice(line.as_bytes());
        self.object.push(b'\n');
        self.dirty = true;
    }

    /// What is to be stored, and under which number; nothing where all is.
    fn unsaved(&self) -> Option<(usize, Vec<u8>)> {
        self.dirty.then(|| (self.number, self.object.clone()))
    }

    /// So many bytes of the object are stored: lines may have come meanwhile.
    fn saved(&mut self, bytes: usize) {
        self.dirty = self.object.len() > bytes;
        if bytes < OBJECT_BYTES {
            return;
        }
        self.object.drain(..bytes);
        self.number += 1;
        if self.number == OBJECTS_MAX {
            self.object = b"the rest of the log is left out\n".to_vec();
            self.dirty = true;
        } else if self.left_out > 0 {
            let left_out = std::mem::take(&mut self.left_out);
            let gap = format!("{left_out} lines are left out: they could not be stored in time\n");
            self.object.extend_from_slice(gap.as_bytes());
            self.dirty = true;
        }
    }
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
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).add(line);
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
        // More than one object where it ends just after one was full.
        loop {
            let unsaved = lines.lock().unwrap_or_else(PoisonError::into_inner).unsaved();
            let Some((number, bytes)) = unsaved else { break };
            let (path, size) = (folder.clone().join(format!("{named}-{number:04}.txt")), bytes.len());
            if let Err(error) = store.put(&path, bytes.into()).await {
                // They stay, and are stored with the next ones.
                tracing::debug!(%error, "the cycle's log could not be written");
                break;
            }
            lines.lock().unwrap_or_else(PoisonError::into_inner).saved(size);
            if !ending {
                break;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_for_the_store_up_to_a_bound_and_none_is_lost_that_fits() {
        let line = "x".repeat(1023);
        let mut lines = Lines::default();
        let mut text = String::new();
        let mut store = |lines: &mut Lines| {
            let (number, bytes) = lines.unsaved().unwrap();
            lines.saved(bytes.len());
            text.push_str(&String::from_utf8_lossy(&bytes));
            number
        };
        // Not stored for long: all that fits in is kept, the rest counted.
        (0..5000).for_each(|_| lines.add(&line));
        assert!(lines.object.len() <= WAITING_BYTES_MAX);
        assert_eq!(store(&mut lines), 0);
        for number in 1..OBJECTS_MAX {
            (0..256).for_each(|_| lines.add(&line));
            assert_eq!(store(&mut lines), number);
        }
        lines.add("too late");
        assert_eq!(store(&mut lines), OBJECTS_MAX);
        assert_eq!(lines.unsaved(), None);
        let kept = text.lines().filter(|l| l.len() == 1023).count();
        assert_eq!(kept, 1024 + 256 * (OBJECTS_MAX - 1));
        assert!(text.contains("\n3976 lines are left out"));
        assert!(text.ends_with("the rest of the log is left out\n"));
    }

    #[test]
    fn what_comes_while_an_object_is_stored_is_not_lost() {
        let mut lines = Lines::default();
        lines.add("one");
        let (_, bytes) = lines.unsaved().unwrap();
        lines.add("two");
        lines.saved(bytes.len());
        assert_eq!(lines.unsaved(), Some((0, b"one\ntwo\n".to_vec())));
    }
}
