//! The proof, from the tables alone, that nothing was lost and nothing is there twice.
//!
//! For each partition the log says from which offset ingestion began and which it needs next; every offset between must be
//! in exactly one row of the topic's table or of `dead_letter`, or on record in `removal`. Offsets that no message ever had (transaction markers,
//! aborted messages, compacted ones) show as gaps: only the broker can confirm those, so they are listed, not judged.

use super::committer::{PartitionKey, transactions};
use super::error::{Error, Result};
use super::ranges::{Gap, subtract};
use super::{Lake, TableName, log};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the tables hold of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionAudit {
    /// The pipeline that reads it.
    pub pipeline: String,
    /// The Kafka cluster's id.
    pub cluster: String,
    /// The partition.
    pub key: PartitionKey,
    /// The offset that ingestion began at.
    pub first: i64,
    /// The next offset that the table needs.
    pub next: i64,
    /// Rows in the topic's table.
    pub rows: u64,
    /// Rows in `dead_letter`.
    pub dead_letters: u64,
    /// Rows of dead letters that were replayed: beside their dead letter, which covers the offset.
    pub replayed: u64,
    /// Rows more than there are different offsets, rows outside `[first, next)`, and replayed rows that are there
    /// twice.
    pub duplicate: u64,
    /// Offsets in no row because retention or a request to forget took the row out; `removal` says which.
    pub removed: u64,
    /// Offsets that the broker no longer had when the partition came there, and that somebody gave up by name.
    pub given_up: u64,
    /// Ranges of `[first, next)` in no row that nothing explains.
    pub gaps: Vec<Gap>,
}

impl PartitionAudit {
    /// The name of its offset in the table's log.
    fn id(&self) -> String {
        let PartitionKey { topic, generation, partition } = &self.key;
        format!("{}/{}/{topic}/{generation}/{partition}", self.pipeline, self.cluster)
    }

    /// Offsets in no row, all gaps together.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.gaps.iter().map(Gap::offsets).sum()
    }
}

/// What the tables hold of every partition that they know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// The partitions, by pipeline, cluster, topic and number.
    pub partitions: Vec<PartitionAudit>,
}

impl Audit {
    /// Rows of all partitions.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.partitions.iter().map(|p| p.rows).sum()
    }

    /// Dead letters of all partitions.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.partitions.iter().map(|p| p.dead_letters).sum()
    }

    /// Offsets whose rows were taken out on purpose.
    #[must_use]
    pub fn removed(&self) -> u64 {
        self.partitions.iter().map(|p| p.removed).sum()
    }

    /// Offsets in no row that nothing explains.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.partitions.iter().map(PartitionAudit::missing).sum()
    }

    /// Rows that are there more than once or where none should be.
    #[must_use]
    pub fn duplicate(&self) -> u64 {
        self.partitions.iter().map(|p| p.duplicate).sum()
    }

    /// Whether every offset is in exactly one row, or was taken out on record.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing() == 0 && self.duplicate() == 0
    }
}

impl Lake {
    /// Audits every partition of every ingested table.
    ///
    /// # Errors
    /// [`Error::Table`] and [`Error::Query`] where a table cannot be read.
    pub async fn audit(&self) -> Result<Audit> {
        let mut partitions = Vec::new();
        for name in self.tables().filter(|name| name.has_offsets()) {
            // Offsets are read before rows: rows that are committed in between lie at or after `next` and are left out.
            let table = self.fresh(name).await?.clone();
            let offsets = offsets(&table, name).await?;
            if offsets.is_empty() {
                continue;
            }
            let session = self.audit_session(name, &table).await?;
            let mut audited = Vec::new();
            for partition in ranges(&offsets) {
                audited.push(audit(&session, name, partition).await?);
            }
            // Removals are recorded before they are made, so those read after the rows explain all that the rows lack.
            let removed = self.removed_offsets(&[name, TableName::DeadLetter]).await?;
            let accepted = accepted(&offsets);
            for mut partition in audited {
                let unexplained = subtract(&partition.gaps, removed.get(&partition.key).map_or(&[], Vec::as_slice));
                let offsets = |gaps: &[Gap]| gaps.iter().map(Gap::offsets).sum::<u64>();
                partition.removed = offsets(&partition.gaps) - offsets(&unexplained);
                let left = subtract(&unexplained, accepted.get(&partition.id()).map_or(&[], Vec::as_slice));
                partition.given_up = offsets(&unexplained) - offsets(&left);
                partition.gaps = left;
                partitions.push(partition);
            }
        }
        Ok(Audit { partitions })
    }

    /// Where every partition of every ingested table began and stands, without looking at a row: counts are zero.
    ///
    /// # Errors
    /// [`Error::Table`] where a log cannot be read.
    pub async fn standings(&self) -> Result<Vec<(TableName, PartitionAudit)>> {
        let mut all = Vec::new();
        for name in self.tables().filter(|name| name.has_offsets()) {
            let table = self.fresh(name).await?.clone();
            all.extend(ranges(&offsets(&table, name).await?).into_iter().map(|partition| (name, partition)));
        }
        Ok(all)
    }

