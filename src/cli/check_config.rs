//! `pelton check-config`: is a configuration right?

use crate::config;
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

#[expect(clippy::unused_async, reason = "the windows' SQL is planned here as soon as there are tables to plan it on")]
pub async fn run(args: Args) -> Result<ExitCode> {
    let config = config::load(&args.file)?;
    println!("{} is right: {} windows, {} models", args.file.display(), config.windows.len(), config.models.len());
    Ok(ExitCode::SUCCESS)
}
