//! Pelton, a data flywheel for teams that serve their own language models.
//!
//! Inference logs flow from Kafka into Delta tables ([`ingest`], [`lake`]), SQL chooses windows of fresh prompts
//! ([`query`], [`window`]), a TAO cycle tunes a LoRA adapter without labels ([`tao`] on [`model`]), the holdout decides
//! ([`evaluate`]), and the version is registered and announced as a Kafka event ([`publish`]).
//!
//! The modules stand here in the order data flows; `ARCHITECTURE.md` says who may import whom.

pub mod domain;

pub mod codec;
pub mod config;
pub mod runtime;
pub mod telemetry;

pub mod ingest;
pub mod lake;
pub mod query;
pub mod window;

pub mod model;
pub mod tao;

pub mod evaluate;
pub mod publish;
pub mod serve;
pub mod sidecar;

pub mod cli;
pub mod daemon;
pub mod demo;
