//! The thread that owns generation: requests join it while others are under way, each token goes to its request as it is drawn.
//!
//! Requests on one set of weights share every step; several adapters take turns, a step each.

use super::grammar::Grammar;
use super::text::Writer;
use crate::model::{Ask, Constraint, Decoder, Drawn, Finish, Generator, Model, Stuck};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Sets of weights whose arranged form is kept while nobody asks for them.
const IDLE_MAX: usize = 4;

/// One request on its way to the model.
pub(super) struct Job {
    pub(super) decoder: Arc<Decoder>,
    pub(super) ask: Ask,
    /// Texts that end a sample.
    pub(super) stop: Vec<String>,
    /// What its samples may say.
    pub(super) grammar: Option<Grammar>,
}

/// A token as the API tells of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) logprob: f32,
    pub(super) top: Vec<(String, f32)>,
}

/// What was added to one sample.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) sample: usize,
    /// Text that is certain by now: no half characters, nothing that may become a stop text.
    pub(super) text: String,
    /// The token that was drawn.
    pub(super) token: Token,
    /// Why the sample ended, where it did.
    pub(super) finish: Option<Finish>,
}

/// What became of a step.
pub(super) type Told = Result<Piece, String>;

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
    queue: Sender<Taken>,
    under_way: Arc<AtomicUsize>,
    under_way_max: usize,
}

struct Taken {
    job: Job,
    told: UnboundedSender<Told>,
    _place: Place,
}

/// A request's place; free again when this is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Engine {
    /// Starts the thread. `queue_max` requests wait beside those that `batch_rows` samples at once come from.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(base: Arc<Model>, queue_max: usize, batch_rows: usize) -> std::io::Result<Self> {
        let (queue, jobs) = channel();
        let worker = Worker { base, batch_rows, sets: Vec::new() };
        std::thread::Builder::new().name("generate".to_owned()).spawn(move || worker.run(&jobs))?;
        Ok(Self { queue, under_way: Arc::default(), under_way_max: queue_max.saturating_add(batch_rows) })
    }

    /// Hands a request over; its samples' pieces come as they are drawn. To drop the receiver ends them.
    pub(super) fn submit(&self, job: Job) -> Result<UnboundedReceiver<Told>, Refused> {
        let place = Place(Arc::clone(&self.under_way));
        if self.under_way.fetch_add(1, Relaxed) >= self.under_way_max {
            return Err(Refused::Busy);
        }
        // A request has at most so many pieces as tokens, so the channel is bounded by what was asked for.
        let (told, pieces) = unbounded_channel();
        self.queue.send(Taken { job, told, _place: place }).map_err(|_| Refused::Closed)?;
        Ok(pieces)
    }
}

struct Worker {
    base: Arc<Model>,
    batch_rows: usize,
    sets: Vec<Set>,
}

/// One set of weights and what is under way on it.
struct Set {
    decoder: Arc<Decoder>,
    generator: Generator,
    requests: HashMap<usize, Request>,
}

