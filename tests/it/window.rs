//! Promises of `window`.
