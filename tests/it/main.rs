//! The one integration-test binary: each file proves the promises of one stage.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on should panic and say where")]

mod clock;
mod codec;
mod committer;
mod config;
mod console;
mod crashes;
mod cycle;
mod demo;
mod eval;
mod evaluate;
mod evolution;
mod faults;
mod flywheel;
mod forget;
mod formats;
mod full_disk;
mod ingest;
mod lake;
mod maintain;
mod model;
mod publish;
mod query;
mod replay;
mod resume;
mod routes;
mod serve;
mod shortened;
mod sidecar;
mod store_faults;
mod support;
mod tao;
mod tidy;
mod view;
mod window;
