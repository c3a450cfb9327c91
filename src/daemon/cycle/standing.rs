//! What the rows of a cycle say about it: pure.
//!
//! A cycle's tries are numbered. The rows of the latest try tell how it stands, whatever the clock did between them; the tries
//! since it was last asked for by name (`requested`) are those that count against the retries.

use crate::domain::{CycleEvent, CycleId, CycleState, ModelName, Timestamp, Trigger, VersionNumber};
use serde_json::Value;

/// How a cycle stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The cycle.
    pub cycle: CycleId,
    /// The model that it tunes.
    pub model: ModelName,
    /// The latest try, from 1.
    pub attempt: u32,
    /// The state of the latest try.
    pub state: CycleState,
    /// Failed tries since it was asked for.
    pub failures: u32,
    /// Whether somebody asked for its end and it has not ended.
    pub cancelling: bool,
    /// What started it.
    pub trigger: String,
    /// When it was asked for.
    pub requested: Timestamp,
    /// When it last changed.
    pub changed: Timestamp,
    /// The error of the latest try that failed.
    pub error: Option<String>,
    /// The version that it registered.
    pub version: Option<VersionNumber>,
}

impl Standing {
    /// Reads it from a cycle's rows, in the order of time; nothing where there are none.
    #[must_use]
    pub fn of(events: &[CycleEvent]) -> Option<Self> {
        let attempt = events.iter().map(|e| e.attempt).max()?;
        let latest = || events.iter().filter(|e| e.attempt == attempt);
        let asked: Vec<&CycleEvent> = events.iter().filter(|e| e.state == CycleState::Requested).collect();
        let since = asked.iter().map(|e| e.attempt).max().unwrap_or(1);
        let failed = || events.iter().filter(|e| e.state == CycleState::Failed && e.attempt >= since);
        let end = latest().find(|e| e.state.is_end());
        let end = end.or_else(|| latest().find(|e| e.state == CycleState::Failed));
        let last = latest().rev().find(|e| e.state != CycleState::Cancelling).or(latest().next_back())?;
        let first = asked.first().copied().unwrap_or(&events[0]);
        let latest_request = asked.iter().max_by_key(|e| e.attempt).copied().unwrap_or(first);
        Some(Self {
            cycle: last.cycle.clone(),
            model: last.model.clone(),
            attempt,
            state: end.unwrap_or(last).state,
            failures: u32::try_from(failed().count()).unwrap_or(u32::MAX),
            cancelling: end.is_none() && latest().any(|e| e.state == CycleState::Cancelling),
            trigger: text(latest_request, "trigger").unwrap_or_else(|| Trigger::Hand.as_str().to_owned()),
            requested: first.time,
            changed: events.last().map_or(last.time, |e| e.time),
            error: events.iter().rev().filter(|e| says_error(e.state)).find_map(|e| text(e, "error")),
            version: events.iter().rev().find_map(|e| e.version),
        })
    }

    /// The try that a run of it now is.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        if self.state == CycleState::Failed { self.attempt + 1 } else { self.attempt }
    }

    /// Whether it goes on by itself: it has not ended, and was not started by hand.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        !self.state.is_end() && self.trigger != Trigger::Hand.as_str()
    }

    /// When a failed try may be followed by the next.
    #[must_use]
    pub fn retry_time(&self, pause_seconds: u32) -> Timestamp {
        const HOUR_SECONDS: i64 = 3600;
        let doubled = i64::from(pause_seconds) << self.failures.saturating_sub(1).min(12);
        Timestamp::from_micros(self.changed.micros() + doubled.min(HOUR_SECONDS.max(pause_seconds.into())) * 1_000_000)
    }
}

/// Only these rows are parsed for one: a cycle has many of progress.
fn says_error(state: CycleState) -> bool {
    matches!(state, CycleState::Failed | CycleState::Parked)
}

fn text(event: &CycleEvent, field: &str) -> Option<String> {
    let detail: Value = serde_json::from_str(&event.detail).ok()?;
    detail[field].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(state: CycleState, at: i64, attempt: u32) -> CycleEvent {
        let trigger = if attempt == 1 { "fresh_prompts" } else { "hand" };
        CycleEvent {
            cycle: CycleId::new("c").unwrap(),
            model: ModelName::new("m").unwrap(),
            state,
            time: Timestamp::from_micros(at),
            attempt,
            until: None,
            version: None,
            detail: format!(r#"{{"trigger":"{trigger}","error":"e{attempt}"}}"#),
        }
    }

    #[test]
    fn the_latest_try_says_how_a_cycle_stands() {
        use CycleState as S;
        let check = |rows: &[(S, i64, u32)], state: S, failures: u32, next: u32| {
            let rows: Vec<_> = rows.iter().map(|(s, at, n)| event(*s, *at, *n)).collect();
            let found = Standing::of(&rows).unwrap();
            assert_eq!((found.state, found.failures, found.next_attempt()), (state, failures, next), "{rows:?}");
        };
        assert_eq!(Standing::of(&[]), None);
        check(&[(S::Requested, 1, 1)], S::Requested, 0, 1);
        check(&[(S::Requested, 1, 1), (S::Optimize, 2, 1), (S::Explore, 3, 1)], S::Explore, 0, 1);
        check(&[(S::Requested, 1, 1), (S::Explore, 2, 1), (S::Failed, 3, 1)], S::Failed, 1, 2);
        check(&[(S::Requested, 1, 1), (S::Failed, 3, 1), (S::Collect, 4, 2)], S::Collect, 1, 2);
        check(&[(S::Failed, 1, 1), (S::Failed, 3, 2), (S::Parked, 4, 2)], S::Parked, 2, 2);
        // A clock that went back puts the end before the beginning.
        check(&[(S::Done, 1, 1), (S::Requested, 5, 1), (S::Publish, 6, 1)], S::Done, 0, 1);
        // Asked for again by hand: earlier failures no longer count.
        check(&[(S::Failed, 1, 1), (S::Parked, 2, 1), (S::Requested, 3, 2)], S::Requested, 0, 2);
        check(&[(S::Requested, 1, 1), (S::Explore, 2, 1), (S::Cancelling, 3, 1)], S::Explore, 0, 1);
    }

    #[test]
    fn each_failure_doubles_the_pause_up_to_an_hour() {
        let at = |failures| {
            let rows: Vec<_> = (1..=failures).map(|n| event(CycleState::Failed, 0, n)).collect();
            Standing::of(&rows).unwrap().retry_time(60).micros() / 1_000_000
        };
        assert_eq!([at(1), at(2), at(3), at(7), at(40)], [60, 120, 240, 3600, 3600]);
    }
}
