//! What the operating system says of this process, under the names that all Prometheus clients use.

use std::fmt::{Display, Write as _};

/// Clock ticks a second in `/proc`: `sysconf(_SC_CLK_TCK)`, which is 100 on every Linux that Rust runs on.
const TICKS_A_SECOND: f64 = 100.0;

/// Writes the metrics; those that the system does not tell are left out.
pub(super) fn render(out: &mut String) {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("pelton_build_info{{version=\"{version}\"}}");
    write(out, "pelton_build_info", &name, "gauge", "The version that runs.", &1);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may hold anything; what follows it does not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
    if let (Some(user), Some(system)) = (number(11), number(12)) {
        let seconds = (user + system) as f64 / TICKS_A_SECOND;
        plain(out, "process_cpu_seconds_total", "counter", "User and system CPU time spent, in seconds.", &seconds);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    if let Some(kilobytes) = resident.and_then(|r| r.trim().trim_end_matches("kB").trim().parse::<u64>().ok()) {
        let bytes = kilobytes * 1024;
        plain(out, "process_resident_memory_bytes", "gauge", "Resident memory in bytes.", &bytes);
    }
    if let (Some(ticks), Some(boot)) = (number(19), boot_seconds()) {
        let start = boot + ticks as f64 / TICKS_A_SECOND;
        let help = "Start of the process since the Unix epoch, in seconds.";
        plain(out, "process_start_time_seconds", "gauge", help, &start);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        plain(out, "process_open_fds", "gauge", "Open file descriptors.", &open.count());
    }
}

fn boot_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn plain(out: &mut String, name: &str, kind: &str, help: &str, value: &dyn Display) {
    write(out, name, name, kind, help, value);
}

fn write(out: &mut String, name: &str, series: &str, kind: &str, help: &str, value: &dyn Display) {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{series} {value}").expect("a String takes any text");
}
