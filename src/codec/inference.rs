//! A logged call in the two forms that are understood: our envelope (`schemas/inference-log.v1.json`), whose bodies are
//! JSON as they were sent, and the plain row of Databricks' inference tables, whose bodies are strings of JSON.
//!
//! The row's own fields must be right. The bodies may be odd: what cannot be derived from them is absent.

use super::body::{self, Derived};
use super::fault::Fault;
use super::field::{Field, object};
use super::schema::INFERENCE_LOG_V1;
use crate::domain::{DeadLetterCode, InferenceRow, LOGGED_BYTES_MAX};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Every field that either form has; others are tolerated.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    databricks_request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    client_request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    request_time: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    status_code: Option<&'a RawValue>,
    #[serde(borrow)]
    sampling_fraction: Option<&'a RawValue>,
    #[serde(borrow)]
    execution_duration_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    execution_time_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    time_to_first_token_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    served_entity_id: Option<&'a RawValue>,
    #[serde(borrow)]
    requester: Option<&'a RawValue>,
    #[serde(borrow)]
    operation: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    model_version: Option<&'a RawValue>,
    #[serde(borrow)]
    conversation_id: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow)]
    logging_error_codes: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

enum Form {
    Envelope,
    Plain,
}

pub(super) fn decode(text: &str) -> Result<InferenceRow<'_>, Fault> {
    let wire: Wire<'_> = object(text)?;
    let form = form(&wire)?;
    let mut codes = Field::new("logging_error_codes", wire.logging_error_codes).texts()?;
    let (request, response) = bodies(&form, &wire)?;
    let derived = body::derive(&request, response.as_deref());
    let request = bounded(Some(request), "MAX_REQUEST_SIZE_EXCEEDED", &mut codes).unwrap_or(Cow::Borrowed("null"));
    let response = bounded(response, "MAX_RESPONSE_SIZE_EXCEEDED", &mut codes);
    row(&wire, request, response, codes, derived)
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
        (Form::Envelope, Some(raw)) if !raw.get().starts_with('{') => Err(Fault::new(
            DeadLetterCode::WrongType,
            request.wrong_value(raw.get(), "the raw request body, an object,").reason,
        )),
        (Form::Envelope, Some(raw)) => Ok((Cow::Borrowed(raw.get()), wire.response.map(|r| Cow::Borrowed(r.get())))),
        (Form::Plain, Some(raw)) => {
            Ok((plain_body("request", raw)?, wire.response.map(|r| plain_body("response", r)).transpose()?))
        }
    }
}

/// A plain row's body: a string of JSON, or the JSON itself where a producer left the quoting out.
fn plain_body<'a>(name: &'static str, raw: &'a RawValue) -> Result<Cow<'a, str>, Fault> {
    if raw.get().starts_with(['{', '[']) {
        return Ok(Cow::Borrowed(raw.get()));
    }
    Ok(Field::new(name, Some(raw)).text()?.unwrap_or_default())
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
    derived: Derived,
) -> Result<InferenceRow<'a>, Fault> {
    let text = |name, raw| Field::new(name, raw).text();
    let owned = |value: Option<String>| value.map(Cow::Owned);
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
        model: text("model", wire.model)?.or_else(|| owned(derived.model)),
        model_version: text("model_version", wire.model_version)?.or_else(|| owned(derived.model_version)),
        conversation_id: text("conversation_id", wire.conversation_id)?,
        messages: owned(derived.messages),
        prompt: owned(derived.prompt),
        prompt_hash: owned(derived.prompt_hash),
        completion: owned(derived.completion),
        finish_reason: owned(derived.finish_reason),
        input_tokens: derived.input_tokens,
        output_tokens: derived.output_tokens,
        time_to_first_token_ms: Field::new("time_to_first_token_ms", wire.time_to_first_token_ms).long()?,
        stream: Field::new("stream", wire.stream).boolean()?.or(derived.stream),
    })
}
