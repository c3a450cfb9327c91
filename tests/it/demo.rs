//! Promises of `demo`.
