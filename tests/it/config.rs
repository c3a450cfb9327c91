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

/// What a file of one section is told, by the paths of its problems.
fn paths_of(text: &str) -> Vec<String> {
    let text = format!("version = 1\n{text}\n");
    problems(&text).iter().map(|p| p.split(": ").next().unwrap().to_owned()).collect()
}

#[test]
fn routes_registries_columns_retention_and_redaction_are_checked() {
    let registry = "[ingest.registry]\nurl = 'http://r:8081'\n";
    let route = |fields: &str| format!("[[ingest.routes]]\n{fields}");
    let cases: &[(String, &[&str])] = &[
        (route("topics = 'a'\ntable = 'x_log'"), &[]),
        (route("topics = 'a b'"), &["ingest.routes.0.topics"]),
        (route("topics = '^a[0-9]+-(x|y)$'"), &[]),
        (route("topics = '^a('"), &["ingest.routes.0.topics"]),
        (route(r"topics = '^a\d'"), &["ingest.routes.0.topics"]),
        (route("topics = '^(?:a|b)'"), &["ingest.routes.0.topics"]),
        (route("topics = '^a.*?'"), &["ingest.routes.0.topics"]),
        (route("topics = '^ä'"), &["ingest.routes.0.topics"]),
        (format!("[ingest]\ndead_letter_topic = 'd'\n{}", route("topics = 'd'")), &["ingest.routes.0.topics"]),
        (route("topics = 'a'\nformat = 'registry'"), &["ingest.routes.0.format"]),
        (format!("{registry}{}", route("topics = 'a'\nformat = 'registry'")), &[]),
        (route("topics = 'a'\ntable = 'Upper'"), &["ingest.routes.0.table"]),
        ("[ingest.registry]\nurl = 'r:8081'".to_owned(), &["ingest.registry.url"]),
        ("[ingest.registry]\nurl = 'ftp://r'".to_owned(), &["ingest.registry.url"]),
        (format!("{registry}username = 'u'"), &["ingest.registry.username"]),
        (format!("{registry}password = 'p'"), &["ingest.registry.username"]),
        (format!("{registry}username = 'u'\npassword = 'p'"), &[]),
        (format!("{registry}username = 'u'\npassword = 'p'\ntoken = 't'"), &["ingest.registry.token"]),
        ("[ingest.columns]\ntenant = { field = 't', type = 'long' }".to_owned(), &[]),
        ("[ingest.columns]\nTenant = { field = 't', type = 'long' }".to_owned(), &["ingest.columns.Tenant"]),
        (
            "[ingest.columns]\na = { field = 't', type = 'long' }\nb = { field = 't', type = 'string' }".to_owned(),
            &["ingest.columns.b.field"],
        ),
        ("[redact]\nfields = ['requester', 'request.user']".to_owned(), &[]),
        (
            "[redact]\nfields = ['', 'a..b', 'status_code']".to_owned(),
            &["redact.fields.0", "redact.fields.1", "redact.fields.2"],
        ),
        ("[redact.custom]\nbadge = 'B-[0-9]+'".to_owned(), &[]),
        ("[redact.custom]\nbadge = '('".to_owned(), &["redact.custom.badge"]),
        ("[redact.custom]\nbadge = 'B*'".to_owned(), &["redact.custom.badge"]),
        ("[redact.custom]\nemail = 'x'".to_owned(), &["redact.custom.email"]),
        ("[redact.custom]\n'9x' = 'x'".to_owned(), &["redact.custom.9x"]),
        ("[redact]\nkey = 'short'".to_owned(), &["redact.key"]),
        ("[redact]\nkey = 'sixteen bytes or more'\nkey_file = 'k'".to_owned(), &["redact.key"]),
        ("[redact]\nkey = 'sixteen bytes or more'".to_owned(), &[]),
        ("[maintenance.retention_days]\ninference_log = 90\ndead_letter = 1".to_owned(), &[]),
        ("[maintenance.retention_days]\ninference_log = 0".to_owned(), &["maintenance.retention_days.inference_log"]),
        ("[maintenance.retention_days]\nremoval = 9".to_owned(), &["maintenance.retention_days.removal"]),
        ("[maintenance.retention_days]\nx_log = 9".to_owned(), &["maintenance.retention_days.x_log"]),
        (format!("[maintenance.retention_days]\nx_log = 9\n{}", route("topics = 'a'\ntable = 'x_log'")), &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(paths_of(text), *expected, "{text}\n{:#?}", problems(&format!("version = 1\n{text}\n")));
    }
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
