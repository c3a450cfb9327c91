//! Draws all samples of some prompts: which way each takes, the calls, and what becomes a candidate.

use super::strategy::{assigned, cut, final_answer, instructed, with_examples};
use super::{Error, Policies, adapted, chat_tokens, end_token, ends, generation, stops_by_text, text_of};
use crate::config::{Explore, Strategy, StrategyKind};
use crate::domain::{Candidate, Finish, Prompt, PromptHash};
use crate::model::{self, Decoder, Generated, GenerationRequest, Model, PerSample, PromptGroup};
use crate::tao::endpoint::{self, Chat, Ending, Endpoint};
use crate::tao::{Watch, rng_seed};
use std::collections::{BTreeMap, HashMap};

/// What sampling some prompts gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Drawn {
    /// In the order of prompts and samples.
    pub(super) candidates: Vec<Candidate>,
    /// Samples that gave none.
    pub(super) without_answer: usize,
}

/// One round of exploration: the policies arranged to draw.
pub(super) struct Round<'a> {
    model: &'a Model,
    policies: Policies<'a>,
    plain: &'a HashMap<PromptHash, Vec<u32>>,
    options: &'a Explore,
    seed: u64,
    watch: &'a Watch<'a>,
    decoder: Decoder,
    champion: Option<Decoder>,
    /// By strategy, where it is an endpoint.
    endpoints: HashMap<usize, Endpoint>,
    /// By sample.
    assigned: Vec<usize>,
    end: Option<u32>,
}

/// Who draws a sample, and how long it may be: samples that are alike in this are drawn in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    champion: bool,
    tokens_max: usize,
}

/// One sample before it is drawn.
struct Job<'a> {
    prompt: &'a Prompt,
    number: u32,
    temperature: f64,
    seed: u64,
    strategy: Option<&'a Strategy>,
    /// The tokens that it is drawn under.
    tokens: Vec<u32>,
}

impl<'a> Round<'a> {
    pub(super) fn new(
        policies: Policies<'a>,
        plain: &'a HashMap<PromptHash, Vec<u32>>,
        options: &'a Explore,
        seed: u64,
        watch: &'a Watch<'a>,
    ) -> Result<Self, Error> {
        let model = policies.model;
        let mut endpoints = HashMap::new();
        for (index, strategy) in options.strategies.iter().enumerate() {
            if let (StrategyKind::Endpoint, Some(settings)) = (strategy.kind, &strategy.endpoint) {
                endpoints.insert(index, Endpoint::open(settings)?);
            }
        }
        Ok(Self {
            model,
            decoder: adapted(model, policies.adapter)?,
            champion: policies.champion.map(|lora| adapted(model, Some(lora))).transpose()?,
            assigned: assigned(&options.strategies, options.samples),
            end: end_token(model)?,
            policies,
            plain,
            options,
            seed,
            watch,
            endpoints,
        })
    }

    /// All samples of some prompts.
    pub(super) fn sample(&self, prompts: &[&Prompt]) -> Result<Drawn, Error> {
        let mut calls: BTreeMap<Call, Vec<Job<'_>>> = BTreeMap::new();
        let mut asked: BTreeMap<usize, Vec<Job<'_>>> = BTreeMap::new();
        for prompt in prompts {
            for number in 0..self.options.samples {
                let index = self.assigned.get(number as usize).copied();
                match index.filter(|index| self.endpoints.contains_key(index)) {
                    Some(index) => asked.entry(index).or_default().push(self.plain_job(prompt, number, Some(index))),
                    None => {
                        let (call, job) = self.job(prompt, number, index)?;
                        calls.entry(call).or_default().push(job);
                    }
                }
            }
        }
        let mut drawn = Drawn::default();
        for (call, jobs) in &calls {
            drawn.add(self.generate(*call, jobs)?);
        }
        for (index, jobs) in &asked {
            drawn.add(self.ask(&self.endpoints[index], jobs)?);
        }
        let order: HashMap<PromptHash, usize> = prompts.iter().enumerate().map(|(i, p)| (p.hash, i)).collect();
        drawn.candidates.sort_by_key(|c| (order[&c.prompt], c.sample));
        Ok(drawn)
    }

