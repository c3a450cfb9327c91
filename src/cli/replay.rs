//! `pelton replay`: dead letters decoded again after a fix.

use super::{ConfigFile, print};
use crate::daemon;
use crate::daemon::replay::{Selection, replay};
use anyhow::Result;
use std::process::ExitCode;

/// Arguments of `pelton replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "After a fix of the settings (ingest.message_bytes_max, a format, a schema) or a newer Pelton, dead letters\n\
                        that decode now become rows of their table, with their own coordinates and `replay_time` set. It may be\n\
                        run again, killed, and run beside the daemon: no row is added twice. The dead letters stay.\n\n\
                        Examples:\n  \
                        pelton replay --where \"code = 'TOO_LARGE'\" --dry-run\n  \
                        pelton replay --where \"kafka_topic = 'inference-logs' AND ingest_time > '2026-11-01'\""
)]
pub struct Args {
    /// A SQL condition over the columns of dead_letter
    #[arg(long = "where", value_name = "SQL")]
    condition: String,
    /// At most so many dead letters, the oldest first
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only say what would become a row
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigFile,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let selection = Selection { condition: args.condition, limit: args.limit, dry_run: args.dry_run };
    let done = replay(&config, &lake, &selection).await?;
    let row =
        |(code, (count, reason)): (&String, &(u64, String))| vec![code.clone(), count.to_string(), reason.clone()];
    if !done.refused.is_empty() {
        print::table(&["still refused", "messages", "such as"], done.refused.iter().map(row).collect());
    }
    let (selected, decoded, added, before) = (done.selected, done.decoded, done.added, done.rows - done.added);
    if args.dry_run {
        println!("{selected} dead letters, {decoded} would become rows; nothing was written");
    } else {
        println!("{selected} dead letters, {decoded} decode now, {added} rows added, {before} there before");
    }
    Ok(ExitCode::SUCCESS)
}
