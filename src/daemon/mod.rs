//! The composition root: builds, wires, supervises and drains every stage.
//!
//! | task | what its failure means | what shutdown means to it |
//! |---|---|---|
//! | ingest | the daemon ends with an error: rows must not pile up unseen | stops reading, commits what it has, leaves the group |
//! | maintenance | a warning; tried again at the next turn | ends at once: what is half done was not committed |
//! | schedule | a warning; tried again at the next turn | the child is asked to end, and the cycle goes on at the next start |
//! | console | the daemon ends with an error: it was asked to listen | answers what it has begun |

pub mod audit;
pub mod call_log;
pub mod console;
pub mod cycle;
mod encoders;
pub mod eval;
pub mod forget;
pub mod formats;
pub mod gap;
pub mod maintenance;
pub mod outbox;
pub mod pipeline;
pub mod replay;
mod rollback;
pub mod schedule;
pub mod scheduler;
mod shortened;
pub mod sidecar;
mod sources;

pub use sources::{sources, sources_at};

use crate::config::Config;
use crate::domain::{Version, user_text};
use crate::ingest::Progress;
use crate::lake::{Lake, Store, TableName};
use crate::query::Sources;
use crate::runtime::{Backoff, Shutdown};
use anyhow::{Context as _, Result};
use object_store::ObjectStore;
use object_store::path::Path;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Opens the lake of a configuration; a relative folder is relative to the configuration's file.
///
/// # Errors
/// Where the store is away, or is no lake.
pub async fn open_lake(config: &Config) -> Result<Lake> {
    let logs = formats::logs(config)?;
    let store = Store::open(&lake_settings(config)).context("lake")?;
    Lake::open_with(store, logs).await.context("lake")
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

/// The prompts of evaluation sets that a window has to avoid: its own, and the suites of the gates of models that read it.
///
/// # Errors
/// The file that cannot be read.
pub fn avoided(config: &Config, window: &crate::domain::WindowName) -> Result<Vec<String>> {
    let own = config.windows.get(window).map(|w| w.avoid.iter()).into_iter().flatten();
    let readers = config.models.values().filter(|model| model.window == window.as_str());
    let suites = readers.flat_map(|model| model.gate.suites.values().map(|suite| &suite.path));
    let mut texts = Vec::new();
    for path in own.chain(suites) {
        for asked in eval::read_prompts(&config.resolve(path))? {
            texts.push(user_text(&asked.messages));
        }
    }
    Ok(texts)
}

/// The version that serves: the last one whose newest state is promoted. `versions` are all rows, in the order of time.
#[must_use]
pub fn champion_of(versions: &[Version]) -> Option<&Version> {
    crate::publish::transition::champion(versions)
}

/// Plans every window's and every rollback check's SQL on the tables as they are declared, without any I/O.
///
/// # Errors
/// The first whose SQL does not fit, with the name that is wrong and the near ones.
pub async fn check_windows(config: &Config) -> Result<()> {
    let logs = formats::logs(config)?;
    let names: BTreeSet<_> = TableName::ALL.into_iter().chain(logs.tables.iter().copied()).collect();
    let tables: Vec<_> = names.into_iter().map(|name| (name.to_string(), logs.promoted.schema(name))).collect();
    let declared = Sources { functions: sources::functions(config), ..Sources::declared(&tables) };
    for (name, window) in &config.windows {
        crate::window::check(name, &window.sql, declared.clone()).await?;
    }
    rollback::check(config, declared).await
}

/// Runs the daemon until the shutdown, and drains it.
///
/// # Errors
/// What a task could not go on without.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<()> {
    check_windows(&config).await?;
    let health = console::Health { progress: Arc::default(), draining: shutdown.clone() };
    let progress = health.progress.clone();
    // The console ends last, so that a drain can be watched.
    let over = Shutdown::new();
    let console = config.console.listen.clone().map(|listen| {
        let (end, failed) = (over.clone(), shutdown.clone());
        tokio::spawn(async move {
            let ended = console::serve(listen, health, end).await;
            if ended.is_err() {
                failed.cancel();
            }
            ended
        })
    });
    let outcome = work(config, progress, shutdown).await;
    over.cancel();
    match console {
        None => outcome,
        Some(console) => console.await.context("the console panicked")?.and(outcome),
    }
}

/// Runs the tasks that do the work until the shutdown.
async fn work(config: Config, progress: Arc<Progress>, shutdown: Shutdown) -> Result<()> {
    let lake = open_lake_patiently(&config, &shutdown).await?;
    let config = Arc::new(config);
    let mut tasks = JoinSet::new();
    tasks.spawn(maintenance::run(Arc::clone(&config), lake.clone(), shutdown.clone()));
    tasks.spawn(pipeline::run_ingest(config.clone(), lake.clone(), progress, shutdown.clone()));
    tasks.spawn(scheduler::run(Arc::clone(&config), lake.clone(), shutdown.clone()));
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
