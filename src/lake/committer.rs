//! Rows and the Kafka offsets behind them, in one commit: the exactly-once protocol.
//!
//! For each partition the table's log holds a `txn` whose version is the **next offset** that the table needs. A commit
//! adds the rows of `[start, end)` and moves the `txn` from `start` to `end`, and it is made only on a snapshot on which
//! every `txn` stands at `start`:
//!
//! - a zombie, whose partition moved to another process, fails that check or loses the race for the version, because two
//!   commits that move the same `txn` conflict;
//! - a commit whose answer was lost is found done, because its `txn` stands at `end`;
//! - a crash before the commit leaves files that nothing refers to.
//!
//! Dead letters have their own table and their own `txn`. They commit first, but never before the check above: so `txn = e`
//! there means that every dead letter below `e` is stored, and on a replay those below it are skipped. Both are exact.

use super::encode::{self, EncodedFile};
use super::error::{Error, Result};
use super::ranges::Gap;
use super::{Lake, TableName, Turns, log};
use crate::domain::{generation, losses, topic_id};
use crate::runtime::{Failpoint, failpoint};
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use deltalake::DeltaTable;
use deltalake::kernel::{Add, Transaction};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Tries within one call; the caller, who knows about shutdown and backoff, tries the call again.
const ATTEMPTS_MAX: u32 = 3;
/// Reading this many commits one by one costs more than asking the log anew.
const COMMITS_FOLLOWED_MAX: i64 = 100;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// The topic.
    pub topic: String,
    /// The id that Kafka gave the topic when it was made, and how often the end of the partition's log was lost since
    /// ([`crate::domain::generation`]): when either changes, offsets mean other messages.
    pub generation: String,
    /// The partition.
    pub partition: i32,
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// What one partition adds to a commit.
#[derive(Debug, Clone)]
pub struct Part {
    /// The partition.
    pub key: PartitionKey,
    /// The first offset that it covers.
    pub start: i64,
    /// The offset after the last one that it covers.
    pub end: i64,
    /// Rows of the table.
    pub rows: Vec<RecordBatch>,
    /// Rows of `dead_letter`.
    pub dead_letters: Vec<RecordBatch>,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The table's version.
    pub version: i64,
    /// Rows added to it.
    pub rows: usize,
    /// Dead letters added beside it.
    pub dead_letters: usize,
}

/// Why a commit was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another process has moved the partition: what is in memory is of no use.
    #[error("partition {key} stands at {}, not at {expected}: another process moved it", found.map_or_else(|| "no offset".to_owned(), |f| f.to_string()))]
    Moved {
        /// The partition.
        key: PartitionKey,
        /// Where the rows in memory begin.
        expected: i64,
        /// The next offset that the table needs.
        found: Option<i64>,
    },
    /// The store failed; the same call may be made again.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Commits to the ingested tables of one pipeline reading one Kafka cluster. A process has one.
#[derive(Debug)]
pub struct Committer {
    prefix: String,
    tables: BTreeMap<TableName, Offsets>,
    dead_letters: Offsets,
    turns: Arc<Turns>,
}

impl Lake {
    /// The committer of a pipeline that reads a cluster.
    ///
    /// # Errors
    /// [`Error::Table`] where a log cannot be read.
    pub async fn committer(&self, pipeline: &str, cluster: &str) -> Result<Committer> {
        let mut tables = BTreeMap::new();
        for name in self.tables().filter(|name| name.has_offsets()) {
            tables.insert(name, Offsets::new(name, self.fresh(name).await?.clone()));
        }
        let dead_letters = Offsets::new(TableName::DeadLetter, self.fresh(TableName::DeadLetter).await?.clone());
        let turns = Arc::clone(&self.inner.turns);
        Ok(Committer { prefix: format!("{pipeline}/{cluster}"), tables, dead_letters, turns })
    }
}

/// Whether a partition's `txn` stands where a commit begins, or where it ends.
enum Standing {
    Start,
    End,
}

impl Committer {
    /// The keys in the generation that a table takes them as now.
    ///
    /// # Errors
    /// [`Error::Table`] where the log cannot be read.
    pub async fn current(&mut self, name: TableName, keys: &[PartitionKey]) -> Result<Vec<PartitionKey>> {
        let ids: Vec<String> = keys.iter().map(|key| self.again_id(key)).collect();
        let table = self.table(name);
        table.refresh().await?;
        let mut current = Vec::with_capacity(keys.len());
        for (key, id) in keys.iter().zip(ids) {
            let losses = table.position(&id).await?.unwrap_or(0);
            current.push(PartitionKey { generation: generation(topic_id(&key.generation), losses), ..key.clone() });
        }
        Ok(current)
    }

