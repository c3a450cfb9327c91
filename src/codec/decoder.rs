//! Messages of every format to rows: the one way in.
//!
//! ```text
//! bytes ─► frame of a schema registry? ─► Avro to JSON ─┐
//!    └───► UTF-8 ─► OTLP? ─► a plain row each record ───┤
//!                └──────────────────────────────────────┴─► redacted ─► decoded ─► row
//! ```
//!
//! Every format is brought into the JSON of a plain row first, so that redaction, unknown fields and what is derived from
//! bodies are the same for all. A message gives at least one row or dead letter, or the id of a schema that must be known
//! before it can be read; then nothing was handed over, and it is to be decoded again.

use super::avro;
use super::fault::Fault;
use super::redact::{NotJson, Redactor};
use super::registry::{Known, SchemaId, Schemas, frame};
use super::{feedback, inference, otel};
use crate::domain::{DeadLetterCode, DeadLetterRow, Row, RowKind};
use std::borrow::Cow;
use std::sync::Arc;

/// What a topic's messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Whatever each message looks like: JSON of any kind, or framed where a registry is configured.
    #[default]
    Auto,
    /// Our envelope or a plain row.
    Json,
    /// Log records of OpenTelemetry.
    Otlp,
    /// Framed for a schema registry.
    Registry,
}

/// One message as Kafka hands it over.
pub struct Message<'a> {
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub payload: Option<&'a [u8]>,
    /// Gives the headers; they are only asked for where a dead letter keeps them.
    pub headers: &'a dyn Fn() -> Headers<'a>,
}

/// A message's headers, in order.
pub type Headers<'a> = Vec<(&'a str, Option<&'a [u8]>)>;

/// Takes in what a message became: the place of the record within the message, and the row.
pub type Take<'t> = &'t mut dyn FnMut(i32, Row<'_>);

/// How messages become rows; a cheap handle.
#[derive(Debug, Clone)]
pub struct Decoder {
    redactor: Option<Arc<Redactor>>,
    schemas: Option<Schemas>,
    message_bytes_max: usize,
}

impl Decoder {
    /// A decoder that takes messages up to a size.
    #[must_use]
    pub fn new(message_bytes_max: usize) -> Self {
        Self { redactor: None, schemas: None, message_bytes_max }
    }

    /// Replaces what must not be stored.
    #[must_use]
    pub fn with_redactor(mut self, redactor: Option<Arc<Redactor>>) -> Self {
        self.redactor = redactor;
        self
    }

    /// Reads framed messages by the schemas of a registry.
    #[must_use]
    pub fn with_schemas(mut self, schemas: Option<Schemas>) -> Self {
        self.schemas = schemas;
        self
    }

    /// Whether a schema is known by now.
    #[must_use]
    pub fn knows(&self, id: SchemaId) -> bool {
        self.schemas.as_ref().is_some_and(|schemas| schemas.get(id).is_some())
    }

    /// Decodes one message.
    ///
    /// # Errors
    /// The id of a schema that is not known yet: ask the registry, and decode the message again.
    pub fn decode(&self, kind: RowKind, format: Format, message: &Message<'_>, take: Take<'_>) -> Result<(), SchemaId> {
        let one = One { decoder: self, kind, message };
        let Some(payload) = message.payload else {
            one.refuse(
                0,
                Fault::new(DeadLetterCode::Empty, "the message has no value; a JSON object is expected"),
                None,
                take,
            );
            return Ok(());
        };
        if payload.len() > self.message_bytes_max {
            let (size, most) = (payload.len(), self.message_bytes_max);
            let reason = format!("the message has {size} bytes; at most {most} are accepted");
            one.refuse(0, Fault::new(DeadLetterCode::TooLarge, reason), Some(payload), take);
            return Ok(());
        }
        match self.framed(format, payload)? {
            Framed::Plain(bytes) => one.plain(format, bytes, take),
            Framed::Row(json) => one.row(0, &json, payload, take),
            Framed::Refused(fault) => one.refuse(0, fault, Some(payload), take),
        }
        Ok(())
    }

    fn framed<'p>(&self, format: Format, payload: &'p [u8]) -> Result<Framed<'p>, SchemaId> {
        let schemas = self.schemas.as_ref().filter(|_| matches!(format, Format::Auto | Format::Registry));
        let Some(schemas) = schemas else { return Ok(Framed::Plain(payload)) };
        let Some((id, data)) = frame(payload) else {
            let reason = "the message does not begin with a zero byte and a schema's id in four bytes";
            let refused = || Framed::Refused(Fault::new(DeadLetterCode::UnknownFormat, reason));
            return Ok(if format == Format::Registry { refused() } else { Framed::Plain(payload) });
        };
        Ok(match schemas.get(id).ok_or(id)? {
            Known::Json => Framed::Plain(data),
            Known::Avro(schema) => match avro::to_json(&schema, data) {
                Ok(json) => Framed::Row(json),
                Err(e) => {
                    let reason = format!("the data do not follow schema {}: {e}", id.0);
                    Framed::Refused(Fault::new(DeadLetterCode::NotOfSchema, reason))
                }
            },
            Known::Unusable(why) => {
                Framed::Refused(Fault::new(DeadLetterCode::UnknownSchema, format!("schema {}: {why}", id.0)))
            }
        })
    }
}

