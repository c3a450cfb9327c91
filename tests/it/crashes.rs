//! Crashes at named points, members that sleep through their session, topics that are made anew, drains: daemons on a real
//! Kafka, each audited afterwards.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{count, number};
use pelton::daemon::audit::audit;
use pelton::lake::{Lake, TableName};
use pelton::runtime::Failpoint;
use rdkafka::ClientConfig;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);
const SESSION: &str = "'session.timeout.ms' = '3000'\n'heartbeat.interval.ms' = '500'";

/// Messages in the tables, dead letters among them.
async fn messages(lake: &Lake) -> i64 {
    count(lake, TableName::InferenceLog, "").await + count(lake, TableName::DeadLetter, "").await
}

async fn reached(lake: &Lake, wanted: i64) {
    until(&format!("{wanted} messages"), PATIENCE, async || messages(lake).await >= wanted).await;
}

/// Nothing is missing, nothing is there twice, and it is as many as were sent.
async fn assert_exact(home: &Home, config: &Path, sent: i64) {
    let lake = home.lake().await;
    let report = audit(&home.load(config).kafka, &lake).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(i64::try_from(report.rows() + report.dead_letters()).unwrap(), sent);
    assert_eq!(messages(&lake).await, sent);
    let ids = "SELECT count(DISTINCT request_id) FROM inference_log";
    assert_eq!(number(&lake, TableName::InferenceLog, ids).await, count(&lake, TableName::InferenceLog, "").await);
}

