//! Generation that requests join and leave while it runs: one token for all samples under way at each step.
//!
//! It draws as [`Decoder::generate`] does, from the same parts: a sample depends on its prompt, its seed and its options only,
//! not on who else is in the batch, nor on when it came.

use super::constraint::Constraint;
use super::decoder::Decoder;
use super::error::Result;
use super::generate::{Cache, Finish, GenerationOptions, GenerationRequest, Row, check};
use super::ops::head::log_sum_exp;
use super::sample::Sampling;
use rayon::prelude::*;
use std::collections::{BTreeMap, VecDeque};

/// A prompt, its samples' seeds, and how they are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// One a sample.
    pub seeds: Vec<u64>,
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// The nucleus; absent for all tokens.
    pub top_p: Option<f32>,
    /// Most tokens of a sample.
    pub new_tokens_max: usize,
    /// Tokens that end a sample.
    pub stop: Vec<u32>,
    /// So many of the most probable tokens are told beside each drawn one.
    pub top_logprobs: usize,
}

/// One token of one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// What [`Generator::admit`] gave.
    pub ask: usize,
    /// The sample of it.
    pub sample: usize,
    /// The token.
    pub token: u32,
    /// Its log-probability under the plain policy.
    pub logprob: f32,
    /// The most probable tokens with theirs.
    pub top: Vec<(u32, f32)>,
    /// Why the sample ended with it, where it did.
    pub finish: Option<Finish>,
}

/// A sample that ended because its [`Constraint`] let nothing follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// What [`Generator::admit`] gave.
    pub ask: usize,
    /// The sample of it.
    pub sample: usize,
    /// What the constraint said.
    pub reason: String,
}

/// An ask and what its samples may say, one for each sample that is not begun; none where they may say anything.
struct Asked {
    ask: Ask,
    constraints: Vec<Box<dyn Constraint>>,
}

/// A drawn token, its log-probability, and the most probable ones with theirs.
type Token = (u32, f32, Vec<(u32, f32)>);

/// The samples under way over one decoder.
pub struct Generator {
    decoder: Decoder,
    rows_max: usize,
    cache: Cache,
    asks: BTreeMap<usize, Asked>,
    /// Asks whose prompt is not computed yet.
    queue: VecDeque<usize>,
    /// Samples whose prompt is cached, but for which there was no place yet.
    waiting: VecDeque<Row>,
    rows: Vec<Row>,
    next: usize,
}

impl Generator {
    /// A generator with nothing under way.
    ///
    /// # Errors
    /// Where the decoder's weights cannot be laid out for few rows.
    pub fn new(decoder: &Decoder, rows_max: usize) -> Result<Self> {
        let cache = Cache::new(decoder.config().layers.len(), decoder.heads(0));
        let decoder = decoder.for_few_rows()?.clone();
        let (asks, queue, waiting, rows) = (BTreeMap::new(), VecDeque::new(), VecDeque::new(), Vec::new());
        Ok(Self { decoder, rows_max: rows_max.max(1), cache, asks, queue, waiting, rows, next: 0 })
    }

    /// Takes a request in; its samples begin as places get free.
    ///
    /// # Errors
    /// As [`Decoder::generate`].
    pub fn admit(&mut self, ask: Ask) -> Result<usize> {
        self.admit_under(ask, Vec::new())
    }

    /// As [`Generator::admit`]; `constraints` has one for each seed, or none.
    ///
    /// # Errors
    /// As [`Decoder::generate`].
    pub fn admit_under(&mut self, ask: Ask, mut constraints: Vec<Box<dyn Constraint>>) -> Result<usize> {
        let request = GenerationRequest { prompt: ask.prompt.clone(), seeds: ask.seeds.clone() };
        let options = GenerationOptions {
            temperature: ask.temperature,
            top_p: ask.top_p,
            new_tokens_max: ask.new_tokens_max,
            stop: Vec::new(),
            rows_max: self.rows_max,
        };
        check(&self.decoder, &[request], &options)?;
        let id = self.next;
        self.next += 1;
        if !ask.seeds.is_empty() {
            self.queue.push_back(id);
            // They are taken from the end.
            constraints.reverse();
            self.asks.insert(id, Asked { ask, constraints });
        }
        Ok(id)
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.asks.is_empty()
    }

