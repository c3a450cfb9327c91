//! What happens in a daemon, as types: each event knows its log line and its metrics.

use super::metric;
use crate::domain::Timestamp;
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// Something that an operator wants to know of.
#[derive(Debug)]
pub enum Event<'a> {
    /// Rows and the offsets behind them are durable.
    BatchCommitted {
        /// The table.
        table: &'a str,
        /// The table's new version.
        version: i64,
        /// Rows added.
        rows: u64,
        /// Dead letters added before them.
        dead_letters: u64,
        /// Bytes of the messages.
        bytes: u64,
        /// From the hand-over of the batch to its commit.
        duration: Duration,
    },
    /// Dead letters of one kind are durable.
    DeadLetters {
        /// The kind of fault.
        code: &'a str,
        /// How many.
        count: u64,
    },
    /// A commit failed for a passing reason and is tried again.
    CommitRetried {
        /// The table.
        table: &'a str,
        /// The cause.
        error: &'a str,
    },
    /// A batch is of no use here: its partition moved while it was in memory.
    BatchDropped {
        /// The topic.
        topic: &'a str,
        /// The partition.
        partition: i32,
        /// The first offset of it.
        start: i64,
    },
    /// Partitions came or went.
    Rebalanced {
        /// What happened.
        what: &'a str,
        /// The partitions concerned.
        partitions: &'a str,
    },
    /// Reading pauses until memory is free.
    Paused {
        /// Bytes in memory.
        buffer_bytes: u64,
    },
    /// Memory is free again.
    Resumed,
    /// How far the owned partitions are; sampled every few seconds.
    Sampled {
        /// All owned partitions.
        partitions: &'a [Standing],
    },
    /// The broker or the store is away; said once, not at every try.
    Away {
        /// What is away.
        what: &'a str,
        /// How that showed.
        error: &'a str,
    },
    /// It is back.
    Back {
        /// What is back.
        what: &'a str,
    },
    /// A shutdown ended ingestion.
    Drained {
        /// Batches that were not committed in time; their messages are read again at the next start.
        batches_left: usize,
    },
    /// The broker no longer has the message that the tables need next; the partition stops.
    Gap {
        /// The topic.
        topic: &'a str,
        /// The partition.
        partition: i32,
        /// The next offset that the tables need.
        stored: i64,
        /// The oldest offset that the broker has.
        low: i64,
        /// The next offset that the broker will write.
        high: i64,
    },
    /// A round of maintenance looked at a table.
    Maintained {
        /// The table.
        table: &'a str,
        /// Its files now.
        files: usize,
        /// Their bytes.
        bytes: u64,
        /// Small files that were merged.
        files_merged: u64,
        /// Their bytes.
        bytes_merged: u64,
        /// Rows that retention dropped.
        rows_dropped: u64,
        /// Files deleted that no readable version needs.
        files_vacuumed: u64,
        /// What else was done, for the log.
        detail: &'a dyn std::fmt::Debug,
    },
    /// A round of maintenance has come through.
    MaintenanceDone {
        /// Whether it was to remove what is old.
        thorough: bool,
        /// What it took.
        duration: Duration,
        /// When it ended.
        time: Timestamp,
        /// Whether the round before failed.
        recovered: bool,
    },
    /// Nothing is removed by its age, because no message is dated near the clock's present; said once.
    ClockDoubted {
        /// What the clock says.
        now: Timestamp,
        /// The newest message up to then.
        newest: Timestamp,
    },
    /// Messages say the same time as the clock again.
    ClockBelieved {
        /// What both say.
        now: Timestamp,
    },
    /// A round of maintenance could not do all of its work.
    MaintenanceFailed {
        /// The cause.
        error: &'a str,
        /// Whether the round before failed too: that was said then.
        again: bool,
    },
    /// A cycle came to a state.
    CycleStep {
        /// The cycle.
        cycle: &'a str,
        /// The state.
        state: &'a str,
        /// Figures.
        detail: &'a str,
    },
    /// A cycle ended.
    CycleEnded {
        /// The cycle.
        cycle: &'a str,
        /// The end.
        state: &'a str,
        /// The error or the figures.
        detail: &'a str,
    },
    /// The gate promoted a version.
    VersionPromoted {
        /// The version.
        version: &'a str,
        /// The gain in reward.
        gain: f64,
    },
    /// Real traffic withdrew a version.
    VersionRolledBack {
        /// The version.
        version: &'a str,
        /// What it did worse.
        reason: &'a str,
    },
    /// Logged calls are lost.
    LogDropped {
        /// Why.
        why: &'a str,
        /// How many.
        count: u64,
        /// How that showed.
        detail: &'a str,
    },
    /// An inference server answers its health check, or no longer.
    Upstream {
        /// Its address.
        upstream: &'a str,
        /// Whether it answers.
        up: bool,
        /// How that showed.
        detail: &'a str,
    },
    /// An inference server has a version that it should have, verified by its list of models.
    AdapterLoaded {
        /// Its address.
        upstream: &'a str,
        /// The version.
        version: &'a str,
    },
    /// An inference server did not do what it should with an adapter.
    AdapterFailed {
        /// Its address.
        upstream: &'a str,
        /// The version.
        version: &'a str,
        /// What it said.
        error: &'a str,
    },
    /// Traffic of an alias goes to a version from now on.
    VersionServes {
        /// The alias.
        alias: &'a str,
        /// The version or the base.
        version: &'a str,
    },
    /// The broker has an event.
    EventSent {
        /// Its id.
        id: &'a str,
        /// Its key.
        key: &'a str,
    },
}