enum Framed<'p> {
    /// The data are text.
    Plain(&'p [u8]),
    /// The data became a plain row.
    Row(String),
    Refused(Fault),
}

/// One message on its way.
struct One<'d, 'm> {
    decoder: &'d Decoder,
    kind: RowKind,
    message: &'d Message<'m>,
}

impl One<'_, '_> {
    fn plain(&self, format: Format, bytes: &[u8], take: Take<'_>) {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => {
                let reason = format!("byte {} is not UTF-8; JSON in UTF-8 is expected", e.valid_up_to());
                return self.refuse(0, Fault::new(DeadLetterCode::NotUtf8, reason), self.message.payload, take);
            }
        };
        let export = format == Format::Otlp || (format == Format::Auto && otel::is_export(text));
        if !export || self.kind == RowKind::Feedback {
            return self.row(0, text, bytes, take);
        }
        match otel::rows(text) {
            Err(fault) => self.refuse(0, fault, self.message.payload, take),
            Ok(rows) => {
                for (place, row) in (0..).zip(rows) {
                    match row {
                        Ok(json) => self.row(place, &json, json.as_bytes(), take),
                        Err((fault, alone)) => self.refuse(place, fault, Some(alone.as_bytes()), take),
                    }
                }
            }
        }
    }

    /// Decodes the JSON of one row. `payload` is what a dead letter keeps of it where nothing is redacted.
    fn row(&self, place: i32, json: &str, payload: &[u8], take: Take<'_>) {
        let redacted = match self.decoder.redactor.as_ref().map(|redactor| redactor.json(json)).transpose() {
            Ok(redacted) => redacted.flatten(),
            Err(NotJson { at }) => {
                let reason = format!("the message is not JSON, or nested too deep, from byte {at} on");
                return self.refuse(place, Fault::new(DeadLetterCode::NotJson, reason), Some(payload), take);
            }
        };
        let text = redacted.as_deref().unwrap_or(json);
        let row = match self.kind {
            RowKind::Feedback => feedback::decode(text).map(Row::Feedback),
            _ => inference::decode(text).map(|row| Row::Inference(Box::new(row))),
        };
        match row {
            Ok(row) => take(place, row),
            Err(fault) if redacted.is_some() => self.dead(place, fault, Some(text.as_bytes()), take),
            // It was looked through, and nothing in it had to be replaced.
            Err(fault) => self.dead(place, fault, Some(payload), take),
        }
    }

    /// A dead letter of what was not looked through yet.
    fn refuse(&self, place: i32, fault: Fault, payload: Option<&[u8]>, take: Take<'_>) {
        let kept = payload.map(|bytes| match &self.decoder.redactor {
            Some(redactor) => redactor.refused(bytes),
            None => Cow::Borrowed(bytes),
        });
        self.dead(place, fault, kept.as_deref(), take);
    }

    fn dead(&self, place: i32, fault: Fault, payload: Option<&[u8]>, take: Take<'_>) {
        let headers = (self.message.headers)();
        let Some(redactor) = &self.decoder.redactor else {
            return take(place, Row::DeadLetter(fault.into_row(self.message.key, payload, headers)));
        };
        let key = self.message.key.map(|key| redactor.bytes(key));
        let headers: Vec<_> = headers
            .into_iter()
            .map(|(name, value)| (redactor.text(name), value.map(|value| redactor.bytes(value))))
            .collect();
        let row = DeadLetterRow {
            code: fault.code,
            reason: redactor.text(&fault.reason).into_owned(),
            key: key.as_deref(),
            payload,
            headers: headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect(),
        };
        take(place, Row::DeadLetter(row));
    }
}
