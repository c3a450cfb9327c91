//! Health and metrics over HTTP: `/healthz` (the process lives), `/readyz` (it does its work), `/metrics` (Prometheus).
//!
//! It listens before anything else is up and until everything else has ended, so that a start that waits and a drain can be
//! watched. `docs/OPERATIONS.md` says what each answer means to an orchestrator.

use crate::ingest::Progress;
use crate::runtime::Shutdown;
use crate::telemetry::{self, metric};
use anyhow::{Context as _, Result};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::net::TcpListener;

/// A poll loop that has not turned for so long hangs. Kafka itself gives up a member after `max.poll.interval.ms`, 5 minutes.
const TURN_MAX: Duration = Duration::from_secs(60);

/// What the console answers from.
#[derive(Debug, Clone)]
pub struct Health {
    /// What ingestion tells.
    pub progress: Arc<Progress>,
    /// Cancelled once the daemon drains.
    pub draining: Shutdown,
}

impl Health {
    /// Whether the process should be left alone. A loop that waits for a broker or store that is away is no reason to kill
    /// it: the next process would wait too.
    ///
    /// # Errors
    /// What hangs.
    pub fn alive(&self) -> std::result::Result<(), String> {
        match self.progress.heartbeat.age() {
            Some(age) if age > TURN_MAX && self.dependencies().is_ok() && !self.draining.is_cancelled() => {
                Err(format!("the poll loop has not turned for {} s", age.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the daemon does its work now.
    ///
    /// # Errors
    /// What it waits for.
    pub fn ready(&self) -> std::result::Result<(), String> {
        if self.draining.is_cancelled() {
            return Err("draining".to_owned());
        }
        if !self.progress.assigned.load(Relaxed) {
            return Err("the consumer group has not given this member its partitions yet".to_owned());
        }
        self.dependencies()
    }

    fn dependencies(&self) -> std::result::Result<(), String> {
        if self.progress.is_kafka_away() {
            return Err("kafka is away".to_owned());
        }
        if metric::UP.get(&["store"]) == Some(0) {
            return Err("the object store is away".to_owned());
        }
        Ok(())
    }
}

/// Serves until it is told to end.
///
/// # Errors
/// Where the address cannot be listened on.
pub async fn serve(listen: String, health: Health, end: Shutdown) -> Result<()> {
    let listener =
        TcpListener::bind(&listen).await.with_context(|| format!("console.listen: cannot listen on {listen}"))?;
    let alive = health.clone();
    let metrics =
        || async { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry::render()) };
    let routes = Router::new()
        .route("/healthz", get(move || std::future::ready(answer(alive.alive()))))
        .route("/readyz", get(move || std::future::ready(answer(health.ready()))))
        .route("/metrics", get(metrics));
    axum::serve(listener, routes).with_graceful_shutdown(end.cancelled_owned()).await?;
    Ok(())
}

fn answer(state: std::result::Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
