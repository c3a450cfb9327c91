//! One call from its first byte to its last: what it holds on to, and the record that it leaves, also where it is dropped half
//! way.

use super::keys::Admitted;
use super::record::{Ending, Record};
use super::tap::Tap;
use super::upstream::UnderWay;
use crate::config::{Durability, SampleRule};
use crate::runtime::derive_seed;
use crate::telemetry::metric;
use bytes::Bytes;
use std::time::Instant;
use tokio::sync::oneshot;

/// The status in the log where the client hung up before there was an answer (as nginx has it).
const CLIENT_CLOSED: u16 = 499;

/// How calls are logged.
pub struct Logging {
    /// Where to; nowhere where calls are not logged.
    pub tap: Option<Tap>,
    /// Bytes of an answer that are kept.
    pub answer_bytes_max: usize,
    /// When an answer may end.
    pub durability: Durability,
    /// Shares by rule.
    pub sample: Vec<SampleRule>,
}

/// One call.
pub struct Call {
    record: Option<Record>,
    started: Instant,
    logging: std::sync::Arc<Logging>,
    client: Option<String>,
    /// Whether its bodies can be logged.
    logged: bool,
    /// What ends with it.
    _admitted: Admitted,
    under_way: Option<UnderWay>,
}

impl Call {
    /// A call that begins.
    #[must_use]
    pub fn new(record: Record, client: Option<String>, logging: std::sync::Arc<Logging>, admitted: Admitted) -> Self {
        let started = Instant::now();
        Self { record: Some(record), started, logging, client, logged: true, _admitted: admitted, under_way: None }
    }

    /// What is known so far.
    pub fn note(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            note(record);
        }
    }

    /// Its body is passed through unseen, so there is nothing to log.
    pub fn leave_out(&mut self) {
        self.logged = false;
    }

    /// An upstream is at work on it.
    pub fn goes_to(&mut self, upstream: std::sync::Arc<str>, under_way: UnderWay) {
        self.note(|record| record.upstream = Some(upstream));
        self.under_way = Some(under_way);
    }

    /// The answer's head is there.
    pub fn answered(&mut self, status: u16, streamed: bool) {
        let first_byte = self.started.elapsed();
        self.note(|record| {
            record.status = status;
            record.streamed = streamed;
            record.first_byte = Some(first_byte);
        });
    }

    /// A piece of the answer.
    pub fn piece(&mut self, data: &Bytes) {
        let (logged, most) = (self.logged && self.logging.tap.is_some(), self.logging.answer_bytes_max);
        self.note(|record| {
            let room = most.saturating_sub(record.response.len());
            record.cut |= data.len() > room;
            if logged {
                record.response.extend_from_slice(&data[..data.len().min(room)]);
            }
        });
    }

    /// Whether its answer waits for its log.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.logging.durability == Durability::BeforeResponse
    }

    /// Whether the answer is a stream of events.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.streamed)
    }

    /// It ended. Gives something to wait for where its log must be durable first.
    #[must_use]
    pub fn finish(mut self: Box<Self>, ending: Ending) -> Option<oneshot::Receiver<()>> {
        self.end(ending)
    }

    fn end(&mut self, ending: Ending) -> Option<oneshot::Receiver<()>> {
        let mut record = self.record.take()?;
        record.duration = self.started.elapsed();
        record.ending = ending;
        if ending == Ending::Cancelled && record.first_byte.is_none() {
            record.status = CLIENT_CLOSED;
        }
        metric::SIDECAR_REQUESTS.add(&[status_text(record.status)], 1);
        if ending == Ending::Broken
            && let Some(upstream) = &record.upstream
        {
            metric::UPSTREAM_FAILURES.add(&[upstream], 1);
        }
        let tap = self.logging.tap.as_ref().filter(|_| self.logged)?;
        record.sampling_fraction = share(&self.logging.sample, &record, self.client.as_deref());
        if !drawn(&record.request_id, "log", record.sampling_fraction) {
            return None;
        }
        let (durable, wait) = if self.logging.durability == Durability::BeforeResponse {
            let (done, wait) = oneshot::channel();
            (Some(done), Some(wait))
        } else {
            (None, None)
        };
        tap.record(record, durable);
        wait
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        drop(self.end(Ending::Cancelled));
    }
}

fn share(rules: &[SampleRule], record: &Record, client: Option<&str>) -> f64 {
    let same = |rule: &Option<String>, value: Option<&str>| rule.as_deref().is_none_or(|rule| value == Some(rule));
    let fits = |rule: &&SampleRule| {
        same(&rule.path, Some(&record.path))
            && same(&rule.model, record.model.as_deref())
            && same(&rule.client, client)
            && rule.failed.is_none_or(|failed| failed == (record.status >= 400))
    };
    rules.iter().find(fits).map_or(1.0, |rule| rule.share)
}

/// Whether an id is among a share; the same for ever.
#[must_use]
pub fn drawn(id: &str, purpose: &str, share: f64) -> bool {
    share >= 1.0 || (share > 0.0 && place(id, purpose) < share)
}

/// The place of an id in [0, 1).
#[expect(clippy::cast_precision_loss, reason = "53 bits of a hash are exact in a double")]
pub(super) fn place(id: &str, purpose: &str) -> f64 {
    (derive_seed(0, &format!("{purpose}/{id}"), &[]) >> 11) as f64 / (1u64 << 53) as f64
}

/// A status as a label, without making a text each time.
fn status_text(status: u16) -> &'static str {
    const EXACT: &[(u16, &str)] = &[
        (200, "200"),
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (413, "413"),
        (422, "422"),
        (429, "429"),
        (499, "499"),
        (500, "500"),
        (502, "502"),
        (503, "503"),
        (504, "504"),
    ];
    let class = match status / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    EXACT.iter().find(|(exact, _)| *exact == status).map_or(class, |(_, text)| text)
}
