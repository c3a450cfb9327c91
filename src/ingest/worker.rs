//! The thread that owns the sink: it answers where partitions stand and commits batches, in the order asked.
//!
//! A store that is away is tried again until it is back or the worker is told to give up. Because questions queue behind
//! commits, a position is never older than the commits that were sent before it.

use super::copies::Copies;
use super::error::Error;
use super::generation::Generations;
use super::sink::{Committed, Part, Partition, Rows, Sink, SinkError};
use crate::domain::RowKind;
use crate::runtime::{Backoff, Shutdown};
use crate::telemetry::Event;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(super) type CutOf<S> = <<S as Sink>::Rows as Rows>::Cut;

/// One part of a batch with the epoch of the assignment that it was read in.
#[derive(Debug)]
pub(super) struct Numbered<C> {
    pub(super) part: Part<C>,
    pub(super) epoch: u64,
}

/// Rows of one kind, to be committed as one.
pub(super) struct Batch<C> {
    pub(super) kind: RowKind,
    pub(super) parts: Vec<Numbered<C>>,
    pub(super) bytes: usize,
    pub(super) copies: Copies,
}

/// What became of a batch.
pub(super) struct Done {
    pub(super) kind: RowKind,
    /// Partition, epoch, first offset, next offset.
    pub(super) ranges: Vec<(Partition, u64, i64, i64)>,
    pub(super) bytes: usize,
    pub(super) outcome: Result<Committed, SinkError>,
}

/// Partitions in their present generation, each with the next offset that the tables need.
pub(super) type Positions = Vec<(Partition, Option<i64>)>;

enum Command<S: Sink> {
    Positions(RowKind, Vec<Partition>, Sender<Positions>),
    Pin(RowKind, Vec<(Partition, i64)>, Sender<()>),
    Commit(Batch<CutOf<S>>),
}

/// The poll thread's side of the worker.
pub(super) struct Worker<S: Sink> {
    commands: Option<Sender<Command<S>>>,
    done: Receiver<Done>,
    give_up: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Batches sent and not yet answered.
    pub(super) waiting: usize,
}

impl<S: Sink + 'static> Worker<S> {
    pub(super) fn start(sink: S, generations: Generations, pause_max: Duration, shutdown: Shutdown) -> Self
    where
        CutOf<S>: 'static,
    {
        let (commands, orders) = channel();
        let (answers, done) = channel();
        let give_up = Arc::new(AtomicBool::new(false));
        let bench = Bench { sink, generations, give_up: give_up.clone(), shutdown, pause_max };
        let thread =
            thread::Builder::new().name("ingest-commit".to_owned()).spawn(move || bench.work(&orders, &answers));
        let thread = Some(thread.expect("the system gives a daemon its few threads"));
        Self { commands: Some(commands), done, give_up, thread, waiting: 0 }
    }

    fn send(&self, command: Command<S>) -> Result<(), Error> {
        let commands = self.commands.as_ref().expect("commands end with the worker");
        commands.send(command).map_err(|_| Error::Worker)
    }

    /// Where partitions stand. Blocks while the store is away; nothing where a shutdown came first.
    pub(super) fn positions(&self, kind: RowKind, partitions: Vec<Partition>) -> Result<Option<Positions>, Error> {
        let (answer, positions) = channel();
        self.send(Command::Positions(kind, partitions, answer))?;
        Ok(positions.recv().ok())
    }

    /// Pins partitions; where another process was first, its pins hold. A shutdown may come first.
    pub(super) fn pin(&self, kind: RowKind, starts: Vec<(Partition, i64)>) -> Result<(), Error> {
        let (answer, pinned) = channel();
        self.send(Command::Pin(kind, starts, answer))?;
        pinned.recv().ok();
        Ok(())
    }

    pub(super) fn commit(&mut self, batch: Batch<CutOf<S>>) -> Result<(), Error> {
        self.send(Command::Commit(batch))?;
        self.waiting += 1;
        Ok(())
    }

    /// The next answer, waiting for it at most so long.
    pub(super) fn answer(&mut self, wait: Duration) -> Result<Option<Done>, Error> {
        match self.done.recv_timeout(wait) {
            Ok(done) => {
                self.waiting -= 1;
                Ok(Some(done))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Worker),
        }
    }

    /// No more tries at a store that is away: what is in memory will be read again.
    pub(super) fn give_up(&self) {
        self.give_up.store(true, Ordering::Relaxed);
    }
}

