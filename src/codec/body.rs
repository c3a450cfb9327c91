//! What a flywheel needs from OpenAI bodies: chat completions, text completions, the Responses API, embeddings.
//!
//! Everything is optional and nothing is an error: a body that is odd gives fewer values. Content follows OpenAI's
//! documented shapes; multi-part content is its text parts joined by a line break. A body is read in one pass, and a text is
//! copied once: escaped as it came it goes into the canonical messages, because that is nearly always their form too.

use super::field::raw_fields;
use super::scan::{Scan, Text};
use crate::domain::{PromptHash, VersionRef, push_canonical};
use std::borrow::Cow;

/// Values that a request and its response give.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Derived<'a> {
    pub(super) operation: Option<&'static str>,
    pub(super) model: Option<Cow<'a, str>>,
    pub(super) model_version: Option<Cow<'a, str>>,
    pub(super) messages: Option<Cow<'a, str>>,
    pub(super) prompt: Option<Cow<'a, str>>,
    pub(super) prompt_hash: Option<Cow<'a, str>>,
    pub(super) completion: Option<Cow<'a, str>>,
    pub(super) finish_reason: Option<Cow<'a, str>>,
    pub(super) input_tokens: Option<i64>,
    pub(super) output_tokens: Option<i64>,
    pub(super) stream: Option<bool>,
}

raw_fields!(
    /// A request's fields that are read only where they are needed.
    Asked { model, messages, prompt, input, instructions, stream, encoding_format, dimensions }
);

raw_fields!(
    /// A response's fields that are read only where they are needed.
    Answered { object, model, choices, output, status, usage }
);

raw_fields!(
    /// A count of tokens, as chat completions and as the Responses API name it.
    Usage { prompt_tokens, completion_tokens, input_tokens, output_tokens }
);

/// A request body.
#[derive(Debug, Default)]
pub(super) struct Request<'a> {
    fields: Asked<'a>,
    turns: Option<Turns<'a>>,
}

/// A response body.
#[derive(Debug, Default)]
pub(super) struct Response<'a> {
    fields: Answered<'a>,
    choice: Option<Choice<'a>>,
}

/// The turns of a conversation as canonical JSON, and the last one of a user.
#[derive(Debug, Default)]
struct Turns<'a> {
    canonical: String,
    last_user: Option<Text<'a>>,
}

/// The first choice.
#[derive(Debug, Default)]
struct Choice<'a> {
    content: Option<Text<'a>>,
    text: Option<Text<'a>>,
    finish_reason: Option<Text<'a>>,
}

/// A message of a request or a response; also an item of the Responses API.
#[derive(Debug, Default)]
struct Turn<'a> {
    role: Option<Text<'a>>,
    content: Option<Text<'a>>,
}

impl<'a> Request<'a> {
    /// The request in a text of its own; an empty one where it is odd.
    pub(super) fn of(text: &'a str) -> Self {
        whole(text, Self::read).unwrap_or_default()
    }

    pub(super) fn read(scan: &mut Scan<'a>) -> Option<Self> {
        let mut request = Self::default();
        scan.object(|scan, key| {
            let raw = if key == "messages" {
                let (raw, turns) = scan.both(Turns::read)?;
                request.turns = turns;
                raw
            } else {
                scan.value()?
            };
            once(request.fields.slot(key), raw)
        })?;
        request.fields = request.fields.without_nulls();
        Some(request)
    }

    /// The operation, and the turns where it has any.
    fn asked(self, response_object: Option<&str>) -> (Option<&'static str>, Option<Turns<'a>>) {
        let fields = self.fields;
        if fields.messages.is_some() {
            return (Some("chat"), self.turns.filter(|turns| !turns.is_empty()));
        }
        if let Some(prompt) = fields.prompt {
            return (Some("text_completion"), whole(prompt, content).map(|text| Turns::default().user(text)));
        }
        let Some(input) = fields.input else { return (None, None) };
        if fields.encoding_format.is_some() || fields.dimensions.is_some() || response_object == Some("list") {
            return (Some("embeddings"), None);
        }
        let mut turns = Turns::default();
        if let Some(system) = fields.instructions.and_then(text) {
            turns.push(&Text::Canonical("system"), system);
        }
        let turns = match text(input) {
            Some(text) => Some(turns.user(text)),
            None => whole(input, |scan| turns.extend(scan)),
        };
        (Some("chat"), turns.filter(|turns| !turns.is_empty()))
    }
}

