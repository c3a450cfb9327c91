//! Promises of `model`.
