//! Verdicts by the hash of what was asked, in memory and, where a file is configured, on disk.
//!
//! The file is lines of JSON, appended one a verdict: a process that dies in the middle of one loses that one.

use super::super::Error;
use crate::domain::{ChatMessage, canonical_json};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    value: f64,
}

#[derive(Debug)]
pub(super) struct Cache {
    known: Mutex<HashMap<String, f64>>,
    file: Option<(PathBuf, Mutex<File>)>,
}

/// Identifies what is asked of whom.
pub(super) fn key(judge: &str, messages: &[ChatMessage]) -> String {
    let hash = Sha256::new().chain_update(judge).chain_update([0]).chain_update(canonical_json(messages)).finalize();
    hash.iter().take(16).map(|b| format!("{b:02x}")).collect()
}

impl Cache {
    pub(super) fn open(path: Option<PathBuf>) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self { known: Mutex::default(), file: None }) };
        let failed = |source| Error::Cache { path: path.display().to_string(), source };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            Err(e) => return Err(failed(e)),
        };
        // A torn last line is one verdict that is asked for again.
        let known = text.lines().filter_map(|l| serde_json::from_str::<Line>(l).ok()).map(|l| (l.key, l.value));
        let known = known.filter(|(_, value)| (0.0..=1.0).contains(value)).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(failed)?;
        }
        Ok(Self { known: Mutex::new(known), file: Some((path, Mutex::new(file))) })
    }

    pub(super) fn get(&self, key: &str) -> Option<f64> {
        self.known.lock().expect("no holder of the lock panics").get(key).copied()
    }

    pub(super) fn put(&self, key: &str, value: f64) -> Result<(), Error> {
        if let Some((path, file)) = &self.file {
            let line = serde_json::to_string(&Line { key: key.to_owned(), value }).expect("a line is plain JSON");
            let written = writeln!(file.lock().expect("no holder of the lock panics"), "{line}");
            written.map_err(|source| Error::Cache { path: path.display().to_string(), source })?;
        }
        self.known.lock().expect("no holder of the lock panics").insert(key.to_owned(), value);
        Ok(())
    }
}
