//! What a version may become: pure decisions on the state changes so far, which the caller appends if nobody came first.
//!
//! | from | to |
//! |---|---|
//! | nothing | registered |
//! | registered | promoted, rejected, archived |
//! | rejected, rolled back | promoted (by hand), archived |
//! | promoted | rolled back (the champion), archived (any other) |
//! | archived | nothing: its adapter may be gone |
//!
//! The champion is the version that was promoted last and still is. A rollback says two things at once: this one is rolled
//! back, and that one is promoted again, later, so that whoever follows events or the table finds the champion in the same way.

use crate::domain::{ModelName, Timestamp, Version, VersionRef, VersionState};
use std::collections::BTreeMap;

/// Why a state change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such version.
    #[error("there is no version `{0}`; `pelton model list` lists them")]
    Unknown(VersionRef),
    /// It is what it should become.
    #[error("{version} is {} already", state.as_str())]
    Already {
        /// The version.
        version: VersionRef,
        /// Its state.
        state: VersionState,
    },
    /// Its adapter may be gone.
    #[error("{0} is archived, and its adapter may be gone; `pelton model reproduce {0}` makes it again")]
    Archived(VersionRef),
    /// The champion cannot be put away.
    #[error("{0} is the champion; promote another or roll it back first")]
    Champion(VersionRef),
    /// There is nothing to roll back.
    #[error("no version of `{0}` is promoted; there is nothing to roll back")]
    NoChampion(ModelName),
    /// Only the champion can be rolled back.
    #[error("{version} does not serve: the champion is {}", champion_text(champion.as_ref()))]
    NotChampion {
        /// The version.
        version: VersionRef,
        /// The champion, where there is one.
        champion: Option<VersionRef>,
    },
    /// The champion is another than the one that the decision rests on.
    #[error("the champion is {} and no longer {}", champion_text(found.as_ref()), champion_text(expected.as_ref()))]
    Moved {
        /// The champion that was thought of.
        expected: Option<VersionRef>,
        /// The champion.
        found: Option<VersionRef>,
    },
}

/// A champion's name for people.
#[must_use]
pub fn champion_text(champion: Option<&VersionRef>) -> String {
    champion.map_or_else(|| "the base".to_owned(), ToString::to_string)
}

/// The version that serves: the last promoted one that still is. `versions` are all rows of a model, in the order of time.
#[must_use]
pub fn champion(versions: &[Version]) -> Option<&Version> {
    newest(versions).into_values().filter(|v| v.state == VersionState::Promoted).max_by_key(|v| v.time)
}

/// The newest row of each version.
#[must_use]
pub fn newest(versions: &[Version]) -> BTreeMap<&VersionRef, &Version> {
    versions.iter().map(|v| (&v.reference, v)).collect()
}

fn found<'a>(versions: &'a [Version], wanted: &VersionRef) -> Result<&'a Version, Refusal> {
    newest(versions).remove(wanted).ok_or_else(|| Refusal::Unknown(wanted.clone()))
}

fn changed(version: &Version, state: VersionState, reason: &str, time: Timestamp) -> Version {
    Version { state, time, reason: reason.to_owned(), ..version.clone() }
}

/// Registers a version and says what the gate decided, as far as neither has been said: a cycle that was killed in between goes
/// on. A promotion holds only against the champion that it was compared with.
#[must_use]
pub fn released(
    versions: &[Version],
    registered: &Version,
    verdict: (VersionState, &str),
    compared: Option<&VersionRef>,
) -> Vec<Version> {
    let known = newest(versions).remove(&registered.reference);
    let mut changes = Vec::new();
    if known.is_none() {
        changes.push(registered.clone());
    }
    if known.is_some_and(|v| v.state != VersionState::Registered) {
        return changes;
    }
    let (state, reason) = verdict;
    let now = champion(versions).map(|v| &v.reference);
    let change = if state == VersionState::Promoted && now != compared {
        let moved = Refusal::Moved { expected: compared.cloned(), found: now.cloned() };
        let reason = format!("it was compared with another champion: {moved}; a further cycle compares anew");
        changed(registered, VersionState::Rejected, &reason, registered.time)
    } else {
        changed(registered, state, reason, registered.time)
    };
    changes.push(change);
    changes
}

