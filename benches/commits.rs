//! A day of commits: does a table stay fast when it is committed to every second, for 24 hours?
//!
//! `cargo bench --bench commits` makes 86,400 commits of a few rows, one for each simulated second, as fast as the machine
//! can, with the daemon's maintenance at its default period beside them: a round every 30 simulated seconds, a thorough one
//! every 10 minutes. It reports what a commit costs after the first thousand, in the middle and at the end, in time and in
//! CPU time of the process, without maintenance and with it, and how many files the table has. On a machine that is shared
//! the CPU time is the figure to trust. Rows are small on purpose: what is measured is the cost of a commit, not of encoding.
//!
//! `PELTON_BENCH_COMMITS=N` makes N commits, a thousand at least; `PELTON_BENCH_FSYNC=1` flushes each to the disk, as a daemon does by default.
//! The figures go to `target/bench/commits.json`.

#[path = "ingest/cpu.rs"]
#[expect(dead_code, reason = "its threads are not looked at one by one")]
mod cpu;
#[path = "engine/report.rs"]
mod report;

use pelton::codec::{self, InferenceLog};
use pelton::config::{self, Maintenance};
use pelton::domain::{Origin, Row, RowKind, Timestamp};
use pelton::lake::{InferenceLogBuilder, Lake, Part, PartitionKey, Round, TableName};
use std::time::{Duration, Instant};

const LOGS: TableName = TableName::InferenceLog;
const REQUEST: &str = r#"{"model":"support","messages":[{"role":"user","content":"What is order 7 worth?"}]}"#;
const RESPONSE: &str = r#"{"choices":[{"message":{"content":"It is worth 7."},"finish_reason":"stop"}]}"#;
const ROWS_A_COMMIT: i64 = 5;
/// Maintenance's default period, in commits, and every so many rounds a thorough one.
const COMMITS_A_ROUND: usize = 30;
const ROUNDS_A_THOROUGH_ONE: usize = 20;

