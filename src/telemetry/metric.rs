//! Counters, gauges and histograms, rendered as Prometheus text (exposition format 0.0.4).
//!
//! Names follow Prometheus' conventions: `_total` for counters, base units (seconds, bytes) last. A metric with labels has one
//! series for each combination that was seen; labels are bounded (tables, codes, partitions that are owned now).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug)]
pub struct Counter {
    about: About,
    value: AtomicU64,
}

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge {
    about: About,
    value: AtomicI64,
}

/// Counters of one name, told apart by labels.
#[derive(Debug)]
pub struct Counters {
    about: About,
    labels: &'static [&'static str],
    series: Mutex<BTreeMap<Vec<String>, u64>>,
}

/// Gauges of one name, told apart by labels.
#[derive(Debug)]
pub struct Gauges {
    about: About,
    labels: &'static [&'static str],
    series: Mutex<BTreeMap<Vec<String>, i64>>,
}

/// How long something took: how often within each bound, and all of it together.
#[derive(Debug)]
pub struct Histogram {
    about: About,
    labels: &'static [&'static str],
    series: Mutex<BTreeMap<Vec<String>, Durations>>,
}

/// Upper bounds in seconds. A commit to a local disk takes some 10 ms, to S3 some 100 ms; above a minute something is broken.
const BOUNDS_SECONDS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

#[derive(Debug, Clone, Copy, Default)]
struct Durations {
    /// Observations within each bound, those within the lower ones not among them.
    within: [u64; BOUNDS_SECONDS.len()],
    count: u64,
    seconds: f64,
}

#[derive(Debug, Clone, Copy)]
struct About {
    name: &'static str,
    help: &'static str,
}

/// Writes the lines of one metric.
trait Render: Sync {
    fn render(&self, out: &mut String);
}

impl Counter {
    const fn new(name: &'static str, _: &'static [&'static str], help: &'static str) -> Self {
        Self { about: About { name, help }, value: AtomicU64::new(0) }
    }

    /// Adds.
    pub fn add(&self, n: u64) {
        self.value.fetch_add(n, Relaxed);
    }

    /// The count since the process began.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }
}

impl Gauge {
    const fn new(name: &'static str, _: &'static [&'static str], help: &'static str) -> Self {
        Self { about: About { name, help }, value: AtomicI64::new(0) }
    }

    /// Sets.
    pub fn set(&self, n: i64) {
        self.value.store(n, Relaxed);
    }

    /// The last value that was set.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.value.load(Relaxed)
    }
}

impl Counters {
    const fn new(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { about: About { name, help }, labels, series: Mutex::new(BTreeMap::new()) }
    }

    /// Adds to the series of these values of the labels.
    pub fn add(&self, values: &[&str], n: u64) {
        debug_assert_eq!(values.len(), self.labels.len());
        *held(&self.series).entry(owned(values)).or_default() += n;
    }

    /// The count of a series since the process began.
    #[must_use]
    pub fn get(&self, values: &[&str]) -> u64 {
        held(&self.series).get(&owned(values)).copied().unwrap_or(0)
    }
}

impl Gauges {
    const fn new(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { about: About { name, help }, labels, series: Mutex::new(BTreeMap::new()) }
    }

    /// Sets the series of these values of the labels.
    pub fn set(&self, values: &[&str], n: i64) {
        debug_assert_eq!(values.len(), self.labels.len());
        held(&self.series).insert(owned(values), n);
    }

    /// Sets all series; those that are not named are gone.
    pub fn replace(&self, all: impl IntoIterator<Item = (Vec<String>, i64)>) {
        *held(&self.series) = all.into_iter().collect();
    }

    /// The last value of a series.
    #[must_use]
    pub fn get(&self, values: &[&str]) -> Option<i64> {
        held(&self.series).get(&owned(values)).copied()
    }
}

impl Histogram {
    const fn new(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { about: About { name, help }, labels, series: Mutex::new(BTreeMap::new()) }
    }

    /// Takes one duration in.
    pub fn observe(&self, values: &[&str], took: Duration) {
        debug_assert_eq!(values.len(), self.labels.len());
        let seconds = took.as_secs_f64();
        let mut all = held(&self.series);
        let series = all.entry(owned(values)).or_default();
        if let Some(bound) = BOUNDS_SECONDS.iter().position(|bound| seconds <= *bound) {
            series.within[bound] += 1;
        }
        series.count += 1;
        series.seconds += seconds;
    }
}

/// A panic while a series is held leaves a number at worst one event old.
fn held<T>(series: &Mutex<T>) -> MutexGuard<'_, T> {
    series.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}

impl About {
    fn head(self, kind: &str, out: &mut String) {
        let Self { name, help } = self;
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes any text");
    }

