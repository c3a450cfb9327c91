//! librdkafka's settings: what the promise rests on, and defaults that bound memory.

use super::error::Error;
use crate::config;
use crate::telemetry::KafkaLog;
use rdkafka::ClientConfig;
use rdkafka::producer::BaseProducer;

/// Settings of every client: the brokers, and what the user added.
pub(super) fn base(kafka: &config::Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &kafka.brokers).set("client.id", "pelton");
    // Broker threads log what `Event::Away` says once.
    client.set("log.connection.close", "false");
    for (name, value) in &kafka.properties {
        client.set(name, value);
    }
    client
}

/// What the consumer may fetch ahead: a part of the byte budget, and not more than keeps a quick reader busy.
pub(super) fn fetched_bytes_max(kafka: &config::Kafka, ingest: &config::Ingest) -> usize {
    const BUSY: usize = 32 << 20;
    let given =
        kafka.properties.get("queued.max.messages.kbytes").and_then(|kilobytes| kilobytes.parse::<usize>().ok());
    given.map_or_else(|| BUSY.min(ingest.in_flight_bytes_max / 8), |kilobytes| kilobytes.saturating_mul(1024))
}

/// Settings of the ingesting consumer.
pub(super) fn consumer(kafka: &config::Kafka, ingest: &config::Ingest) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        // Only the partitions that move stop when a member comes or goes.
        .set("partition.assignment.strategy", "cooperative-sticky")
        // librdkafka would keep 100,000 messages of each partition in memory.
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", (fetched_bytes_max(kafka, ingest) / 1024).to_string())
        .set("fetch.message.max.bytes", "4194304")
        // A response is one piece of memory for as long as a message of it waits; the usual bound is 50 MiB. A larger
        // message still comes, alone (KIP-74).
        .set("fetch.max.bytes", "8388608")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "20")
        // A topic that is made later is found soon.
        .set("topic.metadata.refresh.interval.ms", "10000");
    for (name, value) in base(kafka).config_map() {
        client.set(name, value);
    }
    // What the delivery promise rests on; the configuration refuses to change these.
    if let Some(topic) = &ingest.dead_letter_topic {
        // A pattern must not take in the copies of its own dead letters.
        let given = client.get("topic.blacklist").map(|given| format!("{given},")).unwrap_or_default();
        client.set("topic.blacklist", format!("{given}^{}$", topic.replace('.', "\\.")));
    }
    client
        .set("group.id", &ingest.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("enable.partition.eof", "false");
    client
}

/// A producer whose acknowledged messages are there.
pub(super) fn producer(kafka: &config::Kafka) -> Result<BaseProducer<KafkaLog>, Error> {
    let mut client = base(kafka);
    client.set("enable.idempotence", "true").set("message.max.bytes", "104857600");
    client.create_with_context(KafkaLog).map_err(Error::Settings)
}
