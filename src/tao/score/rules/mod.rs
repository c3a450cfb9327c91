//! Scorers by rule: the same response always gets the same number, and nothing is asked of anyone.

mod answer;
mod form;
mod grounded;
mod json_schema;

pub(super) use answer::Answer;
pub use form::refuses;
pub(super) use form::{Length, Pattern, Refusal, Repetition};
pub(super) use grounded::Grounded;
pub(super) use json_schema::JsonSchema;
