//! Events as others read them: a consumer in Python, a webhook whose signature its own library checks.

use super::registry::version;
use super::rig::Rig;
use crate::support::{kafka, python};
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use pelton::domain::VersionState::{Promoted, Registered, RolledBack};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// The reference consumer: each event once by its id, and the champion of every model by its key.
const CONSUMER: &str = r#"
import json, sys, time
from confluent_kafka import Consumer, KafkaError
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

consumer = Consumer({"bootstrap.servers": sys.argv[1], "group.id": sys.argv[3], "auto.offset.reset": "earliest",
                     "enable.partition.eof": True, "enable.auto.commit": False})
consumer.subscribe([sys.argv[2]])
seen, champions, deadline = {}, {}, time.time() + 60
while time.time() < deadline:
    message = consumer.poll(1.0)
    if message is None:
        continue
    if message.error():
        if message.error().code() == KafkaError._PARTITION_EOF:
            break
        raise SystemExit(str(message.error()))
    key = message.key().decode()
    if message.value() is None:
        champions.pop(key, None)
        continue
    headers = {name: value for name, value in message.headers() or []}
    event = from_kafka_event(KafkaMessage(headers=headers, key=message.key(), value=message.value()))
    data = event.get_data()
    data = json.loads(data) if isinstance(data, (bytes, str)) else data
    seen.setdefault(event.get_id(), f"v{data['version']} {data['state']}")
    if "/" not in key:
        champions[key] = data["name"]
consumer.close()
print(json.dumps({"seen": list(seen.values()), "champions": champions}))
"#;

async fn consumed(rig: &Rig) -> Value {
    let (config, group) = (rig.config(), kafka::unique("reference"));
    let read = move || python::run(CONSUMER, &[&config.kafka.brokers, &config.publish.topic, &group]);
    serde_json::from_str(&tokio::task::spawn_blocking(read).await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_python_sees_each_event_once_and_the_champion_however_late_it_comes() {
    for mode in ["binary", "structured"] {
        let rig = Rig::new("", "").await;
        let text = std::fs::read_to_string(&rig.path).unwrap();
        std::fs::write(&rig.path, text.replace("[scheduler]", &format!("mode = '{mode}'\n[scheduler]"))).unwrap();
        let history = [(1, Registered), (1, Promoted), (2, Registered), (2, Promoted)];
        for (at, (n, state)) in (1..).zip(history) {
            rig.lake.append_version(&version(n, state, at)).await.unwrap();
            rig.json(&["model", "publish", "--json"]);
        }
        let seen = json!(["v1 registered", "v1 promoted", "v2 registered", "v2 promoted"]);
        let expected = json!({"seen": seen, "champions": {"sql-tiny": "sql-tiny@v2"}});
        assert_eq!(consumed(&rig).await, expected, "{mode}");
        rig.lake.append_version(&version(2, RolledBack, 9)).await.unwrap();
        rig.lake.append_version(&version(1, RolledBack, 10)).await.unwrap();
        rig.json(&["model", "publish", "--json"]);
        let base = consumed(&rig).await;
        assert_eq!((&base["champions"], base["seen"].as_array().unwrap().len()), (&json!({}), 6), "{mode}");
    }
}

/// What the address got: headers and bodies.
type Got = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// An address that refuses its second request.
async fn address() -> (String, Got) {
    let got: Got = Arc::default();
    let kept = Arc::clone(&got);
    let take = move |headers: HeaderMap, body: Bytes| async move {
        let mut kept = kept.lock().unwrap();
        kept.push((headers, body));
        if kept.len() == 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
    };
    let router = axum::Router::new().route("/hook", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, got)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_each_event_in_order_signed_so_that_the_standards_library_accepts_it() {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr";
    let (url, got) = address().await;
    let section = format!("[[publish.webhooks]]\nname = 'ops'\nurl = '{url}'\nsecret = '{SECRET}'");
    let rig = Rig::new(&section, "").await;
    for (at, (n, state)) in (1..).zip([(1, Registered), (1, Promoted), (2, Registered)]) {
        rig.lake.append_version(&version(n, state, at)).await.unwrap();
    }
    assert!(!rig.pelton(&["model", "publish"]).status.success(), "the second was not taken");
    let sent = rig.json(&["model", "publish", "--json"]);
    assert_eq!(sent["posted"]["ops"].as_array().unwrap().len(), 2);
    assert_eq!(rig.json(&["model", "publish", "--json"])["posted"]["ops"], json!([]));

    let got = got.lock().unwrap().clone();
    let header = |i: usize, name: &str| got[i].0[name].to_str().unwrap().to_owned();
    let states: Vec<String> = got
        .iter()
        .map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap()["data"]["state"].to_string())
        .collect();
    assert_eq!(states, ["\"registered\"", "\"promoted\"", "\"promoted\"", "\"registered\""]);
    assert_eq!(header(1, "webhook-id"), header(2, "webhook-id"), "the same at every try");
    let verify = "import sys, json\nfrom standardwebhooks import Webhook\n\
                  names = ('webhook-id', 'webhook-timestamp', 'webhook-signature')\n\
                  print(json.dumps(Webhook(sys.argv[1]).verify(sys.argv[2], dict(zip(names, sys.argv[3:])))['type']))";
    for (i, (_, body)) in got.iter().enumerate() {
        let body = String::from_utf8(body.to_vec()).unwrap();
        let values = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| header(i, name));
        let said = python::run(verify, &[SECRET, &body, &values[0], &values[1], &values[2]]);
        assert!(said.contains("dev.pelton.model.version."), "{said}");
    }
}
