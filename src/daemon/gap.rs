//! Partitions that stopped because the broker lacks what the tables need next, and the word that lets them go on.

use crate::config::Config;
use crate::ingest::{Bounds, Partition, bounds};
use crate::lake::{Lake, PartitionAudit, PartitionKey, TableName};
use anyhow::{Context as _, Result, bail};

/// One partition whose next offset the broker does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The table that its rows are in.
    pub table: TableName,
    /// What the table's log says of it.
    pub standing: PartitionAudit,
    /// The oldest offset that the broker has.
    pub low: i64,
    /// The next offset that the broker will write.
    pub high: i64,
}

impl Stopped {
    /// Whether the missing messages are older than what the broker has, so that they can be given up.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        self.standing.next < self.low
    }
}

/// All partitions that cannot go on.
///
/// # Errors
/// Where the tables' logs cannot be read or the broker does not answer.
pub async fn stopped(config: &Config, lake: &Lake) -> Result<Vec<Stopped>> {
    let mut standings = lake.standings().await?;
    standings.retain(|(_, standing)| standing.pipeline == config.ingest.pipeline);
    let partition = |(_, standing): &(TableName, PartitionAudit)| {
        let PartitionKey { topic, generation, partition } = standing.key.clone();
        Partition { topic, generation: generation.into(), number: partition }
    };
    let partitions: Vec<Partition> = standings.iter().map(partition).collect();
    let kafka = config.kafka.clone();
    let asked = tokio::task::spawn_blocking(move || bounds(&kafka, &partitions)).await.context("asking panicked")?;
    let is_gap = |((table, standing), bounds): ((TableName, PartitionAudit), Bounds)| match bounds {
        Bounds::Held { low, high } if standing.next < low || standing.next > high => {
            Some(Stopped { table, standing, low, high })
        }
        // A topic that is gone is read no more; another of its name begins anew.
        _ => None,
    };
    Ok(standings.into_iter().zip(asked?).filter_map(is_gap).collect())
}

/// Gives up the messages that a partition lacks: it goes on at the oldest one that the broker has. Returns what was given
/// up.
///
/// # Errors
/// Where the partition is not stopped, or is ahead of the broker.
pub async fn accept(config: &Config, lake: &Lake, topic: &str, partition: i32) -> Result<Stopped> {
    let all = stopped(config, lake).await?;
    let found = all.into_iter().find(|s| s.standing.key.topic == topic && s.standing.key.partition == partition);
    let Some(gap) = found else {
        bail!("{topic}/{partition} is not stopped: the broker has what the tables need next");
    };
    let (next, high) = (gap.standing.next, gap.high);
    if !gap.is_overtaken() {
        bail!(
            "{topic}/{partition}: the tables hold messages up to {next} and the broker's log ends at {high}: it lost messages \
             that are in the tables (an unclean leader election, a restored disk). New messages would get their offsets, so \
             nothing can be given up here; read the topic by another `ingest.pipeline`, or make a new topic"
        );
    }
    let mut committer = lake.committer(&gap.standing.pipeline, &gap.standing.cluster).await?;
    committer.accept_gap(gap.table, &gap.standing.key, next, gap.low).await?;
    Ok(gap)
}
