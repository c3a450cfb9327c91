//! Batches to Delta commits; owns every table.
//!
//! - [`Lake`] opens or creates the tables at a URL, appends domain values to the low-rate ones, reads them back, and
//!   hands out DataFusion providers of any table at any version.
//! - [`Committer`] adds what came from Kafka together with the offsets that it came from, exactly once.
//! - [`Lake::maintain`] merges small files, writes checkpoints, cleans up and drops old days, off the path of commits.
//! - [`Lake::audit`] proves from the tables that nothing was lost and nothing is there twice.
//!
//! Nothing but this module knows Delta. It deletes a row only by a configured retention or a request to
//! forget, and records that first; it never moves an offset without the rows before it.

mod append;
mod audit;
mod column;
mod committer;
mod durable;
mod encode;
mod error;
mod evolve;
mod fence;
mod files;
mod forget;
mod layout;
mod log;
mod maintain;
mod promoted;
mod ranges;
mod read;
mod replay;
mod rewrite;
mod splice;
mod store;
mod stored;
mod table;
mod tables;
mod text;

pub use audit::{Audit, PartitionAudit};
pub use column::{Column, Kind};
pub use committer::{CommitError, Committed, Committer, Part, PartitionKey};
pub use encode::{EncodedFile, RowGroup, encode, files};
pub use error::{Error, Result};
pub use fence::Fence;
pub use forget::{Forgotten, ForgottenTable, Request as ForgetRequest};
pub use maintain::{Compacted, Dropped, Maintained, Round, Vacuumed};
pub use promoted::{PromoteError, Promoted};
pub use ranges::Gap;
pub use replay::{DEAD_LETTER_COLUMNS, DeadLetter, dead_letters};
pub use store::Store;
pub use stored::StoredRecord;
pub use table::{ReservedTable, TableName, UnknownTable};
pub use tables::dead_letter::DeadLetterBuilder;
pub use tables::feedback::FeedbackBuilder;
pub use tables::inference_log::{InferenceLogBuilder, reuse, text_memory};
pub use tables::removal::{Reason, Removal};
pub use text::TextMemory;

use crate::config;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use deltalake::DeltaTable;
use object_store::ObjectStore;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use tokio::sync::{Mutex, MutexGuard};
use url::Url;
use uuid::Uuid;

/// What a configuration adds to the tables of inference logs.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    /// Tables of their own.
    pub tables: Vec<TableName>,
    /// Columns for fields of `extra`, in every table of logs.
    pub promoted: Promoted,
}

/// The lake: a cheap handle that all parts of a process share.
#[derive(Debug, Clone)]
pub struct Lake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    tables: BTreeMap<TableName, Mutex<DeltaTable>>,
    /// Whose turn it is to commit to a table, among those of this process that must not get in each other's way.
    turns: Arc<Turns>,
    promoted: Promoted,
    /// Names this process in the `txn` of its appends, so that an append whose answer was lost is not repeated.
    writer: Uuid,
    appends: AtomicI64,
    /// Merges that are being made.
    merging: AtomicUsize,
}

type Turns = BTreeMap<TableName, Mutex<()>>;

impl Lake {
    /// Opens the lake that the configuration names, and creates the tables that it lacks.
    ///
    /// # Errors
    /// [`Error::Url`] or [`Error::Store`] where the URL or its options are wrong, [`Error::Table`] where the store cannot
    /// be reached or a log cannot be read.
    pub async fn open(config: &config::Lake) -> Result<Self> {
        Self::open_with(Store::open(config)?, Logs::default()).await
    }

