//! One sampled response and what it earned.

use super::hash::PromptHash;

/// Why a sampled response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// It reached the token limit; its text is truncated.
    Length,
}

impl Finish {
    /// The reason as OpenAI's API and the table name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// One named part of a reward.
#[derive(Debug, Clone, PartialEq)]
pub struct Component {
    /// The scorer's name for it, such as `executes`.
    pub name: String,
    /// Its value.
    pub value: f64,
}

/// One response that exploration sampled for one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The prompt.
    pub prompt: PromptHash,
    /// The number of the sample among the prompt's samples, from 0.
    pub sample: u32,
    /// How it was explored, such as `temperature=0.8`.
    pub strategy: String,
    /// The seed that drew it.
    pub seed: u64,
    /// The response's tokens, the end token included where the model gave one.
    pub tokens: Vec<u32>,
    /// The response's text.
    pub text: String,
    /// Natural-log probability of each token under the behaviour policy at temperature 1, for the plain prompt.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// The reward; absent until it is scored.
    pub reward: Option<f64>,
    /// The reward's parts.
    pub components: Vec<Component>,
}

impl Candidate {
    /// The sequence's log-probability under the behaviour policy, in nats.
    #[must_use]
    pub fn logprob(&self) -> f64 {
        self.logprobs.iter().map(|&l| f64::from(l)).sum()
    }
}
