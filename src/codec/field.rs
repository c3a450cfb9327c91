//! One field of a message: its raw JSON to a typed value, or a fault that names it.

use super::fault::Fault;
use super::scan::{Scan, unescape};
use crate::domain::{DeadLetterCode, Timestamp};
use serde::de::IgnoredAny;
use serde_json::error::Category;
use std::borrow::Cow;
use std::collections::HashMap;

/// Times outside are taken for a mistake of unit: seconds or microseconds where milliseconds belong.
const TIMES: std::ops::Range<&str> = "2000-01-01T00:00:00Z".."2200-01-01T00:00:00Z";
const TIME: &str = "RFC 3339, `YYYY-MM-DD HH:MM:SS` or epoch milliseconds";

/// Reads the top level of a message; `member` is given each key, must go past its value, and answers whether the key is
/// one that may come once and came before.
pub(super) fn object<'a>(
    text: &'a str,
    mut member: impl FnMut(&mut Scan<'a>, &str) -> Option<Member>,
) -> Result<(), Fault> {
    let (mut scan, mut twice) = (Scan::new(text), None);
    let read = scan.object(|scan, key| match member(scan, key)? {
        Member::Taken => Some(()),
        Member::Twice => {
            twice = Some(format!("the message's object is malformed: duplicate field `{}`", beginning(key)));
            None
        }
    });
    match (read.and_then(|()| scan.end()), twice) {
        (Some(()), _) => Ok(()),
        (None, Some(reason)) => Err(Fault::new(DeadLetterCode::WrongValue, reason)),
        (None, None) => Err(not_an_object(text)),
    }
}

/// What became of one member of an object.
pub(super) enum Member {
    /// It was read, or is none of ours.
    Taken,
    /// It came before.
    Twice,
}

/// Why a text is not a JSON object. Only now is `serde_json` asked, because it knows the line and the column.
fn not_an_object(text: &str) -> Fault {
    match serde_json::from_str::<HashMap<String, IgnoredAny>>(text) {
        Err(e) if e.classify() == Category::Data && !text.trim_start().starts_with('{') => {
            let found = kind(text.trim_start());
            Fault::new(DeadLetterCode::UnknownFormat, format!("the message is {found}; a JSON object is expected"))
        }
        Err(e) => Fault::new(DeadLetterCode::NotJson, format!("the message is not JSON: {e}")),
        Ok(_) => Fault::new(DeadLetterCode::NotJson, "the message is not JSON"),
    }
}

/// Declares the raw fields of an object, each of which may come once; `null` and absent are the same.
macro_rules! raw_fields {
    ($(#[$about:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            $(pub(super) $field: Option<&'a str>,)*
        }

        impl<'a> $name<'a> {
            /// The place of a key's value; nothing where the key is none of these.
            pub(super) fn slot(&mut self, key: &str) -> Option<&mut Option<&'a str>> {
                match key {
                    $(stringify!($field) => Some(&mut self.$field),)*
                    _ => None,
                }
            }

            /// To be called when all is read: only now is `null` no value any more.
            pub(super) fn without_nulls(mut self) -> Self {
                $(self.$field = self.$field.filter(|raw| *raw != "null");)*
                self
            }
        }
    };
}
pub(super) use raw_fields;

/// One named field; absent and `null` are the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) name: &'static str,
    pub(super) raw: Option<&'a str>,
}

impl<'a> Field<'a> {
    pub(super) fn new(name: &'static str, raw: Option<&'a str>) -> Self {
        Self { name, raw }
    }

    pub(super) fn missing(&self, expected: &str) -> Fault {
        Fault::new(DeadLetterCode::MissingField, format!("field `{}` is missing; {expected} is expected", self.name))
    }

    fn wrong_type(&self, raw: &str, expected: &str) -> Fault {
        let reason = format!("field `{}` is {}; {expected} is expected", self.name, shown(raw));
        Fault::new(DeadLetterCode::WrongType, reason)
    }

    pub(super) fn wrong_value(&self, raw: &str, expected: &str) -> Fault {
        let reason = format!("field `{}` is {}; {expected} is expected", self.name, shown(raw));
        Fault::new(DeadLetterCode::WrongValue, reason)
    }

