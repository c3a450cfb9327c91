//! The sense of what says how cycles run and where their events go.

use super::check::Problems;
use super::{Cycle, Rollback, Webhook};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a launcher's words may stand for.
const PLACES: &[&str] = &["{cycle}", "{config}", "{model}", "{token}", "{pelton}"];

pub(super) fn process(cycle: &Cycle, problems: &mut Problems) {
    if cycle.launcher.is_empty() {
        return;
    }
    if !cycle.launcher.iter().any(|word| word.contains("{cycle}")) {
        problems.add("cycle.launcher", "names no `{cycle}`, so that what it starts would not know which cycle to run");
    }
    for (i, word) in cycle.launcher.iter().enumerate() {
        let mut rest = word.clone();
        PLACES.iter().for_each(|place| rest = rest.replace(place, ""));
        if rest.contains('{') && rest.contains('}') {
            let places = PLACES.join(", ");
            problems.add(format!("cycle.launcher.{i}"), format!("`{word}` names something else than {places}"));
        }
    }
}

pub(super) fn webhooks(webhooks: &[Webhook], problems: &mut Problems) {
    for (i, hook) in webhooks.iter().enumerate() {
        let at = |field: &str| format!("publish.webhooks.{i}.{field}");
        if webhooks[..i].iter().any(|other| other.name == hook.name) {
            problems.add(at("name"), format!("`{}` stands here twice", hook.name));
        }
        if !url::Url::parse(&hook.url).is_ok_and(|url| ["http", "https"].contains(&url.scheme())) {
            problems.add(at("url"), format!("`{}` is no http or https URL", hook.url));
        }
        let bytes = hook.secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
        if !bytes.is_some_and(|bytes| (24..=64).contains(&bytes.len())) {
            problems.add(at("secret"), "is not `whsec_` and the base64 of 24 to 64 bytes");
        }
    }
}

pub(super) fn quiet_hours(at: &str, hours: &[String], problems: &mut Problems) {
    for (i, text) in hours.iter().enumerate() {
        if super::quiet_minutes(text).is_none() {
            problems.add(format!("{at}.{i}"), format!("`{text}` is not HH:MM-HH:MM, such as `22:00-06:00`"));
        }
    }
}

pub(super) fn rollback(at: &str, rollback: &Rollback, problems: &mut Problems) {
    if rollback.checks.is_empty() && rollback.score_sample == 0 {
        problems.add(format!("{at}.checks"), "is empty and score_sample is 0: nothing would be watched");
    }
    for (name, check) in &rollback.checks {
        if !check.sql.contains("$since") || !check.sql.contains("$until") {
            let path = format!("{at}.checks.{name}.sql");
            problems.add(path, "lacks `$since` or `$until`; without both it reads the whole log at each look");
        }
    }
}
