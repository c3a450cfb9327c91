//! Promises of `publish`.
