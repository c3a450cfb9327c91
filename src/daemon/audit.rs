//! The audit with the broker's word on gaps: what the tables cannot tell alone.

use crate::config;
use crate::ingest::{Confirmation, Partition, confirm_gap};
use crate::lake::{Gap, Lake, PartitionAudit, PartitionKey};
use anyhow::{Context as _, Result};

/// What is known of a range of offsets that is in no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Explanation {
    /// The broker confirms that it holds no message there: transaction markers, aborted or compacted messages.
    NoMessage,
    /// The broker has a message there: it was lost.
    Lost {
        /// The first such offset.
        offset: i64,
    },
    /// The broker no longer has the range: nobody can tell.
    Expired,
}

/// One partition, with each gap explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedPartition {
    /// What the tables hold.
    pub tables: PartitionAudit,
    /// Its gaps and what is known of each.
    pub gaps: Vec<(Gap, Explanation)>,
}

/// The audit of all partitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditReport {
    /// The partitions, by pipeline, cluster, topic and number.
    pub partitions: Vec<AuditedPartition>,
}

impl AuditReport {
    /// Offsets in no row that the broker does not confirm to be empty.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let unexplained =
            self.partitions.iter().flat_map(|p| &p.gaps).filter(|(_, why)| *why != Explanation::NoMessage);
        unexplained.map(|(gap, _)| gap.offsets()).sum()
    }

    /// Rows that are there more than once or where none should be.
    #[must_use]
    pub fn duplicate(&self) -> u64 {
        self.partitions.iter().map(|p| p.tables.duplicate).sum()
    }

    /// Rows of all partitions.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.partitions.iter().map(|p| p.tables.rows).sum()
    }

    /// Dead letters of all partitions.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.partitions.iter().map(|p| p.tables.dead_letters).sum()
    }

    /// Rows that were taken out on record.
    #[must_use]
    pub fn removed(&self) -> u64 {
        self.partitions.iter().map(|p| p.tables.removed).sum()
    }

    /// Whether nothing was lost and nothing is there twice.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.missing() == 0 && self.duplicate() == 0
    }
}

/// Audits the tables, and asks the broker about gaps, where there are any. Without gaps the broker is not needed.
///
/// # Errors
/// Where a table cannot be read, or a gap's broker does not answer.
pub async fn audit(kafka: &config::Kafka, lake: &Lake) -> Result<AuditReport> {
    let found = lake.audit().await.context("audit")?;
    let kafka = kafka.clone();
    let explain = move || -> Result<AuditReport> {
        let partitions = found.partitions.into_iter().map(|p| explained(&kafka, p)).collect::<Result<_>>()?;
        Ok(AuditReport { partitions })
    };
    tokio::task::spawn_blocking(explain).await.context("the audit panicked")?
}

fn explained(kafka: &config::Kafka, tables: PartitionAudit) -> Result<AuditedPartition> {
    let PartitionKey { topic, generation, partition } = tables.key.clone();
    let partition = Partition { topic, generation: generation.into(), number: partition };
    let mut gaps = Vec::with_capacity(tables.gaps.len());
    for gap in &tables.gaps {
        let why = match confirm_gap(kafka, &partition, gap.first, gap.last)
            .with_context(|| format!("partition {partition}: the gap from {} to {}", gap.first, gap.last))?
        {
            Confirmation::Empty => Explanation::NoMessage,
            Confirmation::Message { offset } => Explanation::Lost { offset },
            Confirmation::Expired => Explanation::Expired,
        };
        gaps.push((*gap, why));
    }
    Ok(AuditedPartition { tables, gaps })
}
