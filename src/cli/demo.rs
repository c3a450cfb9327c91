//! `pelton demo`: the whole wheel, once, without any service.

use super::cycle::Bars;
use super::print;
use crate::daemon::cycle::Progress;
use crate::demo::{self, Figures, Options};
use crate::{config, telemetry};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `pelton demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Simulated users ask a small model questions about a shop; the calls flow through Kafka into Delta\n\
                        tables; SQL picks the prompts; one cycle tunes the model without labels; the holdout shows by how\n\
                        much it got better; the version arrives as an event. Takes a few minutes on two cores.\n\
                        Exits with 0 where the tuned model was promoted and the audit is clean, with 1 otherwise."
)]
pub struct Args {
    /// Where everything is written; an earlier demo there is cleared
    #[arg(long, default_value = "pelton-demo")]
    dir: PathBuf,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Use this broker (HOST:PORT) instead of the one in the process
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// The base model's folder
    #[arg(long, default_value = "models/sql-tiny")]
    model: PathBuf,
    /// How many questions the users ask
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(60..=5000))]
    questions: u16,
    /// The seed of the questions and of the training
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let quiet =
        config::Telemetry { filter: "warn,librdkafka=off,rdkafka=off".to_owned(), ..config::Telemetry::default() };
    telemetry::install(&quiet).map_err(anyhow::Error::msg)?;
    let options = Options {
        dir: args.dir,
        kafka: args.kafka,
        model: args.model,
        questions: usize::from(args.questions),
        seed: args.seed,
    };
    let bars = Bars::default();
    let watch = |progress: Progress| bars.show(&progress);
    let figures = demo::run(&options, &watch).await?;
    bars.finish();
    show(&figures);
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", figures.to_json());
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let clean = figures.missing == 0 && figures.duplicate == 0 && figures.rows_ingested == figures.rows_produced;
    Ok(if clean && figures.report.verdict.is_promote() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(f: &Figures) {
    let (base, tuned, gain) = f.accuracy();
    let r = &f.report;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let points = |v: f64| format!("{:+.1}", 100.0 * v);
    let interval = |i: crate::domain::Interval| format!("{} to {}", points(i.low), points(i.high));
    println!();
    print::table(
        &["on the holdout", "base", "tuned", "gain", "95 % interval"],
        vec![
            vec!["right answers".to_owned(), percent(base), percent(tuned), points(gain.mean), interval(gain)],
            vec![
                "reward, without labels".to_owned(),
                percent(r.champion_reward),
                percent(r.challenger_reward),
                points(r.reward_gain.mean),
                interval(r.reward_gain),
            ],
        ],
    );
    println!();
    let (after, before) = f.served;
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    print::table(
        &["the wheel", ""],
        vec![
            row("logs produced", f.rows_produced.to_string()),
            row("rows ingested", f.rows_ingested.to_string()),
            row("dead letters", format!("{} (the demo sent 3 messages of garbage)", f.dead_letters)),
            row("audit", format!("{} missing, {} duplicate", f.missing, f.duplicate)),
            row("responses explored", f.candidates.to_string()),
            row("holdout prompts", r.prompts.to_string()),
            row("version", format!("{}, {}", f.version, if r.verdict.is_promote() { "promoted" } else { "rejected" })),
            row("all questions over HTTP", format!("{} right, then {}", percent(before), percent(after))),
            row("event", format!("{} {}", f.event["headers"]["ce_type"].as_str().unwrap_or_default(), f.event_id)),
            row("time, memory", format!("{:.0} s, {} MiB at most", f.seconds, f.peak_rss_bytes >> 20)),
        ],
    );
    let config = f.dir.join("pelton.toml");
    println!("\nWhere to look next:");
    println!("  {}/report.html", f.location.trim_start_matches("file://"));
    println!(
        "  pelton sql --config {} \"SELECT prompt, completion, model_version FROM inference_log\"",
        config.display()
    );
    println!("  pelton sql --config {} \"SELECT text, reward, components FROM candidate\"", config.display());
    println!("  pelton model list --config {}", config.display());
    if let crate::domain::Verdict::Reject(why) = &r.verdict {
        println!("\nThe gate refused the version: {}", why.join("; "));
    }
}
