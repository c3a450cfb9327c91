//! Forgetting: the rows go everywhere, the bytes with them, the audit stays clean, and nobody else loses a row.

use crate::support::lake::{config, count, open, training_set};
use crate::support::parts::{committer, key, part, part_with};
use crate::support::python;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pelton::config::Maintenance;
use pelton::daemon::forget::forget;
use pelton::domain::{
    Answer, Candidate, ChatMessage, Comparison, CycleId, DeadLetterCode, DeadLetterRow, FeedbackRow, Finish,
    InferenceRow, Origin, Prompt, PromptHash, Timestamp, Version, VersionRef, VersionState,
};
use pelton::lake::{DeadLetterBuilder, FeedbackBuilder, Lake, Part, Round, TableName};
use pelton::publish::{Manifest, Registry};
use pelton::runtime::now;
use std::path::Path;
use std::time::{Duration, SystemTime};

const LOGS: TableName = TableName::InferenceLog;
const SECRET: &str = "my password is hunter2";
const WHO: &str = "mallory";

fn secret() -> Vec<ChatMessage> {
    vec![ChatMessage::user(SECRET)]
}

fn shared() -> Vec<ChatMessage> {
    vec![ChatMessage::user("hello")]
}

/// Every fifth row is the requester's: most with the secret, some with a prompt that others have too.
fn theirs(offset: i64, row: &mut InferenceRow<'_>) {
    let mine = offset % 5 == 0;
    row.requester = Some(if mine { WHO.into() } else { "alice".into() });
    let messages = if mine && offset % 10 == 0 { secret() } else { shared() };
    row.prompt = Some(messages[0].content.clone().into());
    row.prompt_hash = Some(PromptHash::of(&messages).to_string().into());
    row.request = pelton::domain::canonical_json(&messages).into();
}

fn origin(offset: i64) -> Origin<'static> {
    let ingest_time = Timestamp::from_millis(offset);
    let (topic, topic_id, partition, record) = ("signals", "0", 0, 0);
    Origin { topic, topic_id, partition, offset, record, time: None, ingest_time, replay_time: None }
}

