//! CPU time as the kernel counts it, in nanoseconds, of this thread, of this process, and of a child.

use anyhow::{Context as _, Result};
use std::fs;
use std::time::{Duration, Instant};

/// CPU time of the calling thread.
pub fn thread() -> Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().context("schedstat is empty")?.parse()?;
    Ok(Duration::from_nanos(nanos))
}

/// CPU time of all threads of a process that live now.
pub fn process(id: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The command may hold spaces; user and system ticks are the 12th and 13th value after it. They count ended threads too.
    let after = stat.rsplit(')').next().context("stat has no command")?;
    for ticks in after.split_whitespace().skip(11).take(2) {
        total += Duration::from_millis(ticks.parse::<u64>()? * 10);
    }
    Ok(total)
}

/// The largest resident set of a process so far, in megabytes.
pub fn peak_rss_megabytes(id: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM")).context("status has no VmHWM")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).context("VmHWM has no value")?.parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

/// Wall and CPU time of some work on the calling thread.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration, Duration)> {
    let (wall, cpu) = (Instant::now(), thread()?);
    let done = work()?;
    Ok((done, wall.elapsed(), thread()? - cpu))
}
