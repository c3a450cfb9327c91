//! The events of versions follow the table: on Kafka, and to webhooks.
//!
//! A commit to `model_version` is the truth; what tells others comes after it and is made up for at any later time, by whoever
//! owns the scheduler's seat, by the cycle that registered, or by `pelton model publish`.

use crate::codec::event::{Mode, envelope, event_id};
use crate::config::{Config, EventMode, Webhook};
use crate::domain::ModelName;
use crate::lake::{Lake, TableName};
use crate::publish::{Publisher, webhook};
use crate::runtime::{Backoff, Shutdown};
use anyhow::Result;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Sends what the topic lacks of a model's events; waits for a broker that is away. Gives the ids that were sent.
///
/// # Errors
/// Where the broker refuses for good, the shutdown comes first, or the table cannot be read.
pub async fn announce(config: &Config, lake: &Lake, model: &ModelName, shutdown: &Shutdown) -> Result<Vec<String>> {
    let mode = match config.publish.mode {
        EventMode::Binary => Mode::Binary,
        EventMode::Structured => Mode::Structured,
    };
    let publisher = Publisher::new(&config.kafka, &config.publish.topic, mode);
    let versions = lake.versions(model).await?;
    Ok(publisher.follow(model, &versions, &source(lake, model), shutdown).await?)
}

/// Posts what a webhook has not acknowledged of a model's events, in order; stops at the first that it does not take. Gives the
/// ids that were acknowledged.
///
/// # Errors
/// What the address answered, or that it did not.
pub async fn post(hook: &Webhook, lake: &Lake, model: &ModelName) -> Result<Vec<String>> {
    let follower = format!("webhook/{}/{model}", hook.name);
    let followed = lake.follower(&follower).await?;
    let mut sent = Vec::new();
    for version in lake.versions(model).await?.iter().filter(|v| v.time.micros() > followed) {
        let id = event_id(version);
        let body = serde_json::to_vec(&envelope(version, &source(lake, model)))?;
        webhook::post(hook, &id, &body).await?;
        lake.move_follower(&follower, version.time.micros()).await?;
        sent.push(id);
    }
    Ok(sent)
}

/// Follows the table until the shutdown. An address that does not answer holds up only itself.
///
/// # Errors
/// None: what fails is logged and tried again.
pub async fn run(config: &Config, lake: &Lake, shutdown: &Shutdown) {
    let hooks = config.publish.webhooks.iter().map(|hook| follow_hook(hook, lake, shutdown));
    let hooks = futures::future::join_all(hooks);
    tokio::join!(follow_topic(config, lake, shutdown), hooks);
}

async fn follow_topic(config: &Config, lake: &Lake, shutdown: &Shutdown) {
    each_change(lake, shutdown, "events", || async {
        for model in models(lake).await? {
            announce(config, lake, &model, shutdown).await?;
        }
        Ok(())
    })
    .await;
}

async fn follow_hook(hook: &Webhook, lake: &Lake, shutdown: &Shutdown) {
    let what = format!("webhook {}", hook.name);
    each_change(lake, shutdown, &what, || async {
        for model in models(lake).await? {
            post(hook, lake, &model).await?;
        }
        Ok(())
    })
    .await;
}

/// Does the work whenever the table has changed, and again where it failed.
async fn each_change<F: Future<Output = Result<()>>>(
    lake: &Lake,
    shutdown: &Shutdown,
    what: &str,
    work: impl Fn() -> F,
) {
    let (mut done, mut backoff) = (None, Backoff::new(LOOK, Duration::from_secs(60)));
    while !shutdown.is_cancelled() {
        let turn = async {
            let version = lake.version(TableName::ModelVersion).await?;
            if done != Some(version) {
                work().await?;
                done = Some(version);
            }
            anyhow::Ok(())
        };
        let pause = match turn.await {
            Ok(()) => {
                backoff.reset();
                LOOK
            }
            Err(_) if shutdown.is_cancelled() => return,
            Err(error) => {
                if backoff.tries() == 0 {
                    tracing::warn!(what, error = format!("{error:#}"), "events wait, trying until they can be sent");
                }
                backoff.next_pause()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// The models that have versions.
async fn models(lake: &Lake) -> Result<BTreeSet<ModelName>> {
    Ok(lake.all_versions().await?.into_iter().map(|v| v.reference.model).collect())
}

fn source(lake: &Lake, model: &ModelName) -> String {
    format!("{}models/{model}", lake.url())
}
