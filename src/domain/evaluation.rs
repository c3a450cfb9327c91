//! Champion against challenger on the holdout.

use super::hash::PromptHash;

/// One answer to a holdout prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The gate's score, without labels.
    pub reward: f64,
    /// Whether it is right, where the truth is known.
    pub correct: Option<bool>,
    /// Tokens of the answer.
    pub tokens: u32,
}

/// Both answers to one holdout prompt: a row of `evaluation`.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The prompt.
    pub prompt: PromptHash,
    /// Its last user turn.
    pub question: String,
    /// The slice of the traffic that it belongs to: the window's `stratum`, where it has one.
    pub slice: Option<String>,
    /// The answer of the version that serves now (the base, if none was promoted).
    pub champion: Answer,
    /// The answer of the version that was just tuned.
    pub challenger: Answer,
}

/// A mean of paired differences with its bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The mean difference, challenger minus champion.
    pub mean: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// The gate's decision and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every condition held.
    Promote,
    /// The conditions that did not hold, each as a sentence with its figures.
    Reject(Vec<String>),
}

impl Verdict {
    /// Whether the challenger becomes champion.
    #[must_use]
    pub fn is_promote(&self) -> bool {
        matches!(self, Self::Promote)
    }
}

/// A figure of champion and challenger.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sides {
    /// The version that serves now.
    pub champion: f64,
    /// The version that was just tuned.
    pub challenger: f64,
}

/// Signs of a reward that was hacked instead of earned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Guards {
    /// Words an answer.
    pub words: Sides,
    /// The share of an answer's runs of four words that it has said before.
    pub repetition: Sides,
    /// The largest share of prompts that were given one and the same answer.
    pub constant_share: Sides,
    /// The challenger's distance from the original base in nats a token, where it was measured.
    pub kl_to_base: Option<f64>,
    /// The gain on the same answers by the scorers that training maximised, where the gate has others.
    pub training_gain: Option<Interval>,
    /// The training's mean reward at its first and last steps, where there was training.
    pub training_reward: Option<(f64, f64)>,
    /// The mean reward of the base without any adapter on the same prompts, where it was measured.
    pub base_reward: Option<f64>,
    /// Prompts answered better and worse, where every reward is 0 or 1, and the probability of a split as uneven by chance.
    pub signs: Option<Signs>,
    /// What became of each pinned suite.
    pub suites: Vec<PartGain>,
    /// What became of each slice of the holdout, where the window has strata.
    pub slices: Vec<PartGain>,
    /// Tokens an answer.
    pub tokens: Sides,
    /// The share of answers that refuse, or are empty; where it was measured.
    pub refusals: Option<Sides>,
    /// Holdout prompts that one side has no verdict on, and that are not compared.
    pub unjudged: usize,
    /// How often a judge who sees both answers prefers the challenger's, where one is asked.
    pub wins: Option<Wins>,
    /// The how manyth comparison since the last promotion this is, from 1; 0 where nobody counted.
    pub comparison: u32,
    /// What a person should look at, each as a sentence with its figures.
    pub warnings: Vec<String>,
}

/// A paired comparison of yes/no scores.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Signs {
    /// Prompts that only the challenger answered well.
    pub gains: usize,
    /// Prompts that only the champion answered well.
    pub losses: usize,
    /// McNemar's exact two-sided probability.
    pub chance: f64,
}

/// What a judge who sees both answers prefers, each pair asked in both orders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wins {
    /// Prompts with a verdict in both orders, or with equal answers.
    pub prompts: usize,
    /// The share that the challenger wins, with its interval; a tie, and a change of mind with the order, are half a win.
    pub share: Interval,
}

/// What became of a pinned suite, or of a slice of the holdout.
#[derive(Debug, Clone, PartialEq)]
pub struct PartGain {
    /// Its name.
    pub name: String,
    /// Prompts that both sides have a score on.
    pub prompts: usize,
    /// Mean rewards.
    pub reward: Sides,
    /// The gain with its interval.
    pub gain: Interval,
    /// The mean reward of the base without any adapter, where another serves and it was measured.
    pub base: Option<f64>,
    /// By how much the mean may fall, where that is bounded.
    pub regression_max: Option<f64>,
}

/// What the evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalReport {
    /// Prompts compared.
    pub prompts: usize,
    /// Prompts whose two answers earned different rewards.
    pub changed: usize,
    /// The champion's mean reward.
    pub champion_reward: f64,
    /// The challenger's mean reward.
    pub challenger_reward: f64,
    /// The gain in reward: what the gate decides on.
    pub reward_gain: Interval,
    /// The champion's accuracy, where the truth is known.
    pub champion_accuracy: Option<f64>,
    /// The challenger's accuracy, where the truth is known.
    pub challenger_accuracy: Option<f64>,
    /// The gain in accuracy, where the truth is known.
    pub accuracy_gain: Option<Interval>,
    /// The interval's confidence, such as 0.95.
    pub confidence: f64,
    /// What is watched beside the gain.
    pub guards: Guards,
    /// The gate's decision.
    pub verdict: Verdict,
}
