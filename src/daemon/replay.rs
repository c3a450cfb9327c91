//! Dead letters decoded again, after a fix of the configuration or of Pelton: those that decode now become rows, once.
//!
//! They go straight into their table. To send them to their topic again would give them new offsets, would reach every other
//! reader of the topic, and would need a broker that still takes them; a commit of our own is exact and keeps their
//! coordinates and times.

use super::formats;
use super::pipeline::table;
use crate::codec::registry::SchemaId;
use crate::codec::{Decoder, Message};
use crate::config::Config;
use crate::domain::{Origin, Row, Timestamp};
use crate::ingest::{Routes, SchemaLookup};
use crate::lake::{
    DEAD_LETTER_COLUMNS, DeadLetter, FeedbackBuilder, InferenceLogBuilder, Lake, TableName, dead_letters,
};
use crate::query::{Limits, Session, Sources, Table};
use crate::runtime::{Failpoint, failpoint, now};
use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use std::collections::BTreeMap;

/// Messages that are committed as one.
const MESSAGES_MAX: usize = 5_000;
/// Bytes of messages that are committed as one.
const BYTES_MAX: usize = 64 << 20;

/// What is to be replayed.
#[derive(Debug, Clone)]
pub struct Selection {
    /// A SQL condition over `dead_letter`.
    pub condition: String,
    /// At most so many, the oldest first.
    pub limit: Option<usize>,
    /// Only says what would become a row.
    pub dry_run: bool,
}

/// What a replay did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Dead letters that the condition selected.
    pub selected: u64,
    /// Those that decode now.
    pub decoded: u64,
    /// The rows that they are: a message may hold several records.
    pub rows: u64,
    /// Rows that were added; the others had been before.
    pub added: u64,
    /// Why the others are still none, by kind of fault, with one reason of each kind.
    pub refused: BTreeMap<String, (u64, String)>,
}

/// Replays a selection.
///
/// # Errors
/// Where the condition is no SQL over `dead_letter`, or the store stays away; what was added before stays, and the same call
/// goes on from there.
pub async fn replay(config: &Config, lake: &Lake, selection: &Selection) -> Result<Replayed> {
    let name = TableName::DeadLetter;
    let table = Table { name: name.to_string(), provider: lake.provider(name, None).await? };
    let session =
        Session::new(Sources { stores: vec![lake.object_store()], ..Sources::from(vec![table]) }, Limits::default())?;
    let limit = selection.limit.map_or_else(String::new, |limit| format!(" LIMIT {limit}"));
    let sql = format!(
        "SELECT {DEAD_LETTER_COLUMNS} FROM dead_letter WHERE ({}) ORDER BY ingest_time, kafka_topic, kafka_partition, \
         kafka_offset{limit}",
        selection.condition
    );
    let mut answer = session.query(&sql).await.context("the condition does not fit dead_letter")?;
    let with = With::new(config)?;
    let (mut done, mut pending) = (Replayed::default(), Pending::default());
    while let Some(batch) = answer.batches.next().await {
        for letter in dead_letters(&batch?)? {
            done.selected += 1;
            match pending.take_with_schema(lake, &with, &letter).await? {
                Ok(()) => done.decoded += 1,
                Err((code, reason)) => done.refused.entry(code).or_insert((0, reason)).0 += 1,
            }
            if pending.messages >= MESSAGES_MAX || pending.bytes >= BYTES_MAX {
                pending.commit(lake, selection.dry_run, &mut done).await?;
            }
        }
    }
    pending.commit(lake, selection.dry_run, &mut done).await?;
    Ok(done)
}

/// What dead letters are decoded with: what ingestion decodes with.
struct With {
    routes: Routes,
    decoder: Decoder,
    registry: Option<SchemaLookup>,
}

impl With {
    fn new(config: &Config) -> Result<Self> {
        let registry = config.ingest.registry.as_ref().map(SchemaLookup::new).transpose()?;
        let decoder = formats::decoder(config)?.with_schemas(registry.as_ref().map(SchemaLookup::schemas));
        Ok(Self { routes: Routes::new(&config.ingest)?, decoder, registry })
    }
}

