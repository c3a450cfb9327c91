//! What users said of logged answers, as a scorer of the same answers when the model gives them again.

use super::case::{Case, Finding};
use super::member::Says;
use super::text;
use crate::domain::{ChatMessage, PromptHash};
use std::collections::HashMap;

/// A logged answer that users rated.
#[derive(Debug, Clone, PartialEq)]
pub struct Rated {
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// The answer.
    pub response: String,
    /// From 0, all against it, to 1.
    pub score: f64,
}

#[derive(Debug)]
pub(super) struct Feedback {
    similarity_min: f64,
    answers: HashMap<PromptHash, Vec<(String, f64)>>,
}

impl Feedback {
    pub(super) fn new(similarity_min: f64, rated: &[Rated]) -> Self {
        let mut answers: HashMap<_, Vec<_>> = HashMap::new();
        for r in rated {
            answers.entry(PromptHash::of(&r.messages)).or_default().push((r.response.clone(), r.score));
        }
        Self { similarity_min, answers }
    }
}

impl Says for Feedback {
    /// The mean rating of the most similar answers, where they are similar enough.
    #[expect(clippy::cast_precision_loss, reason = "an answer has few ratings")]
    fn says(&self, case: &Case<'_>) -> Finding {
        let Some(known) = self.answers.get(&PromptHash::of(case.messages)) else { return Finding::NONE };
        let near: Vec<(f64, f64)> =
            known.iter().map(|(answer, score)| (text::similarity(answer, case.response), *score)).collect();
        let best = near.iter().map(|(similarity, _)| *similarity).fold(0.0, f64::max);
        if best < self.similarity_min {
            return Finding::NONE;
        }
        let scores: Vec<f64> = near.iter().filter(|(s, _)| *s >= best).map(|(_, score)| *score).collect();
        let value = scores.iter().sum::<f64>() / scores.len() as f64;
        Finding { value: Some(value), parts: vec![("similarity", best), ("ratings", scores.len() as f64)] }
    }
}