/// Numbered logs, and one message in ten that is none.
fn send(topic: &str, partitions: i32, ids: std::ops::Range<u64>) {
    let producer = kafka::producer(kafka::brokers());
    for id in ids {
        let bytes = if id % 10 == 7 { b"no log".to_vec() } else { kafka::log(id) };
        let partition = i32::try_from(id % u64::try_from(partitions).unwrap()).unwrap();
        kafka::send(&producer, BaseRecord::to(topic).partition(partition).payload(bytes.as_slice()));
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_each_named_point_loses_nothing_and_repeats_nothing() {
    let topic = kafka::topic("failpoints", 4, &[]).await;
    let home = Home { fsync: true, ..Home::new(&topic) };
    let armed = home.config("armed", &format!("{SESSION}\n'group.instance.id' = 'armed'"), "batch_rows_max = 100");
    let other = home.config("other", &format!("{SESSION}\n'group.instance.id' = 'other'"), "batch_rows_max = 100");
    let mut sent = 0;
    for (point, visit) in [
        (Failpoint::InAssign, 1),
        (Failpoint::AfterDeadLetters, 1),
        (Failpoint::AfterWrite, 2),
        // Tables are made by commits too: the later visits lie in batches.
        (Failpoint::InCommit, 12),
        (Failpoint::AfterCommit, 1),
        (Failpoint::InRevoke, 1),
    ] {
        send(&topic, 4, sent..sent + 500);
        sent += 500;
        let assigned = || lag_log(&armed).matches("assigned").count();
        let before = assigned();
        let mut daemon = Daemon::start_with(&armed, &[("PELTON_FAILPOINT", &format!("{point}:{visit}"))]);
        let mut joins = None;
        if point == Failpoint::InRevoke {
            // It has to own something before anything can be taken from it.
            until("it owns partitions", PATIENCE, async || assigned() > before).await;
            joins = Some(Daemon::start(&other));
        }
        let mut round = 0;
        until(&format!("a crash at {point}"), PATIENCE, async || {
            // Each batch comes by again, so that a later visit is reached.
            round += 1;
            if round % 10 == 0 && joins.is_none() {
                send(&topic, 4, sent..sent + 20);
                sent += 20;
            }
            daemon.ended().is_some()
        })
        .await;
        assert_eq!(daemon.ended().unwrap().signal(), Some(9), "{point}: it ended otherwise");
    }
    let last = Daemon::start(&armed);
    let sent = i64::try_from(sent).unwrap();
    reached(&home.lake().await, sent).await;
    assert!(last.stop().success());
    assert_exact(&home, &armed, sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_sleeps_through_its_session_adds_nothing_twice_when_it_wakes() {
    let topic = kafka::topic("zombie", 2, &[]).await;
    let home = Home::new(&topic);
    // It holds a batch in memory when it falls asleep.
    let slow = home.config("slow", SESSION, "batch_age_ms_max = 1500");
    let quick = home.config("quick", SESSION, "batch_age_ms_max = 200");
    let lake = home.lake().await;
    let mut zombie = Daemon::start(&slow);
    send(&topic, 2, 0..500);
    reached(&lake, 500).await;
    for round in 1..3 {
        send(&topic, 2, round * 1000 - 500..round * 1000);
        tokio::time::sleep(Duration::from_millis(700)).await;
        zombie.signal("STOP");
        let takes_over = Daemon::start(&quick);
        reached(&lake, i64::try_from(round * 1000).unwrap()).await;
        zombie.signal("CONT");
        send(&topic, 2, round * 1000..round * 1000 + 500);
        reached(&lake, i64::try_from(round * 1000 + 500).unwrap()).await;
        zombie.assert_alive(&slow);
        assert!(takes_over.stop().success());
    }
    assert!(zombie.stop().success());
    assert_exact(&home, &slow, 2500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_deleted_and_made_again_is_read_from_its_beginning() {
    let topic = kafka::topic("again", 1, &[]).await;
    let home = Home::new(&topic);
    let config = home.config("daemon", "'topic.metadata.refresh.interval.ms' = '1000'", "");
    let lake = home.lake().await;
    send(&topic, 1, 0..100);
    let first = Daemon::start(&config);
    reached(&lake, 100).await;
    assert!(first.stop().success());

    // While nobody looks: the new topic is longer than the old one, so no offset is out of its range.
    make_again(&topic).await;
    send(&topic, 1, 100..300);
    let mut second = Daemon::start(&config);
    reached(&lake, 300).await;

    // Under the eyes of a daemon that waits at offset 200: shorter, and later longer.
    make_again(&topic).await;
    send(&topic, 1, 300..350);
    reached(&lake, 350).await;
    send(&topic, 1, 350..700);
    reached(&lake, 700).await;
    second.assert_alive(&config);
    assert!(second.stop().success());
    let found = lake.audit().await.unwrap();
    let mut lengths: Vec<i64> = found.partitions.iter().map(|p| p.next - p.first).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [100, 200, 400], "each life of the topic by itself: {found:#?}");
    assert_exact(&home, &config, 700).await;
}

/// Deletes the topic and makes another of its name.
async fn make_again(topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka::brokers()).create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    admin.delete_topics(&[topic], &options).await.unwrap().into_iter().for_each(|one| drop(one.unwrap()));
    until("the topic is made again", PATIENCE, async || {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        admin.create_topics(&[new], &options).await.unwrap().into_iter().all(|one| one.is_ok())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_commits_all_that_was_read_and_the_group_stands_where_the_tables_do() {
    let topic = kafka::topic("drain", 3, &[]).await;
    let home = Home::new(&topic);
    // Batches that would wait for an hour: only the drain commits them.
    let config =
        home.config("daemon", "", "batch_age_ms_min = 3600000\nbatch_age_ms_max = 3600000\ndrain_timeout_ms = 15000");
    let lake = home.lake().await;
    let sending = topic.clone();
    let producer = std::thread::spawn(move || {
        for part in 0..30 {
            send(&sending, 3, part * 100..(part + 1) * 100);
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let daemon = Daemon::start(&config);
    until("it reads", PATIENCE, async || lag_log(&config).contains("rebalance")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    assert!(daemon.stop().success());
    assert!(asked.elapsed() < Duration::from_secs(15), "within the deadline");
    let drained = messages(&lake).await;
    assert!(drained > 0, "it had read something");
    let log = lag_log(&config);
    assert!(log.contains("drained") && !log.contains("not drained in time"), "{log}");

    // Whoever comes next begins at the tables' offsets, and the group says the same.
    let found = lake.audit().await.unwrap();
    let tables: BTreeMap<i32, i64> = found.partitions.iter().map(|p| (p.key.partition, p.next)).collect();
    assert_eq!(tables.values().sum::<i64>(), drained);
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka::brokers()).set("group.id", &home.group).create().unwrap();
    let mut asked = TopicPartitionList::new();
    for partition in tables.keys() {
        asked.add_partition(&topic, *partition);
    }
    let group = consumer.committed_offsets(asked, Duration::from_secs(20)).unwrap();
    for (partition, next) in &tables {
        let offset = group.find_partition(&topic, *partition).unwrap().offset();
        // A partition without a message needs no offset.
        assert!(offset == Offset::Offset(*next) || *next == 0, "partition {partition}: {offset:?}, not {next}");
    }
    producer.join().unwrap();
    let next = Daemon::start(&config);
    until("it reads", PATIENCE, async || {
        lag_log(&config).matches("rebalance").count() > log.matches("rebalance").count()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(next.stop().success());
    reached(&lake, 3000).await;
    assert_exact(&home, &config, 3000).await;
}

fn lag_log(config: &Path) -> String {
    std::fs::read_to_string(config.with_extension("log")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_at_a_time_begins_with_the_first_message_of_that_time_and_holds() {
    let topic = kafka::topic("at-a-time", 2, &[]).await;
    let noon = 1_795_348_800_000;
    let producer = kafka::producer(kafka::brokers());
    for id in 0..100 {
        // The second partition has nothing as young as the start.
        let (partition, time) = if id % 2 == 0 { (0, noon + i64::from(id) * 1000) } else { (1, noon - 1000) };
        let log = kafka::log(u64::try_from(id).unwrap());
        let record = BaseRecord::to(&topic).partition(partition).payload(log.as_slice()).timestamp(time);
        kafka::send(&producer, record);
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    let home = Home::new(&topic);
    let config = home.config("daemon", "", "start = '2026-11-22T12:00:40Z'");
    let lake = home.lake().await;
    let first = Daemon::start(&config);
    reached(&lake, 30).await;
    assert!(first.stop().success());
    let found = lake.audit().await.unwrap();
    assert_eq!(found.partitions.iter().map(|p| (p.first, p.next)).collect::<Vec<_>>(), [(20, 50), (50, 50)]);
    // Another setting changes nothing for partitions that have begun.
    let config = home.config("daemon", "", "start = 'earliest'");
    send(&topic, 2, 100..140);
    let second = Daemon::start(&config);
    reached(&lake, 70).await;
    assert!(second.stop().success());
    assert_exact(&home, &config, 70).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_in_the_middle_of_an_assignment_ends_the_daemon() {
    let topic = kafka::topic("term", 4, &[]).await;
    let home = Home::new(&topic);
    let stays = home.config("stays", SESSION, "retry_backoff_ms_max = 200");
    let leaves = home.config("leaves", SESSION, "retry_backoff_ms_max = 200");
    send(&topic, 4, 0..100);
    let lake = home.lake().await;
    let daemon = Daemon::start(&stays);
    reached(&lake, 100).await;
    let mut other = Daemon::start(&leaves);
    until("they share the partitions", PATIENCE, async || lag_log(&leaves).contains("rebalance")).await;
    // The table is away: what the other had is given to the first, and nobody can say where it begins.
    let (table, hidden) = (home.dir.path().join("lake/tables/inference_log"), home.dir.path().join("hidden"));
    std::fs::rename(&table, &hidden).unwrap();
    other.kill();
    until("it waits in an assignment", PATIENCE, async || lag_log(&stays).contains("trying until it is back")).await;
    let mut daemon = daemon;
    daemon.signal("TERM");
    let mut status = None;
    until("it ends", Duration::from_secs(40), async || {
        status = daemon.ended();
        status.is_some()
    })
    .await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", lag_log(&stays));
    // The broker gives its partitions to whoever comes next, and nothing was lost.
    std::fs::rename(&hidden, &table).unwrap();
    send(&topic, 4, 100..200);
    let next = Daemon::start(&leaves);
    reached(&lake, 200).await;
    assert!(next.stop().success());
    assert_exact(&home, &leaves, 200).await;
}
