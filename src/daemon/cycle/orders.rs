//! What people tell cycles: cancel, try again; and what follows from a try that failed.

use super::control::Running;
use super::standing::Standing;
use super::{host, run_fence};
use crate::domain::{CycleEvent, CycleId, CycleState, Timestamp, Trigger, VersionRef};
use crate::lake::{Fence, Lake};
use crate::runtime::now;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a running cycle may take to write that it was cancelled, before it is ended without it.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a cycle stands.
///
/// # Errors
/// Where there is no such cycle, or the table cannot be read.
pub async fn standing(lake: &Lake, cycle: &CycleId) -> Result<Standing> {
    let events = lake.events_of_cycle(cycle).await?;
    Standing::of(&events).with_context(|| format!("there is no cycle `{cycle}`; `pelton cycle list` lists them"))
}

/// Ends a cycle: the process that runs it stops within seconds and says so; where none does, it is written here. A process that
/// comes back later finds that the cycle was taken over. One that registers its version already comes to its own end, which is
/// waited for and given.
///
/// # Errors
/// Where the cycle has ended already, where it has registered a version and nobody runs it, or the table cannot be written.
pub async fn cancel(lake: &Lake, cycle: &CycleId, reason: &str) -> Result<Standing> {
    let found = standing(lake, cycle).await?;
    if found.state.is_end() {
        bail!("cycle {cycle} has ended already: {}", found.state);
    }
    let by = json!({"reason": reason, "host": host()});
    append(lake, &found, CycleState::Cancelling, found.attempt, &by, &[]).await?;
    let asked = Instant::now();
    let mut releases = false;
    while (releases || asked.elapsed() < PATIENCE) && Running::of(lake, cycle).await?.is_some() {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = standing(lake, cycle).await?;
        if now.state.is_end() {
            return Ok(now);
        }
        releases |= [CycleState::Register, CycleState::Publish].contains(&now.state);
    }
    let fence = lake.raise_fence(&run_fence(cycle)).await?;
    // It may have ended in the meantime, cancelled or done.
    let last = standing(lake, cycle).await?;
    if !last.state.is_end() {
        if let Some(version) = registered(lake, &last).await? {
            bail!(
                "cycle {cycle} has registered {version} already and cannot be cancelled; `pelton cycle resume {cycle}` ends it, \
                 `pelton model rollback` withdraws a champion"
            );
        }
        append(lake, &last, CycleState::Cancelled, last.attempt, &by, &[fence]).await?;
    }
    standing(lake, cycle).await
}

/// The version that a cycle has registered: from then on it ends in nothing else.
///
/// # Errors
/// Where the registry cannot be read.
pub async fn registered(lake: &Lake, standing: &Standing) -> Result<Option<VersionRef>> {
    let versions = lake.versions(&standing.model).await?;
    Ok(versions.into_iter().find(|v| v.cycle == standing.cycle).map(|v| v.reference))
}

/// Opens a parked or cancelled cycle again, with all its retries; what it has computed is kept.
///
/// # Errors
/// Where the cycle has not ended, or has ended for good.
pub async fn reopen(lake: &Lake, cycle: &CycleId, trigger: Trigger) -> Result<Standing> {
    let found = standing(lake, cycle).await?;
    match found.state {
        CycleState::Parked | CycleState::Cancelled => {}
        CycleState::Done | CycleState::Skipped => bail!("cycle {cycle} is {} and cannot be tried again", found.state),
        _ => bail!("cycle {cycle} has not ended ({}); `pelton cycle resume {cycle}` runs it on", found.state),
    }
    let detail = json!({"trigger": trigger.as_str(), "host": host(), "pid": std::process::id(), "again": true});
    append(lake, &found, CycleState::Requested, found.attempt + 1, &detail, &[]).await?;
    standing(lake, cycle).await
}

/// Parks a cycle that has failed more often than it may; gives whether it did.
///
/// # Errors
/// Where the table cannot be read or written, or another process took over.
pub async fn park_if_spent(lake: &Lake, cycle: &CycleId, retries_max: u32, fences: &[Fence]) -> Result<bool> {
    let found = standing(lake, cycle).await?;
    if found.state != CycleState::Failed || found.failures <= retries_max {
        return Ok(false);
    }
    let detail = json!({"error": found.error, "tries": found.failures,
        "next": format!("mend what the error says, then `pelton cycle retry {cycle}`; its prompts are fresh still")});
    append(lake, &found, CycleState::Parked, found.attempt, &detail, fences).await?;
    Ok(true)
}

/// Writes that a try ended without a word of its own; nothing where that try, or a later one, has said how it ended.
///
/// # Errors
/// As [`park_if_spent`].
pub async fn fail(lake: &Lake, cycle: &CycleId, attempt: u32, error: &str, fences: &[Fence]) -> Result<()> {
    let found = standing(lake, cycle).await?;
    // The newest word may be that of the try before: this one may have died before its first.
    if found.state.is_end() || (found.state == CycleState::Failed && found.attempt >= attempt) {
        return Ok(());
    }
    append(lake, &found, CycleState::Failed, attempt.max(found.attempt), &json!({ "error": error }), fences).await
}

async fn append(
    lake: &Lake,
    of: &Standing,
    state: CycleState,
    attempt: u32,
    detail: &Value,
    fences: &[Fence],
) -> Result<()> {
    // Behind what is there, also where the clock has gone back.
    let time = now().max(Timestamp::from_micros(of.changed.micros() + 1));
    let (cycle, model, detail) = (of.cycle.clone(), of.model.clone(), detail.to_string());
    let event = CycleEvent { cycle, model, state, time, attempt, until: None, version: of.version, detail };
    Ok(lake.append_cycle_fenced(&event, fences).await?)
}
