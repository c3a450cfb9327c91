//! Why a message is not a row.

use crate::domain::{DeadLetterCode, DeadLetterRow};

/// A fault of a message: a code to count by and a reason to act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// The kind of fault.
    pub code: DeadLetterCode,
    /// The field, what was found, and what would be right.
    pub reason: String,
}

impl Fault {
    pub(super) fn new(code: DeadLetterCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// The dead letter of the message, whole.
    #[must_use]
    pub fn into_row<'a>(
        self,
        key: Option<&'a [u8]>,
        payload: Option<&'a [u8]>,
        headers: Vec<(&'a str, Option<&'a [u8]>)>,
    ) -> DeadLetterRow<'a> {
        DeadLetterRow { code: self.code, reason: self.reason, key, payload, headers }
    }
}
