//! JSON that a schema describes.

use super::super::Error;
use super::super::case::{Case, Finding};
use super::super::member::Says;
use super::super::text::unfenced;
use crate::config::JsonSchemaScore;
use jsonschema::Validator;
use serde_json::Value;
use std::path::PathBuf;

/// What JSON that is not valid earns: it is nearer than prose, and groups in which none is valid can still learn.
const JSON_ONLY: f64 = 0.25;

#[derive(Debug)]
pub(in super::super) struct JsonSchema(Option<Validator>);

impl JsonSchema {
    pub(in super::super) fn open(score: &JsonSchemaScore, resolve: &dyn Fn(&str) -> PathBuf) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Setting { name: "json_schema".to_owned(), reason };
        let (schema, source) = match (&score.schema, &score.file) {
            (Some(schema), _) => (schema.clone(), "schema".to_owned()),
            (None, Some(file)) => {
                let path = resolve(file);
                let text = std::fs::read_to_string(&path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
                let value = serde_json::from_str(&text)
                    .map_err(|e| wrong(format!("{} is no JSON ({e}), so no JSON Schema", path.display())))?;
                (value, path.display().to_string())
            }
            (None, None) => return Ok(Self(None)),
        };
        let validator =
            jsonschema::validator_for(&schema).map_err(|e| wrong(format!("{source} is no JSON Schema: {e}")))?;
        Ok(Self(Some(validator)))
    }
}

impl Says for JsonSchema {
    fn says(&self, case: &Case<'_>) -> Finding {
        let own = case.schema.and_then(|schema| jsonschema::validator_for(schema).ok());
        let Some(validator) = own.as_ref().or(self.0.as_ref()) else { return Finding::NONE };
        let Ok(value) = serde_json::from_str::<Value>(unfenced(case.response)) else {
            return Finding { value: Some(0.0), parts: vec![("parses", 0.0)] };
        };
        let value = if validator.is_valid(&value) { 1.0 } else { JSON_ONLY };
        Finding { value: Some(value), parts: vec![("parses", 1.0)] }
    }
}
