//! The SQL's answer, read into prompts.

use super::error::Error;
use crate::domain::{ChatMessage, Prompt, PromptHash, Timestamp, WindowName};
use crate::query::messages_from_json;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};

/// One row that the SQL returned.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub request_id: String,
    pub request_time: Timestamp,
    /// Absent where there is no user turn to answer.
    pub prompt: Option<Prompt>,
    /// What else the SQL says of it.
    pub about: About,
}

/// The columns that an answer may have beside a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct About {
    pub requester: Option<String>,
    pub stratum: Option<String>,
    pub weight: f64,
    pub error: bool,
}

/// Which column holds the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Messages,
    Prompt,
}

impl Source {
    fn column(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Prompt => "prompt",
        }
    }
}

/// Checks that an answer with this schema can be read.
pub(super) fn check_schema(window: &WindowName, schema: &Schema) -> Result<(), Error> {
    source(window, schema).map(|_| ())
}

fn source(window: &WindowName, schema: &Schema) -> Result<Source, Error> {
    let missing = |column, alternative| Error::MissingColumn {
        window: window.clone(),
        column,
        alternative,
        found: schema.fields().iter().map(|f| format!("`{}`", f.name())).collect(),
    };
    let find = |column: &str| schema.column_with_name(column).map(|(_, field)| field.data_type());
    let text = |column: &'static str, kind: &DataType| match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(()),
        other => Err(column_type(window, column, other, "text")),
    };
    text("request_id", find("request_id").ok_or_else(|| missing("request_id", ""))?)?;
    match find("request_time").ok_or_else(|| missing("request_time", ""))? {
        DataType::Timestamp(..) => {}
        other => return Err(column_type(window, "request_time", other, "timestamp")),
    }
    match (find("messages"), find("prompt")) {
        (Some(kind), _) => text("messages", kind).map(|()| Source::Messages),
        (None, Some(kind)) => text("prompt", kind).map(|()| Source::Prompt),
        (None, None) => Err(missing("messages", " (and no `prompt` instead)")),
    }
}

fn column_type(window: &WindowName, column: &'static str, found: &DataType, wanted: &'static str) -> Error {
    Error::ColumnType { window: window.clone(), column, found: found.to_string(), wanted }
}

/// Appends a batch's rows to `into`.
pub(super) fn read(window: &WindowName, batch: &RecordBatch, into: &mut Vec<Candidate>) -> Result<(), Error> {
    let schema = batch.schema();
    let source = source(window, &schema)?;
    let ids = texts(window, batch, "request_id")?;
    let times = times(window, batch)?;
    let prompts = texts(window, batch, source.column())?;
    for (row, about) in abouts(window, batch)?.into_iter().enumerate() {
        let missing = |column| Error::MissingValue { window: window.clone(), row: into.len() + 1, column };
        if ids.is_null(row) {
            return Err(missing("request_id"));
        }
        if times.is_null(row) {
            return Err(missing("request_time"));
        }
        let request_id = ids.value(row).to_owned();
        let request_time = Timestamp::from_micros(times.value(row));
        let messages = (!prompts.is_null(row)).then(|| messages(source, prompts.value(row))).flatten();
        let prompt = messages.map(|messages| Prompt {
            request_id: request_id.clone(),
            hash: PromptHash::of(&messages),
            messages,
            request_time,
        });
        into.push(Candidate { request_id, request_time, prompt, about });
    }
    Ok(())
}

/// The turns of a cell; `None` where no user turn with a text is among them.
fn messages(source: Source, cell: &str) -> Option<Vec<ChatMessage>> {
    let messages = match source {
        Source::Messages => messages_from_json(cell)?,
        Source::Prompt => vec![ChatMessage::user(cell)],
    };
    let asked = messages.iter().any(|m| m.role == "user" && !m.content.trim().is_empty());
    asked.then_some(messages)
}

/// What the optional columns say of each row.
fn abouts(window: &WindowName, batch: &RecordBatch) -> Result<Vec<About>, Error> {
    let column = |name: &'static str, kind: DataType, wanted: &'static str| {
        let Some(array) = batch.column_by_name(name) else { return Ok(None) };
        cast(array, &kind).map(Some).map_err(|_| column_type(window, name, array.data_type(), wanted))
    };
    let (requesters, strata) =
        (column("requester", DataType::Utf8, "text")?, column("stratum", DataType::Utf8, "text")?);
    let weights = column("weight", DataType::Float64, "number")?;
    let (errors, codes) =
        (column("error", DataType::Boolean, "boolean")?, column("status_code", DataType::Int64, "number")?);
    let text = |array: &Option<ArrayRef>, row: usize| {
        let array = array.as_ref()?.as_string::<i32>();
        array.is_valid(row).then(|| array.value(row).to_owned())
    };
    let about = |row: usize| {
        let flagged = errors.as_ref().map(|a| a.as_boolean()).is_some_and(|a| a.is_valid(row) && a.value(row));
        let code =
            codes.as_ref().map(|a| a.as_primitive::<Int64Type>()).filter(|a| a.is_valid(row)).map(|a| a.value(row));
        let weight =
            weights.as_ref().map(|a| a.as_primitive::<Float64Type>()).filter(|a| a.is_valid(row)).map(|a| a.value(row));
        About {
            requester: text(&requesters, row),
            stratum: text(&strata, row),
            weight: if weights.is_some() { weight.unwrap_or(0.0) } else { 1.0 },
            error: flagged || code.is_some_and(|code| code >= 400),
        }
    };
    Ok((0..batch.num_rows()).map(about).collect())
}

fn texts(window: &WindowName, batch: &RecordBatch, column: &'static str) -> Result<StringArray, Error> {
    let array = batch.column_by_name(column).expect("the schema was checked");
    let text = cast(array, &DataType::Utf8).map_err(|_| column_type(window, column, array.data_type(), "text"))?;
    Ok(text.as_string::<i32>().clone())
}

fn times(window: &WindowName, batch: &RecordBatch) -> Result<TimestampMicrosecondArray, Error> {
    let array = batch.column_by_name("request_time").expect("the schema was checked");
    // A timestamp without a zone is taken as UTC, as the tables write it.
    let kind = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let wrong = |_| column_type(window, "request_time", array.data_type(), "timestamp");
    let times = cast(array, &kind).map_err(wrong)?;
    Ok(times.as_primitive::<TimestampMicrosecondType>().clone())
}
