//! Fields of `extra` that a configuration gives columns of their own, in every table of logs.
//!
//! A value of the column's type moves from `extra` into the column. Any other stays where it is and the column is null: no
//! message is refused for a field that nobody promised.

use super::column::{Column, Kind};
use super::table::TableName;
use crate::codec::extra::{Extra, Value, ValueKind};
use crate::config::{ColumnType, PromotedColumn};
use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use deltalake::kernel::StructField;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A column that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{column}` is a column of {table} already; give the field `{field}` another column")]
pub struct PromoteError {
    /// The column.
    pub column: String,
    /// The table.
    pub table: TableName,
    /// The field.
    pub field: String,
}

/// The promoted fields; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Promoted {
    columns: Arc<[One]>,
}

#[derive(Debug)]
struct One {
    column: String,
    field: String,
    kind: ValueKind,
}

impl Promoted {
    /// The columns of a configuration.
    ///
    /// # Errors
    /// [`PromoteError`] where a column's name is taken.
    pub fn new(columns: &BTreeMap<String, PromotedColumn>) -> Result<Self, PromoteError> {
        let one = |(column, promoted): (&String, &PromotedColumn)| {
            let (column, field, table) = (column.clone(), promoted.field.clone(), TableName::InferenceLog);
            if table.columns().iter().any(|c| c.name == column) {
                return Err(PromoteError { column, table, field });
            }
            Ok(One { column, field, kind: kind(promoted.r#type) })
        };
        Ok(Self { columns: columns.iter().map(one).collect::<Result<_, _>>()? })
    }

    /// The Arrow schema of a table with its promoted columns.
    #[must_use]
    pub fn schema(&self, name: TableName) -> SchemaRef {
        let declared = name.arrow_schema();
        if !name.is_log() {
            return declared;
        }
        let fields: Vec<FieldRef> = declared.fields().iter().cloned().chain(self.fields()).collect();
        Arc::new(Schema::new(fields))
    }

    pub(super) fn delta_fields(&self, name: TableName) -> impl Iterator<Item = StructField> {
        let promoted = self.columns.iter().filter(move |_| name.is_log());
        let promoted = promoted.map(|one| {
            let about = format!("the field `{}` of extra", one.field);
            let metadata = [("comment", deltalake::kernel::MetadataValue::String(about))];
            StructField::new(&one.column, arrow_kind(one.kind).delta(), true).with_metadata(metadata)
        });
        name.columns().iter().map(Column::delta_field).chain(promoted)
    }

    fn fields(&self) -> impl Iterator<Item = FieldRef> {
        self.columns.iter().map(|one| Arc::new(Field::new(&one.column, arrow_kind(one.kind).arrow(), true)))
    }
}

fn kind(column: ColumnType) -> ValueKind {
    match column {
        ColumnType::String => ValueKind::Text,
        ColumnType::Long => ValueKind::Long,
        ColumnType::Double => ValueKind::Double,
        ColumnType::Boolean => ValueKind::Boolean,
        ColumnType::Timestamp => ValueKind::Time,
    }
}

fn arrow_kind(kind: ValueKind) -> Kind {
    match kind {
        ValueKind::Text => Kind::Text,
        ValueKind::Long => Kind::Long,
        ValueKind::Double => Kind::Double,
        ValueKind::Boolean => Kind::Bool,
        ValueKind::Time => Kind::Time,
    }
}

#[derive(Debug)]
enum Values {
    Text(StringBuilder),
    Long(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
}

/// Collects the promoted columns of rows.
#[derive(Debug)]
pub(super) struct PromotedBuilder {
    promoted: Promoted,
    values: Vec<Values>,
}

impl PromotedBuilder {
    pub(super) fn new(promoted: &Promoted) -> Self {
        let values = |one: &One| match one.kind {
            ValueKind::Text => Values::Text(StringBuilder::new()),
            ValueKind::Long => Values::Long(Int64Builder::new()),
            ValueKind::Double => Values::Double(Float64Builder::new()),
            ValueKind::Boolean => Values::Boolean(BooleanBuilder::new()),
            ValueKind::Time => Values::Time(super::tables::time_builder()),
        };
        Self { values: promoted.columns.iter().map(values).collect(), promoted: promoted.clone() }
    }

    /// Takes the promoted fields out of a row's `extra` and returns what is left.
    pub(super) fn append<'e>(&mut self, extra: Option<&'e str>) -> Option<Cow<'e, str>> {
        if self.values.is_empty() {
            return extra.map(Cow::Borrowed);
        }
        let mut fields = extra.map(Extra::parse);
        let mut moved = false;
        for (one, values) in self.promoted.columns.iter().zip(&mut self.values) {
            let value = fields.as_mut().and_then(|fields| fields.take(&one.field, one.kind));
            moved |= value.is_some();
            values.append(value);
        }
        match fields {
            Some(fields) if moved => fields.finish().map(Cow::Owned),
            _ => extra.map(Cow::Borrowed),
        }
    }

    pub(super) fn finish(&mut self) -> Vec<ArrayRef> {
        self.values.iter_mut().map(Values::finish).collect()
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = FieldRef> {
        self.promoted.fields()
    }
}

impl Values {
    fn append(&mut self, value: Option<Value>) {
        match (self, value) {
            (Self::Text(values), Some(Value::Text(text))) => values.append_value(text),
            (Self::Long(values), Some(Value::Long(number))) => values.append_value(number),
            (Self::Double(values), Some(Value::Double(number))) => values.append_value(number),
            (Self::Boolean(values), Some(Value::Boolean(truth))) => values.append_value(truth),
            (Self::Time(values), Some(Value::Time(time))) => values.append_value(time.micros()),
            (Self::Text(values), _) => values.append_null(),
            (Self::Long(values), _) => values.append_null(),
            (Self::Double(values), _) => values.append_null(),
            (Self::Boolean(values), _) => values.append_null(),
            (Self::Time(values), _) => values.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(values) => Arc::new(values.finish()),
            Self::Long(values) => Arc::new(values.finish()),
            Self::Double(values) => Arc::new(values.finish()),
            Self::Boolean(values) => Arc::new(values.finish()),
            Self::Time(values) => Arc::new(values.finish()),
        }
    }
}
