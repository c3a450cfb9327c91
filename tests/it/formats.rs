//! Every format that a message may have: what becomes of it, and that nothing which must not be stored comes out.

use pelton::codec::redact::{BuiltIn, Key, Redactor, Settings};
use pelton::codec::registry::{Known, SchemaId, Schemas};
use pelton::codec::{Decoder, Format, Message, avro};
use pelton::domain::{DeadLetterCode, InferenceRow, Row, RowKind};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

const BYTES_MAX: usize = 4 << 20;

/// What a message became, with nothing borrowed.
#[derive(Debug, Clone, PartialEq)]
enum Out {
    Row(Box<InferenceRow<'static>>),
    Dead { code: DeadLetterCode, reason: String, key: Option<Vec<u8>>, payload: Option<Vec<u8>>, headers: String },
}

fn decode(decoder: &Decoder, format: Format, payload: &[u8]) -> Result<Vec<(i32, Out)>, SchemaId> {
    let mut out = Vec::new();
    let headers = || vec![("trace", Some(&b"ann@example.org"[..]))];
    let message = Message { key: Some(b"k:ann@example.org"), payload: Some(payload), headers: &headers };
    decoder.decode(RowKind::Inference, format, &message, &mut |place, row| {
        let one = match row {
            Row::Inference(row) => Out::Row(Box::new(owned(*row))),
            Row::DeadLetter(dead) => Out::Dead {
                code: dead.code,
                reason: dead.reason,
                key: dead.key.map(<[u8]>::to_vec),
                payload: dead.payload.map(<[u8]>::to_vec),
                headers: format!("{:?}", dead.headers),
            },
            Row::Feedback(row) => panic!("{row:?}"),
        };
        out.push((place, one));
    })?;
    Ok(out)
}

fn owned(row: InferenceRow<'_>) -> InferenceRow<'static> {
    use std::borrow::Cow;
    fn own(text: Cow<'_, str>) -> Cow<'static, str> {
        Cow::Owned(text.into_owned())
    }
    InferenceRow {
        request_id: own(row.request_id),
        client_request_id: row.client_request_id.map(own),
        request_time: row.request_time,
        status_code: row.status_code,
        sampling_fraction: row.sampling_fraction,
        execution_duration_ms: row.execution_duration_ms,
        request: own(row.request),
        response: row.response.map(own),
        logging_error_codes: row.logging_error_codes.into_iter().map(own).collect(),
        served_entity_id: row.served_entity_id.map(own),
        requester: row.requester.map(own),
        operation: row.operation.map(own),
        model: row.model.map(own),
        model_version: row.model_version.map(own),
        conversation_id: row.conversation_id.map(own),
        messages: row.messages.map(own),
        prompt: row.prompt.map(own),
        prompt_hash: row.prompt_hash.map(own),
        completion: row.completion.map(own),
        finish_reason: row.finish_reason.map(own),
        input_tokens: row.input_tokens,
        output_tokens: row.output_tokens,
        time_to_first_token_ms: row.time_to_first_token_ms,
        stream: row.stream,
        extra: row.extra.map(own),
    }
}

fn row(out: Vec<(i32, Out)>) -> InferenceRow<'static> {
    match &out[..] {
        [(0, Out::Row(row))] => (**row).clone(),
        other => panic!("{other:?}"),
    }
}

fn one(payload: &Value) -> InferenceRow<'static> {
    row(decode(&Decoder::new(BYTES_MAX), Format::Auto, payload.to_string().as_bytes()).unwrap())
}

fn code(out: &[(i32, Out)]) -> (DeadLetterCode, String) {
    match out {
        [(_, Out::Dead { code, reason, .. })] => (*code, reason.clone()),
        other => panic!("{other:?}"),
    }
}

fn plain(response: Value) -> Value {
    json!({"request_id": "r", "request_time": "2026-11-22 10:00:00", "request": json!({"messages": [{"role": "user", "content": "q"}], "stream": true}).to_string(), "response": response})
}

const CHUNKS: &[&str] = &[
    r#"{"object":"chat.completion.chunk","model":"m@v3","choices":[{"index":0,"delta":{"role":"assistant","content":"4"}}]}"#,
    r#"{"object":"chat.completion.chunk","model":"m@v3","choices":[{"index":0,"delta":{"content":"2"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#,
];

#[test]
fn an_unknown_field_lands_in_extra_in_canonical_order() {
    let mut message = plain(Value::Null);
    assert_eq!(one(&message).extra, None);
    message["zone"] = json!("b");
    message["cost"] = json!({"b": 1.50, "a": [null, {"y": 2, "x": 1}]});
    message["request_date"] = json!("2026-11-22");
    assert_eq!(one(&message).extra.as_deref(), Some(r#"{"cost":{"a":[null,{"x":1,"y":2}],"b":1.5},"zone":"b"}"#));
    let text = message.to_string().replacen("\"b\"", "\"\\u0062\"", 1);
    let again = row(decode(&Decoder::new(BYTES_MAX), Format::Json, text.as_bytes()).unwrap());
    assert_eq!(again.extra, one(&message).extra, "the same object has one text");
}

#[test]
fn a_logged_stream_becomes_one_answer() {
    let stream: String =
        CHUNKS.iter().map(|chunk| format!("data: {chunk}\n\n")).collect::<String>() + "data: [DONE]\n\n";
    let list: Value = serde_json::from_str(&format!("[{}]", CHUNKS.join(","))).unwrap();
    let envelope = json!({"schema": "pelton.inference-log/v1", "request_id": "r", "request_time": "2026-11-22T10:00:00Z",
        "request": {"messages": [{"role": "user", "content": "q"}], "stream": true}, "response": stream.clone()});
    for message in [plain(json!(stream)), plain(list.clone()), plain(json!(list.to_string())), envelope] {
        let row = one(&message);
        let found = (row.completion.as_deref(), row.finish_reason.as_deref(), row.output_tokens, row.stream);
        assert_eq!(found, (Some("42"), Some("stop"), Some(2), Some(true)), "{message}");
        assert_eq!(row.model_version.as_deref(), Some("m@v3"));
        let body: Value = serde_json::from_str(&row.response.unwrap()).unwrap();
        assert_eq!((&body["object"], row.logging_error_codes), (&json!("chat.completion"), vec![]));
    }
    let broken = one(&plain(json!(format!("data: {}\n\ndata: {{", CHUNKS[0]))));
    assert_eq!(broken.completion.as_deref(), Some("4"));
    assert_eq!(broken.logging_error_codes, ["RESPONSE_STREAM_INCOMPLETE", "RESPONSE_STREAM_EVENT_UNREADABLE"]);
}

#[test]
fn one_chunk_of_a_stream_is_a_dead_letter_that_says_so() {
    for response in [serde_json::from_str(CHUNKS[0]).unwrap(), json!(CHUNKS[0])] {
        let payload = plain(response).to_string();
        let out = decode(&Decoder::new(BYTES_MAX), Format::Auto, payload.as_bytes()).unwrap();
        let (code, reason) = code(&out);
        assert_eq!(code, DeadLetterCode::StreamChunk);
        assert!(reason.contains("chat.completion.chunk") && reason.contains("one message"), "{reason}");
    }
}

fn attribute(key: &str, value: Value) -> Value {
    json!({"key": key, "value": value})
}

fn text(text: &str) -> Value {
    json!({"stringValue": text})
}

fn structure(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            json!({"kvlistValue": {"values": map.iter().map(|(k, v)| attribute(k, structure(v))).collect::<Vec<_>>()}})
        }
        Value::Array(items) => json!({"arrayValue": {"values": items.iter().map(structure).collect::<Vec<_>>()}}),
        Value::String(s) => text(s),
        Value::Number(n) if n.is_i64() => json!({"intValue": n.to_string()}),
        Value::Number(n) => json!({"doubleValue": n}),
        Value::Bool(b) => json!({"boolValue": b}),
        Value::Null => json!({}),
    }
}

fn call(id: Option<&str>, structured: bool) -> Value {
    let input = json!([
        {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Paris"}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rainy"}]},
    ]);
    let output = json!([{"role": "assistant", "parts": [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": "Rain."}], "finish_reason": "stop"}]);
    let system = json!([{"type": "text", "content": "Be brief."}]);
    let value = |v: &Value| if structured { structure(v) } else { text(&v.to_string()) };
    let mut attributes = vec![
        attribute("gen_ai.operation.name", text("chat")),
        attribute("gen_ai.provider.name", text("vllm")),
        attribute("gen_ai.request.model", text("support")),
        attribute("gen_ai.response.model", text("support@v4")),
        attribute("gen_ai.request.temperature", json!({"doubleValue": 0.5})),
        attribute("gen_ai.usage.input_tokens", json!({"intValue": "11"})),
        attribute("gen_ai.usage.output_tokens", json!({"intValue": 4})),
        attribute("gen_ai.conversation.id", text("conv")),
        attribute("user.id", text("ann")),
        attribute("gen_ai.system_instructions", value(&system)),
        attribute("gen_ai.input.messages", value(&input)),
        attribute("gen_ai.output.messages", value(&output)),
    ];
    attributes.extend(id.map(|id| attribute("gen_ai.response.id", text(id))));
    json!({"timeUnixNano": "1795341600123456789", "eventName": "gen_ai.client.inference.operation.details",
        "traceId": "4BF92F3577B34DA6A3CE929D0E0E4736", "spanId": "00f067aa0ba902b7", "attributes": attributes})
}

fn export(records: &[Value]) -> Value {
    json!({"resourceLogs": [{"resource": {"attributes": [attribute("service.name", text("shop"))]}, "scopeLogs": [{"scope": {}, "logRecords": records}]}]})
}

#[test]
fn a_log_record_of_opentelemetry_becomes_a_row() {
    for structured in [true, false] {
        let row = one(&export(&[call(Some("chatcmpl-1"), structured)]));
        assert_eq!((&*row.request_id, row.request_time.micros()), ("chatcmpl-1", 1_795_341_600_123_456));
        assert_eq!(
            (row.operation.as_deref(), row.model.as_deref(), row.model_version.as_deref()),
            (Some("chat"), Some("support"), Some("support@v4"))
        );
        assert_eq!(
            (row.prompt.as_deref(), row.completion.as_deref(), row.finish_reason.as_deref()),
            (Some("Weather in Paris?"), Some("Rain."), Some("stop"))
        );
        assert_eq!(
            (row.input_tokens, row.output_tokens, row.requester.as_deref(), row.conversation_id.as_deref()),
            (Some(11), Some(4), Some("ann"), Some("conv"))
        );
        let request: Value = serde_json::from_str(&row.request).unwrap();
        let roles: Vec<_> =
            request["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
        assert_eq!((roles, &request["temperature"]), (vec!["system", "user", "assistant", "tool"], &json!(0.5)));
        assert_eq!(
            request["messages"][2]["tool_calls"][0]["function"],
            json!({"name": "weather", "arguments": "{\"city\":\"Paris\"}"})
        );
        let response: Value = serde_json::from_str(row.response.as_deref().unwrap()).unwrap();
        assert_eq!(response["choices"][0]["message"]["reasoning_content"], "hm");
        let extra: Value = serde_json::from_str(row.extra.as_deref().unwrap()).unwrap();
        assert_eq!(
            extra,
            json!({"gen_ai.provider.name": "vllm", "resource": {"service.name": "shop"},
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7"})
        );
    }
    let by_span = one(&export(&[call(None, true)]));
    assert_eq!(by_span.request_id, "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7");
}

#[test]
fn a_message_of_many_records_gives_each_its_place() {
    let mut nameless = call(None, true);
    nameless["spanId"] = json!("");
    let other = json!({"timeUnixNano": "1", "body": text("GET /"), "attributes": []});
    let records = [call(Some("a"), true), other.clone(), nameless, json!("no record"), call(Some("b"), true)];
    let out = decode(&Decoder::new(BYTES_MAX), Format::Otlp, export(&records).to_string().as_bytes()).unwrap();
    let places: Vec<i32> = out.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [0, 1, 2, 3]);
    assert!(matches!((&out[0].1, &out[3].1), (Out::Row(a), Out::Row(b)) if a.request_id == "a" && b.request_id == "b"));
    let Out::Dead { code, reason, payload, .. } = &out[1].1 else { panic!("{out:?}") };
    assert_eq!(*code, DeadLetterCode::MissingField);
    assert!(reason.contains("gen_ai.response.id"), "{reason}");
    // What was refused is a message of its own, and comes to the same end.
    let again = decode(&Decoder::new(BYTES_MAX), Format::Auto, payload.as_deref().unwrap()).unwrap();
    assert_eq!(self::code(&again).0, DeadLetterCode::MissingField);

    let old = json!({"timeUnixNano": "1", "eventName": "gen_ai.user.message", "body": {}, "attributes": []});
    for (records, says) in [(vec![other], "none of 1 log records"), (vec![old], "up to 1.36"), (vec![], "none of 0")] {
        let out = decode(&Decoder::new(BYTES_MAX), Format::Auto, export(&records).to_string().as_bytes()).unwrap();
        let (code, reason) = self::code(&out);
        assert_eq!(code, DeadLetterCode::UnknownFormat);
        assert!(reason.contains(says), "{reason}");
    }
}

const AVRO: &str = r#"{"type":"record","name":"Call","namespace":"shop","fields":[
    {"name":"request_id","type":"string"},
    {"name":"request_time","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"status_code","type":["null","int"]},
    {"name":"sampling_fraction","type":"double"},
    {"name":"stream","type":"boolean"},
    {"name":"request","type":"string"},
    {"name":"response","type":["null","bytes"]},
    {"name":"logging_error_codes","type":{"type":"array","items":"string"}},
    {"name":"cost","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
    {"name":"tags","type":{"type":"map","values":"float"}},
    {"name":"day","type":{"type":"int","logicalType":"date"}},
    {"name":"tier","type":{"type":"enum","name":"Tier","symbols":["FREE","PAID"]}},
    {"name":"hash","type":{"type":"fixed","name":"Hash","size":2}},
    {"name":"next","type":["null","Call"],"default":null}]}"#;

fn zigzag(number: i64, out: &mut Vec<u8>) {
    let mut bits = u64::from_ne_bytes(((number << 1) ^ (number >> 63)).to_ne_bytes());
    while bits > 0x7f {
        out.push((bits & 0x7f) as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn sized(bytes: &[u8], out: &mut Vec<u8>) {
    zigzag(i64::try_from(bytes.len()).unwrap(), out);
    out.extend_from_slice(bytes);
}

/// A datum as the specification says that it is encoded.
fn datum(id: &str) -> Vec<u8> {
    let mut out = Vec::new();
    sized(id.as_bytes(), &mut out);
    zigzag(1_795_341_600_123_456, &mut out);
    zigzag(1, &mut out);
    zigzag(200, &mut out);
    out.extend(0.25f64.to_le_bytes());
    out.push(1);
    sized(br#"{"messages":[{"role":"user","content":"hey \"you\""}]}"#, &mut out);
    zigzag(1, &mut out);
    sized(br#"{"choices":[{"message":{"content":"hi"}}]}"#, &mut out);
    // Two blocks: one with its size in bytes, one without.
    zigzag(-1, &mut out);
    zigzag(2, &mut out);
    sized(b"A", &mut out);
    zigzag(1, &mut out);
    sized(b"B", &mut out);
    zigzag(0, &mut out);
    sized(&(-12_345i32).to_be_bytes(), &mut out);
    zigzag(1, &mut out);
    sized(b"x", &mut out);
    out.extend(1.5f32.to_le_bytes());
    zigzag(0, &mut out);
    zigzag(20_779, &mut out);
    zigzag(1, &mut out);
    out.extend([0xff, 0x00]);
    zigzag(0, &mut out);
    out
}

fn framed(id: u32, data: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), data].concat()
}

#[test]
fn a_message_framed_for_a_schema_registry_becomes_a_row() {
    let schemas = Schemas::default();
    let decoder = Decoder::new(BYTES_MAX).with_schemas(Some(schemas.clone()));
    let message = framed(7, &datum("avro-1"));
    assert_eq!(decode(&decoder, Format::Auto, &message), Err(SchemaId(7)), "nobody has asked the registry yet");
    schemas.put(SchemaId(7), Known::Avro(Arc::new(avro::Schema::parse(AVRO, &[]).unwrap())));
    schemas.put(SchemaId(8), Known::Json);
    schemas.put(SchemaId(9), Known::Unusable("the registry knows no schema of this id".into()));
    for format in [Format::Auto, Format::Registry] {
        let row = row(decode(&decoder, format, &message).unwrap());
        assert_eq!(
            (&*row.request_id, row.request_time.micros(), row.status_code),
            ("avro-1", 1_795_341_600_123_456, Some(200))
        );
        assert_eq!(
            (row.sampling_fraction, row.stream, row.logging_error_codes),
            (Some(0.25), Some(true), vec!["A".into(), "B".into()])
        );
        assert_eq!((row.prompt.as_deref(), row.completion.as_deref()), (Some("hey \"you\""), Some("hi")));
        let extra = r#"{"cost":"-123.45","day":"2026-11-22","hash":"/wA=","next":null,"tags":{"x":1.5},"tier":"PAID"}"#;
        assert_eq!(row.extra.as_deref(), Some(extra));
    }
    let json = plain(Value::Null).to_string();
    assert_eq!(row(decode(&decoder, Format::Registry, &framed(8, json.as_bytes())).unwrap()).request_id, "r");
    assert_eq!(row(decode(&decoder, Format::Auto, json.as_bytes()).unwrap()).request_id, "r", "JSON without a frame");

    let short = framed(7, &datum("x")[..20]);
    let long = framed(7, &[&datum("x")[..], b"more"].concat());
    for (message, code, says) in [
        (framed(9, b""), DeadLetterCode::UnknownSchema, "schema 9: the registry knows no schema"),
        (short, DeadLetterCode::NotOfSchema, "the bytes end within `sampling_fraction`"),
        (long, DeadLetterCode::NotOfSchema, "4 bytes are left"),
        (json.into_bytes(), DeadLetterCode::UnknownFormat, "zero byte"),
        (b"\0\0".to_vec(), DeadLetterCode::UnknownFormat, "zero byte"),
    ] {
        let (found, reason) = self::code(&decode(&decoder, Format::Registry, &message).unwrap());
        assert_eq!(found, code, "{reason}");
        assert!(reason.contains(says), "{reason}");
    }
}

#[test]
fn hostile_data_of_a_schema_cost_neither_stack_nor_memory() {
    let chain = avro::Schema::parse(r#"{"type":"record","name":"N","fields":[{"name":"n","type":["null","N"]}]}"#, &[])
        .unwrap();
    assert!(avro::to_json(&chain, &vec![2; 1 << 20]).is_err());
    let nulls = avro::Schema::parse(r#"{"type":"array","items":"null"}"#, &[]).unwrap();
    let mut endless = Vec::new();
    zigzag(i64::MAX, &mut endless);
    assert!(avro::to_json(&nulls, &endless).is_err());
    let bytes = avro::Schema::parse(r#""bytes""#, &[]).unwrap();
    for hostile in [&[0xff; 10][..], &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], &[1], &[]] {
        assert!(avro::to_json(&bytes, hostile).is_err());
    }
    for (schema, says) in [
        ("{", "not JSON"),
        (r#""nothing""#, "nothing defines"),
        (r#"{"type":"array"}"#, "not a type"),
        ("3", "not a type"),
    ] {
        assert!(avro::Schema::parse(schema, &[]).unwrap_err().to_string().contains(says), "{schema}");
    }
    let by_name = avro::Schema::parse(
        r#"{"type":"record","name":"b.B","fields":[{"name":"x","type":"a.A"}]}"#,
        &[r#"{"type":"enum","name":"a.A","symbols":["S"]}"#.to_owned()],
    )
    .unwrap();
    assert_eq!(avro::to_json(&by_name, &[0]).unwrap(), r#"{"x":"S"}"#);
}

fn redactor(fields: &[&str]) -> Redactor {
    Redactor::new(Settings {
        fields: fields.iter().map(|f| (*f).to_owned()).collect(),
        built_in: vec![BuiltIn::Email, BuiltIn::Phone, BuiltIn::Secret, BuiltIn::Card],
        patterns: Vec::new(),
        key: Key::new(b"a key for the tests".to_vec()),
    })
    .unwrap()
}

/// Every byte that a sink would be handed.
fn written(out: &[(i32, Out)]) -> String {
    let bytes = |b: &Option<Vec<u8>>| b.as_ref().map(|b| String::from_utf8_lossy(b).into_owned());
    let one = |(_, out): &(i32, Out)| match out {
        Out::Row(row) => format!("{row:?}"),
        Out::Dead { reason, key, payload, headers, .. } => {
            format!("{reason} {:?} {:?} {headers}", bytes(key), bytes(payload))
        }
    };
    out.iter().map(one).collect()
}

#[test]
fn rows_and_dead_letters_hold_no_secret() {
    let schemas = Schemas::default();
    schemas.put(SchemaId(7), Known::Avro(Arc::new(avro::Schema::parse(AVRO, &[]).unwrap())));
    let decoder = Decoder::new(BYTES_MAX)
        .with_schemas(Some(schemas))
        .with_redactor(Some(Arc::new(redactor(&["requester", "request.user"]))));
    let body =
        json!({"user": "ann", "messages": [{"role": "user", "content": "I am ann@example.org, 4111 1111 1111 1111"}]});
    let good = json!({"request_id": "r", "request_time": "2026-11-22 10:00:00", "requester": "ann", "note": "ann@example.org",
        "request": body.to_string(), "response": json!({"choices": [{"message": {"content": "Hello ann@example.org"}}]}).to_string()});
    let mut bad = good.clone();
    bad["status_code"] = json!("ann@example.org");
    let mut otel = call(Some("ann@example.org"), true);
    otel["attributes"].as_array_mut().unwrap().push(attribute("mail", text("ann@example.org")));
    for payload in [
        good.to_string().into_bytes(),
        bad.to_string().into_bytes(),
        good.to_string().replace('@', "\\u0040").into_bytes(),
        good.to_string().into_bytes()[..150].to_vec(),
        export(&[otel]).to_string().into_bytes(),
        framed(7, &datum("ann@example.org")),
        framed(7, &datum("ann@example.org")[..40]),
        b"\xff ann@example.org".to_vec(),
        vec![b'a'; BYTES_MAX + 1],
    ] {
        let out = decode(&decoder, Format::Auto, &payload).unwrap();
        let all = written(&out);
        for secret in ["ann", "example.org", "4111 1111"] {
            assert!(!all.contains(secret), "{secret} in {}", &all[..all.len().min(2000)]);
        }
    }
    let row = row(decode(&decoder, Format::Auto, good.to_string().as_bytes()).unwrap());
    assert!(row.prompt.as_deref().unwrap().starts_with("I am <email:"));
    let hash = pelton::domain::PromptHash::of_canonical(row.messages.as_deref().unwrap()).to_string();
    assert_eq!(row.prompt_hash.as_deref(), Some(&*hash), "the hash is of what is stored");
    let user: Value = serde_json::from_str(&row.request).unwrap();
    assert_eq!(
        user["user"].as_str().unwrap().replace("user", "requester"),
        row.requester.unwrap(),
        "equal stays equal"
    );
}

/// A text with a secret somewhere, escaped in some way.
fn hidden(secret: &str, around: &str, layers: usize, escaped: bool) -> String {
    let mut text = format!("{around} {secret} {around}");
    for layer in 0..layers {
        let json = json!({ "k": [text, layer] }).to_string();
        text = if escaped { json.replace('@', "\\u0040").replace('1', "\\u0031") } else { json };
    }
    text
}

/// Compiling patterns takes longer than using them.
static REDACTING: LazyLock<Decoder> =
    LazyLock::new(|| Decoder::new(BYTES_MAX).with_redactor(Some(Arc::new(redactor(&[])))));
static READING: LazyLock<Decoder> = LazyLock::new(|| {
    let schemas = Schemas::default();
    schemas.put(SchemaId(7), Known::Avro(Arc::new(avro::Schema::parse(AVRO, &[]).unwrap())));
    Decoder::new(BYTES_MAX).with_schemas(Some(schemas)).with_redactor(Some(Arc::new(redactor(&["a"]))))
});

proptest! {
    #[test]
    fn no_seeded_secret_comes_out_and_equal_ones_stay_equal(
        // No word and no field begins like this: three letters alone are a part of many (`ess` of `messages`).
        user in "qxj[a-z]{1,9}",
        digits in "[0-9]{14}",
        around in "[ \\PC\n\"\\\\]{0,40}",
        layers in 0usize..3,
        escaped in any::<bool>(),
        place in 0usize..6,
        cut in any::<bool>(),
    ) {
        let mail = format!("zz{user}@{user}.example");
        // A card of 16 digits by construction: the last one is Luhn's.
        let head = format!("4{digits}");
        let sum: u32 = head.bytes().rev().enumerate().map(|(i, b)| { let d = u32::from(b - b'0'); if i % 2 == 0 { d * 2 - if d > 4 { 9 } else { 0 } } else { d } }).sum();
        let check = (10 - sum % 10) % 10;
        let card = format!("{head}{check}");
        let wrong = format!("{head}{}", (check + 1) % 10);
        let around = around.replace(['<', '>', '@', '+'], " ").chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let text = hidden(&format!("{mail} / {card} / {wrong}"), &around, layers, escaped);
        let mut message = plain(Value::Null);
        match place {
            0 => message["request"] = json!(json!({"messages": [{"role": "user", "content": text}]}).to_string()),
            1 => message["response"] = json!(json!({"choices": [{"message": {"content": text}}]}).to_string()),
            2 => message["unknown"] = json!({"deep": [text]}),
            3 => message["requester"] = json!(text),
            4 => message["status_code"] = json!(text),
            _ => message["request_time"] = json!([text]),
        }
        let mut payload = message.to_string();
        if cut {
            payload.truncate((0..payload.len() - 1).rev().find(|at| payload.is_char_boundary(*at)).unwrap());
        }
        let out = decode(&REDACTING, Format::Auto, payload.as_bytes()).unwrap();
        let all = written(&out);
        prop_assert!(!all.contains(&user), "{mail} in {all}");
        prop_assert!(!all.contains(&card), "{card} in {all}");
        if let [(_, Out::Row(row))] = &out[..] {
            let kept = format!("{row:?}");
            prop_assert!(escaped && layers > 0 || kept.contains(&wrong), "{wrong} is no card and stays: {kept}");
            prop_assert!(serde_json::from_str::<Value>(&row.request).is_ok(), "JSON stays JSON: {}", row.request);
        }
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), framed_as in any::<bool>()) {
        let payload = if framed_as { framed(7, &bytes) } else { bytes };
        if let Ok(out) = decode(&READING, Format::Auto, &payload) {
            prop_assert!(!out.is_empty(), "a message gives at least one row or dead letter");
        }
    }
}
