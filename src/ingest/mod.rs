//! Kafka to batches of decoded rows; owns the consumer.
//!
//! ```text
//! poll thread:   poll ─► decode ─► a buffer per partition ─► cut by rows, bytes or age
//!                 ▲                     │ full chunks              │ one send a batch
//!                 │                     ▼                          ▼
//!                 │               encoding threads ─────► committing thread: store, commit
//!                 └────────────── what was committed, what moved ──┘
//! ```
//!
//! The tables say where each partition begins: the rebalance callback asks the sink and assigns at those offsets. A batch
//! carries, for each partition, the range of offsets `[start, end)` that it covers and the epoch of the assignment; the sink
//! commits rows and offsets as one, or says that a partition moved, and then its buffer is dropped and reading goes on
//! from where the tables stand. Kafka's own group offsets follow after the commit, for lag tools only.
//!
//! It promises to skip nothing silently: where the broker no longer has what the tables need next, the partition stops and
//! says so. A broker or store that is away is tried again with growing pauses, said once. Memory is bounded by
//! `in_flight_bytes_max`, which counts rows in buffers, rows that are being encoded, files that wait for their commit, and
//! what librdkafka may fetch ahead: above it reading pauses while polling goes on, so that the group keeps its member.
//!
//! It knows nothing of Delta: the [`Sink`] is given by the caller.

mod assignment;
mod buffer;
mod client;
mod confirm;
mod context;
mod copies;
mod error;
mod generation;
mod pace;
mod poll;
mod progress;
mod registry;
mod resident;
mod routes;
mod sink;
mod topic_id;
mod worker;

pub use confirm::{Bounds, Confirmation, Held, bounds, confirm_gap, messages_from};
pub use error::Error;
pub use poll::run;
pub use progress::Progress;
pub use registry::SchemaLookup;
pub use routes::{Route, Routes};
pub use sink::{Committed, Part, Partition, Rows, Shape, Sink, SinkError};
