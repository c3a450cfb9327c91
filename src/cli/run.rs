//! `pelton run`: the daemon.

use super::ConfigFile;
use crate::{daemon, runtime, telemetry};
use anyhow::Result;
use std::process::ExitCode;

/// Arguments of `pelton run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads the log topics into the tables, keeps the tables in order, and starts training cycles by\n\
                        schedule. SIGTERM or Ctrl-C drains: what was read is committed, nothing is read again."
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.config.load()?;
    telemetry::install(&config.telemetry).map_err(anyhow::Error::msg)?;
    let shutdown = runtime::on_signal()?;
    daemon::run(config, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