/// How far one owned partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next offset that the tables need.
    pub committed: i64,
    /// The partition's end, where the broker said it.
    pub end: Option<i64>,
    /// Stopped until a gap is accepted.
    pub stopped: bool,
}

impl Event<'_> {
    /// Logs and counts.
    pub fn emit(&self) {
        self.count();
        self.log();
    }

    fn count(&self) {
        match *self {
            Self::BatchCommitted { table, rows, bytes, duration, .. } => {
                metric::ROWS.add(&[table], rows);
                metric::BYTES.add(bytes);
                metric::COMMIT_SECONDS.observe(&[table], duration);
            }
            Self::DeadLetters { code, count } => metric::DEAD_LETTERS.add(&[code], count),
            Self::CommitRetried { .. } => metric::COMMIT_RETRIES.add(1),
            Self::BatchDropped { .. } => metric::BATCHES_DROPPED.add(1),
            Self::Rebalanced { what, .. } => metric::REBALANCES.add(&[what], 1),
            Self::Paused { .. } => {
                metric::PAUSES.add(1);
                metric::PAUSED.set(1);
            }
            Self::Resumed => metric::PAUSED.set(0),
            Self::Sampled { partitions } => sample(partitions),
            Self::Away { what, .. } => {
                metric::OUTAGES.add(&[what], 1);
                metric::UP.set(&[what], 0);
            }
            Self::Back { what } => metric::UP.set(&[what], 1),
            Self::Gap { .. } => metric::GAPS.add(1),
            Self::Maintained {
                table, files, bytes, files_merged, bytes_merged, rows_dropped, files_vacuumed, ..
            } => {
                metric::TABLE_FILES.set(&[table], i64::try_from(files).unwrap_or(i64::MAX));
                metric::TABLE_BYTES.set(&[table], i64::try_from(bytes).unwrap_or(i64::MAX));
                metric::FILES_MERGED.add(&[table], files_merged);
                metric::BYTES_MERGED.add(&[table], bytes_merged);
                metric::ROWS_DROPPED.add(&[table], rows_dropped);
                metric::FILES_VACUUMED.add(&[table], files_vacuumed);
            }
            Self::MaintenanceDone { thorough, duration, time, .. } => {
                metric::MAINTENANCE_SECONDS.observe(&[if thorough { "thorough" } else { "light" }], duration);
                metric::MAINTENANCE_SUCCESS.set(time.micros() / 1_000_000);
            }
            Self::ClockDoubted { .. } => metric::CLOCK_DOUBTED.set(1),
            Self::ClockBelieved { .. } => metric::CLOCK_DOUBTED.set(0),
            Self::MaintenanceFailed { .. } => metric::MAINTENANCE_FAILURES.add(1),
            Self::CycleEnded { state, .. } => {
                metric::CYCLES.add(1);
                metric::CYCLES_FAILED.add(u64::from(state == "failed"));
            }
            Self::VersionPromoted { .. } => metric::VERSIONS_PROMOTED.add(1),
            Self::VersionRolledBack { .. } => metric::VERSIONS_ROLLED_BACK.add(1),
            Self::EventSent { .. } => metric::EVENTS_SENT.add(1),
            Self::LogDropped { why, count, .. } => metric::LOG_DROPPED.add(&[why], count),
            Self::Upstream { upstream, up, .. } => metric::UPSTREAM_UP.set(&[upstream], i64::from(up)),
            Self::AdapterFailed { upstream, .. } => metric::ADAPTER_FAILURES.add(&[upstream], 1),
            Self::AdapterLoaded { .. } | Self::VersionServes { .. } | Self::CycleStep { .. } | Self::Drained { .. } => {
            }
        }
    }

    fn log(&self) {
        match *self {
            Self::BatchCommitted { table, version, rows, dead_letters, bytes, duration } => {
                let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                debug!(table, version, rows, dead_letters, bytes, duration_ms, "batch committed");
            }
            Self::CommitRetried { table, error } => warn!(table, error, "commit failed, trying again"),
            Self::BatchDropped { topic, partition, start } => {
                info!(topic, partition, start, "batch dropped: its partition moved");
            }
            Self::Rebalanced { what, partitions } => info!(what, partitions, "rebalance"),
            Self::Paused { buffer_bytes } => info!(buffer_bytes, "reading paused: the byte budget is used up"),
            Self::Resumed => info!("reading goes on: memory is free again"),
            // Both are figures for graphs; the commits that they belong to are logged.
            Self::Sampled { .. } | Self::DeadLetters { .. } => {}
            Self::Away { what, error } => warn!(what, error, "away, trying until it is back"),
            Self::Back { what } => info!(what, "back"),
            Self::Drained { batches_left: 0 } => info!("drained: all that was read is committed"),
            Self::Drained { batches_left } => {
                warn!(batches_left, "not drained in time; what is left is read again at the next start");
            }
            Self::Gap { topic, partition, stored, low, high } => error!(
                topic,
                partition,
                stored,
                low,
                high,
                "partition stopped: the broker does not have the offset that the tables need next"
            ),
            Self::Maintained { table, detail, .. } => debug!(table, ?detail, "maintained"),
            Self::MaintenanceDone { recovered: true, .. } => info!("maintenance comes through again"),
            Self::MaintenanceDone { thorough, duration, .. } => debug!(thorough, ?duration, "maintenance done"),
            Self::ClockDoubted { now, newest } => warn!(
                %now,
                %newest,
                "nothing is removed by its age: no message is dated near the clock's present; if the clock is right, run \
                 `pelton maintain --trust-clock`"
            ),
            Self::ClockBelieved { now } => {
                info!(%now, "messages say the same time as the clock: old rows and files go again")
            }
            Self::MaintenanceFailed { error, again: false } => {
                warn!(error, "maintenance failed, trying again at each turn");
            }
            Self::MaintenanceFailed { error, again: true } => debug!(error, "maintenance failed again"),
            Self::CycleStep { cycle, state, detail } => info!(cycle, state, detail, "cycle"),
            Self::CycleEnded { cycle, state, detail } => info!(cycle, state, detail, "cycle ended"),
            Self::VersionPromoted { version, gain } => info!(version, gain, "version promoted"),
            Self::VersionRolledBack { version, reason } => warn!(version, reason, "version rolled back"),
            Self::EventSent { id, key } => info!(id, key, "event sent"),
            Self::LogDropped { why, count, detail } => warn!(why, count, detail, "logged calls are lost"),
            Self::Upstream { upstream, up: true, .. } => info!(upstream, "upstream answers"),
            Self::Upstream { upstream, up: false, detail } => warn!(upstream, detail, "upstream does not answer"),
            Self::AdapterLoaded { upstream, version } => info!(upstream, version, "adapter loaded"),
            Self::AdapterFailed { upstream, version, error } => {
                warn!(upstream, version, error, "adapter not loaded or unloaded, trying again")
            }
            Self::VersionServes { alias, version } => info!(alias, version, "version answers"),
        }
    }
}

fn sample(partitions: &[Standing]) {
    let labels = |p: &Standing| vec![p.topic.clone(), p.partition.to_string()];
    let lag = |p: &Standing| Some((labels(p), (p.end? - p.committed).max(0)));
    metric::PARTITIONS.set(i64::try_from(partitions.len()).unwrap_or(i64::MAX));
    metric::LAG.replace(partitions.iter().filter_map(lag));
    metric::OFFSET.replace(partitions.iter().map(|p| (labels(p), p.committed)));
    metric::STOPPED.replace(partitions.iter().map(|p| (labels(p), i64::from(p.stopped))));
}
