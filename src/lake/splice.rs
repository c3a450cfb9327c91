//! Rows of files into new files, in memory that does not grow with them.
//!
//! A row group that is large already is copied as it lies in its file, compressed: that costs next to nothing. Small ones are
//! decoded and put together, a chunk of rows at a time. What is encoded goes to the store in parts, before more is read. So a
//! merge beside ingestion holds some tens of megabytes, whatever its size, and ingestion's budget takes them into account.
//!
//! Rows keep their order. Nothing refers to the new files until their caller commits them.

use super::TableName;
use super::encode::{self, RowGroup};
use super::files::OpenFile;
use super::rewrite::LiveFile;
use arrow::array::{ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use bytes::buf::{Buf as _, Reader};
use deltalake::kernel::Add;
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::parquet::column::writer::ColumnCloseResult;
use deltalake::parquet::errors::{ParquetError, Result as ParquetResult};
use deltalake::parquet::file::metadata::ParquetMetaData;
use deltalake::parquet::file::reader::{ChunkReader, Length};
use deltalake::parquet::file::writer::SerializedFileWriter;
use deltalake::writer::RecordBatchWriter;
use deltalake::{DeltaTable, DeltaTableError, Path};
use futures::TryStreamExt as _;
use object_store::buffered::BufWriter;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWriteExt as _;

/// Rows of so many decoded bytes become a row group, as ingestion cuts them.
const CHUNK_BYTES: usize = 8 << 20;
/// A row group of at least so many bytes, uncompressed, is worth its place as it is. What ingestion cuts is larger.
const COPIED_BYTES_MIN: i64 = 4 << 20;
/// What the store gets at once; the least that S3 takes as a part.
const PART_BYTES: usize = 5 << 20;
/// What is held at once: rows that wait and what they become, a column that is copied, and the part that the store takes.
pub(super) const HELD_BYTES: usize = 32 << 20;

type Delta<T> = Result<T, DeltaTableError>;

/// Which rows of a batch stay.
pub(super) type Keep<'a> = &'a (dyn Fn(&RecordBatch) -> Delta<BooleanArray> + Sync);

/// What was written in place of files.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) adds: Vec<Add>,
    pub(super) rows_read: u64,
    pub(super) rows_written: u64,
    /// Row groups that were copied without being decoded.
    pub(super) groups_copied: usize,
}

/// Writes the rows of files, in their order, into as few files of the target size as possible; those for which `keep` says
/// false are left out. The files must be of one partition.
pub(super) async fn write_rows_of(
    table: &DeltaTable,
    name: TableName,
    files: &[&LiveFile],
    bytes_target: u64,
    keep: Option<Keep<'_>>,
) -> Delta<Written> {
    let mut splicer = Splicer::new(table, name, files, bytes_target, keep)?;
    let spliced = splicer.splice(files).await;
    if let Err(error) = spliced {
        splicer.abort().await;
        return Err(error);
    }
    let mut written = splicer.written;
    let stated: Option<u64> = files.iter().map(|f| f.rows).sum();
    if stated.is_some_and(|rows| rows != written.rows_read) {
        return Err(DeltaTableError::generic(format!(
            "{} rows were read of files that hold {} by the log",
            written.rows_read,
            stated.unwrap_or_default()
        )));
    }
    // The rows are as old as they were: retention and the next merge go by it.
    let modified = files.iter().map(|f| f.modified_ms).max().unwrap_or_default();
    for add in &mut written.adds {
        add.data_change = false;
        add.modification_time = modified;
    }
    Ok(written)
}

struct Splicer<'a> {
    table: &'a DeltaTable,
    name: TableName,
    keep: Option<Keep<'a>>,
    bytes_target: u64,
    /// The columns of a file: those of the table that are not in the path.
    schema: SchemaRef,
    partition: BTreeMap<String, Option<String>>,
    folder: String,
    /// Decoded rows that wait for others.
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    output: Option<Output>,
    written: Written,
}