    /// The next offset that a table needs of each partition; nothing where it was never pinned.
    ///
    /// # Errors
    /// [`Error::Table`] where the log cannot be read.
    pub async fn positions(&mut self, name: TableName, keys: &[PartitionKey]) -> Result<Vec<Option<i64>>> {
        let ids: Vec<String> = keys.iter().map(|key| self.id(key)).collect();
        let table = self.table(name);
        table.refresh().await?;
        let mut positions = Vec::with_capacity(ids.len());
        for id in ids {
            positions.push(table.position(&id).await?);
        }
        Ok(positions)
    }

    /// Fixes where partitions begin that the table knows nothing of, so that a start at the latest message loses nothing
    /// however soon the process dies, and the audit knows from where to count.
    ///
    /// # Errors
    /// [`CommitError::Moved`] where another process pinned one of them first.
    pub async fn pin(
        &mut self,
        name: TableName,
        starts: &[(PartitionKey, i64)],
    ) -> std::result::Result<(), CommitError> {
        let parts: Vec<(String, i64)> = starts.iter().map(|(key, start)| (self.id(key), *start)).collect();
        let table = self.table(name);
        table.refresh().await?;
        for ((key, expected), (id, _)) in starts.iter().zip(&parts) {
            let found = table.position(id).await?;
            if found.is_some() {
                return Err(CommitError::Moved { key: key.clone(), expected: *expected, found });
            }
        }
        let both = parts.iter().flat_map(|(id, start)| [(id.clone(), *start), (format!("{id}/start"), *start)]);
        let moved: Vec<(String, i64)> = both.collect();
        Ok(table.commit(Vec::new(), &moved).await?)
    }

    /// Moves a partition over offsets that nobody can read any more, on record: the commit that moves it holds
    /// `…/gap/FROM = TO` beside it, which the audit counts as given up.
    ///
    /// # Errors
    /// [`CommitError::Moved`] where the partition stands at neither end, [`CommitError::Store`] where the store failed: the
    /// same call may be made again.
    pub async fn accept_gap(
        &mut self,
        name: TableName,
        key: &PartitionKey,
        from: i64,
        to: i64,
    ) -> std::result::Result<(), CommitError> {
        let id = self.id(key);
        let table = self.table(name);
        table.refresh().await?;
        match table.position(&id).await? {
            Some(found) if found == to => Ok(()),
            Some(found) if found == from => {
                Ok(table.commit(Vec::new(), &[(id.clone(), to), (gap_id(&id, from), to)]).await?)
            }
            found => Err(CommitError::Moved { key: key.clone(), expected: from, found }),
        }
    }

    /// Lets a partition begin again at an offset before the one that the table stands at, because the broker lost the end of
    /// its log: from there on it is another generation, so that messages which get the offsets of lost ones are told from
    /// them. `gaps` are the offsets of the lost end that are in no row; the broker cannot explain them any more, so they are
    /// on record as given up. Returns the key from then on. Whoever still commits to the old generation finds it moved.
    ///
    /// # Errors
    /// [`CommitError::Moved`] where the partition stands elsewhere or is of a later generation, [`CommitError::Store`] where
    /// the store failed: the same call may be made again.
    pub async fn begin_again(
        &mut self,
        name: TableName,
        key: &PartitionKey,
        stands: i64,
        at: i64,
        gaps: &[Gap],
    ) -> std::result::Result<PartitionKey, CommitError> {
        let (id, again, losses) = (self.id(key), self.again_id(key), losses(&key.generation));
        let next = PartitionKey { generation: generation(topic_id(&key.generation), losses + 1), ..key.clone() };
        let next_id = self.id(&next);
        let table = self.table(name);
        table.refresh().await?;
        let found = table.position(&id).await?;
        if found != Some(stands) || table.position(&again).await?.unwrap_or(0) != losses {
            return Err(CommitError::Moved { key: key.clone(), expected: stands, found });
        }
        // The old offset is written again, unmoved: a commit to it at the same time and this one conflict.
        let mut moved = vec![(id.clone(), stands), (again, losses + 1), (next_id.clone(), at)];
        moved.push((format!("{next_id}/start"), at));
        moved.extend(gaps.iter().map(|gap| (gap_id(&id, gap.first), gap.last + 1)));
        table.commit(Vec::new(), &moved).await?;
        Ok(next)
    }

