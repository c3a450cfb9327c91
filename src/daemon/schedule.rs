//! When cycles start: by cron, or when a window has its minimum of fresh prompts. Pure: times and events in, a decision out.
//!
//! A clock that was ahead for a while leaves events of times that are still to come. They count as what they say, but no
//! pause, no cron time and no window begins at them: otherwise nothing would start until the clock is there again.

use crate::config::{Model, Window};
use crate::domain::{CycleEvent, CycleId, CycleState, Timestamp, Trigger};
use chrono::{DateTime, Utc};
use croner::Cron;
use std::collections::BTreeMap;

/// After a failure the next try by itself waits a minute, then two, four … up to this.
const FAILURE_PAUSE_MINUTES_MAX: i64 = 60;
const MINUTE_MICROS: i64 = 60_000_000;

/// What is known of a model's past cycles.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// `$since` of the next window: where the last finished cycle ended, or as far back as the first one may look.
    pub since: Timestamp,
    /// When the last cycle was asked for.
    pub last_requested: Option<Timestamp>,
    /// When the last cycle ended.
    pub last_ended: Option<Timestamp>,
    /// Cycles that failed since the last one that did not.
    pub failures: u32,
    /// Cycles that have not ended.
    pub open: Vec<CycleId>,
}

impl Past {
    /// Reads it from the model's state changes, in the order of time.
    #[must_use]
    pub fn of(events: &[CycleEvent], window: &Window, now: Timestamp) -> Self {
        let lookback = i64::from(window.lookback_hours) * 60 * MINUTE_MICROS;
        let mut past = Self {
            since: Timestamp::from_micros(now.micros().saturating_sub(lookback)),
            last_requested: None,
            last_ended: None,
            failures: 0,
            open: Vec::new(),
        };
        // By whether it has ended, not by its last event: a clock that went back puts the end before the beginning.
        let mut ended: BTreeMap<&CycleId, bool> = BTreeMap::new();
        for event in events {
            let time = Some(event.time).filter(|time| *time <= now);
            match event.state {
                CycleState::Requested => past.last_requested = time.or(past.last_requested),
                CycleState::Done => (past.last_ended, past.failures) = (time.or(past.last_ended), 0),
                CycleState::Skipped => past.last_ended = time.or(past.last_ended),
                CycleState::Failed => {
                    (past.last_ended, past.failures) = (time.or(past.last_ended), past.failures + 1);
                }
                _ => {}
            }
            // Only a finished cycle used its prompts up; those of a failed or skipped one are fresh still.
            if event.state == CycleState::Done
                && let Some(until) = event.until.filter(|until| *until <= now)
            {
                past.since = past.since.max(until);
            }
            *ended.entry(&event.cycle).or_default() |= event.state.is_end();
        }
        past.open = ended.into_iter().filter(|(_, ended)| !ended).map(|(cycle, _)| cycle.clone()).collect();
        past
    }

    fn pause_micros(&self, pause_minutes: u32) -> i64 {
        let after_failure = match self.failures {
            0 => 0,
            n => (1i64 << (n - 1).min(10)).min(FAILURE_PAUSE_MINUTES_MAX),
        };
        i64::from(pause_minutes).max(after_failure) * MINUTE_MICROS
    }

    fn rested(&self, model: &Model, now: Timestamp) -> bool {
        let pause = self.pause_micros(model.schedule.pause_minutes);
        self.last_ended.is_none_or(|end| now.micros() - end.micros() >= pause)
    }

    /// Whether the cron expression asks for a cycle: one of its times has passed since the last request, or since the
    /// daemon started where there was none.
    #[must_use]
    pub fn due_by_cron(&self, model: &Model, started: Timestamp, now: Timestamp) -> bool {
        let Some(cron) = model.schedule.cron.as_ref().and_then(|c| c.parse::<Cron>().ok()) else { return false };
        let after: Option<DateTime<Utc>> =
            DateTime::from_timestamp_micros(self.last_requested.unwrap_or(started).micros());
        let next = after.and_then(|after| cron.find_next_occurrence(&after, false).ok());
        next.is_some_and(|next| Timestamp::from(next) <= now)
    }

    /// Whether it is worth counting fresh prompts now.
    #[must_use]
    pub fn may_count(&self, model: &Model, now: Timestamp) -> bool {
        model.schedule.on_fresh_prompts && self.open.is_empty() && self.rested(model, now)
    }
}

