//! OpenTelemetry's log records of GenAI calls (OTLP/JSON) become plain rows, one a record.
//!
//! Read is the event `gen_ai.client.inference.operation.details` of the semantic conventions after 1.36, and any record
//! that carries `gen_ai.input.messages` or `gen_ai.output.messages`. Messages with parts become OpenAI's bodies, so that
//! everything behind works alike; what has no place in a row lands in `extra` under its attribute's own name. A record of
//! something else beside them is left out; a message without any record of a call is a dead letter.

use super::fault::Fault;
use super::field::string;
use crate::domain::DeadLetterCode;
use base64::Engine as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The event of a call.
const CALL: &str = "gen_ai.client.inference.operation.details";
/// Attributes nested deeper are written as null: nobody sends such, and a stack is finite.
const DEPTH_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Export<'a> {
    #[serde(borrow, default, alias = "resource_logs")]
    resource_logs: Vec<ResourceLogs<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs<'a> {
    #[serde(borrow, default)]
    resource: Option<Attributed<'a>>,
    #[serde(borrow, default, alias = "scope_logs")]
    scope_logs: Vec<ScopeLogs<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs<'a> {
    #[serde(borrow, default, alias = "log_records")]
    log_records: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Attributed<'a> {
    #[serde(borrow, default)]
    attributes: Vec<KeyValue<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogRecord<'a> {
    #[serde(borrow, default, alias = "time_unix_nano")]
    time_unix_nano: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "observed_time_unix_nano")]
    observed_time_unix_nano: Option<&'a RawValue>,
    #[serde(borrow, default)]
    attributes: Vec<KeyValue<'a>>,
    #[serde(default, alias = "trace_id")]
    trace_id: Option<Cow<'a, str>>,
    #[serde(default, alias = "span_id")]
    span_id: Option<Cow<'a, str>>,
    #[serde(default, alias = "event_name")]
    event_name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct KeyValue<'a> {
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
}

/// OTLP's tagged value.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AnyValue<'a> {
    #[serde(borrow, alias = "string_value")]
    string_value: Option<&'a RawValue>,
    #[serde(borrow, alias = "bool_value")]
    bool_value: Option<&'a RawValue>,
    #[serde(borrow, alias = "int_value")]
    int_value: Option<&'a RawValue>,
    #[serde(borrow, alias = "double_value")]
    double_value: Option<&'a RawValue>,
    #[serde(borrow, alias = "array_value")]
    array_value: Option<Values<'a>>,
    #[serde(borrow, alias = "kvlist_value")]
    kvlist_value: Option<Pairs<'a>>,
    #[serde(borrow, alias = "bytes_value")]
    bytes_value: Option<Cow<'a, str>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Values<'a> {
    #[serde(borrow)]
    values: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Pairs<'a> {
    #[serde(borrow)]
    values: Vec<KeyValue<'a>>,
}

/// Whether a JSON object is an export of OTLP, whatever it exports.
pub(super) fn is_export(text: &str) -> bool {
    let head = text.trim_start().strip_prefix('{').unwrap_or_default().trim_start();
    ["\"resourceLogs\"", "\"resource_logs\"", "\"resourceSpans\"", "\"resourceMetrics\""]
        .iter()
        .any(|k| head.starts_with(k))
}

/// A record that is no row: why, and the record as a message of its own.
pub(super) type Refused = (Fault, String);

/// The records of calls in a message, each as a plain row's JSON or the reason why it is none.
pub(super) fn rows(text: &str) -> Result<Vec<Result<String, Refused>>, Fault> {
    let export: Export<'_> = read(text, "the message is no OTLP export of logs")?;
    let mut rows = Vec::new();
    let (mut others, mut old) = (0_usize, 0_usize);
    for logs in &export.resource_logs {
        let resource = logs.resource.as_ref().map(|r| attributes(&r.attributes)).filter(|r| !r.is_empty());
        for raw in logs.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            let alone = |fault| (fault, format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{raw}]}}]}}]}}"#));
            let record: LogRecord<'_> = match read(raw.get(), "the log record is none of OTLP") {
                Ok(record) => record,
                Err(fault) => {
                    rows.push(Err(alone(fault)));
                    continue;
                }
            };
            let attributes = attributes(&record.attributes);
            match kind(&record, &attributes) {
                Kind::Call => rows.push(row(&record, attributes, resource.as_ref()).map_err(alone)),
                Kind::Old => old += 1,
                Kind::Other => others += 1,
            }
        }
    }
    if rows.is_empty() { Err(none(old, others)) } else { Ok(rows) }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str, otherwise: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|e| {
        let data = e.classify() == serde_json::error::Category::Data;
        let code = if data { DeadLetterCode::UnknownFormat } else { DeadLetterCode::NotJson };
        // What serde says of data repeats the data.
        let reason = if data {
            format!("{otherwise}, at column {}", e.column())
        } else {
            format!("the message is not JSON: {e}")
        };
        Fault::new(code, reason)
    })
}