impl<'a> Turns<'a> {
    fn read(scan: &mut Scan<'a>) -> Option<Self> {
        Self::default().extend(scan)
    }

    /// Adds the turns of an array; those without a role do not count.
    fn extend(mut self, scan: &mut Scan<'a>) -> Option<Self> {
        self.canonical.reserve(scan.left());
        scan.array(|scan| {
            let turn = Turn::read(scan)?;
            if let Some(role) = turn.role {
                self.push(&role, turn.content.unwrap_or(Text::Canonical("")));
            }
            Some(())
        })?;
        Some(self)
    }

    fn user(mut self, content: Text<'a>) -> Self {
        self.push(&Text::Canonical("user"), content);
        self
    }

    fn push(&mut self, role: &Text<'a>, content: Text<'a>) {
        let out = &mut self.canonical;
        out.push_str(if out.is_empty() { "[{\"role\":\"" } else { ",{\"role\":\"" });
        push(out, role);
        out.push_str("\",\"content\":\"");
        push(out, &content);
        out.push_str("\"}");
        if role.is("user") {
            self.last_user = Some(content);
        }
    }

    fn is_empty(&self) -> bool {
        self.canonical.is_empty()
    }

    fn finish(mut self) -> (String, Option<Text<'a>>) {
        self.canonical.push(']');
        (self.canonical, self.last_user)
    }
}

impl<'a> Turn<'a> {
    fn read(scan: &mut Scan<'a>) -> Option<Self> {
        let (mut role, mut inner) = (None, None);
        scan.object(|scan, key| match key {
            "role" => first(&mut role, scan.attempt(Scan::text)?),
            "content" => first(&mut inner, scan.attempt(content)?),
            _ => scan.value().map(drop),
        })?;
        Some(Self { role: role.flatten(), content: inner.flatten() })
    }
}

impl<'a> Response<'a> {
    /// Whether it is one chunk of a stream.
    pub(super) fn is_chunk(&self) -> bool {
        self.fields.object == Some("\"chat.completion.chunk\"")
    }

    /// The response in a text of its own; an empty one where it is odd.
    pub(super) fn of(text: &'a str) -> Self {
        whole(text, Self::read).unwrap_or_default()
    }

    pub(super) fn read(scan: &mut Scan<'a>) -> Option<Self> {
        let mut response = Self::default();
        scan.object(|scan, key| {
            let raw = if key == "choices" {
                let (raw, choice) = scan.both(Choice::first)?;
                response.choice = choice.flatten();
                raw
            } else {
                scan.value()?
            };
            once(response.fields.slot(key), raw)
        })?;
        response.fields = response.fields.without_nulls();
        Some(response)
    }

    /// What was answered, and why the model stopped.
    fn answered(self) -> (Option<Cow<'a, str>>, Option<Cow<'a, str>>) {
        if let Some(choice) = self.choice {
            return (choice.content.or(choice.text).and_then(Text::plain), choice.finish_reason.and_then(Text::plain));
        }
        let mut texts = Vec::new();
        let read = self.fields.output.and_then(|output| {
            whole(output, |scan| {
                scan.array(|scan| {
                    texts.extend(Turn::read(scan)?.content.and_then(Text::plain));
                    Some(())
                })
            })
        });
        if read.is_none() {
            return (None, None);
        }
        (joined(texts), self.fields.status.and_then(text).and_then(Text::plain))
    }
}

impl<'a> Choice<'a> {
    /// The first of an array of choices, all of which have to be objects.
    fn first(scan: &mut Scan<'a>) -> Option<Option<Self>> {
        let mut found = None;
        scan.array(|scan| {
            let choice = Self::read(scan)?;
            found.get_or_insert(choice);
            Some(())
        })?;
        Some(found)
    }

