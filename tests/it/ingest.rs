//! Logs through a real Kafka into tables: none lost, none twice, whatever is killed in between.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{count, number, payload};
use pelton::daemon::audit::{AuditReport, audit};
use pelton::lake::{Lake, TableName};
use rand::{Rng, SeedableRng};
use rdkafka::producer::{BaseRecord, Producer};
use std::path::Path;
use std::time::Duration;

/// Waits until the tables hold so many offsets of the topic, then audits them.
async fn audited(home: &Home, config: &Path, messages: i64, patience: Duration) -> (Lake, AuditReport) {
    let lake = home.lake().await;
    until("all messages are in the tables", patience, async || {
        count(&lake, TableName::InferenceLog, "").await + count(&lake, TableName::DeadLetter, "").await >= messages
    })
    .await;
    let report = audit(&home.load(config).kafka, &lake).await.unwrap();
    (lake, report)
}

/// Every log is there exactly once.
async fn assert_exact(lake: &Lake, report: &AuditReport, logs: i64) {
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.rows(), u64::try_from(logs).unwrap());
    assert_eq!(count(lake, TableName::InferenceLog, "").await, logs);
    let distinct = number(lake, TableName::InferenceLog, "SELECT count(DISTINCT request_id) FROM inference_log").await;
    assert_eq!(distinct, logs, "every log by its id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_logs_survive_twenty_kills() {
    const LOGS: u64 = 100_000;
    const PRODUCERS: u64 = 3;
    const KILLS: usize = 20;
    let topic = kafka::topic("kills", 6, &[]).await;
    let home = Home::new(&topic);
    // A static member comes back as itself, so a kill costs no session timeout.
    let config = home.config("daemon", "'group.instance.id' = 'd1'", "batch_rows_max = 3000");
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|p| {
            let topic = topic.clone();
            let ids = p * LOGS / PRODUCERS..(p + 1) * LOGS / PRODUCERS;
            std::thread::spawn(move || {
                kafka::send_logs(kafka::brokers(), &topic, 6, ids, || std::thread::sleep(Duration::from_millis(60)));
            })
        })
        .collect();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(20);
    for _ in 0..KILLS {
        let mut daemon = Daemon::start(&config);
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2500))).await;
        daemon.assert_alive(&config);
        daemon.kill();
    }
    let lake = home.lake().await;
    let before = count(&lake, TableName::InferenceLog, "").await;
    let last = Daemon::start(&config);
    producers.into_iter().for_each(|p| p.join().unwrap());
    let (lake, report) = audited(&home, &config, i64::try_from(LOGS).unwrap(), Duration::from_secs(120)).await;
    assert!(last.stop().success(), "a daemon that drains ends well");
    assert!(before > 0, "no killed daemon ever committed: the kills proved nothing");
    assert_exact(&lake, &report, i64::try_from(LOGS).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_join_and_leave_under_load_share_the_work_exactly() {
    const LOGS: u64 = 30_000;
    let topic = kafka::topic("rebalance", 6, &[]).await;
    let home = Home::new(&topic);
    let session = "'session.timeout.ms' = '3000'\n'heartbeat.interval.ms' = '500'";
    let (a, b) =
        (home.config("a", session, "batch_rows_max = 1000"), home.config("b", session, "batch_rows_max = 1000"));
    let sending = topic.clone();
    let producer = std::thread::spawn(move || {
        kafka::send_logs(kafka::brokers(), &sending, 6, 0..LOGS, || std::thread::sleep(Duration::from_millis(50)));
    });
    let stays = Daemon::start(&a);
    let lake = home.lake().await;
    let grows = async |more: i64| {
        let now = count(&lake, TableName::InferenceLog, "").await;
        until("rows go on coming", Duration::from_secs(60), async || {
            count(&lake, TableName::InferenceLog, "").await >= (now + more).min(i64::try_from(LOGS).unwrap())
        })
        .await;
    };
    grows(1000).await;
    for round in 0..3 {
        let before = assignments(&b);
        let mut joins = Daemon::start(&b);
        until("it owns a partition", Duration::from_secs(60), async || assignments(&b) > before).await;
        grows(3000).await;
        joins.assert_alive(&b);
        // It leaves politely, then by a kill, whose partitions move when its session times out.
        if round % 2 == 0 {
            assert!(joins.stop().success());
        } else {
            joins.kill();
        }
        grows(1000).await;
    }
    producer.join().unwrap();
    let (lake, report) = audited(&home, &a, i64::try_from(LOGS).unwrap(), Duration::from_secs(90)).await;
    assert!(stays.stop().success());
    assert_exact(&lake, &report, i64::try_from(LOGS).unwrap()).await;
}

/// How often the daemons of a configuration have said that they were given partitions, such as `logs/3`.
fn assignments(config: &Path) -> usize {
    let log = std::fs::read_to_string(config.with_extension("log")).unwrap_or_default();
    log.lines().filter(|line| line.contains("assigned") && line.contains('/')).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_becomes_dead_letters_with_coordinates_and_reasons_while_ingestion_goes_on() {
    let topic = kafka::topic("garbage", 1, &[("max.message.bytes", "33554432")]).await;
    let copies = kafka::topic("garbage-dlq", 1, &[("max.message.bytes", "33554432")]).await;
    let home = Home::new(&topic);
    let config = home.config("daemon", "", &format!("dead_letter_topic = '{copies}'"));
    let huge = vec![b'x'; 20 << 20];
    let garbage: [(&[u8], &str, &str); 6] = [
        (b"not json", "NOT_JSON", "line 1"),
        (
            br#"{"schema":"pelton.inference-log/v1","request_time":"2026-11-22T10:00:00Z","request":{}}"#,
            "MISSING_FIELD",
            "`request_id`",
        ),
        (
            br#"{"request_id":"r","request_time":"2026-11-22T10:00:00Z","request":"{}","status_code":"200"}"#,
            "WRONG_TYPE",
            "`status_code`",
        ),
        (&huge, "TOO_LARGE", "20971520 bytes"),
        (b"{\"request_id\": \"\xff\"}", "NOT_UTF8", "byte 16"),
        (b"", "NOT_JSON", "EOF"),
    ];
    let producer = kafka::producer(kafka::brokers());
    let log = kafka::log(1);
    kafka::send(&producer, BaseRecord::to(&topic).payload(log.as_slice()));
    for (bytes, ..) in &garbage {
        kafka::send(&producer, BaseRecord::to(&topic).payload(*bytes).key(&b"k"[..]));
        kafka::send(&producer, BaseRecord::to(&topic).payload(log.as_slice()));
    }
    kafka::send(&producer, BaseRecord::to(&topic).key(&b"tombstone"[..]));
    producer.flush(Duration::from_secs(30)).unwrap();

    let mut daemon = Daemon::start(&config);
    let (lake, report) = audited(&home, &config, 14, Duration::from_secs(60)).await;
    daemon.assert_alive(&config);
    assert!(daemon.stop().success());
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!((report.rows(), report.dead_letters()), (7, 7));
    for (i, (bytes, code, says)) in garbage.iter().enumerate() {
        let offset = 2 * i + 1;
        let condition = format!(
            "kafka_topic = '{topic}' AND kafka_partition = 0 AND kafka_offset = {offset} AND code = '{code}' \
             AND reason LIKE '%{says}%' AND kafka_time IS NOT NULL"
        );
        assert_eq!(count(&lake, TableName::DeadLetter, &condition).await, 1, "offset {offset}: {condition}");
        let kept = payload(&lake, &condition).await;
        assert!(kept == *bytes, "offset {offset}: the message is kept whole");
    }
    assert_eq!(
        count(&lake, TableName::DeadLetter, "code = 'EMPTY' AND kafka_offset = 13 AND payload IS NULL").await,
        1
    );
    // The copies are messages of their own topic; the same tables can read them as logs that are no logs.
    let other = Home::new(&copies);
    let path = other.config("daemon", "", "message_bytes_max = 33554432");
    let reader = Daemon::start(&path);
    let (copied, report) = audited(&other, &path, 7, Duration::from_secs(60)).await;
    assert!(reader.stop().success());
    assert_eq!(report.dead_letters(), 7);
    assert_eq!(count(&copied, TableName::DeadLetter, "array_length(headers) = 5 OR code = 'EMPTY'").await, 7);
}
