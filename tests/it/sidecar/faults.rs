//! What else goes wrong: slow brokers and readers, full disks, large bodies, many connections, half-closed ones; and the other
//! ways to speak HTTP.

use super::double::Double;
use super::rig::{PATIENCE, Rig, Setup, client, read};
use crate::full_disk::SmallDisk;
use crate::support::kafka::until;
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn question(text: &str) -> Value {
    json!({"model": "base", "messages": [{"role": "user", "content": text}]})
}

fn raw(path: &str, body: &str) -> Vec<u8> {
    let head = "host: x\r\ncontent-type: application/json";
    format!("POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn connect(rig: &Rig) -> TcpStream {
    TcpStream::connect(rig.url.trim_start_matches("http://")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_broker_is_as_one_that_is_away() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("calls", 1, 1).unwrap();
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.brokers = cluster.bootstrap_servers();
    setup.sections = "[sidecar.log]\nqueue_bytes_max = 1048576".to_owned();
    let rig = Rig::start_on(setup, ["calls", "feedback", "versions"].map(str::to_owned)).await;
    rig.chat(&question("0")).await;
    until("the first is there", PATIENCE, async || rig.metric("pelton_log_sent_total").await == 1.0).await;
    cluster.broker_round_trip_time(1, Duration::from_secs(3)).unwrap();
    // Four times what librdkafka may hold.
    let filler = "x".repeat(20_000);
    for n in 1..200 {
        assert_eq!(rig.chat(&question(&format!("{n} {filler}"))).await.status(), 200);
    }
    until("the disk takes over", PATIENCE, async || rig.metric("pelton_log_spill_records").await > 0.0).await;
    cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    until("all are sent", PATIENCE, async || {
        rig.metric("pelton_log_sent_total").await >= 200.0 && rig.metric("pelton_log_spill_records").await == 0.0
    })
    .await;
    assert_eq!(rig.metric("pelton_log_dropped_total").await, 0.0);
    // What was given up on its way may have arrived: some may be there twice.
    let payloads = tokio::task::spawn_blocking(move || {
        let count = super::rig::messages(&rig.brokers, "calls");
        assert!((200..400).contains(&count), "{count} messages");
        read(&rig.brokers, "calls", count)
    });
    let payloads = payloads.await.unwrap();
    let number = |payload: &Vec<u8>| {
        let value: Value = serde_json::from_slice(payload).unwrap();
        let text = value["request"]["messages"][0]["content"].as_str().unwrap();
        text.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(payloads.iter().map(number).collect::<BTreeSet<_>>(), (0..200).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_logs_counted_and_no_request() {
    let disk = SmallDisk::mount("1m");
    let double = Double::start().await;
    let mut setup = Setup::new(&[&double.url]);
    setup.brokers = "127.0.0.1:9".to_owned();
    setup.wrapper = disk.prefix().to_vec();
    setup.sections =
        format!("[sidecar.log]\ndelivery_timeout_ms = 300\nspill_dir = '{}'", disk.dir.path().join("spill").display());
    let rig = Rig::start(setup).await;
    let filler = "x".repeat(20_000);
    for n in 0..120 {
        assert_eq!(rig.chat(&question(&format!("{n} {filler}"))).await.status(), 200);
    }
    // The configured bound is far above what the disk has; the oldest goes for the new all the same, or the new is counted.
    until("all are accounted for", PATIENCE, async || {
        rig.metric("pelton_log_spill_records").await + rig.metric("pelton_log_dropped_total").await == 120.0
    })
    .await;
    assert!(rig.metric("pelton_log_dropped_total").await > 0.0);
    assert!(rig.said().contains("No space left on device"), "{}", rig.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_holds_up_nobody_and_gets_all_in_the_end() {
    let double = Double::start().await;
    let rig = Rig::start(Setup::new(&[&double.url])).await;
    let mut slow = connect(&rig).await;
    let body = json!({"model": "base", "messages": [], "answer_bytes": 12_000_000}).to_string();
    slow.write_all(&raw("/v1/chat/completions", &body)).await.unwrap();
    let mut first = [0; 1000];
    slow.read_exact(&mut first).await.unwrap();
    // A byte a second, then nothing at all.
    for _ in 0..3 {
        slow.read_exact(&mut first[..1]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for n in 0..20 {
        assert_eq!(rig.chat(&question(&n.to_string())).await.status(), 200);
    }
    assert_eq!(rig.status().await["requests_under_way"], 1);
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() > 12_000_000 - 1100, "{} bytes", rest.len());
    assert!(String::from_utf8_lossy(&rest[rest.len() - 200..]).contains("\"status\":\"ok\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_go_through_and_their_logs_say_what_is_left_out() {
    let double = Double::start().await;
    let rig = Rig::start(Setup::new(&[&double.url])).await;
    let body = question(&"x".repeat(50_000_000)).to_string();
    let response = rig.post("/v1/chat/completions", body.clone()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(double.came().pop().unwrap().body.len(), body.len());
    assert_eq!(rig.post("/v1/chat/completions", question(&"x".repeat(68_000_000)).to_string()).await.status(), 413);
    let answer = rig.chat(&json!({"model": "base", "messages": [], "answer_bytes": 11_000_000})).await;
    assert!(answer.bytes().await.unwrap().len() > 11_000_000);
    let rows = rig.rows(3).await;
    let codes = |n: usize| rows[n].logging_error_codes.iter().map(AsRef::as_ref).collect::<Vec<&str>>();
    assert_eq!(codes(0), ["MAX_REQUEST_SIZE_EXCEEDED"]);
    assert_eq!(rows[1].status_code, Some(413));
    assert_eq!((codes(2), rows[2].response.as_deref()), (vec!["MAX_RESPONSE_SIZE_EXCEEDED"], None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_and_half_closed_ones_are_borne() {
    let double = Double::start().await;
    let rig = Rig::start(Setup::new(&[&double.url])).await;
    assert_eq!(rig.chat(&question("alone")).await.status(), 200);
    let (mut idle, alone) = (Vec::new(), rig.rss_mib());
    for _ in 0..10_000 {
        idle.push(connect(&rig).await);
    }
    assert_eq!(rig.chat(&question("among many")).await.status(), 200);
    let grown = rig.rss_mib().saturating_sub(alone);
    assert!(grown < 100, "{grown} MiB for 10,000 connections that say nothing");
    // They are alive: one after the other is served.
    for stream in idle.iter_mut().step_by(1000) {
        stream.write_all(&raw("/v1/chat/completions", "{\"model\":\"base\"}")).await.unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }
    drop(idle);
    // A client that closed its sending half is gone, and the server is told.
    *double.stage.delay.lock().unwrap() = PATIENCE;
    let mut half = connect(&rig).await;
    half.write_all(&raw("/v1/chat/completions", "{\"model\":\"half\"}")).await.unwrap();
    until("it is under way", PATIENCE, async || rig.status().await["requests_under_way"] == 1).await;
    half.shutdown().await.unwrap();
    until("it is over", PATIENCE, async || rig.status().await["requests_under_way"] == 0).await;
    let rows = rig.rows(13).await;
    assert!(rows.iter().any(|row| row.model.as_deref() == Some("half") && row.status_code == Some(499)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_and_tls_are_spoken_too() {
    let double = Double::start().await;
    let plain = Rig::start(Setup::new(&[&double.url])).await;
    let h2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let ask = |client: &reqwest::Client, url: &str| {
        let request = client.post(format!("{url}/v1/chat/completions")).header("content-type", "application/json");
        request.body(question("hello").to_string()).send()
    };
    let response = ask(&h2, &plain.url).await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    let expected = ask(&client(), &double.url).await.unwrap().bytes().await.unwrap();
    assert_eq!(response.bytes().await.unwrap(), expected);

    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = (home.path().join("certificate.pem"), home.path().join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut setup = Setup::new(&[&double.url]);
    setup.sections = format!("[sidecar.tls]\ncertificate = '{}'\nkey = '{}'", certificate.display(), key.display());
    let rig = Rig::start(setup).await;
    let url = rig.url.replace("http://", "https://");
    let trusted = reqwest::Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
    for (client, version) in [
        (reqwest::Client::builder().http1_only(), reqwest::Version::HTTP_11),
        (reqwest::Client::builder(), reqwest::Version::HTTP_2),
    ] {
        let client = client.no_proxy().add_root_certificate(trusted.clone()).build().unwrap();
        let response = ask(&client, &url).await.unwrap();
        assert_eq!((response.version(), response.status().as_u16()), (version, 200));
        assert_eq!(response.bytes().await.unwrap(), expected);
    }
    // Somebody who does not speak TLS there holds up nobody.
    assert!(ask(&client(), &rig.url).await.is_err());
}
