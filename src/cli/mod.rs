//! One file a subcommand: each parses its arguments, calls a stage, and prints.

pub(crate) mod audit;
mod check_config;
pub(crate) mod cycle;
mod cycle_show;
mod demo;
mod eval;
mod forget;
mod gap;
mod maintain;
mod model;
mod model_change;
mod print;
mod replay;
mod run;
mod schema;
mod serve;
mod sidecar;
mod sql;
mod window;

use crate::config::{self, Config};
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A data flywheel for self-hosted language models: inference logs from Kafka into Delta tables, fresh prompts by SQL,
/// adapters tuned without labels, versions published as Kafka events.
#[derive(Debug, Parser)]
#[command(name = "pelton", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the whole wheel turn once in this process, without any service
    Demo(demo::Args),
    /// Run the daemon: logs to tables, cycles by schedule, versions to events
    Run(run::Args),
    /// Prove from the tables that no message was lost and none is there twice
    Audit(audit::Args),
    /// Merge small files, drop old days, write checkpoints and delete what nobody needs: once, now
    Maintain(maintain::Args),
    /// Delete everything that is about one requester, from every table and its old versions, with a receipt
    Forget(forget::Args),
    /// Partitions that stopped because the broker lacks what the tables need next: list them, give a range up on record
    Gap(gap::Args),
    /// Decode dead letters again after a fix; those that decode now become rows, once
    Replay(replay::Args),
    /// Answer OpenAI's API on a model and its promoted version, each call logged to Kafka
    Serve(serve::Args),
    /// Stand between OpenAI clients and inference servers: forward, log, bring promoted versions
    Sidecar(sidecar::Args),
    /// Turns of the wheel: run one by hand, list them, show one
    Cycle(cycle::Args),
    /// Query the tables by SQL: one statement, or a shell
    Sql(sql::Args),
    /// What a window would give a cycle now
    Window(window::Args),
    /// Registered versions: list them, show one, read their events
    Model(model::Args),
    /// What a model, version or endpoint is worth on a file of prompts, by any scorers; two runs compared
    Eval(Box<eval::Args>),
    /// Check a configuration file: prints every problem with its path, or that there is none
    CheckConfig(check_config::Args),
    /// Print the JSON Schema of what crosses Pelton's borders: inference logs, feedback, events, the configuration
    Schema(schema::Args),
}

/// The configuration that nearly every subcommand reads.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration (TOML)
    #[arg(long = "config", value_name = "FILE", default_value = "configs/pelton.toml", env = "PELTON_CONFIG")]
    path: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<Config> {
        Ok(config::load(&self.path)?)
    }
}

/// Runs a parsed command line.
///
/// # Errors
/// What the command could not do, with its causes.
pub fn run(cli: Cli) -> Result<ExitCode> {
    crate::runtime::arm_failpoint().map_err(anyhow::Error::msg)?;
    match cli.command {
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Run(args) => block_on(run::run(args)),
        Command::Audit(args) => block_on(audit::run(args)),
        Command::Maintain(args) => block_on(maintain::run(args)),
        Command::Forget(args) => block_on(forget::run(args)),
        Command::Gap(args) => block_on(gap::run(args)),
        Command::Replay(args) => block_on(replay::run(args)),
        Command::Serve(args) => block_on(serve::run(args)),
        Command::Sidecar(args) => block_on(sidecar::run(args)),
        Command::Cycle(args) => block_on(cycle::run(args)),
        Command::Sql(args) => block_on(sql::run(args)),
        Command::Window(args) => block_on(window::run(args)),
        Command::Model(args) => block_on(model::run(args)),
        Command::Eval(args) => block_on(eval::run(*args)),
        Command::CheckConfig(args) => block_on(check_config::run(args)),
        Command::Schema(args) => schema::run(&args),
    }
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(future)
}
