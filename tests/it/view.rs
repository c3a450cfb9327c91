//! `request_feedback`: each logged call once, with what users said of it.

use crate::support::lake::open;
use crate::support::parts::{committer, key, part};
use arrow::util::pretty::pretty_format_batches;
use pelton::config::{self, Config};
use pelton::domain::{FeedbackRow, Origin, Timestamp};
use pelton::lake::{FeedbackBuilder, TableName};
use pelton::query::{Limits, Session, Sources};
use std::path::Path;

/// A configuration with these sections.
fn config(sections: &str) -> Config {
    config::from_text(Path::new("pelton.toml"), &format!("version = 1\n{sections}"), |_| None).unwrap()
}

#[tokio::test]
async fn signals_join_their_call_without_multiplying_it() {
    let (_dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(TableName::InferenceLog, &[(key(0), 0)]).await.unwrap();
    us.commit(TableName::InferenceLog, &[part(0, 0..4)]).await.unwrap();
    let mut rows = FeedbackBuilder::new();
    // Call 1 has three signals, one of them sent twice; call 2 one without a thumb; nobody knows call 99.
    for (offset, id, request, thumb, score) in [
        (0, "a", "1", Some(true), Some(1.0)),
        (1, "a", "1", Some(true), Some(1.0)),
        (2, "b", "1", Some(false), Some(0.0)),
        (3, "c", "1", Some(true), None),
        (4, "d", "2", None, Some(0.25)),
        (5, "e", "99", Some(true), None),
    ] {
        let signal = FeedbackRow {
            feedback_id: id.into(),
            request_id: request.into(),
            feedback_time: Timestamp::from_millis(offset * 1000),
            thumb,
            score,
            text: None,
            requester: None,
        };
        let (topic, topic_id, ingest_time) = ("signals", "0", Timestamp::EPOCH);
        let (partition, record, time, replay_time) = (0, 0, None, None);
        let origin = Origin { topic, topic_id, partition, offset, record, time, ingest_time, replay_time };
        rows.append(&signal, &origin);
    }
    lake.append(TableName::Feedback, rows.finish()).await.unwrap();
    let sources = pelton::daemon::sources(&config(""), &lake).await.unwrap();
    let session = Session::new(sources, Limits::default()).unwrap();
    let sql = "SELECT request_id, feedback_count AS n, thumbs_up AS up, thumbs_down AS down, score_mean AS score, \
               feedback_time_last AS last FROM request_feedback ORDER BY request_id";
    let answer = session.query(sql).await.unwrap().collect().await.unwrap();
    let expected = "\
+------------+---+----+------+-------+----------------------+
| request_id | n | up | down | score | last                 |
+------------+---+----+------+-------+----------------------+
| 0          | 0 | 0  | 0    |       |                      |
| 1          | 3 | 2  | 1    | 0.5   | 1970-01-01T00:00:03Z |
| 2          | 1 | 0  | 0    | 0.25  | 1970-01-01T00:00:04Z |
| 3          | 0 | 0  | 0    |       |                      |
+------------+---+----+------+-------+----------------------+";
    assert_eq!(pretty_format_batches(&answer).unwrap().to_string(), expected);
    // Windows may choose by it: its SQL is checked on the tables as they are declared.
    let window = "SELECT request_id, request_time, messages FROM request_feedback \
                  WHERE request_time >= $since AND request_time < $until AND thumbs_down = 0";
    let tables: Vec<_> = TableName::ALL.iter().map(|t| (t.to_string(), t.arrow_schema())).collect();
    let name = pelton::domain::WindowName::new("liked").unwrap();
    pelton::window::check(&name, window, Sources::declared(&tables)).await.unwrap();
    assert!(session.tables().iter().any(|(name, _)| name == "request_feedback"));
}

/// Windows, queries and rollback's checks reach into the logs' JSON and count tokens as the model that is tuned counts them.
#[tokio::test]
async fn sql_reads_json_and_counts_tokens_as_a_configured_model_does() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sql-tiny");
    let window = "SELECT request_id, request_time, messages FROM inference_log WHERE request_time >= $since \
                  AND request_time < $until AND token_count(prompt, 'm') < 200 AND (request->>'user') IS NOT NULL";
    let sections = |window: &str| {
        format!(
            "[windows.w]\nsql = \"{window}\"\n[models.m]\nbase = '{}'\nwindow = 'w'\n\
             [models.m.score.sql]\ndatabase = 'd'\n",
            base.display()
        )
    };
    let config = config(&sections(window));
    pelton::daemon::check_windows(&config).await.unwrap();

    let (_dir, lake) = open().await;
    let session = Session::new(pelton::daemon::sources(&config, &lake).await.unwrap(), Limits::default()).unwrap();
    let model = pelton::model::Model::load(&base, &candle_core::Device::Cpu).unwrap();
    let text = "How many orders did customer 7 place in May, and for how much?";
    let tokens = model.encode(text).unwrap().len();
    let request = r#"{"user":"ann","temperature":0.5,"messages":[{"role":"user","content":"Hi"}]}"#;
    let sql = format!(
        "SELECT token_count('{text}', 'm') AS tokens, token_count(CAST(NULL AS VARCHAR), 'm') AS none, r->>'user' AS name, \
         json_get_float(r, 'temperature') AS heat, json_get_str(r, 'messages', 0, 'content') AS said, \
         json_get_str('no json', 'user') AS bad FROM (SELECT '{request}' AS r)"
    );
    let answer = session.query(&sql).await.unwrap().collect().await.unwrap();
    let shown = pretty_format_batches(&answer).unwrap().to_string();
    let row: Vec<&str> = shown.lines().nth(3).unwrap().split('|').map(str::trim).collect();
    assert_eq!(row[1..7], [tokens.to_string().as_str(), "", "ann", "0.5", "Hi", ""], "{shown}");

    let unknown = session.query("SELECT token_count('x', 'n')").await.unwrap().collect().await.unwrap_err().to_string();
    assert!(unknown.contains("no model `n`; it has m"), "{unknown}");
}
