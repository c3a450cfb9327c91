//! Rows of the tables that Kafka feeds, borrowed from the message that they came in.

use super::ids::LogName;
use super::time::Timestamp;
use std::borrow::Cow;

/// The largest request or response body that is kept: 10 MiB, as Databricks' inference tables have it.
pub const LOGGED_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Where a message stands in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coordinates {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// Provenance that every row of an ingested table carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The id that Kafka gave the topic when it was made: a topic that is deleted and made again counts its offsets anew.
    pub topic_id: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The place of the record in its message: 0, but for formats that send several in one.
    pub record: i32,
    /// The time that the broker or producer put on the message.
    pub time: Option<Timestamp>,
    /// When we read it.
    pub ingest_time: Timestamp,
    /// When it was replayed from the dead letters; nothing for what came straight from Kafka.
    pub replay_time: Option<Timestamp>,
}

/// One logged call: a row of `inference_log` without its provenance. `request_date` is the day of `request_time`.
#[derive(Debug, Clone, PartialEq)]
pub struct InferenceRow<'a> {
    /// The server's id of the call; feedback refers to it.
    pub request_id: Cow<'a, str>,
    /// The id that the client gave.
    pub client_request_id: Option<Cow<'a, str>>,
    /// When the call came in.
    pub request_time: Timestamp,
    /// The HTTP status that was answered.
    pub status_code: Option<i32>,
    /// The share of calls that were logged.
    pub sampling_fraction: Option<f64>,
    /// The whole call's duration in milliseconds.
    pub execution_duration_ms: Option<i64>,
    /// The raw request body.
    pub request: Cow<'a, str>,
    /// The raw response body; absent where the call gave none.
    pub response: Option<Cow<'a, str>>,
    /// What went wrong while logging, such as `MAX_RESPONSE_SIZE_EXCEEDED`.
    pub logging_error_codes: Vec<Cow<'a, str>>,
    /// The served entity (Databricks' name for the deployment).
    pub served_entity_id: Option<Cow<'a, str>>,
    /// Who asked.
    pub requester: Option<Cow<'a, str>>,
    /// `chat`, `text_completion`, `embeddings` … (OpenTelemetry's `gen_ai.operation.name`).
    pub operation: Option<Cow<'a, str>>,
    /// The model that was asked for.
    pub model: Option<Cow<'a, str>>,
    /// The adapter version that answered, such as `support-sql@v17`.
    pub model_version: Option<Cow<'a, str>>,
    /// The conversation.
    pub conversation_id: Option<Cow<'a, str>>,
    /// The request's messages as canonical JSON.
    pub messages: Option<Cow<'a, str>>,
    /// The last user turn.
    pub prompt: Option<Cow<'a, str>>,
    /// The hash of `messages`.
    pub prompt_hash: Option<Cow<'a, str>>,
    /// The first choice's text.
    pub completion: Option<Cow<'a, str>>,
    /// Why the model stopped.
    pub finish_reason: Option<Cow<'a, str>>,
    /// Tokens of the prompt.
    pub input_tokens: Option<i64>,
    /// Tokens of the answer.
    pub output_tokens: Option<i64>,
    /// Milliseconds to the first token.
    pub time_to_first_token_ms: Option<i64>,
    /// Whether the answer was streamed.
    pub stream: Option<bool>,
    /// Every field of the message that has no place above: one JSON object in canonical order.
    pub extra: Option<Cow<'a, str>>,
}

/// One signal of a user on a request: a row of `feedback` without its provenance.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackRow<'a> {
    /// The signal's own id.
    pub feedback_id: Cow<'a, str>,
    /// The call that it is about.
    pub request_id: Cow<'a, str>,
    /// When it was given.
    pub feedback_time: Timestamp,
    /// Thumb up or down.
    pub thumb: Option<bool>,
    /// A score in `[0, 1]`.
    pub score: Option<f64>,
    /// Free text.
    pub text: Option<Cow<'a, str>>,
    /// Who gave it.
    pub requester: Option<Cow<'a, str>>,
}

/// Why a message could not become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadLetterCode {
    /// The message has no value (a tombstone on a log topic).
    Empty,
    /// The bytes are not UTF-8.
    NotUtf8,
    /// The bytes are not JSON.
    NotJson,
    /// The JSON is none of the formats that are understood.
    UnknownFormat,
    /// A field that must be there is not.
    MissingField,
    /// A field has another type than its schema says.
    WrongType,
    /// A field has the right type and a value that cannot be.
    WrongValue,
    /// The message is larger than the configured bound.
    TooLarge,
    /// The schema registry knows no schema of the message's id, or one that cannot be read with.
    UnknownSchema,
    /// The bytes do not follow the schema that they name.
    NotOfSchema,
    /// The response is one chunk of a stream whose rest is in other messages.
    StreamChunk,
}

impl DeadLetterCode {
    /// The code as the table stores it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::NotUtf8 => "NOT_UTF8",
            Self::NotJson => "NOT_JSON",
            Self::UnknownFormat => "UNKNOWN_FORMAT",
            Self::MissingField => "MISSING_FIELD",
            Self::WrongType => "WRONG_TYPE",
            Self::WrongValue => "WRONG_VALUE",
            Self::TooLarge => "TOO_LARGE",
            Self::UnknownSchema => "UNKNOWN_SCHEMA",
            Self::NotOfSchema => "NOT_OF_SCHEMA",
            Self::StreamChunk => "STREAM_CHUNK",
        }
    }
}

/// One message that could not become a row, whole, so that it can be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow<'a> {
    /// The kind of fault.
    pub code: DeadLetterCode,
    /// The precise reason, with the field and what would be right.
    pub reason: String,
    /// The message's key.
    pub key: Option<&'a [u8]>,
    /// The message's raw bytes.
    pub payload: Option<&'a [u8]>,
    /// The message's headers, in order.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// What one message became.
#[derive(Debug, Clone, PartialEq)]
pub enum Row<'a> {
    /// A logged call.
    Inference(Box<InferenceRow<'a>>),
    /// A user's signal.
    Feedback(FeedbackRow<'a>),
    /// Nothing that we understand.
    DeadLetter(DeadLetterRow<'a>),
}

/// Which table a topic's messages are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// `inference_log`.
    Inference,
    /// A table of inference logs of its own.
    Log(LogName),
    /// `feedback`.
    Feedback,
}

impl RowKind {
    /// Logged calls of a table by its name.
    #[must_use]
    pub fn of_log(table: LogName) -> Self {
        if table.as_str() == "inference_log" { Self::Inference } else { Self::Log(table) }
    }
}