    fn line(self, suffix: &str, labels: &str, value: &dyn Display, out: &mut String) {
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(out, "{}{suffix}{braces} {value}", self.name).expect("a String takes any text");
    }
}

/// `topic="logs",partition="3"`, escaped as the format wants it.
fn pairs(names: &[&str], values: &[String]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pair = |(name, value): (&&str, &String)| format!("{name}=\"{}\"", escaped(value));
    names.iter().zip(values).map(pair).collect::<Vec<_>>().join(",")
}

impl Render for Counter {
    fn render(&self, out: &mut String) {
        self.about.head("counter", out);
        self.about.line("", "", &self.get(), out);
    }
}

impl Render for Gauge {
    fn render(&self, out: &mut String) {
        self.about.head("gauge", out);
        self.about.line("", "", &self.get(), out);
    }
}

impl Render for Counters {
    fn render(&self, out: &mut String) {
        self.about.head("counter", out);
        for (values, n) in held(&self.series).iter() {
            self.about.line("", &pairs(self.labels, values), n, out);
        }
    }
}

impl Render for Gauges {
    fn render(&self, out: &mut String) {
        self.about.head("gauge", out);
        for (values, n) in held(&self.series).iter() {
            self.about.line("", &pairs(self.labels, values), n, out);
        }
    }
}

impl Render for Histogram {
    fn render(&self, out: &mut String) {
        self.about.head("histogram", out);
        for (values, series) in held(&self.series).iter() {
            let labels = pairs(self.labels, values);
            let comma = if labels.is_empty() { "" } else { "," };
            let mut below = 0;
            for (bound, n) in BOUNDS_SECONDS.iter().zip(series.within) {
                below += n;
                self.about.line("_bucket", &format!("{labels}{comma}le=\"{bound}\""), &below, out);
            }
            self.about.line("_bucket", &format!("{labels}{comma}le=\"+Inf\""), &series.count, out);
            self.about.line("_sum", &labels, &series.seconds, out);
            self.about.line("_count", &labels, &series.count, out);
        }
    }
}

