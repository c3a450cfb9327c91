//! Object stores and disks that fail under the real committer, maintenance and ingest. After each: the audit is clean and
//! the counts are exact.

use crate::support::faulty::FaultyStore;
use crate::support::kafka::{self, Home, until};
use crate::support::lake::{config, count};
use crate::support::parts::{assert_exact, committer, key, part};
use pelton::config::Maintenance;
use pelton::daemon::pipeline::run_ingest;
use pelton::ingest::Progress;
use pelton::lake::{CommitError, Committer, Lake, Logs, Part, Round, Store, TableName};
use pelton::runtime::{Shutdown, now};
use rdkafka::mocking::MockCluster;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const LOGS: TableName = TableName::InferenceLog;
const PATIENCE: Duration = Duration::from_secs(90);

/// A lake whose store fails for this share of requests while it is switched on.
async fn faulty(dir: &Path, share: f64, seed: u64) -> (Lake, Arc<FaultyStore>) {
    let real = Store::open(&config(dir)).unwrap();
    let store = FaultyStore::new(real.root, share, seed);
    (Lake::open_with(Store { root: store.clone(), url: real.url }, Logs::default()).await.unwrap(), store)
}

/// Commits as the ingest worker does: a store that is away is tried again, with the same parts.
async fn insist(us: &mut Committer, parts: &[Part]) {
    loop {
        match us.commit(LOGS, parts).await {
            Ok(_) => return,
            Err(CommitError::Store(_)) => {}
            Err(moved @ CommitError::Moved { .. }) => panic!("{moved}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_loses_answers_repeats_or_lies_changes_no_count() {
    for (seed, share) in [(0, 0.02), (1, 0.05), (2, 0.15)] {
        let dir = tempfile::tempdir().unwrap();
        let (lake, store) = faulty(dir.path(), share, seed).await;
        let mut us = committer(&lake).await;
        us.pin(LOGS, &[(key(0), 0), (key(1), 0)]).await.unwrap();
        store.switch(true);
        let settings = Maintenance { files_alike_max: 2, ..Maintenance::default() };
        for i in 0..30 {
            let at = i * 11;
            insist(&mut us, &[part(0, at..at + 11), part(1, at..at + 11)]).await;
            if i % 3 == 2 {
                let round = Round { now: now(), thorough: i % 2 == 0, dry_run: false };
                // How many rounds come through is the faults' to say; what they leave behind is counted below.
                lake.maintain(&settings, &[LOGS, TableName::DeadLetter], round).await.ok();
            }
        }
        store.switch(false);
        assert!(store.struck.load(Relaxed) > 10, "seed {seed}: hardly anything went wrong");
        let round = Round { now: now(), thorough: true, dry_run: false };
        lake.maintain(&settings, &[LOGS, TableName::DeadLetter], round).await.unwrap();
        assert_exact(&lake, &[(0, 0, 330), (1, 0, 330)]).await;
        // Whoever opens the table through a sound store sees the same.
        assert_exact(&Lake::open(&config(dir.path())).await.unwrap(), &[(0, 0, 330), (1, 0, 330)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingestion_through_a_failing_store_is_exact() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("logs", 3, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let home = Home::at(&brokers, "logs");
    let path = home.config("here", "", "retry_backoff_ms_max = 50");
    let (lake, store) = faulty(home.dir.path(), 0.1, 7).await;
    let shutdown = Shutdown::new();
    let _guard = shutdown.clone().drop_guard();
    let progress = Arc::<Progress>::default();
    store.switch(true);
    let mut task = tokio::spawn(run_ingest(Arc::new(home.load(&path)), lake, progress.clone(), shutdown.clone()));
    let sound = home.lake().await;
    for round in 0..6 {
        kafka::send_logs(&brokers, "logs", 3, round * 500..(round + 1) * 500, || {});
        until("the rows", PATIENCE, async || {
            if task.is_finished() {
                panic!("ingestion ended: {:?}", (&mut task).await);
            }
            u64::try_from(count(&sound, LOGS, "").await).unwrap() >= (round + 1) * 500
        })
        .await;
    }
    assert!(store.struck.load(Relaxed) > 10, "hardly anything went wrong");
    store.switch(false);
    shutdown.cancel();
    task.await.unwrap().unwrap();
    let audit = sound.audit().await.unwrap();
    assert!(audit.is_clean() && audit.rows() == 3000, "{audit:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_space_keeps_what_it_has_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (lake, store) = faulty(dir.path(), 0.0, 1).await;
    let mut us = committer(&lake).await;
    us.pin(LOGS, &[(key(0), 0)]).await.unwrap();
    us.commit(LOGS, &[part(0, 0..20)]).await.unwrap();
    store.fill(true);
    let refused = us.commit(LOGS, &[part(0, 20..40)]).await;
    assert!(matches!(refused, Err(CommitError::Store(_))), "{refused:?}");
    assert_exact(&lake, &[(0, 0, 20)]).await;
    store.fill(false);
    us.commit(LOGS, &[part(0, 20..40)]).await.unwrap();
    assert_exact(&lake, &[(0, 0, 40)]).await;
}
