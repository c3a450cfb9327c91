//! Messages framed for a schema registry (a zero byte, the schema's id in four bytes, the data), and the schemas known so
//! far.
//!
//! No I/O happens here: a decoder that meets an id which nobody has asked about says so, whoever feeds it asks the registry,
//! puts the answer in, and decodes the message again. An answer never changes, because a registry never reuses an id.

use super::avro::Schema;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// A schema's id in its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaId(pub u32);

/// What is known of an id.
#[derive(Debug, Clone)]
pub enum Known {
    /// The data are Avro's binary encoding, written with this schema.
    Avro(Arc<Schema>),
    /// The data are JSON.
    Json,
    /// The registry knows no such id, or its schema is none that can be read: why.
    Unusable(Arc<str>),
}

/// The schemas known so far; a cheap handle that decoders and whoever asks the registry share.
#[derive(Debug, Clone, Default)]
pub struct Schemas {
    known: Arc<RwLock<HashMap<SchemaId, Known>>>,
}

impl Schemas {
    /// What is known of an id; nothing where nobody has asked yet.
    #[must_use]
    pub fn get(&self, id: SchemaId) -> Option<Known> {
        self.known.read().expect("no holder of the lock panics").get(&id).cloned()
    }

    /// Takes in the registry's answer.
    pub fn put(&self, id: SchemaId, known: Known) {
        self.known.write().expect("no holder of the lock panics").insert(id, known);
    }
}

/// The schema's id and the data of a framed message.
pub(super) fn frame(payload: &[u8]) -> Option<(SchemaId, &[u8])> {
    let (head, data) = payload.split_at_checked(5)?;
    let [0, id @ ..] = head else { return None };
    Some((SchemaId(u32::from_be_bytes(id.try_into().ok()?)), data))
}
