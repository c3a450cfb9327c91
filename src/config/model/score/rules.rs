//! Scorers by rule: what can be verified without a model.

use super::scorer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

scorer! {
    /// JSON that a schema describes: 1 where it is valid, 0.25 where it is JSON only, else 0. A fenced block is looked into.
    JsonSchemaScore {
        /// A file with the JSON Schema. Default: none.
        #[serde(default)]
        file: Option<String>,
        /// The JSON Schema itself. Default: none; without either, each prompt of `pelton eval` brings its own.
        #[serde(default)]
        schema: Option<Value>,
    }
}

scorer! {
    /// A pattern that the response must hold, or must not.
    RegexScore {
        /// A regular expression (the syntax of Rust's `regex`), found anywhere in the response; `^` and `$` anchor it.
        #[schemars(length(min = 1))]
        pattern: String,
        /// Whether the response must not hold it. Default: false.
        #[serde(default)]
        forbid: bool,
    }
}

/// How two answers are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AnswerKind {
    /// As texts, without case, articles, punctuation and doubled spaces.
    #[default]
    Exact,
    /// As numbers, to nine digits; the last number of the response, `1,234.50` and `12 %` understood.
    Number,
    /// As `exact`, where the reference's words need only stand somewhere in the response, together and in their order.
    Contains,
}

scorer! {
    /// An answer that can be compared. With a reference: 1 where they are equal, else 0. Without: 1 where there is an answer.
    AnswerScore {
        /// `exact`, `number` or `contains`. Default: `exact`.
        #[serde(default)]
        kind: AnswerKind,
        /// A regular expression whose first group is the answer, such as `(?i)answer:\s*(.+)`. Default: the whole response.
        #[serde(default)]
        pattern: Option<String>,
        /// How much of the reward agreement among a prompt's samples decides, in [0, 0.9]. It never counts alone: it only
        /// weighs among samples that earn something by other scorers. Default: 0, none.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 0.9))]
        agreement_weight: f64,
    }
}

scorer! {
    /// What the response says is in a document of the prompt. The product of: the share of its words that the document or
    /// the question has, of its numbers, of its names, of its quotations; whether it says anything beyond the question; and
    /// how much of the question the sentences that it is taken from speak of.
    GroundedScore {
        /// The text before the document in a message. Default: none.
        #[serde(default)]
        begin: Option<String>,
        /// The text after it. Default: none; without both, the document is all but the last paragraph of the conversation.
        #[serde(default)]
        end: Option<String>,
    }
}

scorer! {
    /// The length in words: 1 from `words_min` to `words_max`, falling to 0 at no word and at twice the maximum.
    LengthScore {
        /// The fewest words. Default: 1.
        #[serde(default = "LengthScore::default_words_min")]
        words_min: usize,
        /// The most words.
        #[schemars(range(min = 1))]
        words_max: usize,
    }
}

impl LengthScore {
    fn default_words_min() -> usize {
        1
    }
}

scorer! {
    /// 0 for a refusal ("I'm sorry, but I can't …") or an empty response, else 1.
    RefusalScore {
        /// More phrases that mean a refusal where a response begins with them or soon has them. Default: none.
        #[serde(default)]
        phrases: Vec<String>,
    }
}

scorer! {
    /// The share of runs of words that are there once: 1 for a text that never repeats itself.
    RepetitionScore {
        /// Words in a run. Default: 4.
        #[serde(default = "RepetitionScore::default_words")]
        #[schemars(range(min = 1, max = 32))]
        words: usize,
    }
}

impl RepetitionScore {
    fn default_words() -> usize {
        4
    }
}
