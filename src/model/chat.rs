//! Chat templates as Hugging Face renders them: Jinja with trimmed blocks, Python's string methods and its JSON.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State, context};

use super::error::{Error, Result};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`, or whatever else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    folder: PathBuf,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Parses a template; `folder` is named in errors.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] where the template is not Jinja.
    pub fn parse(source: String, folder: &Path, bos_token: Option<String>, eos_token: Option<String>) -> Result<Self> {
        let mut environment = Environment::new();
        let invalid = |source| Error::ChatTemplate { folder: folder.to_owned(), source };
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(invalid)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source).map_err(invalid)?;
        Ok(Self { environment, folder: folder.to_owned(), bos_token, eos_token })
    }

    /// The prompt's text for a conversation, up to where the assistant begins to answer.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] where the template refuses the messages.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String> {
        self.render_with(messages, true)
    }

    /// The text of a whole conversation, the assistant's last turn included.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_whole(&self, messages: &[ChatMessage]) -> Result<String> {
        self.render_with(messages, false)
    }

    /// The prompt's text for messages as OpenAI's API has them, with tools where the request has any: whatever fields the
    /// template knows.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_json(&self, messages: &[serde_json::Value], tools: Option<&serde_json::Value>) -> Result<String> {
        let refused = |source| Error::ChatTemplate { folder: self.folder.clone(), source };
        let template = self.environment.get_template(NAME).map_err(refused)?;
        let values = context! {
            messages => messages.iter().map(from_json).collect::<Vec<Value>>(),
            tools => tools.map(from_json),
            add_generation_prompt => true,
            bos_token => self.bos_token.as_deref(),
            eos_token => self.eos_token.as_deref(),
        };
        template.render(values).map_err(refused)
    }

    fn render_with(&self, messages: &[ChatMessage], generates: bool) -> Result<String> {
        let refused = |source| Error::ChatTemplate { folder: self.folder.clone(), source };
        let template = self.environment.get_template(NAME).map_err(refused)?;
        let pair = |m: &ChatMessage| context! { role => m.role.as_str(), content => m.content.as_str() };
        let values = context! {
            messages => messages.iter().map(pair).collect::<Vec<Value>>(),
            add_generation_prompt => generates,
            bos_token => self.bos_token.as_deref(),
            eos_token => self.eos_token.as_deref(),
        };
        template.render(values).map_err(refused)
    }
}

/// A JSON value as the template engine has it.
fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::from(whole),
            (None, number) => Value::from(number.unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect(),
        serde_json::Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), from_json(value)));
            Value::from(fields.collect::<std::collections::BTreeMap<String, Value>>())
        }
    }
}

fn raise_exception(message: String) -> std::result::Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The template engine's `tojson` without its escapes for HTML: what Hugging Face's prints.
fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let escaped = minijinja::filters::tojson(value, indent, options)?;
    let mut rest = escaped.as_str().unwrap_or_default();
    let mut out = String::with_capacity(rest.len());
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let unescaped = HTML_ESCAPES.iter().find(|(escape, _)| rest.starts_with(escape));
        // Another escape, or an escaped backslash, stays as it is: two characters that must not be taken apart.
        let (text, length) = unescaped.map_or((&rest[..2], 2), |(escape, character)| (*character, escape.len()));
        out.push_str(text);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Ok(out)
}

const HTML_ESCAPES: &[(&str, &str)] = &[("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&"), ("\\u0027", "'")];

/// The methods of Python's strings and dictionaries that templates call.
fn python_method(
    _: &mut State,
    object: &Value,
    method: &str,
    arguments: &[Value],
) -> std::result::Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::new(ErrorKind::UnknownMethod, format!("no method {method}"));
    if object.kind() == ValueKind::Map {
        return map_method(object, method, arguments)?.ok_or_else(unknown);
    }
    let text = object.as_str().ok_or_else(unknown)?;
    let argument = |index: usize| arguments.get(index).and_then(Value::as_str);
    let characters: Vec<char> = argument(0).map_or_else(Vec::new, |set| set.chars().collect());
    let stripped = |c: char| if characters.is_empty() { c.is_whitespace() } else { characters.contains(&c) };
    Ok(match (method, argument(0), argument(1)) {
        ("strip", _, _) => text.trim_matches(stripped).into(),
        ("lstrip", _, _) => text.trim_start_matches(stripped).into(),
        ("rstrip", _, _) => text.trim_end_matches(stripped).into(),
        ("upper", None, _) => text.to_uppercase().into(),
        ("lower", None, _) => text.to_lowercase().into(),
        ("startswith", Some(prefix), _) => text.starts_with(prefix).into(),
        ("endswith", Some(suffix), _) => text.ends_with(suffix).into(),
        ("replace", Some(from), Some(to)) => text.replace(from, to).into(),
        ("split", Some(separator), _) => text.split(separator).map(Value::from).collect(),
        ("split", None, _) => text.split_whitespace().map(Value::from).collect(),
        _ => return Err(unknown()),
    })
}

fn map_method(
    object: &Value,
    method: &str,
    arguments: &[Value],
) -> std::result::Result<Option<Value>, minijinja::Error> {
    Ok(match (method, arguments) {
        ("get", [key]) => Some(found(object.get_item(key)?).unwrap_or(Value::from(()))),
        ("get", [key, default]) => Some(found(object.get_item(key)?).unwrap_or_else(|| default.clone())),
        ("keys", []) => Some(object.try_iter()?.collect()),
        ("values", []) => {
            Some(object.try_iter()?.map(|key| object.get_item(&key)).collect::<std::result::Result<_, _>>()?)
        }
        ("items", []) => {
            let pair = |key: Value| object.get_item(&key).map(|value| Value::from(vec![key, value]));
            Some(object.try_iter()?.map(pair).collect::<std::result::Result<_, _>>()?)
        }
        _ => None,
    })
}

fn found(value: Value) -> Option<Value> {
    (!value.is_undefined()).then_some(value)
}
