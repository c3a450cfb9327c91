//! Dead letters that became rows after a fix: reading them back, and adding their rows once.
//!
//! A replayed row keeps the coordinates of its message and says when it was replayed, so the audit can tell it from a row that
//! is there twice. Which were replayed already is asked of the very snapshot that the next commit is made on, and every such
//! commit moves one `txn`, `replay`: of two replays at a time one loses the race and looks again, and one that was killed
//! between two commits goes on where it ended. Dead letters stay where they are: they are the record of what was sent.

use super::error::{Error, Result};
use super::tables::Reader;
use super::{Lake, TableName, log};
use crate::domain::{Coordinates, Timestamp};
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::kernel::Transaction;
use std::collections::HashSet;
use std::time::Duration;

/// The `txn` that every replay into a table moves.
const TRANSACTION: &str = "replay";
const ATTEMPTS_MAX: u32 = 8;

/// One dead letter, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where its message stands.
    pub at: Coordinates,
    /// The id that Kafka gave the topic.
    pub topic_id: String,
    /// The place of its record in the message.
    pub record: i32,
    /// The kind of fault that it was.
    pub code: String,
    /// The message's key.
    pub key: Option<Vec<u8>>,
    /// The message's bytes.
    pub payload: Option<Vec<u8>>,
    /// The time that the broker or producer put on the message.
    pub time: Option<Timestamp>,
    /// When it was read from Kafka.
    pub ingest_time: Timestamp,
}

/// The columns of `dead_letter` that [`dead_letters`] needs.
pub const DEAD_LETTER_COLUMNS: &str = "code, key, payload, kafka_topic, kafka_topic_id, kafka_partition, kafka_offset, kafka_record, kafka_time, ingest_time";

/// Reads rows of `dead_letter` back, whatever Arrow types a query chose for its columns.
///
/// # Errors
/// [`Error::Value`] where a column is missing or holds what we do not write.
pub fn dead_letters(batch: &RecordBatch) -> Result<Vec<DeadLetter>> {
    let reader = Reader::new(TableName::DeadLetter, batch);
    let bytes = |name| -> Result<Vec<Option<Vec<u8>>>> {
        let column = reader.column(name)?;
        Ok(column.as_binary::<i32>().iter().map(|value| value.map(<[u8]>::to_vec)).collect())
    };
    let null = |name| reader.wrong(name, "null".to_owned(), "every dead letter has its coordinates");
    let (codes, topics, ids) = (
        reader.required_texts("code")?,
        reader.required_texts("kafka_topic")?,
        reader.required_texts("kafka_topic_id")?,
    );
    let (keys, payloads) = (bytes("key")?, bytes("payload")?);
    let (partitions, offsets) = (reader.ints("kafka_partition")?, reader.longs("kafka_offset")?);
    let records = reader.ints("kafka_record")?;
    let (times, read) = (reader.times("kafka_time")?, reader.required_times("ingest_time")?);
    let mut all = Vec::with_capacity(reader.rows());
    for (row, (code, (topic, (topic_id, (key, payload))))) in
        codes.into_iter().zip(topics.into_iter().zip(ids.into_iter().zip(keys.into_iter().zip(payloads)))).enumerate()
    {
        let partition = partitions[row].ok_or_else(|| null("kafka_partition"))?;
        let offset = offsets[row].ok_or_else(|| null("kafka_offset"))?;
        let (at, time, ingest_time) = (Coordinates { topic, partition, offset }, times[row], read[row]);
        let record = records[row].unwrap_or(0);
        all.push(DeadLetter { at, record, topic_id, code, key, payload, time, ingest_time });
    }
    Ok(all)
}

impl Lake {
    /// Adds replayed rows to an ingested table, those left out whose message was replayed before. Returns how many it added.
    ///
    /// # Errors
    /// [`Error::Table`] and [`Error::Query`] where the store stays away: the same call may be made again.
    pub async fn add_replayed(&self, name: TableName, rows: &RecordBatch) -> Result<usize> {
        let _turn = self.turn(name).await;
        for attempt in 1.. {
            let mut table = self.fresh(name).await?.clone();
            let done = self.replayed(name, &table).await?;
            let keep: BooleanArray = messages(name, rows)?.iter().map(|at| Some(!done.contains(at))).collect();
            let left = filter_record_batch(rows, &keep).expect("the filter is as long as the batch");
            let added = left.num_rows();
            if added == 0 {
                return Ok(0);
            }
            let stored = log::transaction(&table, TRANSACTION).await.map_err(Error::table(name, "read an offset"))?;
            let moved = Transaction::new(TRANSACTION, stored.unwrap_or(0) + 1);
            let adds = log::write(&table, name, vec![left]).await.map_err(Error::table(name, "write the rows"))?;
            match log::commit(&mut table, adds, vec![moved]).await {
                Ok(()) => return Ok(added),
                Err(error) if attempt == ATTEMPTS_MAX => return Err(Error::table(name, "commit the rows")(error)),
                // Somebody else replayed, or it was ours and its answer was lost: the next look tells.
                Err(_) => tokio::time::sleep(Duration::from_millis(50) * attempt).await,
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// The messages whose rows were replayed into a version of a table.
    async fn replayed(&self, name: TableName, table: &DeltaTable) -> Result<HashSet<Message>> {
        let session = SessionContext::new();
        let (url, store) = self.object_store();
        session.register_object_store(&url, store);
        let rows = table.table_provider().await.map_err(Error::query(name))?;
        session.register_table(name.as_str(), rows).map_err(Error::query(name))?;
        // Files without a replayed row are left out by their statistics.
        let sql = format!(
            "SELECT kafka_topic, kafka_topic_id, kafka_partition, kafka_offset, kafka_record FROM {name} \
             WHERE replay_time IS NOT NULL"
        );
        let frame = session.sql(&sql).await.map_err(Error::query(name))?;
        let mut all = HashSet::new();
        for batch in frame.collect().await.map_err(Error::query(name))? {
            all.extend(messages(name, &batch)?);
        }
        Ok(all)
    }
}

/// Topic, its id, partition, offset, the record's place.
type Message = (String, String, i32, i64, i32);

fn messages(name: TableName, batch: &RecordBatch) -> Result<Vec<Message>> {
    let reader = Reader::new(name, batch);
    let (topics, ids) = (reader.required_texts("kafka_topic")?, reader.required_texts("kafka_topic_id")?);
    let (partitions, offsets) = (reader.column("kafka_partition")?, reader.column("kafka_offset")?);
    let (partitions, offsets) = (partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
    debug_assert_eq!(partitions.null_count() + offsets.null_count(), 0, "every row has its coordinates");
    let records = reader.ints("kafka_record")?.into_iter().map(|record| record.unwrap_or(0));
    let numbers = partitions.values().iter().copied().zip(offsets.values().iter().copied()).zip(records);
    let message = |((topic, id), ((p, offset), record))| (topic, id, p, offset, record);
    Ok(topics.into_iter().zip(ids).zip(numbers).map(message).collect())
}
