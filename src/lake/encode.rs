//! Rows to Parquet row groups, and row groups to files: the work of ingestion that costs most, free of any I/O.
//!
//! Row groups are encoded apart from the file that they will be in, so that several threads encode while rows still come,
//! and what waits for a commit is compressed already. Each row group has rows of one partition of the table. It promises
//! nothing about order between row groups but the one they are given in.

use super::error::Result;
use super::table::TableName;
use super::{Error, column};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Date32Type, SchemaRef};
use chrono::{DateTime, NaiveDate};
use deltalake::DeltaTableError;
use deltalake::kernel::Add;
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use deltalake::parquet::errors::ParquetError;
use deltalake::parquet::file::metadata::ParquetMetaData;
use deltalake::parquet::file::statistics::Statistics;
use deltalake::parquet::file::writer::SerializedFileWriter;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// Encoded rows of one partition of a table.
#[derive(Debug)]
pub struct RowGroup {
    table: TableName,
    /// The day that the rows are of, as days since the epoch, where the table is partitioned by it.
    day: Option<i32>,
    schema: SchemaRef,
    rows: usize,
    columns: Vec<ArrowColumnChunk>,
}

/// A Parquet file in memory, with the action that adds it to its table.
#[derive(Debug, Clone)]
pub struct EncodedFile {
    pub(super) add: Add,
    pub(super) bytes: bytes::Bytes,
    rows: usize,
}

impl RowGroup {
    /// Rows in it.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes it as a file's next row group.
    pub(super) fn append_to<W: io::Write + Send>(
        self,
        file: &mut SerializedFileWriter<W>,
    ) -> std::result::Result<(), ParquetError> {
        let mut into = file.next_row_group()?;
        for column in self.columns {
            column.append_to_row_group(&mut into)?;
        }
        into.close().map(drop)
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(|c| usize::try_from(c.close().bytes_written).unwrap_or(0)).sum()
    }
}

impl EncodedFile {
    /// Rows in it.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Encodes batches of a table's schema; one row group for each day that they have rows of.
///
/// # Errors
/// [`Error::Table`] where a batch does not fit the table.
pub fn encode(table: TableName, batches: &[RecordBatch]) -> Result<Vec<RowGroup>> {
    let mut days = BTreeMap::<Option<i32>, Vec<RecordBatch>>::new();
    for batch in batches.iter().filter(|b| b.num_rows() > 0) {
        for (day, rows) in by_day(table, batch) {
            days.entry(day).or_default().push(rows);
        }
    }
    let group = |(day, batches): (_, Vec<RecordBatch>)| row_group(table, day, &batches);
    days.into_iter().map(group).collect::<std::result::Result<_, _>>().map_err(|e| failed(table, e))
}

/// Puts row groups into files, one for each day and schema.
///
/// # Errors
/// [`Error::Table`] where row groups do not fit together.
pub fn files(groups: Vec<RowGroup>) -> Result<Vec<EncodedFile>> {
    let mut files: Vec<Vec<RowGroup>> = Vec::new();
    for group in groups {
        let same =
            |f: &&mut Vec<RowGroup>| (f[0].table, f[0].day, &f[0].schema) == (group.table, group.day, &group.schema);
        match files.iter_mut().find(same) {
            Some(file) => file.push(group),
            None => files.push(vec![group]),
        }
    }
    let write = |groups: Vec<RowGroup>| {
        let table = groups[0].table;
        file(groups).map_err(|e| failed(table, e))
    };
    files.into_iter().map(write).collect()
}

fn failed(table: TableName, error: ParquetError) -> Error {
    Error::table(table, "encode the rows")(DeltaTableError::from(error))
}

/// The rows of each day, without the columns that are in the path.
fn by_day(table: TableName, batch: &RecordBatch) -> Vec<(Option<i32>, RecordBatch)> {
    let Some(name) = table.partition_columns().first() else { return vec![(None, batch.clone())] };
    let at = batch.schema().index_of(name).expect("the builders follow the table's columns");
    let days = batch.column(at).as_primitive::<Date32Type>();
    let mut rest = batch.clone();
    rest.remove_column(at);
    let first = days.value(0);
    if days.values().iter().all(|day| *day == first) {
        return vec![(Some(first), rest)];
    }
    let mut distinct: Vec<i32> = days.values().to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let rows = |day: i32| {
        let keep: BooleanArray = days.values().iter().map(|d| Some(*d == day)).collect();
        (Some(day), filter_record_batch(&rest, &keep).expect("the filter is as long as the batch"))
    };
    distinct.into_iter().map(rows).collect()
}

/// Encodes batches of one schema and partition as one row group.
pub(super) fn row_group(
    table: TableName,
    day: Option<i32>,
    batches: &[RecordBatch],
) -> std::result::Result<RowGroup, ParquetError> {
    let schema = batches[0].schema();
    let mut writers = factory(table, &schema)?.create_column_writers(0)?;
    for batch in batches {
        let mut writers = writers.iter_mut();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            for leaf in compute_leaves(field, column)? {
                writers.next().expect("there is a writer for each leaf").write(&leaf)?;
            }
        }
    }
    let columns = writers.into_iter().map(|w| w.close()).collect::<std::result::Result<_, _>>()?;
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    Ok(RowGroup { table, day, schema, rows, columns })
}

