//! The sense of a configuration whose form is right: references, names, schedules, contradictions.

use super::load::{Problem, Sections};
use super::{Config, Explore, Ingest, Kafka, Lake, Maintenance, Model, StrategyKind, Window};
use super::{check_cycle, check_formats, check_score, check_sidecar};
use crate::domain::{IdError, ModelName, WindowName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;

/// librdkafka properties that the exactly-once protocol sets itself.
const RESERVED: &[&str] = &[
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "group.id",
    "isolation.level",
    "metadata.broker.list",
    "bootstrap.servers",
];

/// The linear layers of a decoder layer that an adapter can have.
const LORA_TARGETS: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

#[derive(Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.0.sort();
        self.0
    }

    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { path: path.into(), message: message.into() });
    }
}

pub(super) fn config(path: &Path, hash: &str, sections: Sections) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems(Vec::new());
    lake(&sections.lake, &mut problems);
    kafka(&sections.kafka, &mut problems);
    ingest(&sections.ingest, &mut problems);
    maintenance(&sections.maintenance, &sections.ingest, &mut problems);
    check_formats::routes(&sections.ingest, &mut problems);
    check_formats::redact(&sections.redact, &mut problems);
    topic("publish.topic", &sections.publish.topic, &mut problems);
    check_sidecar::sidecar(&sections.sidecar, &sections.ingest, &mut problems);
    topic("scheduler.control_topic", &sections.scheduler.control_topic, &mut problems);
    check_cycle::process(&sections.cycle, &mut problems);
    check_cycle::webhooks(&sections.publish.webhooks, &mut problems);
    if let Some(listen) = &sections.console.listen
        && listen.parse::<std::net::SocketAddr>().is_err()
    {
        problems.add("console.listen", format!("`{listen}` is not ADDRESS:PORT, such as `127.0.0.1:9464`"));
    }
    let windows: BTreeMap<WindowName, Window> = named("windows", sections.windows, &mut problems);
    for (name, window) in &windows {
        self::window(name, window, &mut problems);
    }
    let models: BTreeMap<ModelName, Model> = named("models", sections.models, &mut problems);
    for (name, model) in &models {
        self::model(name, model, &windows, &mut problems);
    }
    if !problems.0.is_empty() {
        problems.0.sort();
        return Err(problems.0);
    }
    Ok(Config {
        path: path.to_owned(),
        hash: hash.to_owned(),
        lake: sections.lake,
        kafka: sections.kafka,
        ingest: sections.ingest,
        maintenance: sections.maintenance,
        redact: sections.redact,
        windows,
        models,
        scheduler: sections.scheduler,
        cycle: sections.cycle,
        publish: sections.publish,
        sidecar: sections.sidecar,
        console: sections.console,
        telemetry: sections.telemetry,
    })
}

fn named<N: FromStr<Err = IdError> + Ord, T>(
    section: &str,
    items: BTreeMap<String, T>,
    problems: &mut Problems,
) -> BTreeMap<N, T> {
    let mut out = BTreeMap::new();
    for (name, item) in items {
        match name.parse::<N>() {
            Ok(good) => drop(out.insert(good, item)),
            Err(e) => problems.add(format!("{section}.{name}"), format!("{e}")),
        }
    }
    out
}

fn lake(lake: &Lake, problems: &mut Problems) {
    if let Some((scheme, _)) = lake.url.split_once("://")
        && !["file", "s3"].contains(&scheme)
    {
        problems.add("lake.url", format!("the scheme `{scheme}` is not supported; use a folder, file:// or s3://"));
    }
}

fn kafka(kafka: &Kafka, problems: &mut Problems) {
    for broker in kafka.brokers.split(',').map(str::trim) {
        let port =
            broker.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
        if port.is_none() {
            problems.add("kafka.brokers", format!("`{broker}` is not HOST:PORT"));
        }
    }
    for name in kafka.properties.keys().filter(|n| RESERVED.contains(&n.as_str())) {
        problems.add(format!("kafka.properties.{name}"), "is set by Pelton, because its delivery promise rests on it");
    }
}

pub(super) fn topic(path: &str, name: &str, problems: &mut Problems) {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 249 || !name.chars().all(fine) || [".", ".."].contains(&name) {
        problems.add(path, format!("`{name}` is not a topic name: 1 to 249 letters, digits, `.`, `_` and `-`"));
    }
}

