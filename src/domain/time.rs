//! Points in time as every table stores them.

use chrono::{DateTime, SecondsFormat, Utc};
use std::fmt;

/// Microseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// From microseconds.
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds, as Kafka and most clients count.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// Reads RFC 3339 (`2026-11-22T10:00:00Z`, any offset) or the SQL form `2026-11-22 10:00:00[.fff]`, taken as UTC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let zoned = DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_micros());
        let plain = || {
            let form = if text.contains('T') { "%Y-%m-%dT%H:%M:%S%.f" } else { "%Y-%m-%d %H:%M:%S%.f" };
            chrono::NaiveDateTime::parse_from_str(text, form).ok().map(|t| t.and_utc().timestamp_micros())
        };
        zoned.or_else(plain).map(Self)
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole days since the epoch: the partition a row belongs to.
    #[must_use]
    pub fn date_days(self) -> i32 {
        i32::try_from(self.0.div_euclid(86_400_000_000)).unwrap_or(i32::MAX)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_micros())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp_micros(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            None => write!(f, "{} µs", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_parse_in_the_forms_that_logs_use() {
        let noon = Timestamp::from_millis(1_795_348_800_000);
        for text in
            ["2026-11-22T12:00:00Z", "2026-11-22T13:00:00+01:00", "2026-11-22 12:00:00", "2026-11-22T12:00:00.000"]
        {
            assert_eq!(Timestamp::parse(text), Some(noon), "{text}");
        }
        assert_eq!(noon.to_string(), "2026-11-22T12:00:00Z");
        assert_eq!(Timestamp::parse("yesterday"), None);
        assert_eq!(Timestamp::from_micros(-1).date_days(), -1);
    }
}
