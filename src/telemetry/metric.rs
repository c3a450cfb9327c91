//! Counters and gauges, rendered as Prometheus text (exposition format 0.0.4).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug)]
pub struct Counter {
    name: &'static str,
    help: &'static str,
    value: AtomicU64,
}

impl Counter {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, value: AtomicU64::new(0) }
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

/// A number that goes up and down.
#[derive(Debug)]
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    value: AtomicI64,
}

impl Gauge {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, value: AtomicI64::new(0) }
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

macro_rules! metrics {
    (counters { $($counter:ident $cname:literal $chelp:literal)* } gauges { $($gauge:ident $gname:literal $ghelp:literal)* }) => {
        $(#[doc = $chelp] pub static $counter: Counter = Counter::new($cname, $chelp);)*
        $(#[doc = $ghelp] pub static $gauge: Gauge = Gauge::new($gname, $ghelp);)*
        const COUNTERS: &[&Counter] = &[$(&$counter),*];
        const GAUGES: &[&Gauge] = &[$(&$gauge),*];
    };
}

metrics! {
    counters {
        ROWS "pelton_ingest_rows_total" "Rows committed to ingested tables."
        DEAD_LETTERS "pelton_ingest_dead_letters_total" "Messages committed to the dead-letter table."
        BYTES "pelton_ingest_bytes_total" "Bytes of messages committed."
        COMMITS "pelton_ingest_commits_total" "Delta commits that moved offsets."
        COMMIT_RETRIES "pelton_ingest_commit_retries_total" "Commits that had to be tried again."
        BATCHES_DROPPED "pelton_ingest_batches_dropped_total" "Batches dropped because their partition had moved; another daemon commits them."
        PAUSES "pelton_ingest_pauses_total" "Times that reading paused because the byte budget was used up."
        REBALANCES "pelton_ingest_rebalances_total" "Assignments and revocations of partitions."
        BROKER_ERRORS "pelton_kafka_errors_total" "Errors that the Kafka client reported."
        GAPS "pelton_ingest_gaps_total" "Partitions stopped because the broker no longer has what the tables need next."
        CYCLES "pelton_cycles_total" "Training cycles that ended."
        CYCLES_FAILED "pelton_cycles_failed_total" "Training cycles that ended in an error."
        VERSIONS_PROMOTED "pelton_versions_promoted_total" "Model versions that the gate promoted."
        EVENTS_SENT "pelton_events_sent_total" "Model-version events acknowledged by the broker."
    }
    gauges {
        BUFFER_BYTES "pelton_ingest_buffer_bytes" "Bytes of messages in memory, not yet committed."
        PARTITIONS "pelton_ingest_partitions" "Partitions that this daemon owns."
        COMMIT_MS "pelton_ingest_commit_ms" "Milliseconds that the last commit took."
    }
}

/// All metrics as Prometheus text.
#[must_use]
pub fn render() -> String {
    let mut out = String::new();
    let mut write = |name: &str, help: &str, kind: &str, value: &dyn std::fmt::Display| {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}").expect("a String takes any text");
    };
    for c in COUNTERS {
        write(c.name, c.help, "counter", &c.get());
    }
    for g in GAUGES {
        write(g.name, g.help, "gauge", &g.get());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_render_as_prometheus_text() {
        CYCLES.add(2);
        let text = render();
        assert!(text.contains("# TYPE pelton_cycles_total counter\npelton_cycles_total "), "{text}");
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            assert_eq!(line.split(' ').count(), 2, "{line}");
        }
    }
}
