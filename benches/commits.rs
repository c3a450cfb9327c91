//! A day of commits: does a table stay fast when it is committed to every second, for 24 hours?
//!
//! `cargo bench --bench commits` makes 86,400 commits of a few rows, one for each simulated second, as fast as the machine
//! can, with the daemon's maintenance at its default period beside them: a round every 30 simulated seconds, a thorough one
//! every 10 minutes. It reports what a commit costs at the beginning, in the middle and at the end, and how many files the
//! table has. Rows are small on purpose: what is measured is the cost of a commit, not of encoding.
//!
//! `PELTON_BENCH_COMMITS=N` makes N commits; `PELTON_BENCH_FSYNC=1` flushes each to the disk, as a daemon does by default.
//! The figures go to `target/bench/commits.json`.

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

fn part(start: i64, day: Timestamp, second: usize) -> Result<Part, Box<dyn std::error::Error>> {
    let mut rows = InferenceLogBuilder::new();
    let time = Timestamp::from_micros(day.micros() + i64::try_from(second).unwrap_or(0) * 1_000_000);
    for offset in start..start + ROWS_A_COMMIT {
        let id = format!("request-{offset}");
        let log = InferenceLog { status_code: Some(200), ..InferenceLog::new(&id, time, REQUEST, Some(RESPONSE)) };
        let bytes = log.to_bytes()?;
        let Ok(Row::Inference(row)) = codec::decode(RowKind::Inference, Some(&bytes), 1 << 20) else {
            return Err("our own log is no log".into());
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

/// Median and 99th percentile in milliseconds.
fn percentiles(sample: &[Duration]) -> (f64, f64) {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    (at(0.5), at(0.99))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let commits = environment("PELTON_BENCH_COMMITS").unwrap_or(86_400);
    let fsync = environment("PELTON_BENCH_FSYNC") == Some(1);
    let folder = tempfile::tempdir()?;
    let url = folder.path().join("lake").display().to_string();
    let lake = Lake::open(&config::Lake { url, fsync, ..config::Lake::default() }).await?;
    let mut committer = lake.committer("bench", "cluster").await?;
    committer.pin(LOGS, &[(key(), 0)]).await?;
    let settings = Maintenance::default();
    let day = Timestamp::from_micros(pelton::runtime::now().micros().div_euclid(86_400_000_000) * 86_400_000_000);
    let (mut took, mut maintaining, mut files_max, mut files) = (Vec::with_capacity(commits), Duration::ZERO, 0, 0);
    let began = Instant::now();
    for i in 0..commits {
        let part = part(i64::try_from(i)? * ROWS_A_COMMIT, day, i)?;
        let start = Instant::now();
        committer.commit(LOGS, &[part]).await?;
        took.push(start.elapsed());
        if i % COMMITS_A_ROUND == COMMITS_A_ROUND - 1 {
            let start = Instant::now();
            let now = Timestamp::from_micros(day.micros() + i64::try_from(i)? * 1_000_000);
            let thorough = (i / COMMITS_A_ROUND).is_multiple_of(ROUNDS_A_THOROUGH_ONE);
            let done = lake.maintain(&settings, &[LOGS], Round { now, thorough, dry_run: false }).await?;
            maintaining += start.elapsed();
            (files_max, files) = (files_max.max(done[0].files_before), done[0].files_after);
        }
        if i % 5_000 == 4_999 {
            let (p50, p99) = percentiles(&took[i - 999..=i]);
            eprintln!(
                "{:>6} commits, {:>4.0} s: {p50:.1} ms p50, {p99:.1} ms p99, {files} files",
                i + 1,
                began.elapsed().as_secs_f64()
            );
        }
    }
    let window = (commits / 3).clamp(1, 1_000);
    let middle = commits / 2 - window / 2;
    let (begin, mid, end) = (
        percentiles(&took[..window]),
        percentiles(&took[middle..middle + window]),
        percentiles(&took[commits - window..]),
    );
    let audit = lake.audit().await?;
    let log = std::fs::read_dir(folder.path().join("lake/tables/inference_log/_delta_log"))?.count();
    let figures = serde_json::json!({
        "commits": commits,
        "rows": audit.rows(),
        "audit_clean": audit.is_clean(),
        "fsync": fsync,
        "commit_ms": {
            "begin": {"p50": begin.0, "p99": begin.1},
            "middle": {"p50": mid.0, "p99": mid.1},
            "end": {"p50": end.0, "p99": end.1},
        },
        "live_files_max": files_max,
        "live_files_end": files,
        "log_files_end": log,
        "seconds": began.elapsed().as_secs_f64(),
        "maintenance_seconds": maintaining.as_secs_f64(),
        "peak_rss_mib": pelton::runtime::peak_rss_bytes() / (1 << 20),
    });
    let out = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("commits.json"), serde_json::to_string_pretty(&figures)?)?;
    println!("{figures:#}");
    Ok(())
}
