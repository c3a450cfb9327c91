//! Partitions that stopped because the broker lacks what the tables need next, and the word that lets them go on.

use super::shortened;
pub use super::shortened::BegunAgain;
use crate::config::Config;
use crate::domain::{losses, topic_id};
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
    let standings = present(standings);
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

/// Those that are read still: where a partition began again, the last of its generations.
fn present(standings: Vec<(TableName, PartitionAudit)>) -> Vec<(TableName, PartitionAudit)> {
    let is_later = |of: &(TableName, PartitionAudit), other: &(TableName, PartitionAudit)| {
        let (a, b) = (&of.1.key, &other.1.key);
        let same = of.0 == other.0 && of.1.cluster == other.1.cluster && a.topic == b.topic;
        let same = same && a.partition == b.partition && topic_id(&a.generation) == topic_id(&b.generation);
        same && losses(&b.generation) > losses(&a.generation)
    };
    standings.iter().filter(|of| !standings.iter().any(|other| is_later(of, other))).cloned().collect()
}

/// How a partition goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// At the oldest message that the broker has; what was before it is given up.
    GivenUp(Stopped),
    /// At the first message that is not the stored one, as another generation.
    BegunAgain(BegunAgain),
}

/// Lets a stopped partition go on: without the messages that it lacks, at the oldest one that the broker has; or, where the
/// broker lost the end of its log, at the first message that is another than the one stored at its offset.
///
/// # Errors
/// Where the partition is not stopped, or another process moved it meanwhile.
pub async fn accept(config: &Config, lake: &Lake, topic: &str, partition: i32) -> Result<Accepted> {
    let all = stopped(config, lake).await?;
    let found = all.into_iter().find(|s| s.standing.key.topic == topic && s.standing.key.partition == partition);
    let Some(gap) = found else {
        bail!("{topic}/{partition} is not stopped: the broker has what the tables need next");
    };
    if !gap.is_overtaken() {
        return Ok(Accepted::BegunAgain(shortened::begin_again(config, lake, &gap).await?));
    }
    let mut committer = lake.committer(&gap.standing.pipeline, &gap.standing.cluster).await?;
    committer.accept_gap(gap.table, &gap.standing.key, gap.standing.next, gap.low).await?;
    Ok(Accepted::GivenUp(gap))
}
