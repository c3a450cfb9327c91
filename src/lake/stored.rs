//! What tables hold of single messages: enough to tell whether a message of the broker's is the one that was stored.

use super::error::Result;
use super::tables::Reader;
use super::{Lake, PartitionKey, TableName};
use crate::domain::Timestamp;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use std::collections::BTreeMap;

/// One record of a message, as it is in a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredRecord {
    /// Its place in the message.
    pub record: i32,
    /// What names it: the call's or the signal's id, or a dead letter's bytes.
    pub name: Vec<u8>,
    /// The time that the broker or producer put on the message.
    pub time: Option<Timestamp>,
}

impl Lake {
    /// The records of a partition's messages from an offset on, by offset and in order; those that were replayed are left
    /// out, because their dead letter is there.
    ///
    /// # Errors
    /// [`super::Error::Table`] and [`super::Error::Query`] where a table cannot be read.
    pub async fn stored_from(
        &self,
        name: TableName,
        key: &PartitionKey,
        first: i64,
    ) -> Result<BTreeMap<i64, Vec<StoredRecord>>> {
        let of_one = |column: &str, only: &str| {
            let quoted = |text: &str| text.replace('\'', "''");
            format!(
                "SELECT kafka_offset, kafka_record, kafka_time, {column} AS name FROM {{table}} WHERE kafka_topic = '{}' \
                 AND kafka_topic_id = '{}' AND kafka_partition = {} AND kafka_offset >= {first}{only}",
                quoted(&key.topic),
                quoted(&key.generation),
                key.partition
            )
        };
        let column = if name == TableName::Feedback { "feedback_id" } else { "request_id" };
        let mut found: BTreeMap<i64, Vec<StoredRecord>> = BTreeMap::new();
        for (table, sql) in [
            (name, of_one(column, " AND replay_time IS NULL")),
            (TableName::DeadLetter, of_one("coalesce(payload, key)", "")),
        ] {
            for batch in self.query(table, &sql.replace("{table}", table.as_str())).await? {
                collect(table, &batch, &mut found)?;
            }
        }
        found.values_mut().for_each(|records| records.sort_unstable());
        Ok(found)
    }
}

fn collect(table: TableName, batch: &RecordBatch, into: &mut BTreeMap<i64, Vec<StoredRecord>>) -> Result<()> {
    let reader = Reader::new(table, batch);
    let names = batch.column_by_name("name").expect("the query names it");
    let names = cast(names, &DataType::Binary).expect("text and bytes are bytes");
    let names = names.as_binary::<i32>();
    let (offsets, records, times) =
        (reader.longs("kafka_offset")?, reader.ints("kafka_record")?, reader.times("kafka_time")?);
    for row in 0..batch.num_rows() {
        let name = if names.is_null(row) { Vec::new() } else { names.value(row).to_vec() };
        let record = StoredRecord { record: records[row].unwrap_or(0), name, time: times[row] };
        into.entry(offsets[row].unwrap_or_default()).or_default().push(record);
    }
    Ok(())
}
