//! The real object store with faults in between: requests that fail, answers that are lost, and answers that lie.
//!
//! Faults are drawn from a seed, so a failure can be run again. Each kind counts how often it struck: a test that was never
//! faulted proves nothing.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// 500: nothing was done.
    Refused,
    /// The request never got there; that shows after a while.
    TimedOut,
    /// It was done, and the answer is an error.
    AnswerLost,
    /// It was done twice, as a client does that tries again by itself: a conditional put then meets its own object.
    DoneTwice,
    /// The answer says that it was done, and it was not.
    Lied,
}

/// Faults that a write can have.
pub const WRITES: &[Fault] = &[Fault::Refused, Fault::TimedOut, Fault::AnswerLost, Fault::DoneTwice];
/// What a store may do to the log's entries alone, whose content is looked at again before anything follows from it.
pub const LOG_WRITES: &[Fault] = &[Fault::Refused, Fault::TimedOut, Fault::AnswerLost, Fault::DoneTwice, Fault::Lied];

/// A store whose requests go wrong with a probability, while it is switched on.
pub struct FaultyStore {
    store: Arc<dyn ObjectStore>,
    on: AtomicBool,
    full: AtomicBool,
    share: f64,
    dice: Mutex<StdRng>,
    /// How often requests went wrong.
    pub struck: AtomicU64,
}

impl FaultyStore {
    pub fn new(store: Arc<dyn ObjectStore>, share: f64, seed: u64) -> Arc<Self> {
        let dice = Mutex::new(StdRng::seed_from_u64(seed));
        let (on, full) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { store, on, full, share, dice, struck: AtomicU64::new(0) })
    }

    pub fn switch(&self, on: bool) {
        self.on.store(on, Relaxed);
    }

    /// From now on, or no longer, there is no space for anything.
    pub fn fill(&self, full: bool) {
        self.full.store(full, Relaxed);
    }

    fn draw(&self, faults: &[Fault]) -> Option<Fault> {
        let mut dice = self.dice.lock().unwrap();
        let struck = self.on.load(Relaxed) && dice.random_bool(self.share);
        if !struck {
            return None;
        }
        self.struck.fetch_add(1, Relaxed);
        Some(faults[dice.random_range(0..faults.len())])
    }

    async fn read<T>(&self, read: impl Future<Output = Result<T>>) -> Result<T> {
        match self.draw(&[Fault::Refused, Fault::TimedOut]) {
            None => read.await,
            Some(fault) => Err(error(fault).await),
        }
    }

    fn ensure_space(&self) -> Result<()> {
        if self.full.load(Relaxed) {
            self.struck.fetch_add(1, Relaxed);
            let source = std::io::Error::from_raw_os_error(28).into();
            return Err(Error::Generic { store: "FaultyStore", source });
        }
        Ok(())
    }
}

async fn error(fault: Fault) -> Error {
    if fault == Fault::TimedOut {
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    Error::Generic { store: "FaultyStore", source: format!("500 Internal Server Error ({fault:?})").into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({:?})", self.store)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.store)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.ensure_space()?;
        let conditional = matches!(opts.mode, PutMode::Create);
        let fault = self.draw(if conditional { LOG_WRITES } else { WRITES });
        let put = || self.store.put_opts(location, payload.clone(), opts.clone());
        match fault {
            None => put().await,
            Some(Fault::DoneTwice) => {
                put().await?;
                put().await
            }
            Some(Fault::Lied) => Ok(PutResult { e_tag: None, version: None }),
            Some(Fault::AnswerLost) => {
                put().await?;
                Err(error(Fault::AnswerLost).await)
            }
            Some(fault) => Err(error(fault).await),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.ensure_space()?;
        self.read(self.store.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read(self.store.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read(self.store.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.draw(&[Fault::Refused]) {
            None => self.store.delete_stream(locations),
            Some(fault) => error(fault).map(Err).into_stream().boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.draw(&[Fault::Refused]) {
            None => self.store.list(prefix),
            Some(fault) => error(fault).map(Err).into_stream().boxed(),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.draw(&[Fault::Refused]) {
            None => self.store.list_with_offset(prefix, offset),
            Some(fault) => error(fault).map(Err).into_stream().boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read(self.store.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.read(self.store.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.read(self.store.rename_opts(from, to, options)).await
    }
}