    /// A string.
    pub(super) fn text(&self) -> Result<Option<Cow<'a, str>>, Fault> {
        let Some(raw) = self.raw else { return Ok(None) };
        match string(raw) {
            Some(text) => Ok(Some(text)),
            None if raw.starts_with('"') => Err(self.wrong_value(raw, "a string of Unicode characters")),
            None => Err(self.wrong_type(raw, "a string")),
        }
    }

    /// A string that must be there and not be empty.
    pub(super) fn required_text(&self) -> Result<Cow<'a, str>, Fault> {
        let text = self.text()?.ok_or_else(|| self.missing("a string"))?;
        if text.is_empty() { Err(self.wrong_value("\"\"", "a string that is not empty")) } else { Ok(text) }
    }

    /// A whole number.
    pub(super) fn long(&self) -> Result<Option<i64>, Fault> {
        let Some(raw) = self.raw else { return Ok(None) };
        let number = raw.parse::<i64>().ok().or_else(|| whole(raw.parse::<f64>().ok()?));
        match number {
            Some(number) => Ok(Some(number)),
            None if is_number(raw) => Err(self.wrong_value(raw, "a whole number of 64 bits")),
            None => Err(self.wrong_type(raw, "a whole number")),
        }
    }

    /// A whole number of 32 bits.
    pub(super) fn int(&self) -> Result<Option<i32>, Fault> {
        let Some(long) = self.long()? else { return Ok(None) };
        i32::try_from(long).map(Some).map_err(|_| self.wrong_value(&long.to_string(), "a number of 32 bits"))
    }

    /// A number from 0 to 1.
    pub(super) fn fraction(&self) -> Result<Option<f64>, Fault> {
        let Some(raw) = self.raw else { return Ok(None) };
        match raw.parse::<f64>() {
            Ok(number) if is_number(raw) && (0.0..=1.0).contains(&number) => Ok(Some(number)),
            _ if is_number(raw) => Err(self.wrong_value(raw, "a number from 0 to 1")),
            _ => Err(self.wrong_type(raw, "a number from 0 to 1")),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<Option<bool>, Fault> {
        match self.raw {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(raw) => Err(self.wrong_type(raw, "true or false")),
        }
    }

    /// An array of strings; none where it is absent.
    pub(super) fn texts(&self) -> Result<Vec<Cow<'a, str>>, Fault> {
        let Some(raw) = self.raw else { return Ok(Vec::new()) };
        let mut texts = Vec::new();
        let read = Scan::new(raw).array(|scan| {
            texts.push(scan.text()?.plain()?);
            Some(())
        });
        let texts = read.map(|()| texts);
        texts.ok_or_else(|| self.wrong_type(raw, "an array of strings"))
    }

    /// A point in time, which must be there.
    pub(super) fn time(&self) -> Result<Timestamp, Fault> {
        let raw = self.raw.ok_or_else(|| self.missing(&format!("a time ({TIME})")))?;
        let time = match string(raw) {
            Some(text) => Timestamp::parse(&text),
            None if is_number(raw) => {
                let millis = raw.parse::<i64>().ok().or_else(|| whole(raw.parse::<f64>().ok()?.trunc()));
                millis.map(Timestamp::from_millis)
            }
            None => return Err(self.wrong_type(raw, &format!("a time ({TIME})"))),
        };
        let bound = |text: &str| Timestamp::parse(text).expect("the bounds are RFC 3339");
        time.filter(|t| (bound(TIMES.start)..bound(TIMES.end)).contains(t))
            .ok_or_else(|| self.wrong_value(raw, &format!("a time between 2000 and 2200 ({TIME})")))
    }
}

/// The value of a JSON string, borrowed where it has no escape; nothing where the JSON is no string.
pub(super) fn string(json: &str) -> Option<Cow<'_, str>> {
    unescape(json.strip_prefix('"')?.strip_suffix('"')?)
}

fn is_number(json: &str) -> bool {
    json.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

fn whole(number: f64) -> Option<i64> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the range is checked first")]
    let long = (number.fract() == 0.0 && number.abs() < (1i64 << 53) as f64).then_some(number as i64);
    long
}

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A value as a reason shows it: its kind, and its beginning where that is short enough to help.
fn shown(json: &str) -> String {
    format!("{} ({})", kind(json), beginning(json))
}

fn beginning(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    let mut beginning: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if beginning.len() < text.len() {
        beginning.push('…');
    }
    beginning
}