/// The decision from what was counted.
#[must_use]
pub fn decide(past: &Past, model: &Model, enough_prompts: bool, started: Timestamp, now: Timestamp) -> Option<Trigger> {
    if !past.open.is_empty() {
        return None;
    }
    if past.due_by_cron(model, started, now) {
        return Some(Trigger::Cron);
    }
    (enough_prompts && past.may_count(model, now)).then_some(Trigger::FreshPrompts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ModelName;

    const DAY: i64 = 24 * 60 * MINUTE_MICROS;
    const NOON: i64 = 1_795_348_800_000_000;

    fn model(cron: Option<&str>, fresh: bool) -> Model {
        let text = format!(
            "version = 1\n[windows.w]\nsql='SELECT $since, $until'\n[models.m]\nbase='b'\nwindow='w'\n\
             schedule = {{ on_fresh_prompts = {fresh}{} }}\n[models.m.score.sql]\ndatabase='d'\n",
            cron.map(|c| format!(", cron = '{c}'")).unwrap_or_default()
        );
        let config = crate::config::from_text(std::path::Path::new("t"), &text, |_| None).unwrap();
        config.models.values().next().unwrap().clone()
    }

    fn window() -> Window {
        Window { sql: String::new(), prompts_min: 1, prompts_max: 1, holdout_share: 0.2, lookback_hours: 24 }
    }

    fn event(cycle: &str, state: CycleState, at: i64) -> CycleEvent {
        CycleEvent {
            cycle: CycleId::new(cycle).unwrap(),
            model: ModelName::new("m").unwrap(),
            state,
            time: Timestamp::from_micros(at),
            until: (state == CycleState::Done).then(|| Timestamp::from_micros(at - 5)),
            version: None,
            detail: String::new(),
        }
    }

    fn past(events: &[CycleEvent], now: i64) -> Past {
        Past::of(events, &window(), Timestamp::from_micros(now))
    }

    #[test]
    fn a_window_begins_where_the_last_finished_cycle_ended() {
        assert_eq!(past(&[], NOON).since.micros(), NOON - DAY);
        let done = [event("a", CycleState::Requested, NOON - 90), event("a", CycleState::Done, NOON - 50)];
        assert_eq!(past(&done, NOON).since.micros(), NOON - 55);
        let failed = [event("a", CycleState::Requested, NOON - 90), event("a", CycleState::Failed, NOON - 50)];
        assert_eq!(past(&failed, NOON).since.micros(), NOON - DAY);
    }

    #[test]
    fn cron_starts_one_cycle_a_time_that_passed() {
        let model = model(Some("0 12 * * *"), false);
        let at = |now: i64, started: i64, events: &[CycleEvent]| {
            decide(&past(events, now), &model, false, Timestamp::from_micros(started), Timestamp::from_micros(now))
        };
        assert_eq!(at(NOON - 1, NOON - 100, &[]), None);
        assert_eq!(at(NOON + 1, NOON - 100, &[]), Some(Trigger::Cron));
        let asked = [event("a", CycleState::Requested, NOON + 1), event("a", CycleState::Done, NOON + 9)];
        assert_eq!(at(NOON + 10, NOON - 100, &asked), None);
        assert_eq!(at(NOON + DAY, NOON - 100, &asked), Some(Trigger::Cron));
    }

    #[test]
    fn a_clock_that_was_a_year_ahead_starts_one_cycle_and_stops_none() {
        let model = model(Some("0 12 * * *"), true);
        let year = 365 * DAY;
        let at = |now: i64, events: &[CycleEvent]| {
            let mut events = events.to_vec();
            events.sort_by_key(|e| e.time);
            decide(&past(&events, now), &model, false, Timestamp::from_micros(NOON - 100), Timestamp::from_micros(now))
        };
        assert_eq!(at(NOON + year, &[]), Some(Trigger::Cron), "one of its times has passed");
        let asked = event("a", CycleState::Requested, NOON + year);
        assert_eq!(at(NOON + year + 2, &[asked.clone(), event("a", CycleState::Done, NOON + year + 1)]), None);
        // The clock goes back while the cycle runs: its end is before its beginning.
        let back = [asked, event("a", CycleState::Done, NOON - 50)];
        assert_eq!(at(NOON - 40, &back), None);
        assert_eq!(at(NOON + 1, &back), Some(Trigger::Cron), "the next of its times is not missed");
        let again = [back.as_slice(), &[event("b", CycleState::Requested, NOON + 1)]].concat();
        assert_eq!(past(&again, NOON + 2).open, [CycleId::new("b").unwrap()]);
        let done = [again.as_slice(), &[event("b", CycleState::Done, NOON + 3)]].concat();
        assert_eq!(at(NOON + 4, &done), None, "and starts one cycle only");
        assert_eq!(past(&[event("c", CycleState::Done, NOON + year)], NOON).since.micros(), NOON - DAY);
    }

    #[test]
    fn fresh_prompts_wait_while_a_cycle_is_open_and_after_a_failure() {
        let model = model(None, true);
        let at = |now: i64, events: &[CycleEvent]| {
            decide(&past(events, now), &model, true, Timestamp::EPOCH, Timestamp::from_micros(now))
        };
        assert_eq!(at(NOON, &[]), Some(Trigger::FreshPrompts));
        assert_eq!(at(NOON, &[event("a", CycleState::Explore, NOON - 9)]), None);
        let twice = [event("a", CycleState::Failed, NOON - 9), event("b", CycleState::Failed, NOON)];
        assert_eq!(at(NOON + MINUTE_MICROS, &twice), None);
        assert_eq!(at(NOON + 2 * MINUTE_MICROS, &twice), Some(Trigger::FreshPrompts));
    }
}
