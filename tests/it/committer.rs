//! The exactly-once protocol against zombies, races, replays and lost answers; and that others can read what it wrote.

use crate::support::lake::{config, count, number, open};
use crate::support::parts::{assert_exact, committer, key, part};
use crate::support::python;
use pelton::domain::Timestamp;
use pelton::lake::{CommitError, Gap, Lake, Round, TableName};
use std::collections::BTreeMap;

const LOGS: TableName = TableName::InferenceLog;

fn moved(result: Result<impl std::fmt::Debug, CommitError>) -> (i64, Option<i64>) {
    match result {
        Err(CommitError::Moved { expected, found, .. }) => (expected, found),
        other => panic!("the partition moved, yet: {other:?}"),
    }
}

#[tokio::test]
async fn offsets_move_with_their_rows_and_a_replay_adds_nothing() {
    let (_dir, lake) = open().await;
    let mut us = committer(&lake).await;
    assert_eq!(us.positions(LOGS, &[key(0), key(1)]).await.unwrap(), [None, None]);
    us.pin(LOGS, &[(key(0), 5), (key(1), 0)]).await.unwrap();
    let done = us.commit(LOGS, &[part(0, 5..20), part(1, 0..10)]).await.unwrap();
    assert_eq!((done.rows, done.dead_letters), (22, 3));
    assert_eq!(us.positions(LOGS, &[key(0), key(1)]).await.unwrap(), [Some(20), Some(10)]);
    // The answer was lost: the same call again finds it done.
    let again = us.commit(LOGS, &[part(0, 5..20), part(1, 0..10)]).await.unwrap();
    assert_eq!((again.rows, again.dead_letters), (0, 0));
    // A new process finds the offsets, and the dead letters of a replay that was cut elsewhere are there already.
    let mut next = committer(&lake).await;
    assert_eq!(next.positions(LOGS, &[key(0), key(1), key(2)]).await.unwrap(), [Some(20), Some(10), None]);
    next.commit(LOGS, &[part(0, 20..30)]).await.unwrap();
    assert_exact(&lake, &[(0, 5, 30), (1, 0, 10)]).await;
}

