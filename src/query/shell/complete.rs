//! What Tab offers: a pure function of the text before the cursor and the names that a session knows.

use crate::query::session::Session;

/// Commands of the shell, as they are completed.
const COMMANDS: &[&str] = &[".help", ".quit", ".schema", ".tables"];
/// The keywords of read-only SQL.
const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CROSS JOIN",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXPLAIN ANALYZE",
    "FILTER",
    "FROM",
    "FULL JOIN",
    "GROUP BY",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER JOIN",
    "INTERSECT",
    "INTERVAL",
    "IS NOT NULL",
    "IS NULL",
    "JOIN",
    "LEFT JOIN",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER BY",
    "OVER",
    "PARTITION BY",
    "RIGHT JOIN",
    "SELECT",
    "SHOW",
    "SHOW TABLES",
    "THEN",
    "UNION",
    "UNION ALL",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
];
/// After these a table is named and nothing else.
const BEFORE_TABLE: &[&str] = &["FROM", "JOIN", "DESCRIBE", "DESC"];

/// What can be completed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Each table with its columns.
    pub tables: Vec<(String, Vec<String>)>,
    /// Functions.
    pub functions: Vec<String>,
}

impl Names {
    /// The names of a session.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        let columns = |schema: &datafusion::arrow::datatypes::SchemaRef| {
            schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>()
        };
        let tables = session.tables().iter().map(|(name, schema)| (name.clone(), columns(schema))).collect();
        Self { tables, functions: session.functions() }
    }
}

/// Offers for the word that ends at byte `cursor`: where the word begins, and what could stand there, sorted.
#[must_use]
pub fn complete(text: &str, cursor: usize, names: &Names) -> (usize, Vec<String>) {
    let before = text.get(..cursor).unwrap_or(text);
    let start = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).map_or(0, |at| {
        let separator = before[at..].chars().next().map_or(1, char::len_utf8);
        at + separator
    });
    let word = &before[start..];
    if before.trim_start().starts_with('.') {
        return (start, command(before[..start].trim(), word, names));
    }
    if let Some((table, column)) = word.rsplit_once('.') {
        return (start + table.len() + 1, columns(table, column, names));
    }
    if word.is_empty() {
        return (start, if wants_table(&before[..start]) { tables("", names) } else { Vec::new() });
    }
    (start, if wants_table(&before[..start]) { tables(word, names) } else { anything(word, names) })
}

fn command(verb: &str, word: &str, names: &Names) -> Vec<String> {
    match verb {
        "" => matching(COMMANDS.iter().copied(), word),
        ".schema" => tables(word, names),
        _ => Vec::new(),
    }
}

fn columns(table: &str, prefix: &str, names: &Names) -> Vec<String> {
    let found = names.tables.iter().find(|(name, _)| name.eq_ignore_ascii_case(table));
    // An alias is not resolved: any table's columns are better than none.
    match found {
        Some((_, columns)) => matching(columns.iter().map(String::as_str), prefix),
        None => matching(names.tables.iter().flat_map(|(_, c)| c).map(String::as_str), prefix),
    }
}

fn tables(prefix: &str, names: &Names) -> Vec<String> {
    matching(names.tables.iter().map(|(name, _)| name.as_str()), prefix)
}

fn anything(word: &str, names: &Names) -> Vec<String> {
    let own = names.tables.iter().flat_map(|(name, columns)| std::iter::once(name).chain(columns));
    let mut offers = matching(own.map(String::as_str), word);
    offers.extend(keywords(word));
    offers.extend(matching(names.functions.iter().map(String::as_str), word));
    offers.dedup();
    offers
}

/// Keywords in the case in which the word was begun.
fn keywords(word: &str) -> Vec<String> {
    let lower = word.chars().next().is_some_and(char::is_lowercase);
    let found = matching(KEYWORDS.iter().copied(), word).into_iter();
    if lower { found.map(|k| k.to_lowercase()).collect() } else { found.collect() }
}

fn wants_table(before: &str) -> bool {
    let last = before.split_whitespace().next_back().unwrap_or_default();
    BEFORE_TABLE.iter().any(|k| k.eq_ignore_ascii_case(last)) && before.ends_with(char::is_whitespace)
}

fn matching<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> Vec<String> {
    let begins = |name: &&str| name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    let mut found: Vec<String> = names.filter(begins).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}
