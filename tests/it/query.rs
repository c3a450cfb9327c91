//! SQL: it reads the tables and nothing else, says what is wrong, and prints what programs read.

use crate::support::tables::{asked, inference_log, log_batch, table};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::ipc::reader::StreamReader;
use pelton::domain::{ChatMessage, PromptHash, Timestamp};
use pelton::query::shell::answer_command;
use pelton::query::shell::complete::{Names, complete};
use pelton::query::shell::input::{Command, Input, is_complete, parse};
use pelton::query::{Error, Format, Limits, Session, near_matches, write};
use std::time::Duration;

fn session() -> Session {
    session_with(Limits::default())
}

fn session_with(limits: Limits) -> Session {
    let rows = [asked("r-1", 1_000_000, "How many orders?"), asked("r-2", 2_500_000, "Say \"hi\", please")];
    let feedback = table("feedback", vec![log_batch(&rows)]);
    Session::new(vec![inference_log(&rows), feedback], limits).unwrap()
}

async fn text(session: &Session, sql: &str, format: Format) -> String {
    let mut out = Vec::new();
    write(session.query(sql).await.unwrap(), format, &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

async fn refused(session: &Session, sql: &str) -> Error {
    match session.query(sql).await {
        Err(error) => error,
        Ok(answer) => match answer.collect().await {
            Err(error) => error,
            Ok(rows) => panic!("`{sql}` was not refused; it gave {rows:?}"),
        },
    }
}

#[tokio::test]
async fn each_form_of_writing_is_refused_by_name() {
    let session = session();
    for (sql, name) in [
        ("INSERT INTO inference_log VALUES (1)", "INSERT INTO"),
        ("UPDATE inference_log SET request_id = 'x'", "UPDATE"),
        ("DELETE FROM inference_log", "DELETE FROM"),
        ("DROP TABLE inference_log", "DROP TABLE"),
        ("CREATE TABLE t AS SELECT 1", "CREATE TABLE"),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
        ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "CREATE EXTERNAL TABLE"),
        ("CREATE FUNCTION f(DOUBLE) RETURNS DOUBLE RETURN $1", "CREATE FUNCTION"),
        ("COPY inference_log TO '/tmp/x.csv'", "COPY"),
        ("COPY (SELECT 1) TO 's3://bucket/x.parquet'", "COPY"),
        ("EXPLAIN COPY inference_log TO '/tmp/x.csv'", "COPY"),
        ("EXPLAIN ANALYZE INSERT INTO inference_log VALUES (1)", "INSERT INTO"),
        ("TRUNCATE TABLE inference_log", "TRUNCATE TABLE"),
        ("SET datafusion.execution.batch_size = 1", "SET"),
        ("RESET datafusion.execution.batch_size", "RESET"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("BEGIN TRANSACTION", "BEGIN TRANSACTION"),
        ("SET TIME ZONE 'UTC'", "SET TIME"),
    ] {
        match refused(&session, sql).await {
            Error::NotReadOnly { statement } => assert_eq!(statement, name, "{sql}"),
            other => panic!("{sql}: {other}"),
        }
    }
    // Forms that hide a write inside a query.
    for sql in ["SELECT * INTO t FROM inference_log", "WITH x AS (SELECT 1) INSERT INTO inference_log SELECT * FROM x"]
    {
        refused(&session, sql).await;
    }
    assert_eq!(text(&session, "SELECT count(*) AS n FROM inference_log", Format::Csv).await, "n\n2\n");
}

#[tokio::test]
async fn no_file_and_no_url_is_reached() {
    let session = session();
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'file:///etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM 'https://example.org/x.csv'",
        "SELECT * FROM 's3://bucket/x.parquet'",
    ] {
        assert!(matches!(refused(&session, sql).await, Error::UnknownTable { .. }), "{sql}");
    }
    for sql in ["SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM parquet_metadata('/etc/passwd')"] {
        refused(&session, sql).await;
    }
}

#[tokio::test]
async fn reading_statements_run() {
    let session = session();
    for (sql, contains) in [
        ("WITH x AS (SELECT request_id FROM inference_log) SELECT count(*) FROM x", "2"),
        ("SHOW TABLES", "inference_log"),
        ("SHOW COLUMNS FROM inference_log", "request_time"),
        ("DESCRIBE inference_log", "messages"),
        ("EXPLAIN SELECT * FROM inference_log", "logical_plan"),
        ("EXPLAIN ANALYZE SELECT * FROM inference_log", "Plan with Metrics"),
        ("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'", "feedback"),
        ("SELECT sum(value) FROM generate_series(1, 4)", "10"),
        ("SELECT l.request_id FROM inference_log l JOIN feedback f ON l.request_id = f.request_id;", "r-2"),
    ] {
        let printed = text(&session, sql, Format::Table).await;
        assert!(printed.contains(contains), "{sql}:\n{printed}");
    }
}

#[tokio::test]
async fn errors_name_what_is_wrong_and_what_would_be_right() {
    let session = session();
    for (sql, message) in [
        (
            "SELECT reqest_id FROM inference_log",
            "unknown column `reqest_id`; did you mean `request_id` or `request_time`?",
        ),
        (
            "SELECT * FROM inference_logs",
            "unknown table `inference_logs`; did you mean `inference_log`?; tables: `inference_log`, `feedback`",
        ),
        (
            "SELECT zzz FROM inference_log",
            "unknown column `zzz`; columns here: `request_id`, `request_time`, `messages`, `output_tokens`, \
             `logging_error_codes`",
        ),
        ("SELECT * FROM zzz", "unknown table `zzz`; tables: `inference_log`, `feedback`"),
        ("SELECT 1; SELECT 2", "the query has 2 statements; send one at a time"),
        ("  -- nothing", "the query is empty"),
        ("SELECT * FROM inference_log WHERE request_time > $since", "the query uses `$since`, which has no value here"),
    ] {
        assert_eq!(refused(&session, sql).await.to_string(), message, "{sql}");
    }
    let syntax = refused(&session, "SELECT 1 +").await.to_string();
    assert!(syntax.starts_with("the query is not valid SQL: Expected"), "{syntax}");
    let function = refused(&session, "SELECT prompt_hsh(messages) FROM inference_log").await.to_string();
    assert!(function.contains("prompt_hash"), "{function}");
}

#[tokio::test]
async fn a_text_that_could_exhaust_the_stack_is_refused_and_a_long_one_runs() {
    let session = session();
    let long = format!("SELECT 1{}", " + 1".repeat(20_000));
    assert!(matches!(refused(&session, &long).await, Error::TooLong { .. }));
    let nested = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(matches!(refused(&session, &nested).await, Error::Syntax { .. }));
    let list: Vec<String> = (0..2000).map(|i| format!("'r-{i}'")).collect();
    let sql = format!("SELECT count(*) FROM inference_log WHERE request_id IN ({})", list.join(","));
    assert!(text(&session, &sql, Format::Csv).await.ends_with("\n2\n"));
}

#[tokio::test]
async fn rows_time_and_memory_are_bounded() {
    let few = session_with(Limits { rows_max: Some(10), ..Limits::default() });
    let error = refused(&few, "SELECT * FROM generate_series(1, 11)").await;
    assert_eq!(error.to_string(), "the answer has more than 10 rows; add a LIMIT");
    assert!(few.query("SELECT * FROM generate_series(1, 10)").await.unwrap().collect().await.is_ok());

    let quick = session_with(Limits { duration_max: Some(Duration::from_millis(200)), ..Limits::default() });
    let endless =
        "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value < b.value";
    assert!(matches!(refused(&quick, endless).await, Error::TooSlow { .. }));

    let small = session_with(Limits { memory_bytes_max: 1 << 20, spill_bytes_max: 0, ..Limits::default() });
    let heavy = "SELECT value, count(*) FROM generate_series(1, 3000000) GROUP BY value";
    let error = refused(&small, heavy).await;
    assert!(error.to_string().starts_with("the query needs more than its 1 MiB of memory"), "{error}");
}

#[tokio::test]
async fn the_hash_function_is_the_hash_of_the_tables() {
    let session = session();
    let printed =
        text(&session, "SELECT prompt_hash(messages) AS h FROM inference_log ORDER BY request_id", Format::Csv).await;
    let hash = PromptHash::of(&[ChatMessage::user("How many orders?")]).to_string();
    assert_eq!(printed.lines().nth(1), Some(hash.as_str()));
    let odd =
        "SELECT prompt_hash(m) IS NULL AS n FROM (VALUES ('[]'), ('no json'), ('[{\"content\":\"x\"}]'), (NULL)) t(m)";
    assert_eq!(text(&session, odd, Format::Csv).await, "n\nfalse\ntrue\ntrue\ntrue\n");
    // Parts are joined, so that the two ways to send the same text are the same prompt.
    let parts = r#"SELECT prompt_hash('[{"role":"user","content":[{"type":"text","text":"How many orders?"}]}]') AS h"#;
    assert_eq!(text(&session, parts, Format::Csv).await, format!("h\n{hash}\n"));
}

#[tokio::test]
async fn formats_are_what_programs_expect() {
    let session = session();
    let sql = "SELECT request_id, request_time, messages, nullif(output_tokens, 0) AS tokens, logging_error_codes \
               FROM inference_log ORDER BY request_id";
    let mut shown = String::new();
    for format in [Format::Table, Format::Csv, Format::Json] {
        shown += &format!("--- {}\n{}", format.as_str(), text(&session, sql, format).await);
    }
    insta::assert_snapshot!(shown);

    let mut bytes = Vec::new();
    write(session.query(sql).await.unwrap(), Format::Arrow, &mut bytes).await.unwrap();
    let batches: Vec<_> = StreamReader::try_new(&bytes[..], None).unwrap().map(Result::unwrap).collect();
    let tokens = batches[0].column_by_name("tokens").unwrap().as_primitive::<Int64Type>();
    assert_eq!(tokens.iter().collect::<Vec<_>>(), [None, Some(1)]);
}

#[tokio::test]
async fn an_empty_answer_keeps_its_columns() {
    let session = session();
    let sql = "SELECT request_id, logging_error_codes FROM inference_log WHERE false";
    assert_eq!(text(&session, sql, Format::Csv).await, "request_id,logging_error_codes\n");
    assert_eq!(text(&session, sql, Format::Json).await, "");
    assert!(text(&session, sql, Format::Table).await.contains("| request_id | logging_error_codes |"));
    let mut bytes = Vec::new();
    write(session.query(sql).await.unwrap(), Format::Arrow, &mut bytes).await.unwrap();
    assert_eq!(StreamReader::try_new(&bytes[..], None).unwrap().schema().fields().len(), 2);
}

/// A reader that went away, as `head` does.
struct Closed;

impl std::io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_closed_pipe_can_be_told_from_a_fault() {
    let session = session();
    for format in Format::ALL {
        let answer = session.query("SELECT request_id FROM inference_log").await.unwrap();
        match write(answer, format, &mut Closed).await {
            Err(Error::Write(error)) => assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe),
            other => panic!("{format:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn logged_escape_sequences_do_not_reach_the_terminal() {
    let row = ("r".to_owned(), 0, Some("\u{1b}]0;pwned\u{7}\u{1b}[2J".to_owned()));
    let session = Session::new(vec![inference_log(&[row])], Limits::default()).unwrap();
    let printed = text(&session, "SELECT messages FROM inference_log", Format::Table).await;
    assert!(!printed.contains(['\u{1b}', '\u{7}']), "{printed:?}");
    // Programs get the text as it is.
    assert!(text(&session, "SELECT messages FROM inference_log", Format::Csv).await.contains('\u{1b}'));
}

#[tokio::test]
async fn parameters_are_bound_as_times() {
    let session = session();
    let at = |micros| [("since", Timestamp::from_micros(micros))];
    let sql = "SELECT request_id FROM inference_log WHERE request_time > $since";
    for (micros, rows) in [(0, 2), (1_000_000, 1), (2_500_000, 0)] {
        let batches = session.query_with(sql, &at(micros)).await.unwrap().collect().await.unwrap();
        assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), rows, "{micros}");
    }
    let unknown = session.query_with("SELECT $sinc", &at(0)).await.err().unwrap();
    assert_eq!(unknown.to_string(), "the query uses `$sinc`, which has no value here; a window's SQL may use `$since`");
}

#[test]
fn near_matches_find_slips_and_leave_strangers_out() {
    let known = ["request_id", "request_time", "messages", "prompt", "prompt_hash", "status_code"];
    for (name, first) in [
        ("promt", "prompt"),
        ("Request_ID", "request_id"),
        ("time", "request_time"),
        ("mesages", "messages"),
        ("statuscode", "status_code"),
    ] {
        assert_eq!(near_matches(name, known).first().map(String::as_str), Some(first), "{name}");
    }
    assert!(near_matches("xyzzy", known).is_empty());
}

#[test]
fn a_statement_ends_at_its_semicolon_outside_quotes_and_comments() {
    for (text, complete) in [
        ("", true),
        ("   ", true),
        ("-- only a comment", true),
        ("SELECT 1", false),
        ("SELECT 1;", true),
        ("SELECT 1 ; -- done", true),
        ("SELECT ';'", false),
        ("SELECT ';';", true),
        ("SELECT 'it''s; fine'", false),
        ("SELECT \"a;b\"", false),
        ("SELECT 1 -- ; not yet", false),
        ("SELECT 1 /* ; */", false),
        ("SELECT 1 /* open ;", false),
        ("SELECT '", false),
        (".tables", true),
    ] {
        assert_eq!(is_complete(text), complete, "{text:?}");
    }
}

#[test]
fn a_finished_text_is_a_command_a_statement_or_nothing() {
    for (text, input) in [
        ("  ", Input::Nothing),
        (";", Input::Nothing),
        ("-- x\n", Input::Nothing),
        (".quit", Input::Command(Command::Quit)),
        (" .schema inference_log ;", Input::Command(Command::Schema(Some("inference_log".to_owned())))),
        (".schema", Input::Command(Command::Schema(None))),
        (".frob", Input::Command(Command::Unknown(".frob".to_owned()))),
        ("SELECT 1\n  + 1 ;", Input::Statement("SELECT 1\n  + 1".to_owned())),
        ("SELECT ';';", Input::Statement("SELECT ';'".to_owned())),
        // Two statements go on whole: the session says that it takes one.
        ("SELECT 1; SELECT 2;", Input::Statement("SELECT 1; SELECT 2;".to_owned())),
    ] {
        assert_eq!(parse(text), input, "{text:?}");
    }
}

#[test]
fn tab_offers_what_can_stand_there() {
    let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let names = Names {
        tables: vec![
            ("inference_log".to_owned(), columns(&["request_id", "request_time", "prompt"])),
            ("feedback".to_owned(), columns(&["request_id", "score"])),
        ],
        functions: columns(&["prompt_hash", "sum"]),
    };
    for (line, start, offers) in [
        ("sel", 0, vec!["select"]),
        ("SEL", 0, vec!["SELECT"]),
        ("SELECT pro", 7, vec!["prompt", "prompt_hash"]),
        ("SELECT * FROM ", 14, vec!["feedback", "inference_log"]),
        ("SELECT * FROM inf", 14, vec!["inference_log"]),
        ("SELECT * FROM feedback JOIN i", 28, vec!["inference_log"]),
        ("SELECT feedback.s", 16, vec!["score"]),
        ("SELECT sum(sc", 11, vec!["score"]),
        (".ta", 0, vec![".tables"]),
        (".schema fe", 8, vec!["feedback"]),
        ("SELECT ", 7, vec![]),
        ("SELECT 'ü", 8, vec![]),
    ] {
        let expected = (start, offers.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(complete(line, line.len(), &names), expected, "{line:?}");
    }
}

#[tokio::test]
async fn the_shell_lists_tables_and_columns() {
    let session = session();
    let answer = |text: &str| match parse(text) {
        Input::Command(command) => answer_command(&session, &command),
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(".tables"), "inference_log\nfeedback");
    assert!(
        answer(".schema feedback")
            .starts_with("request_id           text not null\nrequest_time         timestamp (UTC) not null\n"),
        "{}",
        answer(".schema feedback")
    );
    assert!(answer(".schema feedbak").contains("did you mean `feedback`?"));
    assert!(answer(".help").contains(".schema T"));
}
