//! `pelton run`: the daemon.

use crate::{config, daemon, runtime, telemetry};
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `pelton run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads the log topics into the tables, keeps the tables in order, and starts training cycles by\n\
                        schedule. SIGTERM or Ctrl-C drains: what was read is committed, nothing is read again."
)]
pub struct Args {
    /// The configuration (TOML)
    #[arg(long, default_value = "configs/pelton.toml", env = "PELTON_CONFIG")]
    config: PathBuf,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = config::load(&args.config)?;
    telemetry::install(&config.telemetry).map_err(anyhow::Error::msg)?;
    let shutdown = runtime::on_signal()?;
    daemon::run(config, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