    /// Opens the lake in a store that is open already, with the tables and columns that a configuration adds; what it lacks
    /// is made.
    ///
    /// # Errors
    /// [`Error::Table`] where the store cannot be reached or a log cannot be read.
    pub async fn open_with(store: Store, logs: Logs) -> Result<Self> {
        let Logs { tables, promoted } = logs;
        let names: BTreeSet<TableName> = TableName::ALL.into_iter().chain(tables).collect();
        let opened = names.iter().map(|name| log::open_or_create(&store, *name, &promoted));
        let tables = futures::future::try_join_all(opened).await?;
        let turns = Arc::new(names.iter().map(|name| (*name, Mutex::default())).collect());
        let tables = names.into_iter().zip(tables.into_iter().map(Mutex::new)).collect();
        let (writer, appends) = (Uuid::now_v7(), AtomicI64::new(1));
        Ok(Self {
            inner: Arc::new(Inner { store, tables, promoted, turns, writer, appends, merging: AtomicUsize::new(0) }),
        })
    }

    /// What the merges that are being made hold in memory, about.
    #[must_use]
    pub fn merging_bytes(&self) -> usize {
        self.inner.merging.load(Ordering::Relaxed) * splice::HELD_BYTES
    }

    /// The lake's URL, with a slash at its end.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.inner.store.url
    }

    /// The store that the lake lives in and the URL under which a DataFusion session has to know it.
    #[must_use]
    pub fn object_store(&self) -> (Url, Arc<dyn ObjectStore>) {
        let mut root = self.inner.store.url.clone();
        root.set_path("/");
        (root, self.inner.store.root.clone())
    }

    /// A table as DataFusion reads it: its newest version, or the one given.
    ///
    /// # Errors
    /// [`Error::NoVersion`] where the table has no such version, [`Error::Table`] where its log cannot be read.
    pub async fn provider(&self, name: TableName, version: Option<i64>) -> Result<Arc<dyn TableProvider>> {
        let table = match version {
            None => self.fresh(name).await?.clone(),
            Some(version) => self.at_version(name, version).await?,
        };
        table.table_provider().await.map_err(Error::query(name))
    }

    /// The table's newest version.
    ///
    /// # Errors
    /// [`Error::Table`] where its log cannot be read.
    pub async fn version(&self, name: TableName) -> Result<i64> {
        Ok(log::version_of(&*self.fresh(name).await?))
    }

    /// All tables that the lake was opened with.
    pub fn tables(&self) -> impl Iterator<Item = TableName> + use<> {
        self.inner.tables.keys().copied().collect::<Vec<_>>().into_iter()
    }

    /// The table of a name.
    ///
    /// # Errors
    /// [`UnknownTable`] with the names that there are.
    pub fn table(&self, name: &str) -> std::result::Result<TableName, UnknownTable> {
        let found = self.tables().find(|table| table.as_str() == name);
        found.ok_or_else(|| UnknownTable::new(name, self.tables()))
    }

    /// The fields of `extra` that have columns of their own.
    #[must_use]
    pub fn promoted(&self) -> &Promoted {
        &self.inner.promoted
    }

    /// The table's Arrow schema as it is declared.
    #[must_use]
    pub fn schema(&self, name: TableName) -> SchemaRef {
        self.inner.promoted.schema(name)
    }

    async fn at_version(&self, name: TableName, version: i64) -> Result<DeltaTable> {
        let newest = self.version(name).await?;
        let wanted = u64::try_from(version).ok().filter(|_| version <= newest);
        let wanted = wanted.ok_or(Error::NoVersion { table: name, version, newest })?;
        let mut table = log::unloaded(&self.inner.store, name)?;
        table.load_version(wanted).await.map_err(Error::table(name, "load the version"))?;
        Ok(table)
    }

    fn slot(&self, name: TableName) -> &Mutex<DeltaTable> {
        self.inner.tables.get(&name).expect("every table was opened")
    }

    /// The shared table, brought up to its newest version.
    async fn fresh(&self, name: TableName) -> Result<MutexGuard<'_, DeltaTable>> {
        let mut table = self.slot(name).lock().await;
        log::ensure_there(&table).map_err(Error::table(name, "find its log"))?;
        table.update_state().await.map_err(Error::table(name, "read the log"))?;
        Ok(table)
    }

    /// Waits for the turn to commit to a table.
    async fn turn(&self, name: TableName) -> MutexGuard<'_, ()> {
        self.inner.turns[&name].lock().await
    }
}
