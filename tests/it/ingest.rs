//! Promises of `ingest`.