fn none(old: usize, others: usize) -> Fault {
    let reason = if old > 0 {
        format!(
            "{old} of {} log records are GenAI events of the semantic conventions up to 1.36, one a message of the chat; one \
             `{CALL}` a call is expected (OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental)",
            old + others
        )
    } else {
        format!("none of {others} log records is a `{CALL}` event or carries `gen_ai.input.messages`")
    };
    Fault::new(DeadLetterCode::UnknownFormat, reason)
}

enum Kind {
    Call,
    /// Events of the conventions up to 1.36: one a message of the chat, which no single record makes a call of.
    Old,
    Other,
}

/// The attributes by name, each as plain JSON. Of a name that stands twice the last one counts.
fn attributes<'a>(list: &'a [KeyValue<'a>]) -> BTreeMap<&'a str, Value> {
    list.iter().map(|pair| (&*pair.key, pair.value.map_or(Value::Null, |raw| plain(raw, 0)))).collect()
}

fn kind(record: &LogRecord<'_>, attributes: &BTreeMap<&str, Value>) -> Kind {
    let named = record.event_name.as_deref().or_else(|| attributes.get("event.name").and_then(Value::as_str));
    let name = named.unwrap_or_default();
    let name = name.strip_prefix("event.").unwrap_or(name);
    let carries = ["gen_ai.input.messages", "gen_ai.output.messages"].iter().any(|k| attributes.contains_key(k));
    match name {
        _ if name == CALL || carries => Kind::Call,
        "gen_ai.choice" => Kind::Old,
        _ if name.starts_with("gen_ai.") && name.ends_with(".message") => Kind::Old,
        _ => Kind::Other,
    }
}

/// A tagged value without its tags.
fn plain(raw: &RawValue, depth: usize) -> Value {
    let Ok(any) = serde_json::from_str::<AnyValue<'_>>(raw.get()) else { return Value::Null };
    let parse = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).ok();
    // Integers of 64 bits are strings in protobuf's JSON; a number that is a string anyway is kept as it was meant.
    let number = |raw: &RawValue| match string(raw.get()) {
        Some(text) => serde_json::from_str::<Value>(&text)
            .ok()
            .filter(Value::is_number)
            .or(Some(Value::String(text.into_owned()))),
        None => parse(raw),
    };
    let simple = any.string_value.and_then(parse).or_else(|| any.bool_value.and_then(parse));
    let simple = simple.or_else(|| any.int_value.and_then(number)).or_else(|| any.double_value.and_then(number));
    if let Some(value) = simple {
        return value;
    }
    if depth >= DEPTH_MAX {
        return Value::Null;
    }
    if let Some(list) = any.array_value {
        return list.values.into_iter().map(|raw| plain(raw, depth + 1)).collect();
    }
    if let Some(pairs) = any.kvlist_value {
        let pair = |p: KeyValue<'_>| (p.key.into_owned(), p.value.map_or(Value::Null, |raw| plain(raw, depth + 1)));
        return Value::Object(pairs.values.into_iter().map(pair).collect());
    }
    any.bytes_value.map_or(Value::Null, |bytes| Value::String(bytes.into_owned()))
}

