//! One pass over JSON text that copies what may stay and replaces what may not.
//!
//! It follows JSON's grammar exactly as far as copying demands: each byte that is kept is white space, punctuation, a
//! literal, a number or a string that was looked at.

use super::Redactor;
use crate::codec::sse;
use std::borrow::Cow;

/// Values nested deeper are not looked through, and so not kept.
const DEPTH_MAX: usize = 128;
/// Strings that hold JSON that holds strings that hold JSON …
const LAYERS_MAX: usize = 4;

/// The text is not JSON, or nested too deep to be looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is not JSON from byte {at} on")]
pub struct NotJson {
    /// Where it stops to be JSON.
    pub at: usize,
}

pub(super) fn redact(by: &Redactor, text: &str, fields: &[&str], layer: usize) -> Result<Option<String>, NotJson> {
    let mut walk = Walk { by, text, bytes: text.as_bytes(), at: 0, copied: 0, out: String::new(), layer, muted: false };
    walk.value(fields, 0)?;
    walk.space();
    if walk.at < text.len() {
        return Err(walk.not_json());
    }
    if walk.copied == 0 {
        return Ok(None);
    }
    walk.out.push_str(&text[walk.copied..]);
    Ok(Some(walk.out))
}

struct Walk<'r, 't> {
    by: &'r Redactor,
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    /// Everything before was written, as it was or replaced.
    copied: usize,
    out: String,
    layer: usize,
    /// Within a field that is replaced as a whole.
    muted: bool,
}

