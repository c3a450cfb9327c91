//! `inference_log`: one logged call a row, partitioned by the day of the call.
//!
//! Names and types follow Databricks' AI-gateway inference tables; what a flywheel needs beside them follows, and the
//! provenance that makes loss and duplicates a question for SQL.

use super::time_builder;
use crate::domain::{InferenceRow, Origin};
use crate::lake::column::Kind::{Bool, Date, Double, Int, Long, Text, Texts, Time};
use crate::lake::column::{Column, arrow_schema, element, optional, required};
use crate::lake::promoted::{Promoted, PromotedBuilder};
use crate::lake::text::{TextColumn, TextMemory};
use arrow::array::{
    ArrayBuilder as _, BooleanBuilder, Date32Builder, Float64Builder, Int32Builder, Int64Builder, ListBuilder,
    RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Schema};
use std::sync::Arc;

/// The columns.
pub const COLUMNS: &[Column] = &[
    required("request_id", Text, "the server's id of the call; feedback refers to it"),
    optional("client_request_id", Text, "the id that the client gave"),
    required("request_date", Date, "the UTC day of request_time; the partition"),
    required("request_time", Time, "when the call came in"),
    optional("status_code", Int, "the HTTP status that was answered"),
    optional("sampling_fraction", Double, "the share of calls that were logged, 0 to 1"),
    optional("execution_duration_ms", Long, "the whole call's duration in milliseconds"),
    required("request", Text, "the raw request body, JSON"),
    optional("response", Text, "the raw response body, JSON; null where the call gave none"),
    optional("logging_error_codes", Texts, "what went wrong while logging, such as MAX_RESPONSE_SIZE_EXCEEDED"),
    optional("served_entity_id", Text, "the served entity (the deployment)"),
    optional("requester", Text, "who asked"),
    optional("operation", Text, "chat, text_completion, embeddings … (OpenTelemetry's gen_ai.operation.name)"),
    optional("model", Text, "the model that was asked for"),
    optional("model_version", Text, "the adapter version that answered, such as support-sql@v17"),
    optional("conversation_id", Text, "the conversation"),
    optional("messages", Text, "the request's messages as canonical JSON"),
    optional("prompt", Text, "the last user turn"),
    optional("prompt_hash", Text, "128 bits of the SHA-256 of messages, hexadecimal"),
    optional("completion", Text, "the first choice's text"),
    optional("finish_reason", Text, "why the model stopped"),
    optional("input_tokens", Long, "tokens of the prompt"),
    optional("output_tokens", Long, "tokens of the answer"),
    optional("time_to_first_token_ms", Long, "milliseconds to the first token"),
    optional("stream", Bool, "whether the answer was streamed"),
    optional("extra", Text, "every field of the message that has no column: one JSON object, keys in order"),
    required("kafka_topic", Text, "the topic that the log came from"),
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
pub struct InferenceLogBuilder {
    request_id: StringBuilder,
    client_request_id: StringBuilder,
    request_date: Date32Builder,
    request_time: TimestampMicrosecondBuilder,
    status_code: Int32Builder,
    sampling_fraction: Float64Builder,
    execution_duration_ms: Int64Builder,
    request: TextColumn,
    response: TextColumn,
    logging_error_codes: ListBuilder<StringBuilder>,
    served_entity_id: StringBuilder,
    requester: StringBuilder,
    operation: StringBuilder,
    model: StringBuilder,
    model_version: StringBuilder,
    conversation_id: StringBuilder,
    messages: TextColumn,
    prompt: TextColumn,
    prompt_hash: StringBuilder,
    completion: TextColumn,
    finish_reason: StringBuilder,
    input_tokens: Int64Builder,
    output_tokens: Int64Builder,
    time_to_first_token_ms: Int64Builder,
    stream: BooleanBuilder,
    extra: StringBuilder,
    origin: OriginBuilder,
    promoted: PromotedBuilder,
    memory: TextMemory,
}

/// The columns that most of a row's bytes are in.
const LONG_TEXTS: [&str; 5] = ["request", "response", "messages", "prompt", "completion"];

/// Memory of the long texts, which keeps at most so many bytes for batches that come.
#[must_use]
pub fn text_memory(free_bytes_max: usize) -> TextMemory {
    TextMemory::new(LONG_TEXTS.len(), free_bytes_max)
}

/// Gives back the memory of a batch that is stored.
pub fn reuse(memory: &TextMemory, batch: RecordBatch) {
    memory.reuse(batch, &LONG_TEXTS);
}

/// The provenance columns that every ingested table ends with.
#[derive(Debug)]
pub(super) struct OriginBuilder {
    topic: StringBuilder,
    topic_id: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    record: Int32Builder,
    time: TimestampMicrosecondBuilder,
    ingest_time: TimestampMicrosecondBuilder,
    replay_time: TimestampMicrosecondBuilder,
}

impl OriginBuilder {
    pub(super) fn new() -> Self {
        Self {
            topic: StringBuilder::new(),
            topic_id: StringBuilder::new(),
            partition: Int32Builder::new(),
            offset: Int64Builder::new(),
            record: Int32Builder::new(),
            time: time_builder(),
            ingest_time: time_builder(),
            replay_time: time_builder(),
        }
    }

    pub(super) fn append(&mut self, origin: &Origin<'_>) {
        self.topic.append_value(origin.topic);
        self.topic_id.append_value(origin.topic_id);
        self.partition.append_value(origin.partition);
        self.offset.append_value(origin.offset);
        self.record.append_value(origin.record);
        self.time.append_option(origin.time.map(crate::domain::Timestamp::micros));
        self.ingest_time.append_value(origin.ingest_time.micros());
        self.replay_time.append_option(origin.replay_time.map(crate::domain::Timestamp::micros));
    }

    /// What tables of rows have beside the columns of [`Self::finish`]: a dead letter is never replayed as one.
    pub(super) fn finish_replay_time(&mut self) -> arrow::array::ArrayRef {
        Arc::new(self.replay_time.finish())
    }

    pub(super) fn finish(&mut self) -> [arrow::array::ArrayRef; 7] {
        [
            Arc::new(self.topic.finish()),
            Arc::new(self.topic_id.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.record.finish()),
            Arc::new(self.time.finish()),
            Arc::new(self.ingest_time.finish()),
        ]
    }
}

impl Default for InferenceLogBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl InferenceLogBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::with_promoted(&Promoted::default())
    }

    /// An empty builder of a table with columns for some fields of `extra`.
    #[must_use]
    pub fn with_promoted(promoted: &Promoted) -> Self {
        let codes = ListBuilder::new(StringBuilder::new()).with_field(element(DataType::Utf8));
        Self {
            request_id: StringBuilder::new(),
            client_request_id: StringBuilder::new(),
            request_date: Date32Builder::new(),
            request_time: time_builder(),
            status_code: Int32Builder::new(),
            sampling_fraction: Float64Builder::new(),
            execution_duration_ms: Int64Builder::new(),
            request: TextColumn::new(),
            response: TextColumn::new(),
            logging_error_codes: codes,
            served_entity_id: StringBuilder::new(),
            requester: StringBuilder::new(),
            operation: StringBuilder::new(),
            model: StringBuilder::new(),
            model_version: StringBuilder::new(),
            conversation_id: StringBuilder::new(),
            messages: TextColumn::new(),
            prompt: TextColumn::new(),
            prompt_hash: StringBuilder::new(),
            completion: TextColumn::new(),
            finish_reason: StringBuilder::new(),
            input_tokens: Int64Builder::new(),
            output_tokens: Int64Builder::new(),
            time_to_first_token_ms: Int64Builder::new(),
            stream: BooleanBuilder::new(),
            extra: StringBuilder::new(),
            origin: OriginBuilder::new(),
            memory: text_memory(0),
            promoted: PromotedBuilder::new(promoted),
        }
    }

    /// Collects in memory of batches that are done.
    #[must_use]
    pub fn with_memory(mut self, memory: &TextMemory) -> Self {
        self.memory = memory.clone();
        self
    }

    fn long_texts(&mut self) -> [&mut TextColumn; 5] {
        [&mut self.request, &mut self.response, &mut self.messages, &mut self.prompt, &mut self.completion]
    }

    fn ask_for_memory(&mut self) {
        let memory = self.memory.clone();
        for (number, column) in self.long_texts().into_iter().enumerate() {
            *column = memory.take(number);
        }
    }

    fn tell_sizes(&mut self) {
        let memory = self.memory.clone();
        for (number, column) in self.long_texts().into_iter().enumerate() {
            memory.tell(number, column.len(), column.bytes());
        }
    }

    /// Rows collected.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.request_id.len()
    }

    /// Copies one row in.
    pub fn append(&mut self, row: &InferenceRow<'_>, origin: &Origin<'_>) {
        if self.rows() == 0 {
            self.ask_for_memory();
        }
        self.request_id.append_value(&row.request_id);
        self.client_request_id.append_option(row.client_request_id.as_deref());
        self.request_date.append_value(row.request_time.date_days());
        self.request_time.append_value(row.request_time.micros());
        self.status_code.append_option(row.status_code);
        self.sampling_fraction.append_option(row.sampling_fraction);
        self.execution_duration_ms.append_option(row.execution_duration_ms);
        self.request.append_option(Some(&*row.request));
        self.response.append_option(row.response.as_deref());
        for code in &row.logging_error_codes {
            self.logging_error_codes.values().append_value(code);
        }
        self.logging_error_codes.append(true);
        self.served_entity_id.append_option(row.served_entity_id.as_deref());
        self.requester.append_option(row.requester.as_deref());
        self.operation.append_option(row.operation.as_deref());
        self.model.append_option(row.model.as_deref());
        self.model_version.append_option(row.model_version.as_deref());
        self.conversation_id.append_option(row.conversation_id.as_deref());
        self.messages.append_option(row.messages.as_deref());
        self.prompt.append_option(row.prompt.as_deref());
        self.prompt_hash.append_option(row.prompt_hash.as_deref());
        self.completion.append_option(row.completion.as_deref());
        self.finish_reason.append_option(row.finish_reason.as_deref());
        self.input_tokens.append_option(row.input_tokens);
        self.output_tokens.append_option(row.output_tokens);
        self.time_to_first_token_ms.append_option(row.time_to_first_token_ms);
        self.stream.append_option(row.stream);
        self.extra.append_option(self.promoted.append(row.extra.as_deref()).as_deref());
        self.origin.append(origin);
    }

    /// Hands the rows over as a batch of the table and begins anew.
    pub fn finish(&mut self) -> RecordBatch {
        self.tell_sizes();
        let mut columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(self.request_id.finish()),
            Arc::new(self.client_request_id.finish()),
            Arc::new(self.request_date.finish()),
            Arc::new(self.request_time.finish()),
            Arc::new(self.status_code.finish()),
            Arc::new(self.sampling_fraction.finish()),
            Arc::new(self.execution_duration_ms.finish()),
            self.request.finish(),
            self.response.finish(),
            Arc::new(self.logging_error_codes.finish()),
            Arc::new(self.served_entity_id.finish()),
            Arc::new(self.requester.finish()),
            Arc::new(self.operation.finish()),
            Arc::new(self.model.finish()),
            Arc::new(self.model_version.finish()),
            Arc::new(self.conversation_id.finish()),
            self.messages.finish(),
            self.prompt.finish(),
            Arc::new(self.prompt_hash.finish()),
            self.completion.finish(),
            Arc::new(self.finish_reason.finish()),
            Arc::new(self.input_tokens.finish()),
            Arc::new(self.output_tokens.finish()),
            Arc::new(self.time_to_first_token_ms.finish()),
            Arc::new(self.stream.finish()),
            Arc::new(self.extra.finish()),
        ];
        columns.extend(self.origin.finish());
        columns.push(self.origin.finish_replay_time());
        columns.extend(self.promoted.finish());
        let fields = arrow_schema(COLUMNS).fields().iter().cloned().chain(self.promoted.fields()).collect::<Vec<_>>();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the builders follow the table's columns")
    }
}
