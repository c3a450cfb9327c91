//! The demo from the first question to the last figure.

use super::questions::{Dial, Question, Side, questions};
use super::setting::{Options, Setting};
use super::users;
use crate::config::{self, Config};
use crate::daemon::call_log::KafkaCallLog;
use crate::daemon::cycle::{self, Progress, Truth};
use crate::daemon::{audit, pipeline};
use crate::domain::{EvalReport, Interval, ModelName, Prompt, PromptHash, Trigger};
use crate::ingest;
use crate::lake::Lake;
use crate::model::Model;
use crate::publish::read_events;
use crate::runtime::{Shutdown, peak_rss_bytes};
use crate::serve::{Options as ServeOptions, Server, router};
use crate::sidecar::{self, Sidecar};
use crate::tao::score::{Limits, Scorer};
use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The name that the base answers to.
const MODEL: &str = "sql-tiny";
/// How long ingestion may take to catch up with what was produced.
const CATCH_UP: Duration = Duration::from_secs(60);
/// Messages on the log topic that are no logs: what becomes of garbage is part of the demo.
const GARBAGE: [&[u8]; 3] =
    [b"not json at all", br#"{"schema":"pelton.inference-log/v1","request_id":"no-time"}"#, &[0xff, 0xfe, 0x00]];

/// What the demo found.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Logs that the server produced.
    pub rows_produced: u64,
    /// Rows of `inference_log`.
    pub rows_ingested: u64,
    /// Rows of `dead_letter`.
    pub dead_letters: u64,
    /// Offsets in no row.
    pub missing: u64,
    /// Rows that are there twice.
    pub duplicate: u64,
    /// What the cycle's evaluation found.
    pub report: EvalReport,
    /// The version.
    pub version: String,
    /// The id of its event.
    pub event_id: String,
    /// Candidates that the cycle sampled.
    pub candidates: usize,
    /// Share of all questions that the new version answers right over HTTP, and that the base did.
    pub served: (f64, f64),
    /// The event as a consumer sees it: headers and data.
    pub event: Value,
    /// The version's folder.
    pub location: String,
    /// The demo's folder.
    pub dir: PathBuf,
    /// Wall-clock time.
    pub seconds: f64,
    /// `VmHWM`.
    pub peak_rss_bytes: u64,
}

impl Figures {
    /// Base and tuned execution accuracy on the holdout, with the gain's interval.
    #[must_use]
    pub fn accuracy(&self) -> (f64, f64, Interval) {
        let r = &self.report;
        let none = Interval { mean: 0.0, low: 0.0, high: 0.0 };
        (
            r.champion_accuracy.unwrap_or_default(),
            r.challenger_accuracy.unwrap_or_default(),
            r.accuracy_gain.unwrap_or(none),
        )
    }

    /// For scripts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (base, tuned, gain) = self.accuracy();
        let r = &self.report;
        json!({
            "rows_produced": self.rows_produced,
            "rows_ingested": self.rows_ingested,
            "dead_letters": self.dead_letters,
            "audit": {"missing": self.missing, "duplicate": self.duplicate},
            "holdout_prompts": r.prompts,
            "score": "execution accuracy on the holdout",
            "base_score": base,
            "tuned_score": tuned,
            "gain": gain.mean,
            "gain_low": gain.low,
            "gain_high": gain.high,
            "reward": {
                "base": r.champion_reward, "tuned": r.challenger_reward,
                "gain": r.reward_gain.mean, "gain_low": r.reward_gain.low, "gain_high": r.reward_gain.high,
            },
            "served": {"base": self.served.1, "tuned": self.served.0},
            "candidates": self.candidates,
            "promoted": r.verdict.is_promote(),
            "version": self.version,
            "event_id": self.event_id,
            "location": self.location,
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
        })
    }
}

/// The truth that the demo alone knows: each question's SQL.
struct Known {
    sql: HashMap<PromptHash, String>,
    scorer: Scorer,
}

impl Truth for Known {
    fn correct(&self, answers: &[(&Prompt, &str)]) -> Vec<Option<bool>> {
        let pairs: Vec<(&str, &str)> =
            answers.iter().filter_map(|(p, text)| Some((*text, self.sql.get(&p.hash)?.as_str()))).collect();
        let mut right = self.scorer.is_correct(&pairs).into_iter();
        answers.iter().map(|(p, _)| self.sql.get(&p.hash).and_then(|_| right.next())).collect()
    }
}

