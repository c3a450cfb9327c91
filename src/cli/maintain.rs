//! `pelton maintain`: one thorough round of what the daemon does by itself.

use super::{ConfigFile, print};
use crate::daemon::maintenance::attestation_max;
use crate::lake::{Maintained, Round};
use crate::{daemon, runtime};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Arguments of `pelton maintain`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Merges small files, drops days past their retention, writes checkpoints, cleans the logs up, and deletes\n\
                        files that no readable version needs, by the [maintenance] section of the configuration. The daemon\n\
                        does the same by itself; both may run at once, and beside ingestion."
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Only this table; may be repeated
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Remove old rows and files although no message is dated near the clock's present: the clock is right
    #[arg(long)]
    trust_clock: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let now = runtime::now();
    let believed = args.trust_clock || lake.attests(now, attestation_max(&config.maintenance)).await?;
    let newest = if believed { None } else { lake.newest_message_until(now).await? };
    let round = Round { now, thorough: newest.is_none(), dry_run: args.dry_run };
    let tables = args.table.iter().map(|name| lake.table(name)).collect::<Result<Vec<_>, _>>()?;
    let done = lake.maintain(&config.maintenance, &tables, round).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&done.iter().map(to_json).collect::<Vec<_>>())?);
    } else {
        show(&done);
    }
    let Some(newest) = newest else { return Ok(ExitCode::SUCCESS) };
    eprintln!(
        "pelton: nothing is removed by its age: the clock says {now} and the newest message is of {newest}; if the clock is \
         right, run it again with --trust-clock"
    );
    Ok(ExitCode::FAILURE)
}

fn show(done: &[Maintained]) {
    let row = |one: &Maintained| {
        vec![
            one.table.to_string(),
            one.version.to_string(),
            format!("{} to {}", one.files_before, one.files_after),
            one.bytes.to_string(),
            format!("{} into {}", one.compacted.files_merged, one.compacted.files_written),
            one.dropped.rows.to_string(),
            if one.checkpoint { "written" } else { "not due" }.to_owned(),
            one.log_files_deleted.to_string(),
            format!("{} ({} bytes)", one.vacuumed.files, one.vacuumed.bytes),
        ]
    };
    let header =
        ["table", "version", "files", "bytes", "merged", "rows dropped", "checkpoint", "log files deleted", "vacuumed"];
    print::table(&header, done.iter().map(row).collect());
}

fn to_json(one: &Maintained) -> Value {
    json!({
        "table": one.table.as_str(),
        "version": one.version,
        "files_before": one.files_before,
        "files_after": one.files_after,
        "bytes": one.bytes,
        "files_merged": one.compacted.files_merged,
        "files_written": one.compacted.files_written,
        "bytes_merged": one.compacted.bytes,
        "rows_rewritten": one.compacted.rows,
        "row_groups_copied": one.compacted.groups_copied,
        "merges_overtaken": one.compacted.overtaken,
        "files_dropped": one.dropped.files,
        "rows_dropped": one.dropped.rows,
        "kept_from": one.dropped.kept_from,
        "checkpoint": one.checkpoint,
        "log_files_deleted": one.log_files_deleted,
        "files_vacuumed": one.vacuumed.files,
        "bytes_vacuumed": one.vacuumed.bytes,
    })
}
