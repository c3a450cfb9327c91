//! Model-version events: CloudEvents 1.0 on Kafka, in binary content mode (attributes in `ce_` headers, data as the value) or
//! in structured mode (one JSON object as the value).

use crate::domain::{CycleId, Interval, ModelName, Timestamp, Version, VersionNumber, VersionRef, VersionState};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// What the data's `schema` field says.
pub const MODEL_VERSION_V1: &str = "pelton.model-version/v1";
/// The begin of every event type; the state follows.
const TYPE_PREFIX: &str = "dev.pelton.model.version.";
/// The namespace of event ids: UUID v5 of `https://pelton.dev/events` in the URL namespace.
const ID_NAMESPACE: Uuid = Uuid::from_u128(0x904b_b7dc_dd45_5a4f_a501_6127_5734_3df9);

/// Where the data's schema is.
const DATA_SCHEMA: &str = "https://pelton.dev/schemas/model-version.v1.json";
/// The content type of the structured mode.
pub const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";

/// How an event is put into a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Attributes are headers, the data is the value.
    Binary,
    /// The value is a JSON object with attributes and data.
    Structured,
}

/// What a state change means for the message under the model's own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointer {
    /// The champion stays.
    Stays,
    /// This version is the champion now.
    Here,
    /// No version is: the base serves.
    Base,
}

/// One message of the topic, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMessage {
    /// `model/version` for a version's own event, `model` for the champion pointer.
    pub key: String,
    /// Headers: `ce_…` attributes and `content-type`.
    pub headers: Vec<(String, String)>,
    /// The value; empty is none (a tombstone): under a model's name it says that the base serves.
    pub payload: Vec<u8>,
}

/// Why a message is no model-version event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The value is not the JSON that the schema describes.
    #[error("the event's data does not fit pelton.model-version/v1: {0}")]
    Data(String),
    /// A field has a value that cannot be.
    #[error("the event's field `{field}` has the value `{value}`")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Data {
    schema: String,
    model: String,
    version: u32,
    name: String,
    state: String,
    time: String,
    cycle: String,
    parent: Option<String>,
    base_hash: String,
    location: String,
    adapter_hash: String,
    evaluation: Evaluation,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct Evaluation {
    holdout_prompts: u64,
    champion_reward: f64,
    challenger_reward: f64,
    gain: f64,
    gain_low: f64,
    gain_high: f64,
}

/// The id of a version's event: the same for the same version, state and time, on every machine, at every try.
#[must_use]
pub fn event_id(version: &Version) -> String {
    let name = format!("{}/{}/{}", version.reference, version.state.as_str(), version.time.micros());
    Uuid::new_v5(&ID_NAMESPACE, name.as_bytes()).to_string()
}

/// The messages that announce a state in binary mode: the version's own, and the champion pointer where it was promoted.
#[must_use]
pub fn messages(version: &Version, source: &str) -> Vec<EventMessage> {
    let promoted = version.state == VersionState::Promoted;
    announcement(version, source, if promoted { Pointer::Here } else { Pointer::Stays }, Mode::Binary)
}

/// The messages that announce a state: the version's own, and what becomes of the champion pointer.
#[must_use]
pub fn announcement(version: &Version, source: &str, pointer: Pointer, mode: Mode) -> Vec<EventMessage> {
    let (model, number) = (&version.reference.model, version.reference.number);
    let own = message(version, source, format!("{model}/{number}"), mode);
    let second = match pointer {
        Pointer::Stays => None,
        Pointer::Here => Some(EventMessage { key: model.to_string(), ..own.clone() }),
        // The attributes of the event that took the champion away; only the value says that there is none.
        Pointer::Base => {
            let binary = message(version, source, model.to_string(), Mode::Binary);
            Some(EventMessage { payload: Vec::new(), ..binary })
        }
    };
    std::iter::once(own).chain(second).collect()
}

/// The event as one JSON object: the structured mode, and what webhooks get.
#[must_use]
pub fn envelope(version: &Version, source: &str) -> Value {
    let mut envelope = json!({"data": data(version)});
    for (name, value) in attributes(version, source) {
        envelope[name] = json!(value);
    }
    envelope["datacontenttype"] = json!("application/json");
    envelope
}