impl<'t> Walk<'_, 't> {
    fn not_json(&self) -> NotJson {
        NotJson { at: self.at }
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        self.space();
        if self.bytes.get(self.at) != Some(&byte) {
            return Err(self.not_json());
        }
        self.at += 1;
        Ok(())
    }

    fn replace(&mut self, from: usize, by: &str) {
        if self.muted {
            return;
        }
        self.out.push_str(&self.text[self.copied..from]);
        super::super::json::push_string(&mut self.out, by);
        self.copied = self.at;
    }

    /// One value. `fields` are what is left of the paths that lead here.
    fn value(&mut self, fields: &[&str], depth: usize) -> Result<(), NotJson> {
        self.space();
        if depth > DEPTH_MAX {
            return Err(self.not_json());
        }
        match self.bytes.get(self.at) {
            Some(b'{') => self.object(fields, depth),
            Some(b'[') => self.array(fields, depth),
            Some(b'"') => {
                let from = self.at;
                let token = self.string()?;
                if !self.muted
                    && let Some(new) = self.looked_into(&unescape(token), fields)
                {
                    self.replace(from, &new);
                }
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => {
                self.number();
                Ok(())
            }
            _ => self.literal(),
        }
    }

    fn object(&mut self, fields: &[&str], depth: usize) -> Result<(), NotJson> {
        self.at += 1;
        self.space();
        if self.bytes.get(self.at) == Some(&b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let from = self.at;
            let key = unescape(self.string()?);
            if !self.muted
                && let Cow::Owned(new) = self.by.text(&key)
            {
                self.replace(from, &new);
            }
            self.expect(b':')?;
            self.member(&key, fields, depth)?;
            self.space();
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.not_json()),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// The value of a member: replaced as a whole where a path ends here.
    fn member(&mut self, key: &str, fields: &[&str], depth: usize) -> Result<(), NotJson> {
        let mut deeper = Vec::new();
        let mut ends = false;
        for field in fields {
            match step(field, key) {
                Some("") => ends = true,
                Some(rest) => deeper.push(rest),
                None => {}
            }
        }
        if !ends || self.muted {
            return self.value(&deeper, depth + 1);
        }
        self.space();
        let from = self.at;
        self.muted = true;
        let done = self.value(&[], depth + 1);
        self.muted = false;
        done?;
        let raw = &self.text[from..self.at];
        // Null hides nothing, and a replacement stays what it is.
        if raw != "null" {
            let value = raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')).map_or(Cow::Borrowed(raw), unescape);
            let label = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
            let label: String = label.take(40).collect();
            if !self.is_token(&value, &label) {
                let token = self.by.tokens.of(&label, value.as_bytes());
                self.replace(from, &token);
            }
        }
        Ok(())
    }

    fn is_token(&self, value: &str, label: &str) -> bool {
        let inside = value.strip_prefix('<').and_then(|v| v.strip_prefix(label)).and_then(|v| v.strip_suffix('>'));
        match inside.map(|rest| rest.strip_prefix(':')) {
            Some(Some(hash)) => hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
            Some(None) => inside == Some(""),
            None => false,
        }
    }

    fn array(&mut self, fields: &[&str], depth: usize) -> Result<(), NotJson> {
        self.at += 1;
        self.space();
        if self.bytes.get(self.at) == Some(&b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(fields, depth + 1)?;
            self.space();
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.not_json()),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// The inside of a string, its escapes as they are.
    fn string(&mut self) -> Result<&'t str, NotJson> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(self.not_json());
        }
        let from = self.at + 1;
        let mut at = from;
        loop {
            let Some(found) = memchr::memchr2(b'"', b'\\', &self.bytes[at..]) else { return Err(self.not_json()) };
            at += found;
            if self.bytes[at] == b'"' {
                break;
            }
            // A backslash takes the next byte with it, whatever it is.
            at += 2;
            if at > self.bytes.len() {
                return Err(self.not_json());
            }
        }
        self.at = at + 1;
        self.text.get(from..at).ok_or(NotJson { at: from })
    }

    /// A card number may be a number.
    fn number(&mut self) {
        let from = self.at;
        let is_part = |b: &&u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
        self.at += self.bytes[from..].iter().take_while(is_part).count();
        let number = &self.text[from..self.at];
        if number.len() >= 12
            && let Cow::Owned(new) = self.by.text(number)
        {
            self.replace(from, &new);
        }
    }

    fn literal(&mut self) -> Result<(), NotJson> {
        for word in ["true", "false", "null"] {
            if self.bytes[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        Err(self.not_json())
    }

    /// What is to be kept instead of a string's value; nothing where it may stay.
    fn looked_into(&self, value: &str, fields: &[&str]) -> Option<String> {
        if self.layer < LAYERS_MAX && value.trim_start().starts_with(['{', '[']) {
            match redact(self.by, value, fields, self.layer + 1) {
                Ok(redacted) => return redacted,
                Err(NotJson { .. }) if !fields.is_empty() => {
                    return Some(self.by.tokens.of("withheld", value.as_bytes()));
                }
                Err(NotJson { .. }) => {}
            }
        }
        if self.layer < LAYERS_MAX
            && sse::is_stream(value)
            && let Some(stream) = sse::assemble(value)
        {
            // A secret may be cut by the chunks: the stream is kept only where neither form of it holds one.
            let whole = redact(self.by, &stream.body, fields, self.layer + 1).unwrap_or(None);
            let kept = whole.is_none() && !self.by.patterns.finds(value);
            return (!kept).then(|| whole.unwrap_or(stream.body));
        }
        match self.by.loose(value.as_bytes()) {
            Cow::Borrowed(_) => None,
            Cow::Owned(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// What is left of a path after a member's name: nothing where the name is not on it, the empty text where it ends there.
fn step<'f>(field: &'f str, key: &str) -> Option<&'f str> {
    let rest = field.strip_prefix(key).filter(|rest| rest.is_empty() || rest.starts_with('.'));
    let rest = rest.or_else(|| field.strip_prefix('*').filter(|rest| rest.is_empty() || rest.starts_with('.')))?;
    Some(rest.strip_prefix('.').unwrap_or(rest))
}

/// A string's value. What is no escape of JSON stays as it is, and half a surrogate pair becomes U+FFFD: nothing may hide
/// in what a strict reader would refuse.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', text.as_bytes()) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first]);
    let mut rest = &text[first..];
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        let (value, length) = match escape.as_bytes().first() {
            Some(b'n') => ('\n', 1),
            Some(b't') => ('\t', 1),
            Some(b'r') => ('\r', 1),
            Some(b'b') => ('\u{8}', 1),
            Some(b'f') => ('\u{c}', 1),
            Some(c @ (b'"' | b'\\' | b'/')) => (char::from(*c), 1),
            Some(b'u') => match unicode(&escape[1..]) {
                Some((value, length)) => (value, 1 + length),
                None => ('\\', 0),
            },
            _ => ('\\', 0),
        };
        out.push(value);
        rest = &escape[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The character of `XXXX` or `XXXX\uXXXX`, and how many bytes it takes.
fn unicode(text: &str) -> Option<(char, usize)> {
    let unit = |text: &str| -> Option<u32> {
        let digits = text.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let high = unit(text)?;
    if !(0xd800..0xdc00).contains(&high) {
        return Some((char::from_u32(high).unwrap_or('\u{fffd}'), 4));
    }
    let low = text[4..].strip_prefix("\\u").and_then(unit).filter(|low| (0xdc00..0xe000).contains(low));
    Some(match low {
        Some(low) => (char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).unwrap_or('\u{fffd}'), 10),
        None => ('\u{fffd}', 4),
    })
}
