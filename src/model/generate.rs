//! Batched sampling with a key-value cache: each prompt is computed once for all its samples, a finished sample's place
//! goes to the next in the queue.
//!
//! A sample depends on its prompt, its seed and the options only: not on the other samples, nor on their order or
//! number in a batch (each has its own generator; each row of each matrix product is summed in the same order).

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use candle_core::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::batch::{check_ids, check_length};
use super::constraint::Constraint;
use super::decoder::Decoder;
use super::error::{Error, Result};
use super::ops::attention::{self, Heads, Rows, Span};
use super::ops::host::Slice;
use super::sample::{Draw, Sampling, draw, draw_under};

/// A prompt and one seed for each sample that is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRequest {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// One a sample.
    pub seeds: Vec<u64>,
}

/// How to sample, and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Draws only from the smallest set of tokens whose probability reaches this; `None` draws from all.
    pub top_p: Option<f32>,
    /// Most tokens of a sample.
    pub new_tokens_max: usize,
    /// Tokens that end a sample.
    pub stop: Vec<u32>,
    /// Most samples computed at once.
    pub rows_max: usize,
}

impl Default for GenerationOptions {
    /// Temperature 1, no nucleus, 256 tokens, no stop tokens, 64 rows.
    fn default() -> Self {
        Self { temperature: 1.0, top_p: None, new_tokens_max: 256, stop: Vec::new(), rows_max: 64 }
    }
}

/// The temperature of a request's sample, by their numbers.
pub type Ladder<'a> = dyn Fn(usize, usize) -> f32 + Sync + 'a;

/// Whether a sample of these tokens has ended.
pub type Ends<'a> = dyn Fn(&[u32]) -> bool + Sync + 'a;

/// What differs from sample to sample of one call. A row of a batch has its own temperature, so that a ladder of them
/// shares the prompt's computation and the batch.
#[derive(Clone, Copy, Default)]
pub struct PerSample<'a> {
    /// The temperature of a request's sample, by their numbers; absent for the options' own.
    pub temperature: Option<&'a Ladder<'a>>,
    /// Whether a sample has ended, looking at its tokens after each draw: for stop texts that cross the tokens' borders.
    pub ends: Option<&'a Ends<'a>>,
}

/// One sampled completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The tokens, the stop token included where one was drawn.
    pub tokens: Vec<u32>,
    /// Each token's log-probability under the plain policy (temperature 1, no nucleus): what off-policy optimisers take.
    pub logprobs: Vec<f32>,
    /// Each token's log-probability under the distribution that it was drawn from (tempered, nucleus renormalised).
    pub sampling_logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Why a sample ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was drawn, or [`PerSample::ends`] said so.
    Stop,
    /// The limit of tokens, or of the model's positions, was reached.
    Length,
}

impl Decoder {
    /// Samples completions: for each request one a seed, in the order of requests and seeds.
    ///
    /// # Errors
    /// An empty prompt, an unknown token id, a prompt that fills the model's positions, options out of range.
    pub fn generate(&self, requests: &[GenerationRequest], options: &GenerationOptions) -> Result<Vec<Vec<Generated>>> {
        self.generate_each(requests, options, PerSample::default())
    }

    /// As [`Decoder::generate`], with what differs from sample to sample.
    ///
    /// # Errors
    /// As [`Decoder::generate`].
    pub fn generate_each(
        &self,
        requests: &[GenerationRequest],
        options: &GenerationOptions,
        each: PerSample<'_>,
    ) -> Result<Vec<Vec<Generated>>> {
        check(self, requests, options)?;
        let mut done: Vec<Vec<Option<Generated>>> = requests.iter().map(|r| vec![None; r.seeds.len()]).collect();
        let mut queue: VecDeque<usize> = (0..requests.len()).filter(|i| !requests[*i].seeds.is_empty()).collect();
        let mut engine = Engine::new(self.for_few_rows()?, options, each);
        while !(queue.is_empty() && engine.idle()) {
            engine.refill(requests, &mut queue)?;
            for (request, sample, generated) in engine.step()? {
                done[request][sample] = Some(generated);
            }
        }
        let all = |samples: Vec<Option<Generated>>| samples.into_iter().flatten().collect();
        Ok(done.into_iter().map(all).collect())
    }
}

