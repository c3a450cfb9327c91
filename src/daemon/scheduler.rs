//! The loop that starts cycles as children, one at a time.
//!
//! A cycle runs in a process of its own (`pelton cycle run --id …`), so that a crash of it never takes ingestion down and
//! its memory is free afterwards. Its output goes to this process's log. At a shutdown the child is asked to end; its cycle
//! stays open and the next start goes on with it.

use super::cycle::{self, host};
use super::schedule::{Past, decide};
use crate::config::{Config, Model, Window};
use crate::domain::{CycleEvent, CycleId, CycleState, ModelName, Timestamp, Trigger, WindowName};
use crate::lake::{Lake, TableName};
use crate::runtime::{Shutdown, now};
use crate::window;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How often the schedule is looked at.
const TICK: Duration = Duration::from_secs(2);
/// How long a child may take to end after it was asked to.
const CHILD_GRACE: Duration = Duration::from_secs(35);

/// One model's place in the loop.
struct Watched {
    name: ModelName,
    /// The version of `inference_log` that was counted last: without new rows there are no new prompts.
    counted: Option<i64>,
    enough: bool,
}

/// Runs until the shutdown.
///
/// # Errors
/// None that a later turn could mend: those are logged.
pub async fn run(config: Arc<Config>, lake: Lake, shutdown: Shutdown) -> Result<()> {
    let mut started = now();
    let scheduled = |m: &Model| m.schedule.cron.is_some() || m.schedule.on_fresh_prompts;
    let names = config.models.iter().filter(|(_, m)| scheduled(m)).map(|(name, _)| name.clone());
    let mut models: Vec<Watched> = names.map(|name| Watched { name, counted: None, enough: false }).collect();
    while !models.is_empty() {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = shutdown.cancelled() => break,
        }
        // The clock may have been ahead when the daemon started.
        started = started.min(now());
        for watched in &mut models {
            if let Err(error) = look(&config, &lake, watched, started, &shutdown).await {
                let (model, error) = (watched.name.as_str(), format!("{error:#}"));
                tracing::warn!(model, error, "the schedule could not be followed, trying again");
            }
        }
    }
    Ok(())
}

async fn look(
    config: &Config,
    lake: &Lake,
    watched: &mut Watched,
    started: Timestamp,
    shutdown: &Shutdown,
) -> Result<()> {
    let model = config.models.get(&watched.name).context("the model is gone")?;
    let (window_name, window) = config.window_of(model).context("the window is gone")?;
    let events = lake.cycle_events(Some(&watched.name)).await?;
    let past = Past::of(&events, window, now());
    if let Some(left) = left_behind(&events, &past.open) {
        return supervise(config, lake, &watched.name, &left, shutdown).await;
    }
    if past.may_count(model, now()) {
        count(lake, watched, window_name, window, past.since).await?;
    }
    if let Some(trigger) = decide(&past, model, watched.enough, started, now()) {
        let id = cycle::request(lake, &watched.name, trigger).await?;
        (watched.counted, watched.enough) = (None, false);
        supervise(config, lake, &watched.name, &id, shutdown).await?;
    }
    Ok(())
}

/// Counts the window's fresh prompts, where the table has changed since the last count.
async fn count(lake: &Lake, watched: &mut Watched, name: &WindowName, window: &Window, since: Timestamp) -> Result<()> {
    let table_version = lake.version(TableName::InferenceLog).await?;
    if watched.counted == Some(table_version) {
        return Ok(());
    }
    let request = window::Request { name, window, table_version, since, until: now() };
    let set = window::choose(&request, super::tables(lake, Some(table_version)).await?).await?;
    watched.enough = window::enough(&set, window).is_ok();
    watched.counted = Some(table_version);
    Ok(())
}

/// An open cycle of this machine whose process is gone: it is run on.
fn left_behind(events: &[CycleEvent], open: &[CycleId]) -> Option<CycleId> {
    let dead = |id: &&CycleId| {
        let asked = events.iter().find(|e| e.cycle == **id && e.state == CycleState::Requested);
        let detail: serde_json::Value = asked.and_then(|e| serde_json::from_str(&e.detail).ok()).unwrap_or_default();
        let ours = detail["host"] == json!(host()) && detail["trigger"] != json!(Trigger::Hand.as_str());
        let alive = detail["pid"].as_u64().is_some_and(|pid| {
            pid != u64::from(std::process::id()) && std::path::Path::new(&format!("/proc/{pid}")).exists()
        });
        ours && !alive
    };
    open.iter().find(dead).cloned()
}

/// Starts the child and waits for its end; a child that died without a word is a failed cycle.
async fn supervise(config: &Config, lake: &Lake, model: &ModelName, id: &CycleId, shutdown: &Shutdown) -> Result<()> {
    let mut child = spawn(config, id)?;
    // `wait` would close it, and the child would take that for our end.
    let _alive = child.stdin.take();
    let status = tokio::select! {
        status = child.wait() => status?,
        () = shutdown.cancelled() => {
            end(&mut child).await;
            return Ok(());
        }
    };
    let ended = lake.events_of_cycle(id).await?.iter().any(|e| e.state.is_end());
    if !ended {
        let detail = json!({ "error": death(status) }).to_string();
        let (cycle, model) = (id.clone(), model.clone());
        let event =
            CycleEvent { cycle, model, state: CycleState::Failed, time: now(), until: None, version: None, detail };
        lake.append_cycle(&event).await?;
    }
    Ok(())
}

fn spawn(config: &Config, id: &CycleId) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find our own program")?;
    let mut child = Command::new(program)
        .args(["cycle", "run", "--supervised", "--id", id.as_str(), "--config"])
        .arg(&config.path)
        // Never written to: it closes when this process ends, however it ends, and the child ends with it.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the cycle's process")?;
    let prefix = id.to_string();
    if let Some(out) = child.stdout.take() {
        tokio::spawn(relay(prefix.clone(), out));
    }
    if let Some(err) = child.stderr.take() {
        tokio::spawn(relay(prefix, err));
    }
    Ok(child)
}

/// The child's lines, each under its cycle's name.
async fn relay(cycle: String, pipe: impl tokio::io::AsyncRead + Unpin) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.trim().is_empty() {
            tracing::info!(cycle, "{}", line.trim_end());
        }
    }
}

/// Asks the child to end in order; one that does not is killed, which its cycle survives.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()) {
        terminate(pid);
    }
    if tokio::time::timeout(CHILD_GRACE, child.wait()).await.is_err() {
        drop(child.kill().await);
    }
}

#[expect(unsafe_code, reason = "kill(2) has no safe form in std; the pid is our own child's, not yet waited for")]
fn terminate(pid: i32) {
    // SAFETY: kill takes plain integers and touches no memory of ours.
    unsafe {
        libc::kill(pid, libc::SIGTERM);
    }
}

fn death(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.signal(), status.code()) {
        (Some(9), _) => "the cycle's process was killed (signal 9): most often memory ran out; \
                         lower explore.batch_rows and optimize.batch_tokens_max"
            .to_owned(),
        (Some(signal), _) => format!("the cycle's process died by signal {signal}"),
        (None, code) => format!("the cycle's process ended with status {} and without a word", code.unwrap_or(-1)),
    }
}
