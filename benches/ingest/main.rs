//! `cargo bench --bench ingest`: what ingestion costs, from Kafka's bytes to a committed Delta table.
//!
//! One run, on one machine, on the same messages: (a) the raw limit, a consumer that only counts bytes; (b) `pelton run`
//! as its own process, from its start to the last commit; (c) decode alone, bytes to Arrow builders; (d) Parquet encode
//! alone; (e) the time from produce to queryable at a fixed rate with the latency setting. CPU seconds are those of the
//! measured process or thread as the kernel counts them, never the producer's or the broker's: on a machine that is shared
//! they are the figure to trust. Figures go to the terminal and to `target/bench/ingest.json`.
//!
//! ```text
//! cargo bench --bench ingest -- [--trace FILE] [--text FILE] [--megabytes N] [--rate N] [--seconds N] [--only a,b]
//! ```
//!
//! `--trace` is a CSV with `ContextTokens` and `GeneratedTokens` in the second and third column (the Azure LLM inference
//! trace 2023 is one), `--text` JSON lines whose string fields are the text. `PELTON_TEST_KAFKA=HOST:PORT` names a broker
//! that runs already; otherwise `scripts/kafka.sh` starts one and it is stopped at the end.

mod alone;
mod broker;
mod corpus;
mod cpu;
mod daemon;
mod latency;
mod raw;
#[path = "../engine/report.rs"]
mod report;

use anyhow::{Context as _, Result};
use broker::Broker;
use corpus::Corpus;
use report::Report;
use std::path::PathBuf;

/// The daemon's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Options {
    trace: Option<PathBuf>,
    text: Option<PathBuf>,
    megabytes: usize,
    rate: u64,
    seconds: u64,
    only: Vec<String>,
    /// Lines for the daemon's `[ingest]` section, to compare settings.
    ingest: String,
    /// How the topic's batches are compressed.
    compression: String,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            trace: None,
            text: None,
            megabytes: 1000,
            rate: 5000,
            seconds: 20,
            only: Vec::new(),
            ingest: String::new(),
            compression: "none".to_owned(),
        };
        let mut given = std::env::args().skip(1).filter(|a| a != "--bench");
        while let Some(name) = given.next() {
            let value = given.next().with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--trace" => options.trace = Some(value.into()),
                "--text" => options.text = Some(value.into()),
                "--megabytes" => options.megabytes = value.parse()?,
                "--rate" => options.rate = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--ingest" => options.ingest = value,
                "--compression" => options.compression = value,
                _ => anyhow::bail!("{name} is not an option of this bench"),
            }
        }
        Ok(options)
    }

    fn wants(&self, phase: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == phase)
    }
}

fn main() -> Result<()> {
    let options = Options::parse()?;
    let mut report = Report::new();
    let corpus = Corpus::open(options.trace.as_deref(), options.text.as_deref())?;
    report.say(&corpus.about());
    if options.wants("decode") || options.wants("encode") {
        alone::measure(&corpus, &options, &mut report)?;
    }
    if ["raw", "pelton", "latency"].iter().any(|p| options.wants(p)) {
        let broker = Broker::open()?;
        if options.wants("raw") || options.wants("pelton") {
            let sent = broker.fill(&corpus, options.megabytes << 20, &options.compression)?;
            report.say(&format!("{} messages, {:.0} MB in {}", sent.messages, sent.megabytes(), sent.topic));
            let raw = if options.wants("raw") { Some(raw::measure(&broker, &sent, &mut report)?) } else { None };
            if options.wants("pelton") {
                daemon::measure(&broker, &sent, raw, &options, &mut report)?;
            }
            broker.drop_topic(&sent.topic)?;
        }
        if options.wants("latency") {
            latency::measure(&broker, &corpus, &options, &mut report)?;
        }
    }
    report.write("ingest")
}
