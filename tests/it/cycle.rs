//! Promises of the daemon's cycles: they start by themselves, survive a kill -9 of the daemon, and end in a version, its event
//! and a trail of states, all once.

use super::support::kafka::{Daemon, Home, brokers, producer, topic, unique, until};
use pelton::codec::{InferenceLog, event};
use pelton::demo::questions::{Dial, Side, questions};
use pelton::demo::shop::{SHOP_SEED, Shop};
use pelton::domain::{CycleState, ModelName, VersionState};
use pelton::publish::{Registry, read_events};
use pelton::{config, daemon};
use rdkafka::producer::{BaseRecord, Producer as _};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const QUESTIONS: usize = 80;

/// Logs as a server would write them: questions about the shop, answered with anything.
fn ask(shop: &Shop, topic: &str) {
    let sender = producer(brokers());
    for (i, question) in questions(shop, 7, QUESTIONS, Side::Asked, Dial::default()).iter().enumerate() {
        let request =
            json!({"model": "sql-tiny", "messages": [{"role": "user", "content": question.text}]}).to_string();
        let response = json!({"choices": [{"message": {"role": "assistant", "content": "SELECT 1"}}]}).to_string();
        let id = format!("call-{i}");
        let mut log = InferenceLog::new(&id, pelton::runtime::now(), &request, Some(&response));
        log.status_code = Some(200);
        log.model = Some("sql-tiny");
        let payload = log.to_bytes().unwrap();
        sender.send(BaseRecord::to(topic).key(id.as_bytes()).payload(&payload)).map_err(|(e, _)| e).unwrap();
    }
    sender.flush(Duration::from_secs(30)).unwrap();
}

fn settings(home: &Home, versions: &str) -> PathBuf {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sql-tiny");
    let path = home.config("daemon", "", "");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = format!(
        "[publish]\ntopic = '{versions}'\n[windows.w]\n\
         sql = 'SELECT request_id, request_time, messages FROM inference_log \
                WHERE request_time >= $since AND request_time < $until AND status_code = 200'\n\
         prompts_min = 40\nholdout_share = 0.3\n\
         [models.sql-tiny]\nbase = '{}'\nwindow = 'w'\n\
         schedule = {{ on_fresh_prompts = true }}\n\
         explore = {{ samples = 4, tokens_max = 48 }}\n\
         optimize = {{ epochs = 1, prompts_per_step = 8 }}\n\
         gate = {{ prompts_min = 5, score = {{ sql = {{ database = 'shop' }}, refusal = {{}} }} }}\n\
         [models.sql-tiny.score]\ncalibrate = true\nsql = {{ database = 'shop' }}\n",
        base.display()
    );
    std::fs::write(&path, text + &more).unwrap();
    path
}

fn pelton(arguments: &[&str]) -> Vec<Value> {
    let ran = Command::new(env!("CARGO_BIN_EXE_pelton")).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_starts_by_itself_survives_its_daemon_and_ends_in_a_version_and_an_event() {
    let topic = topic("cycle", 2, &[]).await;
    let versions = unique("versions");
    let home = Home::new(&topic);
    let path = settings(&home, &versions);
    let shop = Shop::generate(SHOP_SEED);
    std::fs::create_dir_all(home.dir.path().join("shop")).unwrap();
    shop.write_parquet(&home.dir.path().join("shop")).unwrap();
    let config = config::load(&path).unwrap();
    let lake = daemon::open_lake(&config).await.unwrap();
    ask(&shop, &topic);

    let model: ModelName = "sql-tiny".parse().unwrap();
    let mut killed = Daemon::start(&path);
    until("a cycle explores", Duration::from_secs(120), async || {
        killed.assert_alive(&path);
        lake.cycle_events(Some(&model)).await.unwrap().iter().any(|e| e.state >= CycleState::Explore)
    })
    .await;
    killed.kill();

    let mut second = Daemon::start(&path);
    until("the cycle ends", Duration::from_secs(300), async || {
        second.assert_alive(&path);
        lake.cycle_events(Some(&model)).await.unwrap().iter().any(|e| e.state.is_end())
    })
    .await;
    assert!(second.stop().success());

    let events = lake.cycle_events(Some(&model)).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!(last.state, CycleState::Done, "{events:#?}");
    assert!(events.iter().all(|e| e.cycle == last.cycle), "one cycle only: {events:#?}");
    let states: Vec<VersionState> = lake.versions(&model).await.unwrap().iter().map(|v| v.state).collect();
    assert!(
        matches!(states[..], [VersionState::Registered, VersionState::Promoted | VersionState::Rejected]),
        "{states:?}"
    );

    let (store, prefix) = daemon::store_of(&lake);
    let registry = Registry::new(store, &prefix);
    let stored = registry.list().await.unwrap();
    assert_eq!(stored.len(), 1);
    let manifest = &stored[0].manifest;
    assert_eq!(manifest.cycle, last.cycle.as_str());
    // Nobody rated anything, and that is on record; the gate has scorers of its own, and what it watches is too.
    let calibration = manifest.calibration.as_ref().unwrap();
    assert_eq!((calibration["samples"].as_u64(), calibration["chosen"].as_str()), (Some(0), Some("uncalibrated")));
    let guards = &manifest.evaluation["guards"];
    assert!(guards["training_gain"]["mean"].is_number() && guards["kl_to_base"].as_f64().unwrap() >= 0.0, "{guards}");
    assert!(guards["refusals"]["champion"].is_number() && guards["tokens"]["challenger"].is_number(), "{guards}");
    assert!(registry.files(&stored[0].reference).await.unwrap().iter().any(|(n, _)| n == "adapter_model.safetensors"));

    let kafka = config.kafka.clone();
    let announced = tokio::task::spawn_blocking(move || read_events(&kafka, &versions, Duration::from_secs(30)));
    let announced = announced.await.unwrap().unwrap();
    let told: Vec<VersionState> =
        announced.iter().filter(|m| m.key == "sql-tiny/v1").map(|m| event::decode(&m.payload).unwrap().state).collect();
    assert_eq!(told, states);

    let path = path.to_str().unwrap();
    let listed = pelton(&["cycle", "list", "--json", "--config", path]);
    assert_eq!((listed.len(), listed[0]["state"].as_str()), (1, Some("done")));
    let shown = pelton(&["cycle", "show", last.cycle.as_str(), "--json", "--config", path]);
    assert_eq!(shown.len(), events.len());
    // Made again from the same version of the table, it is the same byte for byte.
    let again = pelton(&["model", "reproduce", "sql-tiny@v1", "--json", "--config", path]);
    assert_eq!(again[0]["same"], true, "{again:?}");
    assert!(again[0]["source"].as_str().unwrap().contains("the window's SQL"), "{again:?}");
    let pulled = home.dir.path().join("pulled");
    pelton(&["model", "pull", "sql-tiny@v1", pulled.to_str().unwrap(), "--json", "--config", path]);
    assert!(pulled.join("adapter_model.safetensors").exists() && pulled.join("report.html").exists());
    let models = pelton(&["model", "list", "--json", "--config", path]);
    assert_eq!(models.len(), 1, "{models:?}");
}
