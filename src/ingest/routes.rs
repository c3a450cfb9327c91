//! Which topics are read, what their messages are, and which table their rows are for.
//!
//! librdkafka matches the patterns that are subscribed to, and finds topics that are made later; the same patterns decide
//! here, so the configuration admits only what both understand alike.

use super::error::Error;
use crate::codec::Format;
use crate::config::{self, MessageFormat};
use crate::domain::{LogName, RowKind};
use regex_automata::meta::Regex;
use std::collections::BTreeMap;

/// What a topic's messages are and what they become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What its rows are, and which table they are for.
    pub kind: RowKind,
    /// What its messages are.
    pub format: Format,
}

/// The routes of a configuration: names first, then patterns in their order.
#[derive(Debug)]
pub struct Routes {
    names: BTreeMap<String, Route>,
    patterns: Vec<(Regex, Route)>,
    subscriptions: Vec<String>,
}

impl Routes {
    /// The routes of a configuration.
    ///
    /// # Errors
    /// [`Error::Route`] where a pattern or a table's name is none.
    pub fn new(ingest: &config::Ingest) -> Result<Self, Error> {
        let mut routes = Self { names: BTreeMap::new(), patterns: Vec::new(), subscriptions: Vec::new() };
        let logs = Route { kind: RowKind::Inference, format: Format::Auto };
        let feedback = Route { kind: RowKind::Feedback, format: Format::Auto };
        ingest.topics.iter().for_each(|topic| routes.name(topic, logs));
        ingest.feedback_topics.iter().for_each(|topic| routes.name(topic, feedback));
        for route in &ingest.routes {
            let wrong = |why: String| Error::Route { topics: route.topics.clone(), why };
            let table = route.table.as_deref().map(LogName::new).transpose().map_err(|e| wrong(e.to_string()))?;
            let to = Route { kind: table.map_or(RowKind::Inference, RowKind::of_log), format: format(route.format) };
            if route.topics.starts_with('^') {
                let pattern = Regex::new(&route.topics).map_err(|e| wrong(e.to_string()))?;
                routes.patterns.push((pattern, to));
                routes.subscriptions.push(route.topics.clone());
            } else {
                routes.name(&route.topics, to);
            }
        }
        Ok(routes)
    }

    /// Of two routes for one name the first counts.
    fn name(&mut self, topic: &str, route: Route) {
        if !self.names.contains_key(topic) {
            self.names.insert(topic.to_owned(), route);
            self.subscriptions.push(topic.to_owned());
        }
    }

    /// What is subscribed to: names, and patterns that begin with `^`.
    pub(super) fn subscriptions(&self) -> Vec<&str> {
        self.subscriptions.iter().map(String::as_str).collect()
    }

    /// The route of a topic; nothing where none fits.
    #[must_use]
    pub fn of(&self, topic: &str) -> Option<Route> {
        let named = self.names.get(topic).copied();
        named.or_else(|| self.patterns.iter().find(|(pattern, _)| pattern.is_match(topic)).map(|(_, route)| *route))
    }
}

fn format(format: MessageFormat) -> Format {
    match format {
        MessageFormat::Auto => Format::Auto,
        MessageFormat::Json => Format::Json,
        MessageFormat::Otlp => Format::Otlp,
        MessageFormat::Registry => Format::Registry,
    }
}