fn attributes(version: &Version, source: &str) -> [(&'static str, String); 7] {
    [
        ("specversion", "1.0".to_owned()),
        ("id", event_id(version)),
        ("source", source.to_owned()),
        ("type", format!("{TYPE_PREFIX}{}", version.state.as_str())),
        ("subject", version.reference.to_string()),
        ("time", version.time.to_string()),
        ("dataschema", DATA_SCHEMA.to_owned()),
    ]
}

fn message(version: &Version, source: &str, key: String, mode: Mode) -> EventMessage {
    let content = |kind: &str| ("content-type".to_owned(), kind.to_owned());
    let json = |bytes: serde_json::Result<Vec<u8>>| bytes.expect("strings and finite numbers are always JSON");
    match mode {
        Mode::Binary => {
            let named = attributes(version, source).map(|(name, value)| (format!("ce_{name}"), value));
            let headers = named.into_iter().chain([content("application/json")]).collect();
            EventMessage { key, headers, payload: json(serde_json::to_vec(&data(version))) }
        }
        Mode::Structured => {
            let payload = json(serde_json::to_vec(&envelope(version, source)));
            EventMessage { key, headers: vec![content(STRUCTURED)], payload }
        }
    }
}

/// Reads a message of either mode back; nothing where its value says that the base serves.
///
/// # Errors
/// As [`decode`].
pub fn read(message: &EventMessage) -> Result<Option<Version>, EventError> {
    if message.payload.is_empty() {
        return Ok(None);
    }
    decode(&message.payload).map(Some)
}

fn data(version: &Version) -> Data {
    Data {
        schema: MODEL_VERSION_V1.to_owned(),
        model: version.reference.model.to_string(),
        version: version.reference.number.get(),
        name: version.reference.to_string(),
        state: version.state.as_str().to_owned(),
        time: version.time.to_string(),
        cycle: version.cycle.to_string(),
        parent: version.parent.as_ref().map(ToString::to_string),
        base_hash: version.base_hash.clone(),
        location: version.location.clone(),
        adapter_hash: version.adapter_hash.clone(),
        evaluation: Evaluation {
            holdout_prompts: version.holdout_prompts,
            champion_reward: version.champion_reward,
            challenger_reward: version.challenger_reward,
            gain: version.gain.mean,
            gain_low: version.gain.low,
            gain_high: version.gain.high,
        },
        reason: version.reason.clone(),
    }
}

/// Reads an event's data back, also where it is in an envelope of the structured mode.
///
/// # Errors
/// [`EventError`] with the field and its value.
pub fn decode(payload: &[u8]) -> Result<Version, EventError> {
    let envelope: Option<Value> = serde_json::from_slice(payload).ok();
    let inner = envelope.filter(|e| e["specversion"].is_string()).map(|e| e["data"].to_string());
    let mut parser = serde_json::Deserializer::from_slice(inner.as_deref().map_or(payload, str::as_bytes));
    let data: Data = serde_path_to_error::deserialize(&mut parser)
        .map_err(|e| EventError::Data(format!("{}: {}", e.path(), e.inner())))?;
    let wrong = |field, value: &str| EventError::Value { field, value: value.to_owned() };
    if data.schema != MODEL_VERSION_V1 {
        return Err(wrong("schema", &data.schema));
    }
    let number = VersionNumber::new(data.version).ok_or_else(|| wrong("version", "0"))?;
    let parent: Option<VersionRef> =
        data.parent.as_ref().map(|p| p.parse().map_err(|_| wrong("parent", p))).transpose()?;
    let e = data.evaluation;
    Ok(Version {
        reference: VersionRef { model: ModelName::new(&*data.model).map_err(|_| wrong("model", &data.model))?, number },
        state: VersionState::parse(&data.state).ok_or_else(|| wrong("state", &data.state))?,
        time: Timestamp::parse(&data.time).ok_or_else(|| wrong("time", &data.time))?,
        cycle: CycleId::new(&*data.cycle).map_err(|_| wrong("cycle", &data.cycle))?,
        parent,
        base_hash: data.base_hash,
        location: data.location,
        adapter_hash: data.adapter_hash,
        holdout_prompts: e.holdout_prompts,
        champion_reward: e.champion_reward,
        challenger_reward: e.challenger_reward,
        gain: Interval { mean: e.gain, low: e.gain_low, high: e.gain_high },
        reason: data.reason,
    })
}
