//! What the demo sets up before anything turns: a folder, a shop, a broker, a configuration.

use crate::config::{self, Config};
use crate::demo::shop::{SHOP_SEED, Shop};
use anyhow::{Context as _, Result, bail};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use std::path::{Path, PathBuf};

/// What a user may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is written.
    pub dir: PathBuf,
    /// A broker to use instead of the in-process one.
    pub kafka: Option<String>,
    /// The base model's folder.
    pub model: PathBuf,
    /// Questions that users ask.
    pub questions: usize,
    /// The seed of questions and training.
    pub seed: u64,
}

/// The file that says that a folder is a demo's, and may be written anew.
const MARK: &str = ".pelton-demo";
/// Partitions of the log topic.
const PARTITIONS: i32 = 3;

/// All that stands before the first question.
pub(super) struct Setting {
    pub(super) config: Config,
    pub(super) shop: Shop,
    /// Ends with the demo; absent where the broker is the user's.
    pub(super) broker: Option<MockCluster<'static, DefaultProducerContext>>,
    pub(super) dir: PathBuf,
}

impl Setting {
    pub(super) fn make(options: &Options) -> Result<Self> {
        if !options.model.join("config.json").exists() {
            bail!(
                "there is no model at {}; run the demo in the repository, or use --model DIR",
                options.model.display()
            );
        }
        let dir = fresh_folder(&options.dir)?;
        let shop = Shop::generate(SHOP_SEED);
        shop.write_parquet(&dir.join("shop"))?;
        // A broker of the user's may hold the topics of an earlier demo: these are this run's own.
        let suffix = match options.kafka {
            Some(_) => format!("-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]),
            None => String::new(),
        };
        let topics = [format!("inference-logs{suffix}"), format!("model-versions{suffix}")];
        let (broker, brokers) = match &options.kafka {
            Some(address) => (None, address.clone()),
            None => in_process(&topics)?,
        };
        let path = dir.join("pelton.toml");
        let model = std::path::absolute(&options.model)?;
        std::fs::write(&path, configuration(&brokers, &topics, &model, options.seed))?;
        Ok(Self { config: config::load(&path)?, shop, broker, dir })
    }
}

fn fresh_folder(dir: &Path) -> Result<PathBuf> {
    let occupied = dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !dir.join(MARK).exists() {
        bail!("{} is not empty and no earlier demo's folder; choose another with --dir", dir.display());
    }
    if occupied {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot clear {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    std::fs::write(dir.join(MARK), "made by `pelton demo`; the next demo clears this folder\n")?;
    Ok(std::path::absolute(dir)?)
}

fn in_process(topics: &[String; 2]) -> Result<(Option<MockCluster<'static, DefaultProducerContext>>, String)> {
    let broker = MockCluster::new(1).context("cannot start librdkafka's in-process broker")?;
    broker.create_topic(&topics[0], PARTITIONS, 1)?;
    broker.create_topic(&topics[1], 1, 1)?;
    let address = broker.bootstrap_servers();
    Ok((Some(broker), address))
}

fn configuration(brokers: &str, topics: &[String; 2], model: &Path, seed: u64) -> String {
    let model = toml_string(&model.to_string_lossy());
    let brokers = toml_string(brokers);
    let [logs, versions] = topics;
    format!(
        r#"# Made by `pelton demo`. `pelton sql --config` this file to look around.
version = 1

[lake]
url = "lake"
fsync = false

[kafka]
brokers = {brokers}

[ingest]
topics = ["{logs}"]
batch_age_ms_max = 500

[publish]
topic = "{versions}"

[windows.shop-questions]
sql = """
SELECT request_id, request_time, messages
FROM inference_log
WHERE request_time >= $since AND request_time < $until
  AND status_code = 200 AND model = 'sql-tiny'
"""
prompts_min = 40
prompts_max = 2000
holdout_share = 0.35

[models.sql-tiny]
base = {model}
window = "shop-questions"
seed = {seed}

[models.sql-tiny.score.sql]
database = "shop"

{TRAINING}"#
    )
}

/// The settings that the base model's card gives the figures of; see there for how they were chosen.
const TRAINING: &str = r#"[models.sql-tiny.explore]
samples = 8
temperatures = [0.8, 1.2]
tokens_max = 64
batch_rows = 128

[models.sql-tiny.optimize]
algorithm = "grpo"
rounds = 3
epochs = 4
learning_rate = 1e-3
"#;

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
