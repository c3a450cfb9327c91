//! A logged call in the two forms that are understood: our envelope (`schemas/inference-log.v1.json`), whose bodies are
//! JSON as they were sent, and the plain row of Databricks' inference tables, whose bodies are strings of JSON.
//!
//! The row's own fields must be right. The bodies may be odd: what cannot be derived from them is absent.

use super::body::{self, Derived, Request, Response};
use super::fault::Fault;
use super::field::{Field, Member, object, raw_fields, string};
use super::json::canonical_object;
use super::scan::Scan;
use super::schema::INFERENCE_LOG_V1;
use super::sse;
use crate::domain::{DeadLetterCode, InferenceRow, LOGGED_BYTES_MAX};
use std::borrow::Cow;

raw_fields!(
    /// Every field that either form has; others land in `extra`.
    Wire {
        schema, request_id, databricks_request_id, client_request_id, request_time, timestamp_ms, status_code,
        sampling_fraction, execution_duration_ms, execution_time_ms, time_to_first_token_ms, served_entity_id, requester,
        operation, model, model_version, conversation_id, stream, logging_error_codes, request, response, request_date,
    }
);

/// Whether a row has a place of its own for a field.
pub(super) fn is_field(name: &str) -> bool {
    Wire::default().slot(name).is_some()
}

/// A message in one pass: its fields, and what is in its bodies where they are objects.
#[derive(Default)]
struct Message<'a> {
    wire: Wire<'a>,
    request: Option<Request<'a>>,
    response: Option<Response<'a>>,
    /// Fields that have no place in a row, and their values.
    extra: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Message<'a> {
    fn read(text: &'a str) -> Result<Self, Fault> {
        let mut message = Self::default();
        object(text, |scan, key| message.member(scan, key))?;
        message.wire = message.wire.without_nulls();
        Ok(message)
    }

    fn member(&mut self, scan: &mut Scan<'a>, key: &str) -> Option<Member> {
        let raw = match key {
            "request" => {
                let (raw, body) = scan.both(Request::read)?;
                self.request = body;
                raw
            }
            "response" => {
                let (raw, body) = scan.both(Response::read)?;
                self.response = body;
                raw
            }
            _ => scan.value()?,
        };
        match self.wire.slot(key) {
            Some(Some(_)) => return Some(Member::Twice),
            Some(slot) => *slot = Some(raw),
            None => self.extra.push((Cow::Owned(key.to_owned()), raw)),
        }
        Some(Member::Taken)
    }
}

enum Form {
    Envelope,
    Plain,
}

pub(super) fn decode(text: &str) -> Result<InferenceRow<'_>, Fault> {
    let Message { wire, request: asked, response: answered, extra } = Message::read(text)?;
    let form = form(&wire)?;
    let mut codes = Field::new("logging_error_codes", wire.logging_error_codes).texts()?;
    let (request, response) = bodies(&form, &wire)?;
    let response = response.map(|response| unstreamed(response, &mut codes));
    let derived = if wire.request.is_none_or(is_object) && wire.response.is_none_or(is_object) {
        // What stands in the message itself was read with it.
        body::derive(asked.unwrap_or_default(), whole(answered.unwrap_or_default())?)
    } else {
        let answered = whole(response.as_deref().map(Response::of).unwrap_or_default())?;
        body::derive(Request::of(&request), answered).into_owned()
    };
    let request = bounded(Some(request), "MAX_REQUEST_SIZE_EXCEEDED", &mut codes).unwrap_or(Cow::Borrowed("null"));
    let response = bounded(response, "MAX_RESPONSE_SIZE_EXCEEDED", &mut codes);
    let extra = (!extra.is_empty()).then(|| Cow::Owned(canonical_object(extra)));
    Ok(InferenceRow { extra, ..row(&wire, request, response, codes, derived)? })
}

/// A response that was logged as its stream becomes the body that it amounts to.
fn unstreamed<'a>(response: Cow<'a, str>, codes: &mut Vec<Cow<'a, str>>) -> Cow<'a, str> {
    let assembled = match response.as_bytes().first() {
        Some(b'{') | None => None,
        Some(b'[') => sse::assemble_list(&response),
        // An envelope's response is JSON, and so a stream in it is a string.
        Some(b'"') => string(&response).filter(|text| sse::is_stream(text)).and_then(|text| sse::assemble(&text)),
        Some(_) if sse::is_stream(&response) => sse::assemble(&response),
        Some(_) => None,
    };
    let Some(assembled) = assembled else { return response };
    codes.extend(assembled.codes.into_iter().map(Cow::Borrowed));
    Cow::Owned(assembled.body)
}

