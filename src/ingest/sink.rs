//! Where rows go: the seam between Kafka and the tables.

use crate::domain::{Origin, Row, RowKind};
use std::fmt;
use std::sync::Arc;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The topic.
    pub topic: String,
    /// The id that Kafka gave the topic when it was made, and how often the end of the partition's log was lost since
    /// ([`crate::domain::generation`]). A topic of the same name that is made later has another id, and its offsets mean other
    /// messages.
    pub generation: Arc<str>,
    /// The number.
    pub number: i32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

/// Rows that are being collected for one partition.
pub trait Rows: Send {
    /// What is handed to the sink.
    type Cut: Send;

    /// Copies one row in, a dead letter among them.
    fn push(&mut self, row: &Row<'_>, origin: &Origin<'_>);

    /// Ends the collection.
    fn cut(self) -> Self::Cut;
}

/// What one partition adds to a batch.
#[derive(Debug)]
pub struct Part<C> {
    /// The partition.
    pub partition: Partition,
    /// The first offset that it covers.
    pub start: i64,
    /// The offset after the last one that it covers.
    pub end: i64,
    /// Its rows.
    pub rows: C,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Rows added to the topic's table.
    pub rows: u64,
    /// Dead letters added.
    pub dead_letters: u64,
}

/// Why the sink did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The partition stands at another offset: another process moved it. The batch is of no use.
    #[error("{0}")]
    Moved(String),
    /// The store failed; the same call may be made again.
    #[error("{0}")]
    Away(String),
}

/// What buffers are made by; a cheap handle.
pub trait Shape: Clone + Send {
    /// Bytes of all rows that are in memory: in buffers, being encoded, or waiting for their commit.
    fn row_bytes(&self) -> usize;

    /// Those, and what else takes of the memory that reading may use.
    fn held_bytes(&self) -> usize;
}

/// The tables, as ingestion sees them. Called from one thread that may block.
pub trait Sink: Send {
    /// Its buffers.
    type Rows: Rows;

    /// What buffers are made by, away from the sink.
    type Shape: Shape;

    /// A batch that can be committed, as often as it takes.
    type Ready;

    /// What buffers are made by.
    fn shape(&self) -> Self::Shape;

    /// Makes buffers for the poll thread.
    fn rows(shape: &Self::Shape, kind: RowKind) -> Self::Rows;

    /// The partitions in the generation that they are read as now: the one given, or a later one of the same topic.
    ///
    /// # Errors
    /// [`SinkError::Away`].
    fn current(&mut self, kind: RowKind, partitions: &[Partition]) -> Result<Vec<Partition>, SinkError>;

    /// The next offset that the tables need of each partition; nothing where it was never pinned.
    ///
    /// # Errors
    /// [`SinkError::Away`].
    fn positions(&mut self, kind: RowKind, partitions: &[Partition]) -> Result<Vec<Option<i64>>, SinkError>;

    /// Fixes where partitions begin that were never pinned.
    ///
    /// # Errors
    /// [`SinkError::Moved`] where another process pinned one of them first, [`SinkError::Away`].
    fn pin(&mut self, kind: RowKind, starts: &[(Partition, i64)]) -> Result<(), SinkError>;

    /// Makes parts ready to be committed as one. It does no I/O.
    fn ready(&mut self, kind: RowKind, parts: Vec<Part<<Self::Rows as Rows>::Cut>>) -> Self::Ready;

    /// Adds the parts' rows and moves their offsets, exactly once. `bytes` is the size of their messages.
    ///
    /// # Errors
    /// [`SinkError::Moved`] where a partition stands elsewhere, [`SinkError::Away`].
    fn commit(&mut self, kind: RowKind, ready: &Self::Ready, bytes: u64) -> Result<Committed, SinkError>;
}