impl<S: Sink> Drop for Worker<S> {
    fn drop(&mut self) {
        self.give_up.store(true, Ordering::Relaxed);
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the worker was told to the poll thread as `Error::Worker`.
            thread.join().ok();
        }
    }
}

/// The worker thread's side.
struct Bench<S: Sink> {
    sink: S,
    generations: Generations,
    give_up: Arc<AtomicBool>,
    shutdown: Shutdown,
    pause_max: Duration,
}

/// What ends the tries at a store that is away.
#[derive(Clone, Copy)]
enum Until {
    /// A shutdown: a question is of no use any more.
    Shutdown,
    /// The end of draining: a batch is worth every try until then.
    GivenUp,
}

impl<S: Sink> Bench<S> {
    fn work(mut self, orders: &Receiver<Command<S>>, answers: &Sender<Done>) {
        for order in orders {
            match order {
                Command::Positions(kind, partitions, answer) => {
                    let positions = |sink: &mut S| {
                        let partitions = sink.current(kind, &partitions)?;
                        let next = sink.positions(kind, &partitions)?;
                        Ok(partitions.into_iter().zip(next).collect())
                    };
                    if let Ok(positions) = self.insist(Until::Shutdown, positions) {
                        answer.send(positions).ok();
                    }
                }
                Command::Pin(kind, starts, answer) => {
                    match self.insist(Until::Shutdown, |sink| sink.pin(kind, &starts)) {
                        Ok(()) | Err(SinkError::Moved(_)) => {
                            answer.send(()).ok();
                        }
                        Err(SinkError::Away(_)) => {}
                    }
                }
                Command::Commit(batch) => {
                    answers.send(self.commit(batch)).ok();
                }
            }
        }
    }

    fn commit(&mut self, batch: Batch<CutOf<S>>) -> Done {
        let Batch { kind, parts, bytes, mut copies } = batch;
        let (mut ranges, mut plain) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        for Numbered { part, epoch } in parts {
            ranges.push((part.partition.clone(), epoch, part.start, part.end));
            plain.push(part);
        }
        // Copies go first: a crash in between repeats a copy and never loses one.
        let copied = self.insist(Until::GivenUp, |_| copies.send());
        let present = self.generations.clone();
        let copied = copied.and_then(|()| self.insist(Until::GivenUp, |_| present.verify(&ranges)));
        let ready = self.sink.ready(kind, plain);
        let size = u64::try_from(bytes).unwrap_or(u64::MAX);
        let outcome = copied.and_then(|()| self.insist(Until::GivenUp, |sink| sink.commit(kind, &ready, size)));
        Done { kind, ranges, bytes, outcome }
    }

    /// Tries until the store is there, saying once that it is away and once that it is back.
    fn insist<T>(
        &mut self,
        until: Until,
        mut work: impl FnMut(&mut S) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), self.pause_max);
        loop {
            match work(&mut self.sink) {
                Err(SinkError::Away(error)) if !self.is_over(until) => {
                    if backoff.tries() == 0 {
                        Event::Away { what: "store", error: &error }.emit();
                    }
                    self.pause(until, backoff.next_pause());
                }
                other => {
                    if backoff.tries() > 0 && !matches!(other, Err(SinkError::Away(_))) {
                        Event::Back { what: "store" }.emit();
                    }
                    return other;
                }
            }
        }
    }

    fn is_over(&self, until: Until) -> bool {
        let given_up = self.give_up.load(Ordering::Relaxed);
        given_up || (matches!(until, Until::Shutdown) && self.shutdown.is_cancelled())
    }

    /// Sleeps in short naps, so that giving up is not slept through.
    fn pause(&self, until: Until, mut left: Duration) {
        const NAP: Duration = Duration::from_millis(50);
        while !left.is_zero() && !self.is_over(until) {
            thread::sleep(left.min(NAP));
            left = left.saturating_sub(NAP);
        }
    }
}
