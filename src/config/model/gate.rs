//! When a version is promoted: the section `[models.NAME.gate]`.

use super::{JudgeScore, Score};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When a version is promoted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// The confidence of the paired bootstrap interval. Default: 0.95.
    #[schemars(range(min = 0.5, max = 0.999))]
    pub confidence: f64,
    /// Bootstrap resamples. Default: 10,000.
    #[schemars(range(min = 100, max = 1_000_000))]
    pub resamples: u32,
    /// The interval's lower end must be above this gain in reward. Default: 0.
    #[schemars(range(min = -1.0, max = 1.0))]
    pub gain_min: f64,
    /// Fewer holdout prompts than this prove nothing. Default: 30.
    #[schemars(range(min = 2))]
    pub prompts_min: usize,
    /// Scorers that the training does not see, for the comparison that decides: a reward that was maximised is no proof.
    /// Default: none, the training's own, without agreement among samples.
    pub score: Option<Score>,
    /// The factor by which answers may become longer or shorter, in words. Default: none, no condition; a factor above 1.5 is
    /// warned of in the report all the same.
    #[schemars(range(min = 1.0))]
    pub length_ratio_max: Option<f64>,
    /// How far the version may be from the original base, in nats a token (KL divergence over its own samples). Default: none,
    /// no condition; more than 1 is warned of in the report all the same.
    #[schemars(range(min = 0.0))]
    pub kl_to_base_max: Option<f64>,
    /// The factor by which an answer may take longer, in tokens: with any adapter of a base a token takes the same time.
    /// Default: none, no condition.
    #[schemars(range(min = 1.0))]
    pub latency_ratio_max: Option<f64>,
    /// By how much the share of answers that refuse, or are empty, may rise. Default: none, no condition; a rise by more than 0.1
    /// is warned of in the report all the same.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub refusal_rise_max: Option<f64>,
    /// The share of holdout prompts that the scorers may have no verdict on: those are not compared. Default: 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub unjudged_share_max: f64,
    /// A judge who sees both answers, each pair in both orders. Default: none.
    pub win_rate: Option<WinRate>,
    /// Whether each further comparison since the last promotion has to be surer: the k-th counts with a confidence of
    /// `1 - (1 - confidence) / k²`, so that all together are wrong no more often than 1.65 times as one. Default: true.
    pub multiple_testing: bool,
    /// Pinned suites of prompts, by name, that the challenger must not answer worse. Default: none.
    pub suites: BTreeMap<String, Suite>,
}

/// How often the challenger's answer is preferred to the champion's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WinRate {
    /// Who judges, and by what rubric.
    pub judge: JudgeScore,
    /// The lower end of the interval of the challenger's share of wins must be above this, where a tie is half a win. Default:
    /// none, it is only reported.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share_min: Option<f64>,
}

/// A pinned suite of prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The file: JSON lines with `prompt` or `messages`, and optionally `truth`, `document` or `schema`.
    #[schemars(length(min = 1))]
    pub path: String,
    /// By how much the mean reward on it may fall. Default: 0.02.
    #[serde(default = "Suite::regression_max")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub regression_max: f64,
    /// What scores it, such as `{ answer = { kind = "exact" } }` for answers with a truth. Default: the gate's scorers.
    #[serde(default)]
    pub score: Option<Score>,
}

impl Suite {
    fn regression_max() -> f64 {
        0.02
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            confidence: 0.95,
            resamples: 10_000,
            gain_min: 0.0,
            prompts_min: 30,
            score: None,
            length_ratio_max: None,
            kl_to_base_max: None,
            latency_ratio_max: None,
            refusal_rise_max: None,
            unjudged_share_max: 0.2,
            win_rate: None,
            multiple_testing: true,
            suites: BTreeMap::new(),
        }
    }
}
