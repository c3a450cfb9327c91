//! The whole wheel in one process: the shop, its questions, simulated users and the demo itself.
//!
//! Real parts only: librdkafka's in-process broker (or the user's own), the server that users ask over HTTP, the ingest and
//! the lake of `pelton run`, the cycle of `pelton cycle run`. What the demo alone has is the truth: it made the questions
//! up, so it knows the right SQL of each, and can say how much better the tuned model is. Nothing else ever sees it.

mod flow;
pub mod passages;
pub mod questions;
mod setting;
pub mod shop;
mod users;

pub use flow::{Figures, run};
pub use setting::Options;
