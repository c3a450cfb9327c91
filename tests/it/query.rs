//! Promises of `query`.
