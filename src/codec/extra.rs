//! The fields of a message that have no column, and how some of them become typed values.

use super::field::Field;
use super::json::{Members, canonical_object};
use crate::domain::Timestamp;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What a field of `extra` is wanted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// A string.
    Text,
    /// A whole number of 64 bits.
    Long,
    /// A number.
    Double,
    /// `true` or `false`.
    Boolean,
    /// A time, as a row's own times are written.
    Time,
}

/// A field's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Long(i64),
    /// A number.
    Double(f64),
    /// A truth value.
    Boolean(bool),
    /// A time.
    Time(Timestamp),
}

/// The fields of one row's `extra`.
#[derive(Debug)]
pub struct Extra<'a> {
    fields: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> Extra<'a> {
    /// Reads the object that a row holds; there are no fields in a text that is none.
    #[must_use]
    pub fn parse(text: &'a str) -> Self {
        let members = serde_json::from_str::<Members<'a>>(text).map_or_else(|_| Vec::new(), |Members(members)| members);
        Self { fields: members.into_iter().map(|(name, value): (_, &RawValue)| (name, value.get())).collect() }
    }

    /// Takes a field out, where its value is of the kind; else it stays.
    pub fn take(&mut self, name: &str, kind: ValueKind) -> Option<Value> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        let value = value(self.fields[at].1, kind)?;
        self.fields.remove(at);
        Some(value)
    }

    /// The object of the fields that are left; nothing where none is.
    #[must_use]
    pub fn finish(self) -> Option<String> {
        (!self.fields.is_empty()).then(|| canonical_object(self.fields))
    }
}

fn value(raw: &str, kind: ValueKind) -> Option<Value> {
    let field = Field::new("extra", Some(raw));
    let number = raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match kind {
        ValueKind::Text => Some(Value::Text(field.text().ok()??.into_owned())),
        ValueKind::Long => Some(Value::Long(field.long().ok()??)),
        ValueKind::Double => raw.parse().ok().filter(|n: &f64| number && n.is_finite()).map(Value::Double),
        ValueKind::Boolean => Some(Value::Boolean(field.boolean().ok()??)),
        ValueKind::Time => Some(Value::Time(field.time().ok()?)),
    }
}
