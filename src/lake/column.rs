//! How a column is declared once and becomes Delta's type, Arrow's type and its documentation.
//!
//! Arrow types are spelled with the field names that Delta prescribes (`element`, `key_value`), so that a batch fits a
//! table without a cast.

use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::{ArrayType, DataType, MapType, MetadataValue, StructField, StructType};
use std::sync::Arc;

/// The types that our tables use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `STRING`.
    Text,
    /// `DATE`.
    Date,
    /// `TIMESTAMP`: microseconds, UTC.
    Time,
    /// `INT`.
    Int,
    /// `BIGINT`.
    Long,
    /// `DOUBLE`.
    Double,
    /// `BOOLEAN`.
    Bool,
    /// `BINARY`.
    Bytes,
    /// `ARRAY<STRING>`.
    Texts,
    /// `ARRAY<INT>`.
    Ints,
    /// `ARRAY<FLOAT>`.
    Floats,
    /// `MAP<STRING, DOUBLE>`.
    Numbers,
    /// `ARRAY<STRUCT<key: STRING, value: BINARY>>`.
    Headers,
}

/// One column of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The name.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// Whether it may be null.
    pub nullable: bool,
    /// What it holds, with the unit.
    pub about: &'static str,
}

/// A column that every row has.
pub(super) const fn required(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column { name, kind, nullable: false, about }
}

/// A column that a row may lack.
pub(super) const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column { name, kind, nullable: true, about }
}

/// The Arrow schema of columns.
pub(super) fn arrow_schema(columns: &[Column]) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|c| Field::new(c.name, c.kind.arrow(), c.nullable)).collect();
    Arc::new(Schema::new(fields))
}

impl Column {
    pub(super) fn delta_field(&self) -> StructField {
        StructField::new(self.name, self.kind.delta(), self.nullable)
            .with_metadata([("comment", MetadataValue::String(self.about.to_owned()))])
    }
}

impl Kind {
    pub(super) fn delta(self) -> DataType {
        match self {
            Self::Text => DataType::STRING,
            Self::Date => DataType::DATE,
            Self::Time => DataType::TIMESTAMP,
            Self::Int => DataType::INTEGER,
            Self::Long => DataType::LONG,
            Self::Double => DataType::DOUBLE,
            Self::Bool => DataType::BOOLEAN,
            Self::Bytes => DataType::BINARY,
            Self::Texts => ArrayType::new(DataType::STRING, true).into(),
            Self::Ints => ArrayType::new(DataType::INTEGER, true).into(),
            Self::Floats => ArrayType::new(DataType::FLOAT, true).into(),
            Self::Numbers => MapType::new(DataType::STRING, DataType::DOUBLE, true).into(),
            Self::Headers => {
                let fields = [
                    StructField::new("key", DataType::STRING, false),
                    StructField::new("value", DataType::BINARY, true),
                ];
                let header = StructType::try_new(fields).expect("the two names differ");
                ArrayType::new(header, true).into()
            }
        }
    }

    pub(super) fn arrow(self) -> ArrowType {
        match self {
            Self::Text => ArrowType::Utf8,
            Self::Date => ArrowType::Date32,
            Self::Time => ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Int => ArrowType::Int32,
            Self::Long => ArrowType::Int64,
            Self::Double => ArrowType::Float64,
            Self::Bool => ArrowType::Boolean,
            Self::Bytes => ArrowType::Binary,
            Self::Texts => list(ArrowType::Utf8),
            Self::Ints => list(ArrowType::Int32),
            Self::Floats => list(ArrowType::Float32),
            Self::Numbers => {
                let entries =
                    vec![Field::new("key", ArrowType::Utf8, false), Field::new("value", ArrowType::Float64, true)];
                let entry = Field::new("key_value", ArrowType::Struct(entries.into()), false);
                ArrowType::Map(Arc::new(entry), false)
            }
            Self::Headers => {
                let fields =
                    vec![Field::new("key", ArrowType::Utf8, false), Field::new("value", ArrowType::Binary, true)];
                list(ArrowType::Struct(fields.into()))
            }
        }
    }
}

fn list(of: ArrowType) -> ArrowType {
    ArrowType::List(Arc::new(element(of)))
}

/// The field of a list's elements, named as Delta names it.
pub(super) fn element(of: ArrowType) -> Field {
    Field::new("element", of, true)
}
