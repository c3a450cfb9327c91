//! What an operator sees: metrics that tell the truth, health that changes with what is up, output that may be cut.

use crate::support::kafka::{self, Daemon, Home, until};
use crate::support::python;
use pelton::daemon::console::Health;
use pelton::ingest::Progress;
use pelton::runtime::Shutdown;
use pelton::telemetry::metric;
use rdkafka::producer::{BaseRecord, Producer};
use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Prints each sample of a scrape as `name{labels} value`, by the parser of Prometheus' own client.
const PARSE: &str = r#"
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
    for s in family.samples:
        print(s.name + "{" + ",".join(f"{k}={v}" for k, v in sorted(s.labels.items())) + "}", s.value)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_a_running_daemon_are_what_happened() {
    let topic = kafka::topic("metrics", 2, &[]).await;
    let producer = kafka::producer(kafka::brokers());
    for id in 0..300 {
        let bytes = if id % 10 == 7 { b"no log".to_vec() } else { kafka::log(id) };
        let partition = i32::from(id % 3 == 0);
        kafka::send(&producer, BaseRecord::to(&topic).partition(partition).payload(bytes.as_slice()));
    }
    kafka::send(&producer, BaseRecord::to(&topic).partition(0).key(&b"tombstone"[..]));
    producer.flush(Duration::from_secs(30)).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = Home::new(&topic);
    let config = home.config("daemon", "", &format!("[console]\nlisten = '127.0.0.1:{port}'"));
    let daemon = Daemon::start(&config);
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let get = async |path: &str| reqwest::get(url(path)).await.ok();
    let answers = async |path: &str| get(path).await.is_some_and(|a| a.status().is_success());
    until("it is ready", PATIENCE, async || answers("/readyz").await).await;
    assert!(answers("/healthz").await);
    let wanted = format!("pelton_ingest_committed_offset{{topic=\"{topic}\",partition=\"0\"}} 201\n");
    until("all is committed and sampled", PATIENCE, async || {
        get("/metrics").await.unwrap().text().await.is_ok_and(|text| text.contains(&wanted))
    })
    .await;

    let scrape = get("/metrics").await.unwrap();
    assert_eq!(scrape.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = scrape.text().await.unwrap();
    let file = home.dir.path().join("scrape");
    std::fs::write(&file, &text).unwrap();
    let samples: BTreeMap<String, f64> = python::run(PARSE, &[file.to_str().unwrap()])
        .lines()
        .filter_map(|line| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap())))
        .collect();
    let is = |name: &str, value: f64| assert_eq!(samples.get(name), Some(&value), "{name} in {samples:#?}");
    is("pelton_ingest_rows_total{table=inference_log}", 270.0);
    is("pelton_ingest_dead_letters_total{code=NOT_JSON}", 30.0);
    is("pelton_ingest_dead_letters_total{code=EMPTY}", 1.0);
    is(&format!("pelton_ingest_committed_offset{{partition=1,topic={topic}}}"), 100.0);
    is(&format!("pelton_ingest_lag_messages{{partition=0,topic={topic}}}"), 0.0);
    is(&format!("pelton_ingest_lag_messages{{partition=1,topic={topic}}}"), 0.0);
    is(&format!("pelton_ingest_partition_stopped{{partition=0,topic={topic}}}"), 0.0);
    is("pelton_ingest_partitions{}", 2.0);
    is("pelton_ingest_buffer_bytes{}", 0.0);
    is("pelton_ingest_rebalances_total{what=assigned}", 1.0);
    is("pelton_ingest_batches_dropped_total{}", 0.0);
    let commits = samples["pelton_ingest_commit_duration_seconds_count{table=inference_log}"];
    is("pelton_ingest_commit_duration_seconds_bucket{le=+Inf,table=inference_log}", commits);
    assert!(commits >= 1.0 && samples["pelton_ingest_commit_duration_seconds_sum{table=inference_log}"] > 0.0);
    assert!(samples["process_resident_memory_bytes{}"] > 1e7 && samples["process_cpu_seconds_total{}"] > 0.0);
    // Each metric that exists is described for operators, and the alerts name only such that exist.
    let described = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/OPERATIONS.md")).unwrap();
    for name in metric::NAMES {
        assert!(described.contains(&format!("`{name}`")), "docs/OPERATIONS.md does not describe {name}");
    }
    let alerts = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alerts.yml")).unwrap();
    for word in alerts.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| w.starts_with("pelton_")) {
        let base = word.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum");
        assert!(metric::NAMES.contains(&base), "docs/alerts.yml names {word}, which no metric is");
    }
    assert!(daemon.stop().success());
}

#[test]
fn health_says_what_is_waited_for() {
    let health = Health { progress: Arc::<Progress>::default(), draining: Shutdown::new() };
    assert!(health.alive().is_ok(), "a start that waits is left alone");
    assert!(health.ready().unwrap_err().contains("partitions"));
    health.progress.assigned.store(true, Relaxed);
    health.progress.heartbeat.beat();
    assert!(health.ready().is_ok() && health.alive().is_ok());
    health.draining.cancel();
    assert_eq!(health.ready().unwrap_err(), "draining");
    assert!(health.alive().is_ok());
}

#[test]
fn output_that_nobody_reads_on_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pelton"))
        .args(["schema", "config.v1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(141), ""));
}
