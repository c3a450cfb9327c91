//! What a configuration says of formats, tables of logs and redaction, as the stages take it.

use crate::codec::Decoder;
use crate::codec::redact::{BuiltIn, KEY_BYTES_MIN, Key, Redactor, Settings};
use crate::config::{Config, Pattern};
use crate::domain::LogName;
use crate::lake::{Logs, Promoted, TableName};
use anyhow::{Context as _, Result, ensure};
use std::sync::Arc;

/// The tables and columns that a configuration adds.
///
/// # Errors
/// Where a table or a column has a name that Pelton uses for something else.
pub fn logs(config: &Config) -> Result<Logs> {
    let mut tables = Vec::new();
    for (i, route) in config.ingest.routes.iter().enumerate() {
        let Some(table) = &route.table else { continue };
        let table = LogName::new(table).map_err(anyhow::Error::from);
        let table = table.and_then(|name| Ok(TableName::of_log(name)?));
        tables.push(table.with_context(|| format!("ingest.routes.{i}.table"))?);
    }
    let promoted = Promoted::new(&config.ingest.columns).context("ingest.columns")?;
    Ok(Logs { tables, promoted })
}

/// The decoder of a configuration; the key of its redaction is read here, where it stands in a file.
///
/// # Errors
/// Where the key cannot be read or is too short, or a pattern is none.
pub fn decoder(config: &Config) -> Result<Decoder> {
    Ok(Decoder::new(config.ingest.message_bytes_max).with_redactor(redactor(config)?))
}

/// What replaces what must not be stored; nothing where nothing is to be replaced.
///
/// # Errors
/// As [`decoder`].
pub fn redactor(config: &Config) -> Result<Option<Arc<Redactor>>> {
    let redact = &config.redact;
    if !redact.is_on() {
        return Ok(None);
    }
    let built_in = |pattern: &Pattern| match pattern {
        Pattern::Email => BuiltIn::Email,
        Pattern::Phone => BuiltIn::Phone,
        Pattern::Secret => BuiltIn::Secret,
        Pattern::Card => BuiltIn::Card,
    };
    let settings = Settings {
        fields: redact.fields.clone(),
        built_in: redact.patterns.iter().map(built_in).collect(),
        patterns: redact.custom.iter().map(|(label, regex)| (label.clone(), regex.clone())).collect(),
        key: key(config)?,
    };
    Ok(Some(Arc::new(Redactor::new(settings).context("redact")?)))
}

fn key(config: &Config) -> Result<Option<Key>> {
    let redact = &config.redact;
    let bytes = match (&redact.key, &redact.key_file) {
        (Some(key), _) => key.reveal().as_bytes().to_vec(),
        (None, Some(file)) => {
            let path = config.resolve(file);
            let mut bytes = std::fs::read(&path).with_context(|| format!("redact.key_file {}", path.display()))?;
            while bytes.last().is_some_and(|byte| [b'\n', b'\r'].contains(byte)) {
                bytes.pop();
            }
            bytes
        }
        (None, None) => return Ok(None),
    };
    let length = bytes.len();
    let key = Key::new(bytes);
    ensure!(key.is_some(), "redact: the key has {length} bytes; at least {KEY_BYTES_MIN} are expected");
    Ok(key)
}