    /// The sample under the plain prompt.
    fn plain_job<'j>(&'j self, prompt: &'j Prompt, number: u32, index: Option<usize>) -> Job<'j> {
        let rungs = &self.options.temperatures;
        Job {
            prompt,
            number,
            temperature: rungs[number as usize % rungs.len()],
            seed: rng_seed(&[self.seed, prompt.hash.low(), u64::from(number)]),
            strategy: index.map(|index| &self.options.strategies[index]).filter(|s| s.kind != StrategyKind::Plain),
            tokens: self.plain[&prompt.hash].clone(),
        }
    }

    /// The sample as its strategy wants it; the plain way where the strategy has nothing to work with, or where its longer
    /// prompt and response do not fit the model's positions.
    fn job<'j>(&'j self, prompt: &'j Prompt, number: u32, index: Option<usize>) -> Result<(Call, Job<'j>), Error> {
        let plain = self.plain_job(prompt, number, index);
        let call = Call { champion: false, tokens_max: self.options.tokens_max };
        let Some(strategy) = plain.strategy else { return Ok((call, plain)) };
        let longer = strategy.tokens_max.unwrap_or(4 * self.options.tokens_max);
        let (call, messages) = match strategy.kind {
            StrategyKind::Champion if self.champion.is_some() => return Ok((Call { champion: true, ..call }, plain)),
            StrategyKind::ChainOfThought | StrategyKind::Structured => {
                (Call { tokens_max: longer, ..call }, Some(instructed(&prompt.messages, strategy)))
            }
            StrategyKind::FewShot => {
                (call, with_examples(prompt.hash, &prompt.messages, self.policies.past, strategy, plain.seed))
            }
            StrategyKind::Plain | StrategyKind::Champion | StrategyKind::Endpoint => (call, None),
        };
        let tokens = messages.map(|messages| chat_tokens(self.model, &messages)).transpose()?;
        let positions = self.model.config().max_position_embeddings;
        match tokens.filter(|tokens| tokens.len() + call.tokens_max <= positions) {
            Some(tokens) => Ok((call, Job { tokens, ..plain })),
            None => {
                Ok((Call { champion: false, tokens_max: self.options.tokens_max }, Job { strategy: None, ..plain }))
            }
        }
    }

    /// One call: samples of the same prompt share its computation, whatever their temperatures.
    fn generate(&self, call: Call, jobs: &[Job<'_>]) -> Result<Drawn, Error> {
        let mut requests: Vec<GenerationRequest> = Vec::new();
        let mut members: Vec<Vec<usize>> = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            let same = requests.last().is_some_and(|r| r.prompt == job.tokens);
            if !same {
                requests.push(GenerationRequest { prompt: job.tokens.clone(), seeds: Vec::new() });
                members.push(Vec::new());
            }
            if let (Some(request), Some(own)) = (requests.last_mut(), members.last_mut()) {
                request.seeds.push(job.seed);
                own.push(index);
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
        let temperature = |request: usize, sample: usize| jobs[members[request][sample]].temperature as f32;
        let ends = ends(self.model, &self.options.stop);
        let each = PerSample { temperature: Some(&temperature), ends: stops_by_text(self.options).then_some(&ends) };
        let settings =
            model::GenerationOptions { new_tokens_max: call.tokens_max, ..generation(self.model, 1.0, self.options) };
        let decoder = if call.champion { self.champion.as_ref().unwrap_or(&self.decoder) } else { &self.decoder };
        let answers = decoder.generate_each(&requests, &settings, each)?;
        let (mut drawn, mut finals) = (Drawn::default(), Vec::new());
        for (index, generated) in members.into_iter().flatten().zip(answers.into_iter().flatten()) {
            let job = &jobs[index];
            let text = text_of(self.model, &generated, self.options)?;
            match job.strategy {
                Some(s) if matches!(s.kind, StrategyKind::ChainOfThought | StrategyKind::Structured) => {
                    match final_answer(&text, &s.answer_after) {
                        Some(answer) => finals.push(self.given(job, answer, finish_of(&generated))?),
                        None => drawn.without_answer += 1,
                    }
                }
                // Its examples are not there in training: what it said counts as said under the plain prompt.
                Some(s) if s.kind == StrategyKind::FewShot => {
                    finals.push(Candidate { tokens: generated.tokens.clone(), ..own(job, text, &generated) });
                }
                _ => drawn.candidates.push(own(job, text, &generated)),
            }
        }
        self.take_logprobs(&mut finals)?;
        drawn.candidates.extend(finals);
        Ok(drawn)
    }

    /// One call to an endpoint a sample. An answer that does not come is one sample less; none at all is an error.
    fn ask(&self, endpoint: &Endpoint, jobs: &[Job<'_>]) -> Result<Drawn, Error> {
        let chat = |job: &Job<'_>| Chat {
            temperature: job.temperature,
            seed: Some(job.seed),
            stop: self.options.stop.clone(),
            ..Chat::new(job.prompt.messages.clone(), self.options.tokens_max)
        };
        let chats: Vec<Chat> = jobs.iter().map(chat).collect();
        // Progress is counted in prompts, by the caller.
        let watch = Watch { progress: &|_| {}, ..*self.watch };
        let (mut drawn, mut answers, mut failed) = (Drawn::default(), Vec::new(), None);
        for (job, reply) in jobs.iter().zip(endpoint.ask_all("explore", &chats, &watch)) {
            match reply.map(|reply| reply.choices.into_iter().next()) {
                Ok(Some(choice)) if choice.ending != Ending::Other("content_filter".to_owned()) => {
                    let finish = if choice.ending == Ending::Length { Finish::Length } else { Finish::Stop };
                    answers.push(self.given(job, cut(&choice.text, &self.options.stop).to_owned(), finish)?);
                }
                Ok(_) => drawn.without_answer += 1,
                Err(endpoint::Error::Cancelled) => return Err(Error::Cancelled { prompts: 0 }),
                Err(error) => {
                    drawn.without_answer += 1;
                    failed = Some(error);
                }
            }
        }
        if let (true, Some(error)) = (answers.is_empty(), failed) {
            return Err(error.into());
        }
        self.take_logprobs(&mut answers)?;
        drawn.candidates = answers;
        Ok(drawn)
    }

    /// A text that was not drawn under the plain prompt, as tokens that end as the model ends; its log-probabilities are
    /// still to be taken.
    fn given(&self, job: &Job<'_>, text: String, finish: Finish) -> Result<Candidate, Error> {
        let mut tokens = self.model.encode(&text)?;
        let room = self.options.tokens_max.saturating_sub(usize::from(self.end.is_some()));
        let finish = if tokens.len() > room { Finish::Length } else { finish };
        tokens.truncate(room);
        if finish == Finish::Stop {
            tokens.extend(self.end);
        }
        let (prompt, sample, seed) = (job.prompt.hash, job.number, job.seed);
        let (strategy, reward) = (job.strategy_text(), None);
        let (logprobs, components) = (Vec::new(), Vec::new());
        Ok(Candidate { prompt, sample, strategy, seed, tokens, text, logprobs, finish, reward, components })
    }

    /// The log-probabilities of candidates under the plain prompt, by the policy that trains.
    fn take_logprobs(&self, candidates: &mut [Candidate]) -> Result<(), Error> {
        for some in candidates.chunks_mut(self.options.batch_rows.max(1)) {
            let group = |c: &Candidate| PromptGroup {
                prompt: self.plain[&c.prompt].clone(),
                completions: vec![c.tokens.clone()],
            };
            let packed: Vec<PromptGroup> = some.iter().map(group).collect();
            for (candidate, logprobs) in some.iter_mut().zip(self.decoder.logprobs(&packed, 1.0)?) {
                candidate.logprobs = logprobs;
            }
        }
        Ok(())
    }
}

impl Drawn {
    fn add(&mut self, other: Self) {
        self.candidates.extend(other.candidates);
        self.without_answer += other.without_answer;
    }
}

impl Job<'_> {
    /// How it is explored, as the table says it.
    fn strategy_text(&self) -> String {
        let ladder = format!("temperature={}", self.temperature);
        self.strategy.map_or_else(|| ladder.clone(), |s| format!("{} {ladder}", s.kind.as_str()))
    }
}

/// A sample that was drawn under the plain prompt.
fn own(job: &Job<'_>, text: String, generated: &Generated) -> Candidate {
    Candidate {
        prompt: job.prompt.hash,
        sample: job.number,
        strategy: job.strategy_text(),
        seed: job.seed,
        tokens: generated.tokens.clone(),
        text,
        logprobs: generated.logprobs.clone(),
        finish: finish_of(generated),
        reward: None,
        components: Vec::new(),
    }
}

fn finish_of(generated: &Generated) -> Finish {
    match generated.finish {
        model::Finish::Stop => Finish::Stop,
        model::Finish::Length => Finish::Length,
    }
}
