//! Answers as people and programs read them.
//!
//! `csv`, `json` and `arrow` stream: their memory does not grow with the answer. `table` must see all rows before it
//! knows a column's width, so it holds the answer.

use super::error::Error;
use super::session::Answer;
use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use datafusion::arrow::csv::WriterBuilder as CsvBuilder;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::json::WriterBuilder as JsonBuilder;
use datafusion::arrow::json::writer::LineDelimited;
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;
use futures::StreamExt;
use std::io::Write;
use std::sync::Arc;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// CSV with a header line.
    Csv,
    /// One JSON object a line, nulls written out, so that each line has all keys: what `jq`, DuckDB, Polars and Spark
    /// read as a stream.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Table, Self::Csv, Self::Json, Self::Arrow];

    /// The name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Arrow => "arrow",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == text)
    }
}

/// Writes an answer and returns how many rows it had.
///
/// # Errors
/// The query's own error, or [`Error::Write`] with the sink's.
pub async fn write(answer: Answer, format: Format, out: &mut (dyn Write + Send)) -> Result<usize, Error> {
    let rows = match format {
        Format::Table => table(answer, &mut *out).await?,
        Format::Csv => csv(answer, &mut *out).await?,
        Format::Json => json(answer, &mut *out).await?,
        Format::Arrow => arrow(answer, &mut *out).await?,
    };
    out.flush().map_err(Error::Write)?;
    Ok(rows)
}

async fn table(answer: Answer, out: &mut (dyn Write + Send)) -> Result<usize, Error> {
    let schema = Arc::clone(&answer.schema);
    let batches = answer.collect().await?;
    let text = pretty_format_batches_with_schema(schema, &batches).map_err(encode)?.to_string();
    writeln!(out, "{}", printable(&text)).map_err(Error::Write)?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

/// The text without control characters other than line breaks. Logged text comes from strangers: an escape sequence in
/// it must not reach the terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

async fn csv(mut answer: Answer, out: &mut (dyn Write + Send)) -> Result<usize, Error> {
    let mut rows = 0;
    // The header is due even where there is no row.
    let empty = RecordBatch::new_empty(Arc::clone(&answer.schema));
    out.write_all(&csv_bytes(&empty, true)?).map_err(Error::Write)?;
    while let Some(batch) = answer.batches.next().await {
        let batch = batch?;
        out.write_all(&csv_bytes(&batch, false)?).map_err(Error::Write)?;
        rows += batch.num_rows();
    }
    Ok(rows)
}

fn csv_bytes(batch: &RecordBatch, header: bool) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let flat = flat(batch).map_err(encode)?;
    CsvBuilder::new().with_header(header).build(&mut bytes).write(&flat).map_err(encode)?;
    Ok(bytes)
}

/// The batch with its nested columns as JSON texts: CSV has no lists.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        if field.data_type().is_nested() {
            let text = json_texts(column)?;
            Ok((field.name(), Arc::new(text) as ArrayRef))
        } else {
            Ok((field.name(), Arc::clone(column)))
        }
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    let fields: Vec<Field> = columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
}

fn json_texts(column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let only = RecordBatch::try_from_iter_with_nullable([("c", Arc::clone(column), true)])?;
    let text = String::from_utf8(json_lines(&only)?).map_err(|e| ArrowError::CsvError(e.to_string()))?;
    let value = |line: &str| line.trim_start_matches("{\"c\":").strip_suffix('}').unwrap_or_default().to_owned();
    Ok(StringArray::from_iter(text.lines().map(value).map(|v| (v != "null").then_some(v))))
}

async fn json(mut answer: Answer, out: &mut (dyn Write + Send)) -> Result<usize, Error> {
    let mut rows = 0;
    while let Some(batch) = answer.batches.next().await {
        let batch = batch?;
        out.write_all(&json_lines(&batch).map_err(encode)?).map_err(Error::Write)?;
        rows += batch.num_rows();
    }
    Ok(rows)
}

fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut lines = JsonBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    lines.write(batch)?;
    lines.finish()?;
    Ok(lines.into_inner())
}

async fn arrow(mut answer: Answer, out: &mut (dyn Write + Send)) -> Result<usize, Error> {
    let mut rows = 0;
    let mut stream = StreamWriter::try_new(Vec::new(), &answer.schema).map_err(encode)?;
    while let Some(batch) = answer.batches.next().await {
        let batch = batch?;
        stream.write(&batch).map_err(encode)?;
        out.write_all(&std::mem::take(stream.get_mut())).map_err(Error::Write)?;
        rows += batch.num_rows();
    }
    stream.finish().map_err(encode)?;
    out.write_all(stream.get_ref()).map_err(Error::Write)?;
    Ok(rows)
}

/// An answer that a format cannot hold. The sink's own errors stay apart, so that a closed pipe can be told from them.
fn encode(error: ArrowError) -> Error {
    Error::Failed { message: error.to_string() }
}
