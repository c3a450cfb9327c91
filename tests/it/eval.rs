//! `pelton eval` as users run it: figures, comparisons, and errors that name the line.

use crate::support::chat::{Act, ChatServer};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

fn pelton(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pelton")).current_dir(dir).args(["eval"]).args(arguments).output().unwrap()
}

fn ok(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn failed(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(dir: &Path, name: &str, lines: &[Value]) {
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    std::fs::write(dir.join(name), text).unwrap();
}

/// Sums with answers of which every `step`th is wrong.
fn sums(step: usize) -> Vec<Value> {
    let line = |i: usize| {
        let answer = if i.is_multiple_of(step) { format!("It is {}", i + 1) } else { format!("{}", 2 * i) };
        json!({"id": i, "prompt": format!("What is {i} + {i}?"), "reference": 2 * i, "answer": answer})
    };
    (1..=40).map(line).collect()
}

#[test]
fn answers_are_judged_and_two_runs_are_compared_prompt_by_prompt() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "bad.jsonl", &sums(2));
    write(dir.path(), "good.jsonl", &sums(5));
    std::fs::write(
        dir.path().join("scorers.toml"),
        "[answer]\nkind = 'number'\n[length]\nwords_max = 10\nweight = 0\n",
    )
    .unwrap();
    let run = |file: &str, out: &str| {
        ok(&pelton(dir.path(), &[file, "--answered", "--scorers", "scorers.toml", "--output", out]))
    };
    let table = run("bad.jsonl", "bad.json");
    assert!(table.contains("40 prompts") && table.contains("reward") && table.contains("0.500"), "{table}");
    run("good.jsonl", "good.json");
    let table = ok(&pelton(dir.path(), &["--compare", "bad.json", "--compare", "good.json"]));
    assert!(table.contains("+0.300 [") && table.contains("before"), "{table}");
    let json = ok(&pelton(dir.path(), &["--compare", "bad.json", "--compare", "good.json", "--json"]));
    let gains: Value = serde_json::from_str(&json).unwrap();
    let reward = &gains["gains"]["reward"];
    assert!(reward["low"].as_f64().unwrap() > 0.0 && reward["prompts"] == 40, "{gains}");
    let stored: Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("bad.json")).unwrap()).unwrap();
    assert_eq!(stored["rows"].as_array().unwrap().len(), 40);
    assert_eq!(stored["rows"][1]["scores"]["reward"], 0.0);
    assert!(stored["scores"]["reward"]["low"].as_f64().unwrap() < 0.5);
}

