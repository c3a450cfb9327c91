//! The composition root: builds, wires, supervises and drains every stage.
//!
//! | task | what its failure means | what shutdown means to it |
//! |---|---|---|
//! | ingest | the daemon ends with an error: rows must not pile up unseen | stops reading, commits what it has, leaves the group |
//! | maintenance | a warning; tried again at the next turn | ends between two tables |
//! | schedule | a warning; tried again at the next turn | the child is asked to end, and the cycle goes on at the next start |
//! | console | the daemon ends with an error: it was asked to listen | answers what it has begun |

pub mod audit;
pub mod call_log;
pub mod console;
pub mod pipeline;
pub mod schedule;

use crate::config::Config;
use crate::lake::Lake;
use crate::runtime::{Backoff, Shutdown};
use anyhow::{Context as _, Result};
use object_store::ObjectStore;
use object_store::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often checkpoints are written and the tables' logs cleaned up.
const MAINTENANCE_PERIOD: Duration = Duration::from_secs(60);

/// Opens the lake of a configuration; a relative folder is relative to the configuration's file.
///
/// # Errors
/// Where the store is away, or is no lake.
pub async fn open_lake(config: &Config) -> Result<Lake> {
    Lake::open(&lake_settings(config)).await.context("lake")
}

fn lake_settings(config: &Config) -> crate::config::Lake {
    let mut settings = config.lake.clone();
    if !settings.url.contains("://") {
        settings.url = config.resolve(&settings.url).to_string_lossy().into_owned();
    }
    settings
}

/// The store that a lake lives in, and the lake's place in it.
#[must_use]
pub fn store_of(lake: &Lake) -> (Arc<dyn ObjectStore>, Path) {
    let (_, store) = lake.object_store();
    (store, Path::from_url_path(lake.url().path()).unwrap_or_default())
}

/// Runs the daemon until the shutdown, and drains it.
///
/// # Errors
/// What a task could not go on without.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<()> {
    let lake = open_lake_patiently(&config, &shutdown).await?;
    let config = Arc::new(config);
    let ready = console::Ready::default();
    let mut tasks = JoinSet::new();
    if let Some(listen) = config.console.listen.clone() {
        tasks.spawn(console::serve(listen, ready.clone(), shutdown.clone()));
    }
    tasks.spawn(maintain(lake.clone(), shutdown.clone()));
    tasks.spawn(pipeline::run_ingest(config.clone(), lake.clone(), Arc::default(), shutdown.clone()));
    ready.set(true);
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.context("a task of the daemon panicked").and_then(|result| result);
        // The first error is the cause; the others follow from the shutdown that it brings.
        if outcome.is_ok() && ended.is_err() {
            outcome = ended;
        }
        if outcome.is_err() {
            shutdown.cancel();
        }
    }
    outcome
}

/// A store that is away when the daemon starts is waited for, as one that goes away later is.
async fn open_lake_patiently(config: &Config, shutdown: &Shutdown) -> Result<Lake> {
    let mut backoff =
        Backoff::new(Duration::from_millis(200), Duration::from_millis(config.ingest.retry_backoff_ms_max));
    loop {
        let error = match open_lake(config).await {
            Ok(lake) => return Ok(lake),
            Err(error) => error,
        };
        if backoff.tries() == 0 {
            tracing::warn!(error = format!("{error:#}"), "the lake cannot be opened, trying until it can");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_pause()) => {}
            () = shutdown.cancelled() => return Err(error),
        }
    }
}

async fn maintain(lake: Lake, shutdown: Shutdown) -> Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(MAINTENANCE_PERIOD) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        match lake.maintain().await {
            Ok(done) => tracing::debug!(?done, "maintained"),
            Err(error) => tracing::warn!(error = %error, "maintenance failed, trying again later"),
        }
    }
}