/// The samples in flight and their cached keys and values.
struct Engine<'a> {
    decoder: &'a Decoder,
    options: &'a GenerationOptions,
    each: PerSample<'a>,
    cache: Cache,
    rows: Vec<Row>,
    /// Samples whose prompt is cached, but for which there was no place yet.
    waiting: VecDeque<Row>,
}

/// One sample in flight.
pub(super) struct Row {
    pub(super) request: usize,
    pub(super) sample: usize,
    rng: ChaCha8Rng,
    pub(super) generated: Generated,
    /// Whether [`PerSample::ends`] said so after the last draw.
    ended: bool,
    /// The cache slots that it sees, in the order of positions.
    pub(super) slots: Vec<u32>,
    /// The logits that its next token is drawn from are its own row's; before the first step, its prompt's.
    pub(super) prompt_logits: Option<std::sync::Arc<Vec<f32>>>,
    /// What it may say.
    pub(super) constraint: Option<Box<dyn Constraint>>,
}

impl<'a> Engine<'a> {
    fn new(decoder: &'a Decoder, options: &'a GenerationOptions, each: PerSample<'a>) -> Self {
        let cache = Cache::new(decoder.config().layers.len(), decoder.heads(0));
        Self { decoder, options, each, cache, rows: Vec::new(), waiting: VecDeque::new() }
    }

    fn idle(&self) -> bool {
        self.rows.is_empty() && self.waiting.is_empty()
    }

    /// Fills free places with waiting samples, computing further prompts where there are none.
    fn refill(&mut self, requests: &[GenerationRequest], queue: &mut VecDeque<usize>) -> Result<()> {
        let mut free = self.options.rows_max - self.rows.len();
        let mut next = Vec::new();
        let mut found = self.waiting.len();
        while found < free {
            let Some(request) = queue.pop_front() else { break };
            found += requests[request].seeds.len();
            next.push(request);
        }
        self.prefill(requests, &next)?;
        while free > 0 {
            let Some(row) = self.waiting.pop_front() else { break };
            self.rows.push(row);
            free -= 1;
        }
        Ok(())
    }

    /// Computes prompts and queues their samples.
    fn prefill(&mut self, requests: &[GenerationRequest], which: &[usize]) -> Result<()> {
        if which.is_empty() {
            return Ok(());
        }
        self.cache.compact(self.rows.iter_mut().chain(&mut self.waiting));
        let prompts = which.iter().map(|request| requests[*request].prompt.as_slice());
        for (request, (slots, logits)) in which.iter().zip(self.cache.prefill(self.decoder, prompts)?) {
            for (sample, seed) in requests[*request].seeds.iter().enumerate() {
                self.waiting.push_back(Row::new(*request, sample, *seed, slots.clone(), logits.clone()));
            }
        }
        Ok(())
    }

    /// Draws one token for each row, takes out the rows that end, computes the others' next logits.
    fn step(&mut self) -> Result<Vec<(usize, usize, Generated)>> {
        let (options, each) = (self.options, self.each);
        self.rows.par_iter_mut().for_each(|row| {
            let own = each.temperature.map_or(options.temperature, |of| of(row.request, row.sample));
            let drawn = row.draw(Sampling { temperature: own, top_p: options.top_p });
            row.ended = drawn.is_err() || each.ends.is_some_and(|ends| ends(&row.generated.tokens));
        });
        let positions_max = self.decoder.config().max_position_embeddings;
        let mut finished = Vec::new();
        let mut going = Vec::with_capacity(self.rows.len());
        for mut row in self.rows.drain(..) {
            match row.finish(self.options, positions_max) {
                Some(finish) => {
                    row.generated.finish = finish;
                    finished.push((row.request, row.sample, row.generated));
                }
                None => going.push(row),
            }
        }
        self.rows = going;
        self.cache.decode(self.decoder, &mut self.rows)?;
        Ok(finished)
    }
}

/// The cache slots of a prompt, and the logits after it.
pub(super) type Prefilled = (Vec<u32>, std::sync::Arc<Vec<f32>>);

