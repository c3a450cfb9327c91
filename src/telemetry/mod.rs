//! One typed event gives one log line and one metric; nobody else names a metric.

mod event;
mod kafka_log;
pub mod metric;
mod process;

pub use event::{Event, Standing};
pub use kafka_log::KafkaLog;
pub use metric::render;

use crate::config::{Format, Telemetry};
use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error in the configured form. `PELTON_LOG` in the environment overrides the filter.
///
/// # Errors
/// The filter's text, where it is not one, with the reason.
pub fn install(settings: &Telemetry) -> Result<(), String> {
    let text = std::env::var("PELTON_LOG").unwrap_or_else(|_| settings.filter.clone());
    let filter = EnvFilter::try_new(scoped(&text)).map_err(|e| format!("`{text}` is not a log filter: {e}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match settings.format {
        Format::Text => lines.with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    // A second installation in one process (the demo, tests) keeps the first.
    drop(set);
    Ok(())
}

/// A bare level is meant for Pelton: at `info`, Delta's kernel alone writes kilobytes for each commit.
fn scoped(filter: &str) -> String {
    let bare = !filter.contains(['=', ',']);
    if bare { format!("warn,pelton={filter}") } else { filter.to_owned() }
}
