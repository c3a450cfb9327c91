//! Partitions that come, go, or have to be read again: where each begins, and that the broker still has it.

use super::context::{Client, State};
use super::error::Error;
use super::routes::Route;
use super::sink::{Partition, Sink};
use super::topic_id::topic_ids;
use crate::codec::Format;
use crate::config::Start;
use crate::domain::{RowKind, topic_id};
use crate::runtime::{Backoff, Failpoint, failpoint};
use crate::telemetry::Event;
use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// How long a revoked partition's rows may take to be committed before they are left to the next owner.
const REVOKE_FLUSH_MAX: Duration = Duration::from_secs(10);
/// How long the broker may take to answer one question.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const SEEKS_MAX: u32 = 5;
/// How often topics and stopped partitions are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Where a partition begins, and whether the broker has that offset.
struct Begin {
    partition: Partition,
    route: Route,
    next: i64,
    stopped: bool,
}

impl<S: Sink + 'static> State<S> {
    /// Takes over partitions: each begins at the offset that the tables need next.
    pub(super) fn assign(&mut self, consumer: &Client<S>, given: &TopicPartitionList) -> Result<(), Error> {
        Event::Rebalanced { what: "assigned", partitions: &names(given) }.emit();
        let mut begins = Vec::new();
        for (kind, of_kind) in self.by_kind(given) {
            begins.extend(self.begin(consumer, kind, of_kind)?);
        }
        if self.shutdown.is_cancelled() {
            return Self::assign_to_nobody(consumer, given);
        }
        failpoint(Failpoint::InAssign);
        let (mut at, mut still) = (TopicPartitionList::new(), TopicPartitionList::new());
        for begin in &begins {
            let Partition { topic, number, .. } = &begin.partition;
            // A stopped partition stays assigned, or giving it back would be an error; it is paused and read by nobody.
            let offset = if begin.stopped { Offset::End } else { Offset::Offset(begin.next) };
            at.add_partition_offset(topic, *number, offset).map_err(Error::Fatal)?;
            if begin.stopped || self.paused {
                still.add_partition(topic, *number);
            }
            self.buffer.own(&begin.partition, begin.route, begin.next, begin.stopped);
        }
        let assigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&at),
            _ => consumer.assign(&at),
        };
        assigned.and_then(|()| consumer.pause(&still)).map_err(Error::Fatal)?;
        self.progress.assigned.store(true, Relaxed);
        self.tell();
        Ok(())
    }

    /// Takes partitions over that a shutdown leaves to others in a moment. librdkafka waits for the answer to every assignment:
    /// without one its consumer never closes.
    fn assign_to_nobody(consumer: &Client<S>, given: &TopicPartitionList) -> Result<(), Error> {
        let mut at = TopicPartitionList::new();
        for (topic, number) in keys(given) {
            at.add_partition_offset(&topic, number, Offset::End).map_err(Error::Fatal)?;
        }
        let assigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&at),
            _ => consumer.assign(&at),
        };
        assigned.and_then(|()| consumer.pause(&at)).map_err(Error::Fatal)
    }

    /// Partitions by the table that their rows are for.
    fn by_kind(&self, given: &TopicPartitionList) -> Vec<(RowKind, Vec<(String, i32)>)> {
        let mut kinds: Vec<(RowKind, Vec<(String, i32)>)> = Vec::new();
        for (topic, number) in keys(given) {
            let Some(Route { kind, .. }) = self.routes.of(&topic) else {
                tracing::error!(topic, "no route fits a topic that was subscribed to; it is not read");
                continue;
            };
            match kinds.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, partitions)) => partitions.push((topic, number)),
                None => kinds.push((kind, vec![(topic, number)])),
            }
        }
        kinds
    }

    /// Gives partitions up; what was read of them is committed first where that is quick and still ours to do.
    pub(super) fn revoke(&mut self, consumer: &Client<S>, taken: &TopicPartitionList) -> Result<(), Error> {
        let lost = consumer.assignment_lost();
        Event::Rebalanced { what: if lost { "lost" } else { "revoked" }, partitions: &names(taken) }.emit();
        if !lost && !self.closing {
            self.flush(consumer, REVOKE_FLUSH_MAX)?;
        }
        failpoint(Failpoint::InRevoke);
        for (topic, number) in keys(taken) {
            if let Some(owned) = self.buffer.disown(&topic, number).filter(|owned| owned.next > owned.start) {
                Event::BatchDropped { topic: &topic, partition: number, start: owned.start }.emit();
            }
        }
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(taken),
            _ => consumer.unassign(),
        };
        self.tell();
        unassigned.map_err(Error::Fatal)
    }

    /// Drops what was read of partitions and reads on from where the tables stand.
    pub(super) fn reread(&mut self, consumer: &Client<S>, kind: RowKind, moved: Vec<Partition>) -> Result<(), Error> {
        let moved = moved.into_iter().map(|p| (p.topic, p.number)).collect();
        let begins = self.begin(consumer, kind, moved)?;
        let (mut at, mut going, mut still) =
            (TopicPartitionList::new(), TopicPartitionList::new(), TopicPartitionList::new());
        for begin in &begins {
            let Partition { topic, number, .. } = &begin.partition;
            self.buffer.own(&begin.partition, begin.route, begin.next, begin.stopped);
            if begin.stopped {
                still.add_partition(topic, *number);
                continue;
            }
            going.add_partition(topic, *number);
            at.add_partition_offset(topic, *number, Offset::Offset(begin.next)).map_err(Error::Fatal)?;
        }
        consumer.pause(&still).map_err(Error::Fatal)?;
        self.seek(consumer, &at);
        self.tell();
        if self.paused { Ok(()) } else { consumer.resume(&going).map_err(Error::Fatal) }
    }

    /// The broker refused an offset: whichever partition it was, those whose offset it no longer has stop, the others read
    /// on.
    pub(super) fn check_offsets(&mut self, consumer: &Client<S>) -> Result<(), Error> {
        let owned: Vec<(Partition, i64)> =
            self.buffer.partitions().filter(|(_, o)| !o.stopped).map(|(p, o)| (p, o.next)).collect();
        let mut at = TopicPartitionList::new();
        for (partition, next) in owned {
            if self.is_gap(consumer, &partition, next) {
                let owned = self.buffer.get_mut(&partition.topic, partition.number);
                owned.expect("it was listed just now").stopped = true;
            } else {
                at.add_partition_offset(&partition.topic, partition.number, Offset::Offset(next))
                    .map_err(Error::Fatal)?;
            }
        }
        self.seek(consumer, &at);
        self.tell();
        Ok(())
    }

    /// Moves the consumer. It refuses to seek while a partition is just being assigned, which passes, and where the broker had
    /// refused the partition's offset, which does not: such a partition is assigned anew. Where that fails too, it stops until
    /// the next look.
    pub(super) fn seek(&mut self, consumer: &Client<S>, at: &TopicPartitionList) {
        if at.count() == 0 {
            return;
        }
        for _ in 0..SEEKS_MAX {
            let sought = consumer.seek_partitions(at.clone(), ANSWER_MAX).and_then(|done| all_sought(&done));
            if sought.is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let Err(error) = self.assign_anew(consumer, at) else { return };
        tracing::info!(%error, "a partition cannot be read on now; it is looked at again");
        for (topic, number) in keys(at) {
            if let Some(owned) = self.buffer.get_mut(&topic, number) {
                owned.stopped = true;
            }
        }
    }

    fn assign_anew(&self, consumer: &Client<S>, at: &TopicPartitionList) -> KafkaResult<()> {
        if let RebalanceProtocol::Cooperative = consumer.rebalance_protocol() {
            consumer.incremental_unassign(at)?;
            consumer.incremental_assign(at)?;
        } else {
            let mut all = TopicPartitionList::new();
            for (partition, owned) in self.buffer.partitions() {
                all.add_partition_offset(&partition.topic, partition.number, Offset::Offset(owned.next))?;
            }
            consumer.assign(&all)?;
        }
        if self.paused { consumer.pause(at) } else { Ok(()) }
    }

    /// Looks whether the topics are still those that are read, and whether stopped partitions can go on, because somebody
    /// accepted the gap or the topic was made again.
    pub(super) fn look_again(&mut self, consumer: &Client<S>) -> Result<(), Error> {
        if self.looked.elapsed() < LOOK_PERIOD || self.progress.is_kafka_away() {
            return Ok(());
        }
        self.looked = Instant::now();
        let owned: Vec<_> = self.buffer.partitions().map(|(p, owned)| (p, owned.kind, owned.stopped)).collect();
        let topics: BTreeSet<&str> = owned.iter().map(|(p, ..)| p.topic.as_str()).collect();
        // Only a look: where the broker does not answer, the next one will do.
        let Ok(ids) = topic_ids(consumer.client(), topics, LOOK_MAX) else { return Ok(()) };
        let kinds: HashSet<RowKind> = owned.iter().map(|(_, kind, _)| *kind).collect();
        for kind in kinds {
            let is_other = |p: &Partition| ids.get(&p.topic).is_some_and(|id| **id != *topic_id(&p.generation));
            let again = owned.iter().filter(|(p, of, stopped)| *of == kind && (*stopped || is_other(p)));
            let again: Vec<Partition> = again.map(|(p, ..)| p.clone()).collect();
            if !again.is_empty() {
                self.reread(consumer, kind, again)?;
            }
        }
        Ok(())
    }

    /// Where partitions of one kind begin; those that the tables do not know are pinned first.
    fn begin(&mut self, consumer: &Client<S>, kind: RowKind, wanted: Vec<(String, i32)>) -> Result<Vec<Begin>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let Some(ids) = self.topic_ids(consumer, &wanted) else { return Ok(Vec::new()) };
        let (wanted, gone): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(topic, _)| ids.contains_key(topic));
        let numbered = |(topic, number): (String, i32), generation: &Arc<str>| Partition {
            topic,
            generation: generation.clone(),
            number,
        };
        // A topic that was deleted a moment ago has nothing to read; its next assignment or the next look tells.
        let none: Arc<str> = "".into();
        let route = |topic: &str| self.routes.of(topic).unwrap_or(Route { kind, format: Format::Auto });
        let gone = gone.into_iter().map(|key| {
            let route = route(&key.0);
            Begin { partition: numbered(key, &none), route, next: 0, stopped: true }
        });
        let mut begins: Vec<Begin> = gone.collect();
        let wanted: Vec<Partition> = wanted
            .into_iter()
            .map(|key| {
                let generation = &ids[&key.0];
                numbered(key, generation)
            })
            .collect();
        if wanted.is_empty() {
            return Ok(begins);
        }
        let Some(mut positions) = self.worker.positions(kind, wanted.clone())? else { return Ok(Vec::new()) };
        let new: Vec<Partition> = positions.iter().filter(|(_, p)| p.is_none()).map(|(w, _)| w.clone()).collect();
        if !new.is_empty() {
            let mut starts = Vec::with_capacity(new.len());
            for partition in new {
                let Some(start) = self.first_offset(consumer, &partition) else { return Ok(Vec::new()) };
                starts.push((partition, start));
            }
            self.worker.pin(kind, starts)?;
            let Some(pinned) = self.worker.positions(kind, wanted)? else { return Ok(Vec::new()) };
            positions = pinned;
        }
        for (partition, position) in positions {
            // Only a shutdown keeps a partition from being pinned.
            let Some(next) = position else { return Ok(Vec::new()) };
            let stopped = self.is_gap(consumer, &partition, next);
            let route = self.routes.of(&partition.topic).unwrap_or(Route { kind, format: Format::Auto });
            begins.push(Begin { partition, route, next, stopped });
        }
        Ok(begins)
    }

    /// Where a partition begins that the tables do not know; nothing only where a shutdown came first.
    fn first_offset(&mut self, consumer: &Client<S>, partition: &Partition) -> Option<i64> {
        let (low, high) = self.watermarks(consumer, partition)?;
        let time = match self.start {
            Start::Earliest => return Some(low),
            Start::Latest => return Some(high),
            Start::At(time) => time,
        };
        let found = self.insist(|| {
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition_offset(
                &partition.topic,
                partition.number,
                Offset::Offset(time.micros().div_euclid(1000)),
            )?;
            consumer.offsets_for_times(wanted, ANSWER_MAX).and_then(|found| all_sought(&found).map(|()| found))
        })?;
        match found.elements().first().map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Some(offset),
            // No message is that young: the next one is the first.
            _ => Some(high),
        }
    }

    /// Whether the broker lacks the offset that the tables need next; says so where it does.
    fn is_gap(&mut self, consumer: &Client<S>, partition: &Partition, stored: i64) -> bool {
        let Some((low, high)) = self.watermarks(consumer, partition) else { return false };
        let gap = stored < low || stored > high;
        if gap {
            let known = self.buffer.get(partition).is_some_and(|owned| owned.stopped && owned.next == stored);
            if !known {
                Event::Gap { topic: &partition.topic, partition: partition.number, stored, low, high }.emit();
            }
        }
        gap
    }

    /// The ids of the topics that exist; nothing only where a shutdown came first.
    fn topic_ids(&mut self, consumer: &Client<S>, of: &[(String, i32)]) -> Option<BTreeMap<String, Arc<str>>> {
        let topics: BTreeSet<&str> = of.iter().map(|(topic, _)| topic.as_str()).collect();
        self.insist(|| topic_ids(consumer.client(), topics.iter().copied(), ANSWER_MAX))
    }

    /// The oldest offset that the broker has and the next that it will write; nothing only where a shutdown came first.
    fn watermarks(&mut self, consumer: &Client<S>, partition: &Partition) -> Option<(i64, i64)> {
        self.insist(|| consumer.fetch_watermarks(&partition.topic, partition.number, ANSWER_MAX))
    }

    /// Asks the broker until it answers; nothing only where a shutdown came first.
    fn insist<T>(&mut self, ask: impl Fn() -> KafkaResult<T>) -> Option<T> {
        let mut backoff = Backoff::new(Duration::from_millis(100), self.pause_max);
        while !self.shutdown.is_cancelled() {
            match ask() {
                Ok(found) => {
                    self.progress.kafka_is_back();
                    return Some(found);
                }
                Err(error) => {
                    self.progress.kafka_is_away(&error);
                    thread::sleep(backoff.next_pause());
                }
            }
        }
        None
    }
}

fn all_sought(done: &TopicPartitionList) -> KafkaResult<()> {
    done.elements().iter().try_for_each(|element| element.error())
}

fn keys(list: &TopicPartitionList) -> Vec<(String, i32)> {
    list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect()
}

fn names(list: &TopicPartitionList) -> String {
    keys(list).iter().map(|(topic, number)| format!("{topic}/{number}")).collect::<Vec<_>>().join(" ")
}
