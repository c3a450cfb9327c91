//! The sense of the sidecar's settings.

use super::check::{Problems, topic};
use super::{Alias, Ingest, Sidecar};
use crate::domain::ModelName;
use std::collections::BTreeSet;

pub(super) fn sidecar(sidecar: &Sidecar, ingest: &Ingest, problems: &mut Problems) {
    address("sidecar.listen", &sidecar.listen, problems);
    if let Some(listen) = &sidecar.admin_listen {
        address("sidecar.admin_listen", listen, problems);
    }
    for (i, upstream) in sidecar.upstreams.iter().enumerate() {
        let at = format!("sidecar.upstreams.{i}");
        match url::Url::parse(&upstream.url) {
            Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => {
                if url.path().trim_end_matches('/').ends_with("/v1") {
                    problems.add(format!("{at}.url"), "ends in /v1; give the address before it");
                }
            }
            _ => problems.add(format!("{at}.url"), format!("`{}` is no http:// or https:// URL", upstream.url)),
        }
        if !upstream.health_path.starts_with('/') {
            problems.add(format!("{at}.health_path"), "begins with /");
        }
        if sidecar.upstreams[..i].iter().any(|other| other.url == upstream.url) {
            problems.add(format!("{at}.url"), format!("`{}` stands here twice", upstream.url));
        }
    }
    let mut names = BTreeSet::new();
    for (i, key) in sidecar.keys.iter().enumerate() {
        if !names.insert(&key.name) {
            problems.add(format!("sidecar.keys.{i}.name"), format!("`{}` stands here twice", key.name));
        }
    }
    for (name, alias) in &sidecar.models {
        self::alias(&format!("sidecar.models.{name}"), name, alias, problems);
    }
    if let Some(name) = &sidecar.log.topic {
        topic("sidecar.log.topic", name, problems);
    }
    if let Some(name) = &sidecar.log.feedback_topic {
        topic("sidecar.log.feedback_topic", name, problems);
    }
    if sidecar.log.enabled && !sidecar.upstreams.is_empty() && sidecar.log.topic.is_none() && ingest.topics.is_empty() {
        problems.add("sidecar.log.topic", "is missing, and ingest.topics names none");
    }
}

fn alias(at: &str, name: &str, alias: &Alias, problems: &mut Problems) {
    if let Err(error) = name.parse::<ModelName>() {
        problems.add(at, error.to_string());
    }
    let rising =
        |pair: &[super::RolloutStep]| pair[0].after_minutes < pair[1].after_minutes && pair[0].share <= pair[1].share;
    if !alias.rollout.windows(2).all(rising) {
        problems.add(format!("{at}.rollout"), "must rise in time and share, such as 0 minutes 0.05, 60 minutes 1");
    }
    if alias.rollout.last().is_some_and(|step| step.share < 1.0) {
        problems.add(format!("{at}.rollout"), "must end with share = 1; use /rollout to hold a version back by hand");
    }
}

fn address(at: &str, text: &str, problems: &mut Problems) {
    if text.parse::<std::net::SocketAddr>().is_err() {
        problems.add(at, format!("`{text}` is not ADDRESS:PORT, such as `127.0.0.1:8080`"));
    }
}
