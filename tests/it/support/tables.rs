//! Tables in memory, for sessions and windows.

use arrow::array::{
    ArrayRef, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use datafusion::datasource::MemTable;
use pelton::domain::{ChatMessage, canonical_json};
use pelton::query::Table;
use std::sync::Arc;

/// A row of a small `inference_log`: id, time in microseconds, messages.
pub type LogRow = (String, i64, Option<String>);

/// The columns of `inference_log` that windows use.
pub fn log_batch(rows: &[LogRow]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.0)));
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.1)).with_timezone("UTC");
    let messages: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|r| r.2.clone())));
    let tokens: ArrayRef = Arc::new(Int64Array::from_iter_values((0..).take(rows.len())));
    let mut codes = ListBuilder::new(StringBuilder::new());
    for i in 0..rows.len() {
        if i % 2 == 1 {
            codes.values().append_value("MAX_RESPONSE_SIZE_EXCEEDED");
        }
        codes.append(true);
    }
    RecordBatch::try_from_iter_with_nullable([
        ("request_id", ids, false),
        ("request_time", Arc::new(times) as ArrayRef, false),
        ("messages", messages, true),
        ("output_tokens", tokens, true),
        ("logging_error_codes", Arc::new(codes.finish()) as ArrayRef, true),
    ])
    .unwrap()
}

/// A table of these batches, one partition each.
pub fn table(name: &str, batches: Vec<RecordBatch>) -> Table {
    let schema = batches[0].schema();
    let partitions = batches.into_iter().map(|b| vec![b]).collect();
    Table { name: name.to_owned(), provider: Arc::new(MemTable::try_new(schema, partitions).unwrap()) }
}

/// `inference_log` with these rows.
pub fn inference_log(rows: &[LogRow]) -> Table {
    table("inference_log", vec![log_batch(rows)])
}

/// A row whose prompt is one user turn.
pub fn asked(id: &str, micros: i64, text: &str) -> LogRow {
    (id.to_owned(), micros, Some(canonical_json(&[ChatMessage::user(text)])))
}
