//! What a SQL session over a lake reads: its tables, its store, and functions that know the configuration.

use crate::config::Config;
use crate::lake::{Lake, TableName};
use crate::model::TokenCounter;
use crate::query::{Sources, Table, token_count};
use anyhow::Result;
use datafusion::logical_expr::ScalarUDF;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

/// All tables of a lake, as they are now.
///
/// # Errors
/// Where a table cannot be read.
pub async fn sources(config: &Config, lake: &Lake) -> Result<Sources> {
    sources_at(config, lake, |_| None).await
}

/// All tables of a lake, each at the version that `at` gives for it, or as it is now.
///
/// # Errors
/// Where a table cannot be read, or has no such version.
pub async fn sources_at(config: &Config, lake: &Lake, at: impl Fn(TableName) -> Option<i64>) -> Result<Sources> {
    let mut tables = Vec::new();
    for name in lake.tables() {
        tables.push(Table { name: name.to_string(), provider: lake.provider(name, at(name)).await? });
    }
    Ok(Sources { tables, stores: vec![lake.object_store()], functions: functions(config) })
}

/// A model's base, and its tokenizer once a query asks for it.
struct Base {
    folder: PathBuf,
    counter: OnceLock<Result<TokenCounter, String>>,
}

/// `token_count(text, model)` for the models of the configuration.
pub(super) fn functions(config: &Config) -> Vec<ScalarUDF> {
    let base = |base: &str| Base { folder: config.resolve(base), counter: OnceLock::new() };
    let bases: BTreeMap<String, Base> =
        config.models.iter().map(|(name, model)| (name.to_string(), base(&model.base))).collect();
    let count = move |text: &str, model: &str| {
        let known = || bases.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let base = bases.get(model).ok_or_else(|| {
            format!(
                "the configuration has no model `{model}`; it has {}",
                if bases.is_empty() { "none".into() } else { known() }
            )
        })?;
        let counter = base.counter.get_or_init(|| TokenCounter::load(&base.folder).map_err(|e| e.to_string()));
        counter.as_ref().map_err(Clone::clone)?.count(text)
    };
    vec![token_count(count)]
}
