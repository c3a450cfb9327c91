//! The JSON Schemas of what crosses Kafka, embedded from `schemas/`.

/// One published schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// What a message's `schema` field says.
    pub name: &'static str,
    /// The file under `schemas/`, without `.json`: what `pelton schema NAME` takes.
    pub file: &'static str,
    /// The JSON Schema (draft 2020-12).
    pub json: &'static str,
}

/// Our envelope of a logged call.
pub const INFERENCE_LOG_V1: Schema = Schema {
    name: "pelton.inference-log/v1",
    file: "inference-log.v1",
    json: include_str!("../../schemas/inference-log.v1.json"),
};

/// A user's signal on a logged call.
pub const FEEDBACK_V1: Schema =
    Schema { name: "pelton.feedback/v1", file: "feedback.v1", json: include_str!("../../schemas/feedback.v1.json") };

/// The data of a model-version event.
pub const MODEL_VERSION_V1: Schema = Schema {
    name: super::event::MODEL_VERSION_V1,
    file: "model-version.v1",
    json: include_str!("../../schemas/model-version.v1.json"),
};

/// All schemas of what crosses Kafka.
pub const ALL: &[Schema] = &[INFERENCE_LOG_V1, FEEDBACK_V1, MODEL_VERSION_V1];