fn ingest(ingest: &Ingest, problems: &mut Problems) {
    if ingest.topics.is_empty() && ingest.feedback_topics.is_empty() && ingest.routes.is_empty() {
        problems.add("ingest.topics", "names no topic; name at least one");
    }
    for (i, name) in ingest.topics.iter().enumerate() {
        topic(&format!("ingest.topics.{i}"), name, problems);
        if ingest.topics[..i].contains(name) {
            problems.add(format!("ingest.topics.{i}"), format!("`{name}` stands here twice"));
        }
    }
    for (i, name) in ingest.feedback_topics.iter().enumerate() {
        topic(&format!("ingest.feedback_topics.{i}"), name, problems);
        if ingest.topics.contains(name) {
            problems.add(format!("ingest.feedback_topics.{i}"), format!("`{name}` is a topic of inference logs too"));
        }
    }
    if let Some(name) = &ingest.dead_letter_topic {
        topic("ingest.dead_letter_topic", name, problems);
        if ingest.topics.contains(name) {
            problems
                .add("ingest.dead_letter_topic", format!("`{name}` is read too: dead letters would go round for ever"));
        }
    }
    if ingest.batch_bytes_max > ingest.in_flight_bytes_max {
        problems.add("ingest.batch_bytes_max", "is larger than ingest.in_flight_bytes_max: no batch would ever fill");
    }
}

fn maintenance(maintenance: &Maintenance, ingest: &Ingest, problems: &mut Problems) {
    let own = ingest.routes.iter().filter_map(|route| route.table.as_deref());
    let retained: BTreeSet<&str> = Maintenance::RETAINED.into_iter().chain(own).collect();
    for (name, days) in &maintenance.retention_days {
        let path = format!("maintenance.retention_days.{name}");
        if !retained.contains(name.as_str()) {
            let names = retained.iter().copied().collect::<Vec<_>>().join(", ");
            problems.add(path, format!("is no table whose days are dropped; those are {names}"));
        } else if *days == 0 {
            problems.add(path, "must be at least 1 day; leave the table out to keep its rows for ever");
        }
    }
}

fn window(name: &WindowName, window: &Window, problems: &mut Problems) {
    if window.prompts_min > window.prompts_max {
        problems.add(
            format!("windows.{name}.prompts_min"),
            format!("{} is above prompts_max, {}", window.prompts_min, window.prompts_max),
        );
    }
    if !window.sql.contains("$since") || !window.sql.contains("$until") {
        problems.add(
            format!("windows.{name}.sql"),
            "lacks `$since` or `$until`; without both a cycle would take the same prompts again, \
             such as: WHERE request_time >= $since AND request_time < $until",
        );
    }
}

fn model(name: &ModelName, model: &Model, windows: &BTreeMap<WindowName, Window>, problems: &mut Problems) {
    let at = |field: &str| format!("models.{name}.{field}");
    if !windows.keys().any(|w| w.as_str() == model.window) {
        let known: Vec<&str> = windows.keys().map(WindowName::as_str).collect();
        let known =
            if known.is_empty() { "there is none".to_owned() } else { format!("there is {}", known.join(", ")) };
        problems.add(at("window"), format!("there is no window `{}`; {known}", model.window));
    }
    if let Some(cron) = &model.schedule.cron
        && let Err(e) = cron.parse::<croner::Cron>()
    {
        problems.add(at("schedule.cron"), format!("`{cron}` is not a cron expression of five fields: {e}"));
    }
    if let Some(rollback) = &model.rollback {
        check_cycle::rollback(&at("rollback"), rollback, problems);
    }
    check_cycle::quiet_hours(&at("schedule.quiet_hours"), &model.schedule.quiet_hours, problems);
    if model.lora.targets.is_empty() {
        problems.add(at("lora.targets"), format!("names no layer; use some of {}", LORA_TARGETS.join(", ")));
    }
    for (i, target) in model.lora.targets.iter().enumerate() {
        if !LORA_TARGETS.contains(&target.as_str()) {
            problems
                .add(at(&format!("lora.targets.{i}")), format!("`{target}` is none of {}", LORA_TARGETS.join(", ")));
        }
    }
    if model.explore.temperatures.is_empty() {
        problems.add(at("explore.temperatures"), "is empty; use [1.0] for plain sampling");
    }
    strategies(&model.explore, &at("explore.strategies"), problems);
    check_score::score(&at("score"), &model.score, problems);
    if let Some(score) = &model.gate.score {
        check_score::score(&at("gate.score"), score, problems);
    }
    for (suite, settings) in &model.gate.suites {
        if let Some(score) = &settings.score {
            check_score::score(&at(&format!("gate.suites.{suite}.score")), score, problems);
        }
    }
    if model.optimize.learning_rate <= 0.0 {
        problems.add(at("optimize.learning_rate"), "must be above 0, such as 1e-4");
    }
}

fn strategies(explore: &Explore, at: &str, problems: &mut Problems) {
    let all = &explore.strategies;
    if !all.is_empty() && all.iter().map(|s| s.share).sum::<f64>() <= 0.0 {
        problems.add(at, "have no share above 0; give one, such as share = 1");
    }
    for (i, strategy) in all.iter().enumerate() {
        match (strategy.kind, &strategy.endpoint) {
            (StrategyKind::Endpoint, None) => {
                problems.add(format!("{at}.{i}.endpoint"), "is missing: name a url and a model");
            }
            (kind, Some(_)) if kind != StrategyKind::Endpoint => {
                let kind = kind.as_str();
                problems
                    .add(format!("{at}.{i}.endpoint"), format!("has no use with `{kind}`; use kind = \"endpoint\""));
            }
            _ => {}
        }
    }
}
