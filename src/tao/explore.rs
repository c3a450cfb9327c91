//! Samples responses to prompts, and answers greedily for evaluation.
//!
//! Promises that a response depends on the model, its prompt, its temperature and its own seed alone, and that the seed
//! is a function of (cycle seed, round, prompt, sample): the same cycle explores the same responses, whatever the
//! order, batch or number of threads. Log-probabilities are those of the plain policy at temperature 1, which training
//! regresses on, not those of the tempered draw. Never scores.

use super::{Progress, Watch, rng_seed};
use crate::config::Explore;
use crate::domain::{Candidate, ChatMessage, Finish, Prompt, PromptHash};
use crate::model::{self, Decoder, Generated, GenerationOptions, GenerationRequest, Lora, Model};
use std::collections::HashMap;

/// Prompts sampled between two looks at the cancellation flag.
const PROMPTS_PER_CALL: usize = 32;

/// Why exploration failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of range.
    #[error("explore: {0}")]
    Options(&'static str),
    /// No prompt fits the model.
    #[error(
        "none of {prompts} prompts fits the model's {positions} positions with an answer of {new_tokens_max} tokens"
    )]
    NothingFits {
        /// Prompts given.
        prompts: usize,
        /// The model's context.
        positions: usize,
        /// The answer's room.
        new_tokens_max: usize,
    },
    /// The cancellation flag was set.
    #[error("cancelled after {prompts} prompts")]
    Cancelled {
        /// Prompts explored.
        prompts: usize,
    },
    /// The model failed.
    #[error("the model failed while exploring")]
    Model(#[from] model::Error),
}

/// What exploration gave.
#[derive(Debug, Clone)]
pub struct Explored {
    /// All responses, unscored, in the order of prompts and samples.
    pub candidates: Vec<Candidate>,
    /// Each prompt's tokens, for training.
    pub prompt_tokens: HashMap<PromptHash, Vec<u32>>,
    /// Prompts left out because they do not fit the model's positions.
    pub too_long: Vec<PromptHash>,
    /// Responses that were cut off.
    pub truncated: usize,
}

/// Prompts as the model reads them.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// The tokens of each prompt that fits, up to where the answer begins.
    pub tokens: HashMap<PromptHash, Vec<u32>>,
    /// The prompts that do not fit.
    pub too_long: Vec<PromptHash>,
}

