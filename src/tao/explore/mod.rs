//! Samples responses to prompts, in the ways that the configuration mixes, and answers greedily for evaluation.
//!
//! Promises that a response depends on the model, its prompt, its temperature and its own seed alone, and that the seed
//! is a function of (cycle seed, round, prompt, sample): the same cycle explores the same responses, whatever the
//! order, batch or number of threads. Log-probabilities are those of the policy at temperature 1 under the plain prompt,
//! which training regresses on, not those of the tempered draw, nor those under an augmented prompt. What an endpoint
//! answers depends on the endpoint. Never scores.

mod block;
mod draw;
pub mod strategy;

use super::endpoint;
use super::{Progress, Watch};
use crate::config::Explore;
use crate::domain::{Candidate, ChatMessage, Finish, Prompt, PromptHash};
use crate::model::{self, Decoder, Generated, GenerationOptions, GenerationRequest, Lora, Model, PerSample};
use draw::Round;
use std::collections::HashMap;
pub use strategy::PastAnswer;

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
    /// An endpoint answers nothing at all, or cannot be used.
    #[error("exploring by an endpoint failed")]
    Endpoint(#[from] endpoint::Error),
    /// What was explored so far could not be kept.
    #[error("the responses explored so far could not be kept")]
    Save(#[source] super::SaveError),
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
    /// Samples that gave no response: nothing behind the marker of the final answer, or no answer from an endpoint.
    pub without_answer: usize,
    /// Prompts that an earlier, killed run had explored.
    pub resumed: usize,
}

/// Who draws.
#[derive(Clone, Copy)]
pub struct Policies<'a> {
    /// The base.
    pub model: &'a Model,
    /// The adapter that trains; absent for the base itself.
    pub adapter: Option<&'a Lora>,
    /// The adapter that serves now, for the strategy `champion`; absent for none, and the plain way is taken.
    pub champion: Option<&'a Lora>,
    /// Good answers of earlier cycles, for the strategy `few_shot`; where there is none, the plain way is taken.
    pub past: &'a [PastAnswer],
}

/// Prompts as the model reads them.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// The tokens of each prompt that fits, up to where the answer begins.
    pub tokens: HashMap<PromptHash, Vec<u32>>,
    /// The prompts that do not fit.
    pub too_long: Vec<PromptHash>,
}

/// Samples every prompt from one policy.
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
    explore_by(Policies { model, adapter, champion: None, past: &[] }, prompts, options, seed, watch)
}

/// Samples every prompt in the ways that the options mix. Where `watch` keeps work, what a killed run had explored is
/// taken as it is.
///
/// # Errors
/// [`Error`].
pub fn explore_by(
    policies: Policies<'_>,
    prompts: &[Prompt],
    options: &Explore,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<Explored, Error> {
    check(options)?;
    let Encoded { tokens: prompt_tokens, too_long } = encode(policies.model, prompts, options.tokens_max)?;
    let fitting: Vec<&Prompt> = prompts.iter().filter(|p| prompt_tokens.contains_key(&p.hash)).collect();
    let round = Round::new(policies, &prompt_tokens, options, seed, watch)?;
    let mut kept = block::Kept::open(watch, block::fingerprint(policies, prompts, options, seed)?);
    let (mut candidates, mut without_answer) = (Vec::new(), 0);
    let mut at = 0;
    while let Some(block) = kept.next(at, fitting.len())? {
        at = block.until;
        without_answer += block.without_answer;
        candidates.extend(block.candidates);
    }
    let resumed = at;
    for some in fitting[at..].chunks(PROMPTS_PER_CALL) {
        if watch.is_cancelled() {
            return Err(Error::Cancelled { prompts: at });
        }
        let drawn = round.sample(some)?;
        at += some.len();
        without_answer += drawn.without_answer;
        kept.add(at, &drawn)?;
        candidates.extend(drawn.candidates);
        watch.report(Progress { what: "explore", done: at, total: fitting.len() });
    }
    let truncated = candidates.iter().filter(|c| c.finish == Finish::Length).count();
    Ok(Explored { candidates, prompt_tokens, too_long, truncated, without_answer, resumed })
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
    let ends = ends(model, &options.stop);
    let each = PerSample { temperature: None, ends: stops_by_text(options).then_some(&ends) };
    let answers = decoder.generate_each(&requests, &generation(model, 0.0, options), each)?;
    let text = |g: &Generated| Ok((text_of(model, g, options)?, u32::try_from(g.tokens.len()).unwrap_or(u32::MAX)));
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
    let shares = options.strategies.iter().map(|s| s.share);
    if !options.strategies.is_empty() && shares.sum::<f64>() <= 0.0 {
        return Err(Error::Options("`strategies` need a share above 0"));
    }
    if options.stop.iter().any(String::is_empty) {
        return Err(Error::Options("`stop` holds an empty text, which would end every response at once"));
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

/// A response's text, without what begins with a stop text.
fn text_of(model: &Model, generated: &Generated, options: &Explore) -> Result<String, Error> {
    let text = model.decode(&generated.tokens)?;
    Ok(if stops_by_text(options) { strategy::cut(&text, &options.stop).to_owned() } else { text })
}

fn stops_by_text(options: &Explore) -> bool {
    !options.stop.is_empty()
}

/// Whether tokens end with a stop text. It may cross the borders of tokens, so that the end of the text is looked at: as
/// many tokens as the longest stop text has bytes, and some more, because a token of a text has a byte at least.
fn ends<'a>(model: &'a Model, stops: &'a [String]) -> impl Fn(&[u32]) -> bool + Sync + 'a {
    let window = stops.iter().map(String::len).max().unwrap_or(0) + 8;
    move |tokens| {
        let text = model.decode(&tokens[tokens.len().saturating_sub(window)..]).unwrap_or_default();
        stops.iter().any(|stop| text.contains(stop.as_str()))
    }
}
