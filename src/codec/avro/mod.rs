//! Avro's binary encoding to JSON text, by the writer's schema.
//!
//! Written here, because the text of a plain row is all that is needed of a datum: no value tree is built, and depth, size
//! and counts are bounded whatever the bytes say. It never panics and never allocates by a length that the bytes claim.
//!
//! Times become RFC 3339, decimals their digits, bytes their text where they are UTF-8 and base64 where not.

mod schema;

pub use schema::{Schema, SchemaError};

use super::json::{push_escaped, push_string};
use crate::domain::Timestamp;
use base64::Engine as _;
use schema::{Logical, Node, Type};

/// Values nested deeper are refused: a recursive schema lets a few bytes nest without end.
const DEPTH_MAX: usize = 64;
/// JSON text that one datum may become; an array of nulls has no bytes of its own and any length it likes.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Why bytes are no datum of their schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatumError {
    /// The bytes end within a value.
    #[error("the bytes end within `{0}`")]
    Short(String),
    /// A number is no number of its type: too many bytes, a negative length, an index of no branch.
    #[error("`{at}` has {what}")]
    Value {
        /// The field.
        at: String,
        /// What was found.
        what: String,
    },
    /// Bytes are left behind the datum.
    #[error("{0} bytes are left behind the datum: it was written with another schema")]
    Left(usize),
    /// The datum is nested too deep or too large.
    #[error("the datum is nested deeper than {DEPTH_MAX} or larger than {TEXT_BYTES_MAX} bytes of JSON")]
    TooLarge,
}

/// Reads one datum, whole.
///
/// # Errors
/// [`DatumError`] where the bytes do not follow the schema.
pub fn to_json(schema: &Schema, bytes: &[u8]) -> Result<String, DatumError> {
    let mut reader = Reader { schema, bytes, out: String::with_capacity(bytes.len() * 2), path: Vec::new() };
    reader.value(schema.root, 0)?;
    if reader.bytes.is_empty() { Ok(reader.out) } else { Err(DatumError::Left(reader.bytes.len())) }
}

