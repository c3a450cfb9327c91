//! The interactive shell of `pelton sql`: history, statements over many lines, completion.
//!
//! Everything that decides is a pure function of the text ([`input`], [`complete`]); this file only reads lines, runs
//! statements and prints. Ctrl-C clears the line, or stops the statement that runs; Ctrl-D leaves.

pub mod complete;
mod editor;
pub mod input;

use super::error::Error;
use super::format::{Format, write};
use super::session::Session;
use complete::Names;
use datafusion::arrow::datatypes::DataType;
use editor::ShellEditor;
use input::{Command, Input};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

const PROMPT: &str = "pelton> ";
const HELP: &str = "\
SQL, over one or more lines, ends with `;`. It is read-only: SELECT, WITH, EXPLAIN, SHOW, DESCRIBE.
  .tables      the tables
  .schema T    the columns of table T
  .help        this text
  .quit        leave (or Ctrl-D)
Tab completes names and keywords, the arrows walk the history, Ctrl-C clears the line or stops a query.";

/// Why the shell ended otherwise than by `.quit`.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The terminal could not be read.
    #[error("the terminal could not be read: {0}")]
    Terminal(#[source] rustyline::error::ReadlineError),
    /// The terminal could not be written.
    #[error("the terminal could not be written: {0}")]
    Write(#[source] io::Error),
}

/// Reads statements from the terminal and answers them until the user leaves. `history` is the file that keeps them;
/// without one, history ends with the shell.
///
/// # Errors
/// [`ShellError`] where the terminal fails; a query that fails only prints its error.
pub async fn run(session: &Session, history: Option<PathBuf>, out: &mut (dyn Write + Send)) -> Result<(), ShellError> {
    let names = Names::of(session);
    let mut editor = ShellEditor::new(names, history).map_err(ShellError::Terminal)?;
    writeln!(out, "{} tables; .help shows what works here", session.tables().len()).map_err(ShellError::Write)?;
    loop {
        let (next, line) = editor.read(PROMPT).await.map_err(ShellError::Terminal)?;
        editor = next;
        let Some(line) = line else { break };
        match input::parse(&line) {
            Input::Nothing => {}
            Input::Command(Command::Quit) => break,
            Input::Command(command) => print(out, &answer_command(session, &command))?,
            Input::Statement(sql) => run_statement(session, &sql, out).await?,
        }
    }
    Ok(())
}

/// What a command other than `.quit` prints.
#[must_use]
pub fn answer_command(session: &Session, command: &Command) -> String {
    match command {
        Command::Quit => String::new(),
        Command::Help => HELP.to_owned(),
        Command::Tables => session.tables().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("\n"),
        Command::Schema(None) => "name a table: .schema TABLE".to_owned(),
        Command::Schema(Some(table)) => schema_text(session, table),
        Command::Unknown(text) => format!("unknown command `{text}`; .help shows what works here"),
    }
}

fn schema_text(session: &Session, table: &str) -> String {
    let Some((_, schema)) = session.tables().iter().find(|(name, _)| name == table) else {
        let known: Vec<String> = session.tables().iter().map(|(name, _)| name.clone()).collect();
        let near = super::near_matches(table, known.iter().map(String::as_str));
        return Error::UnknownTable { table: table.to_owned(), near, known }.to_string();
    };
    let width = schema.fields().iter().map(|f| f.name().len()).max().unwrap_or(0);
    let line = |name: &str, kind: &str, nullable: bool| {
        format!("{name:width$}  {kind}{}", if nullable { "" } else { " not null" })
    };
    let lines = schema.fields().iter().map(|f| line(f.name(), &sql_type(f.data_type()), f.is_nullable()));
    lines.collect::<Vec<_>>().join("\n")
}

/// The type as SQL names it, where it has a name there.
fn sql_type(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytea".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(_, None) => "timestamp".to_owned(),
        DataType::Timestamp(_, Some(zone)) => format!("timestamp ({zone})"),
        DataType::List(item) => format!("{}[]", sql_type(item.data_type())),
        other => other.to_string(),
    }
}

async fn run_statement(session: &Session, sql: &str, out: &mut (dyn Write + Send)) -> Result<(), ShellError> {
    let start = Instant::now();
    let work = async { write(session.query(sql).await?, Format::Table, &mut *out).await };
    let done = tokio::select! {
        done = work => Some(done),
        _ = tokio::signal::ctrl_c() => None,
    };
    match done {
        None => print(out, "stopped"),
        Some(Err(Error::Write(error))) => Err(ShellError::Write(error)),
        Some(Err(error)) => print(out, &format!("error: {error}")),
        Some(Ok(rows)) => {
            let plural = if rows == 1 { "" } else { "s" };
            print(out, &format!("{rows} row{plural} in {:.3} s", start.elapsed().as_secs_f64()))
        }
    }
}

fn print(out: &mut (dyn Write + Send), text: &str) -> Result<(), ShellError> {
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(ShellError::Write)
}
