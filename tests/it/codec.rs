//! Promises of `codec`.
