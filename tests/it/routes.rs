//! Topics by name and by pattern, of every format and compression, each to its table, through a real Kafka.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::lake::{count, number, query};
use crate::support::python;
use crate::support::registry::{Books, Registry};
use arrow::array::AsArray;
use pelton::domain::LogName;
use pelton::lake::{Lake, TableName};
use rdkafka::producer::{BaseRecord, Producer};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn table(name: &str) -> TableName {
    TableName::of_log(LogName::new(name).unwrap()).unwrap()
}

async fn lake(home: &Home, config: &Path) -> Lake {
    pelton::daemon::open_lake(&home.load(config)).await.unwrap()
}

async fn assert_clean(home: &Home, config: &Path, lake: &Lake) {
    let report = pelton::daemon::audit::audit(&home.load(config).kafka, lake).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

fn send(topic: &str, partition: i32, payloads: &[Vec<u8>]) {
    let producer = kafka::producer(kafka::brokers());
    for payload in payloads {
        kafka::send(&producer, BaseRecord::to(topic).partition(partition).payload(payload.as_slice()));
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

async fn named(name: &str, settings: &[(&str, &str)]) {
    kafka::exact_topic(name, 1, settings).await;
}

/// Every text of a table's row, for one request.
async fn text(lake: &Lake, of: TableName, column: &str, request_id: &str) -> Option<String> {
    let sql = format!("SELECT CAST({column} AS VARCHAR) FROM {of} WHERE request_id = '{request_id}'");
    let batches = query(lake, of, &sql).await;
    let column = arrow::compute::cast(batches[0].column(0), &arrow::datatypes::DataType::Utf8).unwrap();
    let texts = column.as_string::<i32>();
    texts.iter().next().flatten().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_of_every_compression_by_pattern_land_in_their_tables() {
    let id = kafka::unique("r");
    let codecs = ["gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        // The broker itself compresses what it stores, whatever the producer does.
        named(&format!("{id}-{codec}"), &[("compression.type", codec)]).await;
    }
    let plain = kafka::topic("plain", 1, &[]).await;
    let home = Home::new(&plain);
    let config = home.config(
        "daemon",
        "'topic.metadata.refresh.interval.ms' = '1000'",
        &format!(
            "[[ingest.routes]]\ntopics = '^{id}-(gzip|snappy)$'\ntable = 'first_log'\n\
             [[ingest.routes]]\ntopics = '^{id}-'\ntable = 'second_log'\n"
        ),
    );
    let logs: Vec<Vec<u8>> = (0..200).map(kafka::log).collect();
    for codec in codecs {
        send(&format!("{id}-{codec}"), 0, &logs);
    }
    send(&plain, 0, &logs);
    let _daemon = Daemon::start(&config);
    // A topic that comes later is found.
    let late = format!("{id}-late");
    let lake = lake(&home, &config).await;
    until("the first topics", PATIENCE, async || count(&lake, table("second_log"), "").await == 400).await;
    named(&late, &[]).await;
    send(&late, 0, &logs);
    until("the late topic", PATIENCE, async || count(&lake, table("second_log"), "").await == 600).await;
    until("the others", PATIENCE, async || {
        count(&lake, table("first_log"), "").await == 400 && count(&lake, TableName::InferenceLog, "").await == 200
    })
    .await;
    let distinct = "SELECT count(DISTINCT concat(kafka_topic, request_id)) FROM second_log";
    assert_eq!(number(&lake, table("second_log"), distinct).await, 600);
    assert_clean(&home, &config, &lake).await;
    // SQL sees the tables by their names, and so do readers of other makers.
    let sql =
        "SELECT count(*) FROM first_log JOIN second_log USING (request_id) WHERE second_log.kafka_topic LIKE '%late'";
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(["sql", "--format", "csv", "--config"])
        .arg(&config)
        .arg(sql)
        .output();
    let run = run.await.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(String::from_utf8_lossy(&run.stdout).contains("400"), "{}", String::from_utf8_lossy(&run.stdout));
    let path = home.dir.path().join("lake/tables/first_log");
    let python = "import sys, deltalake\nprint(deltalake.DeltaTable(sys.argv[1]).to_pyarrow_table().num_rows)";
    assert_eq!(python::run(python, &[path.to_str().unwrap()]), "400");
    let refused = home.config("refused", "", "[[ingest.routes]]\ntopics = 'x'\ntable = 'cycle'\n");
    let error = format!("{:#}", pelton::daemon::open_lake(&home.load(&refused)).await.unwrap_err());
    assert!(error.contains("ingest.routes.0.table") && error.contains("`cycle` is a table of Pelton's own"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_many_records_is_exact_through_kills() {
    let topic = kafka::topic("otel", 1, &[]).await;
    let home = Home::at(kafka::brokers(), &kafka::topic("none", 1, &[]).await);
    let routes = format!("batch_rows_max = 7\n[[ingest.routes]]\ntopics = '{topic}'\nformat = 'otlp'\n");
    let config = home.config("daemon", "'group.instance.id' = 'd1'", &routes);
    let record = |id: String| {
        let text = |s: &str| json!({"stringValue": s});
        json!({"timeUnixNano": "1795341600000000000", "eventName": "gen_ai.client.inference.operation.details", "attributes": [
            {"key": "gen_ai.response.id", "value": text(&id)},
            {"key": "gen_ai.input.messages", "value": text(r#"[{"role":"user","parts":[{"type":"text","content":"q"}]}]"#)}]})
    };
    let message = |m: usize| {
        let mut records: Vec<Value> = (0..5).map(|r| record(format!("{m}-{r}"))).collect();
        records.push(json!({"timeUnixNano": "x", "attributes": [{"key": "gen_ai.input.messages", "value": {}}]}));
        json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string().into_bytes()
    };
    send(&topic, 0, &(0..300).map(message).collect::<Vec<_>>());
    for pause in [900, 1300, 700] {
        let mut daemon = Daemon::start(&config);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        daemon.assert_alive(&config);
        daemon.kill();
    }
    let _daemon = Daemon::start(&config);
    let lake = lake(&home, &config).await;
    until("all records", PATIENCE, async || {
        count(&lake, TableName::InferenceLog, "").await + count(&lake, TableName::DeadLetter, "").await >= 1800
    })
    .await;
    assert_eq!(
        number(&lake, TableName::InferenceLog, "SELECT count(DISTINCT request_id) FROM inference_log").await,
        1500
    );
    assert_eq!(count(&lake, TableName::InferenceLog, "").await, 1500);
    assert_eq!(count(&lake, TableName::DeadLetter, "kafka_record = 5 AND code = 'MISSING_FIELD'").await, 300);
    assert_clean(&home, &config, &lake).await;
}

const CALL: &str = r#"{"type":"record","name":"Call","namespace":"shop","fields":[
    {"name":"request_id","type":"string"},
    {"name":"request_time","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"request","type":"string"},
    {"name":"response","type":["null","string"],"default":null},
    {"name":"status_code","type":["null","int"],"default":null},
    {"name":"tags","type":{"type":"map","values":"string"}},
    {"name":"steps","type":{"type":"array","items":["long","string","boolean","null","double"]}},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}},
    {"name":"tier","type":"shop.Tier"}]}"#;
const TIER: &str = r#"{"type":"enum","name":"Tier","namespace":"shop","symbols":["FREE","PAID"]}"#;

/// Messages as another maker's Avro writes them, framed for an id.
fn written_by_fastavro(id: u32, count: usize) -> Vec<Vec<u8>> {
    let program = r#"
import sys, json, io, struct, decimal, datetime, fastavro
tier, call, id, count = json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
names = {}
fastavro.parse_schema(tier, named_schemas=names)
schema = fastavro.parse_schema(call, named_schemas=names)
for n in range(count):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, {
        "request_id": f"avro-{n}", "request_time": datetime.datetime(2026, 11, 22, 10, 0, 0, 1000 * n, datetime.timezone.utc),
        "request": json.dumps({"messages": [{"role": "user", "content": f"q {n} \u00fc \U0001f980"}]}),
        "response": None if n % 3 == 0 else "{}", "status_code": None if n % 2 else 200 + n,
        "tags": {"k\"": "v\n"} if n % 4 else {}, "steps": [n, -n * 2**40, "s", True, None, 0.5] * (n % 3),
        "price": decimal.Decimal(n * 37 - 500) / 1000, "tier": "PAID" if n % 2 else "FREE"})
    print((b"\0" + struct.pack(">I", id) + out.getvalue()).hex())
"#;
    let out = python::run(program, &[TIER, CALL, &id.to_string(), &count.to_string()]);
    let byte = |hex: &str, i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    out.lines().map(|hex| (0..hex.len() / 2).map(|i| byte(hex, i)).collect()).collect()
}

fn framed(id: u32, data: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), data].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_registry_is_waited_for_and_its_unknown_ids_are_dead_letters() {
    let call = json!({"schema": CALL, "references": [{"name": "shop.Tier", "subject": "tier/v", "version": 3}]});
    let registry = Registry::start(Books {
        ids: [
            (1, call),
            (2, json!({"schema": "{\"type\":\"object\"}", "schemaType": "JSON"})),
            (3, json!({"schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF"})),
            (4, json!({"schema": "\"int\""})),
        ]
        .into(),
        subjects: [(("tier/v".to_owned(), 3), json!({"schema": TIER, "id": 9}))].into(),
        away: true,
        sick: vec![4],
        password: Some("Basic cGVsdG9uOnNlc2FtZQ==".to_owned()),
        ..Books::default()
    })
    .await;
    let topic = kafka::topic("avro", 3, &[]).await;
    let home = Home::new(&topic);
    let section = |password: &str| {
        format!(
            "retry_backoff_ms_max = 300\n[ingest.registry]\nurl = '{}'\nusername = 'pelton'\npassword = '{password}'\n",
            registry.url
        )
    };
    let json = kafka::log(7);
    send(&topic, 0, &written_by_fastavro(1, 60));
    send(
        &topic,
        1,
        &[
            json.clone(),
            framed(2, &kafka::log(8)),
            framed(3, b"x"),
            framed(77, b"y"),
            framed(1, b"\x04a"),
            kafka::log(9),
        ],
    );
    send(&topic, 2, &[kafka::log(10), framed(4, b"\x02"), kafka::log(11)]);

    // Away: what needs no schema goes on, the rest waits, nothing is refused.
    let wrong = home.config("daemon", "'group.instance.id' = 'd1'", &section("open"));
    let daemon = Daemon::start(&wrong);
    let lake = home.lake().await;
    until("rows without a schema", PATIENCE, async || count(&lake, TableName::InferenceLog, "").await == 2).await;
    until("the registry is asked again", PATIENCE, async || registry.asked().len() > 6).await;
    // Back, but it refuses the password: still nobody's fault but the configuration's.
    registry.books.lock().unwrap().away = false;
    let asked = registry.asked().len();
    until("the registry refuses", PATIENCE, async || registry.asked().len() > asked + 3).await;
    assert_eq!(count(&lake, TableName::InferenceLog, "").await, 2);
    assert_eq!(count(&lake, TableName::DeadLetter, "").await, 0);
    assert!(daemon.stop().success());
    // The right password: all is read, but for the one id that gets no answer; the others do not wait for it.
    let right = home.config("daemon", "'group.instance.id' = 'd1'", &section("sesame"));
    let mut daemon = Daemon::start(&right);
    until("all but one partition", PATIENCE, async || {
        count(&lake, TableName::InferenceLog, "").await == 64 && count(&lake, TableName::DeadLetter, "").await == 3
    })
    .await;
    daemon.assert_alive(&right);
    assert_eq!(count(&lake, TableName::InferenceLog, "kafka_partition = 2").await, 1);
    registry.books.lock().unwrap().sick.clear();
    until("the last partition", PATIENCE, async || {
        count(&lake, TableName::InferenceLog, "kafka_partition = 2").await == 2
    })
    .await;
    until("its dead letter", PATIENCE, async || count(&lake, TableName::DeadLetter, "").await == 4).await;
    assert_clean(&home, &right, &lake).await;

    assert_eq!(
        count(
            &lake,
            TableName::DeadLetter,
            "code = 'UNKNOWN_SCHEMA' AND reason LIKE 'schema 3: its type is PROTOBUF%'"
        )
        .await,
        1
    );
    assert_eq!(
        count(
            &lake,
            TableName::DeadLetter,
            "code = 'UNKNOWN_SCHEMA' AND reason LIKE 'schema 77: the registry knows no%'"
        )
        .await,
        1
    );
    assert_eq!(count(&lake, TableName::DeadLetter, "code = 'NOT_OF_SCHEMA' AND reason LIKE '%schema 1%'").await, 1);
    assert_eq!(
        count(
            &lake,
            TableName::InferenceLog,
            "request_id LIKE 'avro-%' AND status_code = 200 + CAST(substr(request_id, 6) AS INT)"
        )
        .await,
        30
    );
    let logs = TableName::InferenceLog;
    assert_eq!(text(&lake, logs, "prompt", "avro-5").await.as_deref(), Some("q 5 ü 🦀"));
    assert_eq!(text(&lake, logs, "request_time", "avro-5").await.as_deref(), Some("2026-11-22T10:00:00.005Z"));
    let extra = r#"{"price":"-0.315","steps":[5,-5497558138880,"s",true,null,0.5,5,-5497558138880,"s",true,null,0.5],"tags":{"k\"":"v\n"},"tier":"PAID"}"#;
    assert_eq!(text(&lake, logs, "extra", "avro-5").await.as_deref(), Some(extra));
    let once = registry.asked().into_iter().filter(|what| what == "id 77").count();
    assert!(once >= 1, "the id was asked for");
}