/// A plain row of one record.
fn row(
    record: &LogRecord<'_>,
    mut from: BTreeMap<&str, Value>,
    resource: Option<&BTreeMap<&str, Value>>,
) -> Result<String, Fault> {
    let id = from.remove("gen_ai.response.id").filter(|id| id.as_str().is_some_and(|id| !id.is_empty()));
    let (trace, span) = (hex(record.trace_id.as_deref()), hex(record.span_id.as_deref()));
    let of_span = || Some(Value::String(format!("{}-{}", trace.as_ref()?, span.as_ref()?)));
    let missing = || {
        let reason = "attribute `gen_ai.response.id` and the record's `traceId` and `spanId` are missing; one of both is \
                      expected, as the call's id";
        Fault::new(DeadLetterCode::MissingField, reason)
    };
    let id = id.clone().or_else(of_span).ok_or_else(missing)?;
    let time = [record.time_unix_nano, record.observed_time_unix_nano].into_iter().flatten().find_map(nanos);
    let time = time.ok_or_else(|| {
        let reason = "field `timeUnixNano` is missing; nanoseconds since 1970 as a string are expected";
        Fault::new(DeadLetterCode::MissingField, reason)
    })?;
    let mut row = Map::new();
    row.insert(
        "request_time".to_owned(),
        Value::String(crate::domain::Timestamp::from_micros(time / 1000).to_string()),
    );
    row.insert("request".to_owned(), Value::String(request(&mut from).to_string()));
    if let Some(response) = response(&mut from, &id) {
        row.insert("response".to_owned(), Value::String(response.to_string()));
    }
    row.insert("request_id".to_owned(), id);
    for (attribute, column) in [
        ("gen_ai.operation.name", "operation"),
        ("gen_ai.conversation.id", "conversation_id"),
        ("http.response.status_code", "status_code"),
        ("user.id", "requester"),
        ("enduser.id", "requester"),
    ] {
        // A value of another type stays in `extra` under its own name: an odd attribute is no reason to refuse a call.
        let fits = |v: &Value| if column == "status_code" { v.is_i64() } else { v.is_string() };
        if from.get(attribute).is_some_and(fits) && !row.contains_key(column) {
            row.extend(from.remove(attribute).map(|value| (column.to_owned(), value)));
        }
    }
    from.remove("event.name");
    if let Some(resource) = resource {
        let resource = resource.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        row.insert("resource".to_owned(), Value::Object(resource));
    }
    row.extend(trace.map(|id| ("trace_id".to_owned(), id.into())));
    row.extend(span.map(|id| ("span_id".to_owned(), id.into())));
    for (name, value) in from {
        // An attribute never takes the place of a field that was set above.
        row.entry(if super::inference::is_field(name) { format!("attribute.{name}") } else { name.to_owned() })
            .or_insert(value);
    }
    Ok(Value::Object(row).to_string())
}

/// Microseconds fit where nanoseconds do.
fn nanos(raw: &RawValue) -> Option<i64> {
    let text = string(raw.get()).unwrap_or(Cow::Borrowed(raw.get()));
    text.parse::<i64>().ok().filter(|nanos| *nanos > 0)
}

/// An id as lower-case hexadecimal digits; OTLP/JSON demands those, older senders wrote protobuf's base64.
fn hex(id: Option<&str>) -> Option<String> {
    let id = id.filter(|id| !id.is_empty())?;
    if id.bytes().all(|b| b.is_ascii_hexdigit()) && [16, 32].contains(&id.len()) {
        return Some(id.to_ascii_lowercase());
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(id).ok()?;
    Some(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The request's body as OpenAI's chat completions have it.
fn request(from: &mut BTreeMap<&str, Value>) -> Value {
    let mut body = Map::new();
    for (attribute, field) in [
        ("gen_ai.request.model", "model"),
        ("gen_ai.request.max_tokens", "max_tokens"),
        ("gen_ai.request.temperature", "temperature"),
        ("gen_ai.request.top_p", "top_p"),
        ("gen_ai.request.top_k", "top_k"),
        ("gen_ai.request.frequency_penalty", "frequency_penalty"),
        ("gen_ai.request.presence_penalty", "presence_penalty"),
        ("gen_ai.request.seed", "seed"),
        ("gen_ai.request.stop_sequences", "stop"),
        ("gen_ai.request.choice.count", "n"),
        ("gen_ai.request.stream", "stream"),
    ] {
        body.extend(from.remove(attribute).map(|value| (field.to_owned(), value)));
    }
    body.extend(structured(from.remove("gen_ai.tool.definitions")).map(|tools| ("tools".to_owned(), tools)));
    let system = structured(from.remove("gen_ai.system_instructions")).map(|parts| content(&items(parts)));
    let input = structured(from.remove("gen_ai.input.messages"));
    if system.is_some() || input.is_some() {
        let system = system.into_iter().map(|content| serde_json::json!({"role": "system", "content": content}));
        let turns = input.map(items).unwrap_or_default().into_iter().flat_map(turn);
        body.insert("messages".to_owned(), system.chain(turns).collect());
    }
    Value::Object(body)
}

/// The response's body; nothing where the record tells nothing of an answer.
fn response(from: &mut BTreeMap<&str, Value>, id: &Value) -> Option<Value> {
    let output = structured(from.remove("gen_ai.output.messages")).map(items);
    let model = from.remove("gen_ai.response.model");
    let reasons = from.remove("gen_ai.response.finish_reasons").map(items).unwrap_or_default();
    let (input_tokens, output_tokens) =
        (from.remove("gen_ai.usage.input_tokens"), from.remove("gen_ai.usage.output_tokens"));
    if output.is_none() && model.is_none() && input_tokens.is_none() && output_tokens.is_none() {
        return None;
    }
    let mut body = Map::new();
    body.insert("id".to_owned(), id.clone());
    body.insert("object".to_owned(), "chat.completion".into());
    body.extend(model.map(|model| ("model".to_owned(), model)));
    let choice = |(index, message): (usize, Value)| {
        let reason = message.get("finish_reason").or_else(|| reasons.get(index)).cloned();
        let message = turn(message).into_iter().next().unwrap_or(Value::Null);
        serde_json::json!({"index": index, "message": message, "finish_reason": reason})
    };
    body.extend(output.map(|output| ("choices".to_owned(), output.into_iter().enumerate().map(choice).collect())));
    let usage: Map<String, Value> = [("prompt_tokens", input_tokens), ("completion_tokens", output_tokens)]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    if !usage.is_empty() {
        body.insert("usage".to_owned(), Value::Object(usage));
    }
    Some(Value::Object(body))
}

/// A structured attribute: as it is, or as the string of JSON that senders without structured attributes write.
fn structured(value: Option<Value>) -> Option<Value> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        value => Some(value),
    }
}

fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        other => vec![other],
    }
}