impl Known {
    fn share(&self, questions: &[Question], answers: &[String]) -> f64 {
        let pairs: Vec<(&str, &str)> =
            questions.iter().zip(answers).map(|(q, a)| (a.as_str(), q.sql.as_str())).collect();
        let right = self.scorer.is_correct(&pairs).into_iter().filter(|r| *r).count();
        #[expect(clippy::cast_precision_loss, reason = "questions are counted in hundreds")]
        let share = right as f64 / pairs.len().max(1) as f64;
        share
    }
}

/// Ingestion that runs beside the demo.
struct Ingesting {
    progress: Arc<ingest::Progress>,
    shutdown: Shutdown,
    task: JoinHandle<Result<()>>,
}

impl Ingesting {
    fn start(config: &Arc<Config>, lake: &Lake) -> Self {
        let (progress, shutdown) = (Arc::<ingest::Progress>::default(), Shutdown::new());
        let task = tokio::spawn(pipeline::run_ingest(config.clone(), lake.clone(), progress.clone(), shutdown.clone()));
        Self { progress, shutdown, task }
    }

    /// Waits until the tables hold so many messages.
    async fn reach(&mut self, messages: u64) -> Result<()> {
        let bar = bar("ingested", messages);
        let begun = Instant::now();
        loop {
            let done = self.progress.rows.load(Relaxed) + self.progress.dead_letters.load(Relaxed);
            bar.set_position(done);
            if done >= messages {
                bar.finish();
                return Ok(());
            }
            if self.task.is_finished() {
                (&mut self.task).await.context("ingestion panicked")??;
                bail!("ingestion ended before it had read everything");
            }
            if begun.elapsed() > CATCH_UP {
                bail!("ingestion has {done} of {messages} messages after {} s", CATCH_UP.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn drain(self) -> Result<()> {
        self.shutdown.cancel();
        self.task.await.context("ingestion panicked")?
    }
}

/// Runs the demo.
///
/// # Errors
/// What did not work, with its causes.
pub async fn run(options: &Options, watch: &(dyn Fn(Progress) + Sync)) -> Result<Figures> {
    let begun = Instant::now();
    let setting = Setting::make(options)?;
    let config = Arc::new(setting.config.clone());
    let lake = crate::daemon::open_lake(&config).await?;
    let mut ingesting = Ingesting::start(&config, &lake);

    let asked = questions(&setting.shop, options.seed, options.questions, Side::Asked, Dial::default());
    let truth = Known {
        sql: asked.iter().map(|q| (q.hash(), q.sql.clone())).collect(),
        scorer: Scorer::open(&setting.dir.join("shop"), Limits::default())?,
    };
    let topic = config.ingest.topics.first().context("the demo's configuration has a topic")?;
    let garbage = KafkaCallLog::new(&config.kafka, topic)?;
    let server = serve(options, &config).await?;
    let before_it = Before::start(&config, &server).await?;
    let address = before_it.address.clone();

    let bar_asked = bar("asked", asked.len() as u64);
    let before = users::ask(&address, MODEL, &asked, 0.0, &bar_asked).await?;
    bar_asked.finish();
    GARBAGE.iter().try_for_each(|bytes| garbage.send_raw(bytes))?;
    tokio::task::block_in_place(|| garbage.flush(CATCH_UP))?;
    ingesting.reach((asked.len() + GARBAGE.len()) as u64).await?;

    let model: ModelName = MODEL.parse()?;
    let id = cycle::request(&lake, &model, Trigger::Hand).await?;
    let job = cycle::Job { truth: Some(&truth), watch, ..cycle::Job::new(&config, &lake, &model, &id) };
    let outcome = cycle::run(&job, &Shutdown::new()).await?;
    let (Some(version), Some(report), Some(event_id), Some(location)) =
        (outcome.version, outcome.report, outcome.event_id, outcome.location)
    else {
        bail!("the cycle made no version: {}", outcome.reason);
    };

    let event = wait_for_event(&config, &event_id).await?;
    // A promoted version comes to the server by its event, and users go on asking for the model; a rejected one is loaded by
    // hand and asked by its own name.
    let name = if report.verdict.is_promote() {
        before_it.until_serving(&version.to_string()).await?;
        MODEL.to_owned()
    } else {
        let folder = setting.dir.join("lake/models").join(version.model.as_str()).join(version.number.to_string());
        users::load_version(&server, &version.to_string(), &folder.to_string_lossy()).await?;
        version.to_string()
    };
    let bar_again = bar("asked again", asked.len() as u64);
    let after = users::ask(&address, &name, &asked, 0.0, &bar_again).await?;
    bar_again.finish();
    let produced = 2 * asked.len() as u64;
    ingesting.reach(produced + GARBAGE.len() as u64).await?;
    ingesting.drain().await?;
    before_it.drain().await?;

    let audited = audit::audit(&config.kafka, &lake).await?;
    let served = tokio::task::block_in_place(|| (truth.share(&asked, &after), truth.share(&asked, &before)));
    drop(setting.broker);
    Ok(Figures {
        rows_produced: produced,
        rows_ingested: audited.rows(),
        dead_letters: audited.dead_letters(),
        missing: audited.missing(),
        duplicate: audited.duplicate(),
        report,
        version: version.to_string(),
        event_id,
        candidates: outcome.candidates,
        served,
        event,
        location,
        dir: setting.dir,
        seconds: begun.elapsed().as_secs_f64(),
        peak_rss_bytes: peak_rss_bytes(),
    })
}

/// The sidecar before the server.
struct Before {
    address: String,
    handle: sidecar::Handle,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), sidecar::Error>>,
}

impl Before {
    async fn start(config: &Config, server: &str) -> Result<Self> {
        let mut config = config.clone();
        let upstream = config::Upstream {
            url: format!("http://{server}"),
            kind: config::UpstreamKind::Vllm,
            api_key: None,
            health_path: "/health".to_owned(),
        };
        let alias = config::Alias { base: None, sticky: config::Sticky::default(), rollout: Vec::new(), shadow: None };
        config.sidecar.upstreams = vec![upstream];
        config.sidecar.models.insert(MODEL.to_owned(), alias);
        config.sidecar.adapters.interval_ms = 200;
        config.sidecar.drain_grace_ms = 0;
        config.sidecar.drain_timeout_ms = 1_000;
        let sidecar = Sidecar::new(crate::daemon::sidecar::parts(&config)?)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let (address, handle, shutdown) = (listener.local_addr()?.to_string(), sidecar.handle(), Shutdown::new());
        let task = tokio::spawn(sidecar.run(listener, None, shutdown.clone()));
        Ok(Self { address, handle, shutdown, task })
    }

    /// Waits until a promoted version is on the server and answers for the model.
    async fn until_serving(&self, version: &str) -> Result<()> {
        let begun = Instant::now();
        while self.handle.serving(MODEL).as_deref() != Some(version) {
            if begun.elapsed() > CATCH_UP {
                bail!("{version} was promoted and does not answer after {} s", CATCH_UP.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn drain(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.task.await.context("the sidecar panicked")??)
    }
}

/// Starts the server on a free port of the loopback.
async fn serve(options: &Options, config: &Config) -> Result<String> {
    let settings = config.models.values().next().context("the demo's configuration has a model")?;
    let base = Arc::new(tokio::task::block_in_place(|| Model::load(&options.model, &candle_core::Device::Cpu))?);
    let serving = ServeOptions::of(MODEL, &settings.explore, &base);
    // The sidecar before it logs.
    let server = Server::new(base, serving, None)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    // It ends with the process: the demo has asked its last question by then.
    tokio::spawn(async move { axum::serve(listener, router(server)).await });
    Ok(address)
}

/// Reads the topic as any consumer would, until the version's event is there.
async fn wait_for_event(config: &Config, event_id: &str) -> Result<Value> {
    let begun = Instant::now();
    while begun.elapsed() < CATCH_UP {
        let (kafka, topic) = (config.kafka.clone(), config.publish.topic.clone());
        let read = move || read_events(&kafka, &topic, Duration::from_secs(10));
        let events = tokio::task::spawn_blocking(read).await.context("the reader panicked")??;
        let ours =
            |e: &&crate::codec::event::EventMessage| e.headers.iter().any(|(k, v)| k == "ce_id" && v == event_id);
        if let Some(event) = events.iter().find(ours) {
            let headers: serde_json::Map<String, Value> =
                event.headers.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            let data: Value = serde_json::from_slice(&event.payload)?;
            return Ok(json!({"key": event.key, "headers": headers, "data": data}));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the event {event_id} did not arrive within {} s", CATCH_UP.as_secs())
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>11} [{bar:32}] {pos}/{len} {elapsed}")
        .expect("the template is valid; it is a constant");
    let bar = ProgressBar::new(total).with_style(style.progress_chars("=> "));
    bar.set_prefix(what);
    bar
}
