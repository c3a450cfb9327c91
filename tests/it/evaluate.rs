//! Promises of `evaluate`.
