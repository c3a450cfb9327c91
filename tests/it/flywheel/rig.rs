//! A lake with a cycle that has its prompts, and the `pelton` that runs it.

use crate::support::kafka::{Daemon, brokers, unique, until};
use crate::support::lake::training_set;
use pelton::config::{self, Config};
use pelton::daemon::{self, cycle};
use pelton::demo::questions::{Dial, Question, Side, questions};
use pelton::demo::shop::{SHOP_SEED, Shop};
use pelton::domain::{CycleEvent, CycleId, CycleState, ModelName, Prompt, Timestamp, Trigger};
use pelton::lake::Lake;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long a cycle may take on a crowded machine.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A folder with a lake, a shop and a configuration.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
    pub lake: Lake,
    pub model: ModelName,
}

impl Rig {
    /// With `sections` of the configuration, and `fields` of the model's.
    pub async fn new(sections: &str, fields: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sql-tiny");
        let (path, group) = (dir.path().join("pelton.toml"), unique("group"));
        let text = format!(
            "version = 1\n[lake]\nurl = 'lake'\nfsync = false\n[kafka]\nbrokers = '{}'\n\
             [ingest]\ntopics = ['{group}-logs']\ngroup = '{group}'\nbatch_age_ms_max = 300\n\
             [publish]\ntopic = '{group}-versions'\n\
             [scheduler]\ncontrol_topic = '{group}-control'\nsession_timeout_ms = 6000\n{sections}\n\
             [windows.w]\nsql = 'SELECT request_id, request_time, messages FROM inference_log \
                                 WHERE request_time >= $since AND request_time < $until'\nprompts_min = 10\n\
             [models.sql-tiny]\nbase = '{}'\nwindow = 'w'\nkeep_seconds = 0\n\
             explore = {{ samples = 2, temperatures = [0.8, 1.2], tokens_max = 32 }}\n\
             optimize = {{ epochs = 1, prompts_per_step = 8, learning_rate = 1e-3 }}\ngate = {{ prompts_min = 4 }}\n{fields}\n\
             [models.sql-tiny.score.sql]\ndatabase = 'shop'\n",
            brokers(),
            base.display()
        );
        std::fs::write(&path, text).unwrap();
        let shop = Shop::generate(SHOP_SEED);
        std::fs::create_dir_all(dir.path().join("shop")).unwrap();
        shop.write_parquet(&dir.path().join("shop")).unwrap();
        let lake = daemon::open_lake(&config::load(&path).unwrap()).await.unwrap();
        Self { dir, path, lake, model: "sql-tiny".parse().unwrap() }
    }

    pub fn config(&self) -> Config {
        config::load(&self.path).unwrap()
    }

    /// A cycle that has collected so many prompts to train on, and eight held out.
    pub async fn cycle(&self, trigger: Trigger, train: usize) -> CycleId {
        let id = cycle::request(&self.lake, &self.model, trigger).await.unwrap();
        let prompt = |question: &Question| {
            let (hash, messages) = (question.hash(), question.messages());
            Prompt { request_id: hash.to_string(), hash, messages, request_time: Timestamp::EPOCH }
        };
        let shop = Shop::generate(SHOP_SEED);
        let mut train: Vec<Prompt> =
            questions(&shop, 7, train + 8, Side::Asked, Dial::default()).iter().map(prompt).collect();
        let holdout = train.split_off(train.len() - 8);
        let set = training_set(train, holdout);
        self.lake.append_training_window(&id, &set, pelton::runtime::now()).await.unwrap();
        id
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
        command.args(arguments).arg("--config").arg(&self.path).stdin(Stdio::null());
        command
    }

    pub fn pelton(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The one JSON value that a command prints; it must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.pelton(arguments);
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {said}"))
    }

    pub async fn events(&self, id: &CycleId) -> Vec<CycleEvent> {
        self.lake.events_of_cycle(id).await.unwrap()
    }

    pub async fn state(&self, id: &CycleId) -> CycleState {
        cycle::standing(&self.lake, id).await.unwrap().state
    }

    /// Waits until the cycle is there, while its daemon lives.
    pub async fn reaches(&self, id: &CycleId, state: CycleState, daemon: &mut Daemon) {
        until(&format!("{id} is {}", state.as_str()), PATIENCE, async || {
            daemon.assert_alive(&self.path);
            self.state(id).await == state
        })
        .await;
    }

    /// The state changes of the model's versions, such as `v1 registered`.
    pub async fn versions(&self) -> Vec<String> {
        let all = self.lake.versions(&self.model).await.unwrap();
        all.iter().map(|v| format!("{} {}", v.reference.number, v.state.as_str())).collect()
    }

    /// The events on the topic under versions' own keys, in the same form.
    pub async fn announced(&self) -> Vec<String> {
        let config = self.config();
        let read = move || {
            let wait = Duration::from_secs(30);
            pelton::publish::read_events(&config.kafka, &config.publish.topic, wait).unwrap()
        };
        let messages = tokio::task::spawn_blocking(read).await.unwrap();
        let own = messages.iter().filter(|m| m.key.contains('/'));
        let read = own.map(|m| pelton::codec::event::read(m).unwrap().unwrap());
        read.map(|v| format!("{} {}", v.reference.number, v.state.as_str())).collect()
    }
}