macro_rules! metrics {
    ($($metric:ident: $kind:ident $name:literal [$($label:literal)*] $help:literal)*) => {
        $(#[doc = $help] pub static $metric: $kind = $kind::new($name, &[$($label),*], $help);)*
        const ALL: &[&dyn Render] = &[$(&$metric),*];
        /// The names of all metrics that events move, in the order in which they are rendered.
        pub const NAMES: &[&str] = &[$($name),*];
    };
}

metrics! {
    ROWS: Counters "pelton_ingest_rows_total" ["table"] "Rows committed to ingested tables."
    DEAD_LETTERS: Counters "pelton_ingest_dead_letters_total" ["code"] "Messages committed to the dead-letter table, by the kind of fault."
    BYTES: Counter "pelton_ingest_bytes_total" [] "Bytes of messages committed."
    COMMIT_SECONDS: Histogram "pelton_ingest_commit_duration_seconds" ["table"] "Seconds from the hand-over of a batch to its Delta commit, which moves the offsets too."
    COMMIT_RETRIES: Counter "pelton_ingest_commit_retries_total" [] "Commits that had to be tried again."
    BATCHES_DROPPED: Counter "pelton_ingest_batches_dropped_total" [] "Batches dropped because their partition had moved; another daemon commits them, or they are read again."
    PAUSES: Counter "pelton_ingest_pauses_total" [] "Times that reading paused because the byte budget was used up."
    PAUSED: Gauge "pelton_ingest_paused" [] "1 while reading is paused because the byte budget is used up."
    REBALANCES: Counters "pelton_ingest_rebalances_total" ["what"] "Assignments (assigned) and revocations (revoked, lost) of partitions."
    GAPS: Counter "pelton_ingest_gaps_total" [] "Times that a partition stopped because the broker no longer has what the tables need next."
    BUFFER_BYTES: Gauge "pelton_ingest_buffer_bytes" [] "Bytes of messages in memory, not yet committed."
    PARTITIONS: Gauge "pelton_ingest_partitions" [] "Partitions that this daemon owns."
    STOPPED: Gauges "pelton_ingest_partition_stopped" ["topic" "partition"] "1 where a partition is stopped until a gap is accepted, 0 where it is read."
    LAG: Gauges "pelton_ingest_lag_messages" ["topic" "partition"] "Offsets between what the tables need next and the end of a partition that this daemon owns."
    OFFSET: Gauges "pelton_ingest_committed_offset" ["topic" "partition"] "The next offset that the tables need of a partition that this daemon owns."
    TABLE_FILES: Gauges "pelton_table_files" ["table"] "Files of a table's newest version, at the last round of maintenance."
    TABLE_BYTES: Gauges "pelton_table_bytes" ["table"] "Bytes of these files."
    FILES_MERGED: Counters "pelton_maintenance_files_merged_total" ["table"] "Small files that maintenance merged into larger ones."
    BYTES_MERGED: Counters "pelton_maintenance_bytes_merged_total" ["table"] "Bytes of these files: what merging has rewritten."
    ROWS_DROPPED: Counters "pelton_maintenance_rows_dropped_total" ["table"] "Rows that retention dropped."
    FILES_VACUUMED: Counters "pelton_maintenance_files_vacuumed_total" ["table"] "Files deleted because no readable version needs them."
    MAINTENANCE_SECONDS: Histogram "pelton_maintenance_duration_seconds" ["round"] "Seconds that a round of maintenance took; thorough rounds also remove what is old."
    MAINTENANCE_SUCCESS: Gauge "pelton_maintenance_last_success_timestamp_seconds" [] "When a round of maintenance came through last, in seconds since the epoch; 0 before the first."
    CLOCK_DOUBTED: Gauge "pelton_clock_doubted" [] "1 while nothing is removed by its age, because no message is dated near the clock's present."
    MAINTENANCE_FAILURES: Counter "pelton_maintenance_failures_total" [] "Rounds of maintenance that could not do all of their work."
    OUTAGES: Counters "pelton_outages_total" ["dependency"] "Times that Kafka (kafka, broker for events) or the object store (store) went away."
    UP: Gauges "pelton_dependency_up" ["dependency"] "0 while a dependency is away, 1 once it is back; absent until it first went away."
    CYCLES: Counter "pelton_cycles_total" [] "Training cycles that ended."
    CYCLES_FAILED: Counter "pelton_cycles_failed_total" [] "Training cycles that ended in an error."
    VERSIONS_PROMOTED: Counter "pelton_versions_promoted_total" [] "Model versions that the gate promoted."
    VERSIONS_ROLLED_BACK: Counter "pelton_versions_rolled_back_total" [] "Model versions that a check of real traffic withdrew."
    EVENTS_SENT: Counter "pelton_events_sent_total" [] "Model-version events acknowledged by the broker."
    SIDECAR_REQUESTS: Counters "pelton_sidecar_requests_total" ["status"] "Calls that the sidecar answered or that ended before (499: the client hung up), by status."
    SIDECAR_IN_FLIGHT: Gauge "pelton_sidecar_requests_in_flight" [] "Calls under way through the sidecar."
    SIDECAR_RETRIES: Counter "pelton_sidecar_retries_total" [] "Calls that went to another upstream because the first took none of it."
    UPSTREAM_UP: Gauges "pelton_sidecar_upstream_up" ["upstream"] "1 where an upstream answers its health check, 0 where not."
    UPSTREAM_FAILURES: Counters "pelton_sidecar_upstream_failures_total" ["upstream"] "Calls that an upstream did not answer or broke off."
    LOG_SENT: Counter "pelton_log_sent_total" [] "Logged calls and feedback that Kafka acknowledged."
    LOG_DROPPED: Counters "pelton_log_dropped_total" ["why"] "Logged calls that are lost: queue (memory full), spill (disk queue full), disk (not writable), broker (refused for good), encode."
    SPILL_RECORDS: Gauge "pelton_log_spill_records" [] "Logged calls in the queue on the disk."
    SPILL_BYTES: Gauge "pelton_log_spill_bytes" [] "Bytes of the queue on the disk."
    ADAPTER_FAILURES: Counters "pelton_sidecar_adapter_failures_total" ["upstream"] "Adapters that an upstream did not load or unload; tried again."
    ADAPTER_LOADED: Gauges "pelton_sidecar_adapter_loaded" ["upstream" "version"] "1 where an upstream has a version that it should have, 0 where not yet."
}

/// All metrics as Prometheus text.
#[must_use]
pub fn render() -> String {
    let mut out = String::new();
    for metric in ALL {
        metric.render(&mut out);
    }
    super::process::render(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_histograms_add_up() {
        REBALANCES.add(&["a\"b\\c\nd"], 1);
        for ms in [1, 30, 30, 70_000] {
            COMMIT_SECONDS.observe(&["t"], Duration::from_millis(ms));
        }
        let text = render();
        assert!(text.contains("pelton_ingest_rebalances_total{what=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
        let bucket = |le: &str| {
            let start = format!("pelton_ingest_commit_duration_seconds_bucket{{table=\"t\",le=\"{le}\"}} ");
            text.lines().find_map(|l| l.strip_prefix(&start)).map(str::to_owned)
        };
        let found: Vec<_> = ["0.005", "0.025", "0.05", "60", "+Inf"].map(bucket).into_iter().flatten().collect();
        assert_eq!(found, ["1", "1", "3", "3", "4"], "{text}");
        assert!(text.contains("pelton_ingest_commit_duration_seconds_count{table=\"t\"} 4\n"), "{text}");
    }
}
