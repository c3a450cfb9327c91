//! How responses are scored: the section `[models.NAME.score]`, and `[models.NAME.gate.score]`.
//!
//! Every scorer gives a number from 0 to 1. The reward is their mean by weight; a scorer with a threshold can also make it
//! zero. Each scorer's number is stored by name with each candidate.

mod judge;
mod rules;
mod sql;

pub use judge::{FeedbackScore, JudgeScore, RewardModelScore, Spent};
pub use rules::{
    AnswerKind, AnswerScore, GroundedScore, JsonSchemaScore, LengthScore, RefusalScore, RegexScore, RepetitionScore,
};
pub use sql::SqlScore;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How responses are scored. At least one scorer must be given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Score {
    /// The response is SQL: run it and look at what it returns.
    pub sql: Option<SqlScore>,
    /// The response is JSON that a schema describes.
    pub json_schema: Option<JsonSchemaScore>,
    /// Patterns that the response must or must not hold, by name.
    pub regex: BTreeMap<String, RegexScore>,
    /// The response gives an answer that can be compared: with a reference where the prompt has one, among a prompt's
    /// samples where it has none.
    pub answer: Option<AnswerScore>,
    /// The response says only what a document in the prompt says.
    pub grounded: Option<GroundedScore>,
    /// The response's length.
    pub length: Option<LengthScore>,
    /// The response is no refusal.
    pub refusal: Option<RefusalScore>,
    /// The response does not repeat itself.
    pub repetition: Option<RepetitionScore>,
    /// A language model judges by a rubric.
    pub judge: Option<JudgeScore>,
    /// A sequence classifier on this machine judges.
    pub reward_model: Option<RewardModelScore>,
    /// What users said of the same answer to the same prompt.
    pub feedback: Option<FeedbackScore>,
    /// One text that is given to more than this share of the prompts earns nothing. Default: 0.15 where `sql` is a scorer,
    /// else 0.5; 1 switches it off, for tasks whose right answers are few, such as classes.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub constant_share_max: Option<f64>,
    /// Whether the mapping from scores to reward is fitted to users' feedback, where there is enough and where that is the
    /// better predictor in cross-validation. Default: false.
    pub calibrate: bool,
}

impl Score {
    /// The names of the scorers that are given.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let single = [
            ("sql", self.sql.is_some()),
            ("json_schema", self.json_schema.is_some()),
            ("answer", self.answer.is_some()),
            ("grounded", self.grounded.is_some()),
            ("length", self.length.is_some()),
            ("refusal", self.refusal.is_some()),
            ("repetition", self.repetition.is_some()),
            ("judge", self.judge.is_some()),
            ("reward_model", self.reward_model.is_some()),
            ("feedback", self.feedback.is_some()),
        ];
        let single = single.into_iter().filter(|(_, given)| *given).map(|(name, _)| name.to_owned());
        single.chain(self.regex.keys().map(|name| format!("regex.{name}"))).collect()
    }
}

/// What a scorer's number does to the reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Its weight in the mean.
    pub weight: f64,
    /// The number that is asked for.
    pub threshold: Option<f64>,
    /// Whether a number below the threshold makes the reward zero.
    pub hard: bool,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// A scorer's section: its own fields, and what every scorer has.
macro_rules! scorer {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
            /// Its weight in the mean of all scorers; 0 only stores its number and keeps its threshold. Default: 1.
            #[serde(default = "super::one")]
            #[schemars(range(min = 0.0))]
            pub weight: f64,
            /// The number that is asked for, from 0 to 1. Default: none.
            #[serde(default)]
            #[schemars(range(min = 0.0, max = 1.0))]
            pub threshold: Option<f64>,
            /// Below the threshold: true makes the whole reward zero; false takes the number by its share of the threshold,
            /// which counts as full once it is reached. Default: true.
            #[serde(default = "super::yes")]
            pub hard: bool,
        }

        impl $name {
            /// What its number does to the reward.
            #[must_use]
            pub fn share(&self) -> super::Share {
                super::Share { weight: self.weight, threshold: self.threshold, hard: self.hard }
            }
        }
    };
}
use scorer;
