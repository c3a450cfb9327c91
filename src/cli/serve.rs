//! `pelton serve`: an OpenAI-compatible server on a configured model, its calls logged to Kafka.

use super::ConfigFile;
use crate::daemon::call_log::KafkaCallLog;
use crate::domain::ModelName;
use crate::publish::Registry;
use crate::serve::{CallLog, Options, Server, router};
use crate::{config, daemon, model, runtime, telemetry};
use anyhow::{Context as _, Result, bail};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `pelton serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Answers POST /v1/chat/completions, POST /v1/completions and GET /v1/models for the base under the model's\n\
                        name, and for the promoted version, where there is one, under MODEL@vN: streams, n, seed, stop, logprobs,\n\
                        tools, and answers under a JSON Schema (response_format). Each call is logged to the first topic of\n\
                        ingest.topics, so that `pelton run` beside it turns traffic into tables."
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The model; may be left out where the configuration has one
    #[arg(long)]
    model: Option<String>,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: String,
    /// Answer without logging
    #[arg(long)]
    no_log: bool,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let config = args.config.load()?;
    telemetry::install(&config.telemetry).map_err(anyhow::Error::msg)?;
    let name = super::cycle::choose_model(&config, args.model.as_deref())?;
    let settings = config.models.get(&name).context("the model is gone")?;
    let folder = config.resolve(&settings.base);
    let base = Arc::new(tokio::task::block_in_place(|| model::Model::load(&folder, &candle_core::Device::Cpu))?);
    let log = match (args.no_log, config.ingest.topics.first()) {
        (true, _) => None,
        (false, Some(topic)) => Some(Arc::new(KafkaCallLog::new(&config.kafka, topic)?)),
        (false, None) => bail!("ingest.topics names no topic to log to; add one, or use --no-log"),
    };
    let options = Options::of(name.as_str(), &settings.explore, &base);
    let server = Server::new(base, options, log.clone().map(|l| l as Arc<dyn CallLog>))?;
    load_champion(&config, &name, &server).await?;
    let listener =
        tokio::net::TcpListener::bind(&args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
    tracing::info!("http://{}/v1 answers for {name}", listener.local_addr()?);
    let shutdown = runtime::on_signal()?;
    axum::serve(listener, router(server)).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    if let Some(log) = log {
        tokio::task::block_in_place(|| log.flush(Duration::from_secs(10)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads the promoted version from the registry, its files checked against their hashes.
async fn load_champion(config: &config::Config, name: &ModelName, server: &Server) -> Result<()> {
    let lake = daemon::open_lake(config).await?;
    let versions = lake.versions(name).await?;
    let Some(version) = daemon::champion_of(&versions) else { return Ok(()) };
    let (store, prefix) = daemon::store_of(&lake);
    let files = Registry::new(store, &prefix).files(&version.reference).await?;
    let folder = std::env::temp_dir().join(format!("pelton-serve-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir_all(&folder)?;
    for (file, bytes) in files {
        std::fs::write(folder.join(file), bytes)?;
    }
    let loaded = server.load_adapter(&version.reference.to_string(), &folder);
    std::fs::remove_dir_all(&folder)?;
    Ok(loaded?)
}
