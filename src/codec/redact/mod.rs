//! What must never be stored is replaced before anything else looks at a message.
//!
//! The whole message is rewritten, not the row: bodies, unknown fields, dead letters and everything that is derived from
//! them (messages, prompt, completion, `prompt_hash`) therefore hold the replacement and nothing else. The hash is taken
//! over the redacted text on purpose: a hash of the original would let anybody who guesses a secret confirm it, and the
//! hash of a prompt must be the hash of the `messages` that stand beside it.
//!
//! Patterns look at decoded strings, so that no escape hides a secret, and the result is JSON whenever the message was.
//! Strings that hold JSON or a logged stream are looked into. With a key, a replacement ends in a keyed hash of the value
//! (`<email:9f3ad05c6e21b874>`): equal values stay equal, and without the key nobody can guess them back.
//!
//! What is not JSON cannot be searched by field: with fields configured it is withheld whole.

mod pattern;
mod token;
mod walk;

pub use pattern::{BuiltIn, PatternError};
pub use walk::NotJson;

use pattern::Patterns;
use std::borrow::Cow;
use token::Tokens;

/// The fewest bytes of a key: less could be tried out.
pub const KEY_BYTES_MIN: usize = 16;

/// A key of replacements; it is never shown.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key, or nothing where it is shorter than [`KEY_BYTES_MIN`].
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() >= KEY_BYTES_MIN).then_some(Self(bytes))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What is redacted.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Fields by path, such as `requester` or `request.messages.content`; `*` stands for any one name, and lists are looked
    /// through.
    pub fields: Vec<String>,
    /// Patterns that Pelton brings.
    pub built_in: Vec<BuiltIn>,
    /// Own patterns: a label and a regular expression.
    pub patterns: Vec<(String, String)>,
    /// With a key equal values stay equal; without one every value of a kind looks alike.
    pub key: Option<Key>,
}

/// Compiled settings; shared by all decoders of a process.
#[derive(Debug)]
pub struct Redactor {
    fields: Vec<String>,
    patterns: Patterns,
    tokens: Tokens,
}

impl Redactor {
    /// Compiles settings.
    ///
    /// # Errors
    /// [`PatternError`] where a regular expression is none, or matches the empty text.
    pub fn new(settings: Settings) -> Result<Self, PatternError> {
        let patterns = Patterns::new(&settings.built_in, &settings.patterns)?;
        Ok(Self { fields: settings.fields, patterns, tokens: Tokens::new(settings.key.as_ref()) })
    }

    /// The message without what must not be stored; nothing where it may be stored as it is.
    ///
    /// # Errors
    /// [`NotJson`] where it is not JSON, or nested too deep to be looked through.
    pub fn json(&self, text: &str) -> Result<Option<String>, NotJson> {
        let fields: Vec<&str> = self.fields.iter().map(String::as_str).collect();
        walk::redact(self, text, &fields, 0)
    }

    /// A plain text without what the patterns find.
    #[must_use]
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.patterns.replace(text, &self.tokens).map_or(Cow::Borrowed(text), Cow::Owned)
    }

    /// A message's key or a header's value: JSON or text, and whatever else it may be.
    #[must_use]
    pub fn bytes<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let text = String::from_utf8_lossy(bytes);
        match walk::redact(self, &text, &[], 0) {
            Ok(None) => Cow::Borrowed(bytes),
            Ok(Some(redacted)) => Cow::Owned(redacted.into_bytes()),
            Err(NotJson { .. }) => self.loose(bytes),
        }
    }

    /// A payload that became no row for a reason beside its JSON, such as its size: looked through where it is JSON.
    #[must_use]
    pub fn refused<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let json = std::str::from_utf8(bytes).ok().and_then(|text| self.json(text).ok());
        match json {
            // Fields are found in plain rows and envelopes; in another format they may go by other names.
            Some(_) if std::str::from_utf8(bytes).is_ok_and(crate::codec::otel::is_export) => self.unreadable(bytes),
            Some(None) => Cow::Borrowed(bytes),
            Some(Some(redacted)) => Cow::Owned(redacted.into_bytes()),
            None => self.unreadable(bytes),
        }
    }

    /// A payload that is not JSON: withheld where fields are configured, else without what the patterns find.
    #[must_use]
    pub fn unreadable<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        if self.fields.is_empty() {
            return self.loose(bytes);
        }
        let token = self.tokens.of("withheld", bytes);
        Cow::Owned(format!("{token} {} bytes that are not JSON", bytes.len()).into_bytes())
    }

    /// Text that follows no grammar. Escapes may hide something, in several layers: where the text without them holds more,
    /// that text is kept.
    fn loose<'b>(&self, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        const LAYERS_MAX: usize = 4;
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        let mut found = self.patterns.finds(&text);
        for _ in 0..LAYERS_MAX {
            let Cow::Owned(plain) = walk::unescape(&text) else { break };
            found |= self.patterns.finds(&plain);
            text = plain;
        }
        if !found {
            return Cow::Borrowed(bytes);
        }
        // The layer that was found in may not be the last; each is replaced on the way down.
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        for _ in 0..LAYERS_MAX {
            text = self.text(&text).into_owned();
            let Cow::Owned(plain) = walk::unescape(&text) else { break };
            text = plain;
        }
        Cow::Owned(self.text(&text).into_owned().into_bytes())
    }
}

#[cfg(test)]
mod tests;
