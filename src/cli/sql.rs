//! `pelton sql`: queries over the lake's tables, one by one or in a shell.

use super::ConfigFile;
use crate::daemon;
use crate::lake::{Lake, TableName};
use crate::query::{self, Format, Limits, Session, shell};
use anyhow::{Context as _, Result, bail};
use std::io::{self, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `pelton sql`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a query, a terminal gets a shell (history, many lines until `;`, Tab completes names), and\n\
                        anything else is read as the query. SQL is read-only. csv, json and arrow stream.\n\n\
                        Examples:\n  \
                        pelton sql \"SELECT model, count(*) FROM inference_log GROUP BY model\"\n  \
                        pelton sql --format json \"SELECT * FROM feedback LIMIT 5\" | jq .score\n  \
                        pelton sql --at-version 12 \"SELECT count(*) FROM inference_log\"\n\n\
                        Beside DataFusion's functions: prompt_hash(messages), token_count(text, 'a configured model'), and for\n\
                        JSON columns such as request, response and extra ->, ->>, json_get_str, json_get_int, json_length …\n  \
                        pelton sql \"SELECT count(*) FROM inference_log WHERE (request->>'user') = 'ann'\""
)]
pub struct Args {
    /// The query; `-` reads it from standard input
    query: Option<String>,
    #[command(flatten)]
    config: ConfigFile,
    /// How the answer is written: table; csv with a header; json, one object a line; arrow, an IPC stream
    #[arg(long, default_value = "table", value_parser = ["table", "csv", "json", "arrow"])]
    format: String,
    /// Read a table as it was: N is a version of inference_log, TABLE=N of another table; may be repeated
    #[arg(long, value_name = "N|TABLE=N")]
    at_version: Vec<String>,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.config.load()?;
    let lake = daemon::open_lake(&config).await?;
    let versions = args.at_version.iter().map(|v| at_version(&lake, v)).collect::<Result<Vec<_>>>()?;
    let at = |table| versions.iter().rev().find(|(named, _)| *named == table).map(|(_, version)| *version);
    let session = Session::new(daemon::sources_at(&config, &lake, at).await?, Limits::default())?;
    let format = Format::parse(&args.format).context("clap let only known formats through")?;
    let query = match args.query.as_deref() {
        Some("-") => stdin()?,
        Some(query) => query.to_owned(),
        None if io::stdin().is_terminal() && io::stdout().is_terminal() => {
            shell::run(&session, history(), &mut io::stdout()).await?;
            return Ok(ExitCode::SUCCESS);
        }
        None if io::stdin().is_terminal() => bail!("name a query: the shell needs a terminal on both sides"),
        None => stdin()?,
    };
    answer(&session, &query, format).await
}

async fn answer(session: &Session, query: &str, format: Format) -> Result<ExitCode> {
    match query::write(session.query(query).await?, format, &mut io::stdout()).await {
        Ok(_) => Ok(ExitCode::SUCCESS),
        // `pelton sql … | head` is no fault.
        Err(query::Error::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

/// Reads `12` or `feedback=3`.
fn at_version(lake: &Lake, text: &str) -> Result<(TableName, i64)> {
    let (table, number) = text.split_once('=').unwrap_or((TableName::InferenceLog.as_str(), text));
    let table = lake.table(table)?;
    match number.parse() {
        Ok(version) if version >= 0 => Ok((table, version)),
        _ => bail!("--at-version {text}: `{number}` is no version of {table}; use a number from 0, or TABLE=N"),
    }
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("the query could not be read from standard input")?;
    Ok(text)
}

/// Where the shell's history lies: the user's state folder, as the XDG base directories have it.
fn history() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(".local/state/pelton/sql_history"))
}
