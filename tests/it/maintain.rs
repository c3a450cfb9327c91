//! Maintenance: few files, the same rows, a clean audit, whoever writes or maintains beside it.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{config, count, number, open, query};
use crate::support::parts::{assert_exact, committer, key, part, part_with};
use crate::support::python;
use arrow::array::RecordBatch;
use pelton::config::Maintenance;
use pelton::daemon::forget::forget;
use pelton::domain::{LogName, Timestamp};
use pelton::lake::{CommitError, Lake, Logs, Maintained, Reason, Round, Store, TableName};
use pelton::runtime::now;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const LOGS: TableName = TableName::InferenceLog;
const DAY_MICROS: i64 = 86_400_000_000;
const HOUR_MICROS: i64 = 3_600_000_000;
const PATIENCE: Duration = Duration::from_secs(90);

fn settings() -> Maintenance {
    Maintenance { files_alike_max: 4, ..Maintenance::default() }
}

fn after(micros: i64) -> Timestamp {
    Timestamp::from_micros(now().micros() + micros)
}

async fn round(lake: &Lake, settings: &Maintenance, tables: &[TableName], now: Timestamp) -> Vec<Maintained> {
    lake.maintain(settings, tables, Round { now, thorough: true, dry_run: false }).await.unwrap()
}

/// Data files and log entries on the disk.
fn on_disk(dir: &Path, table: TableName) -> (usize, usize) {
    fn walk(dir: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, out) } else { out.push(path.display().to_string()) }
        }
    }
    let mut files = Vec::new();
    walk(&dir.join(format!("lake/tables/{table}")), &mut files);
    let data = files.iter().filter(|f| f.ends_with(".parquet") && !f.contains("_delta_log")).count();
    (data, files.iter().filter(|f| f.contains("_delta_log") && f.ends_with(".json")).count())
}