impl Cache {
    /// Computes prompts, at least one, one row a token.
    pub(super) fn prefill<'p>(
        &mut self,
        decoder: &Decoder,
        prompts: impl Iterator<Item = &'p [u32]>,
    ) -> Result<Vec<Prefilled>> {
        let (mut ids, mut positions, mut spans, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            let rows = ids.len()..ids.len() + prompt.len();
            let keys = rows.clone().map(|row| (self.slots + row) as u32).collect();
            spans.push(Span { queries: rows, keys });
            ids.extend(prompt);
            positions.extend(0..prompt.len() as u32);
            last.push(ids.len() as u32 - 1);
        }
        let logits = self.compute(decoder, &ids, &positions, &spans, Some(&last))?;
        let logits = logits.chunks_exact(logits.len() / last.len()).map(|logits| std::sync::Arc::new(logits.to_vec()));
        Ok(spans.into_iter().map(|span| span.keys).zip(logits).collect())
    }

    /// Computes the logits after each row's last token.
    pub(super) fn decode(&mut self, decoder: &Decoder, rows: &mut [Row]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let (mut ids, mut positions, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for (index, row) in rows.iter_mut().enumerate() {
            ids.extend(row.generated.tokens.last());
            positions.push(row.slots.len() as u32);
            row.slots.push((self.slots + index) as u32);
            // The list of slots is lent to the span and taken back below: it may be long.
            spans.push(Span { queries: index..index + 1, keys: std::mem::take(&mut row.slots) });
        }
        let logits = self.compute(decoder, &ids, &positions, &spans, None)?;
        let vocabulary = decoder.config().vocab_size;
        for ((row, span), logits) in rows.iter_mut().zip(spans).zip(logits.chunks_exact(vocabulary)) {
            row.slots = span.keys;
            row.prompt_logits = Some(std::sync::Arc::new(logits.to_vec()));
        }
        Ok(())
    }

    /// Runs rows whose keys take the next slots; logits of the rows in `pick`, or of all.
    pub(super) fn compute(
        &mut self,
        decoder: &Decoder,
        ids: &[u32],
        positions: &[u32],
        spans: &[Span],
        pick: Option<&[u32]>,
    ) -> Result<Vec<f32>> {
        let (mut ids, mut positions, mut spans) = (ids.to_vec(), positions.to_vec(), Cow::Borrowed(spans));
        let mut pick = pick.map_or_else(|| (0..ids.len() as u32).collect(), <[u32]>::to_vec);
        let picked = pick.len();
        let (last, rows_min) = (ids.len() - 1, rows_min(decoder));
        while ids.len() < rows_min {
            let keys = spans.last().map_or_else(Vec::new, |span| span.keys.clone());
            spans.to_mut().push(Span { queries: ids.len()..ids.len() + 1, keys });
            ids.push(ids[last]);
            positions.push(positions[last]);
        }
        pick.resize(picked.max(rows_min), pick[picked - 1]);
        let attend = |layer: usize, qkv: &[f32]| {
            let heads = decoder.heads(layer);
            self.append(layer, qkv);
            let q = Rows { data: qkv, stride: heads.qkv_width(), offset: 0 };
            let (k, v) = self.rows(layer);
            attention::forward(q, k, v, &spans, heads)
        };
        let hidden = decoder.run(&ids, &positions, attend, |_| ())?;
        self.slots += ids.len();
        let normed = hidden.normed.index_select(&Tensor::new(pick, decoder.device())?, 0)?;
        let logits = normed.matmul(&decoder.head.t()?)?;
        let logits = Slice::of(&logits)?;
        Ok(logits[..picked * decoder.config().vocab_size].to_vec())
    }
}

/// Fewest rows of a matrix product. The `gemm` crate sums products of a single row, and those of at most 16 × 16
/// values, in another order than all others: fewer rows are filled up by repeating the last, so that a sample never
/// depends on how many others are in flight.
fn rows_min(decoder: &Decoder) -> usize {
    let config = decoder.config();
    let narrowest = config.hidden_size.min(config.intermediate_size).min(config.vocab_size);
    2.max(16 * 16 / narrowest + 1)
}

impl Row {
    pub(super) fn new(
        request: usize,
        sample: usize,
        seed: u64,
        slots: Vec<u32>,
        logits: std::sync::Arc<Vec<f32>>,
    ) -> Self {
        let generated = Generated {
            tokens: Vec::new(),
            logprobs: Vec::new(),
            sampling_logprobs: Vec::new(),
            finish: Finish::Length,
        };
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { request, sample, rng, generated, ended: false, slots, prompt_logits: Some(logits), constraint: None }
    }

