//! One token that every loop watches: it ends at SIGTERM, SIGINT, or when its owner says so.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Asks every loop that holds a clone to drain and end. Nothing is ever aborted.
pub type Shutdown = CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels. A second one ends the process at once with status 130.
///
/// # Errors
/// Where the handlers cannot be installed.
pub fn on_signal() -> std::io::Result<Shutdown> {
    let token = CancellationToken::new();
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("shutting down: draining what was read; once more to quit at once");
        cancelled.cancel();
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(130);
    });
    Ok(token)
}
