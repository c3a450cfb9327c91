//! What a flywheel needs from OpenAI bodies: chat completions, text completions, the Responses API, embeddings.
//!
//! Everything is optional and nothing is an error: a body that is odd gives fewer values. Content follows OpenAI's
//! documented shapes; multi-part content is its text parts joined by a line break.

use super::field::string;
use crate::domain::{ChatMessage, PromptHash, VersionRef, canonical_json};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Values that a request and its response give.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Derived {
    pub(super) operation: Option<&'static str>,
    pub(super) model: Option<String>,
    pub(super) model_version: Option<String>,
    pub(super) messages: Option<String>,
    pub(super) prompt: Option<String>,
    pub(super) prompt_hash: Option<String>,
    pub(super) completion: Option<String>,
    pub(super) finish_reason: Option<String>,
    pub(super) input_tokens: Option<i64>,
    pub(super) output_tokens: Option<i64>,
    pub(super) stream: Option<bool>,
}

#[derive(Deserialize, Default)]
struct Request<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow)]
    encoding_format: Option<&'a RawValue>,
    #[serde(borrow)]
    dimensions: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Response<'a> {
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

/// A message of a request or a response; also an item of the Responses API.
#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Usage<'a> {
    #[serde(borrow)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    output_tokens: Option<&'a RawValue>,
}

pub(super) fn derive(request: &str, response: Option<&str>) -> Derived {
    let request: Request<'_> = serde_json::from_str(request).unwrap_or_default();
    let response: Response<'_> = response.and_then(|r| serde_json::from_str(r).ok()).unwrap_or_default();
    let (operation, messages) = asked(&request, text(response.object).as_deref());
    let json = messages.as_deref().map(canonical_json);
    let (completion, finish_reason) = answered(&response);
    let (input_tokens, output_tokens) = tokens(&response);
    let served = text(response.model);
    Derived {
        operation,
        model_version: served.clone().filter(|m| m.parse::<VersionRef>().is_ok()),
        model: text(request.model).or(served),
        prompt: messages.as_deref().and_then(last_user_turn),
        prompt_hash: json.as_deref().map(|json| PromptHash::of_canonical(json).to_string()),
        messages: json,
        completion,
        finish_reason,
        input_tokens,
        output_tokens,
        stream: request.stream.and_then(|raw| raw.get().parse().ok()),
    }
}

/// The operation, and the turns where it has any.
fn asked(request: &Request<'_>, response_object: Option<&str>) -> (Option<&'static str>, Option<Vec<ChatMessage>>) {
    if let Some(messages) = request.messages {
        return (Some("chat"), turns(messages).filter(|m| !m.is_empty()));
    }
    if let Some(prompt) = request.prompt {
        return (Some("text_completion"), content(prompt).map(|text| vec![ChatMessage::user(text)]));
    }
    let Some(input) = request.input else { return (None, None) };
    let embeds = request.encoding_format.is_some() || request.dimensions.is_some() || response_object == Some("list");
    if embeds {
        return (Some("embeddings"), None);
    }
    let system = text(request.instructions).map(|content| ChatMessage { role: "system".to_owned(), content });
    let given = string(input.get()).map(|text| vec![ChatMessage::user(text)]).or_else(|| turns(input));
    let all = given.map(|turns| system.into_iter().chain(turns).collect::<Vec<_>>());
    (Some("chat"), all.filter(|m| !m.is_empty()))
}

/// What was answered, and why the model stopped.
fn answered(response: &Response<'_>) -> (Option<String>, Option<String>) {
    if let Some(choice) = response.choices.and_then(items::<Choice<'_>>).and_then(|c| c.into_iter().next()) {
        let message: Option<Turn<'_>> = choice.message.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let completion = message.and_then(|m| m.content).and_then(content).or_else(|| text(choice.text));
        return (completion, text(choice.finish_reason));
    }
    let Some(output) = response.output.and_then(items::<Turn<'_>>) else { return (None, None) };
    let texts: Vec<String> = output.into_iter().filter_map(|item| item.content.and_then(content)).collect();
    ((!texts.is_empty()).then(|| texts.join("\n")), text(response.status))
}

fn tokens(response: &Response<'_>) -> (Option<i64>, Option<i64>) {
    let usage: Option<Usage<'_>> = response.usage.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let Some(usage) = usage else { return (None, None) };
    let number = |raw: Option<&RawValue>| raw.and_then(|raw| raw.get().parse::<i64>().ok());
    (
        number(usage.prompt_tokens).or_else(|| number(usage.input_tokens)),
        number(usage.completion_tokens).or_else(|| number(usage.output_tokens)),
    )
}

fn last_user_turn(messages: &[ChatMessage]) -> Option<String> {
    messages.iter().rfind(|m| m.role == "user").map(|m| m.content.clone())
}

fn turns(raw: &RawValue) -> Option<Vec<ChatMessage>> {
    let turns: Vec<Turn<'_>> = items(raw)?;
    let message = |turn: Turn<'_>| {
        let role = text(turn.role)?;
        Some(ChatMessage { role, content: turn.content.and_then(content).unwrap_or_default() })
    };
    Some(turns.into_iter().filter_map(message).collect())
}

/// A string, an array of strings, or an array of parts whose texts count.
fn content(raw: &RawValue) -> Option<String> {
    if let Some(text) = string(raw.get()) {
        return Some(text.into_owned());
    }
    let items: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    let part = |raw: &&RawValue| match string(raw.get()) {
        Some(text) => Some(text.into_owned()),
        None => serde_json::from_str::<Part<'_>>(raw.get()).ok().and_then(|part| text(part.text)),
    };
    let texts: Vec<String> = items.iter().filter_map(part).collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

fn items<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<Vec<T>> {
    serde_json::from_str(raw.get()).ok()
}

fn text(raw: Option<&RawValue>) -> Option<String> {
    raw.and_then(|raw| string(raw.get())).map(std::borrow::Cow::into_owned)
}
