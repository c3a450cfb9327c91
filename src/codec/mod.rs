//! Bytes to and from domain values: everything that crosses Kafka. Embeds `schemas/`.
//!
//! [`decode`] borrows from the message wherever JSON's escapes allow, builds no document tree, and says of what it cannot
//! read which field it is, what was found and what would be right. It promises to answer for any bytes: a row or a fault,
//! never a panic. It never looks at a clock, so the same bytes give the same row on every replay.

pub mod avro;
mod body;
mod decoder;
mod encode;
pub mod event;
pub mod extra;
mod fault;
mod feedback;
mod field;
mod inference;
mod json;
mod otel;
pub mod redact;
pub mod registry;
mod scan;
pub mod schema;
mod sse;

pub use decoder::{Decoder, Format, Headers, Message, Take};
pub use encode::{EncodeError, Feedback, InferenceLog};
pub use fault::Fault;
pub use sse::{Assembled, assemble as assemble_stream};

use crate::domain::{DeadLetterCode, Row, RowKind};

/// Reads one message.
///
/// # Errors
/// A [`Fault`] with the code and the precise reason; the message then belongs into the dead letters.
pub fn decode(kind: RowKind, payload: Option<&[u8]>, message_bytes_max: usize) -> Result<Row<'_>, Fault> {
    let Some(payload) = payload else {
        return Err(Fault::new(DeadLetterCode::Empty, "the message has no value; a JSON object is expected"));
    };
    if payload.len() > message_bytes_max {
        let reason = format!("the message has {} bytes; at most {message_bytes_max} are accepted", payload.len());
        return Err(Fault::new(DeadLetterCode::TooLarge, reason));
    }
    let text = std::str::from_utf8(payload).map_err(|e| {
        let reason = format!("byte {} is not UTF-8; JSON in UTF-8 is expected", e.valid_up_to());
        Fault::new(DeadLetterCode::NotUtf8, reason)
    })?;
    match kind {
        RowKind::Inference | RowKind::Log(_) => inference::decode(text).map(|row| Row::Inference(Box::new(row))),
        RowKind::Feedback => feedback::decode(text).map(Row::Feedback),
    }
}