struct Request {
    taken: Taken,
    writers: Vec<Writer>,
    left: usize,
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Taken>) {
        loop {
            if self.sets.iter().all(|set| set.generator.is_idle()) {
                let Ok(first) = jobs.recv() else { return };
                self.admit(first);
            }
            while let Ok(next) = jobs.try_recv() {
                self.admit(next);
            }
            for set in &mut self.sets {
                set.step(&self.base);
            }
            self.tidy();
        }
    }

    fn admit(&mut self, taken: Taken) {
        let job = &taken.job;
        let at = self.sets.iter().position(|set| Arc::ptr_eq(&set.decoder, &job.decoder));
        let at = match at {
            Some(at) => at,
            None => match Generator::new(&job.decoder, self.batch_rows) {
                Ok(generator) => {
                    let decoder = Arc::clone(&job.decoder);
                    self.sets.push(Set { decoder, generator, requests: HashMap::new() });
                    self.sets.len() - 1
                }
                Err(error) => return drop(taken.told.send(Err(error.to_string()))),
            },
        };
        let set = &mut self.sets[at];
        let one = |grammar: &Grammar| Box::new(grammar.clone()) as Box<dyn Constraint>;
        let each = |grammar: &Grammar| job.ask.seeds.iter().map(|_| one(grammar)).collect();
        let constraints = job.grammar.as_ref().map(each).unwrap_or_default();
        match set.generator.admit_under(job.ask.clone(), constraints) {
            Ok(id) => {
                let left = job.ask.seeds.len();
                let writers = (0..left).map(|_| Writer::new(job.stop.clone())).collect();
                set.requests.insert(id, Request { taken, writers, left });
            }
            Err(error) => drop(taken.told.send(Err(error.to_string()))),
        }
    }

    /// Lets go of weights that were unloaded, and of what is too much to keep.
    fn tidy(&mut self) {
        let mut idle = self.sets.iter().filter(|set| set.generator.is_idle()).count();
        self.sets.retain(|set| {
            let goes = set.generator.is_idle() && (Arc::strong_count(&set.decoder) == 1 || idle > IDLE_MAX);
            idle -= usize::from(goes);
            !goes
        });
    }
}

impl Set {
    fn step(&mut self, base: &Model) {
        if self.generator.is_idle() {
            return;
        }
        let drawn = match self.generator.step() {
            Ok(drawn) => drawn,
            Err(error) => {
                for (id, request) in self.requests.drain() {
                    drop(request.taken.told.send(Err(error.to_string())));
                    self.generator.end(id, None);
                }
                return;
            }
        };
        for drawn in drawn {
            match drawn {
                Ok(token) => self.tell(token, base),
                Err(stuck) => self.give_up(&stuck),
            }
        }
    }

    /// A sample cannot go on in the form that was asked for: the request fails.
    fn give_up(&mut self, stuck: &Stuck) {
        if let Some(request) = self.requests.remove(&stuck.ask) {
            let message = format!("the answer cannot go on in the form of `response_format`: {}", stuck.reason);
            drop(request.taken.told.send(Err(message)));
        }
        self.generator.end(stuck.ask, None);
    }

    fn tell(&mut self, drawn: Drawn, base: &Model) {
        let (id, sample) = (drawn.ask, drawn.sample);
        let Some(request) = self.requests.get_mut(&id) else { return };
        let told = request.piece(drawn, base);
        let ended = told.as_ref().map_or(true, |(piece, _)| piece.finish.is_some());
        let early = told.as_ref().is_ok_and(|(_, early)| *early);
        // Nobody listens: the client hung up.
        let gone = request.taken.told.send(told.map(|(piece, _)| piece)).is_err();
        request.left -= usize::from(ended);
        let done = gone || request.left == 0;
        if early {
            self.generator.end(id, Some(sample));
        }
        if done {
            self.requests.remove(&id);
            self.generator.end(id, None);
        }
    }
}

impl Request {
    /// The piece that a token makes, and whether a stop text ended its sample before the generator knows.
    fn piece(&mut self, drawn: Drawn, base: &Model) -> Result<(Piece, bool), String> {
        let decode = |ids: &[u32]| base.decode(ids).map_err(|error| error.to_string());
        let writer = &mut self.writers[drawn.sample];
        // A stop token is no text of the answer, whether it is special or not.
        let is_stop = drawn.finish == Some(Finish::Stop);
        let (mut text, stopped) = if is_stop { (String::new(), false) } else { writer.push(drawn.token, &decode)? };
        let finish = if stopped { Some(Finish::Stop) } else { drawn.finish };
        if finish.is_some() && !stopped {
            text.push_str(&writer.flush());
        }
        let named = |id: u32| decode(&[id]);
        let top =
            drawn.top.into_iter().map(|(id, logprob)| Ok((named(id)?, logprob))).collect::<Result<_, String>>()?;
        let token = Token { text: named(drawn.token)?, logprob: drawn.logprob, top };
        Ok((Piece { sample: drawn.sample, text, token, finish }, stopped && drawn.finish.is_none()))
    }
}
