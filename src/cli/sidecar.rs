//! `pelton sidecar`: the proxy between OpenAI clients and inference servers.

use super::ConfigFile;
use crate::sidecar::Sidecar;
use crate::{daemon, runtime, telemetry};
use anyhow::{Context as _, Result};
use std::process::ExitCode;
use tokio::net::TcpListener;

/// Arguments of `pelton sidecar`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Forwards /v1/… to sidecar.upstreams, logs each call to Kafka, sends an alias's traffic to its promoted\n\
                        version, and keeps promoted versions loaded on every server. docs/SIDECAR.md says how."
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Where to listen, instead of sidecar.listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let mut config = args.config.load()?;
    telemetry::install(&config.telemetry).map_err(anyhow::Error::msg)?;
    if let Some(listen) = args.listen {
        config.sidecar.listen = listen;
    }
    let clients = listen("sidecar.listen", &config.sidecar.listen).await?;
    let operators = match &config.sidecar.admin_listen {
        Some(address) => Some(listen("sidecar.admin_listen", address).await?),
        None => None,
    };
    let sidecar = Sidecar::new(daemon::sidecar::parts(&config)?)?;
    let shutdown = runtime::on_signal()?;
    tracing::info!("http{}://{}/v1", if config.sidecar.tls.is_some() { "s" } else { "" }, clients.local_addr()?);
    sidecar.run(clients, operators, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

async fn listen(what: &str, address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{what}: cannot listen on {address}"))
}