impl<'a> Splicer<'a> {
    fn new(
        table: &'a DeltaTable,
        name: TableName,
        files: &[&LiveFile],
        bytes_target: u64,
        keep: Option<Keep<'a>>,
    ) -> Delta<Self> {
        let partition = files.first().map(|f| f.partition.clone()).unwrap_or_default();
        let folder = files.first().and_then(|f| f.path.rsplit_once('/')).map(|(folder, _)| format!("{folder}/"));
        let all = RecordBatchWriter::for_table(table)?.arrow_schema();
        let in_file = all.fields().iter().filter(|field| !partition.contains_key(field.name())).cloned();
        Ok(Self {
            table,
            name,
            keep,
            bytes_target,
            schema: Arc::new(Schema::new(in_file.collect::<Vec<_>>())),
            partition,
            folder: folder.unwrap_or_default(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            output: None,
            written: Written::default(),
        })
    }

    async fn splice(&mut self, files: &[&LiveFile]) -> Delta<()> {
        for file in files {
            let open = OpenFile::open(self.table, &file.path, file.bytes).await?;
            for number in 0..open.metadata().num_row_groups() {
                if self.copies(&open, number)? {
                    self.encode_waiting().await?;
                    self.copy(&open, number).await?;
                } else {
                    self.decode(&open, number).await?;
                }
            }
        }
        self.encode_waiting().await?;
        self.close().await
    }

    /// Whether a row group is to be copied as it lies: it is large, all of it stays, its columns are the table's, and no few
    /// rows wait that would become a row group of their own before it.
    fn copies(&mut self, open: &OpenFile, number: usize) -> Delta<bool> {
        let group = open.metadata().row_group(number);
        let few_wait = (1..CHUNK_BYTES / 2).contains(&self.waiting_bytes);
        if self.keep.is_some() || group.total_byte_size() < COPIED_BYTES_MIN || few_wait {
            return Ok(false);
        }
        Ok(self.output()?.writer.schema_descr().root_schema() == group.schema_descr().root_schema())
    }

    async fn copy(&mut self, open: &OpenFile, number: usize) -> Delta<()> {
        let group = open.metadata().row_group(number);
        self.output()?.copy(open, number).await?;
        let rows = u64::try_from(group.num_rows()).unwrap_or_default();
        self.written.rows_read += rows;
        self.written.rows_written += rows;
        self.written.groups_copied += 1;
        self.close_full().await
    }

    async fn decode(&mut self, open: &OpenFile, number: usize) -> Delta<()> {
        let mut batches = open.batches(number..number + 1, None)?;
        while let Some(batch) = batches.try_next().await? {
            self.written.rows_read += batch.num_rows() as u64;
            let kept = match self.keep {
                Some(keep) => filter_record_batch(&batch, &keep(&batch)?)?,
                None => batch,
            };
            if kept.num_rows() > 0 {
                self.written.rows_written += kept.num_rows() as u64;
                let kept = in_file_form(&kept, &self.schema)?;
                self.waiting_bytes += kept.get_array_memory_size();
                self.waiting.push(kept);
            }
            if self.waiting_bytes >= CHUNK_BYTES {
                self.encode_waiting().await?;
            }
        }
        Ok(())
    }

    async fn encode_waiting(&mut self) -> Delta<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.waiting_bytes = 0;
        let group = encode::row_group(self.name, None, &std::mem::take(&mut self.waiting))?;
        self.output()?.append(group).await?;
        self.close_full().await
    }

    fn output(&mut self) -> Delta<&mut Output> {
        if self.output.is_none() {
            let path = encode::new_path(&self.folder);
            self.output = Some(Output::begin(self.table, self.name, &path, &self.schema)?);
        }
        Ok(self.output.as_mut().expect("one was just begun"))
    }

