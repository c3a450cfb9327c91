//! SQL functions for logs, beside DataFusion's own.
//!
//! `prompt_hash(messages)` is the identity of a prompt, the same 32 digits that the tables store. `token_count(text, model)` is how
//! many tokens a configured model reads a text as. Those for JSON (`json_get_str`, `->>` …) are datafusion-functions-json's.

use crate::domain::{ChatMessage, PromptHash};
use datafusion::arrow::array::{Array, AsArray, Int64Array, StringBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility, create_udf,
};
use serde_json::Value;
use std::sync::Arc;

/// All functions that a session adds.
pub(super) fn all() -> Vec<ScalarUDF> {
    vec![ScalarUDF::new_from_impl(PromptHashFunction::new())]
}

/// `token_count(text, model)`, which asks `count` for each text and the name beside it; null where either is.
#[must_use]
pub fn token_count(count: impl Fn(&str, &str) -> Result<usize, String> + Send + Sync + 'static) -> ScalarUDF {
    let invoke = move |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let (texts, models) = (arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>());
        let each = texts.iter().zip(models).map(|pair| match pair {
            (Some(text), Some(model)) => count(text, model)
                .map(|tokens| i64::try_from(tokens).ok())
                .map_err(|why| DataFusionError::Execution(format!("token_count: {why}"))),
            _ => Ok(None),
        });
        Ok(ColumnarValue::Array(Arc::new(each.collect::<Result<Int64Array>>()?)))
    };
    let text = || DataType::Utf8;
    create_udf("token_count", vec![text(), text()], DataType::Int64, Volatility::Stable, Arc::new(invoke))
}

/// Reads messages from JSON: an array of objects with a `role` and a `content`, which may be a text, null, or an array
/// of parts whose text parts are joined by a line break. `None` where the text is no such array.
#[must_use]
pub fn messages_from_json(json: &str) -> Option<Vec<ChatMessage>> {
    let turns: Vec<Value> = serde_json::from_str(json).ok()?;
    turns.iter().map(message).collect()
}

fn message(turn: &Value) -> Option<ChatMessage> {
    let role = turn.get("role")?.as_str()?.to_owned();
    let content = match turn.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<Vec<_>>().join("\n")
        }
        Some(_) => return None,
    };
    Some(ChatMessage { role, content })
}

/// `prompt_hash(messages_json)`: null where the text is not a JSON array of messages.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PromptHashFunction {
    signature: Signature,
}

impl PromptHashFunction {
    fn new() -> Self {
        let text = TypeSignature::String(1);
        Self { signature: Signature::new(text, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for PromptHashFunction {
    fn name(&self) -> &'static str {
        "prompt_hash"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = arguments.args[0].to_array(arguments.number_rows)?;
        let texts = cast(&texts, &DataType::Utf8)?;
        let mut hashes = StringBuilder::with_capacity(texts.len(), texts.len() * 32);
        for text in texts.as_string::<i32>() {
            let messages = text.and_then(messages_from_json);
            hashes.append_option(messages.map(|m| PromptHash::of(&m).to_string()));
        }
        Ok(ColumnarValue::Array(Arc::new(hashes.finish())))
    }
}