fn environment(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

fn part(start: i64, day: Timestamp, second: usize) -> anyhow::Result<Part> {
    let mut rows = InferenceLogBuilder::new();
    let time = Timestamp::from_micros(day.micros() + i64::try_from(second).unwrap_or(0) * 1_000_000);
    for offset in start..start + ROWS_A_COMMIT {
        let id = format!("request-{offset}");
        let log = InferenceLog { status_code: Some(200), ..InferenceLog::new(&id, time, REQUEST, Some(RESPONSE)) };
        let bytes = log.to_bytes()?;
        let Ok(Row::Inference(row)) = codec::decode(RowKind::Inference, Some(&bytes), 1 << 20) else {
            anyhow::bail!("our own log is no log");
        };
        let (topic, topic_id) = ("logs", "0");
        let (partition, record, ingest_time, replay_time) = (0, 0, time, None);
        let origin = Origin { topic, topic_id, partition, offset, record, time: None, ingest_time, replay_time };
        rows.append(&row, &origin);
    }
    Ok(Part { key: key(), start, end: start + ROWS_A_COMMIT, rows: vec![rows.finish()], dead_letters: Vec::new() })
}

fn key() -> PartitionKey {
    PartitionKey { topic: "logs".to_owned(), generation: "0".to_owned(), partition: 0 }
}

/// What commits cost, one after the other.
struct Commits {
    took: Vec<Duration>,
    /// CPU time of the process at every thousandth, that of maintenance left out.
    cpu: Vec<Duration>,
}

impl Commits {
    /// Median and 99th percentile of a thousand, in milliseconds.
    fn percentiles(&self, thousand: usize) -> (f64, f64) {
        let mut sorted = self.took[thousand * 1_000..][..1_000].to_vec();
        sorted.sort_unstable();
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        (at(0.5), at(0.99))
    }

    /// Milliseconds of CPU time each, over five thousand.
    fn cpu_ms(&self, thousand: usize) -> f64 {
        let from = thousand.saturating_sub(4);
        (self.cpu[thousand + 1] - self.cpu[from]).as_secs_f64() * 1e3 / ((thousand + 1 - from) * 1_000) as f64
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let count = environment("PELTON_BENCH_COMMITS").unwrap_or(86_400).max(1_000);
    let fsync = environment("PELTON_BENCH_FSYNC") == Some(1);
    let folder = tempfile::tempdir()?;
    let url = folder.path().join("lake").display().to_string();
    let lake = Lake::open(&config::Lake { url, fsync, ..config::Lake::default() }).await?;
    let mut committer = lake.committer("bench", "cluster").await?;
    committer.pin(LOGS, &[(key(), 0)]).await?;
    let settings = Maintenance::default();
    let day = Timestamp::from_micros(pelton::runtime::now().micros().div_euclid(86_400_000_000) * 86_400_000_000);
    let process = std::process::id();
    let mut commits = Commits { took: Vec::with_capacity(count), cpu: vec![cpu::process(process)?] };
    let (mut maintaining, mut maintaining_cpu) = (Duration::ZERO, Duration::ZERO);
    let (mut files_max, mut files) = (0, 0);
    let began = Instant::now();
    for i in 0..count {
        let part = part(i64::try_from(i)? * ROWS_A_COMMIT, day, i)?;
        let start = Instant::now();
        committer.commit(LOGS, &[part]).await?;
        commits.took.push(start.elapsed());
        if i % COMMITS_A_ROUND == COMMITS_A_ROUND - 1 {
            let (start, start_cpu) = (Instant::now(), cpu::process(process)?);
            let now = Timestamp::from_micros(day.micros() + i64::try_from(i)? * 1_000_000);
            let thorough = (i / COMMITS_A_ROUND).is_multiple_of(ROUNDS_A_THOROUGH_ONE);
            let done = lake.maintain(&settings, &[LOGS], Round { now, thorough, dry_run: false }).await?;
            maintaining += start.elapsed();
            maintaining_cpu += cpu::process(process)? - start_cpu;
            (files_max, files) = (files_max.max(done[0].files_before), done[0].files_after);
        }
        if i % 1_000 == 999 {
            commits.cpu.push(cpu::process(process)? - maintaining_cpu);
        }
        if i % 5_000 == 4_999 {
            let ((p50, p99), cpu) = (commits.percentiles(i / 1_000), commits.cpu_ms(i / 1_000));
            eprintln!(
                "{:>6} commits, {:>4.0} s: {p50:.1} ms p50, {p99:.1} ms p99, {cpu:.2} ms of CPU, {files} files",
                i + 1,
                began.elapsed().as_secs_f64()
            );
        }
    }
    let audit = lake.audit().await?;
    anyhow::ensure!(
        audit.is_clean() && audit.rows() == count as u64 * ROWS_A_COMMIT as u64,
        "rows are missing: {audit:?}"
    );
    let mut report = report::Report::new();
    report.figure("commits", count as f64, "commits");
    let thousands = count / 1_000;
    let (first, middle, last) = (4.min(thousands - 1), thousands / 2, thousands - 1);
    let (begin, end) = (commits.percentiles(first), commits.percentiles(last));
    let cpu = commits.cpu_ms(first);
    report.figure("median, 5th thousand", begin.0, "ms");
    report.figure("99th percentile, 5th thousand", begin.1, "ms");
    report.figure("CPU time, first 5,000", cpu, "ms");
    report.beside("median, in the middle", commits.percentiles(middle).0, "ms", "first 5,000", begin.0);
    report.beside("CPU time, in the middle", commits.cpu_ms(middle), "ms", "first 5,000", cpu);
    report.beside("median, at the end", end.0, "ms", "first 5,000", begin.0);
    report.beside("99th percentile, at the end", end.1, "ms", "first 5,000", begin.1);
    report.beside("CPU time, at the end", commits.cpu_ms(last), "ms", "first 5,000", cpu);
    report.figure("CPU time of maintenance, a commit", maintaining_cpu.as_secs_f64() * 1e3 / count as f64, "ms");
    report.figure("maintenance", maintaining.as_secs_f64(), "s");
    report.figure("all", began.elapsed().as_secs_f64(), "s");
    report.figure("live files, at most", files_max as f64, "files");
    report.figure("live files, at the end", files as f64, "files");
    let log = std::fs::read_dir(folder.path().join("lake/tables/inference_log/_delta_log"))?.count();
    report.figure("entries of the log, at the end", log as f64, "files");
    report.figure("peak resident", cpu::peak_rss_megabytes(process)?, "MB");
    report.write("commits")
}