/// Why a dead letter is none of the rows.
enum Refusal {
    /// Its schema is not known yet.
    Schema(SchemaId),
    /// The kind of fault, and a reason.
    Fault(String, String),
}

/// Whether a dead letter is a row now, or by which fault it is none.
type Outcome = std::result::Result<(), (String, String)>;

/// Rows that are not committed yet.
#[derive(Default)]
struct Pending {
    logs: BTreeMap<TableName, InferenceLogBuilder>,
    feedback: Option<FeedbackBuilder>,
    rows: u64,
    messages: usize,
    bytes: usize,
}

impl Pending {
    /// Decodes one dead letter; a schema that it names is asked for first.
    async fn take_with_schema(&mut self, lake: &Lake, with: &With, letter: &DeadLetter) -> Result<Outcome> {
        let mut taken = self.take(lake, with, letter);
        if let (Err(Refusal::Schema(id)), Some(registry)) = (&taken, &with.registry) {
            registry.look_up(*id).await?;
            taken = self.take(lake, with, letter);
        }
        Ok(taken.map_err(|refusal| match refusal {
            Refusal::Fault(code, reason) => (code, reason),
            Refusal::Schema(id) => ("UNKNOWN_SCHEMA".to_owned(), format!("nobody knows the schema {}", id.0)),
        }))
    }

    /// Decodes one dead letter; says why where it still is one.
    fn take(&mut self, lake: &Lake, with: &With, letter: &DeadLetter) -> std::result::Result<(), Refusal> {
        let topic = &letter.at.topic;
        let route = with.routes.of(topic);
        let unknown = || Refusal::Fault("NO_TOPIC".to_owned(), format!("{topic} is none of the topics of [ingest]"));
        let route = route.ok_or_else(unknown)?;
        let (origin, mut outcome) = (origin(letter, now()), Ok(()));
        let message = Message { key: letter.key.as_deref(), payload: letter.payload.as_deref(), headers: &Vec::new };
        let decoded = with.decoder.decode(route.kind, route.format, &message, &mut |place, row| match row {
            // A dead letter is one record, whatever its message was.
            Row::DeadLetter(row) => outcome = Err(Refusal::Fault(row.code.as_str().to_owned(), row.reason)),
            Row::Inference(row) => {
                let new = || InferenceLogBuilder::with_promoted(lake.promoted());
                let origin = Origin { record: origin.record + place, ..origin };
                self.rows += 1;
                self.logs.entry(table(route.kind)).or_insert_with(new).append(&row, &origin);
            }
            Row::Feedback(row) => {
                self.rows += 1;
                self.feedback.get_or_insert_default().append(&row, &origin);
            }
        });
        decoded.map_err(Refusal::Schema)?;
        outcome?;
        self.messages += 1;
        self.bytes += letter.payload.as_ref().map_or(0, Vec::len);
        Ok(())
    }

    async fn commit(&mut self, lake: &Lake, dry_run: bool, done: &mut Replayed) -> Result<()> {
        let Self { logs, feedback, rows, .. } = std::mem::take(self);
        done.rows += rows;
        let logs = logs.into_iter().map(|(table, mut rows)| (table, rows.finish()));
        let feedback = feedback.map(|mut rows| (TableName::Feedback, rows.finish()));
        for (table, rows) in logs.chain(feedback).filter(|_| !dry_run) {
            done.added += lake.add_replayed(table, &rows).await? as u64;
            failpoint(Failpoint::InReplay);
        }
        Ok(())
    }
}

fn origin(letter: &DeadLetter, replayed: Timestamp) -> Origin<'_> {
    Origin {
        topic: &letter.at.topic,
        topic_id: &letter.topic_id,
        partition: letter.at.partition,
        offset: letter.at.offset,
        record: letter.record,
        time: letter.time,
        ingest_time: letter.ingest_time,
        replay_time: Some(replayed),
    }
}