#[tokio::test]
async fn a_zombie_adds_nothing_and_learns_where_the_partition_stands() {
    let (_dir, lake) = open().await;
    let (mut zombie, mut owner) = (committer(&lake).await, committer(&lake).await);
    zombie.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    zombie.commit(LOGS, &[part(0, 0..10)]).await.unwrap();
    assert_eq!(moved(owner.pin(LOGS, &[(key(0), 3)]).await), (3, Some(10)), "a pin holds");
    owner.commit(LOGS, &[part(0, 10..28)]).await.unwrap();
    assert_eq!(moved(zombie.commit(LOGS, &[part(0, 10..40)]).await), (10, Some(28)));
    // One part that moved keeps the whole commit out.
    zombie.pin(LOGS, &[(key(1), 0)]).await.unwrap();
    assert_eq!(moved(zombie.commit(LOGS, &[part(1, 0..10), part(0, 10..28)]).await), (10, Some(28)));
    // What was read after the part that failed must not get in either, dead letters included.
    assert_eq!(moved(zombie.commit(LOGS, &[part(0, 40..50)]).await), (40, Some(28)));
    assert_exact(&lake, &[(0, 0, 28), (1, 0, 0)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_racing_processes_one_wins_each_range_and_nothing_is_there_twice() {
    let (dir, lake) = open().await;
    committer(&lake).await.pin(LOGS, &[(key(0), 0), (key(1), 0), (key(2), 0)]).await.unwrap();
    // Three processes: two fight for partition 0 with different cuts, all have one of their own beside it.
    let race = |mine: i32, cut: i64| {
        let config = config(dir.path());
        tokio::spawn(async move {
            let lake = Lake::open(&config).await.unwrap();
            let mut committer = committer(&lake).await;
            let mut own = 0;
            for _ in 0..12 {
                let at = committer.positions(LOGS, &[key(0)]).await.unwrap()[0].unwrap();
                match committer.commit(LOGS, &[part(0, at..at + cut)]).await {
                    Ok(_) | Err(CommitError::Moved { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                committer.commit(LOGS, &[part(mine, own..own + cut)]).await.unwrap();
                own += cut;
            }
            own
        })
    };
    let (a, b) = tokio::join!(race(1, 7), race(2, 11));
    let (a, b) = (a.unwrap(), b.unwrap());
    let shared = committer(&lake).await.positions(LOGS, &[key(0)]).await.unwrap()[0].unwrap();
    assert!(shared > 0);
    assert_exact(&lake, &[(0, 0, shared), (1, 0, a), (2, 0, b)]).await;
}

#[tokio::test]
async fn offsets_survive_a_checkpoint_and_the_audit_reads_them_from_it() {
    let (dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    for i in 0..55 {
        us.commit(LOGS, &[part(0, i * 2..i * 2 + 2)]).await.unwrap();
    }
    let round = Round { now: Timestamp::EPOCH, thorough: false, dry_run: false };
    let done = lake.maintain(&pelton::config::Maintenance::default(), &[LOGS], round).await.unwrap();
    assert!(done[0].checkpoint);
    us.commit(LOGS, &[part(0, 110..120)]).await.unwrap();
    let reopened = Lake::open(&config(dir.path())).await.unwrap();
    assert_eq!(committer(&reopened).await.positions(LOGS, &[key(0)]).await.unwrap(), [Some(120)]);
    assert_exact(&reopened, &[(0, 0, 120)]).await;
}

#[tokio::test]
async fn the_audit_finds_what_is_missing_and_what_is_there_twice() {
    let (_dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    let mut lossy = part(0, 0..20);
    let kept = part(0, 2..5);
    lossy.rows = kept.rows.clone();
    us.commit(LOGS, &[lossy]).await.unwrap();
    lake.append(LOGS, kept.rows[0].clone()).await.unwrap();
    lake.append(LOGS, part(0, 30..33).rows[0].clone()).await.unwrap();
    let audit = lake.audit().await.unwrap();
    let found = &audit.partitions[0];
    // 7 and 17 are dead letters; 30, 31 and 32 lie beyond what the offsets cover.
    let gaps = [(0, 1), (5, 6), (8, 16), (18, 19)].map(|(first, last)| Gap { first, last });
    assert_eq!(found.gaps, gaps);
    assert_eq!((found.missing(), found.duplicate, found.rows, found.dead_letters), (15, 6, 6, 2));
    assert!(!audit.is_clean());
}

const COUNT: &str = "
import sys, json, deltalake
options = json.loads(sys.argv[2])
table = deltalake.DeltaTable(sys.argv[1], storage_options=options)
rows = table.to_pyarrow_table()
names = {f.name: str(f.type) for f in table.schema().fields}
print(json.dumps({'rows': rows.num_rows, 'partitions': table.metadata().partition_columns,
    'request_time': names['request_time'], 'logging_error_codes': names['logging_error_codes'],
    'prompt': sorted(rows.column('prompt').to_pylist())[0]}))
";

fn seen_by_python(url: &str, options: &BTreeMap<String, String>) -> serde_json::Value {
    serde_json::from_str(&python::run(COUNT, &[url, &serde_json::to_string(options).unwrap()])).unwrap()
}

#[tokio::test]
async fn another_makers_reader_counts_the_same_rows() {
    let (dir, lake) = open().await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    us.commit(LOGS, &[part(0, 0..500)]).await.unwrap();
    us.commit(LOGS, &[part(0, 500..1000)]).await.unwrap();
    let path = dir.path().join("lake/tables/inference_log");
    let seen = seen_by_python(path.to_str().unwrap(), &BTreeMap::new());
    assert_eq!(seen["rows"], count(&lake, LOGS, "").await);
    assert_eq!(seen["rows"], 900);
    assert_eq!(seen["partitions"], serde_json::json!(["request_date"]));
    assert_eq!(seen["prompt"], "What is order 0 worth?");
    assert!(seen["request_time"].as_str().unwrap().contains("timestamp"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_on_s3_with_conditional_puts_and_nothing_else() {
    let server = python::S3::start("pelton").await;
    let config = server.lake("s3://pelton/some/prefix");
    let (url, options) = (config.url.clone(), config.options.clone());
    let lake = Lake::open(&config).await.unwrap();
    let (mut us, mut other) = (committer(&lake).await, committer(&lake).await);
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    us.commit(LOGS, &[part(0, 0..50)]).await.unwrap();
    other.commit(LOGS, &[part(0, 50..70)]).await.unwrap();
    assert_eq!(moved(us.commit(LOGS, &[part(0, 50..60)]).await), (50, Some(70)));
    assert_exact(&lake, &[(0, 0, 70)]).await;
    assert_eq!(number(&lake, LOGS, "SELECT max(kafka_offset) FROM inference_log").await, 69);
    let reopened = Lake::open(&config).await.unwrap();
    assert_eq!(reopened.version(LOGS).await.unwrap(), lake.version(LOGS).await.unwrap());
    let mut theirs = options;
    theirs.insert("conditional_put".to_owned(), "etag".to_owned());
    assert_eq!(seen_by_python(&format!("{url}/tables/inference_log"), &theirs)["rows"], 63);
}