    fn read(scan: &mut Scan<'a>) -> Option<Self> {
        let (mut message, mut text, mut finish_reason) = (None, None, None);
        scan.object(|scan, key| match key {
            "message" => first(&mut message, scan.attempt(Turn::read)?),
            "text" => first(&mut text, scan.attempt(Scan::text)?),
            "finish_reason" => first(&mut finish_reason, scan.attempt(Scan::text)?),
            _ => scan.value().map(drop),
        })?;
        let content = message.flatten().and_then(|turn: Turn<'_>| turn.content);
        Some(Self { content, text: text.flatten(), finish_reason: finish_reason.flatten() })
    }
}

/// What a request and its response give together.
pub(super) fn derive<'a>(request: Request<'a>, response: Response<'a>) -> Derived<'a> {
    let string = |raw: Option<&'a str>| raw.and_then(text).and_then(Text::plain);
    let (input_tokens, output_tokens) = tokens(response.fields.usage);
    let served = string(response.fields.model);
    let object = string(response.fields.object);
    let (asked_model, stream) = (string(request.fields.model), request.fields.stream);
    let (operation, turns) = request.asked(object.as_deref());
    let (messages, last_user) = turns.map(Turns::finish).unzip();
    let (completion, finish_reason) = response.answered();
    Derived {
        operation,
        model_version: served.clone().filter(|m| m.parse::<VersionRef>().is_ok()),
        model: asked_model.or(served),
        prompt: last_user.flatten().and_then(Text::plain),
        prompt_hash: messages.as_deref().map(|json| PromptHash::of_canonical(json).to_string().into()),
        messages: messages.map(Cow::Owned),
        completion,
        finish_reason,
        input_tokens,
        output_tokens,
        stream: stream.and_then(|raw| raw.parse().ok()),
    }
}

impl Derived<'_> {
    /// Values of their own, for bodies that end before the row does.
    pub(super) fn into_owned(self) -> Derived<'static> {
        fn own(value: Option<Cow<'_, str>>) -> Option<Cow<'static, str>> {
            value.map(|text| Cow::Owned(text.into_owned()))
        }
        Derived {
            operation: self.operation,
            model: own(self.model),
            model_version: own(self.model_version),
            messages: own(self.messages),
            prompt: own(self.prompt),
            prompt_hash: own(self.prompt_hash),
            completion: own(self.completion),
            finish_reason: own(self.finish_reason),
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            stream: self.stream,
        }
    }
}

fn tokens(usage: Option<&str>) -> (Option<i64>, Option<i64>) {
    let mut fields = Usage::default();
    let usage = usage.and_then(|raw| {
        whole(raw, |scan| {
            scan.object(|scan, key| {
                let raw = scan.value()?;
                once(fields.slot(key), raw)
            })
        })
    });
    if usage.is_none() {
        return (None, None);
    }
    let fields = fields.without_nulls();
    let number = |raw: Option<&str>| raw.and_then(|raw| raw.parse::<i64>().ok());
    (
        number(fields.prompt_tokens).or_else(|| number(fields.input_tokens)),
        number(fields.completion_tokens).or_else(|| number(fields.output_tokens)),
    )
}

/// A string, an array of strings, or an array of parts whose texts count.
fn content<'a>(scan: &mut Scan<'a>) -> Option<Text<'a>> {
    if scan.peek()? == b'"' {
        return scan.text();
    }
    let mut texts = Vec::new();
    scan.array(|scan| {
        texts.extend(scan.attempt(part)?.flatten().and_then(Text::plain));
        Some(())
    })?;
    joined(texts).map(Text::Plain)
}

/// A string, or an object with a `text`.
fn part<'a>(scan: &mut Scan<'a>) -> Option<Option<Text<'a>>> {
    if scan.peek()? == b'"' {
        return scan.text().map(Some);
    }
    let mut text = None;
    scan.object(|scan, key| match key {
        "text" => first(&mut text, scan.attempt(Scan::text)?),
        _ => scan.value().map(drop),
    })?;
    Some(text.flatten())
}

fn joined<'a>(texts: Vec<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    (!texts.is_empty()).then(|| texts.join("\n").into())
}

/// A text that is one value, read whole.
fn whole<'a, T>(json: &'a str, read: impl FnOnce(&mut Scan<'a>) -> Option<T>) -> Option<T> {
    let mut scan = Scan::new(json);
    let found = read(&mut scan)?;
    scan.end().map(|()| found)
}

fn text(raw: &str) -> Option<Text<'_>> {
    whole(raw, Scan::text)
}

fn push(out: &mut String, text: &Text<'_>) {
    match text {
        Text::Canonical(inner) => out.push_str(inner),
        Text::Plain(text) => push_canonical(out, text),
    }
}

/// Fills a field that may come once; an object that has it twice is odd.
fn first<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

fn once<'a>(slot: Option<&mut Option<&'a str>>, raw: &'a str) -> Option<()> {
    slot.is_none_or(|slot| slot.replace(raw).is_none()).then_some(())
}
