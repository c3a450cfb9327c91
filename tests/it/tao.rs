//! Promises of `tao`.
