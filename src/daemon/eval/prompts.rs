//! JSON lines in: prompts with what they are judged by, and answers that were given elsewhere.

use crate::domain::{ChatMessage, PromptHash};
use crate::tao::score::Case;
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

/// Fields of a line that have a meaning.
const FIELDS: &[&str] =
    &["id", "prompt", "system", "messages", "reference", "truth", "document", "schema", "answer", "response"];

/// One prompt of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The line's `id`, or the prompt's hash: what two runs are paired by.
    pub id: String,
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// The right answer (`reference` or `truth`).
    pub reference: Option<String>,
    /// The document that the answer must stay with.
    pub document: Option<String>,
    /// The JSON Schema that the answer must meet.
    pub schema: Option<Value>,
    /// An answer that was given elsewhere (`answer` or `response`).
    pub answer: Option<String>,
}

impl Asked {
    /// An answer to this prompt, to be judged.
    #[must_use]
    pub fn case<'a>(&'a self, response: &'a str) -> Case<'a> {
        Case {
            reference: self.reference.as_deref(),
            document: self.document.as_deref(),
            schema: self.schema.as_ref(),
            ..Case::new(&self.messages, response)
        }
    }
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: String,
}

/// Reads prompts, one JSON object a line; empty lines are skipped.
///
/// # Errors
/// The file that cannot be read, or the first line that is no prompt, with its number and what would be right.
pub fn read_prompts(path: &Path) -> Result<Vec<Asked>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut prompts = Vec::new();
    let mut ids = BTreeSet::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, line {number}", path.display());
        let asked = asked(line).with_context(place)?;
        if !ids.insert(asked.id.clone()) {
            bail!("{}: the id `{}` is there twice; ids pair the prompts of two runs", place(), asked.id);
        }
        prompts.push(asked);
    }
    if prompts.is_empty() {
        bail!("{} has no line; each is a JSON object with `prompt` or `messages`", path.display());
    }
    Ok(prompts)
}

/// As [`read_prompts`], where each line brings its answer.
///
/// # Errors
/// As [`read_prompts`], and the first line without an answer.
pub fn read_answers(path: &Path) -> Result<Vec<Asked>> {
    let prompts = read_prompts(path)?;
    if let Some(without) = prompts.iter().find(|p| p.answer.is_none()) {
        bail!("{}: the prompt `{}` has no `answer`", path.display(), without.id);
    }
    Ok(prompts)
}

fn asked(line: &str) -> Result<Asked> {
    let value: Value = serde_json::from_str(line).context("is no JSON")?;
    let Value::Object(fields) = value else {
        bail!(
            "is no JSON object; write {{\"prompt\": \"…\"}} or {{\"messages\": [{{\"role\": \"user\", \"content\": \"…\"}}]}}"
        )
    };
    let messages = messages(&fields)?;
    let schema = fields.get("schema").filter(|s| !s.is_null()).cloned();
    if let Some(why) = schema.as_ref().and_then(|s| jsonschema::validator_for(s).err()) {
        bail!("`schema` is no JSON Schema: {why}");
    }
    let id = match fields.get("id") {
        None | Some(Value::Null) => PromptHash::of(&messages).to_string(),
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        Some(_) => bail!("`id` is no text or number"),
    };
    Ok(Asked {
        id,
        reference: either(&fields, "reference", "truth")?,
        document: text(&fields, "document")?,
        answer: either(&fields, "answer", "response")?,
        messages,
        schema,
    })
}

fn messages(fields: &Map<String, Value>) -> Result<Vec<ChatMessage>> {
    let given = |name: &str| fields.get(name).filter(|v| !v.is_null());
    match (given("messages"), text(fields, "prompt")?) {
        (Some(_), Some(_)) => bail!("has `prompt` and `messages`; leave one of them out"),
        (Some(messages), None) => {
            let turns = Vec::<Turn>::deserialize(messages)
                .context("`messages` is no list of objects with the texts `role` and `content`")?;
            if !turns.iter().any(|t| t.role == "user") {
                bail!("`messages` has no turn of the role `user`");
            }
            Ok(turns.into_iter().map(|t| ChatMessage { role: t.role, content: t.content }).collect())
        }
        (None, Some(prompt)) => {
            let system = text(fields, "system")?.map(|content| ChatMessage { role: "system".to_owned(), content });
            Ok(system.into_iter().chain([ChatMessage::user(prompt)]).collect())
        }
        (None, None) => {
            let unknown: Vec<&str> = fields.keys().map(String::as_str).filter(|name| !FIELDS.contains(name)).collect();
            let has = if unknown.is_empty() { String::new() } else { format!("; it has {}", unknown.join(", ")) };
            bail!("has neither `prompt` nor `messages`{has}")
        }
    }
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) if matches!(name, "reference" | "truth") => Ok(Some(number.to_string())),
        Some(_) => bail!("`{name}` is no text"),
    }
}

fn either(fields: &Map<String, Value>, one: &str, other: &str) -> Result<Option<String>> {
    match (text(fields, one)?, text(fields, other)?) {
        (Some(_), Some(_)) => bail!("has `{one}` and `{other}`, which mean the same; leave one of them out"),
        (one, other) => Ok(one.or(other)),
    }
}
