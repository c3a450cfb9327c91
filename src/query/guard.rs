//! Which statements may run: one that only reads.
//!
//! The check is on the parsed statement, before anything is planned, so that the error can name what was asked for.

use super::error::Error;
use datafusion::common::DataFusionError;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{Statement as SqlStatement, visit_statements};
use std::ops::ControlFlow;

/// A query's text at most. DataFusion plans recursively, so a longer chain of operators could exhaust a thread's stack;
/// prompts and answers never belong into the text.
const SQL_BYTES_MAX: usize = 64 * 1024;

/// Parses the one statement of `sql` and refuses all that does more than read.
pub(super) fn parse_read_only(sql: &str) -> Result<Statement, Error> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(Error::TooLong { bytes: sql.len(), bytes_max: SQL_BYTES_MAX });
    }
    let mut statements = DFParser::parse_sql(sql).map_err(|e| syntax(&e))?;
    match (statements.pop_front(), statements.len()) {
        (None, _) => Err(Error::Empty),
        (Some(statement), 0) => only_reading(&statement).map(|()| statement),
        (Some(_), rest) => Err(Error::ManyStatements { count: rest + 1 }),
    }
}

fn syntax(error: &DataFusionError) -> Error {
    Error::from_datafusion(error, 0)
}

fn only_reading(statement: &Statement) -> Result<(), Error> {
    match statement {
        Statement::Statement(inner) => only_reading_sql(inner),
        Statement::Explain(explain) => only_reading(&explain.statement),
        Statement::CreateExternalTable(_) => Err(refused("CREATE EXTERNAL TABLE")),
        Statement::CopyTo(_) => Err(refused("COPY")),
        Statement::Reset(_) => Err(refused("RESET")),
    }
}

/// Checks the statement and every statement inside it: `WITH … INSERT` and `EXPLAIN DELETE` are trees too.
fn only_reading_sql(statement: &SqlStatement) -> Result<(), Error> {
    let found = visit_statements(statement, |inner| match inner {
        SqlStatement::Query(_)
        | SqlStatement::Explain { .. }
        | SqlStatement::ExplainTable { .. }
        | SqlStatement::ShowTables { .. }
        | SqlStatement::ShowColumns { .. }
        | SqlStatement::ShowVariable { .. }
        | SqlStatement::ShowFunctions { .. } => ControlFlow::Continue(()),
        other => ControlFlow::Break(leading_keywords(&other.to_string())),
    });
    match found {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(keywords) => Err(refused(&keywords)),
    }
}

fn refused(statement: &str) -> Error {
    Error::NotReadOnly { statement: statement.to_owned() }
}

/// `CREATE TABLE`, `DELETE` …: the words in capitals that a statement opens with, two at most.
fn leading_keywords(text: &str) -> String {
    let is_keyword = |word: &&str| word.chars().all(|c| c.is_ascii_uppercase());
    let words: Vec<&str> = text.split_whitespace().take_while(is_keyword).take(2).collect();
    if words.is_empty() { "this statement".to_owned() } else { words.join(" ") }
}