    /// Adds the parts' rows and moves their offsets, exactly once.
    ///
    /// # Errors
    /// [`CommitError::Moved`] where a partition stands elsewhere: drop the parts. [`CommitError::Store`] where the store
    /// failed: call again with the same parts.
    pub async fn commit(&mut self, name: TableName, parts: &[Part]) -> std::result::Result<Committed, CommitError> {
        let batches: Vec<RecordBatch> = parts.iter().flat_map(|part| part.rows.iter().cloned()).collect();
        let files = encode::files(encode::encode(name, &batches)?)?;
        self.commit_files(name, parts, &files).await
    }

    /// The same with rows that are encoded already: `files` hold them, and the parts have no others.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub async fn commit_files(
        &mut self,
        name: TableName,
        parts: &[Part],
        files: &[EncodedFile],
    ) -> std::result::Result<Committed, CommitError> {
        if let Standing::End = self.standing(name, parts).await? {
            return Ok(Committed { version: self.table(name).at, rows: 0, dead_letters: 0 });
        }
        let dead_letters = self.commit_dead_letters(parts).await?;
        if dead_letters > 0 {
            failpoint(Failpoint::AfterDeadLetters);
        }
        let moved: Vec<(String, i64)> = parts.iter().map(|part| (self.id(&part.key), part.end)).collect();
        self.table(name).store(files).await?;
        let adds: Vec<Add> = files.iter().map(|file| file.add.clone()).collect();
        failpoint(Failpoint::AfterWrite);
        let rows = files.iter().map(EncodedFile::rows).sum();
        // Rewrites of files in this process wait until this is committed: neither makes the other begin anew.
        let turns = Arc::clone(&self.turns);
        let _turn = turns[&name].lock().await;
        for attempt in 1.. {
            if let Standing::End = self.standing(name, parts).await? {
                break;
            }
            match self.table(name).commit(adds.clone(), &moved).await {
                Ok(()) => break,
                Err(e) if attempt == ATTEMPTS_MAX => return Err(e.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50) * attempt).await,
            }
        }
        Ok(Committed { version: log::version_of(&self.table(name).table), rows, dead_letters })
    }

    /// Where all parts stand, on a snapshot that was just read.
    async fn standing(&mut self, name: TableName, parts: &[Part]) -> std::result::Result<Standing, CommitError> {
        let ids: Vec<_> = parts.iter().map(|part| (self.id(&part.key), self.again_id(&part.key))).collect();
        let table = self.table(name);
        table.refresh().await?;
        let (mut at_end, mut elsewhere) = (0, None);
        for (part, (id, again)) in parts.iter().zip(&ids) {
            let of_now = table.position(again).await?.unwrap_or(0) == losses(&part.key.generation);
            let found = table.position(id).await?.filter(|_| of_now);
            at_end += usize::from(found == Some(part.end));
            if found != Some(part.start) && elsewhere.is_none() {
                elsewhere = Some(CommitError::Moved { key: part.key.clone(), expected: part.start, found });
            }
        }
        match elsewhere {
            None => Ok(Standing::Start),
            Some(_) if at_end == parts.len() => Ok(Standing::End),
            Some(moved) => Err(moved),
        }
    }

    async fn commit_dead_letters(&mut self, parts: &[Part]) -> Result<usize> {
        let parts: Vec<(String, &Part)> =
            parts.iter().filter(|p| !p.dead_letters.is_empty()).map(|p| (self.id(&p.key), p)).collect();
        let table = &mut self.dead_letters;
        for attempt in 1.. {
            if parts.is_empty() {
                break;
            }
            table.refresh().await?;
            let (mut moved, mut batches) = (Vec::new(), Vec::new());
            for (id, part) in &parts {
                let stored = table.position(id).await?.unwrap_or(i64::MIN);
                if stored < part.end {
                    batches.extend(part.dead_letters.iter().map(|batch| from_offset(batch, stored)));
                    moved.push((id.clone(), part.end));
                }
            }
            if moved.is_empty() {
                break;
            }
            let rows = batches.iter().map(RecordBatch::num_rows).sum();
            let adds = table.write(batches).await?;
            match table.commit(adds, &moved).await {
                Ok(()) => return Ok(rows),
                Err(e) if attempt == ATTEMPTS_MAX => return Err(e),
                Err(_) => tokio::time::sleep(Duration::from_millis(50) * attempt).await,
            }
        }
        Ok(0)
    }

    fn table(&mut self, name: TableName) -> &mut Offsets {
        self.tables.get_mut(&name).expect("only ingested tables are committed to")
    }

    /// The name under which it is on record how often the end of a partition's log was lost.
    fn again_id(&self, key: &PartitionKey) -> String {
        format!("{}/{}/{}/{}/again", self.prefix, key.topic, topic_id(&key.generation), key.partition)
    }

    /// Pipeline, cluster, topic, generation of the topic, partition.
    fn id(&self, key: &PartitionKey) -> String {
        format!("{}/{}/{}/{}", self.prefix, key.topic, key.generation, key.partition)
    }
}

