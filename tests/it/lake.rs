//! Promises of `lake`.
