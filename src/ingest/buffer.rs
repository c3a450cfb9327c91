//! What was read of each owned partition and is not sent yet.

use super::copies::{Copies, CopyTopic};
use super::routes::Route;
use super::sink::{Part, Partition, Rows, Shape as _, Sink};
use super::worker::{Batch, CutOf, Numbered};
use crate::codec::Format;
use crate::codec::registry::SchemaId;
use crate::domain::{Origin, Row, RowKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One owned partition.
pub(super) struct Owned<S: Sink> {
    pub(super) kind: RowKind,
    /// The id of the topic that is read.
    pub(super) generation: Arc<str>,
    /// Bumped whenever what was read before is of no use any more.
    pub(super) epoch: u64,
    /// Where the rows in the buffer begin.
    pub(super) start: i64,
    /// The next offset that the tables need.
    pub(super) committed: i64,
    /// The offset after the last message read.
    pub(super) next: i64,
    /// The broker does not have `next`: nothing is read until someone decides.
    pub(super) stopped: bool,
    /// The schema without which `next` cannot be read; until it is known the partition is paused.
    pub(super) held: Option<SchemaId>,
    pub(super) format: Format,
    rows: Option<S::Rows>,
}

/// All owned partitions, by topic and number.
pub(super) struct Buffer<S: Sink> {
    topics: BTreeMap<String, BTreeMap<i32, Owned<S>>>,
    /// Rows and bytes in the buffers, and when the oldest came.
    pub(super) rows: usize,
    pub(super) bytes: usize,
    since: Option<Instant>,
    epochs: u64,
    copies: Copies,
    shape: S::Shape,
}

impl<S: Sink> Buffer<S> {
    pub(super) fn new(shape: S::Shape, copies: Option<CopyTopic>) -> Self {
        let copies = Copies::new(copies);
        Self { topics: BTreeMap::new(), rows: 0, bytes: 0, since: None, epochs: 0, copies, shape }
    }

    /// Takes a partition into ownership at an offset; what was read of it before is dropped.
    pub(super) fn own(&mut self, partition: &Partition, route: Route, next: i64, stopped: bool) {
        self.epochs += 1;
        let generation = partition.generation.clone();
        let owned = Owned {
            kind: route.kind,
            generation,
            epoch: self.epochs,
            start: next,
            committed: next,
            next,
            stopped,
            held: None,
            format: route.format,
            rows: None,
        };
        self.topics.entry(partition.topic.clone()).or_default().insert(partition.number, owned);
    }

    pub(super) fn disown(&mut self, topic: &str, number: i32) -> Option<Owned<S>> {
        self.topics.get_mut(topic)?.remove(&number)
    }

    pub(super) fn get_mut(&mut self, topic: &str, number: i32) -> Option<&mut Owned<S>> {
        self.topics.get_mut(topic)?.get_mut(&number)
    }

    pub(super) fn get(&self, partition: &Partition) -> Option<&Owned<S>> {
        self.topics.get(&partition.topic)?.get(&partition.number)
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = (Partition, &Owned<S>)> {
        self.topics.iter().flat_map(|(topic, owned)| {
            owned.iter().map(|(&number, owned)| {
                (Partition { topic: topic.clone(), generation: owned.generation.clone(), number }, owned)
            })
        })
    }

    /// Takes in a row that a message became, or one of them. `bytes` is its share of the message's size.
    pub(super) fn push(&mut self, row: &Row<'_>, origin: &Origin<'_>, bytes: usize) {
        if let Row::DeadLetter(dead) = row {
            self.copies.keep(dead, origin);
        }
        let owned = self.topics.get_mut(origin.topic).and_then(|t| t.get_mut(&origin.partition));
        let owned = owned.expect("only messages of owned partitions are pushed");
        let kind = owned.kind;
        owned.rows.get_or_insert_with(|| S::rows(&self.shape, kind)).push(row, origin);
        owned.next = origin.offset + 1;
        self.rows += 1;
        self.bytes += bytes;
        self.since.get_or_insert_with(Instant::now);
    }

    /// Bytes of all rows in memory, here and on their way to a commit.
    pub(super) fn row_bytes(&self) -> usize {
        self.shape.row_bytes()
    }

    /// Those, and what else takes of the memory that reading may use.
    pub(super) fn held_bytes(&self) -> usize {
        self.shape.held_bytes()
    }

    /// How long the oldest row has waited.
    pub(super) fn age(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Everything that was read, a batch for each kind of row, and begins anew.
    pub(super) fn cut(&mut self) -> Vec<Batch<CutOf<S>>> {
        let mut batches: Vec<Batch<CutOf<S>>> = Vec::new();
        for (topic, partitions) in &mut self.topics {
            for (&number, owned) in partitions {
                let Some(rows) = owned.rows.take() else { continue };
                let generation = owned.generation.clone();
                let partition = Partition { topic: topic.clone(), generation, number };
                let part = Part { partition, start: owned.start, end: owned.next, rows: rows.cut() };
                owned.start = owned.next;
                let numbered = Numbered { part, epoch: owned.epoch };
                match batches.iter_mut().find(|b| b.kind == owned.kind) {
                    Some(batch) => batch.parts.push(numbered),
                    None => {
                        let batch =
                            Batch { kind: owned.kind, parts: vec![numbered], bytes: 0, copies: Copies::default() };
                        batches.push(batch);
                    }
                }
            }
        }
        // The bytes and the copies travel with the first batch: they are counted and sent once.
        if let Some(first) = batches.first_mut() {
            first.bytes = std::mem::take(&mut self.bytes);
            first.copies = self.copies.take();
        }
        (self.rows, self.bytes, self.since) = (0, 0, None);
        batches
    }
}
