//! Identifiers that cannot be built invalid.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text has characters or a length that the identifier does not allow.
    #[error("`{text}` is not a {kind}: {rule}")]
    Malformed {
        /// What was asked for.
        kind: &'static str,
        /// The text as it came.
        text: String,
        /// What would be right.
        rule: &'static str,
    },
}

const NAME_RULE: &str = "use 1 to 64 of a-z, 0-9, `-`, `_` and `.`, beginning with a letter or digit";

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && plain(bytes[0])
        && bytes.iter().all(|&b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
        && !text.contains("..")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks the text; a name is safe as a path segment, an SQL literal and a Kafka key.
            ///
            /// # Errors
            /// [`IdError::Malformed`] with the rule that the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if is_name(&text) { Ok(Self(text)) } else { Err(IdError::Malformed { kind: $kind, text, rule: NAME_RULE }) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// The name of a model that Pelton tunes, such as `support-sql`.
    ModelName, "model name"
);
/// The name of a table of inference logs of its own, such as `team_a_log`. It is a plain value: the few names that a
/// configuration has are kept for the process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName(&'static str);

impl LogName {
    /// Checks the text.
    ///
    /// # Errors
    /// [`IdError::Malformed`] with the rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, IdError> {
        static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        const RULE: &str = "use 1 to 63 of a-z, 0-9 and `_`, beginning with a letter";
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if text.len() > 63 || !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.bytes().all(fine) {
            return Err(IdError::Malformed { kind: "table name", text: text.to_owned(), rule: RULE });
        }
        let mut known = KNOWN.lock().expect("no holder of the lock panics");
        let name = known.get(text).copied().unwrap_or_else(|| Box::leak(text.to_owned().into_boxed_str()));
        known.insert(name);
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

name!(
    /// The name of a window in the configuration.
    WindowName, "window name"
);
name!(
    /// The id of one turn of the wheel: model, start time and a random tail, in that order, so that ids sort by time.
    CycleId, "cycle id"
);

/// The number of a version of a model: 1, 2, 3 … in the order of registration. Shown as `v17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionNumber(u32);

impl VersionNumber {
    /// The first version that a model can have; the base itself has none.
    pub const FIRST: Self = Self(1);

    /// Checks that the number is at least 1.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl FromStr for VersionNumber {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let number = text.strip_prefix('v').unwrap_or(text).parse().ok().and_then(Self::new);
        number.ok_or_else(|| IdError::Malformed {
            kind: "version",
            text: text.to_owned(),
            rule: "use `v` and a number from 1, such as v17",
        })
    }
}

/// One version of one model, shown and parsed as `support-sql@v17`: the immutable name under which servers load it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionRef {
    /// The model.
    pub model: ModelName,
    /// The number.
    pub number: VersionNumber,
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.model, self.number)
    }
}

impl FromStr for VersionRef {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let Some((model, number)) = text.split_once('@') else {
            return Err(IdError::Malformed {
                kind: "version reference",
                text: text.to_owned(),
                rule: "use MODEL@vN, such as support-sql@v17",
            });
        };
        Ok(Self { model: model.parse()?, number: number.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_as_a_path_segment() {
        for good in ["a", "support-sql", "v1.2_x", "0"] {
            assert!(ModelName::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in ["", "..", "a..b", ".hidden", "A", "a/b", "a b", "ü", "-a", &long] {
            assert!(ModelName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_reference_round_trips() {
        let reference: VersionRef = "support-sql@v17".parse().unwrap();
        assert_eq!(reference.to_string(), "support-sql@v17");
        for bad in ["support-sql", "support-sql@v0", "@v1", "a@x", "a@v-1"] {
            assert!(bad.parse::<VersionRef>().is_err(), "{bad}");
        }
    }
}