/// The name under which a gap that was accepted is on record; its version is the offset after the gap.
pub(super) fn gap_id(id: &str, from: i64) -> String {
    format!("{id}/gap/{from}")
}

/// The rows of a batch at or after an offset.
fn from_offset(batch: &RecordBatch, offset: i64) -> RecordBatch {
    let offsets = batch.column_by_name("kafka_offset").expect("dead letters carry their offset");
    let keep: BooleanArray = offsets.as_primitive::<Int64Type>().iter().map(|o| Some(o? >= offset)).collect();
    debug_assert_eq!(keep.null_count(), 0, "kafka_offset is never null");
    filter_record_batch(batch, &keep).expect("the filter is as long as the batch")
}

/// A table with the offsets that its log holds. delta-rs replays the log for each `txn` that is asked for; here they are
/// kept, and the commits of others are read once as they appear.
#[derive(Debug)]
struct Offsets {
    name: TableName,
    table: DeltaTable,
    known: HashMap<String, Option<i64>>,
    at: i64,
}

impl Offsets {
    fn new(name: TableName, table: DeltaTable) -> Self {
        let at = log::version_of(&table);
        Self { name, table, known: HashMap::new(), at }
    }

    /// Reads the log up to its end.
    async fn refresh(&mut self) -> Result<()> {
        log::ensure_there(&self.table).map_err(Error::table(self.name, "find its log"))?;
        self.table.update_state().await.map_err(Error::table(self.name, "read the log"))?;
        let newest = log::version_of(&self.table);
        if newest - self.at > COMMITS_FOLLOWED_MAX {
            self.known.clear();
            self.at = newest;
        }
        while self.at < newest {
            self.follow(self.at + 1).await?;
        }
        Ok(())
    }

    /// Takes over what the commit of a version moved.
    async fn follow(&mut self, version: i64) -> Result<()> {
        let number = u64::try_from(version).expect("versions are not negative");
        let entry = self.table.log_store().read_commit_entry(number).await;
        match entry.map_err(Error::table(self.name, "read a commit"))? {
            Some(bytes) => self.known.extend(transactions(&bytes).map(|t| (t.app_id, Some(t.version)))),
            // Cleaned up in the meantime: a checkpoint holds it, and the log is asked anew.
            None => self.known.clear(),
        }
        self.at = version;
        Ok(())
    }

    async fn position(&mut self, id: &str) -> Result<Option<i64>> {
        if let Some(position) = self.known.get(id) {
            return Ok(*position);
        }
        let snapshot = self.table.snapshot().map_err(Error::table(self.name, "read the log"))?;
        let found = snapshot.transaction_version(self.table.log_store().as_ref(), id).await;
        let position = found.map_err(Error::table(self.name, "read an offset"))?;
        self.known.insert(id.to_owned(), position);
        Ok(position)
    }

    /// Stores files under the table's folder. Storing one again puts the same bytes in its place.
    async fn store(&self, files: &[EncodedFile]) -> Result<()> {
        log::store(&self.table, files).await.map_err(Error::table(self.name, "write the rows"))
    }

    async fn write(&self, batches: Vec<RecordBatch>) -> Result<Vec<Add>> {
        log::write(&self.table, self.name, batches).await.map_err(Error::table(self.name, "write the rows"))
    }

    async fn commit(&mut self, adds: Vec<Add>, moved: &[(String, i64)]) -> Result<()> {
        let transactions = moved.iter().map(|(id, version)| Transaction::new(id, *version)).collect();
        log::commit(&mut self.table, adds, transactions).await.map_err(Error::table(self.name, "commit the rows"))?;
        // Others may have committed in between; what they moved is read at the next refresh.
        if log::version_of(&self.table) == self.at + 1 {
            self.at += 1;
        }
        self.known.extend(moved.iter().map(|(id, version)| (id.clone(), Some(*version))));
        Ok(())
    }
}

/// The application transactions in a commit's JSON lines.
pub(super) fn transactions(commit: &[u8]) -> impl Iterator<Item = AppTransaction> {
    #[derive(Deserialize)]
    struct Line {
        txn: Option<AppTransaction>,
    }
    let lines = commit.split(|&b| b == b'\n').filter(|line| line.starts_with(b"{\"txn\""));
    lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()?.txn).collect::<Vec<_>>().into_iter()
}

/// One `txn` action.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AppTransaction {
    pub(super) app_id: String,
    pub(super) version: i64,
}
