//! The figures, for people and for programs.

use anyhow::Result;
use serde::Serialize;
use std::fs;
use std::path::Path;

#[derive(Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    peer: Option<String>,
    ratio: Option<f64>,
}

/// Collects figures and writes them.
#[derive(Serialize)]
pub struct Report {
    machine: String,
    figures: Vec<Figure>,
}

impl Report {
    pub fn new() -> Self {
        let report = Self { machine: machine(), figures: Vec::new() };
        report.say(&report.machine);
        report
    }

    pub fn say(&self, line: &str) {
        println!("{line}");
    }

    pub fn figure(&mut self, what: &str, value: f64, unit: &'static str) {
        println!("{what:<58} {value:>12.2} {unit}");
        self.figures.push(Figure { what: what.to_owned(), value, unit, peer: None, ratio: None });
    }

    /// A figure beside one of a peer or a limit that was measured in the same run.
    pub fn beside(&mut self, what: &str, value: f64, unit: &'static str, peer: &str, theirs: f64) {
        let ratio = value / theirs;
        println!("{what:<58} {value:>12.2} {unit} ({ratio:.3} of {peer}, {theirs:.2})");
        let peer = Some(format!("{peer}: {theirs:.2} {unit}"));
        self.figures.push(Figure { what: what.to_owned(), value, unit, peer, ratio: Some(ratio) });
    }

    /// Writes them to `target/bench/NAME.json`.
    pub fn write(&self, name: &str) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(self)?)?;
        Ok(())
    }
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_matches([' ', '\t', ':']);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: f64 = memory.split_whitespace().nth(1).and_then(|k| k.parse().ok()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{model}, {cores} cores, {:.0} GiB", kilobytes / 1048576.0)
}
