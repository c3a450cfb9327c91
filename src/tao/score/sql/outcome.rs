//! What running one SQL gave, in a form that two different queries can be compared by.
//!
//! Promises that equal answers have equal keys: the order of rows counts only where the query orders them, integral
//! floats equal integers, floats agree to nine digits, column names do not matter. Never keeps the rows themselves.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The answer of a query that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Identifies the answer's content; equal answers have equal keys.
    pub key: u128,
    /// Its rows.
    pub rows: usize,
    /// Whether any value is not null: a sum over no rows is one null.
    pub has_value: bool,
    /// Whether it is the single number zero.
    pub is_zero: bool,
    /// Whether any of its columns is numeric.
    pub has_number: bool,
    /// The first row, cells joined by ` | `, at most 200 characters: for reports.
    pub preview: String,
}

/// What became of one SQL text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Answered(Answer),
    /// It was never run: it is not one read-only query.
    Refused(super::statement::Refusal),
    /// It was planned or run and failed; the reason as DataFusion or a limit gave it.
    Failed(String),
}

impl Outcome {
    /// The answer, where there is one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answered(answer) => Some(answer),
            Self::Refused(_) | Self::Failed(_) => None,
        }
    }

    /// Whether both ran and gave the same answer.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        matches!((self.answer(), other.answer()), (Some(a), Some(b)) if a.key == b.key)
    }
}

/// Digests the batches of one result.
///
/// # Errors
/// Arrow's reason where a column cannot be shown as text.
pub(super) fn digest(batches: &[RecordBatch], ordered: bool) -> Result<Answer, arrow::error::ArrowError> {
    let mut rows = Vec::new();
    for batch in batches {
        push_rows(batch, &mut rows)?;
    }
    let preview = rows.first().map(|r| r.replace('\u{1f}', " | ").chars().take(200).collect()).unwrap_or_default();
    let single = if rows.len() == 1 { rows.first().cloned() } else { None };
    if !ordered {
        rows.sort_unstable();
    }
    let mut hash = Sha256::new();
    for row in &rows {
        hash.update(row.as_bytes());
        hash.update([0x1e]);
    }
    let mut head = [0; 16];
    head.copy_from_slice(&hash.finalize()[..16]);
    let columns = || batches.iter().flat_map(RecordBatch::columns);
    Ok(Answer {
        key: u128::from_be_bytes(head),
        rows: rows.len(),
        has_value: columns().any(|c| c.null_count() < c.len() && *c.data_type() != DataType::Null),
        is_zero: single.is_some_and(|row| row == "0"),
        has_number: columns().any(|c| c.data_type().is_numeric()),
        preview,
    })
}

/// Appends each row as its cells joined by the unit separator, which no sane value holds.
fn push_rows(batch: &RecordBatch, rows: &mut Vec<String>) -> Result<(), arrow::error::ArrowError> {
    let options = FormatOptions::default().with_null("␀");
    let formatters: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options)).collect::<Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        let mut line = String::new();
        for (at, formatter) in formatters.iter().enumerate() {
            if at > 0 {
                line.push('\u{1f}');
            }
            push_cell(&mut line, batch.column(at), formatter, row);
        }
        rows.push(line);
    }
    Ok(())
}

fn push_cell(line: &mut String, column: &ArrayRef, formatter: &ArrayFormatter<'_>, row: usize) {
    let text = formatter.value(row).to_string();
    let fractional = column.data_type().is_floating()
        || matches!(column.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..));
    match text.parse::<f64>() {
        // Nine digits: sums in another order differ in the last ones.
        Ok(number) if fractional && !column.is_null(row) => line.push_str(&rounded(number)),
        _ => line.write_str(&text).expect("writing to a string cannot fail"),
    }
}

fn rounded(number: f64) -> String {
    if !number.is_finite() {
        return number.to_string();
    }
    let short: f64 = format!("{number:.8e}").parse().expect("a formatted float parses");
    if short == 0.0 { "0".to_owned() } else { format!("{short}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};
    use std::sync::Arc;

    fn key(columns: Vec<ArrayRef>, ordered: bool) -> u128 {
        let named = columns.into_iter().enumerate().map(|(i, c)| (format!("c{i}"), c));
        digest(&[RecordBatch::try_from_iter(named).unwrap()], ordered).unwrap().key
    }

    fn ints(values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn floats(values: &[f64]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    #[test]
    fn equal_answers_have_equal_keys_and_no_others() {
        assert_eq!(key(vec![ints(&[1, 2])], false), key(vec![ints(&[2, 1])], false), "order does not count");
        assert_ne!(
            key(vec![ints(&[1, 2])], true),
            key(vec![ints(&[2, 1])], true),
            "order counts where it is asked for"
        );
        assert_eq!(key(vec![ints(&[3])], false), key(vec![floats(&[3.0])], false), "3 is 3.0");
        assert_eq!(key(vec![floats(&[0.1 + 0.2])], false), key(vec![floats(&[0.3])], false), "rounding");
        assert_ne!(key(vec![ints(&[1, 1])], false), key(vec![ints(&[1])], false), "rows are counted");
        assert_ne!(
            key(vec![ints(&[12]), ints(&[3])], false),
            key(vec![ints(&[1]), ints(&[23])], false),
            "cells are kept apart"
        );
        assert_ne!(
            key(vec![Arc::new(StringArray::from(vec!["3.0"]))], false),
            key(vec![ints(&[3])], false),
            "text stays text"
        );
    }
}