/// A message with parts as OpenAI's turns: itself, and a turn for each tool's answer in it.
fn turn(message: Value) -> Vec<Value> {
    let Value::Object(mut message) = message else {
        return vec![serde_json::json!({"role": "user", "content": message})];
    };
    let role = message.remove("role").unwrap_or_else(|| "assistant".into());
    let Some(parts) = message.remove("parts").map(items) else {
        let content = message.remove("content").unwrap_or(Value::Null);
        return vec![serde_json::json!({"role": role, "content": content})];
    };
    let (mut said, mut calls, mut thought, mut turns) = (Vec::new(), Vec::new(), String::new(), Vec::new());
    for part in parts {
        match part.get("type").and_then(Value::as_str) {
            Some("tool_call") => calls.push(tool_call(&part)),
            Some("tool_call_response") => turns.push(tool_answer(&part)),
            Some("reasoning") => thought.push_str(part.get("content").and_then(Value::as_str).unwrap_or_default()),
            _ => said.push(part),
        }
    }
    if turns.is_empty() || !said.is_empty() || !calls.is_empty() {
        let mut own = Map::new();
        own.insert("role".to_owned(), role);
        own.insert("content".to_owned(), content(&said));
        if !thought.is_empty() {
            own.insert("reasoning_content".to_owned(), thought.into());
        }
        if !calls.is_empty() {
            own.insert("tool_calls".to_owned(), calls.into());
        }
        turns.insert(0, Value::Object(own));
    }
    turns
}

fn tool_call(part: &Value) -> Value {
    let arguments = match part.get("arguments") {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let function = serde_json::json!({"name": part.get("name"), "arguments": arguments});
    serde_json::json!({"id": part.get("id"), "type": "function", "function": function})
}

fn tool_answer(part: &Value) -> Value {
    let answer = match part.get("response").or_else(|| part.get("result")) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    serde_json::json!({"role": "tool", "tool_call_id": part.get("id"), "content": answer})
}

/// A lone text as a string; several parts as parts.
fn content(parts: &[Value]) -> Value {
    let text = |part: &Value| match part {
        Value::String(text) => Some(text.clone()),
        part if part.get("type").and_then(Value::as_str) == Some("text") => {
            Some(part.get("content").or_else(|| part.get("text"))?.as_str()?.to_owned())
        }
        _ => None,
    };
    match parts {
        [] => Value::Null,
        [only] if text(only).is_some() => text(only).map_or(Value::Null, Value::String),
        many => many
            .iter()
            .map(|part| match text(part) {
                Some(text) => serde_json::json!({"type": "text", "text": text}),
                None => part.clone(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(s: &str) -> Value {
        json!({"stringValue": s})
    }

    #[test]
    fn values_lose_their_tags() {
        let raw = |v: Value| plain(&serde_json::value::to_raw_value(&v).unwrap(), 0);
        assert_eq!(raw(json!({"intValue": "12"})), json!(12));
        assert_eq!(raw(json!({"intValue": 12})), json!(12));
        assert_eq!(raw(json!({"doubleValue": 0.5})), json!(0.5));
        assert_eq!(raw(json!({"boolValue": true})), json!(true));
        let nested =
            json!({"arrayValue": {"values": [{"kvlistValue": {"values": [{"key": "a", "value": text("b")}]}}]}});
        assert_eq!(raw(nested), json!([{"a": "b"}]));
        assert_eq!(raw(json!({"arrayValue": {}})), json!([]));
        assert_eq!(raw(json!({})), Value::Null);
    }
}