struct Reader<'a> {
    schema: &'a Schema,
    bytes: &'a [u8],
    out: String,
    path: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn value(&mut self, node: Node, depth: usize) -> Result<(), DatumError> {
        if depth > DEPTH_MAX || self.out.len() > TEXT_BYTES_MAX {
            return Err(DatumError::TooLarge);
        }
        let schema = self.schema;
        match schema.of(node) {
            Type::Null => self.out.push_str("null"),
            Type::Boolean => self.boolean()?,
            Type::Int(logical) => {
                let number = self.long()?;
                let int = i32::try_from(number).map_err(|_| self.wrong(format!("{number}, which is no int")))?;
                self.number(i64::from(int), *logical);
            }
            Type::Long(logical) => {
                let number = self.long()?;
                self.number(number, *logical);
            }
            Type::Float => {
                let bytes = self.take(4)?.try_into().expect("four bytes were taken");
                self.float(f64::from(f32::from_le_bytes(bytes)), f32::from_le_bytes(bytes).to_string());
            }
            Type::Double => {
                let number = f64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken"));
                self.float(number, number.to_string());
            }
            Type::Bytes(logical) => {
                let bytes = self.sized()?;
                self.binary(bytes, *logical);
            }
            Type::Fixed(size, logical) => {
                let bytes = self.take(*size)?;
                self.binary(bytes, *logical);
            }
            Type::String => {
                let bytes = self.sized()?;
                let text =
                    std::str::from_utf8(bytes).map_err(|_| self.wrong("a string that is not UTF-8".to_owned()))?;
                push_string(&mut self.out, text);
            }
            Type::Enum(symbols) => {
                let index = self.long()?;
                let symbol = usize::try_from(index).ok().and_then(|i| symbols.get(i));
                let symbol = symbol.ok_or_else(|| self.wrong(format!("symbol {index} of {}", symbols.len())))?;
                push_string(&mut self.out, symbol);
            }
            Type::Union(branches) => {
                let index = self.long()?;
                let branch = usize::try_from(index).ok().and_then(|i| branches.get(i));
                let branch = *branch.ok_or_else(|| self.wrong(format!("branch {index} of {}", branches.len())))?;
                self.value(branch, depth + 1)?;
            }
            Type::Record(fields) => self.record(fields, depth)?,
            Type::Array(items) => self.blocks('[', ']', depth, |reader, depth| reader.value(*items, depth))?,
            Type::Map(values) => self.blocks('{', '}', depth, |reader, depth| {
                let key = reader.sized()?;
                let key = std::str::from_utf8(key).map_err(|_| reader.wrong("a key that is not UTF-8".to_owned()))?;
                push_string(&mut reader.out, key);
                reader.out.push(':');
                reader.value(*values, depth)
            })?,
        }
        Ok(())
    }

    fn record(&mut self, fields: &'a [(String, Node)], depth: usize) -> Result<(), DatumError> {
        self.out.push('{');
        for (i, (name, node)) in fields.iter().enumerate() {
            if i > 0 {
                self.out.push(',');
            }
            push_string(&mut self.out, name);
            self.out.push(':');
            self.path.push(name);
            self.value(*node, depth + 1)?;
            self.path.pop();
        }
        self.out.push('}');
        Ok(())
    }

    /// Blocks of items: a count each, with the block's bytes before the items where the count is negative, until a zero.
    fn blocks(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), DatumError>,
    ) -> Result<(), DatumError> {
        self.out.push(open);
        let mut first = true;
        loop {
            let mut count = self.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                count = count.checked_neg().ok_or_else(|| self.wrong("a block without end".to_owned()))?;
                self.long()?;
            }
            for _ in 0..count {
                if !std::mem::take(&mut first) {
                    self.out.push(',');
                }
                item(self, depth + 1)?;
            }
        }
        self.out.push(close);
        Ok(())
    }

    fn boolean(&mut self) -> Result<(), DatumError> {
        match self.take(1)? {
            [0] => self.out.push_str("false"),
            [1] => self.out.push_str("true"),
            other => {
                let found = other[0];
                return Err(self.wrong(format!("{found}, which is no boolean")));
            }
        }
        Ok(())
    }

    /// A variable-length, zig-zag number of 64 bits.
    fn long(&mut self) -> Result<i64, DatumError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                #[expect(clippy::cast_possible_wrap, reason = "zig-zag maps the bits, not the number")]
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.wrong("a number of more than 64 bits".to_owned()))
    }

    fn sized(&mut self) -> Result<&'a [u8], DatumError> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| self.wrong(format!("a length of {length}")))?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DatumError> {
        let Some((head, rest)) = self.bytes.split_at_checked(length) else { return Err(DatumError::Short(self.at())) };
        self.bytes = rest;
        Ok(head)
    }

    fn at(&self) -> String {
        if self.path.is_empty() { "the datum".to_owned() } else { self.path.join(".") }
    }

    fn wrong(&self, what: String) -> DatumError {
        DatumError::Value { at: self.at(), what }
    }

    /// JSON has no NaN and no infinity: they are null.
    fn float(&mut self, number: f64, text: String) {
        self.out.push_str(if number.is_finite() { &text } else { "null" });
    }

    fn number(&mut self, number: i64, logical: Logical) {
        let time = |micros: Option<i64>| micros.map(|micros| Timestamp::from_micros(micros).to_string());
        let text = match logical {
            Logical::Millis => time(number.checked_mul(1000)),
            Logical::Micros => time(Some(number)),
            Logical::Nanos => time(Some(number.div_euclid(1000))),
            Logical::Date => number.checked_mul(86_400_000_000).map(|micros| {
                let day = Timestamp::from_micros(micros).to_string();
                day.split_once('T').map_or(day.clone(), |(date, _)| date.to_owned())
            }),
            Logical::None | Logical::Decimal(_) => None,
        };
        match text {
            Some(text) => push_string(&mut self.out, &text),
            None => self.out.push_str(&number.to_string()),
        }
    }

    fn binary(&mut self, bytes: &[u8], logical: Logical) {
        self.out.push('"');
        match (logical, std::str::from_utf8(bytes)) {
            (Logical::Decimal(scale), _) if bytes.len() <= 16 => self.out.push_str(&decimal(bytes, scale)),
            (Logical::None, Ok(text)) => push_escaped(&mut self.out, text),
            _ => base64::engine::general_purpose::STANDARD.encode_string(bytes, &mut self.out),
        }
        self.out.push('"');
    }
}

/// The digits of a big-endian two's complement number with `scale` digits behind the point.
fn decimal(bytes: &[u8], scale: usize) -> String {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 16];
    wide[16 - bytes.len()..].copy_from_slice(bytes);
    let number = i128::from_be_bytes(wide);
    let digits = format!("{:0>width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if negative { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}
