//! The decoders under test, taken in by path: `domain` and `codec` depend on nothing else of ours.
#![allow(dead_code, missing_docs, reason = "the crate tests parts of another")]

#[path = "../../src/codec/mod.rs"]
pub mod codec;
#[path = "../../src/domain/mod.rs"]
pub mod domain;
pub mod support;
