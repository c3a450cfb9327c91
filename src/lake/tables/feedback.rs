//! `feedback`: one user signal on a logged call a row, joined to `inference_log` by `request_id`.

use super::inference_log::OriginBuilder;
use super::{batch, time_builder};
use crate::domain::{FeedbackRow, Origin};
use crate::lake::column::Kind::{Bool, Double, Int, Long, Text, Time};
use crate::lake::column::{Column, optional, required};
use crate::lake::table::TableName;
use arrow::array::{ArrayRef, BooleanBuilder, Float64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder};
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("feedback_id", Text, "the signal's own id"),
    required("request_id", Text, "the call that it is about"),
    required("feedback_time", Time, "when it was given"),
    optional("thumb", Bool, "thumb up (true) or down"),
    optional("score", Double, "a score, 0 to 1"),
    optional("text", Text, "free text"),
    optional("requester", Text, "who gave it"),
    required("kafka_topic", Text, "the topic that the signal came from"),
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
    optional("replay_time", Time, "when it was replayed from dead_letter; null for what came straight from Kafka"),
];

/// Collects rows straight from borrowed messages into Arrow's buffers.
#[derive(Debug)]
pub struct FeedbackBuilder {
    feedback_id: StringBuilder,
    request_id: StringBuilder,
    feedback_time: TimestampMicrosecondBuilder,
    thumb: BooleanBuilder,
    score: Float64Builder,
    text: StringBuilder,
    requester: StringBuilder,
    origin: OriginBuilder,
}

impl Default for FeedbackBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FeedbackBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self {
            feedback_id: StringBuilder::new(),
            request_id: StringBuilder::new(),
            feedback_time: time_builder(),
            thumb: BooleanBuilder::new(),
            score: Float64Builder::new(),
            text: StringBuilder::new(),
            requester: StringBuilder::new(),
            origin: OriginBuilder::new(),
        }
    }

    /// Copies one row in.
    pub fn append(&mut self, row: &FeedbackRow<'_>, origin: &Origin<'_>) {
        self.feedback_id.append_value(&row.feedback_id);
        self.request_id.append_value(&row.request_id);
        self.feedback_time.append_value(row.feedback_time.micros());
        self.thumb.append_option(row.thumb);
        self.score.append_option(row.score);
        self.text.append_option(row.text.as_deref());
        self.requester.append_option(row.requester.as_deref());
        self.origin.append(origin);
    }

    /// Hands the rows over as a batch of the table and begins anew.
    pub fn finish(&mut self) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.feedback_id.finish()),
            Arc::new(self.request_id.finish()),
            Arc::new(self.feedback_time.finish()),
            Arc::new(self.thumb.finish()),
            Arc::new(self.score.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.requester.finish()),
        ];
        columns.extend(self.origin.finish());
        columns.push(self.origin.finish_replay_time());
        batch(TableName::Feedback, columns)
    }
}
