//! Whether others say the same of the present as this machine's clock.
//!
//! What is removed by its age is removed by the clock, and a clock that jumps a year ahead makes everything old. Applications
//! put their own times on what they log, so the rows themselves tell: where one is dated shortly before the clock's present,
//! the clock is believed. Rows dated later than it say nothing; a single mistaken one would vouch for any clock.

use super::super::error::Result;
use super::super::{Lake, TableName};
use crate::domain::Timestamp;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use std::time::Duration;

impl Lake {
    /// Whether a message is dated at most `slack` before this time, and not after it.
    ///
    /// # Errors
    /// [`super::super::Error::Query`] and [`super::super::Error::Table`] where a table cannot be read.
    pub async fn attests(&self, time: Timestamp, slack: Duration) -> Result<bool> {
        let since = time.micros().saturating_sub(i64::try_from(slack.as_micros()).unwrap_or(i64::MAX));
        for (name, column) in self.dated() {
            let sql = format!(
                "SELECT {column} FROM {name} WHERE {column} > {} AND {column} <= {} LIMIT 1",
                literal(since),
                literal(time.micros())
            );
            if self.query(name, &sql).await?.iter().any(|batch| batch.num_rows() > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The newest time up to this one that a message is dated; nothing where there is none.
    ///
    /// # Errors
    /// As [`Self::attests`].
    pub async fn newest_message_until(&self, time: Timestamp) -> Result<Option<Timestamp>> {
        let mut newest = None;
        for (name, column) in self.dated() {
            let sql = format!("SELECT max({column}) FROM {name} WHERE {column} <= {}", literal(time.micros()));
            newest = newest.max(self.query(name, &sql).await?.first().and_then(value));
        }
        Ok(newest)
    }

    /// The tables whose rows applications put a time on, and the column that it is in.
    fn dated(&self) -> impl Iterator<Item = (TableName, &'static str)> + use<> {
        self.tables().filter(|name| name.has_offsets()).map(|name| {
            let column = if name.is_log() { "request_time" } else { "feedback_time" };
            (name, column)
        })
    }
}

fn literal(micros: i64) -> String {
    format!("arrow_cast({micros}, 'Timestamp(Microsecond, Some(\"UTC\"))')")
}

fn value(batch: &RecordBatch) -> Option<Timestamp> {
    let column = cast(batch.column(0), &DataType::Timestamp(TimeUnit::Microsecond, None)).ok()?;
    let column = cast(&column, &DataType::Int64).ok()?;
    let column = column.as_primitive::<Int64Type>();
    (!column.is_empty() && !column.is_null(0)).then(|| Timestamp::from_micros(column.value(0)))
}
