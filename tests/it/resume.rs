//! A cycle whose process is killed while it explores, and again while it optimizes, goes on from what it kept and ends in
//! the adapter of an unbroken one, byte for byte.

use crate::support::lake::training_set;
use pelton::config;
use pelton::daemon::{self, cycle};
use pelton::demo::questions::{Dial, Question, Side, questions};
use pelton::demo::shop::{SHOP_SEED, Shop};
use pelton::domain::{CycleId, CycleState, ModelName, Prompt, Timestamp, Trigger};
use pelton::lake::Lake;
use rdkafka::mocking::MockCluster;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

fn settings(dir: &Path, brokers: &str) -> PathBuf {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sql-tiny");
    let path = dir.join("pelton.toml");
    let text = format!(
        "version = 1\n[lake]\nurl = 'lake'\nfsync = false\n[kafka]\nbrokers = '{brokers}'\n\
         [ingest]\ntopics = ['logs']\n[publish]\ntopic = 'versions'\n\
         [windows.w]\nsql = 'SELECT request_id, request_time, messages FROM inference_log \
                             WHERE request_time >= $since AND request_time < $until'\nprompts_min = 10\n\
         [models.sql-tiny]\nbase = '{}'\nwindow = 'w'\nkeep_seconds = 0\n\
         explore = {{ samples = 4, temperatures = [0.8, 1.2], tokens_max = 48 }}\n\
         optimize = {{ epochs = 2, prompts_per_step = 8, learning_rate = 1e-3 }}\ngate = {{ prompts_min = 5 }}\n\
         [models.sql-tiny.score.sql]\ndatabase = 'shop'\n",
        base.display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn prompt(question: &Question) -> Prompt {
    let (hash, messages) = (question.hash(), question.messages());
    Prompt { request_id: hash.to_string(), hash, messages, request_time: Timestamp::EPOCH }
}

/// A lake with a cycle that has collected its prompts already.
async fn prepared(dir: &Path, brokers: &str) -> (PathBuf, Lake, CycleId) {
    let path = settings(dir, brokers);
    let shop = Shop::generate(SHOP_SEED);
    std::fs::create_dir_all(dir.join("shop")).unwrap();
    shop.write_parquet(&dir.join("shop")).unwrap();
    let lake = daemon::open_lake(&config::load(&path).unwrap()).await.unwrap();
    let model: ModelName = "sql-tiny".parse().unwrap();
    let id = cycle::request(&lake, &model, Trigger::Hand).await.unwrap();
    let mut train: Vec<Prompt> = questions(&shop, 7, 50, Side::Asked, Dial::default()).iter().map(prompt).collect();
    let holdout = train.split_off(40);
    let set = training_set(train, holdout);
    lake.append_training_window(&id, &set, pelton::runtime::now()).await.unwrap();
    (path, lake, id)
}

fn run(config: &Path, id: &CycleId, failpoint: Option<&str>) -> ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pelton"));
    command.args(["cycle", "run", "--id", id.as_str(), "--config"]).arg(config);
    if let Some(point) = failpoint {
        command.env("PELTON_FAILPOINT", point);
    }
    let ran = command.output().unwrap();
    assert!(failpoint.is_some() || ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    ran.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_killed_while_it_explores_and_optimizes_ends_in_the_same_adapter() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("versions", 1, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let (unbroken, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (config, _, whole) = prepared(unbroken.path(), &brokers).await;
    assert!(run(&config, &whole, None).success());

    let (config, lake, killed) = prepared(broken.path(), &brokers).await;
    for point in ["in-explore:1", "in-optimize:1", "in-optimize:3"] {
        assert_eq!(run(&config, &killed, Some(point)).signal(), Some(9), "{point}");
    }
    let kept = |name: &str| broken.path().join(format!("lake/cycles/{killed}/round-1/{name}"));
    assert!(kept("progress/explore-00000000.json").exists() && kept("progress/optimize.safetensors").exists());
    assert!(run(&config, &killed, None).success());

    for name in ["adapter_model.safetensors", "curve.json"] {
        let expected = std::fs::read(unbroken.path().join(format!("lake/cycles/{whole}/round-1/{name}"))).unwrap();
        assert_eq!(std::fs::read(kept(name)).unwrap(), expected, "{name}");
    }
    assert!(!kept("progress/optimize.safetensors").exists(), "a finished round keeps nothing of its way");
    let events = lake.events_of_cycle(&killed).await.unwrap();
    let last = |state: CycleState| {
        let event = events.iter().rev().find(|e| e.state == state).unwrap();
        serde_json::from_str::<serde_json::Value>(&event.detail).unwrap()
    };
    assert_eq!(last(CycleState::Optimize)["prompts_explored_before"], 40, "nothing was explored twice");
    assert_eq!(last(CycleState::Evaluate)["steps_before"], 4, "1 and 3 steps were taken by those that were killed");
}
