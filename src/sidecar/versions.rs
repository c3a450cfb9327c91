//! Which version answers: the champions that the `model-versions` topic tells of, what the servers have of them, and each
//! request's lot.
//!
//! The topic's compacted keys give the whole state at any start: `model` is the champion, `model/vN` each version. A rollout's
//! share follows from the time of the promotion, so all sidecars agree and none forgets it by a restart.

use super::call::{drawn, place};
use crate::codec::event;
use crate::config::{Alias, RolloutStep, Sticky};
use crate::domain::{Timestamp, Version, VersionState};
use crate::runtime::now;
use crate::telemetry::Event;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

/// What the topic tells.
#[derive(Debug, Default)]
struct Known {
    champions: BTreeMap<String, Version>,
    versions: BTreeMap<String, Version>,
}

/// What answers for an alias now.
#[derive(Debug, Clone, Default, PartialEq)]
struct Serving {
    /// The champion that the servers have, and when it was promoted.
    champion: Option<(String, Timestamp)>,
    /// What answers the rest while it takes over; the base where absent.
    before: Option<String>,
    /// A withdrawal takes effect at once.
    at_once: bool,
}

/// All aliases.
pub struct Versions {
    aliases: BTreeMap<String, Alias>,
    known: RwLock<Known>,
    serving: RwLock<BTreeMap<String, Serving>>,
    by_hand: RwLock<BTreeMap<String, f64>>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The model's name for the server.
    pub model: String,
    /// The version, where one answers.
    pub version: Option<String>,
}

/// A version that servers should have.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// The version, where the topic told of it.
    pub version: Option<Version>,
}

impl Versions {
    /// The aliases of the configuration; bases answer until versions are known.
    #[must_use]
    pub fn new(aliases: BTreeMap<String, Alias>) -> Self {
        Self { aliases, known: RwLock::default(), serving: RwLock::default(), by_hand: RwLock::default() }
    }

    /// Takes in one message of the topic; a message without a value removes its key.
    pub fn learn(&self, key: &str, payload: Option<&[u8]>) {
        let alias = key.split('/').next().unwrap_or_default();
        if !self.aliases.contains_key(alias) {
            return;
        }
        // A tombstone, and a value that is empty: the base serves.
        let version = match payload.filter(|payload| !payload.is_empty()).map(event::decode).transpose() {
            Ok(version) => version,
            Err(error) => return tracing::warn!(key, %error, "an event of a version cannot be read"),
        };
        let mut known = write(&self.known);
        let known = &mut *known;
        let into = if key.contains('/') { &mut known.versions } else { &mut known.champions };
        match version {
            Some(version) => drop(into.insert(key.to_owned(), version)),
            None => drop(into.remove(key)),
        }
    }

    /// Where a request for a model goes, by who asks.
    #[must_use]
    pub fn route(
        &self,
        model: &str,
        conversation: Option<&str>,
        user: Option<&str>,
        request_id: &str,
    ) -> Option<Route> {
        let alias = self.aliases.get(model)?;
        let serving = read(&self.serving).get(model).cloned().unwrap_or_default();
        let base = || Route { model: alias.base.clone().unwrap_or_else(|| model.to_owned()), version: None };
        let Some((champion, promoted)) = serving.champion else { return Some(base()) };
        let who = match alias.sticky {
            Sticky::Conversation => conversation.or(user),
            Sticky::User => user.or(conversation),
            Sticky::None => None,
        };
        let share = self.share(model, alias, promoted, serving.at_once);
        // By the champion's name too, so that it is not always the same who get the new one first.
        let takes = share >= 1.0 || (share > 0.0 && place(who.unwrap_or(request_id), &champion) < share);
        let version = if takes { Some(champion) } else { serving.before };
        Some(version.map_or_else(base, |version| Route { model: version.clone(), version: Some(version) }))
    }

    /// The champion that answers for an alias.
    #[must_use]
    pub fn serving(&self, alias: &str) -> Option<String> {
        read(&self.serving).get(alias)?.champion.as_ref().map(|(name, _)| name.clone())
    }

    /// The champion's share of an alias's traffic now.
    fn share(&self, name: &str, alias: &Alias, promoted: Timestamp, at_once: bool) -> f64 {
        let by_hand = read(&self.by_hand).get(name).copied();
        if at_once { 1.0 } else { by_hand.unwrap_or_else(|| share_at(&alias.rollout, promoted, now())) }
    }

    /// The model that gets a copy of a request, and how many copies may be under way.
    #[must_use]
    pub fn shadow(&self, model: &str, request_id: &str) -> Option<(String, usize)> {
        let shadow = self.aliases.get(model)?.shadow.as_ref()?;
        drawn(request_id, "shadow", shadow.share).then(|| (shadow.model.clone(), shadow.requests_max))
    }

    /// Sets an alias's share by hand, or gives it back to its schedule.
    ///
    /// # Errors
    /// An alias that there is not.
    pub fn set_share(&self, alias: &str, share: Option<f64>) -> Result<(), String> {
        if !self.aliases.contains_key(alias) {
            let names: Vec<&str> = self.aliases.keys().map(String::as_str).collect();
            return Err(format!("there is no alias `{alias}`; there is {}", names.join(", ")));
        }
        match share {
            Some(share) => drop(write(&self.by_hand).insert(alias.to_owned(), share.clamp(0.0, 1.0))),
            None => drop(write(&self.by_hand).remove(alias)),
        }
        Ok(())
    }

