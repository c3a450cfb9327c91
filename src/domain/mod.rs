//! Plain values that cross stage boundaries: identifiers, rows, windows, candidates, versions.
//!
//! No I/O, no async, no serde, no Arrow, no candle: a stage that wants to store or send one of these maps it itself.

mod candidate;
mod cycle;
mod evaluation;
mod generation;
mod hash;
mod ids;
mod message;
mod row;
mod time;
mod training;
mod version;

pub use candidate::{Candidate, Component, Finish};
pub use cycle::{CycleEvent, CycleState, Trigger};
pub use evaluation::{Answer, Comparison, EvalReport, Guards, Interval, PartGain, Sides, Signs, Verdict, Wins};
pub use generation::{generation, losses, topic_id};
pub use hash::PromptHash;
pub use ids::{CycleId, IdError, LogName, ModelName, VersionNumber, VersionRef, WindowName};
pub use message::{ChatMessage, canonical_json, push_canonical, user_text};
pub use row::{
    Coordinates, DeadLetterCode, DeadLetterRow, FeedbackRow, InferenceRow, LOGGED_BYTES_MAX, Origin, Row, RowKind,
};
pub use time::Timestamp;
pub use training::{Exclusion, LeftOut, Prompt, Split, TrainingSet};
pub use version::{Version, VersionState};