#[tokio::test]
async fn many_commits_leave_few_files_and_the_same_rows() {
    let (dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    let mut live_max = 0;
    for i in 0..120 {
        us.commit(LOGS, &[part(0, i * 5..i * 5 + 5)]).await.unwrap();
        if i % 10 == 9 {
            let done = round(&lake, &settings(), &[LOGS, TableName::DeadLetter], now()).await;
            live_max = live_max.max(done[0].files_after);
        }
    }
    assert!(live_max <= 15, "{live_max} live files after a round");
    assert_exact(&lake, &[(0, 0, 600)]).await;
    assert_eq!(number(&lake, LOGS, "SELECT count(DISTINCT request_id) FROM inference_log").await, 540);
    // The day after, the day is one file; a day later what it was made of is off the disk.
    let merging = Round { now: after(2 * DAY_MICROS), thorough: false, dry_run: false };
    let rests = lake.maintain(&settings(), &[LOGS], merging).await.unwrap();
    assert_eq!(rests[0].files_after, 1, "{rests:#?}");
    assert!(on_disk(dir.path(), LOGS).0 > 100, "old versions can still be read");
    let before = lake.version(LOGS).await.unwrap() - 1;
    assert_eq!(count(&lake, LOGS, "").await, 540);
    lake.provider(LOGS, Some(before)).await.unwrap();
    round(&lake, &settings(), &[LOGS], after(4 * DAY_MICROS)).await;
    assert_eq!(on_disk(dir.path(), LOGS).0, 1);
    assert_exact(&Lake::open(&config(dir.path())).await.unwrap(), &[(0, 0, 600)]).await;
    us.commit(LOGS, &[part(0, 600..610)]).await.unwrap();
    assert_exact(&lake, &[(0, 0, 610)]).await;
}

/// Every row of the logs, in the order of offsets, and how many of them a predicate on statistics finds.
async fn all_rows(lake: &Lake) -> (RecordBatch, i64) {
    let rows = query(lake, LOGS, "SELECT * FROM inference_log ORDER BY kafka_offset").await;
    let rows = arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap();
    (rows, count(lake, LOGS, "kafka_offset BETWEEN 12 AND 51").await)
}

#[tokio::test]
async fn large_row_groups_are_moved_as_they_are_and_small_ones_are_put_together() {
    let (dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    let long = |offset: i64, row: &mut pelton::domain::InferenceRow<'_>| {
        row.response = Some(format!("\"{offset} {}\"", "words ".repeat(100_000)).into());
        row.requester = (offset == 5).then(|| "mallory".into());
    };
    // Large and small files by turns: a large one is copied where no few rows wait, and takes them in otherwise.
    for (turn, is_large) in [true, true, false, false, true, false, true, true].into_iter().enumerate() {
        let at = turn as i64 * 10;
        let part = if is_large { part_with(0, at..at + 10, long) } else { part(0, at..at + 10) };
        us.commit(LOGS, &[part]).await.unwrap();
    }
    let before = all_rows(&lake).await;
    let rested = Round { now: after(2 * DAY_MICROS), thorough: false, dry_run: false };
    let done = lake.maintain(&settings(), &[LOGS], rested).await.unwrap();
    let compacted = done[0].compacted;
    assert_eq!((done[0].files_after, compacted.files_merged, compacted.rows), (1, 8, 72), "{compacted:?}");
    assert!((3..5).contains(&compacted.groups_copied), "{compacted:?}");
    let merged = all_rows(&lake).await;
    assert!(merged == before, "merging changed rows");
    assert_eq!(merged.1, 36);
    // What holds rows to forget is decoded, whatever its size.
    let forgotten = forget(&lake, "mallory", now(), false).await.unwrap();
    assert_eq!(forgotten.forgotten.rows(), 1);
    assert_eq!(count(&lake, LOGS, "").await, 71);
    assert!(Lake::open(&config(dir.path())).await.unwrap().audit().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_dry_run_says_what_a_round_would_do_and_does_nothing() {
    let (dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    for i in 0..10 {
        us.commit(LOGS, &[part(0, i * 5..i * 5 + 5)]).await.unwrap();
    }
    let (version, disk) = (lake.version(LOGS).await.unwrap(), on_disk(dir.path(), LOGS));
    let dry = Round { now: now(), thorough: true, dry_run: true };
    let said = lake.maintain(&settings(), &[LOGS], dry).await.unwrap();
    assert_eq!((said[0].compacted.files_merged, said[0].compacted.files_written), (10, 1));
    assert_eq!((lake.version(LOGS).await.unwrap(), on_disk(dir.path(), LOGS)), (version, disk));
    let done = round(&lake, &settings(), &[LOGS], now()).await;
    assert_eq!(done[0].compacted, said[0].compacted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_merge_at_once_beside_commits_lose_and_repeat_nothing() {
    let (dir, lake) = open().await;
    committer(&lake).await.pin(LOGS, &[(key(0), 0), (key(1), 0)]).await.unwrap();
    let daemon = |partition: i32| {
        let config = config(dir.path());
        tokio::spawn(async move {
            let lake = Lake::open(&config).await.unwrap();
            let writer = {
                let lake = lake.clone();
                tokio::spawn(async move {
                    let mut committer = committer(&lake).await;
                    for i in 0..40 {
                        match committer.commit(LOGS, &[part(partition, i * 4..i * 4 + 4)]).await {
                            Ok(_) => {}
                            Err(error @ (CommitError::Moved { .. } | CommitError::Store(_))) => panic!("{error}"),
                        }
                    }
                })
            };
            let (mut merged, mut overtaken) = (0, 0);
            while !writer.is_finished() {
                let done =
                    lake.maintain(&settings(), &[LOGS], Round { now: now(), thorough: true, dry_run: false }).await;
                let done = done.unwrap();
                merged += done[0].compacted.files_merged;
                overtaken += done[0].compacted.overtaken;
            }
            writer.await.unwrap();
            (merged, overtaken)
        })
    };
    let (a, b) = tokio::join!(daemon(0), daemon(1));
    let ((merged_a, _), (merged_b, _)) = (a.unwrap(), b.unwrap());
    assert!(merged_a + merged_b > 0, "nothing was merged");
    assert_exact(&lake, &[(0, 0, 160), (1, 0, 160)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_merge_the_same_files_one_wins_and_the_other_changes_nothing() {
    let (dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    let mut overtaken = 0;
    for turn in 0..8 {
        for i in 0..6 {
            let at = turn * 30 + i * 5;
            us.commit(LOGS, &[part(0, at..at + 5)]).await.unwrap();
        }
        let config = config(dir.path());
        let others = futures::future::join_all((0..3).map(|_| Lake::open(&config))).await;
        let others: Vec<Lake> = others.into_iter().map(Result::unwrap).collect();
        let rounds = others.iter().map(|lake| {
            let lake = lake.clone();
            tokio::spawn(async move { round(&lake, &settings(), &[LOGS], now()).await[0].compacted.overtaken })
        });
        overtaken += futures::future::join_all(rounds).await.into_iter().map(Result::unwrap).sum::<usize>();
    }
    assert!(overtaken > 0, "the race never happened");
    assert_exact(&lake, &[(0, 0, 240)]).await;
}

#[tokio::test]
async fn retention_drops_whole_days_and_the_audit_knows_why() {
    let (dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0), (key(1), 7)]).await.unwrap();
    let today = now().micros().div_euclid(DAY_MICROS);
    // Five days, newest first, all mixed in each batch; every tenth offset is a dead letter of today.
    let spread = |offset: i64, row: &mut pelton::domain::InferenceRow<'_>| {
        row.request_time = Timestamp::from_micros((today - offset % 5) * DAY_MICROS + HOUR_MICROS);
    };
    us.commit(LOGS, &[part_with(0, 0..50, spread), part_with(1, 7..32, spread)]).await.unwrap();
    us.commit(LOGS, &[part_with(0, 50..100, spread)]).await.unwrap();
    let kept = Maintenance { retention_days: BTreeMap::from([("inference_log".to_owned(), 2)]), ..settings() };
    let rows = count(&lake, LOGS, "").await;
    let at = Timestamp::from_micros(today * DAY_MICROS + 2 * HOUR_MICROS);
    let done = round(&lake, &kept, &[LOGS], at).await;
    let left = count(&lake, LOGS, "").await;
    assert_eq!(i64::try_from(done[0].dropped.rows).unwrap(), rows - left);
    assert_eq!(number(&lake, LOGS, "SELECT count(DISTINCT request_date) FROM inference_log").await, 2);
    let audit = lake.audit().await.unwrap();
    assert!(audit.is_clean(), "{audit:#?}");
    assert_eq!(audit.removed(), done[0].dropped.rows);
    assert_eq!(audit.partitions.iter().map(|p| (p.first, p.next)).collect::<Vec<_>>(), [(0, 100), (7, 32)]);
    assert!(lake.removals().await.unwrap().iter().all(|r| r.reason == Reason::Retention && r.table == LOGS));
    // A second round finds nothing, and ingestion goes on where it was.
    let again = round(&lake, &kept, &[LOGS], at).await;
    assert_eq!(again[0].dropped.files, 0);
    us.commit(LOGS, &[part_with(0, 100..120, spread)]).await.unwrap();
    let reopened = Lake::open(&config(dir.path())).await.unwrap();
    assert!(reopened.audit().await.unwrap().is_clean());
    // What retention explains, and nothing else: a row that goes without a record is missed.
    let lossy = part(0, 120..140);
    let mut empty = lossy.clone();
    empty.rows.clear();
    us.commit(LOGS, &[empty]).await.unwrap();
    assert_eq!(reopened.audit().await.unwrap().missing(), 18);
}

#[tokio::test]
async fn a_table_of_a_route_is_dropped_by_its_own_retention() {
    let dir = tempfile::tempdir().unwrap();
    let own = TableName::of_log(LogName::new("own_log").unwrap()).unwrap();
    let logs = Logs { tables: vec![own], ..Logs::default() };
    let lake = Lake::open_with(Store::open(&config(dir.path())).unwrap(), logs).await.unwrap();
    let mut us = committer(&lake).await;
    let today = now().micros().div_euclid(DAY_MICROS);
    let spread = |offset: i64, row: &mut pelton::domain::InferenceRow<'_>| {
        row.request_time = Timestamp::from_micros((today - offset % 5) * DAY_MICROS + HOUR_MICROS);
    };
    for name in [own, LOGS] {
        us.pin(name, &[(key(i32::from(name == LOGS)), 0)]).await.unwrap();
    }
    us.commit(own, &[part_with(0, 0..50, spread)]).await.unwrap();
    us.commit(LOGS, &[part_with(1, 0..50, spread)]).await.unwrap();
    let kept = Maintenance { retention_days: BTreeMap::from([("own_log".to_owned(), 3)]), ..settings() };
    let at = Timestamp::from_micros(today * DAY_MICROS + 2 * HOUR_MICROS);
    let done = round(&lake, &kept, &[own, LOGS], at).await;
    assert!(done[0].dropped.rows > 0 && done[1].dropped.rows == 0, "{done:#?}");
    assert_eq!(number(&lake, own, "SELECT count(DISTINCT request_date) FROM own_log").await, 3);
    assert_eq!(number(&lake, LOGS, "SELECT count(DISTINCT request_date) FROM inference_log").await, 5);
    let audit = lake.audit().await.unwrap();
    assert!(audit.is_clean() && audit.removed() == done[0].dropped.rows, "{audit:#?}");
}

#[tokio::test]
async fn unpartitioned_tables_are_dropped_by_the_day_that_their_rows_were_written() {
    let (_dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    us.commit(LOGS, &[part(0, 0..100)]).await.unwrap();
    let dead = TableName::DeadLetter;
    let kept = Maintenance { retention_days: BTreeMap::from([("dead_letter".to_owned(), 3)]), ..settings() };
    assert_eq!(round(&lake, &kept, &[dead], after(2 * DAY_MICROS)).await[0].dropped.files, 0);
    assert_eq!(count(&lake, dead, "").await, 10);
    assert_eq!(round(&lake, &kept, &[dead], after(4 * DAY_MICROS)).await[0].dropped.rows, 10);
    assert_eq!(count(&lake, dead, "").await, 0);
    let audit = lake.audit().await.unwrap();
    assert!(audit.is_clean() && audit.removed() == 10, "{audit:#?}");
}

#[tokio::test]
async fn late_rows_lie_in_their_own_day_and_do_not_multiply_files() {
    let (_dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    let today = now().micros().div_euclid(DAY_MICROS);
    let late = |offset: i64, row: &mut pelton::domain::InferenceRow<'_>| {
        row.request_time = Timestamp::from_micros((today - offset % 60) * DAY_MICROS + HOUR_MICROS);
    };
    let mut files = 0;
    for i in 0..12 {
        us.commit(LOGS, &[part_with(0, i * 60..i * 60 + 60, late)]).await.unwrap();
        if i % 3 == 2 {
            files = round(&lake, &settings(), &[LOGS], now()).await[0].files_after;
        }
    }
    // 720 late rows in 60 days: no day holds more than the few files that are let be, whatever the number of commits.
    assert!(files <= 60 * 5, "{files} live files");
    let days = number(&lake, LOGS, "SELECT count(DISTINCT request_date) FROM inference_log").await;
    assert_eq!(days, 54, "each row lies in its own day; every tenth offset is a dead letter");
    let elsewhere = "request_date <> CAST(request_time AS DATE)";
    assert_eq!(count(&lake, LOGS, elsewhere).await, 0);
    // An hour after the last late row every day is one file.
    let rests = round(&lake, &settings(), &[LOGS], after(2 * DAY_MICROS)).await;
    assert_eq!(rests[0].files_after, 54, "{rests:#?}");
    assert_exact(&lake, &[(0, 0, 720)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merging_forgetting_and_the_vacuum_do_the_same_on_s3() {
    let server = python::S3::start("pelton").await;
    let config = server.lake("s3://pelton/lake");
    let lake = Lake::open(&config).await.unwrap();
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    let named = |offset: i64, row: &mut pelton::domain::InferenceRow<'_>| {
        row.requester = Some(if offset % 5 == 0 { "mallory".into() } else { "alice".into() });
    };
    for i in 0..8 {
        us.commit(LOGS, &[part_with(0, i * 10..i * 10 + 10, named)]).await.unwrap();
    }
    let merging = Round { now: now(), thorough: false, dry_run: false };
    let done = lake.maintain(&settings(), &[LOGS], merging).await.unwrap();
    assert_eq!((done[0].files_before, done[0].files_after), (8, 1));
    let forgotten = forget(&lake, "mallory", now(), false).await.unwrap();
    assert_eq!((forgotten.forgotten.rows(), forgotten.complete), (16, true));
    us.commit(LOGS, &[part(0, 80..90)]).await.unwrap();
    let vacuumed = round(&lake, &settings(), &[], after(2 * DAY_MICROS)).await;
    assert!(vacuumed.iter().any(|one| one.vacuumed.files > 0 || one.compacted.files_merged > 0), "{vacuumed:#?}");
    let reopened = Lake::open(&config).await.unwrap();
    let audit = reopened.audit().await.unwrap();
    assert!(audit.is_clean(), "{audit:#?}");
    assert_eq!((audit.rows(), audit.dead_letters(), audit.removed()), (90 - 9 - 16, 9, 16));
    assert_eq!(count(&reopened, LOGS, "requester = 'mallory'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_that_ingest_and_maintain_one_lake_leave_few_files_and_every_row() {
    let topic = kafka::topic("maintained", 4, &[]).await;
    let home = Home::new(&topic);
    let ingest = "batch_rows_max = 50\n[maintenance]\nperiod_seconds = 1\nfiles_alike_max = 2";
    let configs = ["one", "two"].map(|name| home.config(name, "", ingest));
    let mut daemons = configs.clone().map(|config| Daemon::start(&config));
    let lake = home.lake().await;
    for burst in 0..10 {
        kafka::send_logs(kafka::brokers(), &topic, 4, burst * 400..(burst + 1) * 400, || {});
        until("the rows of a burst", PATIENCE, async || {
            u64::try_from(count(&lake, LOGS, "").await).unwrap() >= (burst + 1) * 400
        })
        .await;
    }
    let version = lake.version(LOGS).await.unwrap();
    assert!(version > 40, "{version} commits are too few to merge anything");
    until("few files", PATIENCE, async || {
        let dry = Round { now: now(), thorough: false, dry_run: true };
        lake.maintain(&settings(), &[LOGS], dry).await.unwrap()[0].files_after <= 8
    })
    .await;
    for (daemon, config) in daemons.iter_mut().zip(&configs) {
        daemon.assert_alive(config);
    }
    for daemon in daemons {
        assert!(daemon.stop().success());
    }
    let audit = lake.audit().await.unwrap();
    assert!(audit.is_clean() && audit.rows() == 4000, "{audit:#?}");
}