    /// Draws a token; an error where its constraint lets nothing follow.
    pub(super) fn draw(&mut self, sampling: Sampling) -> std::result::Result<(), String> {
        if let Some(logits) = self.prompt_logits.take() {
            let Draw { token, logprob, sampling_logprob } = match &mut self.constraint {
                None => draw(&logits, sampling, &mut self.rng),
                Some(constraint) => draw_under(&mut **constraint, &logits, sampling, &mut self.rng)?,
            };
            self.generated.tokens.push(token);
            self.generated.logprobs.push(logprob);
            self.generated.sampling_logprobs.push(sampling_logprob);
        }
        Ok(())
    }

    fn finish(&self, options: &GenerationOptions, positions_max: usize) -> Option<Finish> {
        let tokens = &self.generated.tokens;
        if self.ended || tokens.last().is_some_and(|token| options.stop.contains(token)) {
            return Some(Finish::Stop);
        }
        let full = tokens.len() >= options.new_tokens_max || self.slots.len() >= positions_max;
        full.then_some(Finish::Length)
    }
}

/// Keys and values of every token computed so far, one slot a token, append-only.
pub(super) struct Cache {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    heads: Heads,
    pub(super) slots: usize,
}

impl Cache {
    pub(super) fn new(layers: usize, heads: Heads) -> Self {
        Self { layers: vec![(Vec::new(), Vec::new()); layers], heads, slots: 0 }
    }

    /// Adds the keys and values of rows that hold queries, keys and values side by side.
    fn append(&mut self, layer: usize, qkv: &[f32]) {
        let (keys, values) = &mut self.layers[layer];
        let (at, width) = (self.heads.query_width(), self.heads.key_width());
        for row in qkv.chunks_exact(self.heads.qkv_width()) {
            keys.extend_from_slice(&row[at..at + width]);
            values.extend_from_slice(&row[at + width..at + 2 * width]);
        }
    }

    fn rows(&self, layer: usize) -> (Rows<'_>, Rows<'_>) {
        let (keys, values) = &self.layers[layer];
        let rows = |data| Rows { data, stride: self.heads.key_width(), offset: 0 };
        (rows(keys), rows(values))
    }

    /// Drops the slots that no row sees, once they are more than those that one does.
    pub(super) fn compact<'a>(&mut self, rows: impl Iterator<Item = &'a mut Row>) {
        let rows: Vec<&mut Row> = rows.collect();
        let mut moved: BTreeMap<u32, u32> = BTreeMap::new();
        moved.extend(rows.iter().flat_map(|row| &row.slots).map(|slot| (*slot, 0)));
        if moved.len() * 2 > self.slots {
            return;
        }
        moved.values_mut().enumerate().for_each(|(to, slot)| *slot = to as u32);
        let width = self.heads.key_width();
        for (keys, values) in &mut self.layers {
            for (from, to) in &moved {
                let from = *from as usize * width;
                keys.copy_within(from..from + width, *to as usize * width);
                values.copy_within(from..from + width, *to as usize * width);
            }
            keys.truncate(moved.len() * width);
            values.truncate(moved.len() * width);
        }
        self.slots = moved.len();
        rows.into_iter().flat_map(|row| &mut row.slots).for_each(|slot| *slot = moved[slot]);
    }
}

pub(super) fn check(decoder: &Decoder, requests: &[GenerationRequest], options: &GenerationOptions) -> Result<()> {
    let wrong = |what, found: String, expected: &str| Error::Argument { what, found, expected: expected.to_owned() };
    if !(options.temperature.is_finite() && options.temperature >= 0.0) {
        return Err(wrong("temperature", options.temperature.to_string(), "0 or a positive number"));
    }
    if let Some(top_p) = options.top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
        return Err(wrong("top_p", top_p.to_string(), "above 0 and at most 1"));
    }
    if options.rows_max == 0 || options.new_tokens_max == 0 {
        return Err(wrong("rows_max or new_tokens_max", "0".to_owned(), "at least 1"));
    }
    for request in requests {
        if request.prompt.is_empty() {
            return Err(wrong("length of a prompt", "0".to_owned(), "at least one token"));
        }
        check_ids(request.prompt.iter(), decoder.config().vocab_size)?;
        // One position must be left for the first token.
        check_length(request.prompt.len() + 1, decoder.config().max_position_embeddings)?;
    }
    Ok(())
}
