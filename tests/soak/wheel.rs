//! The whole flywheel by itself: steady traffic, cycles by fresh prompts, and SIGKILLs of daemons and of cycles' processes.
//!
//! Two models learn from the same traffic. One is tuned by settings that ruin it: the gate must refuse all of its versions. Of the
//! other a version is promoted by hand whose traffic then fails: it must be rolled back by itself. At the end every cycle must
//! have ended, every version must have come from one cycle, and every state change must be on the topic once and in order.

use crate::kafka::{self, Daemon, until};
use pelton::codec::{InferenceLog, event};
use pelton::config::Config;
use pelton::daemon::cycle::{Running, Standing};
use pelton::daemon::{self, champion_of};
use pelton::demo::questions::{Dial, Side, questions};
use pelton::demo::shop::{SHOP_SEED, Shop};
use pelton::domain::{CycleEvent, CycleId, CycleState, ModelName, VersionState};
use pelton::lake::Lake;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::producer::{BaseRecord, Producer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MODELS: [&str; 2] = ["good", "ruined"];
const SEED: u64 = 20_261_122;
/// How long everything may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(900);

fn settings(dir: &Path, topic: &str) -> PathBuf {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sql-tiny");
    let model = |name: &str, rate: &str| {
        format!(
            "[models.{name}]\nbase = '{}'\nwindow = 'w'\n\
             schedule = {{ on_fresh_prompts = true, retries_max = 10, retry_pause_seconds = 2 }}\n\
             explore = {{ samples = 4, temperatures = [0.8, 1.2], tokens_max = 40 }}\n\
             optimize = {{ epochs = 1, prompts_per_step = 8, learning_rate = {rate} }}\n\
             gate = {{ prompts_min = 8 }}\nkeep_seconds = 2\n\
             rollback = {{ look_seconds = 2, requests_min = 30, watch_hours = 1 }}\n\
             [models.{name}.score.sql]\ndatabase = 'shop'\n",
            base.display()
        )
    };
    let path = dir.join("pelton.toml");
    let text = format!(
        "version = 1\n[lake]\nurl = 'lake'\n[kafka]\nbrokers = '{}'\n\
         [ingest]\ntopics = ['{topic}']\ngroup = '{topic}'\nbatch_age_ms_max = 1000\n\
         [publish]\ntopic = '{topic}-versions'\n[scheduler]\ncontrol_topic = '{topic}-control'\nsession_timeout_ms = 6000\n\
         [windows.w]\nsql = 'SELECT request_id, request_time, messages, status_code FROM inference_log \
                             WHERE request_time >= $since AND request_time < $until'\n\
         prompts_min = 40\nprompts_max = 60\nholdout_share = 0.3\n{}{}",
        kafka::brokers(),
        model(MODELS[0], "3e-4"),
        model(MODELS[1], "0.5"),
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Who answers now, and whether it fails.
#[derive(Clone)]
struct Serving {
    version: String,
    failing: bool,
}

/// Ten calls a second until it is told to stop.
fn traffic(topic: String, stop: Arc<AtomicBool>, serving: Arc<Mutex<Serving>>) -> std::thread::JoinHandle<u64> {
    let sent = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        let producer = kafka::producer(kafka::brokers());
        let shop = Shop::generate(SHOP_SEED);
        for (seed, mut i) in (100u64..).map(|seed| (seed, 0u64)) {
            for question in questions(&shop, seed, 200, Side::Asked, Dial::default()) {
                if stop.load(Relaxed) {
                    producer.flush(Duration::from_secs(60)).unwrap();
                    return sent.load(Relaxed);
                }
                let Serving { version, failing } = serving.lock().unwrap().clone();
                let text = format!("{} (asked {seed}-{i})", question.text);
                let request = json!({"model": "good", "messages": [{"role": "user", "content": text}]}).to_string();
                let answer =
                    json!({"choices": [{"message": {"role": "assistant", "content": "SELECT 1"}}]}).to_string();
                let id = format!("call-{seed}-{i}");
                let mut log = InferenceLog::new(&id, pelton::runtime::now(), &request, Some(&answer));
                let fails = (failing && i % 2 == 0) || i % 60 == 59;
                log.status_code = Some(if fails { 500 } else { 200 });
                (log.model, log.model_version) = (Some("good"), Some(version.as_str()));
                let bytes = log.to_bytes().unwrap();
                kafka::send(&producer, BaseRecord::to(&topic).payload(bytes.as_slice()));
                producer.poll(Duration::ZERO);
                sent.fetch_add(1, Relaxed);
                i += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        unreachable!("seeds do not end")
    })
}

/// How every cycle stands.
async fn standings(lake: &Lake) -> Vec<Standing> {
    let mut cycles: BTreeMap<CycleId, Vec<CycleEvent>> = BTreeMap::new();
    for event in lake.cycle_events(None).await.unwrap() {
        cycles.entry(event.cycle.clone()).or_default().push(event);
    }
    cycles.values().filter_map(|events| Standing::of(events)).collect()
}

struct Wheel {
    config: Config,
    path: PathBuf,
    lake: Lake,
    good: ModelName,
}

impl Wheel {
    fn pelton(&self, arguments: &[&str]) -> std::process::Output {
        let program = std::env::var("PELTON_TEST_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_pelton").to_owned());
        Command::new(program).args(arguments).arg("--config").arg(&self.path).output().unwrap()
    }

    /// SIGKILL for the process of a cycle that runs, where one does.
    async fn kill_a_cycle(&self) -> bool {
        for standing in standings(&self.lake).await.into_iter().filter(|s| !s.state.is_end()) {
            if let Some(running) = Running::of(&self.lake, &standing.cycle).await.unwrap() {
                return Command::new("kill").args(["-KILL", &running.pid.to_string()]).status().unwrap().success();
            }
        }
        false
    }

    /// Promotes a version of the good model that is not the champion, once there is one.
    async fn force(&self) -> Option<String> {
        let all = self.lake.versions(&self.good).await.unwrap();
        let champion = champion_of(&all).map(|v| v.reference.clone());
        let other = all
            .iter()
            .rev()
            .find(|v| Some(&v.reference) != champion.as_ref() && v.state != VersionState::Registered)?;
        let name = other.reference.to_string();
        self.pelton(&["model", "promote", &name, "--reason", "forced by the soak"]).status.success().then_some(name)
    }

    /// What is told on the topic under versions' own keys, by model.
    fn announced(&self) -> BTreeMap<String, Vec<String>> {
        let read =
            pelton::publish::read_events(&self.config.kafka, &self.config.publish.topic, Duration::from_secs(60));
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for message in read.unwrap().iter().filter(|m| m.key.contains('/')) {
            let version = event::read(message).unwrap().unwrap();
            told.entry(version.reference.model.to_string()).or_default().push(event::event_id(&version));
        }
        told
    }
}

/// Runs for so many minutes; gives the figures and whether every promise held.
pub async fn run(minutes: u64) -> (Value, bool) {
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::unique("wheel");
    kafka::exact_topic(&topic, 4, &[]).await;
    std::fs::create_dir_all(dir.path().join("shop")).unwrap();
    Shop::generate(SHOP_SEED).write_parquet(&dir.path().join("shop")).unwrap();
    let path = settings(dir.path(), &topic);
    let config = pelton::config::load(&path).unwrap();
    let lake = daemon::open_lake(&config).await.unwrap();
    let wheel = Wheel { config, path, lake, good: MODELS[0].parse().unwrap() };

    let stop = Arc::new(AtomicBool::new(false));
    let serving = Arc::new(Mutex::new(Serving { version: MODELS[0].to_owned(), failing: false }));
    let load = traffic(topic, Arc::clone(&stop), Arc::clone(&serving));
    let paths = ["a", "b"].map(|name| {
        let path = dir.path().join(format!("{name}.toml"));
        std::fs::copy(&wheel.path, &path).unwrap();
        path
    });
    let mut daemons = [Daemon::start(&paths[0]), Daemon::start(&paths[1])];
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let (mut daemon_kills, mut cycle_kills, mut forced) = (0, 0, None::<String>);
    let (began, mut next) = (Instant::now(), Instant::now() + Duration::from_secs(30));
    while began.elapsed() < Duration::from_secs(60 * minutes) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for (daemon, path) in daemons.iter_mut().zip(&paths) {
            daemon.assert_alive(path);
        }
        if forced.is_none() && began.elapsed() > Duration::from_secs(20 * minutes) {
            forced = wheel.force().await;
        }
        let all = wheel.lake.versions(&wheel.good).await.unwrap();
        let version = champion_of(&all).map_or_else(|| MODELS[0].to_owned(), |v| v.reference.to_string());
        let failing = forced.as_deref() == Some(version.as_str());
        *serving.lock().unwrap() = Serving { version, failing };
        if Instant::now() > next {
            next = Instant::now() + Duration::from_secs(random.random_range(15..60));
            if random.random_bool(0.5) {
                cycle_kills += u64::from(wheel.kill_a_cycle().await);
            } else {
                let at = random.random_range(0..2);
                daemons[at].kill();
                daemons[at] = Daemon::start(&paths[at]);
                daemon_kills += 1;
            }
        }
    }
    stop.store(true, Relaxed);
    let sent = tokio::task::spawn_blocking(move || load.join().unwrap()).await.unwrap();
    until("every cycle has ended", PATIENCE, async || standings(&wheel.lake).await.iter().all(|s| s.state.is_end()))
        .await;
    finish(wheel, daemons, (sent, daemon_kills, cycle_kills, forced, began)).await
}

async fn finish(
    wheel: Wheel,
    daemons: [Daemon; 2],
    (sent, daemon_kills, cycle_kills, forced, began): (u64, u64, u64, Option<String>, Instant),
) -> (Value, bool) {
    let expected = async || {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for version in wheel.lake.all_versions().await.unwrap() {
            all.entry(version.reference.model.to_string()).or_default().push(event::event_id(&version));
        }
        all
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while wheel.announced() != expected().await && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let once_and_in_order = wheel.announced() == expected().await;
    daemons.into_iter().for_each(|daemon| assert!(daemon.stop().success()));
    let clean = wheel.pelton(&["audit"]).status.success();
    let (mut ends, mut accounted) = (BTreeMap::<String, u64>::new(), true);
    let versions = wheel.lake.all_versions().await.unwrap();
    for standing in standings(&wheel.lake).await {
        *ends.entry(standing.state.to_string()).or_default() += 1;
        let registered = versions.iter().filter(|v| v.cycle == standing.cycle && v.state == VersionState::Registered);
        let count = registered.count();
        accounted &= if standing.state == CycleState::Done { count == 1 } else { count == 0 };
    }
    let of = |state: VersionState| versions.iter().filter(|v| v.state == state).count();
    let ruined = |v: &&pelton::domain::Version| v.reference.model.as_str() == MODELS[1];
    let refused = versions.iter().filter(ruined).filter(|v| v.state == VersionState::Rejected).count();
    let none_promoted = !versions.iter().filter(ruined).any(|v| v.state == VersionState::Promoted);
    let undone = forced.as_ref().is_some_and(|name| {
        versions.iter().any(|v| v.reference.to_string() == *name && v.state == VersionState::RolledBack)
    });
    let held = clean && once_and_in_order && accounted && refused > 0 && none_promoted && undone;
    let figures = json!({
        "mode": "wheel", "seconds": began.elapsed().as_secs(), "messages": sent, "daemon_kills": daemon_kills,
        "cycle_kills": cycle_kills, "cycles": ends, "versions": of(VersionState::Registered),
        "promoted": of(VersionState::Promoted), "rejected": of(VersionState::Rejected),
        "rolled_back": of(VersionState::RolledBack), "events": versions.len(), "events_once_and_in_order": once_and_in_order,
        "cycles_accounted_for": accounted, "ruined_refused": refused, "ruined_promoted": !none_promoted,
        "forced": forced, "forced_undone": undone, "audit_clean": clean, "held": held,
        "time": pelton::runtime::now().to_string(),
    });
    (figures, held)
}
