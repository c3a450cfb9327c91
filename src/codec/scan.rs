//! One pass over JSON text, without a tree: raw slices of values, and strings as they stand in the text.
//!
//! Strings are most of a log's bytes, so their ends are found with `memchr`'s vector instructions, and control characters,
//! which JSON forbids in strings, are looked for once in the whole text. Everything else goes byte by byte. It accepts
//! exactly what `serde_json` accepts (a test holds the two equal) and says `None` to anything else; who wants to know why
//! asks `serde_json`. It never allocates for text without escapes.

use memchr::{memchr, memchr2};
use std::borrow::Cow;

/// A place in a JSON text. After a `None` the place is of no use.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// Whether the text has control characters; then each string is looked through for them.
    controls: bool,
}

/// A string of the text.
#[derive(Debug, Clone)]
pub(super) enum Text<'a> {
    /// What stands between the quotes, escaped exactly as our canonical JSON escapes it.
    Canonical(&'a str),
    /// The string itself.
    Plain(Cow<'a, str>),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Escapes {
    /// None, or only `\"`, `\\`, `\n`, `\r` and `\t`.
    Canonical,
    Other,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        // Chunks without an early exit inside: the compiler turns each into a few vector instructions.
        let smallest = |chunk: &[u8]| chunk.iter().copied().fold(u8::MAX, u8::min);
        let controls = text.as_bytes().chunks(256).any(|chunk| smallest(chunk) < 0x20);
        Self { text, at: 0, controls }
    }

    /// The next byte that is no white space, without going past it.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        loop {
            match *bytes.get(self.at)? {
                b' ' | b'\n' | b'\t' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.text.len() - self.at
    }

    /// Nothing but white space is left.
    pub(super) fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// Goes past a value of any kind and gives its raw text.
    pub(super) fn value(&mut self) -> Option<&'a str> {
        self.peek()?;
        let start = self.at;
        self.skip()?;
        Some(&self.text[start..self.at])
    }

    /// Reads a value as `read` does; one that it cannot read, and `null`, is gone past and gives nothing.
    pub(super) fn attempt<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        self.peek()?;
        let start = self.at;
        if let Some(found) = read(self) {
            return Some(Some(found));
        }
        self.at = start;
        self.skip()?;
        Some(None)
    }

    /// The raw text of a value beside what `read` finds in it.
    pub(super) fn both<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<(&'a str, Option<T>)> {
        self.peek()?;
        let start = self.at;
        let found = self.attempt(read)?;
        Some((&self.text[start..self.at], found))
    }

    /// Reads an object; `member` is given each key and must go past its value.
    pub(super) fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> Option<()>) -> Option<()> {
        self.pass(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.text()?.plain()?;
            self.pass(b':')?;
            member(self, &key)?;
            if self.is_last(b'}')? {
                return Some(());
            }
        }
    }

    /// Reads an array; `item` must go past each value.
    pub(super) fn array(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.pass(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            item(self)?;
            if self.is_last(b']')? {
                return Some(());
            }
        }
    }

    /// Reads a string of Unicode characters.
    pub(super) fn text(&mut self) -> Option<Text<'a>> {
        match self.string()? {
            (inner, Escapes::Canonical) => Some(Text::Canonical(inner)),
            (inner, Escapes::Other) => unescape(inner).map(Text::Plain),
        }
    }

    /// What stands between a string's quotes.
    fn string(&mut self) -> Option<(&'a str, Escapes)> {
        self.pass(b'"')?;
        let (bytes, start) = (self.text.as_bytes(), self.at);
        let mut escapes = Escapes::Canonical;
        loop {
            self.at += memchr2(b'"', b'\\', &bytes[self.at..])?;
            if bytes[self.at] == b'"' {
                break;
            }
            escapes = escapes.max(self.escape()?);
        }
        let inner = &self.text[start..self.at];
        self.at += 1;
        let broken = self.controls && inner.bytes().any(|b| b < 0x20);
        (!broken).then_some((inner, escapes))
    }

    fn escape(&mut self) -> Option<Escapes> {
        let bytes = self.text.as_bytes();
        let kind = *bytes.get(self.at + 1)?;
        self.at += 2;
        match kind {
            b'"' | b'\\' | b'n' | b'r' | b't' => Some(Escapes::Canonical),
            b'/' | b'b' | b'f' => Some(Escapes::Other),
            b'u' => {
                let digits = bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(Escapes::Other)
            }
            _ => None,
        }
    }

    fn pass(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.at += 1;
        Some(())
    }

    /// Goes past a comma, or past the end of what is open.
    fn is_last(&mut self, end: u8) -> Option<bool> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == end { Some(true) } else { (byte == b',').then_some(false) }
    }

    /// Goes past a value, however deep it is nested.
    fn skip(&mut self) -> Option<()> {
        let mut open = Open::default();
        loop {
            match self.peek()? {
                b'{' => {
                    self.at += 1;
                    if self.peek()? != b'}' {
                        open.push(true);
                        self.key()?;
                        continue;
                    }
                    self.at += 1;
                }
                b'[' => {
                    self.at += 1;
                    if self.peek()? != b']' {
                        open.push(false);
                        continue;
                    }
                    self.at += 1;
                }
                b'"' => drop(self.string()?),
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => self.number()?,
            }
            loop {
                let Some(object) = open.last() else { return Some(()) };
                if self.is_last(if object { b'}' } else { b']' })? {
                    open.pop();
                    continue;
                }
                if object {
                    self.key()?;
                }
                break;
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.pass(b':')
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let found = self.text.as_bytes().get(self.at..)?.starts_with(word.as_bytes());
        self.at += word.len();
        found.then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match bytes.get(self.at)? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }
}

/// What is open, the innermost last: a bit each, and a word of memory for every further 63.
#[derive(Default)]
struct Open {
    bits: u64,
    depth: u32,
    outer: Vec<u64>,
}

impl Open {
    fn push(&mut self, object: bool) {
        if self.depth == u64::BITS {
            self.outer.push(self.bits);
            self.depth = 0;
        }
        self.bits = self.bits << 1 | u64::from(object);
        self.depth += 1;
    }

    fn last(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.bits & 1 == 1)
    }

    fn pop(&mut self) {
        self.bits >>= 1;
        self.depth -= 1;
        if self.depth == 0
            && let Some(outer) = self.outer.pop()
        {
            (self.bits, self.depth) = (outer, u64::BITS);
        }
    }
}

