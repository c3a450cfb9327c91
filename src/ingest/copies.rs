//! Copies of dead letters to a topic, where one is configured, so that their senders can watch for them.
//!
//! A copy has the message's key, value and headers, and `pelton-code`, `pelton-reason`, `pelton-topic`,
//! `pelton-partition`, `pelton-offset` beside them. It is sent before its batch commits: at least once.

use super::client;
use super::sink::SinkError;
use crate::config;
use crate::domain::{DeadLetterRow, Origin};
use crate::ingest::error::Error;
use crate::telemetry::KafkaLog;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::sync::Arc;
use std::time::Duration;

const FLUSH: Duration = Duration::from_secs(30);

/// Where copies go.
#[derive(Clone)]
pub(super) struct CopyTopic {
    topic: Arc<str>,
    producer: Arc<BaseProducer<KafkaLog>>,
}

impl CopyTopic {
    pub(super) fn open(kafka: &config::Kafka, topic: &str) -> Result<Self, Error> {
        let producer = Arc::new(client::producer(kafka)?);
        Ok(Self { topic: topic.into(), producer })
    }
}

struct Copy {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: OwnedHeaders,
}

/// The copies that a batch owes.
#[derive(Default)]
pub(super) struct Copies {
    to: Option<CopyTopic>,
    waiting: Vec<Copy>,
}

impl Copies {
    pub(super) fn new(to: Option<CopyTopic>) -> Self {
        Self { to, waiting: Vec::new() }
    }

    /// Keeps a copy, where copies are wanted.
    pub(super) fn keep(&mut self, row: &DeadLetterRow<'_>, origin: &Origin<'_>) {
        if self.to.is_none() {
            return;
        }
        let mut headers = OwnedHeaders::new();
        for (key, value) in &row.headers {
            headers = headers.insert(Header { key, value: *value });
        }
        let (partition, offset) = (origin.partition.to_string(), origin.offset.to_string());
        for (key, value) in [
            ("pelton-code", row.code.as_str()),
            ("pelton-reason", &row.reason),
            ("pelton-topic", origin.topic),
            ("pelton-partition", &partition),
            ("pelton-offset", &offset),
        ] {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        self.waiting.push(Copy { key: row.key.map(<[u8]>::to_vec), payload: row.payload.map(<[u8]>::to_vec), headers });
    }

    /// Takes what was kept, leaving an empty list for the same topic.
    pub(super) fn take(&mut self) -> Self {
        Self { to: self.to.clone(), waiting: std::mem::take(&mut self.waiting) }
    }

    /// Sends all copies and waits until the broker has them.
    pub(super) fn send(&mut self) -> Result<(), SinkError> {
        let Some(to) = self.to.as_ref().filter(|_| !self.waiting.is_empty()) else { return Ok(()) };
        let away = |e: KafkaError| SinkError::Away(format!("dead-letter topic {}: {e}", to.topic));
        for copy in &self.waiting {
            let mut record = BaseRecord::<[u8], [u8]>::to(&to.topic).headers(copy.headers.clone());
            record.key = copy.key.as_deref();
            record.payload = copy.payload.as_deref();
            while let Err((error, back)) = to.producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(away(error));
                }
                to.producer.poll(Duration::from_millis(100));
                record = back;
            }
        }
        to.producer.flush(FLUSH).map_err(away)?;
        self.waiting.clear();
        Ok(())
    }
}
