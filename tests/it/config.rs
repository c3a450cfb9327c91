//! Promises of `config`: every problem at once, each with its path; shipped files are right; the schema is the truth.

use pelton::config::{self, Error};
use std::path::Path;

fn problems(text: &str) -> Vec<String> {
    let environment = |name: &str| (name == "KAFKA_PASSWORD").then(|| "secret".to_owned());
    match config::from_text(Path::new("test.toml"), text, environment) {
        Ok(_) => Vec::new(),
        Err(Error::Invalid { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = problems(text);
    assert_eq!(found, expected, "for:\n{text}");
}

const MODEL: &str = "version = 1\n[windows.w]\nsql = 'SELECT 1 WHERE t >= $since AND t < $until'\n\
                     [models.m]\nbase = 'b'\nwindow = 'w'\n[models.m.score.sql]\ndatabase = 'd'\n";

#[test]
fn the_smallest_file_is_a_version() {
    check("version = 1", &[]);
    check("", &["version: is missing or no number; begin the file with `version = 1`"]);
    check("version = 2", &["version: 2 is not a version that this Pelton reads; it reads version 1"]);
}

#[test]
fn every_problem_of_form_is_reported_at_once_with_its_path() {
    check(
        "version = 1\nthrottle = 9\n[ingest]\nbatch_row_max = 5\nstart = 'middle'\nbatch_age_ms_max = 'soon'\n[lake]\nurl = ''\n",
        &[
            "ingest.batch_age_ms_max: \"soon\" is not of type \"integer\"",
            "ingest.batch_row_max: is no known field; did you mean `batch_rows_max`?",
            "ingest.start: \"middle\" is none of `earliest`, `latest`, a time such as `2026-11-22T10:00:00Z`",
            "lake.url: \"\" is shorter than 1 character",
            "throttle: is no known field",
        ],
    );
}

#[test]
fn a_problem_inside_an_optional_section_keeps_its_path() {
    check(
        &MODEL.replace("database = 'd'", "databse = 'd'"),
        &[
            "models.m.score.sql.database: is missing",
            "models.m.score.sql.databse: is no known field; did you mean `database`?",
        ],
    );
}

#[test]
fn every_problem_of_sense_is_reported_at_once_with_its_path() {
    check(MODEL, &[]);
    let text = "version = 1\n[kafka]\nbrokers = 'localhost'\nproperties = { 'group.id' = 'x' }\n[ingest]\ntopics = ['a b']\n\
                [windows.Big]\nsql = 'SELECT 1'\n[windows.w]\nsql = 'SELECT 1'\nprompts_min = 9\nprompts_max = 3\n\
                [models.m]\nbase = 'b'\nwindow = 'v'\nschedule = { cron = 'often' }\nlora = { targets = ['qkv'] }\nscore = {}\n";
    let found = problems(text);
    let paths: Vec<&str> = found.iter().map(|p| p.split(':').next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "ingest.topics.0",
            "kafka.brokers",
            "kafka.properties.group.id",
            "models.m.lora.targets.0",
            "models.m.schedule.cron",
            "models.m.score",
            "models.m.window",
            "windows.Big",
            "windows.w.prompts_min",
            "windows.w.sql",
        ],
        "{found:#?}"
    );
}

#[test]
fn the_environment_is_read_where_it_is_named() {
    let ok = "version = 1\n[kafka.properties]\n'sasl.password' = 'x-${KAFKA_PASSWORD}'\n";
    let environment = |name: &str| (name == "KAFKA_PASSWORD").then(|| "secret".to_owned());
    let config = config::from_text(Path::new("t.toml"), ok, environment).unwrap();
    assert_eq!(config.kafka.properties["sasl.password"], "x-secret");
    check(
        "version = 1\n[kafka.properties]\n'sasl.password' = '${NOT_SET}'\n'a' = '${open'\n",
        &[
            "kafka.properties.a: has `${` without a closing `}`",
            "kafka.properties.sasl.password: the environment has no variable `NOT_SET`",
        ],
    );
}

#[test]
fn a_syntax_error_names_its_line() {
    let found = problems("version = 1\n[lake\nurl = 3\n");
    assert!(found[0].starts_with("line 2 is not TOML"), "{found:?}");
}

#[test]
fn every_shipped_configuration_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            config::from_text(&path, &text, |_| Some("x".to_owned())).unwrap_or_else(|e| panic!("{e}"));
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn the_schema_in_the_repository_is_the_one_that_the_code_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/config.v1.json");
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    let current = format!("{:#}\n", config::schema_json());
    assert_eq!(stored, current, "run `cargo run -- schema config.v1 > schemas/config.v1.json`");
}
