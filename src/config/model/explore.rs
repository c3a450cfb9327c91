//! How responses are sampled: the section `[models.NAME.explore]`.

use super::Endpoint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How responses are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Explore {
    /// Responses a prompt. Default: 8.
    #[schemars(range(min = 2, max = 1024))]
    pub samples: u32,
    /// Temperatures, used in turn over a prompt's samples. Default: 1.0.
    #[schemars(inner(range(min = 0.01, max = 5.0)))]
    pub temperatures: Vec<f64>,
    /// The longest response in tokens. Default: 256.
    #[schemars(range(min = 1))]
    pub tokens_max: usize,
    /// Sequences that are generated together. Default: 64.
    #[schemars(range(min = 1))]
    pub batch_rows: usize,
    /// Texts that end a response, beside the model's own end; what begins with one is cut off. Default: none.
    #[schemars(inner(length(min = 1)))]
    pub stop: Vec<String>,
    /// Ways to explore and their shares of a prompt's samples. Default: none, all samples are plain.
    pub strategies: Vec<Strategy>,
}

impl Default for Explore {
    fn default() -> Self {
        Self {
            samples: 8,
            temperatures: vec![1.0],
            tokens_max: 256,
            batch_rows: 64,
            stop: Vec::new(),
            strategies: Vec::new(),
        }
    }
}

/// How some of a prompt's samples come about. Whatever the way, the response is trained under the plain prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Strategy {
    /// `plain`, `chain_of_thought`, `structured`, `few_shot`, `champion` or `endpoint`. Default: `plain`.
    pub kind: StrategyKind,
    /// Its part of a prompt's samples, in relation to the other strategies' shares. Default: 1.
    #[schemars(range(min = 0.0))]
    pub share: f64,
    /// Chain of thought and structured: what is put behind the question. Default: a text that asks for steps, or for
    /// sections, and for the answer behind `answer_after`.
    pub instruction: Option<String>,
    /// Chain of thought and structured: the answer is what stands behind the last of this. Default: `FINAL ANSWER:`.
    #[schemars(length(min = 1))]
    pub answer_after: String,
    /// Chain of thought and structured: the longest response in tokens, what is thought included. Default: four times
    /// explore's `tokens_max`.
    pub tokens_max: Option<usize>,
    /// Few-shot: past questions with their answers before the question. Default: 3.
    #[schemars(range(min = 1, max = 64))]
    pub examples: usize,
    /// Few-shot: only answers of earlier cycles with this reward at least. Default: 0.8.
    pub reward_min: f64,
    /// Endpoint: the model that answers, served elsewhere.
    pub endpoint: Option<Endpoint>,
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            kind: StrategyKind::Plain,
            share: 1.0,
            instruction: None,
            answer_after: "FINAL ANSWER:".to_owned(),
            tokens_max: None,
            examples: 3,
            reward_min: 0.8,
            endpoint: None,
        }
    }
}

/// The ways to explore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StrategyKind {
    /// The prompt as it is.
    Plain,
    /// The model is asked to think in steps; its final answer is kept.
    ChainOfThought,
    /// The model is asked to work in named sections; its final answer is kept.
    Structured,
    /// Similar questions with good answers from earlier cycles stand before the question.
    FewShot,
    /// The version that serves now answers, not the one that trains.
    Champion,
    /// A model behind an OpenAI-compatible API answers.
    Endpoint,
}

impl StrategyKind {
    /// The name in the configuration and in the table `candidate`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::ChainOfThought => "chain_of_thought",
            Self::Structured => "structured",
            Self::FewShot => "few_shot",
            Self::Champion => "champion",
            Self::Endpoint => "endpoint",
        }
    }
}
