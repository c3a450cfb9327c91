//! `pelton gap`: partitions that stopped, and giving up what the broker no longer has.

use super::{ConfigFile, print};
use crate::daemon;
use crate::daemon::gap::{Accepted, Stopped, accept, stopped};
use anyhow::{Context as _, Result};
use clap::Subcommand;
use std::process::ExitCode;

/// Arguments of `pelton gap`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show partitions whose next offset the broker does not have; exits with 1 where there are any
    List(List),
    /// Let a partition go on without what it lacks, on record: at the oldest message that the broker has; or, where the
    /// broker lost the end of its log, at the first message that is another than the stored one
    Accept(Accept),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A running daemon goes on within seconds. `pelton audit` counts the range as given up, not as missing.\n\
                  Where the broker's log ends before what the tables hold, what is stored stays, and new messages at the\n\
                  same offsets are told from it by another kafka_topic_id."
)]
struct Accept {
    /// TOPIC/PARTITION, as `pelton gap list` shows it
    partition: String,
    #[command(flatten)]
    config: ConfigFile,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::List(args) => list(args).await,
        Command::Accept(args) => give_up(args).await,
    }
}

async fn list(args: List) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let found = stopped(&config, &lake).await?;
    let row = |gap: &Stopped| {
        let missing = if gap.is_overtaken() {
            format!("{} to {}: older than what the broker has", gap.standing.next, gap.low - 1)
        } else {
            format!("the broker's log ends at {}, before what the tables hold", gap.high)
        };
        let name = format!("{}/{}", gap.standing.key.topic, gap.standing.key.partition);
        vec![
            name,
            gap.table.to_string(),
            gap.standing.next.to_string(),
            gap.low.to_string(),
            gap.high.to_string(),
            missing,
        ]
    };
    print::table(&["partition", "table", "next", "low", "high", "missing"], found.iter().map(row).collect());
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn give_up(args: Accept) -> Result<ExitCode> {
    let (topic, number) = args
        .partition
        .rsplit_once('/')
        .and_then(|(topic, number)| Some((topic, number.parse::<i32>().ok()?)))
        .with_context(|| format!("`{}` is not TOPIC/PARTITION, such as inference-logs/0", args.partition))?;
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    match accept(&config, &lake, topic, number).await? {
        Accepted::GivenUp(gap) => println!(
            "{}: offsets {} to {} are given up; it goes on at {}",
            args.partition,
            gap.standing.next,
            gap.low - 1,
            gap.low
        ),
        Accepted::BegunAgain(again) => println!(
            "{}: the rows of offsets {} to {} stay, the broker lost their messages; it goes on at {} with \
             kafka_topic_id = '{}'",
            args.partition,
            again.at,
            again.stood - 1,
            again.at,
            again.key.generation
        ),
    }
    Ok(ExitCode::SUCCESS)
}
