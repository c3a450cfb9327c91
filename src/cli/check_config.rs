//! `pelton check-config`: is a configuration right?

use crate::{config, daemon};
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `pelton check-config`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 0 where the file is right, with 1 where it is not.\n\
                        Nothing but the file is read: no broker and no store is asked.")]
pub struct Args {
    /// The configuration (TOML)
    file: PathBuf,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = config::load(&args.file)?;
    daemon::check_windows(&config).await?;
    println!("{} is right: {} windows, {} models", args.file.display(), config.windows.len(), config.models.len());
    Ok(ExitCode::SUCCESS)
}