fn factory(table: TableName, schema: &SchemaRef) -> std::result::Result<ArrowRowGroupWriterFactory, ParquetError> {
    let writer = ArrowWriter::try_new(io::sink(), Arc::clone(schema), Some(table.writer_properties()))?;
    Ok(writer.into_serialized_writer()?.1)
}

fn file(groups: Vec<RowGroup>) -> std::result::Result<EncodedFile, ParquetError> {
    let (table, day, schema) = (groups[0].table, groups[0].day, Arc::clone(&groups[0].schema));
    let rows = groups.iter().map(RowGroup::rows).sum();
    let mut bytes = Vec::with_capacity(groups.iter().map(RowGroup::bytes).sum::<usize>() + 64 * 1024);
    let writer = ArrowWriter::try_new(&mut bytes, schema, Some(table.writer_properties()))?;
    let (mut writer, _) = writer.into_serialized_writer()?;
    for group in groups {
        group.append_to(&mut writer)?;
    }
    let metadata = writer.close()?;
    let day = day.and_then(NaiveDate::from_epoch_days).map(|day| day.to_string());
    let partition = table.partition_columns().first().map(|name| ((*name).to_owned(), day));
    let folder = partition.iter().map(|(name, day)| format!("{name}={}/", day.as_deref().unwrap_or_default()));
    let path = new_path(&folder.collect::<String>());
    let add = add(table, path, partition.into_iter().collect(), &metadata, bytes.len());
    Ok(EncodedFile { add, bytes: bytes.into(), rows })
}

/// A path under a folder of a table (empty, or with a slash at its end) that no file has yet.
pub(super) fn new_path(folder: &str) -> String {
    format!("{folder}part-{}.zstd.parquet", Uuid::now_v7())
}

/// The action that adds a file.
pub(super) fn add(
    table: TableName,
    path: String,
    partition_values: HashMap<String, Option<String>>,
    metadata: &ParquetMetaData,
    bytes: usize,
) -> Add {
    Add {
        path,
        size: i64::try_from(bytes).unwrap_or(i64::MAX),
        partition_values,
        modification_time: crate::runtime::now().micros() / 1000,
        data_change: true,
        stats: Some(statistics(table, metadata).to_string()),
        ..Add::default()
    }
}

/// What the log says of a file, in the form that the Delta protocol has for it.
fn statistics(table: TableName, metadata: &ParquetMetaData) -> Value {
    let (mut least, mut most, mut nulls) = (Map::new(), Map::new(), Map::new());
    for name in table.statistics_columns() {
        let columns = metadata.file_metadata().schema_descr().columns();
        let Some(at) = columns.iter().position(|c| c.path().parts() == [*name]) else { continue };
        let kind = table.columns().iter().find(|c| c.name == *name).expect("statistics are of declared columns").kind;
        let groups: Vec<_> = metadata.row_groups().iter().map(|g| g.column(at).statistics()).collect();
        if let Some(count) = groups.iter().map(|s| s.and_then(Statistics::null_count_opt)).sum::<Option<u64>>() {
            nulls.insert((*name).to_owned(), count.into());
        }
        // A row group of nulls has neither a least nor a most, and hides none of the others'.
        let full = groups
            .iter()
            .zip(metadata.row_groups())
            .filter(|(s, group)| s.and_then(Statistics::null_count_opt) != u64::try_from(group.num_rows()).ok());
        let bounds: Option<Vec<(Bound, Bound)>> = full.map(|(s, _)| bounds(s.as_deref()?)).collect();
        let Some(bounds) = bounds.filter(|b| !b.is_empty()) else { continue };
        let low = bounds.iter().map(|(low, _)| low).min().and_then(|low| low.json(kind));
        let high = bounds.iter().map(|(_, high)| high).max().and_then(|high| high.json(kind));
        if let (Some(low), Some(high)) = (low, high) {
            least.insert((*name).to_owned(), low);
            most.insert((*name).to_owned(), high);
        }
    }
    let rows = metadata.file_metadata().num_rows();
    json!({"numRecords": rows, "minValues": least, "maxValues": most, "nullCount": nulls})
}

/// The least or the most of a column, in its order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Bound {
    Number(i64),
    Text(String),
}

fn bounds(found: &Statistics) -> Option<(Bound, Bound)> {
    match found {
        Statistics::Int32(s) => Some((Bound::Number((*s.min_opt()?).into()), Bound::Number((*s.max_opt()?).into()))),
        Statistics::Int64(s) => Some((Bound::Number(*s.min_opt()?), Bound::Number(*s.max_opt()?))),
        Statistics::ByteArray(s) => {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().map(Bound::Text);
            Some((text(s.min_bytes_opt()?)?, text(s.max_bytes_opt()?)?))
        }
        _ => None,
    }
}

impl Bound {
    fn json(&self, kind: column::Kind) -> Option<Value> {
        match (self, kind) {
            // The protocol has milliseconds; whoever reads takes them for rounded down.
            (Self::Number(micros), column::Kind::Time) => {
                let time = DateTime::from_timestamp_micros(*micros)?;
                Some(time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into())
            }
            (Self::Number(number), _) => Some((*number).into()),
            (Self::Text(text), _) => Some(text.clone().into()),
        }
    }
}
