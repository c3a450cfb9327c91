//! What the targets share.

use crate::codec::avro::Schema;
use crate::codec::redact::{BuiltIn, Key, Redactor, Settings};
use crate::codec::registry::{Known, SchemaId, Schemas};
use crate::codec::{Decoder, Format, Message};
use crate::domain::{Row, RowKind};
use std::sync::{Arc, LazyLock};

/// The parts of a row that targets look at.
#[derive(Debug, Default)]
pub struct Out {
    pub extra: Option<String>,
    pub response: Option<String>,
}

/// What a message becomes.
pub fn decode(decoder: &Decoder, kind: RowKind, format: Format, payload: &[u8]) -> Vec<Out> {
    let message = Message { key: None, payload: Some(payload), headers: &Vec::new };
    let mut out = Vec::new();
    let own = |text: Option<std::borrow::Cow<'_, str>>| text.map(std::borrow::Cow::into_owned);
    let waits = decoder.decode(kind, format, &message, &mut |_, row| {
        out.push(match row {
            Row::Inference(row) => Out { extra: own(row.extra), response: own(row.response) },
            _ => Out::default(),
        });
    });
    if waits.is_err() {
        assert!(out.is_empty(), "a message that waits hands nothing over");
        out.push(Out::default());
    }
    out
}

/// Schemas of every kind of type, one of them recursive.
pub static SCHEMAS: LazyLock<Vec<Schema>> = LazyLock::new(|| {
    [
        r#"{"type":"record","name":"N","fields":[{"name":"n","type":["null","N"]},{"name":"m","type":{"type":"map","values":"N"}}]}"#,
        r#"{"type":"array","items":["null","boolean","int","long","float","double","bytes","string"]}"#,
        r#"{"type":"record","name":"R","fields":[{"name":"d","type":{"type":"bytes","logicalType":"decimal","scale":4}},{"name":"t","type":{"type":"long","logicalType":"timestamp-nanos"}},{"name":"day","type":{"type":"int","logicalType":"date"}},{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}},{"name":"f","type":{"type":"fixed","name":"F","size":3}}]}"#,
        r#"{"type":"record","name":"Call","fields":[{"name":"request_id","type":"string"},{"name":"request_time","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"request","type":"string"},{"name":"more","type":{"type":"map","values":"double"}}]}"#,
    ]
    .iter()
    .map(|text| Schema::parse(text, &[]).expect("a schema"))
    .collect()
});

/// Redacts with everything on.
pub static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| {
    Redactor::new(Settings {
        fields: vec!["requester".to_owned(), "request.user".to_owned(), "*.secret".to_owned()],
        built_in: vec![BuiltIn::Email, BuiltIn::Phone, BuiltIn::Secret, BuiltIn::Card],
        patterns: Vec::new(),
        key: Key::new(vec![7; 16]),
    })
    .expect("patterns")
});

/// Knows the schemas as 0, 1, 2 …, 254 as JSON and 255 as unusable.
pub static DECODER: LazyLock<Decoder> = LazyLock::new(|| {
    let schemas = Schemas::default();
    for (id, schema) in (0..).zip(SCHEMAS.iter()) {
        schemas.put(SchemaId(id), Known::Avro(Arc::new(schema.clone())));
    }
    schemas.put(SchemaId(254), Known::Json);
    schemas.put(SchemaId(255), Known::Unusable("for a test".into()));
    Decoder::new(1 << 20).with_schemas(Some(schemas))
});