/// Samples every prompt.
///
/// # Errors
/// [`Error`].
pub fn explore(
    model: &Model,
    adapter: Option<&Lora>,
    prompts: &[Prompt],
    options: &Explore,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<Explored, Error> {
    check(options)?;
    let Encoded { tokens: prompt_tokens, too_long } = encode(model, prompts, options.tokens_max)?;
    let fitting: Vec<PromptHash> = prompts.iter().map(|p| p.hash).filter(|h| prompt_tokens.contains_key(h)).collect();
    let decoder = adapted(model, adapter)?;
    let mut candidates = Vec::with_capacity(fitting.len() * options.samples as usize);
    for (at, some) in fitting.chunks(PROMPTS_PER_CALL).enumerate() {
        if watch.is_cancelled() {
            return Err(Error::Cancelled { prompts: at * PROMPTS_PER_CALL });
        }
        candidates.extend(sample(model, &decoder, some, &prompt_tokens, options, seed)?);
        watch.report(Progress { what: "explore", done: at * PROMPTS_PER_CALL + some.len(), total: fitting.len() });
    }
    let truncated = candidates.iter().filter(|c| c.finish == Finish::Length).count();
    Ok(Explored { candidates, prompt_tokens, too_long, truncated })
}

/// Encodes prompts: what training needs when candidates are read back from the table.
///
/// # Errors
/// [`Error::NothingFits`], or what the chat template refuses.
pub fn encode(model: &Model, prompts: &[Prompt], new_tokens_max: usize) -> Result<Encoded, Error> {
    let positions = model.config().max_position_embeddings;
    let mut encoded = Encoded::default();
    for prompt in prompts {
        let tokens = chat_tokens(model, &prompt.messages)?;
        if tokens.len() + new_tokens_max <= positions {
            encoded.tokens.insert(prompt.hash, tokens);
        } else {
            encoded.too_long.push(prompt.hash);
        }
    }
    if encoded.tokens.is_empty() {
        return Err(Error::NothingFits { prompts: prompts.len(), positions, new_tokens_max });
    }
    Ok(encoded)
}

/// The most probable answer to each conversation, token by token, with its number of tokens; of `options`, only the
/// limits count.
///
/// # Errors
/// What the model or its chat template refuses.
pub fn answer_greedily(
    model: &Model,
    adapter: Option<&Lora>,
    conversations: &[Vec<ChatMessage>],
    options: &Explore,
) -> Result<Vec<(String, u32)>, Error> {
    let decoder = adapted(model, adapter)?;
    let requests =
        conversations.iter().map(|c| Ok(GenerationRequest { prompt: chat_tokens(model, c)?, seeds: vec![0] }));
    let requests = requests.collect::<Result<Vec<_>, model::Error>>()?;
    let answers = decoder.generate(&requests, &generation(model, 0.0, options))?;
    let text = |g: &Generated| Ok((text_of(model, g)?, u32::try_from(g.tokens.len()).unwrap_or(u32::MAX)));
    answers.iter().flatten().map(text).collect()
}

fn check(options: &Explore) -> Result<(), Error> {
    let sane = |t: &f64| t.is_finite() && (0.0..=4.0).contains(t);
    if options.samples < 2 {
        return Err(Error::Options("`samples` must be at least 2: a reward is compared within a prompt's samples"));
    }
    if options.temperatures.is_empty() || !options.temperatures.iter().all(sane) {
        return Err(Error::Options("`temperatures` needs at least one, each from 0 to 4"));
    }
    if options.tokens_max == 0 {
        return Err(Error::Options("`tokens_max` must be at least 1"));
    }
    Ok(())
}

fn adapted(model: &Model, adapter: Option<&Lora>) -> Result<Decoder, Error> {
    Ok(adapter.map_or_else(|| Ok(model.decoder().clone()), |lora| model.decoder().with_adapter(lora))?)
}

pub(super) fn chat_tokens(model: &Model, messages: &[ChatMessage]) -> Result<Vec<u32>, model::Error> {
    let turns: Vec<_> = messages.iter().map(|m| model::ChatMessage::new(m.role.clone(), m.content.clone())).collect();
    model.encode_chat(&turns)
}

/// The token that ends an assistant's turn: what the chat template writes after one, or the model's own end of text.
pub(super) fn end_token(model: &Model) -> Result<Option<u32>, model::Error> {
    let turns = [ChatMessage::user("a"), ChatMessage { role: "assistant".to_owned(), content: "b".to_owned() }];
    // A template may refuse to end with an answer; then the end of text is all that is known.
    let written = chat_tokens(model, &turns).unwrap_or_default();
    let ends = |token: &&u32| model.stop_tokens().contains(token);
    let own = model.config().eos_token_ids.first().or(model.stop_tokens().first());
    Ok(written.iter().rev().find(ends).or(own).copied())
}

fn generation(model: &Model, temperature: f64, options: &Explore) -> GenerationOptions {
    GenerationOptions {
        #[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
        temperature: temperature as f32,
        new_tokens_max: options.tokens_max,
        rows_max: options.batch_rows,
        stop: model.stop_tokens().to_vec(),
        ..GenerationOptions::default()
    }
}

fn text_of(model: &Model, generated: &Generated) -> Result<String, Error> {
    Ok(model.decode(&generated.tokens)?)
}

/// All samples of some prompts, one call a temperature.
fn sample(
    model: &Model,
    decoder: &Decoder,
    prompts: &[PromptHash],
    tokens: &HashMap<PromptHash, Vec<u32>>,
    options: &Explore,
    seed: u64,
) -> Result<Vec<Candidate>, Error> {
    let mut made: Vec<Candidate> = Vec::new();
    let rungs = options.temperatures.len();
    for (rung, &temperature) in options.temperatures.iter().enumerate() {
        let numbers: Vec<u32> = (0..options.samples).filter(|s| *s as usize % rungs == rung).collect();
        let seeds =
            |prompt: &PromptHash| numbers.iter().map(|&s| rng_seed(&[seed, prompt.low(), u64::from(s)])).collect();
        let requests: Vec<_> =
            prompts.iter().map(|p| GenerationRequest { prompt: tokens[p].clone(), seeds: seeds(p) }).collect();
        let answers = decoder.generate(&requests, &generation(model, temperature, options))?;
        for ((prompt, request), samples) in prompts.iter().zip(&requests).zip(answers) {
            for ((generated, &number), &seed) in samples.into_iter().zip(&numbers).zip(&request.seeds) {
                made.push(candidate(model, *prompt, number, temperature, seed, generated)?);
            }
        }
    }
    let order: HashMap<PromptHash, usize> = prompts.iter().enumerate().map(|(i, p)| (*p, i)).collect();
    made.sort_by_key(|c| (order[&c.prompt], c.sample));
    Ok(made)
}

fn candidate(
    model: &Model,
    prompt: PromptHash,
    sample: u32,
    temperature: f64,
    seed: u64,
    generated: Generated,
) -> Result<Candidate, Error> {
    let text = text_of(model, &generated)?;
    let finish = match generated.finish {
        model::Finish::Stop => Finish::Stop,
        model::Finish::Length => Finish::Length,
    };
    let strategy = format!("temperature={temperature}");
    let Generated { tokens, logprobs, .. } = generated;
    Ok(Candidate {
        prompt,
        sample,
        strategy,
        seed,
        tokens,
        text,
        logprobs,
        finish,
        reward: None,
        components: Vec::new(),
    })
}
