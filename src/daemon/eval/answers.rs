//! Who answers: a model on this machine, an endpoint, or a file of answers.

use super::prompts::Asked;
use crate::config::{self, Explore};
use crate::domain::{ChatMessage, Finish, Prompt, PromptHash, Timestamp};
use crate::model::{Lora, Model};
use crate::tao::endpoint::{Chat, Endpoint};
use crate::tao::{Progress, Watch, explore, rng_seed};
use anyhow::{Result, bail};
use std::collections::HashMap;

/// Prompts answered between two looks at the cancellation flag.
const PROMPTS_PER_CALL: usize = 32;

/// How answers are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Answers a prompt.
    pub samples: u32,
    /// The temperature; 0 takes the most probable token each time.
    pub temperature: f64,
    /// The longest answer in tokens.
    pub tokens_max: usize,
    /// Sequences that are generated together.
    pub batch_rows: usize,
}

/// One answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answered {
    /// The text; absent where there is none.
    pub text: Option<String>,
    /// Its tokens, where they are known.
    pub tokens: Option<u32>,
    /// Whether it reached the limit.
    pub truncated: bool,
    /// Why there is none.
    pub problem: Option<String>,
}

/// Who answers.
pub enum Answerer {
    /// A model on this machine.
    Local {
        /// Its name in the report.
        name: String,
        /// The base.
        model: Box<Model>,
        /// The version's adapter.
        adapter: Option<Lora>,
    },
    /// An endpoint.
    Endpoint(Box<Endpoint>),
    /// The prompts bring their answers.
    Given(String),
}

impl Answerer {
    /// An endpoint with its settings.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn endpoint(settings: &config::Endpoint) -> Result<Self> {
        Ok(Self::Endpoint(Box::new(Endpoint::open(settings)?)))
    }

    /// The name in reports.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Local { name, .. } | Self::Given(name) => name,
            Self::Endpoint(endpoint) => endpoint.model(),
        }
    }

    /// All answers to each prompt, in the prompts' order.
    pub(super) fn answer(
        &self,
        prompts: &[Asked],
        sampling: &Sampling,
        seed: u64,
        watch: &Watch<'_>,
    ) -> Result<Vec<Vec<Answered>>> {
        match self {
            Self::Given(_) => {
                let one = |p: &Asked| vec![Answered { text: p.answer.clone(), ..Answered::default() }];
                Ok(prompts.iter().map(one).collect())
            }
            Self::Endpoint(endpoint) => by_endpoint(endpoint, prompts, sampling, seed, watch),
            Self::Local { model, adapter, .. } => by_model(model, adapter.as_ref(), prompts, sampling, seed, watch),
        }
    }
}

fn by_endpoint(
    endpoint: &Endpoint,
    prompts: &[Asked],
    sampling: &Sampling,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<Vec<Vec<Answered>>> {
    let chat = |asked: &Asked| Chat {
        n: sampling.samples,
        temperature: sampling.temperature,
        seed: Some(rng_seed(&[seed, PromptHash::of(&asked.messages).low()])),
        ..Chat::new(asked.messages.clone(), sampling.tokens_max)
    };
    let replies = endpoint.ask_all("answer", &prompts.iter().map(chat).collect::<Vec<_>>(), watch);
    if let (true, Some(Err(error))) = (replies.iter().all(Result::is_err), replies.first()) {
        bail!("no prompt was answered: {error}");
    }
    let answers = |reply: Result<crate::tao::endpoint::Reply, crate::tao::endpoint::Error>| match reply {
        Err(error) => vec![Answered { problem: Some(error.to_string()), ..Answered::default() }],
        Ok(reply) => {
            // The server counts all of a prompt's answers together.
            let alone = (reply.choices.len() == 1).then(|| u32::try_from(reply.usage.answer_tokens).ok()).flatten();
            let answer = |c: crate::tao::endpoint::Choice| Answered {
                truncated: c.ending == crate::tao::endpoint::Ending::Length,
                text: Some(c.text),
                tokens: alone,
                problem: None,
            };
            reply.choices.into_iter().map(answer).collect()
        }
    };
    Ok(replies.into_iter().map(answers).collect())
}

fn by_model(
    model: &Model,
    adapter: Option<&Lora>,
    prompts: &[Asked],
    sampling: &Sampling,
    seed: u64,
    watch: &Watch<'_>,
) -> Result<Vec<Vec<Answered>>> {
    let limits = Explore { tokens_max: sampling.tokens_max, batch_rows: sampling.batch_rows, ..Explore::default() };
    // Exploring compares samples, so it draws two at least; what is over is not looked at.
    let options = Explore { samples: sampling.samples.max(2), temperatures: vec![sampling.temperature], ..limits };
    let all: Vec<Prompt> = prompts.iter().map(as_prompt).collect();
    let encoded = explore::encode(model, &all, sampling.tokens_max)?;
    let long = |_: &Asked| Answered {
        problem: Some(format!(
            "the prompt and {} tokens of answer do not fit the model's {} positions",
            sampling.tokens_max,
            model.config().max_position_embeddings
        )),
        ..Answered::default()
    };
    let fitting: Vec<usize> = (0..all.len()).filter(|&i| encoded.tokens.contains_key(&all[i].hash)).collect();
    let mut answers: Vec<Vec<Answered>> = prompts.iter().map(|p| vec![long(p)]).collect();
    let mut done = 0;
    for some in fitting.chunks(PROMPTS_PER_CALL) {
        if watch.is_cancelled() {
            bail!("cancelled after {done} prompts");
        }
        if sampling.temperature == 0.0 {
            let conversations: Vec<Vec<ChatMessage>> = some.iter().map(|&i| prompts[i].messages.clone()).collect();
            let texts = explore::answer_greedily(model, adapter, &conversations, &options)?;
            for (&i, (text, tokens)) in some.iter().zip(texts) {
                let truncated = tokens as usize >= sampling.tokens_max;
                answers[i] = vec![Answered { text: Some(text), tokens: Some(tokens), truncated, problem: None }];
            }
        } else {
            let chosen: Vec<Prompt> = some.iter().map(|&i| all[i].clone()).collect();
            let quiet = |_: Progress| {};
            let explored = explore::explore(model, adapter, &chosen, &options, seed, &watch.with(&quiet))?;
            let mut drawn: HashMap<PromptHash, Vec<Answered>> = HashMap::new();
            for c in explored.candidates.into_iter().filter(|c| c.sample < sampling.samples) {
                drawn.entry(c.prompt).or_default().push(Answered {
                    truncated: c.finish == Finish::Length,
                    tokens: u32::try_from(c.tokens.len()).ok(),
                    text: Some(c.text),
                    problem: None,
                });
            }
            for &i in some {
                answers[i] = drawn.get(&all[i].hash).cloned().unwrap_or_default();
            }
        }
        done += some.len();
        watch.report(Progress { what: "answer", done, total: fitting.len() });
    }
    Ok(answers)
}

fn as_prompt(asked: &Asked) -> Prompt {
    Prompt {
        request_id: asked.id.clone(),
        hash: PromptHash::of(&asked.messages),
        messages: asked.messages.clone(),
        request_time: Timestamp::EPOCH,
    }
}