    /// Ends a sample, or all of a request's, before its end.
    pub fn end(&mut self, ask: usize, sample: Option<usize>) {
        let ends = |row: &Row| row.request == ask && sample.is_none_or(|sample| row.sample == sample);
        self.rows.retain(|row| !ends(row));
        self.waiting.retain(|row| !ends(row));
        if sample.is_none() {
            self.queue.retain(|queued| *queued != ask);
        }
        self.forget_done();
    }

    /// Draws one token for each sample under way.
    ///
    /// # Errors
    /// Where the network cannot be computed; then nothing under way can go on.
    pub fn step(&mut self) -> Result<Vec<std::result::Result<Drawn, Stuck>>> {
        self.refill()?;
        let asks = &self.asks;
        let drawn: Vec<std::result::Result<Token, String>> = self
            .rows
            .par_iter_mut()
            .map(|row| {
                let ask = &asks[&row.request].ask;
                let top = match (&row.prompt_logits, ask.top_logprobs) {
                    (Some(logits), count) if count > 0 => top(logits, count),
                    _ => Vec::new(),
                };
                row.draw(Sampling { temperature: ask.temperature, top_p: ask.top_p })?;
                let last = |values: &[f32]| values.last().copied().unwrap_or_default();
                let token = row.generated.tokens.last().copied().unwrap_or_default();
                if let Some(constraint) = row.constraint.as_mut().filter(|_| !ask.stop.contains(&token)) {
                    constraint.take(token)?;
                }
                Ok((token, last(&row.generated.logprobs), top))
            })
            .collect();
        let positions_max = self.decoder.config().max_position_embeddings;
        let (mut told, mut going) = (Vec::with_capacity(drawn.len()), Vec::with_capacity(drawn.len()));
        for (row, drawn) in self.rows.drain(..).zip(drawn) {
            let (token, logprob, top) = match drawn {
                Ok(drawn) => drawn,
                Err(reason) => {
                    told.push(Err(Stuck { ask: row.request, sample: row.sample, reason }));
                    continue;
                }
            };
            let ask = &self.asks[&row.request].ask;
            let full = row.generated.tokens.len() >= ask.new_tokens_max || row.slots.len() >= positions_max;
            let finish = if ask.stop.contains(&token) { Some(Finish::Stop) } else { full.then_some(Finish::Length) };
            told.push(Ok(Drawn { ask: row.request, sample: row.sample, token, logprob, top, finish }));
            if finish.is_none() {
                going.push(row);
            }
        }
        self.rows = going;
        self.forget_done();
        self.cache.decode(&self.decoder, &mut self.rows)?;
        Ok(told)
    }

    fn forget_done(&mut self) {
        let under_way =
            |id: &usize| self.queue.contains(id) || self.rows.iter().chain(&self.waiting).any(|row| row.request == *id);
        self.asks.retain(|id, _| under_way(id));
    }

    /// Fills free places, computing further prompts where there are none.
    fn refill(&mut self) -> Result<()> {
        let free = self.rows_max - self.rows.len();
        let mut next = Vec::new();
        let mut found = self.waiting.len();
        while found < free {
            let Some(id) = self.queue.pop_front() else { break };
            found += self.asks[&id].ask.seeds.len();
            next.push(id);
        }
        self.prefill(&next)?;
        let places = free.min(self.waiting.len());
        self.rows.extend(self.waiting.drain(..places));
        Ok(())
    }

    fn prefill(&mut self, which: &[usize]) -> Result<()> {
        if which.is_empty() {
            return Ok(());
        }
        self.cache.compact(self.rows.iter_mut().chain(&mut self.waiting));
        let prompts = which.iter().map(|id| self.asks[id].ask.prompt.as_slice());
        for (id, (slots, logits)) in which.iter().zip(self.cache.prefill(&self.decoder, prompts)?) {
            let Some(Asked { ask, constraints }) = self.asks.get_mut(id) else { continue };
            for (sample, seed) in ask.seeds.iter().enumerate() {
                let mut row = Row::new(*id, sample, *seed, slots.clone(), logits.clone());
                row.constraint = constraints.pop();
                self.waiting.push_back(row);
            }
        }
        Ok(())
    }
}

/// The most probable tokens, and their log-probabilities.
fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let lse = log_sum_exp(logits, 1.0);
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let count = count.min(order.len());
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, by_logit);
        order.truncate(count);
    }
    order.sort_unstable_by(by_logit);
    order.into_iter().map(|id| (id, logits[id as usize] - lse)).collect()
}
