//! What breaks around ingestion: brokers, stores, retention, transactions, memory. In-process, with faults injected.

use crate::support::kafka::{self, Home, until};
use crate::support::lake::count;
use pelton::codec::Feedback;
use pelton::daemon::audit::{Explanation, audit};
use pelton::daemon::pipeline::run_ingest;
use pelton::domain::Timestamp;
use pelton::ingest::Progress;
use pelton::lake::{Lake, TableName};
use pelton::runtime::Shutdown;
use pelton::telemetry::metric;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

const PATIENCE: Duration = Duration::from_secs(90);

/// Ingestion in this process.
struct Ingest {
    task: JoinHandle<anyhow::Result<()>>,
    progress: Arc<Progress>,
    shutdown: Shutdown,
    /// A test that panics must not leave it running.
    _guard: DropGuard,
    lake: Lake,
}

impl Ingest {
    async fn start(home: &Home, config: &Path) -> Self {
        let (lake, progress, shutdown) = (home.lake().await, Arc::<Progress>::default(), Shutdown::new());
        let config = Arc::new(home.load(config));
        let task = tokio::spawn(run_ingest(config, lake.clone(), progress.clone(), shutdown.clone()));
        Self { task, progress, _guard: shutdown.clone().drop_guard(), shutdown, lake }
    }

    async fn rows(&self, rows: i64) {
        until(&format!("{rows} rows"), PATIENCE, async || count(&self.lake, TableName::InferenceLog, "").await >= rows)
            .await;
    }

    async fn stop(self) -> Lake {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.lake
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_and_a_store_that_go_away_are_waited_for() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("logs", 3, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let home = Home::at(&brokers, "logs");
    let config = home.config("here", "'reconnect.backoff.max.ms' = '500'", "retry_backoff_ms_max = 300");
    let ingest = Ingest::start(&home, &config).await;
    kafka::send_logs(&brokers, "logs", 3, 0..1000, || {});
    ingest.rows(1000).await;

    let said = metric::OUTAGES.get(&["kafka"]);
    cluster.broker_down(1).unwrap();
    until("the broker is said to be away", PATIENCE, async || metric::OUTAGES.get(&["kafka"]) > said).await;
    cluster.broker_up(1).unwrap();
    let refused = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    ];
    cluster.request_errors(RDKafkaApiKey::Fetch, &refused);
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &refused);
    kafka::send_logs(&brokers, "logs", 3, 1000..2000, || {});
    ingest.rows(2000).await;