impl<'a> Text<'a> {
    /// The string itself; nothing only where it is not made of Unicode characters.
    pub(super) fn plain(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Canonical(inner) => unescape(inner),
            Self::Plain(text) => Some(text),
        }
    }

    /// Whether it is a word, which has nothing to escape.
    pub(super) fn is(&self, other: &str) -> bool {
        match self {
            Self::Canonical(inner) => *inner == other,
            Self::Plain(text) => text == other,
        }
    }
}

/// What an escaped text stands for; nothing where it names half a surrogate pair or an escape that JSON has not.
pub(super) fn unescape(inner: &str) -> Option<Cow<'_, str>> {
    let Some(first) = memchr(b'\\', inner.as_bytes()) else { return Some(Cow::Borrowed(inner)) };
    let mut out = String::with_capacity(inner.len());
    let (mut rest, mut next) = (inner, Some(first));
    while let Some(at) = next {
        out.push_str(&rest[..at]);
        let kind = *rest.as_bytes().get(at + 1)?;
        rest = rest.get(at + 2..)?;
        out.push(match kind {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'"' | b'\\' | b'/' => char::from(kind),
            b'u' => character(&mut rest)?,
            _ => return None,
        });
        next = memchr(b'\\', rest.as_bytes());
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

/// The character after `\u`, which may go on in a second `\u`.
fn character(rest: &mut &str) -> Option<char> {
    let unit = code_unit(rest)?;
    if !(0xD800..0xE000).contains(&unit) {
        return char::from_u32(unit);
    }
    *rest = rest.strip_prefix("\\u")?;
    let low = code_unit(rest)?;
    let paired = unit < 0xDC00 && (0xDC00..0xE000).contains(&low);
    paired.then(|| char::from_u32(0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00))).flatten()
}

fn code_unit(rest: &mut &str) -> Option<u32> {
    let digits = rest.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    *rest = &rest[4..];
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn scanned(text: &str) -> Option<&str> {
        let mut scan = Scan::new(text);
        let value = scan.value()?;
        scan.end()?;
        Some(value)
    }

    fn check(text: &str) {
        let serde: Option<&RawValue> = serde_json::from_str(text).ok();
        assert_eq!(scanned(text), serde.map(RawValue::get), "{text}");
        if let (Some(value), true) = (scanned(text), text.trim().starts_with('"')) {
            let found = Scan::new(value).text().and_then(Text::plain);
            assert_eq!(found.as_deref(), serde_json::from_str::<String>(value).ok().as_deref(), "{text}");
        }
    }

    #[test]
    fn what_serde_accepts_is_accepted_and_nothing_else() {
        let deep = format!("{}1{}", "[{\"a\":".repeat(200), "}]".repeat(200));
        for text in [
            " {\"a\" : [1, -0.5e+3, true ,null, \"x\"] , \"b\":{} }\n",
            "[]",
            "[ ]",
            "{}",
            "{ }",
            "[[],{}]",
            "[1,]",
            "[,1]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{1:2}",
            "[1 2]",
            "[1}",
            "{]",
            "",
            " ",
            "nul",
            "nulll",
            "tru",
            "truefalse",
            "01",
            "-",
            "-01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1E5",
            "+1",
            "1.5.5",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"a\tb\"",
            "[\"a\",\n\t\"b\"]",
            "[\"a\n\"]",
            "{\"a\n\":1}",
            r#""\ud83e\udd80""#,
            r#""\ud83e""#,
            r#""\ud83ex""#,
            r#""\udd80""#,
            r#""\ud83e\ud83e""#,
            r#""\u00fc\/\b\f\n""#,
            "\"漢🦀\"",
            "[[[[[[[[",
            &deep,
            &deep[..700],
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn json_and_what_is_nearly_json(text in "[\\[\\]{}:,\"\\\\ntrue01.e \n-]{0,16}") {
            check(&text);
        }

        #[test]
        fn strings(text in "\"([a-z\"ü🦀\t]|\\\\[nrtbf/\"\\\\u]|\\\\ud8[0-9a]{2}|\\\\udc[0-9]{2}|\\\\u00[0-9]{2}){0,6}\"") {
            check(&text);
        }
    }
}
