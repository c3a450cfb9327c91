//! A partition whose log ends before what the tables hold: the broker lost messages that were stored already (an unclean
//! leader election, a restored disk), and new ones get their offsets.
//!
//! What is stored stays: it was there once. The partition goes on as another generation, from the first offset whose message
//! is not the stored one any more. That offset is found by comparing what the broker has now with what is in the tables, so
//! that messages which came before anybody looked are read too.

use super::formats;
use super::gap::Stopped;
use crate::codec::{Decoder, Message};
use crate::config::Config;
use crate::domain::Row;
use crate::ingest::{Held, Partition, Routes, messages_from};
use crate::lake::{Gap, Lake, PartitionKey, StoredRecord};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;

/// Messages that are compared at first; where all of them are new, eight times as many.
const COMPARED_AT_FIRST: i64 = 1_000;

/// How a partition went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BegunAgain {
    /// The first offset that is read again.
    pub at: i64,
    /// The offset after the last one of the lost end.
    pub stood: i64,
    /// What the partition is from then on.
    pub key: PartitionKey,
}

/// Lets a partition whose log was shortened go on.
///
/// # Errors
/// Where the broker does not answer, the tables cannot be read, or another process moved the partition meanwhile.
pub(super) async fn begin_again(config: &Config, lake: &Lake, gap: &Stopped) -> Result<BegunAgain> {
    let (key, stood) = (&gap.standing.key, gap.standing.next);
    let at = first_other(config, lake, gap).await?;
    let lost = Gap { first: at, last: stood - 1 };
    let audited = lake.audit().await.context("cannot look for offsets that are in no row")?;
    let same = audited
        .partitions
        .iter()
        .find(|p| p.key == *key && p.pipeline == gap.standing.pipeline && p.cluster == gap.standing.cluster);
    let within = |gap: &Gap| {
        let cut = Gap { first: gap.first.max(lost.first), last: gap.last.min(lost.last) };
        (cut.first <= cut.last).then_some(cut)
    };
    let gaps: Vec<Gap> = same.into_iter().flat_map(|p| &p.gaps).filter_map(within).collect();
    let mut committer = lake.committer(&gap.standing.pipeline, &gap.standing.cluster).await?;
    let key = committer.begin_again(gap.table, key, stood, at, &gaps).await?;
    Ok(BegunAgain { at, stood, key })
}

/// The first offset at which the broker has, or will have, another message than the tables.
async fn first_other(config: &Config, lake: &Lake, gap: &Stopped) -> Result<i64> {
    let PartitionKey { topic, generation, partition } = gap.standing.key.clone();
    let partition = Partition { topic, generation: generation.into(), number: partition };
    let compare = Compare { routes: Routes::new(&config.ingest)?, decoder: formats::decoder(config)? };
    let mut compared = COMPARED_AT_FIRST;
    loop {
        let first = (gap.high - compared).max(gap.low);
        let stored = lake.stored_from(gap.table, &gap.standing.key, first).await?;
        let (kafka, partition) = (config.kafka.clone(), partition.clone());
        let read = move || {
            let mut held = Vec::new();
            messages_from(&kafka, &partition, first, |message| held.push(message)).map(|()| held)
        };
        let held = tokio::task::spawn_blocking(read).await.context("reading the partition panicked")??;
        let last_same = held.iter().rev().find(|message| compare.is_stored(&gap.standing.key.topic, message, &stored));
        match last_same {
            Some(message) => return Ok(message.offset + 1),
            None if first == gap.low => return Ok(first),
            None => compared *= 8,
        }
    }
}

/// How a message of the broker's is told from the one that was stored.
struct Compare {
    routes: Routes,
    decoder: Decoder,
}

impl Compare {
    fn is_stored(&self, topic: &str, message: &Held, stored: &BTreeMap<i64, Vec<StoredRecord>>) -> bool {
        let Some(records) = stored.get(&message.offset) else { return false };
        if records.iter().any(|record| record.time != message.time) {
            return false;
        }
        // Where it cannot be decoded here, the time has to do.
        self.names(topic, message).is_none_or(|names| {
            names.len() == records.len() && names.iter().zip(records).all(|(name, record)| *name == record.name)
        })
    }

    /// What its records would be named by in the tables; nothing where a schema is missing.
    fn names(&self, topic: &str, message: &Held) -> Option<Vec<Vec<u8>>> {
        let route = self.routes.of(topic)?;
        let whole = Message { key: message.key.as_deref(), payload: message.payload.as_deref(), headers: &Vec::new };
        let mut names = Vec::new();
        let decoded = self.decoder.decode(route.kind, route.format, &whole, &mut |_, row| {
            names.push(match row {
                Row::Inference(row) => row.request_id.as_bytes().to_vec(),
                Row::Feedback(row) => row.feedback_id.as_bytes().to_vec(),
                Row::DeadLetter(row) => row.payload.or(row.key).unwrap_or_default().to_vec(),
            });
        });
        decoded.is_ok().then_some(names)
    }
}
