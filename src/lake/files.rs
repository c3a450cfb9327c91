//! Reading one Parquet file of a table, by the ranges that its footer names.

use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use deltalake::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use deltalake::parquet::errors::{ParquetError, Result as ParquetResult};
use deltalake::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use deltalake::{DeltaTable, DeltaTableError, Path};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::{ObjectStore, ObjectStoreExt as _};
use std::ops::Range;
use std::sync::Arc;

/// Rows that are decoded at once, at most …
const BATCH_ROWS_MAX: i64 = 512;
/// … and their bytes: bodies may be megabytes each.
const BATCH_BYTES: i64 = 4 << 20;

/// Rows as a file has them.
pub(super) type Batches = BoxStream<'static, Result<RecordBatch, DeltaTableError>>;

/// A Parquet file under a table's folder whose footer is read.
pub(super) struct OpenFile {
    file: StoredFile,
    metadata: ArrowReaderMetadata,
}

impl OpenFile {
    /// Reads the footer, and the indexes of pages where the file has them.
    pub(super) async fn open(table: &DeltaTable, path: &str, bytes: u64) -> Result<Self, DeltaTableError> {
        let path = Path::parse(path).map_err(|e| DeltaTableError::generic(e.to_string()))?;
        let mut file = StoredFile { store: table.object_store(), path, bytes };
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load_async(&mut file, options).await?;
        Ok(Self { file, metadata })
    }

    /// The footer.
    pub(super) fn metadata(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    /// The rows of these row groups: these columns, or all.
    pub(super) fn batches(&self, groups: Range<usize>, columns: Option<&[&str]>) -> Result<Batches, DeltaTableError> {
        let all = &self.metadata().row_groups()[groups.clone()];
        let (bytes, rows) = all.iter().fold((0, 0), |(b, r), g| (b + g.total_byte_size(), r + g.num_rows()));
        let batch_rows = (BATCH_BYTES * rows / bytes.max(1)).clamp(1, BATCH_ROWS_MAX);
        let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_batch_size(usize::try_from(batch_rows).unwrap_or(1))
            .with_row_groups(groups.collect());
        if let Some(columns) = columns {
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            builder = builder.with_projection(mask);
        }
        Ok(builder.build()?.map_err(DeltaTableError::from).boxed())
    }

    /// Bytes of the file as they lie there.
    pub(super) async fn bytes(&self, range: Range<u64>) -> Result<Bytes, DeltaTableError> {
        Ok(self.file.store.get_range(&self.file.path, range).await?)
    }
}

/// The rows of a Parquet file under the table's folder: these columns, or all.
pub(super) async fn read(
    table: &DeltaTable,
    path: &str,
    bytes: u64,
    columns: Option<&[&str]>,
) -> Result<Batches, DeltaTableError> {
    let file = OpenFile::open(table, path, bytes).await?;
    file.batches(0..file.metadata().num_row_groups(), columns)
}

#[derive(Clone)]
struct StoredFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let policy = options.map_or(PageIndexPolicy::Skip, ArrowReaderOptions::offset_index_policy);
        async move {
            let bytes = self.bytes;
            let reader = ParquetMetaDataReader::new().with_page_index_policy(policy);
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