    /// Ends a file that has reached the target.
    async fn close_full(&mut self) -> Delta<()> {
        let is_full = self.output.as_ref().is_some_and(|o| o.writer.bytes_written() as u64 >= self.bytes_target);
        if is_full { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Delta<()> {
        let Some(output) = self.output.take() else { return Ok(()) };
        if output.writer.flushed_row_groups().is_empty() {
            return Ok(());
        }
        let path = output.path.clone();
        let (metadata, bytes) = output.finish().await?;
        let partition = self.partition.clone().into_iter().collect();
        self.written.adds.push(encode::add(self.name, path.to_string(), partition, &metadata, bytes));
        Ok(())
    }

    async fn abort(mut self) {
        if let Some(mut output) = self.output.take() {
            output.upload.abort().await.ok();
        }
    }
}

/// A file that is being written; what is encoded is in the store already, but for the last part.
struct Output {
    path: Path,
    writer: SerializedFileWriter<Encoded>,
    encoded: Encoded,
    upload: BufWriter,
}

impl Output {
    fn begin(table: &DeltaTable, name: TableName, path: &str, schema: &SchemaRef) -> Delta<Self> {
        let path = Path::parse(path)?;
        let encoded = Encoded::default();
        let properties = Some(name.writer_properties());
        let (writer, _) =
            ArrowWriter::try_new(encoded.clone(), Arc::clone(schema), properties)?.into_serialized_writer()?;
        let upload = BufWriter::with_capacity(table.object_store(), path.clone(), PART_BYTES).with_max_concurrency(1);
        Ok(Self { path, writer, encoded, upload })
    }

    async fn append(&mut self, group: RowGroup) -> Delta<()> {
        group.append_to(&mut self.writer)?;
        send(&self.encoded, &mut self.upload).await
    }

    /// Copies a row group, a column at a time: those may be large in files of others.
    async fn copy(&mut self, open: &OpenFile, number: usize) -> Delta<()> {
        let group = open.metadata().row_group(number);
        let mut into = self.writer.next_row_group()?;
        for (at, column) in group.columns().iter().enumerate() {
            let (start, length) = column.byte_range();
            let lying = Lying { start, bytes: open.bytes(start..start + length).await? };
            into.append_column(&lying, close_of(open.metadata(), number, at))?;
            send(&self.encoded, &mut self.upload).await?;
        }
        into.close()?;
        send(&self.encoded, &mut self.upload).await
    }

    async fn finish(mut self) -> Delta<(ParquetMetaData, usize)> {
        let metadata = self.writer.finish()?;
        let bytes = self.writer.bytes_written();
        send(&self.encoded, &mut self.upload).await?;
        self.upload.shutdown().await.map_err(|e| DeltaTableError::generic(e.to_string()))?;
        Ok((metadata, bytes))
    }
}

/// Hands what is encoded to the store.
async fn send(encoded: &Encoded, upload: &mut BufWriter) -> Delta<()> {
    let bytes = encoded.take();
    if bytes.is_empty() { Ok(()) } else { Ok(upload.put(bytes.into()).await?) }
}

/// What the footer and the indexes say of a column, in the form that a writer takes.
fn close_of(metadata: &ParquetMetaData, number: usize, at: usize) -> ColumnCloseResult {
    let group = metadata.row_group(number);
    let column = group.column(at);
    ColumnCloseResult {
        bytes_written: u64::try_from(column.compressed_size()).unwrap_or_default(),
        rows_written: u64::try_from(group.num_rows()).unwrap_or_default(),
        metadata: column.clone(),
        bloom_filter: None,
        column_index: metadata.column_index().map(|index| index[number][at].clone()),
        offset_index: metadata.offset_index().map(|index| index[number][at].clone()),
    }
}

/// Bytes that were encoded and are not in the store yet.
#[derive(Clone, Default)]
struct Encoded(Arc<Mutex<Vec<u8>>>);

impl Encoded {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Encoded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A part of a file, at its place.
struct Lying {
    start: u64,
    bytes: Bytes,
}

impl Lying {
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let at = start.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let at = at.filter(|at| *at <= self.bytes.len());
        at.map(|at| self.bytes.slice(at..))
            .ok_or_else(|| ParquetError::EOF(format!("byte {start} is not in the column")))
    }
}

impl Length for Lying {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Lying {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("byte {start} and {length} more are not in the column")));
        }
        Ok(bytes.slice(..length))
    }
}

/// A batch with the columns of the files of today: one that was added to the table later is null.
fn in_file_form(batch: &RecordBatch, schema: &SchemaRef) -> Delta<RecordBatch> {
    let column = |field: &arrow::datatypes::FieldRef| -> Delta<ArrayRef> {
        match batch.column_by_name(field.name()) {
            Some(found) if found.data_type() == field.data_type() => Ok(Arc::clone(found)),
            Some(found) => Ok(cast(found, field.data_type())?),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        }
    };
    let columns = schema.fields().iter().map(column).collect::<Delta<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