    // The table is gone for a while: nothing may be written in its place.
    let (table, hidden) = (home.dir.path().join("lake/tables/inference_log"), home.dir.path().join("hidden"));
    let said = metric::OUTAGES.get(&["store"]);
    std::fs::rename(&table, &hidden).unwrap();
    kafka::send_logs(&brokers, "logs", 3, 2000..3000, || {});
    until("the store is said to be away", PATIENCE, async || metric::OUTAGES.get(&["store"]) > said).await;
    assert!(!table.exists(), "a table that is away is not made anew");
    std::fs::rename(&hidden, &table).unwrap();
    ingest.rows(3000).await;
    let found = ingest.stop().await.audit().await.unwrap();
    assert!(found.is_clean(), "{found:#?}");
    assert_eq!(found.rows(), 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_between_tables_and_broker_stops_its_partition_and_no_other() {
    let topic = kafka::topic("hole", 2, &[]).await;
    let home = Home::new(&topic);
    let config = home.config("here", "", "");
    let first = Ingest::start(&home, &config).await;
    kafka::send_logs(kafka::brokers(), &topic, 2, 0..200, || {});
    first.rows(200).await;
    first.stop().await;
    kafka::send_logs(kafka::brokers(), &topic, 2, 200..400, || {});
    kafka::delete_before(&topic, 0, 150).await;

    let second = Ingest::start(&home, &config).await;
    second.rows(300).await;
    until("the partition is said to have stopped", PATIENCE, async || second.progress.stopped.load(Relaxed) == 1).await;
    assert_eq!(second.progress.partitions.load(Relaxed), 2);
    let lake = second.stop().await;
    assert_eq!(count(&lake, TableName::InferenceLog, "kafka_partition = 0").await, 100, "nothing is skipped silently");
    assert_eq!(count(&lake, TableName::InferenceLog, "kafka_partition = 1").await, 200);
    let found = lake.audit().await.unwrap();
    assert_eq!(found.partitions.iter().map(|p| p.next).collect::<Vec<_>>(), [100, 200]);
    assert!(found.is_clean(), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_messages_are_no_rows_and_the_broker_confirms_the_gaps() {
    let topic = kafka::topic("transactions", 1, &[]).await;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka::brokers())
        .set("transactional.id", kafka::unique("sender"))
        .create()
        .unwrap();
    let wait = Duration::from_secs(30);
    producer.init_transactions(wait).unwrap();
    for (ids, commits) in [(0..10, true), (10..20, false), (20..25, true)] {
        producer.begin_transaction().unwrap();
        for id in ids {
            kafka::send(&producer, BaseRecord::to(&topic).payload(kafka::log(id).as_slice()));
        }
        producer.flush(wait).unwrap();
        if commits { producer.commit_transaction(wait).unwrap() } else { producer.abort_transaction(wait).unwrap() }
    }
    let home = Home::new(&topic);
    let config = home.config("here", "", "");
    let ingest = Ingest::start(&home, &config).await;
    ingest.rows(15).await;
    let lake = ingest.stop().await;
    assert_eq!(count(&lake, TableName::InferenceLog, "CAST(request_id AS BIGINT) BETWEEN 10 AND 19").await, 0);
    // Ten messages, a marker, ten aborted ones and their marker, five messages.
    let tables = lake.audit().await.unwrap();
    assert_eq!((tables.rows(), tables.missing(), tables.partitions[0].next), (15, 12, 27));
    let report = audit(&home.load(&config).kafka, &lake).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    assert!(report.partitions[0].gaps.iter().all(|(_, why)| *why == Explanation::NoMessage));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_larger_than_the_budget_pauses_reading_and_loses_nothing() {
    let topic = kafka::topic("backlog", 2, &[]).await;
    let text = "x".repeat(20_000);
    let producer = kafka::producer(kafka::brokers());
    for id in 0..600 {
        let request = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}]}}"#);
        let id = format!("r{id}");
        let log = pelton::codec::InferenceLog::new(&id, Timestamp::from_millis(1_795_341_600_000), &request, None);
        kafka::send(&producer, BaseRecord::to(&topic).payload(log.to_bytes().unwrap().as_slice()));
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let home = Home::new(&topic);
    let config = home.config("here", "", "in_flight_bytes_max = 1048576\nbatch_bytes_max = 1048576");
    let pauses = metric::PAUSES.get();
    let ingest = Ingest::start(&home, &config).await;
    ingest.rows(600).await;
    let found = ingest.stop().await.audit().await.unwrap();
    assert!(found.is_clean() && found.rows() == 600, "{found:#?}");
    assert!(metric::PAUSES.get() > pauses, "12 MB through 1 MB and no pause");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_at_the_latest_is_pinned_before_the_first_row_and_feedback_has_its_own_table() {
    let (topic, feedback) = (kafka::topic("latest", 1, &[]).await, kafka::topic("feedback", 1, &[]).await);
    kafka::send_logs(kafka::brokers(), &topic, 1, 0..100, || {});
    let home = Home::new(&topic);
    let config = home.config("here", "", &format!("start = 'latest'\nfeedback_topics = ['{feedback}']"));
    let ingest = Ingest::start(&home, &config).await;
    until("both partitions are owned", PATIENCE, async || ingest.progress.partitions.load(Relaxed) == 2).await;
    // It ends before a row came: the start holds all the same.
    let lake = ingest.stop().await;
    let pinned = lake.audit().await.unwrap();
    let ranges: Vec<_> = pinned.partitions.iter().map(|p| (p.first, p.next)).collect();
    assert_eq!(ranges, [(100, 100), (0, 0)]);

    kafka::send_logs(kafka::brokers(), &topic, 1, 100..150, || {});
    let producer = kafka::producer(kafka::brokers());
    for (id, score) in [("a", 0.5), ("b", 2.0)] {
        let signal = Feedback {
            feedback_id: id,
            request_id: "100",
            feedback_time: Timestamp::from_millis(1_795_341_700_000),
            thumb: Some(true),
            score: Some(score),
            text: None,
            requester: None,
        };
        kafka::send(&producer, BaseRecord::to(&feedback).payload(signal.to_bytes().unwrap().as_slice()));
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let again = Ingest::start(&home, &config).await;
    again.rows(50).await;
    until("the signals", PATIENCE, async || {
        count(&again.lake, TableName::Feedback, "").await + count(&again.lake, TableName::DeadLetter, "").await == 2
    })
    .await;
    let lake = again.stop().await;
    assert_eq!(count(&lake, TableName::Feedback, "thumb AND score = 0.5 AND request_id = '100'").await, 1);
    assert_eq!(count(&lake, TableName::DeadLetter, "code = 'WRONG_VALUE' AND reason LIKE '%`score`%'").await, 1);
    let found = lake.audit().await.unwrap();
    assert!(found.is_clean(), "{found:#?}");
    assert_eq!((found.rows(), found.dead_letters()), (51, 1));
}
