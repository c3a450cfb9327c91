//! A user's signal on a logged call (`schemas/feedback.v1.json`).

use super::fault::Fault;
use super::field::{Field, Member, object, raw_fields};
use super::schema::FEEDBACK_V1;
use crate::domain::{DeadLetterCode, FeedbackRow};

raw_fields!(
    /// Every field that a signal has; others are tolerated.
    Wire { schema, feedback_id, request_id, feedback_time, thumb, score, text, requester }
);

fn wire(text: &str) -> Result<Wire<'_>, Fault> {
    let mut wire = Wire::default();
    object(text, |scan, key| {
        let raw = scan.value()?;
        match wire.slot(key) {
            Some(Some(_)) => return Some(Member::Twice),
            Some(slot) => *slot = Some(raw),
            None => {}
        }
        Some(Member::Taken)
    })?;
    Ok(wire.without_nulls())
}

pub(super) fn decode(text: &str) -> Result<FeedbackRow<'_>, Fault> {
    let wire = wire(text)?;
    let schema = Field::new("schema", wire.schema).text()?;
    if schema.as_deref() != Some(FEEDBACK_V1.name) {
        let found = schema.map_or_else(|| "missing".to_owned(), |s| format!("\"{s}\""));
        let reason = format!("field `schema` is {found}; \"{}\" is expected", FEEDBACK_V1.name);
        return Err(Fault::new(DeadLetterCode::UnknownFormat, reason));
    }
    let row = FeedbackRow {
        feedback_id: Field::new("feedback_id", wire.feedback_id).required_text()?,
        request_id: Field::new("request_id", wire.request_id).required_text()?,
        feedback_time: Field::new("feedback_time", wire.feedback_time).time()?,
        thumb: thumb(wire.thumb)?,
        score: Field::new("score", wire.score).fraction()?,
        text: Field::new("text", wire.text).text()?,
        requester: Field::new("requester", wire.requester).text()?,
    };
    if row.thumb.is_none() && row.score.is_none() && row.text.is_none() {
        let reason = "fields `thumb`, `score` and `text` are all missing; at least one is expected";
        return Err(Fault::new(DeadLetterCode::MissingField, reason));
    }
    Ok(row)
}

fn thumb(raw: Option<&str>) -> Result<Option<bool>, Fault> {
    let field = Field::new("thumb", raw);
    match raw {
        Some(json) if json.starts_with('"') => match field.text()?.as_deref() {
            Some("up") => Ok(Some(true)),
            Some("down") => Ok(Some(false)),
            _ => Err(field.wrong_value(json, "\"up\" or \"down\"")),
        },
        _ => field.boolean(),
    }
}