/// Refuses one chunk of a stream. Its rest is in other messages, perhaps of other partitions and batches; a row of it would
/// be counted as a call, and to join chunks would need memory that no offset stands for. The dead letter keeps it whole.
fn whole(response: Response<'_>) -> Result<Response<'_>, Fault> {
    if !response.is_chunk() {
        return Ok(response);
    }
    let reason = "field `response` is one chunk of a stream (`chat.completion.chunk`); the whole answer is expected in one \
                  message: assembled, as a list of its chunks, or as the text of its server-sent events";
    Err(Fault::new(DeadLetterCode::StreamChunk, reason))
}

fn form(wire: &Wire<'_>) -> Result<Form, Fault> {
    let schema = Field::new("schema", wire.schema);
    match schema.text()? {
        Some(name) if name == INFERENCE_LOG_V1.name => Ok(Form::Envelope),
        Some(name) => Err(Fault::new(
            DeadLetterCode::UnknownFormat,
            format!("field `schema` is \"{name}\"; \"{}\" is the one that is understood", INFERENCE_LOG_V1.name),
        )),
        None if wire.request_id.is_some() || wire.databricks_request_id.is_some() || wire.request.is_some() => {
            Ok(Form::Plain)
        }
        None => Err(Fault::new(
            DeadLetterCode::UnknownFormat,
            format!(
                "the object has neither `schema` (\"{}\") nor the `request_id` and `request` of a plain row",
                INFERENCE_LOG_V1.name
            ),
        )),
    }
}

/// The two bodies as JSON text.
fn bodies<'a>(form: &Form, wire: &Wire<'a>) -> Result<(Cow<'a, str>, Option<Cow<'a, str>>), Fault> {
    let request = Field::new("request", wire.request);
    match (form, wire.request) {
        (Form::Envelope, None) => Err(request.missing("the raw request body, an object,")),
        (Form::Plain, None) => Err(request.missing("the request body as a string of JSON")),
        (Form::Envelope, Some(raw)) if !is_object(raw) => Err(Fault {
            code: DeadLetterCode::WrongType,
            ..request.wrong_value(raw, "the raw request body, an object,")
        }),
        (Form::Envelope, Some(raw)) => Ok((Cow::Borrowed(raw), wire.response.map(Cow::Borrowed))),
        (Form::Plain, Some(raw)) => {
            Ok((plain_body("request", raw)?, wire.response.map(|r| plain_body("response", r)).transpose()?))
        }
    }
}

/// A plain row's body: a string of JSON, or the JSON itself where a producer left the quoting out.
fn plain_body<'a>(name: &'static str, raw: &'a str) -> Result<Cow<'a, str>, Fault> {
    if raw.starts_with(['{', '[']) {
        return Ok(Cow::Borrowed(raw));
    }
    Ok(Field::new(name, Some(raw)).text()?.unwrap_or_default())
}

fn is_object(raw: &str) -> bool {
    raw.starts_with('{')
}

fn bounded<'a>(body: Option<Cow<'a, str>>, code: &'static str, codes: &mut Vec<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    let fits = body.as_ref().is_none_or(|b| b.len() <= LOGGED_BYTES_MAX);
    if !fits {
        codes.push(Cow::Borrowed(code));
    }
    body.filter(|_| fits)
}

fn row<'a>(
    wire: &Wire<'a>,
    request: Cow<'a, str>,
    response: Option<Cow<'a, str>>,
    logging_error_codes: Vec<Cow<'a, str>>,
    derived: Derived<'a>,
) -> Result<InferenceRow<'a>, Fault> {
    let text = |name, raw| Field::new(name, raw).text();
    let id = match (wire.request_id, wire.databricks_request_id) {
        (None, Some(raw)) => Field::new("databricks_request_id", Some(raw)),
        (raw, _) => Field::new("request_id", raw),
    };
    let time = match (wire.request_time, wire.timestamp_ms) {
        (None, Some(raw)) => Field::new("timestamp_ms", Some(raw)),
        (raw, _) => Field::new("request_time", raw),
    };
    let duration = match (wire.execution_duration_ms, wire.execution_time_ms) {
        (None, Some(raw)) => Field::new("execution_time_ms", Some(raw)),
        (raw, _) => Field::new("execution_duration_ms", raw),
    };
    Ok(InferenceRow {
        request_id: id.required_text()?,
        client_request_id: text("client_request_id", wire.client_request_id)?,
        request_time: time.time()?,
        status_code: Field::new("status_code", wire.status_code).int()?,
        sampling_fraction: Field::new("sampling_fraction", wire.sampling_fraction).fraction()?,
        execution_duration_ms: duration.long()?,
        request,
        response,
        logging_error_codes,
        served_entity_id: text("served_entity_id", wire.served_entity_id)?,
        requester: text("requester", wire.requester)?,
        operation: text("operation", wire.operation)?.or_else(|| derived.operation.map(Cow::Borrowed)),
        model: text("model", wire.model)?.or(derived.model),
        model_version: text("model_version", wire.model_version)?.or(derived.model_version),
        conversation_id: text("conversation_id", wire.conversation_id)?,
        messages: derived.messages,
        prompt: derived.prompt,
        prompt_hash: derived.prompt_hash,
        completion: derived.completion,
        finish_reason: derived.finish_reason,
        input_tokens: derived.input_tokens,
        output_tokens: derived.output_tokens,
        time_to_first_token_ms: Field::new("time_to_first_token_ms", wire.time_to_first_token_ms).long()?,
        stream: Field::new("stream", wire.stream).boolean()?.or(derived.stream),
        extra: None,
    })
}
