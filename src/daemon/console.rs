//! Health and metrics over HTTP: `/healthz` (the process lives), `/readyz` (it does its work), `/metrics` (Prometheus).

use crate::runtime::Shutdown;
use crate::telemetry;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;

/// Whether the daemon is ready; set by what has to be up.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// Says that it is, or is no longer.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves until the shutdown.
///
/// # Errors
/// Where the address cannot be listened on.
pub async fn serve(listen: String, ready: Ready, shutdown: Shutdown) -> Result<()> {
    let listener =
        TcpListener::bind(&listen).await.with_context(|| format!("console.listen: cannot listen on {listen}"))?;
    let readyz = move || {
        let ready = ready.clone();
        async move {
            if ready.get() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
        }
    };
    let metrics = || async { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry::render()) };
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}
