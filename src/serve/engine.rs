//! The thread that owns generation: takes what waits, groups what can be computed together, answers.

use crate::model::{Decoder, Generated, GenerationOptions, GenerationRequest};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

/// One request on its way to the model.
pub(super) struct Job {
    pub(super) decoder: Arc<Decoder>,
    pub(super) prompt: Vec<u32>,
    pub(super) seeds: Vec<u64>,
    pub(super) temperature: f32,
    pub(super) top_p: Option<f32>,
    pub(super) new_tokens_max: usize,
    pub(super) answer: oneshot::Sender<Result<Vec<Generated>, crate::model::Error>>,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue is full.
    #[error("the server is busy")]
    Busy,
    /// The generating thread is gone.
    #[error("the server is shutting down")]
    Closed,
}

/// A handle to the generating thread; it ends when the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    queue: SyncSender<Job>,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(queue_max: usize, batch_rows: usize, stop: Vec<u32>) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(queue_max);
        std::thread::Builder::new().name("generate".to_owned()).spawn(move || work(&jobs, batch_rows, &stop))?;
        Ok(Self { queue })
    }

    pub(super) fn submit(&self, job: Job) -> Result<(), Refused> {
        self.queue.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Disconnected(_) => Refused::Closed,
        })
    }
}

fn work(jobs: &Receiver<Job>, batch_rows: usize, stop: &[u32]) {
    while let Ok(first) = jobs.recv() {
        let mut waiting = vec![first];
        while waiting.len() < batch_rows {
            let Ok(next) = jobs.try_recv() else { break };
            waiting.push(next);
        }
        while !waiting.is_empty() {
            let (together, rest) = waiting.into_iter().fold((Vec::new(), Vec::new()), |(mut same, mut other), job| {
                let fits = same.first().is_none_or(|first| can_share(first, &job));
                if fits {
                    same.push(job)
                } else {
                    other.push(job)
                }
                (same, other)
            });
            generate(together, batch_rows, stop);
            waiting = rest;
        }
    }
}

/// Whether two requests go through the same weights with the same options.
fn can_share(a: &Job, b: &Job) -> bool {
    Arc::ptr_eq(&a.decoder, &b.decoder)
        && a.temperature.to_bits() == b.temperature.to_bits()
        && a.top_p.map(f32::to_bits) == b.top_p.map(f32::to_bits)
        && a.new_tokens_max == b.new_tokens_max
}

fn generate(jobs: Vec<Job>, batch_rows: usize, stop: &[u32]) {
    let Some(first) = jobs.first() else { return };
    let options = GenerationOptions {
        temperature: first.temperature,
        top_p: first.top_p,
        new_tokens_max: first.new_tokens_max,
        stop: stop.to_vec(),
        rows_max: batch_rows,
    };
    let requests: Vec<_> =
        jobs.iter().map(|j| GenerationRequest { prompt: j.prompt.clone(), seeds: j.seeds.clone() }).collect();
    match first.decoder.generate(&requests, &options) {
        // A receiver that is gone is a client that hung up; its answer is of no use to anybody.
        Ok(answers) => jobs.into_iter().zip(answers).for_each(|(job, answer)| drop(job.answer.send(Ok(answer)))),
        Err(error) if jobs.len() == 1 => {
            jobs.into_iter().for_each(|job| drop(job.answer.send(Err(clone_error(&error)))));
        }
        // One bad request must not fail its neighbours: each alone.
        Err(_) => jobs.into_iter().for_each(|job| generate(vec![job], batch_rows, stop)),
    }
}

fn clone_error(error: &crate::model::Error) -> crate::model::Error {
    crate::model::Error::from(candle_core::Error::Msg(error.to_string()))
}
