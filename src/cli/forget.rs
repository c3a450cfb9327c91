//! `pelton forget`: everything that is about one requester goes, and a receipt stays.

use super::{ConfigFile, print};
use crate::{daemon, runtime};
use anyhow::Result;
use std::process::ExitCode;

/// Arguments of `pelton forget`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Deletes the requester's rows from every table that can hold them, with what was derived from prompts\n\
                        that only they asked, and the files of old versions that hold them. Daemons may go on meanwhile.\n\
                        Prints a receipt and stores it under receipts/ in the lake; it names the requester by SHA-256 only,\n\
                        and the adapters that were tuned on the rows. `pelton audit` stays clean.\n\
                        Exits with 0 where all is gone, with 1 where files written moments ago must be looked at again\n\
                        after a quarter of an hour: run it again then.\n\n\
                        What is still in Kafka's topics, or arrives later, is not covered."
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The requester, exactly as the logs name it
    #[arg(long, value_name = "X", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    requester: String,
    /// Only count what would go
    #[arg(long)]
    dry_run: bool,
    /// Print the receipt as JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let receipt = daemon::forget::forget(&lake, &args.requester, runtime::now(), args.dry_run).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&receipt.json)?);
    } else {
        show(&receipt, args.dry_run);
    }
    Ok(if receipt.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(receipt: &daemon::forget::Receipt, dry_run: bool) {
    let row = |t: &crate::lake::ForgottenTable| {
        vec![
            t.table.to_string(),
            t.rows.to_string(),
            t.files_rewritten.to_string(),
            t.files_deleted.to_string(),
            t.files_pending.len().to_string(),
            format!("{} to {}", t.version_before, t.version_after),
        ]
    };
    let header = ["table", "rows", "files rewritten", "files deleted", "files pending", "versions"];
    print::table(&header, receipt.forgotten.tables.iter().map(row).collect());
    if !receipt.versions.is_empty() {
        let names: Vec<String> = receipt.versions.iter().map(ToString::to_string).collect();
        println!("tuned on or measured with their prompts: {}", names.join(", "));
    }
    let rows = receipt.forgotten.rows();
    match (dry_run, receipt.complete) {
        (true, _) => println!("{rows} rows would go"),
        (false, true) => println!("{rows} rows are gone; receipt {}", receipt.json["receipt"].as_str().unwrap_or("")),
        (false, false) => {
            println!("{rows} rows are gone; files that were written moments ago are left: run again in 15 minutes")
        }
    }
}
