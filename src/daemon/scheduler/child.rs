//! One cycle in a process of its own: started, watched, its lines kept, its end understood.
//!
//! The child gives way to others (`nice`), is what the kernel ends first when memory runs out, and is ended by us where it takes
//! more than it may. A launcher is a command that runs the cycle elsewhere; it counts as the cycle's process.

use super::super::cycle::logs::LogWriter;
use crate::config::Config;
use crate::domain::{CycleId, ModelName};
use crate::lake::{Fence, Lake};
use crate::runtime::Shutdown;
use anyhow::{Context as _, Result};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a child may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(20);
/// How often its memory is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// A line that is longer counts as several.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// How the process ended.
pub(super) enum End {
    /// By itself, with what it said at last where that was no success.
    Exited {
        /// The status.
        code: i32,
        /// The last lines of its log.
        last: String,
    },
    /// By a signal, or by us: what the cycle's row says.
    Died(String),
    /// It was asked to end, because we end.
    Asked,
}

/// Runs a cycle to the end of its process.
pub(super) async fn run(
    config: &Config,
    lake: &Lake,
    (model, id): (&ModelName, &CycleId),
    scheduler: &Fence,
    shutdown: &Shutdown,
) -> Result<End> {
    let kills = oom_kills();
    let mut child = spawn(config, model, id, scheduler)?;
    // `wait` would close it, and the child would take that for our end.
    let _alive = child.stdin.take();
    let log = LogWriter::start(lake, id);
    let lines = [
        child.stdout.take().map(|pipe| tokio::spawn(relay(id.to_string(), pipe, log.clone()))),
        child.stderr.take().map(|pipe| tokio::spawn(relay(id.to_string(), pipe, log.clone()))),
    ];
    let own = config.cycle.launcher.is_empty();
    let watched = watch_memory(child.id().filter(|_| own), config.cycle.memory_bytes_max);
    let ended = tokio::select! {
        status = child.wait() => Some(Ok(status?)),
        used = watched => Some(Err(used)),
        () = shutdown.cancelled() => None,
    };
    let Some(ended) = ended else {
        end(&mut child).await;
        log.end(lines).await;
        return Ok(End::Asked);
    };
    if ended.is_err() {
        signal_group(&child, libc::SIGKILL);
        child.wait().await?;
    }
    let last = log.end(lines).await;
    Ok(match ended {
        Err(used) => End::Died(too_large(used, config.cycle.memory_bytes_max.unwrap_or_default())),
        Ok(status) => match status.code() {
            Some(code) => End::Exited { code, last },
            None => End::Died(death(status, oom_kills() > kills)),
        },
    })
}

fn spawn(config: &Config, model: &ModelName, id: &CycleId, scheduler: &Fence) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find our own program")?;
    let token = scheduler.token.to_string();
    let mut command = match config.cycle.launcher.split_first() {
        Some((launcher, words)) => {
            let path = config.path.canonicalize().unwrap_or_else(|_| config.path.clone());
            let fill = |word: &String| {
                word.replace("{cycle}", id.as_str())
                    .replace("{config}", &path.to_string_lossy())
                    .replace("{model}", model.as_str())
                    .replace("{token}", &token)
                    .replace("{pelton}", &program.to_string_lossy())
            };
            let mut command = Command::new(fill(launcher));
            command.args(words.iter().map(fill)).stdin(Stdio::null());
            command
        }
        None => {
            let mut command = Command::new(program);
            command.args(["cycle", "run", "--supervised", "--id", id.as_str(), "--token", &token, "--config"]);
            // Never written to: it closes when this process ends, however it ends, and the child ends with it.
            command.arg(&config.path).stdin(Stdio::piped());
            command
        }
    };
    give_way(&mut command, config.cycle.nice);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start the cycle's process {:?}", command.as_std().get_program()))
}