    async fn audit_session(&self, name: TableName, table: &DeltaTable) -> Result<SessionContext> {
        let session = SessionContext::new();
        let (url, store) = self.object_store();
        session.register_object_store(&url, store);
        let rows = table.table_provider().await.map_err(Error::query(name))?;
        session.register_table(name.as_str(), rows).map_err(Error::query(name))?;
        let dead = self.provider(TableName::DeadLetter, None).await?;
        session.register_table("dead_letter", dead).map_err(Error::query(TableName::DeadLetter))?;
        Ok(session)
    }
}

/// The gaps that were accepted, by the name of the partition's offset, in order.
fn accepted(offsets: &BTreeMap<String, i64>) -> BTreeMap<String, Vec<Gap>> {
    let mut gaps = BTreeMap::<String, Vec<Gap>>::new();
    for (id, to) in offsets {
        let Some((partition, from)) = id.rsplit_once("/gap/") else { continue };
        let Ok(first) = from.parse() else { continue };
        gaps.entry(partition.to_owned()).or_default().push(Gap { first, last: to - 1 });
    }
    gaps.values_mut().for_each(|of_one| of_one.sort_unstable());
    gaps
}

/// The partitions that were pinned, with where they began and what comes next.
fn ranges(offsets: &BTreeMap<String, i64>) -> Vec<PartitionAudit> {
    let partition = |(id, next): (&String, &i64)| {
        let parts: Vec<&str> = id.split('/').collect();
        let [pipeline, cluster, topic, generation, partition] = parts[..] else { return None };
        Some(PartitionAudit {
            pipeline: pipeline.to_owned(),
            cluster: cluster.to_owned(),
            key: PartitionKey {
                topic: topic.to_owned(),
                generation: generation.to_owned(),
                partition: partition.parse().ok()?,
            },
            first: *offsets.get(&format!("{id}/start"))?,
            next: *next,
            rows: 0,
            dead_letters: 0,
            replayed: 0,
            duplicate: 0,
            removed: 0,
            given_up: 0,
            gaps: Vec::new(),
        })
    };
    offsets.iter().filter_map(partition).collect()
}

async fn audit(session: &SessionContext, name: TableName, mut partition: PartitionAudit) -> Result<PartitionAudit> {
    let all = union(name, &partition);
    // A message of several records has as many rows, each with a place of its own.
    let counts = format!(
        "SELECT coalesce(sum(n), 0), count(*), coalesce(sum(dead), 0) \
         FROM (SELECT o, r, count(*) AS n, sum(dead) AS dead FROM ({all}) GROUP BY o, r)"
    );
    let batches = collect(session, name, &counts).await?;
    let number = |column: usize| -> u64 {
        let value = batches.first().map(|b| b.column(column).as_primitive::<Int64Type>().value(0));
        value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0)
    };
    let (total, distinct, dead) = (number(0), number(1), number(2));
    partition.rows = total - dead;
    partition.dead_letters = dead;
    let (replayed, wrong) = replayed(session, name, &partition).await?;
    partition.replayed = replayed;
    partition.duplicate = total - distinct + outside(session, name, &partition).await? + wrong;
    partition.gaps = gaps(session, name, &all, &partition).await?;
    Ok(partition)
}

/// The condition under which a row is of the partition.
fn of_partition(key: &PartitionKey) -> String {
    let quoted = |text: &str| text.replace('\'', "''");
    let (topic, generation) = (quoted(&key.topic), quoted(&key.generation));
    format!("kafka_topic = '{topic}' AND kafka_topic_id = '{generation}' AND kafka_partition = {}", key.partition)
}

/// Every row of the partition that lies in its range, with whether it is a dead letter.
fn union(name: TableName, of: &PartitionAudit) -> String {
    let mine = of_partition(&of.key);
    let rows = |table: &str, dead: i64, only: &str| {
        format!(
            "SELECT kafka_offset AS o, coalesce(kafka_record, 0) AS r, CAST({dead} AS BIGINT) AS dead FROM {table} \
             WHERE {mine}{only} \
             AND kafka_offset >= {} AND kafka_offset < {}",
            of.first, of.next
        )
    };
    format!("{} UNION ALL {}", rows(name.as_str(), 0, " AND replay_time IS NULL"), rows("dead_letter", 1, ""))
}

/// Replayed rows, and how many of them are there twice or beside a row that came straight from Kafka. One whose dead letter
/// is not there shows as a gap.
async fn replayed(session: &SessionContext, name: TableName, of: &PartitionAudit) -> Result<(u64, u64)> {
    let mine = of_partition(&of.key);
    // A message of several records may have some that came straight and others that were replayed.
    let place = "kafka_offset * 1000000 + coalesce(kafka_record, 0)";
    let rows = format!("FROM {name} WHERE {mine} AND replay_time IS NOT NULL");
    let sql = format!("SELECT count(*), count(DISTINCT {place}) {rows}");
    let batches = collect(session, name, &sql).await?;
    let number = |batches: &[RecordBatch], column: usize| {
        let value = batches.first().map(|b| b.column(column).as_primitive::<Int64Type>().value(0));
        value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0)
    };
    let (all, distinct) = (number(&batches, 0), number(&batches, 1));
    if all == 0 {
        return Ok((0, 0));
    }
    let straight = format!("SELECT {place} FROM {name} WHERE {mine} AND replay_time IS NULL");
    let both = collect(session, name, &format!("SELECT count(*) {rows} AND {place} IN ({straight})")).await?;
    Ok((all, all - distinct + number(&both, 0)))
}

