//! (e) From produce to queryable: messages at a fixed rate, the daemon with the latency setting.
//!
//! A row can be queried when the commit that adds its file is in the log. That time is the file system's change time of the
//! log entry, to the microsecond; the time of produce is the timestamp on the message. Each row's latency is the difference,
//! read back from the table itself after the run.

use super::Options;
use super::broker::{Broker, send};
use super::corpus::Corpus;
use super::cpu;
use super::daemon::Daemon;
use super::report::Report;
use anyhow::{Context as _, Result};
use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rdkafka::producer::{BaseRecord, Producer as _};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// The setting for rows that can be queried soon.
const LATENCY_SETTING: &str = "batch_age_ms_max = 250";
/// Rows of the first seconds wait for the daemon to join its group; they are no steady state.
const WARM_UP: Duration = Duration::from_secs(3);

pub fn measure(broker: &Broker, corpus: &Corpus, options: &Options, report: &mut Report) -> Result<()> {
    let topic = broker.topic("latency-bench")?;
    let producer = broker.producer("none")?;
    // Made beforehand, so that the producer's share of the machine is small.
    let mut messages = corpus.messages(3);
    let made: Vec<Vec<u8>> = (0..4096).map(|_| messages.message()).collect::<Result<_>>()?;
    let mut daemon = Daemon::start(broker, &topic, &format!("{LATENCY_SETTING};{}", options.ingest))?;
    let began = Instant::now();
    let total = options.rate * (options.seconds + WARM_UP.as_secs());
    for number in 0..total {
        let due = Duration::from_secs_f64(number as f64 / options.rate as f64);
        if let Some(early) = due.checked_sub(began.elapsed()).filter(|early| *early > Duration::from_millis(2)) {
            producer.poll(Duration::ZERO);
            std::thread::sleep(early);
        }
        let payload = &made[number as usize % made.len()];
        send(&producer, BaseRecord::to(&topic).partition((number % 6) as i32).payload(payload))?;
    }
    producer.flush(Duration::from_secs(60))?;
    let took = began.elapsed().as_secs_f64();
    daemon.until_rows(total)?;
    let cpu = cpu::process(daemon.id())?.as_secs_f64();
    let table = daemon.table();
    let folder = daemon.stop()?;
    let mut latencies = latencies(&table)?;
    drop(folder);
    broker.drop_topic(&topic)?;
    latencies.sort_by(f64::total_cmp);
    anyhow::ensure!(!latencies.is_empty(), "no row came after the warm-up");
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    report.figure("produce to queryable: rate", total as f64 / took, "rows/s");
    report.figure("produce to queryable: p50", at(0.5), "ms");
    report.figure("produce to queryable: p99", at(0.99), "ms");
    report.figure("produce to queryable: max", at(1.0), "ms");
    report.figure("produce to queryable: CPU of a core", cpu / took, "");
    Ok(())
}

/// The latency of each row after the warm-up, in milliseconds.
fn latencies(table: &Path) -> Result<Vec<f64>> {
    let (mut found, mut first) = (Vec::new(), None);
    let mut entries: Vec<_> = fs::read_dir(table.join("_delta_log"))?.collect::<Result<_, _>>()?;
    entries.retain(|e| e.path().extension().is_some_and(|x| x == "json"));
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let status = entry.metadata()?;
        let visible = status.ctime() as f64 * 1e3 + status.ctime_nsec() as f64 / 1e6;
        for line in fs::read_to_string(entry.path())?.lines() {
            let action: Value = serde_json::from_str(line)?;
            let Some(path) = action["add"]["path"].as_str() else { continue };
            for produced in times(&table.join(path.replace("%3D", "=")))? {
                let first = *first.get_or_insert(produced);
                if produced - first > WARM_UP.as_secs_f64() * 1e3 {
                    found.push(visible - produced);
                }
            }
        }
    }
    Ok(found)
}

/// `kafka_time` of the rows of a file, in milliseconds.
fn times(path: &Path) -> Result<Vec<f64>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let only = ProjectionMask::columns(builder.parquet_schema(), ["kafka_time"]);
    let mut times = Vec::new();
    for batch in builder.with_projection(only).build()? {
        let batch = batch?;
        let column = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        times.extend(column.iter().flatten().map(|micros| micros as f64 / 1e3));
    }
    Ok(times)
}
