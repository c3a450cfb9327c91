//! Which daemon starts cycles: the owner of partition 0 of the control topic, by Kafka's group protocol.
//!
//! Losing the seat is noticed late by a daemon that is cut off or paused: then two think that they have it. That does no harm,
//! because the later one has raised the scheduler's fence, and what the earlier one starts or runs cannot commit.

use crate::config::Config;
use crate::runtime::{Backoff, Shutdown};
use crate::telemetry::KafkaLog;
use anyhow::{Context as _, Result};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::RDKafkaErrorCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long one poll waits; so late at most is a change of the seat noticed.
const POLL: Duration = Duration::from_millis(300);

/// Stands for election until the shutdown; the channel says whether this daemon has the seat.
pub(super) fn stand(config: Arc<Config>, shutdown: Shutdown) -> watch::Receiver<bool> {
    let (seat, seen) = watch::channel(false);
    tokio::spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        while !shutdown.is_cancelled() {
            let tried = member(&config, &seat, &shutdown).await;
            seat.send_replace(false);
            if let Err(error) = tried {
                if backoff.tries() == 0 {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "no election of a scheduler, trying until there is one"
                    );
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_pause()) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    });
    seen
}

async fn member(config: &Config, seat: &watch::Sender<bool>, shutdown: &Shutdown) -> Result<()> {
    let topic = config.scheduler.control_topic.clone();
    let mut settings = ClientConfig::new();
    settings.set("client.id", "pelton-scheduler").set("log.connection.close", "false");
    settings.extend(config.kafka.properties.clone());
    settings.set("bootstrap.servers", &config.kafka.brokers);
    ensure_topic(&settings, &topic).await.with_context(|| format!("topic {topic}"))?;
    let group = config.scheduler.group.clone().unwrap_or_else(|| format!("{}-scheduler", config.ingest.group));
    let session = config.scheduler.session_timeout_ms;
    settings
        .set("group.id", group)
        .set("session.timeout.ms", session.to_string())
        .set("heartbeat.interval.ms", (session / 4).min(3000).to_string())
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "latest")
        // Another member alone moves nothing: the seat stays where it is.
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("topic.metadata.refresh.interval.ms", "5000");
    let (seat, shutdown) = (seat.clone(), shutdown.clone());
    let polled = move || poll(&settings, &topic, &seat, &shutdown);
    tokio::task::spawn_blocking(polled).await.context("the election panicked")?
}

fn poll(settings: &ClientConfig, topic: &str, seat: &watch::Sender<bool>, shutdown: &Shutdown) -> Result<()> {
    let consumer: BaseConsumer<KafkaLog> = settings.create_with_context(KafkaLog)?;
    consumer.subscribe(&[topic])?;
    let mut told = false;
    while !shutdown.is_cancelled() {
        // Nothing is ever written there; errors of brokers that are away pass by, and a lost session takes the partition. What
        // a broker refuses does not pass by, and is said once.
        if let Some(Err(error)) = consumer.poll(POLL)
            && !crate::publish::is_away(&error)
            // The topic was made a moment ago; where it could not be made, that was said.
            && error.rdkafka_error_code() != Some(RDKafkaErrorCode::UnknownTopicOrPartition)
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!(%error, topic, "this daemon cannot stand for election as the scheduler");
        }
        let mine = consumer.assignment()?.find_partition(topic, 0).is_some();
        seat.send_if_modified(|now| std::mem::replace(now, mine) != mine);
    }
    // Given back, not waited out: the next owner begins at once.
    consumer.unsubscribe();
    Ok(())
}

/// Makes the topic with one partition where it is missing. A broker without an admin API makes topics by itself.
async fn ensure_topic(settings: &ClientConfig, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = settings.create()?;
    let wait = Some(Duration::from_secs(5));
    let options = AdminOptions::new().operation_timeout(wait).request_timeout(wait);
    let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(-1));
    match admin.create_topics([&topic], &options).await {
        Ok(results) => {
            for (topic, code) in results.into_iter().filter_map(Result::err) {
                if code != RDKafkaErrorCode::TopicAlreadyExists {
                    tracing::warn!(topic, %code, "the control topic was not made: without it no daemon starts cycles");
                }
            }
        }
        Err(error) => tracing::debug!(%error, "the control topic was not made"),
    }
    Ok(())
}
