//! `dead_letter`: one message that could not become a row, whole, with its coordinates and the reason.

use super::batch;
use super::inference_log::OriginBuilder;
use crate::domain::{DeadLetterRow, Origin};
use crate::lake::column::Kind::{Bytes, Headers, Int, Long, Text, Time};
use crate::lake::column::{Column, element, optional, required};
use crate::lake::table::TableName;
use arrow::array::{ArrayRef, BinaryBuilder, ListBuilder, RecordBatch, StringBuilder, StructBuilder};
use arrow::datatypes::{DataType, Field, Fields};
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("code", Text, "the kind of fault, such as MISSING_FIELD"),
    required("reason", Text, "the precise reason, with the field and what would be right"),
    optional("key", Bytes, "the message's key"),
    optional("payload", Bytes, "the message's raw bytes"),
    optional("headers", Headers, "the message's headers, in order"),
    required("kafka_topic", Text, "the topic that the message came from"),
    required(
        "kafka_topic_id",
        Text,
        "the id that Kafka gave the topic when it was made; 0 where it gives none; with `~1` behind it where the broker lost the end of the partition's log once",
    ),
    required("kafka_partition", Int, "its partition"),
    required("kafka_offset", Long, "its offset"),
    optional("kafka_record", Int, "the place in the message of a record that was sent with others; 0 or null else"),
    optional("kafka_time", Time, "the time that the broker or producer put on the message"),
    required("ingest_time", Time, "when it was read from Kafka"),
];

/// Collects rows straight from borrowed messages into Arrow's buffers.
#[derive(Debug)]
pub struct DeadLetterBuilder {
    code: StringBuilder,
    reason: StringBuilder,
    key: BinaryBuilder,
    payload: BinaryBuilder,
    headers: ListBuilder<StructBuilder>,
    origin: OriginBuilder,
}

impl Default for DeadLetterBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl DeadLetterBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        let fields: Fields =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)].into();
        let header =
            StructBuilder::new(fields.clone(), vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())]);
        Self {
            code: StringBuilder::new(),
            reason: StringBuilder::new(),
            key: BinaryBuilder::new(),
            payload: BinaryBuilder::new(),
            headers: ListBuilder::new(header).with_field(element(DataType::Struct(fields))),
            origin: OriginBuilder::new(),
        }
    }

    /// Copies one row in.
    pub fn append(&mut self, row: &DeadLetterRow<'_>, origin: &Origin<'_>) {
        self.code.append_value(row.code.as_str());
        self.reason.append_value(&row.reason);
        self.key.append_option(row.key);
        self.payload.append_option(row.payload);
        for (key, value) in &row.headers {
            let header = self.headers.values();
            header.field_builder::<StringBuilder>(0).expect("a header begins with its key").append_value(key);
            header.field_builder::<BinaryBuilder>(1).expect("a header ends with its value").append_option(*value);
            header.append(true);
        }
        self.headers.append(true);
        self.origin.append(origin);
    }

    /// Hands the rows over as a batch of the table and begins anew.
    pub fn finish(&mut self) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.code.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(self.headers.finish()),
        ];
        columns.extend(self.origin.finish());
        batch(TableName::DeadLetter, columns)
    }
}
