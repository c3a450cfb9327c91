//! New fields and new columns: nothing is lost, nothing stops, and older files read as null.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{config, count, number, query};
use crate::support::python;
use arrow::array::AsArray;
use pelton::codec;
use pelton::config::{ColumnType, PromotedColumn};
use pelton::domain::{Origin, Row, RowKind, Timestamp};
use pelton::lake::{
    DeadLetterBuilder, InferenceLogBuilder, Lake, Logs, Part, PartitionKey, Promoted, Store, TableName,
};
use rdkafka::producer::{BaseRecord, Producer};
use serde_json::{Value, json};
use std::time::Duration;

const LOGS: TableName = TableName::InferenceLog;
const PATIENCE: Duration = Duration::from_secs(60);

fn promoted(columns: &[(&str, &str, ColumnType)]) -> Promoted {
    let column = |(name, field, r#type): &(&str, &str, ColumnType)| {
        ((*name).to_owned(), PromotedColumn { field: (*field).to_owned(), r#type: *r#type })
    };
    Promoted::new(&columns.iter().map(column).collect()).unwrap()
}

fn with_field(id: u64, field: &str, value: Value) -> Vec<u8> {
    let mut message: Value = serde_json::from_slice(&kafka::log(id)).unwrap();
    message[field] = value;
    message.to_string().into_bytes()
}

fn send(topic: &str, payloads: &[Vec<u8>]) {
    let producer = kafka::producer(kafka::brokers());
    for payload in payloads {
        kafka::send(&producer, BaseRecord::to(topic).payload(payload.as_slice()));
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_field_lands_in_extra_and_is_promoted_by_a_restart() {
    let topic = kafka::topic("evolve", 2, &[]).await;
    let home = Home::new(&topic);
    let before = home.config("daemon", "'group.instance.id' = 'd1'", "");
    let daemon = Daemon::start(&before);
    let lake = home.lake().await;
    send(&topic, &(0..50).map(kafka::log).collect::<Vec<_>>());
    send(&topic, &(50..100).map(|id| with_field(id, "tenant_no", json!(id))).collect::<Vec<_>>());
    until("the rows of before", PATIENCE, async || count(&lake, LOGS, "").await == 100).await;
    assert_eq!(count(&lake, LOGS, "extra IS NULL").await, 50);
    assert_eq!(count(&lake, LOGS, r#"extra = concat('{"tenant_no":', request_id, '}')"#).await, 50);

    // Logs go on while the daemon is restarted with the column.
    send(&topic, &(100..150).map(|id| with_field(id, "tenant_no", json!(id))).collect::<Vec<_>>());
    assert!(daemon.stop().success());
    send(&topic, &(150..200).map(|id| with_field(id, "tenant_no", json!(id))).collect::<Vec<_>>());
    send(&topic, &(200..210).map(|id| with_field(id, "tenant_no", json!("none"))).collect::<Vec<_>>());
    let after = home.config(
        "daemon",
        "'group.instance.id' = 'd1'",
        "[ingest.columns]\ntenant = { field = 'tenant_no', type = 'long' }\n",
    );
    let _daemon = Daemon::start(&after);
    let lake = pelton::daemon::open_lake(&home.load(&after)).await.unwrap();
    until("all rows", PATIENCE, async || count(&lake, LOGS, "").await == 210).await;
    let report = pelton::daemon::audit::audit(&home.load(&after).kafka, &lake).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    // Which side of the restart the rows from 100 to 149 fell on is open; that each has its value in one place is not.
    let value = "coalesce(tenant, CAST(regexp_match(extra, '\"tenant_no\":([0-9]+)')[1] AS BIGINT))";
    assert_eq!(count(&lake, LOGS, &format!("{value} = CAST(request_id AS BIGINT)")).await, 150);
    assert_eq!(
        count(&lake, LOGS, "tenant = CAST(request_id AS BIGINT) AND extra IS NULL AND CAST(request_id AS INT) >= 150")
            .await,
        50
    );
    assert_eq!(count(&lake, LOGS, r#"tenant IS NULL AND extra = '{"tenant_no":"none"}'"#).await, 10);
    assert_eq!(count(&lake, LOGS, "tenant IS NULL AND extra IS NULL").await, 50, "older files read as null");
    let program = "import sys, deltalake\nt = deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table(columns=['tenant', 'extra'])\n\
                   print(t.num_rows, t['tenant'].type, t['extra'].null_count >= 100, sum(v.as_py() or 0 for v in t['tenant']) >= sum(range(150, 200)))";
    let path = home.dir.path().join("lake/tables/inference_log");
    assert_eq!(python::run(program, &[path.to_str().unwrap()]), "210 int64 True True");
    // A daemon with the older configuration goes on beside the column.
    drop(_daemon);
    let older = home.config("daemon", "'group.instance.id' = 'd1'", "");
    let _daemon = Daemon::start(&older);
    send(&topic, &[with_field(300, "tenant_no", json!(300))]);
    until("a row without the column", PATIENCE, async || count(&lake, LOGS, "").await == 211).await;
    assert_eq!(count(&lake, LOGS, r#"request_id = '300' AND tenant IS NULL AND extra = '{"tenant_no":300}'"#).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_is_promoted_under_load_without_losing_a_row_or_a_value() {
    const LOGS_SENT: u64 = 6_000;
    let topic = kafka::topic("promote", 4, &[]).await;
    let home = Home::new(&topic);
    let group = "'session.timeout.ms' = '3000'";
    let column = "[ingest.columns]\ntenant = { field = 'tenant_no', type = 'long' }\n";
    let before = [home.config("one", group, ""), home.config("two", group, "")];
    let lake = home.lake().await;
    let sending = topic.clone();
    let producer = std::thread::spawn(move || {
        let producer = kafka::producer(kafka::brokers());
        for id in 0..LOGS_SENT {
            let log = with_field(id, "tenant_no", json!(id));
            let partition = i32::try_from(id % 4).unwrap();
            kafka::send(&producer, BaseRecord::to(&sending).partition(partition).payload(log.as_slice()));
            if id % 100 == 99 {
                producer.flush(Duration::from_secs(60)).unwrap();
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let mut daemons = before.each_ref().map(|config| Some(Daemon::start(config)));
    until("some rows of before", PATIENCE, async || count(&lake, LOGS, "").await > 500).await;
    // One after the other is started anew with the column; the other goes on without it meanwhile.
    for (place, name) in ["one", "two"].into_iter().enumerate() {
        assert!(daemons[place].take().is_some_and(|daemon| daemon.stop().success()));
        let promoted = home.config(name, group, column);
        daemons[place] = Some(Daemon::start(&promoted));
        let at = count(&lake, LOGS, "").await;
        until("rows go on", PATIENCE, async || count(&lake, LOGS, "").await > at + 500).await;
    }
    producer.join().unwrap();
    let config = home.config("one", group, column);
    let lake = pelton::daemon::open_lake(&home.load(&config)).await.unwrap();
    let sent = i64::try_from(LOGS_SENT).unwrap();
    until("all rows", PATIENCE, async || count(&lake, LOGS, "").await >= sent).await;
    for daemon in daemons.into_iter().flatten() {
        assert!(daemon.stop().success());
    }
    let value = "coalesce(tenant, CAST(regexp_match(extra, '\"tenant_no\":([0-9]+)')[1] AS BIGINT))";
    assert_eq!(count(&lake, LOGS, &format!("{value} = CAST(request_id AS BIGINT)")).await, sent, "each has its value");
    assert_eq!(count(&lake, LOGS, "tenant IS NOT NULL AND extra IS NOT NULL").await, 0, "in one place");
    assert!(count(&lake, LOGS, "tenant IS NULL").await >= 500 && count(&lake, LOGS, "tenant IS NOT NULL").await >= 500);
    let report = pelton::daemon::audit::audit(&home.load(&config).kafka, &lake).await.unwrap();
    assert!(report.is_clean() && report.rows() == LOGS_SENT, "{report:#?}");
}

fn part(start: i64, promoted: &Promoted) -> Part {
    let mut rows = InferenceLogBuilder::with_promoted(promoted);
    for offset in start..start + 10 {
        let origin = Origin {
            topic: "logs",
            topic_id: "0",
            partition: 0,
            offset,
            record: 0,
            time: None,
            ingest_time: Timestamp::from_millis(offset),
            replay_time: None,
        };
        let bytes = with_field(offset.try_into().unwrap(), "zone", json!(offset));
        match codec::decode(RowKind::Inference, Some(&bytes), 1 << 20).unwrap() {
            Row::Inference(row) => rows.append(&row, &origin),
            other => panic!("{other:?}"),
        }
    }
    let key = PartitionKey { topic: "logs".to_owned(), generation: "0".to_owned(), partition: 0 };
    Part {
        key,
        start,
        end: start + 10,
        rows: vec![rows.finish()],
        dead_letters: vec![DeadLetterBuilder::new().finish()],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_are_added_beside_committers_without_losing_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config(dir.path());
    let lake = Lake::open(&settings).await.unwrap();
    let mut committer = lake.committer("default", "cluster").await.unwrap();
    committer.pin(LOGS, &[(part(0, &Promoted::default()).key, 0)]).await.unwrap();
    // One commits as if it knew of no column, four processes add columns again and again.
    let adders: Vec<_> = (0..4)
        .map(|adder| {
            let settings = settings.clone();
            tokio::spawn(async move {
                for turn in 0..5 {
                    let (own, shared) = (format!("c{adder}_{turn}"), format!("shared_{turn}"));
                    let columns =
                        [(own.as_str(), "zone", ColumnType::Long), (shared.as_str(), "other", ColumnType::String)];
                    let promoted = promoted(&columns);
                    Lake::open_with(Store::open(&settings).unwrap(), Logs { tables: Vec::new(), promoted })
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    let mut next = 0;
    while next < 300 || !adders.iter().all(|adder| adder.is_finished()) {
        let part = part(next, &Promoted::default());
        let mut tries = 0;
        // What a daemon does with an error of the store: the same call again.
        while let Err(e) = committer.commit(LOGS, std::slice::from_ref(&part)).await {
            assert!(tries < 20, "{e:?}");
            tries += 1;
        }
        next += 10;
    }
    for adder in adders {
        adder.await.unwrap();
    }
    let columns = [("c3_4", "zone", ColumnType::Long)];
    let lake =
        Lake::open_with(Store::open(&settings).unwrap(), Logs { tables: Vec::new(), promoted: promoted(&columns) })
            .await
            .unwrap();
    let mut committer = lake.committer("default", "cluster").await.unwrap();
    committer.commit(LOGS, &[part(next, lake.promoted())]).await.unwrap();
    let audit = lake.audit().await.unwrap();
    assert!(audit.is_clean(), "{audit:#?}");
    assert_eq!(audit.rows(), u64::try_from(next + 10).unwrap());
    assert_eq!(count(&lake, LOGS, "c3_4 = kafka_offset AND extra IS NULL").await, 10);
    assert_eq!(
        count(&lake, LOGS, "c3_4 IS NULL AND c0_0 IS NULL AND shared_4 IS NULL AND extra IS NOT NULL").await,
        next
    );
}

#[test]
fn a_value_of_another_type_stays_in_extra() {
    let types = [
        ("s", ColumnType::String),
        ("l", ColumnType::Long),
        ("d", ColumnType::Double),
        ("b", ColumnType::Boolean),
        ("t", ColumnType::Timestamp),
    ];
    let columns: Vec<_> = types.iter().map(|(name, kind)| (*name, *name, *kind)).collect();
    let promoted = promoted(&columns);
    let check = |values: Value, left: Option<Value>, moved: &[&str]| {
        let mut message: Value = serde_json::from_slice(&kafka::log(1)).unwrap();
        message.as_object_mut().unwrap().extend(values.as_object().unwrap().clone());
        let bytes = message.to_string().into_bytes();
        let Row::Inference(row) = codec::decode(RowKind::Inference, Some(&bytes), 1 << 20).unwrap() else { panic!() };
        let origin = Origin {
            topic: "t",
            topic_id: "0",
            partition: 0,
            offset: 0,
            record: 0,
            time: None,
            ingest_time: Timestamp::EPOCH,
            replay_time: None,
        };
        let mut builder = InferenceLogBuilder::with_promoted(&promoted);
        builder.append(&row, &origin);
        let batch = builder.finish();
        for (name, _) in types {
            assert_eq!(batch.column_by_name(name).unwrap().is_valid(0), moved.contains(&name), "{name} of {values}");
        }
        let extra = batch.column_by_name("extra").unwrap().as_string::<i32>();
        let extra = extra.iter().next().unwrap().map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(extra, left, "{values}");
    };
    let all = ["s", "l", "d", "b", "t"];
    check(json!({"s": "x", "l": 1, "d": 1.5, "b": true, "t": "2026-11-22T10:00:00Z"}), None, &all);
    check(
        json!({"s": "", "l": -9_007_199_254_740_993_i64, "d": 2, "b": false, "t": 1_795_341_600_000_i64, "more": 1}),
        Some(json!({"more": 1})),
        &all,
    );
    let wrong = json!({"s": 1, "l": "1", "d": "1.5", "b": 1, "t": "soon"});
    check(wrong.clone(), Some(wrong), &[]);
    let odd = json!({"s": null, "l": 1.5, "d": {"x": 1}, "b": "true", "t": true});
    check(odd.clone(), Some(odd), &[]);
    let taken = Promoted::new(
        &[("model".to_owned(), PromotedColumn { field: "m".to_owned(), r#type: ColumnType::Long })].into(),
    );
    assert!(taken.unwrap_err().to_string().contains("`model` is a column of inference_log already"));
}

/// Every value of every table that Kafka feeds, as text.
async fn everything(lake: &Lake) -> String {
    let mut all = String::new();
    for table in [LOGS, TableName::DeadLetter, TableName::Feedback] {
        for batch in query(lake, table, &format!("SELECT * FROM {table}")).await {
            for column in batch.columns() {
                if let Ok(bytes) = arrow::compute::cast(column, &arrow::datatypes::DataType::Binary) {
                    bytes.as_binary::<i32>().iter().flatten().for_each(|b| all.push_str(&String::from_utf8_lossy(b)));
                }
                all.push_str(&format!("{column:?}"));
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_reaches_a_table_a_copy_or_a_log_line() {
    let copies = kafka::topic("copies", 1, &[]).await;
    let topic = kafka::topic("secrets", 1, &[]).await;
    let feedback = kafka::topic("signals", 1, &[]).await;
    let home = Home::new(&topic);
    std::fs::write(home.dir.path().join("key"), "the key of this test's replacements\n").unwrap();
    let config = home.config(
        "daemon",
        "",
        &format!(
            "feedback_topics = ['{feedback}']\ndead_letter_topic = '{copies}'\n[ingest.columns]\ncontact = {{ field = 'contact', type = 'string' }}\n\
             [redact]\nfields = ['requester', 'request.user']\npatterns = ['email', 'phone', 'secret', 'card']\nkey_file = 'key'\n\
             [redact.custom]\nbadge = 'B-[0-9]{{5}}'\n"
        ),
    );
    let secrets = [
        "zorro@example.org",
        "4111 1111 1111 1111",
        "sk-proj-abcdefghijklmnopqrstuv",
        "+49 171 7654321",
        "B-12345",
        "anneliese",
    ];
    let said =
        format!("mail {} card {} key {} call {} badge {}", secrets[0], secrets[1], secrets[2], secrets[3], secrets[4]);
    let message = |id: u64| {
        let mut message: Value = serde_json::from_slice(&kafka::log(id)).unwrap();
        message["requester"] = json!("anneliese");
        message["request"]["user"] = json!("anneliese");
        message["request"]["messages"][1]["content"] = json!(said);
        message["response"]["choices"][0]["message"]["content"] = json!(said);
        message["contact"] = json!(said);
        message["unknown"] = json!({"deep": [said], "zorro@example.org": json!({"x": said}).to_string()});
        message
    };
    let good = message(1).to_string();
    let mut wrong = message(2);
    wrong["status_code"] = json!(said);
    let signal = json!({"schema": "pelton.feedback/v1", "feedback_id": "f", "request_id": "1", "feedback_time": "2026-11-22T10:00:00Z", "text": said, "requester": "anneliese"});
    let producer = kafka::producer(kafka::brokers());
    for payload in
        [good.clone(), wrong.to_string(), good[..good.len() - 9].to_owned(), good.replace('@', "\\u0040"), said.clone()]
    {
        let headers = rdkafka::message::OwnedHeaders::new()
            .insert(rdkafka::message::Header { key: "mail", value: Some(secrets[0]) });
        let mut record = BaseRecord::<[u8], [u8]>::to(&topic).headers(headers);
        record.payload = Some(payload.as_bytes());
        record.key = Some(secrets[0].as_bytes());
        kafka::send(&producer, record);
    }
    kafka::send(&producer, BaseRecord::to(&feedback).payload(signal.to_string().as_bytes()));
    producer.flush(Duration::from_secs(60)).unwrap();
    let daemon = Daemon::start(&config);
    let lake = pelton::daemon::open_lake(&home.load(&config)).await.unwrap();
    until("all is in the tables", PATIENCE, async || {
        count(&lake, LOGS, "").await == 2
            && count(&lake, TableName::DeadLetter, "").await == 3
            && count(&lake, TableName::Feedback, "").await == 1
    })
    .await;
    assert!(daemon.stop().success());
    let copies = kafka::read(&copies, 3);
    assert_eq!(copies.len(), 3);
    let lines = std::fs::read_to_string(config.with_extension("log")).unwrap();
    let all = everything(&lake).await + &lines + &copies.join("\n");
    for secret in secrets.into_iter().chain(["zorro", "example.org", "this test's replacements"]) {
        assert!(!all.contains(secret), "{secret}");
    }
    // Nor is one in the bytes of a table's log, whose statistics hold values.
    let found = number(&lake, LOGS, "SELECT count(DISTINCT prompt) FROM inference_log").await;
    assert_eq!(found, 1, "equal stays equal, whatever the escapes");
    assert_eq!(
        count(&lake, LOGS, "contact LIKE 'mail <email:%> card <card:%> key <secret:%> call <phone:%> badge <badge:%>'")
            .await,
        2
    );
    let mut logs = String::new();
    for entry in std::fs::read_dir(home.dir.path().join("lake/tables/inference_log/_delta_log")).unwrap() {
        logs += &String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(!logs.contains("zorro") && !logs.contains("anneliese"));
}
