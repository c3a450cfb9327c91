//! `pelton audit`: is every message of every partition in the tables exactly once?

use super::{ConfigFile, print};
use crate::daemon;
use crate::daemon::audit::{AuditReport, AuditedPartition, Explanation, audit};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Arguments of `pelton audit`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For each topic partition the tables are read: every offset from the first to the one committed with\n\
                        them must be in a row or a dead letter, once, or on record as removed by retention or by\n\
                        `pelton forget`. Where offsets have gaps, the broker is asked whether it holds a message\n\
                        there; transaction markers and compaction leave legal gaps.\n\
                        Exits with 0 where nothing is missing and nothing is there twice, with 1 otherwise."
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let report = audit(&config.kafka, &lake).await?;
    if args.json {
        println!("{}", to_json(&report));
    } else {
        show(&report);
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(report: &AuditReport) {
    let row = |p: &AuditedPartition| {
        let t = &p.tables;
        vec![
            t.key.topic.clone(),
            t.key.partition.to_string(),
            t.first.to_string(),
            t.next.to_string(),
            t.rows.to_string(),
            t.dead_letters.to_string(),
            t.replayed.to_string(),
            t.removed.to_string(),
            t.given_up.to_string(),
            t.duplicate.to_string(),
            p.gaps
                .iter()
                .map(|(gap, why)| format!("{} to {} {}", gap.first, gap.last, explain(why)))
                .collect::<Vec<_>>()
                .join(", "),
        ]
    };
    let header = [
        "topic",
        "partition",
        "first",
        "next",
        "rows",
        "dead letters",
        "replayed",
        "removed",
        "given up",
        "duplicate",
        "gaps",
    ];
    print::table(&header, report.partitions.iter().map(row).collect());
    let verdict = if report.is_clean() { "clean" } else { "NOT CLEAN" };
    println!(
        "{verdict}: {} rows, {} dead letters, {} removed on record, {} missing, {} duplicate",
        report.rows(),
        report.dead_letters(),
        report.removed(),
        report.missing(),
        report.duplicate()
    );
}

fn explain(why: &Explanation) -> String {
    match why {
        Explanation::NoMessage => "(the broker holds no message there)".to_owned(),
        Explanation::Lost { offset } => format!("(LOST: the broker has a message at {offset})"),
        Explanation::Expired => "(MISSING: the broker no longer has these)".to_owned(),
    }
}

/// The report for scripts.
pub(crate) fn to_json(report: &AuditReport) -> Value {
    let gap = |(gap, why): &(crate::lake::Gap, Explanation)| json!({"first": gap.first, "last": gap.last, "explanation": explain(why), "legal": *why == Explanation::NoMessage});
    let partition = |p: &AuditedPartition| {
        json!({
            "topic": p.tables.key.topic, "partition": p.tables.key.partition, "first": p.tables.first, "next": p.tables.next,
            "rows": p.tables.rows, "dead_letters": p.tables.dead_letters, "replayed": p.tables.replayed,
            "removed": p.tables.removed,
            "given_up": p.tables.given_up,
            "duplicate": p.tables.duplicate,
            "gaps": p.gaps.iter().map(gap).collect::<Vec<_>>(),
        })
    };
    json!({
        "clean": report.is_clean(),
        "rows": report.rows(),
        "dead_letters": report.dead_letters(),
        "removed": report.removed(),
        "missing": report.missing(),
        "duplicate": report.duplicate(),
        "partitions": report.partitions.iter().map(partition).collect::<Vec<_>>(),
    })
}
