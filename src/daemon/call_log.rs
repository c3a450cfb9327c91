//! Logged calls to Kafka: what `serve` answers becomes messages of the log topic.
//!
//! Handing a call over never waits. librdkafka keeps it in memory, bounded, until the broker has it; what does not fit is
//! dropped and counted.

use crate::codec::InferenceLog;
use crate::config::Kafka;
use crate::serve::{Call, CallLog};
use anyhow::{Context as _, Result};
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Sends calls to a topic.
pub struct KafkaCallLog {
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    topic: String,
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl KafkaCallLog {
    /// A producer of its own for the topic.
    ///
    /// # Errors
    /// A property that librdkafka does not know or refuses.
    pub fn new(kafka: &Kafka, topic: &str) -> Result<Self> {
        let mut settings = ClientConfig::new();
        settings.extend(kafka.properties.clone());
        settings
            .set("bootstrap.servers", &kafka.brokers)
            .set("enable.idempotence", "true")
            .set("compression.type", "zstd")
            .set("linger.ms", "20")
            .set("message.max.bytes", "33554432")
            .set("queue.buffering.max.kbytes", "65536");
        let producer = settings.create().context("kafka.properties: cannot make a producer")?;
        Ok(Self { producer, topic: topic.to_owned(), sent: AtomicU64::new(0), dropped: AtomicU64::new(0) })
    }

    /// Calls handed to librdkafka, and calls dropped because its memory was full.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }

    /// Waits until the broker has acknowledged all that was handed over.
    ///
    /// # Errors
    /// Where that takes longer than the timeout.
    pub fn flush(&self, timeout: Duration) -> Result<()> {
        self.producer.flush(timeout).with_context(|| format!("topic {}: not all logs were acknowledged", self.topic))
    }

    /// Hands over bytes as they are.
    ///
    /// # Errors
    /// Where the producer's memory is full.
    pub fn send_raw(&self, payload: &[u8]) -> Result<()> {
        self.producer.send(BaseRecord::<(), [u8]>::to(&self.topic).payload(payload)).map_err(|(error, _)| error.into())
    }

    fn send(&self, call: &Call) -> Result<()> {
        let mut log = InferenceLog::new(&call.request_id, call.request_time, &call.request, Some(&call.response));
        log.client_request_id = call.client_request_id.as_deref();
        log.status_code = Some(i32::from(call.status_code));
        log.sampling_fraction = Some(1.0);
        log.execution_duration_ms = i64::try_from(call.duration_ms).ok();
        log.requester = call.requester.as_deref();
        log.operation = Some(call.operation);
        log.model = call.model.as_deref();
        log.model_version = call.model_version.as_deref();
        log.stream = Some(call.stream);
        let payload = log.to_bytes()?;
        // The requester is the key, so that one user's calls stay in order.
        let key = call.requester.as_deref().unwrap_or(&call.request_id);
        let mut record = BaseRecord::to(&self.topic).key(key.as_bytes()).payload(&payload);
        for _ in 0..50 {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(rdkafka::types::RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::yield_now();
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        anyhow::bail!("the producer's memory is full")
    }
}

impl CallLog for KafkaCallLog {
    fn record(&self, call: Call) {
        match self.send(&call) {
            Ok(()) => self.sent.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed);
                if dropped == 0 {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a call was not logged; further ones are counted only"
                    );
                }
                dropped
            }
        };
    }
}
