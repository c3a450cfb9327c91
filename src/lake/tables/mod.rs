//! One file a table: its columns, and how domain values become its rows and come back.

pub mod candidate;
pub mod cycle;
pub mod dead_letter;
pub mod evaluation;
pub mod feedback;
pub mod inference_log;
pub mod model_version;
pub mod removal;
pub mod training_window;

use super::error::{Error, Result};
use super::table::TableName;
use crate::domain::Timestamp;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, TimestampMicrosecondBuilder};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};

/// Times as the tables store them.
pub(super) fn times(values: impl IntoIterator<Item = Option<Timestamp>>) -> TimestampMicrosecondArray {
    values.into_iter().map(|t| t.map(Timestamp::micros)).collect::<TimestampMicrosecondArray>().with_timezone("UTC")
}

/// A builder of times as the tables store them.
pub(super) fn time_builder() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone("UTC")
}

/// A batch of a table from its columns in order.
pub(super) fn batch(table: TableName, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(table.arrow_schema(), columns).expect("the builders follow the table's columns")
}

/// Typed access to the columns of a batch that was read, whatever Arrow type the reader chose for them.
pub(super) struct Reader<'a> {
    table: TableName,
    batch: &'a RecordBatch,
}

impl<'a> Reader<'a> {
    pub(super) fn new(table: TableName, batch: &'a RecordBatch) -> Self {
        Self { table, batch }
    }

    pub(super) fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// The column, cast to the declared type.
    pub(super) fn column(&self, name: &'static str) -> Result<ArrayRef> {
        let declared = self.table.columns().iter().find(|c| c.name == name);
        let kind = declared.expect("only declared columns are read").kind.arrow();
        let missing = || self.wrong(name, "nothing".to_owned(), "the table lacks a column that it was made with");
        let column = self.batch.column_by_name(name).ok_or_else(missing)?;
        let other =
            || self.wrong(name, column.data_type().to_string(), "the column has another type than was declared");
        if column.data_type() == &kind { Ok(column.clone()) } else { cast(column, &kind).map_err(|_| other()) }
    }

    pub(super) fn texts(&self, name: &'static str) -> Result<Vec<Option<String>>> {
        let column = self.column(name)?;
        Ok(column.as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect())
    }

    /// The texts of a column that is never null.
    pub(super) fn required_texts(&self, name: &'static str) -> Result<Vec<String>> {
        let null = || self.wrong(name, "null".to_owned(), "every row has a value");
        self.texts(name)?.into_iter().map(|v| v.ok_or_else(null)).collect()
    }

    pub(super) fn times(&self, name: &'static str) -> Result<Vec<Option<Timestamp>>> {
        Ok(self.numbers::<TimestampMicrosecondType>(name)?.into_iter().map(|v| v.map(Timestamp::from_micros)).collect())
    }

    pub(super) fn required_times(&self, name: &'static str) -> Result<Vec<Timestamp>> {
        let null = || self.wrong(name, "null".to_owned(), "every row has a time");
        self.times(name)?.into_iter().map(|v| v.ok_or_else(null)).collect()
    }

    pub(super) fn ints(&self, name: &'static str) -> Result<Vec<Option<i32>>> {
        self.numbers::<Int32Type>(name)
    }

    pub(super) fn longs(&self, name: &'static str) -> Result<Vec<Option<i64>>> {
        self.numbers::<Int64Type>(name)
    }

    pub(super) fn doubles(&self, name: &'static str) -> Result<Vec<Option<f64>>> {
        self.numbers::<Float64Type>(name)
    }

    fn numbers<T: ArrowPrimitiveType>(&self, name: &'static str) -> Result<Vec<Option<T::Native>>> {
        Ok(self.column(name)?.as_primitive::<T>().iter().collect())
    }

    /// Parses a text of a column with the rule that it breaks.
    pub(super) fn parsed<T>(
        &self,
        name: &'static str,
        text: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        right: &'static str,
    ) -> Result<T> {
        parse(text).ok_or_else(|| self.wrong(name, text.to_owned(), right))
    }

    pub(super) fn wrong(&self, column: &'static str, found: String, right: &'static str) -> Error {
        Error::Value { table: self.table, column, found, right }
    }
}

/// The values of one list cell; nothing where it is null.
pub(super) fn cell(list: &ArrayRef, row: usize) -> Option<ArrayRef> {
    let list = list.as_list::<i32>();
    (!list.is_null(row)).then(|| list.value(row))
}