/// Makes a version the champion.
///
/// # Errors
/// [`Refusal`] for a version that is unknown, archived or the champion already, or where the champion is not the one expected.
pub fn promote(
    versions: &[Version],
    wanted: &VersionRef,
    expected: Option<Option<&VersionRef>>,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<Version>, Refusal> {
    let version = found(versions, wanted)?;
    let champion = champion(versions).map(|v| &v.reference);
    if let Some(expected) = expected.filter(|expected| *expected != champion) {
        return Err(Refusal::Moved { expected: expected.cloned(), found: champion.cloned() });
    }
    if version.state == VersionState::Archived {
        return Err(Refusal::Archived(wanted.clone()));
    }
    if champion == Some(wanted) {
        return Err(Refusal::Already { version: wanted.clone(), state: VersionState::Promoted });
    }
    Ok(vec![changed(version, VersionState::Promoted, reason, now)])
}

/// Withdraws the champion. The version that was promoted before it, or `to`, is promoted again; where there is none, the base
/// serves.
///
/// # Errors
/// [`Refusal`] where `wanted` is not the champion, or `to` cannot become it.
pub fn roll_back(
    versions: &[Version],
    wanted: &VersionRef,
    to: Option<&VersionRef>,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<Version>, Refusal> {
    let Some(serving) = champion(versions) else { return Err(Refusal::NoChampion(wanted.model.clone())) };
    if serving.reference != *wanted {
        let champion = Some(serving.reference.clone());
        return Err(Refusal::NotChampion { version: wanted.clone(), champion });
    }
    let mut changes = vec![changed(serving, VersionState::RolledBack, reason, now)];
    let before: Vec<Version> = versions.iter().filter(|v| v.reference != *wanted).cloned().collect();
    let next = match to {
        Some(to) if to == wanted => {
            return Err(Refusal::Already { version: to.clone(), state: VersionState::Promoted });
        }
        Some(to) => Some(found(versions, to)?),
        None => champion(&before),
    };
    if let Some(next) = next {
        if next.state == VersionState::Archived {
            return Err(Refusal::Archived(next.reference.clone()));
        }
        let reason = format!("{}{reason}", mark(wanted));
        changes.push(changed(next, VersionState::Promoted, &reason, now));
    }
    Ok(changes)
}

/// What the reason of a promotion begins with that is the second half of a rollback.
fn mark(withdrawn: &VersionRef) -> String {
    format!("{withdrawn} was rolled back: ")
}

/// Whether the row at `at` is the second half of a rollback: its row follows that of the version withdrawn, in the same commit,
/// and says so. A promotion that only came next after a rollback to the base is not.
#[must_use]
pub fn ends_rollback(versions: &[Version], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| versions.get(before));
    let withdrawn = before.filter(|v| v.state == VersionState::RolledBack);
    withdrawn
        .zip(versions.get(at))
        .is_some_and(|(from, to)| to.state == VersionState::Promoted && to.reason.starts_with(&mark(&from.reference)))
}

/// Puts a version away.
///
/// # Errors
/// [`Refusal`] for the champion, and for a version that is unknown or archived already.
pub fn archive(
    versions: &[Version],
    wanted: &VersionRef,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<Version>, Refusal> {
    let version = found(versions, wanted)?;
    if champion(versions).is_some_and(|v| v.reference == *wanted) {
        return Err(Refusal::Champion(wanted.clone()));
    }
    if version.state == VersionState::Archived {
        return Err(Refusal::Already { version: wanted.clone(), state: VersionState::Archived });
    }
    Ok(vec![changed(version, VersionState::Archived, reason, now)])
}

/// The versions that a retention of `keep` puts away: all but the newest `keep` by number, the champion, and the one that a
/// rollback would return to.
#[must_use]
pub fn beyond(versions: &[Version], keep: usize) -> Vec<VersionRef> {
    let newest = newest(versions);
    let serving = champion(versions).map(|v| v.reference.clone());
    let others: Vec<Version> = versions.iter().filter(|v| Some(&v.reference) != serving.as_ref()).cloned().collect();
    let fallback = champion(&others).map(|v| v.reference.clone());
    let kept = |v: &VersionRef| Some(v) == serving.as_ref() || Some(v) == fallback.as_ref();
    let old = newest.iter().rev().skip(keep);
    old.filter(|(reference, v)| v.state != VersionState::Archived && !kept(reference))
        .map(|(r, _)| (*r).clone())
        .collect()
}