#[test]
fn a_model_on_this_machine_answers_and_sql_is_executed() {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shop = pelton::demo::shop::Shop::generate(pelton::demo::shop::SHOP_SEED);
    shop.write_parquet(&dir.path().join("shop")).unwrap();
    use pelton::demo::questions::{Dial, Side, questions};
    let asked = questions(&shop, 5, 12, Side::Asked, Dial::default());
    let line = |q: &pelton::demo::questions::Question| {
        let turns: Vec<Value> = q.messages().iter().map(|m| json!({"role": m.role, "content": m.content})).collect();
        json!({"messages": turns, "truth": q.sql})
    };
    write(dir.path(), "questions.jsonl", &asked.iter().map(line).collect::<Vec<_>>());
    std::fs::write(dir.path().join("scorers.toml"), "[sql]\ndatabase = 'shop'\n").unwrap();
    let model = root.join("models/sql-tiny").display().to_string();
    let arguments = ["questions.jsonl", "--model", &model, "--scorers", "scorers.toml", "--tokens-max", "64", "--json"];
    let run: Value = serde_json::from_str(&ok(&pelton(dir.path(), &arguments))).unwrap();
    assert_eq!(run["prompts"], 12);
    assert_eq!(run["unanswered"], 0);
    assert!(run["scores"]["sql.executes"]["mean"].as_f64().unwrap() > 0.3, "{run}");
    let correct = run["scores"]["correct"]["mean"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&correct) && run["tokens"].as_u64().unwrap() > 50, "{run}");
    let drawn = ["--samples", "3", "--temperature", "1", "--limit", "4"];
    let run: Value = serde_json::from_str(&ok(&pelton(dir.path(), &[&arguments[..], &drawn].concat()))).unwrap();
    assert_eq!((run["prompts"].as_u64(), run["rows"].as_array().unwrap().len()), (Some(4), 12));
    let long = ["questions.jsonl", "--model", &model, "--scorers", "scorers.toml", "--tokens-max", "9999"];
    assert!(failed(&pelton(dir.path(), &long)).contains("positions"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_answers() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "q.jsonl",
        &[json!({"prompt": "2?", "reference": "two"}), json!({"prompt": "3?", "reference": "three"})],
    );
    let server = ChatServer::start([Act::Say("Two.".to_owned())]).await;
    let run = |url: String| {
        let path = dir.path().to_owned();
        tokio::task::spawn_blocking(move || {
            pelton(&path, &["q.jsonl", "--endpoint", &url, "--endpoint-model", "m", "--json"])
        })
    };
    let run_found: Value = serde_json::from_str(&ok(&run(server.url.clone()).await.unwrap())).unwrap();
    assert_eq!(run_found["scores"]["reward"]["mean"], 0.5);
    let refusing = ChatServer::start([Act::Status(401, None)]).await;
    let error = failed(&run(refusing.url.clone()).await.unwrap());
    assert!(error.contains("no prompt was answered") && error.contains("401"), "{error}");
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let good = json!({"prompt": "a"}).to_string();
    let cases: &[(&str, &str)] = &[
        ("{\"prompt\": ", "q.jsonl, line 2: is no JSON"),
        ("[1]", "line 2: is no JSON object"),
        ("{\"question\": \"a\"}", "line 2: has neither `prompt` nor `messages`; it has question"),
        ("{\"messages\": [{\"role\": \"user\"}]}", "line 2: `messages` is no list"),
        ("{\"messages\": [{\"role\": \"system\", \"content\": \"a\"}]}", "no turn of the role `user`"),
        ("{\"prompt\": \"b\", \"messages\": []}", "leave one of them out"),
        ("{\"prompt\": \"b\", \"schema\": {\"type\": 12}}", "`schema` is no JSON Schema"),
        ("{\"prompt\": \"b\", \"reference\": [1]}", "`reference` is no text"),
        ("{\"prompt\": \"a\"}", "is there twice"),
    ];
    for (line, expected) in cases {
        std::fs::write(dir.path().join("q.jsonl"), format!("{good}\n{line}\n")).unwrap();
        let error = failed(&pelton(dir.path(), &["q.jsonl", "--answered"]));
        assert!(error.contains(expected), "{line}: {error}");
    }
    std::fs::write(dir.path().join("q.jsonl"), &good).unwrap();
    let scorers: &[(&str, &str)] = &[
        ("[grounding]\n", "unknown field `grounding`"),
        ("[judge]\nrubrik = 'x'\n", "unknown field `rubrik`"),
        ("[regex.r]\npattern = '('\n", "score.regex.r.pattern: is not a regular expression"),
        ("[json_schema]\nschema = { type = 12 }\n", "score.json_schema.schema: is no JSON Schema"),
        ("[answer]\nagreement_weight = 0.5\n", "agreement would be the only reward"),
        ("", "names no scorer"),
    ];
    for (toml, expected) in scorers {
        std::fs::write(dir.path().join("s.toml"), toml).unwrap();
        let error = failed(&pelton(dir.path(), &["q.jsonl", "--model", "m", "--scorers", "s.toml"]));
        assert!(error.contains(expected), "{toml}: {error}");
    }
    let usage: &[(&[&str], &str)] = &[
        (&["q.jsonl"], "who answers?"),
        (&["q.jsonl", "--model", "m"], "who judges?"),
        (&["q.jsonl", "--answered"], "has no `answer`"),
        (&["q.jsonl", "--model", "m", "--samples", "3"], "--temperature 1"),
        (&["none.jsonl", "--answered"], "cannot read none.jsonl"),
        (&[], "name the file of prompts"),
        (&["--compare", "q.jsonl", "--compare", "q.jsonl"], "is no evaluation"),
    ];
    for (arguments, expected) in usage {
        let error = failed(&pelton(dir.path(), arguments));
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}