async fn fill(lake: &Lake) {
    let mut us = committer(lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    for i in 0..6 {
        us.commit(LOGS, &[part_with(0, i * 20..i * 20 + 20, theirs)]).await.unwrap();
    }
    // Two signals about their calls, one by them, one of neither.
    let signals = pelton::lake::PartitionKey { topic: "signals".to_owned(), generation: "0".to_owned(), partition: 0 };
    us.pin(TableName::Feedback, &[(signals.clone(), 0)]).await.unwrap();
    let (mut rows, mut dead) = (FeedbackBuilder::new(), DeadLetterBuilder::new());
    let signal = |offset: i64, request: &str, by: &str, rows: &mut FeedbackBuilder| {
        let row = FeedbackRow {
            feedback_id: format!("f{offset}").into(),
            request_id: request.to_owned().into(),
            feedback_time: Timestamp::from_millis(offset),
            thumb: Some(true),
            score: None,
            text: Some("thanks".into()),
            requester: Some(by.to_owned().into()),
        };
        rows.append(&row, &origin(offset));
    };
    signal(0, "10", "rater", &mut rows);
    signal(1, "20", "rater", &mut rows);
    signal(2, "11", WHO, &mut rows);
    signal(3, "11", "alice", &mut rows);
    for (offset, payload) in
        [(4, format!(r#"{{"user":"{WHO}","text":"{SECRET}"}}"#)), (5, r#"{"user":"malloryx"}"#.into())]
    {
        let row = DeadLetterRow {
            code: DeadLetterCode::NotJson,
            reason: "x".to_owned(),
            key: None,
            payload: Some(payload.as_bytes()),
            headers: vec![],
        };
        dead.append(&row, &origin(offset));
    }
    let part = Part { key: signals, start: 0, end: 6, rows: vec![rows.finish()], dead_letters: vec![dead.finish()] };
    us.commit(TableName::Feedback, &[part]).await.unwrap();
}

fn cycle() -> CycleId {
    CycleId::new("support-sql-20261122t100000-ab12").unwrap()
}

/// A cycle that learned from both prompts, and the version that it made.
async fn learn(lake: &Lake) -> VersionRef {
    let prompt = |messages: Vec<ChatMessage>, id: &str| Prompt {
        request_id: id.to_owned(),
        hash: PromptHash::of(&messages),
        messages,
        request_time: Timestamp::from_millis(7),
    };
    let set = training_set(vec![prompt(secret(), "10")], vec![prompt(shared(), "11")]);
    lake.append_training_window(&cycle(), &set, now()).await.unwrap();
    let candidate = |messages: &[ChatMessage]| Candidate {
        prompt: PromptHash::of(messages),
        sample: 0,
        strategy: "temperature=1".to_owned(),
        seed: 1,
        tokens: vec![1],
        text: format!("You said: {}", messages[0].content),
        logprobs: vec![-0.5],
        finish: Finish::Stop,
        reward: Some(1.0),
        components: vec![],
    };
    lake.append_candidates(&cycle(), "explore", &[candidate(&secret()), candidate(&shared())], now()).await.unwrap();
    let version: VersionRef = "support-sql@v1".parse().unwrap();
    let answer = |text: &str| Answer { text: text.to_owned(), reward: 1.0, correct: None, tokens: 3 };
    let compared = Comparison {
        prompt: PromptHash::of(&secret()),
        question: SECRET.to_owned(),
        slice: None,
        champion: answer("a"),
        challenger: answer("b"),
    };
    lake.append_evaluation(&cycle(), &version, &[compared], now()).await.unwrap();
    let (store, root) = pelton::daemon::store_of(lake);
    let manifest = Manifest {
        format: 1,
        name: version.to_string(),
        created: now().to_string(),
        cycle: cycle().to_string(),
        base_hash: "b".to_owned(),
        parent: None,
        window: serde_json::Value::Null,
        seeds: std::collections::BTreeMap::new(),
        config_hash: "c".to_owned(),
        settings: serde_json::Value::Null,
        evaluation: serde_json::Value::Null,
        calibration: None,
        pelton: "0".to_owned(),
        files: std::collections::BTreeMap::new(),
    };
    let files = vec![("report.html".to_owned(), format!("<p>{SECRET}").into_bytes())];
    Registry::new(store, &root).store(&version, files, manifest).await.unwrap();
    let row = Version {
        reference: version.clone(),
        state: VersionState::Registered,
        time: now(),
        cycle: cycle(),
        parent: None,
        base_hash: "b".to_owned(),
        location: "here".to_owned(),
        adapter_hash: "a".to_owned(),
        holdout_prompts: 1,
        champion_reward: 0.0,
        challenger_reward: 1.0,
        gain: pelton::domain::Interval { mean: 1.0, low: 1.0, high: 1.0 },
        reason: "r".to_owned(),
    };
    lake.append_version(&row).await.unwrap();
    version
}

/// Every file under a folder that holds a text, Parquet files by what is in their columns.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let mut all = String::from_utf8_lossy(&bytes).into_owned();
        if path.extension().is_some_and(|e| e == "parquet") {
            let file = std::fs::File::open(&path).unwrap();
            for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
                all += &arrow::util::pretty::pretty_format_batches(&[batch.unwrap()]).unwrap().to_string();
            }
        }
        // Bytes print as hexadecimal.
        let hexadecimal: String = text.bytes().map(|b| format!("{b:02x}")).collect();
        if all.contains(text) || all.contains(&hexadecimal) {
            found.push(path.display().to_string());
        }
    }
    found
}

const SEEN: &str = "
import sys, json, deltalake
out = {}
for name in ['inference_log', 'feedback', 'dead_letter', 'training_window', 'candidate', 'evaluation']:
    rows = deltalake.DeltaTable(sys.argv[1] + '/' + name).to_pyarrow_table().to_pylist()
    out[name] = [len(rows), sum(1 for r in rows if r.get('requester') == sys.argv[2])]
print(json.dumps(out))
";

#[tokio::test]
async fn a_requester_is_gone_from_every_table_and_every_byte_and_the_audit_is_clean() {
    let (dir, lake) = open().await;
    fill(&lake).await;
    let version = learn(&lake).await;
    let before = lake.audit().await.unwrap();
    assert!(before.is_clean(), "{before:#?}");
    // Old versions and orphans hold the rows too: merged files, and one of a commit that never came to be.
    let settings = Maintenance { files_alike_max: 2, ..Maintenance::default() };
    lake.maintain(&settings, &[], Round { now: now(), thorough: true, dry_run: false }).await.unwrap();
    let folder = dir.path().join("lake/tables/inference_log");
    let day = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let day = day.into_iter().find(|p| p.to_string_lossy().contains("request_date=")).unwrap();
    let some = std::fs::read_dir(&day).unwrap().next().unwrap().unwrap().path();
    let orphan = day.join("part-00000-orphan.parquet");
    let half = day.join("part-00000-half.parquet#1234");
    std::fs::write(&half, SECRET).unwrap();
    std::fs::copy(some, &orphan).unwrap();
    let old = SystemTime::now() - Duration::from_secs(3600);
    for path in [&orphan, &half] {
        std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    assert!(holding(dir.path(), SECRET).len() > 8);

    let dry = forget(&lake, WHO, now(), true).await.unwrap();
    assert!(holding(dir.path(), SECRET).len() > 8, "a dry run deletes nothing");
    let receipt = forget(&lake, WHO, now(), false).await.unwrap();
    assert_eq!(dry.forgotten.rows(), receipt.forgotten.rows());
    let rows: Vec<(&str, u64)> = receipt.forgotten.tables.iter().map(|t| (t.table.as_str(), t.rows)).collect();
    assert_eq!(
        rows,
        [
            ("evaluation", 1),
            ("candidate", 1),
            ("training_window", 1),
            ("feedback", 3),
            ("dead_letter", 1),
            ("inference_log", 24)
        ]
    );
    assert!(receipt.complete, "{receipt:#?}");
    assert_eq!(receipt.versions, [version]);
    assert_eq!(holding(dir.path(), SECRET), Vec::<String>::new());
    assert_eq!(holding(&dir.path().join("lake/receipts"), WHO), Vec::<String>::new(), "a receipt names nobody");

    let after = lake.audit().await.unwrap();
    assert!(after.is_clean(), "{after:#?}");
    assert_eq!(after.removed(), 24 + 3 + 1);
    let seen: serde_json::Value =
        serde_json::from_str(&python::run(SEEN, &[dir.path().join("lake/tables").to_str().unwrap(), WHO])).unwrap();
    let expected = serde_json::json!({
        "inference_log": [84, 0], "feedback": [1, 0], "dead_letter": [13, 0],
        "training_window": [1, 0], "candidate": [1, 0], "evaluation": [0, 0],
    });
    assert_eq!(seen, expected);
    // Nothing is left to do, and the registry still trusts its folder.
    assert_eq!(forget(&lake, WHO, now(), false).await.unwrap().forgotten.rows(), 0);
    let (store, root) = pelton::daemon::store_of(&lake);
    Registry::new(store, &root).files(&receipt.versions[0]).await.unwrap();
    let reopened = Lake::open(&config(dir.path())).await.unwrap();
    assert!(reopened.audit().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_file_that_may_still_be_committed_is_spared_and_named() {
    let (dir, lake) = open().await;
    fill(&lake).await;
    let folder = dir.path().join("lake/tables/feedback");
    let file = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let file = file.into_iter().find(|p| p.extension().is_some_and(|e| e == "parquet")).unwrap();
    std::fs::copy(&file, folder.join("part-00000-young.parquet")).unwrap();
    let receipt = forget(&lake, WHO, now(), false).await.unwrap();
    assert!(!receipt.complete);
    let pending: Vec<&String> = receipt.forgotten.tables.iter().flat_map(|t| &t.files_pending).collect();
    assert_eq!(pending, ["part-00000-young.parquet"]);
    let later = Timestamp::from_micros(now().micros() + 3_600_000_000);
    assert!(forget(&lake, WHO, later, false).await.unwrap().complete);
    assert!(!folder.join("part-00000-young.parquet").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgetting_beside_commits_and_merges_loses_nobody_elses_row() {
    let (dir, lake) = open().await;
    fill(&lake).await;
    let writer = {
        let config = config(dir.path());
        tokio::spawn(async move {
            let lake = Lake::open(&config).await.unwrap();
            let settings = Maintenance { files_alike_max: 2, ..Maintenance::default() };
            let mut us = committer(&lake).await;
            for i in 6..40 {
                us.commit(LOGS, &[part(0, i * 20..i * 20 + 20)]).await.unwrap();
                if i % 4 == 0 {
                    let round = Round { now: now(), thorough: false, dry_run: false };
                    lake.maintain(&settings, &[LOGS], round).await.unwrap();
                }
            }
        })
    };
    let mut rows = 0;
    while !writer.is_finished() {
        rows += forget(&lake, WHO, now(), false).await.unwrap().forgotten.rows();
    }
    writer.await.unwrap();
    assert_eq!(rows, 24 + 3 + 1);
    let audit = lake.audit().await.unwrap();
    assert!(audit.is_clean(), "{audit:#?}");
    assert_eq!(audit.partitions[0].next, 800);
    assert_eq!(count(&lake, LOGS, "").await, 800 - 80 - 24);
    assert_eq!(count(&lake, LOGS, &format!("requester = '{WHO}'")).await, 0);
}
