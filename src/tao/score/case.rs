//! One response to score, and what is said of it.

use crate::domain::{ChatMessage, Component};
use serde_json::Value;

/// One response with the prompt that it answers, and what the prompt brings to judge it by.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The conversation.
    pub messages: &'a [ChatMessage],
    /// The response.
    pub response: &'a str,
    /// The right answer, where the prompt carries one.
    pub reference: Option<&'a str>,
    /// The document that the answer must stay with, where it is given beside the messages.
    pub document: Option<&'a str>,
    /// The JSON Schema that the answer must meet, where it is the prompt's own.
    pub schema: Option<&'a Value>,
}

impl<'a> Case<'a> {
    /// A response to a conversation that brings nothing else.
    #[must_use]
    pub fn new(messages: &'a [ChatMessage], response: &'a str) -> Self {
        Self { messages, response, reference: None, document: None, schema: None }
    }

    /// The question: the last user turn.
    #[must_use]
    pub fn question(&self) -> &'a str {
        self.messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.content.as_str())
    }
}

/// What a composition says of one response.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The reward; absent where a scorer with a weight has no verdict.
    pub reward: Option<f64>,
    /// Each scorer's number, and the parts that it came from, by name.
    pub components: Vec<Component>,
}

/// What one scorer says of one response.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    /// From 0 to 1; absent where it has no verdict.
    pub(super) value: Option<f64>,
    /// What the number came from.
    pub(super) parts: Vec<(&'static str, f64)>,
}

impl Finding {
    pub(super) fn of(value: f64) -> Self {
        Self { value: Some(value), parts: Vec::new() }
    }

    pub(super) const NONE: Self = Self { value: None, parts: Vec::new() };
}

impl From<bool> for Finding {
    fn from(held: bool) -> Self {
        Self::of(f64::from(u8::from(held)))
    }
}
