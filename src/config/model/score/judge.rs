//! Scorers by model and by users: a judge, a reward model, feedback.

use super::super::Endpoint;
use super::scorer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens once a judge's budget is spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Spent {
    /// Scoring fails; what was judged is in the cache.
    #[default]
    Fail,
    /// The rest has no verdict.
    LeaveOut,
}

scorer! {
    /// A language model that judges by a rubric. Its verdict is JSON, strictly read, asked for once more where it is not;
    /// a response that then has no verdict gets what its prompt's other samples got on average.
    JudgeScore {
        /// Where the judge answers. Either this or `model`.
        #[serde(default)]
        endpoint: Option<Endpoint>,
        /// A model on this machine: a folder or a `.gguf` file.
        #[serde(default)]
        model: Option<String>,
        /// What makes an answer good, in words; the judge gets it with question and answer.
        #[schemars(length(min = 1))]
        rubric: String,
        /// The best score on the judge's scale, which begins at 1. Default: 5.
        #[serde(default = "JudgeScore::default_scale_max")]
        #[schemars(range(min = 2, max = 100))]
        scale_max: u32,
        /// Whether samples of a prompt are compared in pairs, each pair in both orders, instead of scored by themselves. The
        /// gate, `pelton eval` and prompts with one distinct sample score by themselves all the same. Default: false.
        #[serde(default)]
        pairs: bool,
        /// Samples that each is compared with, where `pairs` is set. Default: 2.
        #[serde(default = "JudgeScore::default_opponents")]
        #[schemars(range(min = 1, max = 64))]
        opponents: usize,
        /// The longest verdict in tokens. Default: 256.
        #[serde(default = "JudgeScore::default_tokens_max")]
        #[schemars(range(min = 8))]
        tokens_max: usize,
        /// A file that keeps verdicts by the hash of what was asked, so that nothing is asked and paid for twice, in a
        /// cycle that goes on after a crash neither. Default: none, verdicts are kept while the process lives.
        #[serde(default)]
        cache: Option<String>,
        /// The share of responses that may go without a verdict; more fails the scoring with what the judge said instead.
        /// Default: 0.2.
        #[serde(default = "JudgeScore::default_without_share_max")]
        #[schemars(range(min = 0.0, max = 1.0))]
        without_share_max: f64,
        /// `fail` or `leave_out`: what happens once the endpoint's budget is spent. Default: `fail`.
        #[serde(default)]
        when_spent: Spent,
    }
}

impl JudgeScore {
    fn default_scale_max() -> u32 {
        5
    }
    fn default_opponents() -> usize {
        2
    }
    fn default_tokens_max() -> usize {
        256
    }
    fn default_without_share_max() -> f64 {
        0.2
    }
}

scorer! {
    /// A sequence classifier with one label as reward model; its score goes through a logistic function.
    RewardModelScore {
        /// A folder with `config.json`, safetensors (`score.weight` among them) and `tokenizer.json`.
        #[schemars(length(min = 1))]
        model: String,
        /// What a score is divided by before the logistic function. Default: 1.
        #[serde(default = "super::one")]
        #[schemars(range(min = 0.000_001))]
        scale: f64,
        /// The score that becomes 0.5. Default: 0.
        #[serde(default)]
        middle: f64,
    }
}

scorer! {
    /// What users said of the same answer, or nearly the same, to the same prompt; no verdict where they said nothing.
    FeedbackScore {
        /// How much of two answers' words must be the same for feedback on one to count for the other. Default: 0.9.
        #[serde(default = "FeedbackScore::default_similarity_min")]
        #[schemars(range(min = 0.0, max = 1.0))]
        similarity_min: f64,
    }
}

impl FeedbackScore {
    fn default_similarity_min() -> f64 {
        0.9
    }
}
