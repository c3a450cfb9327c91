//! Model-written SQL is harmless: refused, bounded, caught; and answers compare by content.

use super::library;
use arrow::datatypes::DataType;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use pelton::tao::score::outcome::Outcome;
use pelton::tao::score::{Executor, Limits};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

fn limits() -> Limits {
    Limits { time: Duration::from_secs(5), rows_max: 50, threads: 2, ..Limits::default() }
}

#[test]
fn only_one_query_over_the_tables_is_run() {
    let executor = Executor::new(library(), limits());
    let refused = [
        "",
        "what is the price?",
        "SELECT 1; SELECT 2",
        "DROP TABLE books",
        "DELETE FROM books",
        "INSERT INTO books VALUES (1)",
        "UPDATE books SET price = 0",
        "CREATE TABLE t AS SELECT * FROM books",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "COPY books TO '/tmp/books.csv'",
        "COPY (SELECT * FROM books) TO '/tmp/books.parquet' STORED AS PARQUET",
        "SET datafusion.execution.batch_size = 1",
        "EXPLAIN ANALYZE SELECT * FROM books",
        "EXPLAIN SELECT * FROM books",
        "SHOW TABLES",
        "SELECT * INTO t FROM books",
        "SELECT * FROM generate_series(1, 10)",
        "SELECT * FROM read_parquet('/tmp/x.parquet')",
        "SELECT * FROM UNNEST([1, 2])",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT * FROM t",
        "SELECT * FROM books FOR UPDATE",
        "WITH gone AS (DELETE FROM books RETURNING *) SELECT * FROM gone",
    ];
    for (sql, outcome) in refused.iter().zip(executor.run_all(&refused)) {
        assert!(matches!(*outcome, Outcome::Refused(_)), "{sql}: {outcome:?}");
    }
    let failed = [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/tmp/x.parquet\"",
        "SELECT * FROM information_schema.tables",
        "SELECT colour FROM books",
        "SELECT repeat('a', 2000000000) FROM books",
    ];
    for (sql, outcome) in failed.iter().zip(executor.run_all(&failed)) {
        assert!(matches!(*outcome, Outcome::Failed(_)), "{sql}: {outcome:?}");
    }
    let long = format!("SELECT {} FROM books", "pages + ".repeat(2000) + "1");
    assert!(matches!(*executor.run(&long), Outcome::Refused(_)));
}

#[test]
fn a_query_is_bounded_in_rows_time_and_memory() {
    let executor = Executor::new(library(), limits());
    let many = "SELECT a.title FROM books a, books b, books c";
    let outcome = executor.run(many);
    assert!(matches!(&*outcome, Outcome::Failed(why) if why.contains("more than 50 rows")), "{outcome:?}");

    let brief = Executor::new(library(), Limits { time: Duration::from_millis(300), ..limits() });
    let tables = (0..30).map(|i| format!("books b{i}")).collect::<Vec<_>>().join(", ");
    let runaway = format!("SELECT SUM(b0.pages * b29.pages) FROM {tables}");
    let outcome = brief.run(&runaway);
    assert!(
        matches!(&*outcome, Outcome::Failed(why) if why.contains("300 ms") || why.contains("600 ms")),
        "{outcome:?}"
    );

    let poor = Executor::new(library(), Limits { memory_bytes_max: 1 << 12, ..limits() });
    let outcome = poor.run("SELECT a.title, b.title, c.title, COUNT(*) FROM books a, books b, books c, books d, books e GROUP BY 1, 2, 3 ORDER BY 4, 1, 2, 3 LIMIT 1");
    assert!(matches!(&*outcome, Outcome::Failed(why) if why.contains("esources exhausted")), "{outcome:?}");
    assert!(poor.run("SELECT title FROM books").answer().is_some(), "the next query runs as ever");
}

#[test]
fn a_panic_is_an_outcome_and_a_stuck_query_is_left_behind() {
    let panics = create_udf(
        "panics",
        vec![],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(|_: &[ColumnarValue]| panic!("index out of bounds")),
    );
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let stuck = move |_: &[ColumnarValue]| {
        let mut open = held.0.lock().unwrap();
        while !*open {
            open = held.1.wait(open).unwrap();
        }
        panic!("released")
    };
    let stuck = create_udf("stuck", vec![], DataType::Int64, Volatility::Volatile, Arc::new(stuck));
    let limits = Limits { time: Duration::from_secs(1), threads: 1, abandoned_max: 1, ..limits() };
    let executor = Executor::with_functions(library(), limits, vec![panics, stuck]);
    let outcomes = executor.run_all(&[
        "SELECT panics() FROM books",
        "SELECT COUNT(*) FROM books",
        "SELECT stuck() FROM books",
        "SELECT MAX(pages) FROM books",
        "SELECT stuck() + 1 FROM books",
        "SELECT MIN(pages) FROM books",
    ]);
    let why = |i: usize| match &*outcomes[i] {
        Outcome::Failed(why) => why.clone(),
        other => panic!("{other:?}"),
    };
    assert!(why(0).contains("panic") && why(0).contains("index out of bounds"), "{}", why(0));
    assert_eq!(outcomes[1].answer().unwrap().preview, "4", "the worker goes on after a panic");
    assert!(why(2).contains("did not stop"), "{}", why(2));
    assert_eq!(outcomes[3].answer().unwrap().preview, "450", "another worker takes over");
    assert!(why(4).contains("did not stop"), "{}", why(4));
    assert!(why(5).contains("too many"), "no thread is spent once too many are lost: {}", why(5));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

#[test]
fn answers_compare_by_content_and_equal_texts_run_once() {
    let executor = Executor::new(library(), limits());
    let agrees = |a: &str, b: &str| executor.run(a).agrees(&executor.run(b));
    assert!(agrees(
        "SELECT title FROM books WHERE genre = 'novel'",
        "SELECT b.title AS t FROM books b WHERE pages > 300"
    ));
    assert!(agrees("SELECT AVG(price) FROM books", "SELECT SUM(price) / COUNT(*) FROM books"));
    assert!(agrees("SELECT COUNT(*) FROM books", "SELECT CAST(4.0 AS DOUBLE) FROM authors LIMIT 1"));
    assert!(!agrees("SELECT title FROM books ORDER BY pages", "SELECT title FROM books ORDER BY pages DESC"));
    assert!(!agrees("SELECT genre FROM books", "SELECT DISTINCT genre FROM books"));
    assert!(!agrees("SELECT nothing FROM books", "SELECT nothing FROM books"), "failures do not agree");
    let once = executor.run("SELECT COUNT(*) FROM books");
    assert!(Arc::ptr_eq(&once, &executor.run("SELECT COUNT(*) FROM books")));
}