/// Rows before the partition's beginning or, in the table itself, at or after what it needs next. Dead letters may be
/// ahead: they commit first.
async fn outside(session: &SessionContext, name: TableName, of: &PartitionAudit) -> Result<u64> {
    let mine = of_partition(&of.key);
    let sql = format!(
        "SELECT count(*) FROM {name} WHERE {mine} AND (kafka_offset < {} OR kafka_offset >= {})",
        of.first, of.next
    );
    let batches = collect(session, name, &sql).await?;
    let count = batches.first().map(|b| b.column(0).as_primitive::<Int64Type>().value(0));
    Ok(count.and_then(|c| u64::try_from(c).ok()).unwrap_or(0))
}

async fn gaps(session: &SessionContext, name: TableName, all: &str, of: &PartitionAudit) -> Result<Vec<Gap>> {
    // The two ends stand for rows just outside the range, so that a gap at either end shows too.
    let mut sql = String::new();
    write!(
        sql,
        "SELECT before + 1, o - 1 FROM (SELECT o, lag(o) OVER (ORDER BY o) AS before FROM (\
         SELECT o FROM ({all}) UNION SELECT CAST({} AS BIGINT) AS o UNION SELECT CAST({} AS BIGINT) AS o)) \
         WHERE o > before + 1 ORDER BY o",
        of.first - 1,
        of.next
    )
    .expect("a String takes any text");
    let mut gaps = Vec::new();
    for batch in collect(session, name, &sql).await? {
        let (first, last) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Int64Type>());
        gaps.extend(first.values().iter().zip(last.values()).map(|(&first, &last)| Gap { first, last }));
    }
    Ok(gaps)
}

async fn collect(session: &SessionContext, name: TableName, sql: &str) -> Result<Vec<RecordBatch>> {
    let frame = session.sql(sql).await.map_err(Error::query(name))?;
    frame.collect().await.map_err(Error::query(name))
}

/// Every application transaction of a table's log: the last checkpoint's, and what the commits after it moved.
async fn offsets(table: &DeltaTable, name: TableName) -> Result<BTreeMap<String, i64>> {
    let newest = log::version_of(table);
    let mut offsets = BTreeMap::new();
    let mut from = 0;
    if let Some((version, bytes)) =
        last_checkpoint(table, newest).await.map_err(Error::table(name, "read a checkpoint"))?
    {
        read_checkpoint(bytes, &mut offsets).ok_or_else(|| Error::Value {
            table: name,
            column: "txn",
            found: format!("checkpoint {version}"),
            right: "a checkpoint with transactions is expected",
        })?;
        from = version + 1;
    }
    for version in from..=newest {
        let number = u64::try_from(version).expect("versions are not negative");
        let entry = table.log_store().read_commit_entry(number).await;
        let bytes = entry.map_err(Error::table(name, "read a commit"))?.unwrap_or_default();
        offsets.extend(transactions(&bytes).map(|t| (t.app_id, t.version)));
    }
    Ok(offsets)
}

async fn last_checkpoint(
    table: &DeltaTable,
    newest: i64,
) -> std::result::Result<Option<(i64, Bytes)>, deltalake::DeltaTableError> {
    let store = table.object_store();
    let prefix = deltalake::Path::from("_delta_log");
    let files: Vec<_> = store.list(Some(&prefix)).map_ok(|meta| meta.location).try_collect().await?;
    let version = |path: &deltalake::Path| {
        let number = path.filename()?.strip_suffix(".checkpoint.parquet")?;
        number.parse::<i64>().ok().filter(|v| *v <= newest)
    };
    let last = files.iter().filter_map(|path| Some((version(path)?, path))).max_by_key(|(v, _)| *v);
    let Some((version, path)) = last else { return Ok(None) };
    Ok(Some((version, store.get(path).await?.bytes().await?)))
}

fn read_checkpoint(bytes: Bytes, offsets: &mut BTreeMap<String, i64>) -> Option<()> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).ok()?.build().ok()?;
    for batch in reader {
        let batch = batch.ok()?;
        let Some(txn) = batch.column_by_name("txn") else { continue };
        let txn = txn.as_struct_opt()?;
        let ids = arrow::compute::cast(txn.column_by_name("appId")?, &arrow::datatypes::DataType::Utf8).ok()?;
        let versions = txn.column_by_name("version")?.as_primitive_opt::<Int64Type>()?;
        for row in (0..txn.len()).filter(|&row| !txn.is_null(row) && !versions.is_null(row)) {
            offsets.insert(ids.as_string::<i32>().value(row).to_owned(), versions.value(row));
        }
    }
    Some(())
}
