//! Long fault runs: `scripts/soak.sh MODE` sets a broker up and calls this with the mode's name.
//!
//! Each mode sends numbered logs and garbage while it breaks something, lets one daemon catch up, and then counts: every log
//! must be in the tables once, and `pelton audit` must be clean. The outcome is one line of JSON (appended to `--json FILE`)
//! and one row of Markdown; a run that lost or doubled anything ends with status 1.
#![allow(clippy::unwrap_used, missing_docs, dead_code, reason = "a run that cannot go on should panic and say where")]

#[path = "../it/support/kafka.rs"]
mod kafka;
#[path = "../it/support/lake.rs"]
mod lake;
mod modes;
mod rig;
mod wheel;

use rig::Outcome;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|at| arguments.get(at + 1)).cloned();
    let Some(mode) = arguments.first().filter(|a| !a.starts_with('-')) else {
        eprintln!("soak: name a mode: {}", modes::ALL.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    };
    let times = after("--times").map(|n| n.parse::<u32>().expect("--times N is a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if mode == "wheel" {
        let minutes = times.unwrap_or(120);
        let (figures, held) = runtime.block_on(wheel::run(minutes.into()));
        println!("| {figures} |");
        write_line(&figures, after("--json"));
        return if held { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let began = Instant::now();
    let outcome = runtime.block_on(modes::run(mode, times));
    let Some(outcome) = outcome else {
        eprintln!("soak: `{mode}` is no mode; there are {}", modes::ALL.map(|(name, _)| name).join(", "));
        return ExitCode::from(2);
    };
    report(mode, &outcome, began.elapsed().as_secs(), after("--json"));
    if outcome.is_exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(mode: &str, outcome: &Outcome, seconds: u64, file: Option<String>) {
    let Outcome { faults, sent, rows, dead_letters, lost, duplicated, given_up, clean, .. } = outcome;
    let audit = if *clean { "clean" } else { "NOT CLEAN" };
    println!(
        "| {mode} | {faults} | {sent} | {rows} | {dead_letters} | {lost} | {duplicated} | {given_up} | {audit} | {seconds} |"
    );
    let line = serde_json::json!({
        "mode": mode, "faults": faults, "messages": sent, "rows": rows, "dead_letters": dead_letters, "lost": lost,
        "duplicated": duplicated, "given_up": given_up, "audit_clean": clean, "seconds": seconds,
        "time": pelton::runtime::now().to_string(),
    });
    write_line(&line, file);
}

fn write_line(line: &serde_json::Value, file: Option<String>) {
    if let Some(file) = file {
        let mut out = std::fs::File::options().create(true).append(true).open(file).unwrap();
        writeln!(out, "{line}").unwrap();
    }
}
