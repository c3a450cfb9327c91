//! When cycles start: by cron, or when a window has its minimum of fresh prompts; not in quiet hours, and not while the day's
//! budget is used up. Pure: times and events in, a decision out.
//!
//! A clock that was ahead for a while leaves events of times that are still to come. They count as what they say, but no
//! pause, no cron time and no window begins at them: otherwise nothing would start until the clock is there again.

use super::cycle::Standing;
use crate::config::{Model, Window, quiet_minutes};
use crate::domain::{CycleEvent, CycleId, CycleState, Timestamp, Trigger};
use chrono::{DateTime, Utc};
use croner::Cron;
use std::collections::BTreeMap;

/// After a parked cycle the next one by itself waits a minute, then two, four … up to this.
const FAILURE_PAUSE_MINUTES_MAX: i64 = 60;
const MINUTE_MICROS: i64 = 60_000_000;
const DAY_MICROS: i64 = 24 * 60 * MINUTE_MICROS;
/// A running cycle writes how far it is every minute; a longer silence counts as so much work at most, because its process may
/// have been dead.
const SILENCE_MICROS: i64 = 10 * MINUTE_MICROS;

/// What is known of a model's past cycles.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// `$since` of the next window: where the last finished cycle ended, or as far back as the first one may look.
    pub since: Timestamp,
    /// When the last cycle was asked for.
    pub last_requested: Option<Timestamp>,
    /// When the last cycle ended.
    pub last_ended: Option<Timestamp>,
    /// Cycles that were parked since the last one that was done.
    pub failures: u32,
    /// Cycles that have not ended and go on by themselves.
    pub open: Vec<CycleId>,
    /// Minutes of the last 24 hours in which cycles ran.
    pub minutes_used: i64,
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
            minutes_used: 0,
        };
        let mut by_cycle: BTreeMap<&CycleId, Vec<CycleEvent>> = BTreeMap::new();
        for event in events {
            let time = Some(event.time).filter(|time| *time <= now);
            match event.state {
                CycleState::Requested => past.last_requested = time.or(past.last_requested),
                CycleState::Done => (past.last_ended, past.failures) = (time.or(past.last_ended), 0),
                CycleState::Skipped | CycleState::Cancelled => past.last_ended = time.or(past.last_ended),
                CycleState::Parked => {
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
            by_cycle.entry(&event.cycle).or_default().push(event.clone());
        }
        let standings = by_cycle.values().filter_map(|events| Standing::of(events));
        past.open = standings.filter(Standing::is_ours).map(|s| s.cycle).collect();
        let day = Timestamp::from_micros(now.micros() - DAY_MICROS);
        past.minutes_used = by_cycle.values().map(|events| worked_micros(events, day)).sum::<i64>() / MINUTE_MICROS;
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

    /// Whether a cycle may start by itself at all: no quiet hour, and something of the day's budget left.
    #[must_use]
    pub fn may_start(&self, model: &Model, now: Timestamp) -> bool {
        let schedule = &model.schedule;
        let minute = u32::try_from(now.micros().rem_euclid(DAY_MICROS) / MINUTE_MICROS).unwrap_or(0);
        let in_it = |(from, to): (u32, u32)| {
            if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
        };
        let quiet = schedule.quiet_hours.iter().filter_map(|text| quiet_minutes(text)).any(in_it);
        let spent = schedule.budget.compute_minutes.is_some_and(|most| self.minutes_used >= i64::from(most));
        !quiet && !spent
    }

    /// Whether it is worth counting fresh prompts now.
    #[must_use]
    pub fn may_count(&self, model: &Model, now: Timestamp) -> bool {
        let idle = self.open.is_empty() && self.rested(model, now);
        model.schedule.on_fresh_prompts && idle && self.may_start(model, now)
    }
}

/// How long a cycle's processes have worked since a time, by its rows.
fn worked_micros(events: &[CycleEvent], since: Timestamp) -> i64 {
    let works = |state: CycleState| !state.is_end() && ![CycleState::Requested, CycleState::Failed].contains(&state);
    let pairs = events.windows(2).filter(|pair| works(pair[0].state) && pair[1].time > since);
    let between = |pair: &[CycleEvent]| pair[1].time.micros() - pair[0].time.micros().max(since.micros());
    pairs.map(|pair| between(pair).clamp(0, SILENCE_MICROS)).sum()
}

/// The decision from what was counted.
#[must_use]
pub fn decide(past: &Past, model: &Model, enough_prompts: bool, started: Timestamp, now: Timestamp) -> Option<Trigger> {
    if !past.open.is_empty() || !past.may_start(model, now) {
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

    const DAY: i64 = DAY_MICROS;
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
        let text = "version = 1\n[windows.w]\nsql = 'SELECT $since, $until'\nprompts_max = 100\nlookback_hours = 24\n";
        let config = crate::config::from_text(std::path::Path::new("t"), text, |_| None).unwrap();
        config.windows.into_values().next().unwrap()
    }

    fn event(cycle: &str, state: CycleState, at: i64) -> CycleEvent {
        CycleEvent {
            cycle: CycleId::new(cycle).unwrap(),
            model: ModelName::new("m").unwrap(),
            state,
            time: Timestamp::from_micros(at),
            attempt: 1,
            until: (state == CycleState::Done).then(|| Timestamp::from_micros(at - 5)),
            version: None,
            detail: r#"{"trigger":"cron"}"#.to_owned(),
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
        let failed = [event("a", CycleState::Requested, NOON - 90), event("a", CycleState::Parked, NOON - 50)];
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
        let asked = |cycle: &str| event(cycle, CycleState::Requested, NOON - 10);
        assert_eq!(at(NOON, &[asked("a"), event("a", CycleState::Explore, NOON - 9)]), None);
        assert_eq!(at(NOON, &[asked("a"), event("a", CycleState::Failed, NOON - 9)]), None, "it is tried again first");
        let twice = [event("a", CycleState::Parked, NOON - 9), event("b", CycleState::Parked, NOON)];
        assert_eq!(at(NOON + MINUTE_MICROS, &twice), None);
        assert_eq!(at(NOON + 2 * MINUTE_MICROS, &twice), Some(Trigger::FreshPrompts));
    }

    #[test]
    fn nothing_starts_in_quiet_hours_and_a_cron_time_in_them_is_caught_up_with() {
        let mut model = model(Some("0 12 * * *"), true);
        model.schedule.quiet_hours = vec!["11:00-13:00".to_owned(), "23:00-01:00".to_owned()];
        let at = |now: i64| {
            decide(&past(&[], now), &model, true, Timestamp::from_micros(NOON - 100), Timestamp::from_micros(now))
        };
        let hour = 60 * MINUTE_MICROS;
        assert_eq!(at(NOON - 50), None);
        assert_eq!(at(NOON + 50), None);
        assert_eq!(at(NOON + hour), Some(Trigger::Cron));
        assert_eq!(at(NOON + 11 * hour), None, "across midnight");
        assert_eq!(at(NOON + 12 * hour + hour / 2), None);
        assert_eq!(at(NOON + 13 * hour), Some(Trigger::Cron));
    }

    #[test]
    fn a_days_budget_counts_the_minutes_in_which_cycles_ran() {
        let mut model = model(None, true);
        model.schedule.budget.compute_minutes = Some(20);
        let minute = |n: i64| NOON + n * MINUTE_MICROS;
        let run = [
            event("a", CycleState::Requested, minute(-200)),
            event("a", CycleState::Explore, minute(-100)),
            event("a", CycleState::Explore, minute(-92)),
            // Its process was dead for most of the time until here.
            event("a", CycleState::Optimize, minute(-30)),
            event("a", CycleState::Done, minute(-27)),
        ];
        assert_eq!(past(&run, NOON).minutes_used, 8 + 10 + 3);
        let at = |now: i64| decide(&past(&run, now), &model, true, Timestamp::EPOCH, Timestamp::from_micros(now));
        assert_eq!(at(NOON), None);
        assert_eq!(at(NOON + DAY), Some(Trigger::FreshPrompts));
    }
}