    /// What servers should have: each alias's champion, what answers beside it, and its challenger in the shadow.
    #[must_use]
    pub fn wanted(&self) -> Vec<Wanted> {
        let known = read(&self.known);
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        let mut want = |name: String, version: Option<&Version>| {
            wanted.entry(name.clone()).or_insert_with(|| Wanted { name, version: version.cloned() });
        };
        for (name, alias) in &self.aliases {
            if let Some(champion) = known.champions.get(name) {
                want(champion.reference.to_string(), Some(champion));
                let shares = self.share(name, alias, champion.time, is_withdrawal(&known, champion)) < 1.0;
                if let Some(before) = before(&known, champion).filter(|_| shares) {
                    want(before.reference.to_string(), Some(before));
                }
            }
            if let Some(shadow) = &alias.shadow {
                let version = known.versions.values().find(|v| v.reference.to_string() == shadow.model);
                if let Some(version) = version {
                    want(shadow.model.clone(), Some(version));
                }
            }
            // What answers now stays until something else does.
            let serving = read(&self.serving).get(name).cloned().unwrap_or_default();
            if let Some((name, _)) = serving.champion {
                let mut version = known.versions.values().chain(known.champions.values());
                want(name.clone(), version.find(|v| v.reference.to_string() == name));
            }
        }
        wanted.into_values().collect()
    }

    /// Whether a name is a version of one of the aliases, so that it is ours to unload.
    #[must_use]
    pub fn owns(&self, name: &str) -> bool {
        name.split_once("@v").is_some_and(|(alias, number)| {
            self.aliases.contains_key(alias) && number.chars().all(|c| c.is_ascii_digit())
        })
    }

    /// Moves traffic: `everywhere` holds the versions that all chosen servers have.
    pub fn settle(&self, everywhere: &BTreeSet<String>) {
        let known = read(&self.known);
        for name in self.aliases.keys() {
            let next = match known.champions.get(name) {
                None => Serving::default(),
                Some(champion) => {
                    let reference = champion.reference.to_string();
                    if !everywhere.contains(&reference) {
                        self.withdraw(name, &known);
                        continue;
                    }
                    let before = before(&known, champion).map(|v| v.reference.to_string());
                    Serving {
                        champion: Some((reference, champion.time)),
                        before: before.filter(|before| everywhere.contains(before)),
                        at_once: is_withdrawal(&known, champion),
                    }
                }
            };
            let mut serving = write(&self.serving);
            let now = serving.entry(name.clone()).or_default();
            if *now != next {
                let version = next.champion.as_ref().map_or("the base", |(name, _)| name);
                if now.champion != next.champion {
                    Event::VersionServes { alias: name, version }.emit();
                }
                *now = next;
            }
        }
    }

    /// What answers now was withdrawn, and what should answer is not loaded yet: meanwhile the base does.
    fn withdraw(&self, alias: &str, known: &Known) {
        let mut serving = write(&self.serving);
        let Some(now) = serving.get_mut(alias) else { return };
        let withdrawn = |name: &str| {
            known.versions.values().any(|v| v.state == VersionState::RolledBack && v.reference.to_string() == name)
        };
        if now.champion.as_ref().is_some_and(|(name, _)| withdrawn(name)) {
            Event::VersionServes { alias, version: "the base" }.emit();
            *now = Serving::default();
        }
    }

    /// The state for operators.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let (known, serving) = (read(&self.known), read(&self.serving));
        let one = |(name, alias): (&String, &Alias)| {
            let serving = serving.get(name).cloned().unwrap_or_default();
            let by_hand = read(&self.by_hand).get(name).copied();
            let share =
                serving.champion.as_ref().map(|(_, promoted)| self.share(name, alias, *promoted, serving.at_once));
            let state = serde_json::json!({
                "promoted": known.champions.get(name).map(|v| v.reference.to_string()),
                "serving": serving.champion.map(|(name, _)| name),
                "share": share,
                "share_by_hand": by_hand,
                "rest": serving.before.unwrap_or_else(|| alias.base.clone().unwrap_or_else(|| name.clone())),
                "shadow": alias.shadow.as_ref().map(|s| s.model.clone()),
            });
            (name.clone(), state)
        };
        self.aliases.iter().map(one).collect::<serde_json::Map<_, _>>().into()
    }
}

/// The version that answered before a champion: the last promoted one below it, else its parent where the topic knows it.
fn before<'a>(known: &'a Known, champion: &Version) -> Option<&'a Version> {
    let of_model = |v: &&Version| v.reference.model == champion.reference.model;
    let promoted = known
        .versions
        .values()
        .filter(of_model)
        .filter(|v| v.state == VersionState::Promoted && v.reference.number < champion.reference.number);
    promoted.max_by_key(|v| v.reference.number).or_else(|| {
        let parent = champion.parent.as_ref()?;
        known.versions.values().find(|v| v.reference == *parent && v.state != VersionState::RolledBack)
    })
}

/// Whether a champion is one again because a later one was withdrawn.
fn is_withdrawal(known: &Known, champion: &Version) -> bool {
    known.versions.values().any(|v| {
        v.reference.model == champion.reference.model
            && v.reference.number > champion.reference.number
            && v.state == VersionState::RolledBack
    })
}

/// The share of a rollout at a time; without steps all of it.
#[expect(clippy::cast_precision_loss, reason = "microseconds of years are exact enough in a double")]
fn share_at(rollout: &[RolloutStep], promoted: Timestamp, now: Timestamp) -> f64 {
    let minutes = (now.micros() - promoted.micros()) as f64 / 60e6;
    let step = rollout.iter().rev().find(|step| step.after_minutes <= minutes);
    if rollout.is_empty() { 1.0 } else { step.map_or(0.0, |step| step.share) }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Shared by the proxy, the adapters' keeper and the topic's reader.
pub type SharedVersions = Arc<Versions>;
