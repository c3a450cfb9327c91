//! The sense of what topics hold and of what must not be stored.

use super::check::{Problems, topic};
use super::{Ingest, MessageFormat, Redact};
use regex_automata::meta::Regex;

/// Fields that rows need in their own type: a replacement, which is text, would make every message a dead letter.
const TYPED: &[&str] = &[
    "schema",
    "request_time",
    "timestamp_ms",
    "feedback_time",
    "status_code",
    "sampling_fraction",
    "execution_duration_ms",
    "execution_time_ms",
    "time_to_first_token_ms",
    "stream",
    "logging_error_codes",
    "request",
    "response",
    "thumb",
    "score",
    "*",
];
const KEY_BYTES_MIN: usize = 16;

pub(super) fn routes(ingest: &Ingest, problems: &mut Problems) {
    for (i, route) in ingest.routes.iter().enumerate() {
        let at = format!("ingest.routes.{i}");
        if !route.topics.starts_with('^') {
            topic(&format!("{at}.topics"), &route.topics, problems);
            if ingest.dead_letter_topic.as_ref() == Some(&route.topics) {
                problems.add(format!("{at}.topics"), "is the dead-letter topic: dead letters would go round for ever");
            }
        } else if let Err(e) = Regex::new(&route.topics) {
            let why = e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string);
            problems.add(format!("{at}.topics"), format!("is not a regular expression: {why}"));
        } else if !is_plain(&route.topics) {
            problems.add(
                format!("{at}.topics"),
                "has what Kafka's client reads otherwise: use no `\\d` or other classes by a letter ([0-9] does), no `(?` and \
                 no lazy repetitions",
            );
        }
        if route.format == MessageFormat::Registry && ingest.registry.is_none() {
            problems.add(format!("{at}.format"), "needs a schema registry; add [ingest.registry] with its url");
        }
    }
    if let Some(registry) = &ingest.registry {
        if !url::Url::parse(&registry.url).is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
        {
            problems
                .add("ingest.registry.url", format!("`{}` is not http://HOST:PORT or https://HOST:PORT", registry.url));
        }
        if registry.token.is_some() && registry.username.is_some() {
            problems.add("ingest.registry.token", "stands beside a username; use one of both");
        }
        if registry.username.is_some() != registry.password.is_some() {
            problems.add("ingest.registry.username", "and password belong together; one of them is missing");
        }
    }
    for (name, column) in &ingest.columns {
        if !is_label(name, 63) {
            let rule = "use 1 to 63 of a-z, 0-9 and `_`, beginning with a letter";
            problems.add(format!("ingest.columns.{name}"), format!("is not a column's name: {rule}"));
        }
        let other = ingest.columns.iter().find(|(n, c)| *n < name && c.field == column.field);
        if let Some((other, _)) = other {
            problems
                .add(format!("ingest.columns.{name}.field"), format!("`{}` has the column `{other}`", column.field));
        }
    }
}

pub(super) fn redact(redact: &Redact, problems: &mut Problems) {
    for (i, field) in redact.fields.iter().enumerate() {
        let at = format!("redact.fields.{i}");
        if field.is_empty() || field.split('.').any(str::is_empty) {
            problems.add(&at, format!("`{field}` is not a path, such as `requester` or `request.user`"));
        }
        if TYPED.contains(&field.as_str()) {
            problems
                .add(&at, format!("`{field}` is not text; name a path of text, such as `requester` or `request.user`"));
        }
    }
    for (label, expression) in &redact.custom {
        let at = format!("redact.custom.{label}");
        if !is_label(label, 30) || ["email", "phone", "secret", "card", "token", "withheld"].contains(&label.as_str()) {
            problems.add(&at, "is not a label: use 1 to 30 of a-z, 0-9 and `_`, and none of Pelton's own");
        }
        match Regex::new(expression) {
            Ok(regex) if regex.is_match("") => {
                problems.add(&at, "matches the empty text; it must match at least one character");
            }
            Ok(_) => {}
            Err(e) => {
                let why = e.syntax_error().map_or_else(|| e.to_string(), ToString::to_string);
                problems.add(&at, format!("is not a regular expression: {why}"));
            }
        }
    }
    if redact.key.is_some() && redact.key_file.is_some() {
        problems.add("redact.key", "stands beside key_file; use one of both");
    }
    if redact.key.as_ref().is_some_and(|key| key.reveal().len() < KEY_BYTES_MIN) {
        problems.add("redact.key", format!("is shorter than {KEY_BYTES_MIN} bytes: it could be guessed"));
    }
}

/// Whether a pattern means the same to librdkafka, which reads POSIX's extended expressions, as it does here.
fn is_plain(pattern: &str) -> bool {
    let bytes = pattern.as_bytes();
    let by_letter = bytes.windows(2).any(|w| w[0] == b'\\' && w[1].is_ascii_alphanumeric());
    let lazy = bytes.windows(2).any(|w| b"*+?}".contains(&w[0]) && w[1] == b'?');
    !by_letter && !lazy && !pattern.contains("(?") && pattern.is_ascii()
}

fn is_label(text: &str, most: usize) -> bool {
    text.len() <= most
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