#[expect(
    unsafe_code,
    reason = "between fork and exec only calls that are safe there: setpriority, open, write and close are"
)]
fn give_way(command: &mut Command, nice: u8) {
    let before = move || {
        // SAFETY: plain system calls on plain integers; what they refuse is no reason not to run.
        unsafe {
            libc::setpriority(libc::PRIO_PROCESS, 0, libc::c_int::from(nice));
        }
        // The kernel's choice when memory runs out: the cycle goes on later, ingestion must not end.
        drop(std::fs::write("/proc/self/oom_score_adj", "500"));
        Ok(())
    };
    // SAFETY: the closure makes system calls and takes no lock that another thread of ours may hold.
    unsafe {
        command.pre_exec(before);
    }
}

/// The child's lines, each under its cycle's name, in our log and in the cycle's.
async fn relay(cycle: String, pipe: impl AsyncRead + Unpin, log: LogWriter) {
    let mut pipe = BufReader::new(pipe);
    while let Some(line) = next_line(&mut pipe).await {
        if !line.trim().is_empty() {
            tracing::info!(cycle, "{}", line.trim_end());
            log.line(&line);
        }
    }
}

/// The next line, or so much of it as is taken for one: a launcher's bytes may be anything, and a progress bar never ends its line.
async fn next_line(pipe: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let read = pipe.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).await.ok()?;
    (read > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends when the process has more memory of its own than it may, with the bytes; else never.
async fn watch_memory(pid: Option<u32>, bytes_max: Option<u64>) -> u64 {
    let (Some(pid), Some(bytes_max)) = (pid, bytes_max) else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOK).await;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        };
        let used = (of("RssAnon:").unwrap_or(0) + of("RssShmem:").unwrap_or(0)) << 10;
        if used > bytes_max {
            return used;
        }
    }
}

/// Asks the child to end in order; one that does not is killed, which its cycle survives.
async fn end(child: &mut Child) {
    signal_group(child, libc::SIGTERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        signal_group(child, libc::SIGKILL);
        drop(child.wait().await);
    }
}

#[expect(unsafe_code, reason = "kill(2) has no safe form in std; the group is our own child's, not yet waited for")]
fn signal_group(child: &Child, signal: libc::c_int) {
    if let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()) {
        // SAFETY: kill takes plain integers and touches no memory of ours.
        unsafe {
            libc::kill(-pid, signal);
        }
    }
}

/// Processes that the kernel has ended for want of memory, on the whole machine.
fn oom_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

const LESS_MEMORY: &str = "lower explore.batch_rows, optimize.batch_tokens_max or lora.rank";

fn too_large(used: u64, bytes_max: u64) -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!(
        "the cycle's process was ended: it had {} MiB of memory and may have {} (cycle.memory_bytes_max); \
         {LESS_MEMORY}, or raise the limit",
        mib(used),
        mib(bytes_max)
    )
}

fn death(status: ExitStatus, out_of_memory: bool) -> String {
    match status.signal() {
        Some(libc::SIGKILL) if out_of_memory => {
            format!("the kernel ended the cycle's process (signal 9): memory ran out; {LESS_MEMORY}")
        }
        Some(libc::SIGKILL) => format!(
            "the cycle's process was killed (signal 9); where nobody did so by hand, a memory limit of its container did: \
             {LESS_MEMORY}"
        ),
        Some(signal) => format!("the cycle's process died by signal {signal}"),
        None => "the cycle's process ended without a status".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_any_bytes_and_without_an_end_are_taken() {
        let long = vec![b'x'; 100 << 10];
        let all = [b"a\xffb\n".as_slice(), &long, b"\nlast"].concat();
        let mut pipe = BufReader::new(all.as_slice());
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut pipe).await {
            lines.push(line.trim_end().to_owned());
        }
        let rest = "x".repeat(36 << 10);
        assert_eq!(lines, ["a\u{fffd}b", &"x".repeat(64 << 10), &rest, "last"]);
    }
}
