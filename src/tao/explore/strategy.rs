//! What differs between the ways to explore: shares of a prompt's samples, the augmented prompt, the final answer.
//!
//! Pure functions. An augmented prompt (steps, sections, examples) is for drawing only: the response's final answer is
//! what is scored, and it is trained under the plain prompt, which is how compute at tuning time moves into the weights.

use crate::config::{Strategy, StrategyKind};
use crate::domain::{ChatMessage, PromptHash};
use crate::tao::rng_seed;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// A question of an earlier cycle with an answer that earned much.
#[derive(Debug, Clone, PartialEq)]
pub struct PastAnswer {
    /// The question's identity: it is never an example for itself.
    pub prompt: PromptHash,
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// The answer.
    pub text: String,
    /// What it earned.
    pub reward: f64,
}

/// How many times as many similar answers are looked at as are taken, so that a prompt's samples see different ones.
const POOL: usize = 4;

const STEPS: &str =
    "Think step by step first. Then write the final answer alone, in the form that was asked for, behind";
const SECTIONS: &str = "Work in these sections first, each under its heading: `Request`, what is asked for, in your own \
                        words; `Facts`, what of the given it needs; `Plan`, how to get there; `Check`, what could be \
                        wrong. Then write the final answer alone, in the form that was asked for, behind";

/// Which strategy each of a prompt's samples has, by index: shares by the largest remainders, a run of samples each: the
/// ladder of temperatures turns from sample to sample, so that a strategy with as many samples as rungs meets every rung.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares of at most 1,024 samples")]
pub fn assigned(strategies: &[Strategy], samples: u32) -> Vec<usize> {
    let total: f64 = strategies.iter().map(|s| s.share).sum();
    if strategies.is_empty() || total <= 0.0 {
        return Vec::new();
    }
    let exact: Vec<f64> = strategies.iter().map(|s| s.share / total * f64::from(samples)).collect();
    let mut counts: Vec<u32> = exact.iter().map(|e| e.floor() as u32).collect();
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()).then(a.cmp(b)));
    let missing = samples.saturating_sub(counts.iter().sum());
    for index in order.into_iter().cycle().take(missing as usize) {
        counts[index] += 1;
    }
    counts.iter().enumerate().flat_map(|(index, count)| std::iter::repeat_n(index, *count as usize)).collect()
}

/// The conversation with what the strategy puts behind its last question.
#[must_use]
pub fn instructed(messages: &[ChatMessage], strategy: &Strategy) -> Vec<ChatMessage> {
    let default = match strategy.kind {
        StrategyKind::Structured => format!("{SECTIONS} `{}`.", strategy.answer_after),
        _ => format!("{STEPS} `{}`.", strategy.answer_after),
    };
    let mut messages = messages.to_vec();
    if let Some(question) = messages.iter_mut().rev().find(|m| m.role == "user") {
        let instruction = strategy.instruction.as_ref().unwrap_or(&default);
        question.content = format!("{}\n\n{instruction}", question.content);
    }
    messages
}

/// The conversation with similar past questions and their answers before it; `None` where there is none to show.
#[must_use]
pub fn with_examples(
    prompt: PromptHash,
    messages: &[ChatMessage],
    past: &[PastAnswer],
    strategy: &Strategy,
    seed: u64,
) -> Option<Vec<ChatMessage>> {
    let words = words_of(messages);
    let mut similar: Vec<(f64, &PastAnswer)> = past
        .iter()
        .filter(|p| p.prompt != prompt && p.reward >= strategy.reward_min)
        .map(|p| (overlap(&words, &words_of(&p.messages)), p))
        .collect();
    similar.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.prompt.cmp(&b.1.prompt)));
    similar.truncate(POOL * strategy.examples);
    similar.shuffle(&mut ChaCha8Rng::seed_from_u64(rng_seed(&[seed, 3])));
    similar.truncate(strategy.examples);
    if similar.is_empty() {
        return None;
    }
    // The most similar one stands last, next to the question.
    similar.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.prompt.cmp(&b.1.prompt)));
    let head = messages.iter().take_while(|m| m.role == "system").count();
    let mut shown = messages[..head].to_vec();
    for (_, past) in similar {
        shown.extend(past.messages.iter().rev().find(|m| m.role == "user").cloned());
        shown.push(ChatMessage { role: "assistant".to_owned(), content: past.text.clone() });
    }
    shown.extend_from_slice(&messages[head..]);
    Some(shown)
}

/// What stands behind the last marker, without a code fence around it; `None` where there is no answer.
#[must_use]
pub fn final_answer(text: &str, marker: &str) -> Option<String> {
    let (_, answer) = text.rsplit_once(marker)?;
    let answer = answer.trim().trim_matches('`').trim();
    // What follows a fence's opening on its line is the language's name.
    let fenced = text.rsplit_once(marker).is_some_and(|(_, a)| a.trim().starts_with("```"));
    let answer = match answer.split_once('\n') {
        Some((language, rest)) if fenced && !language.contains(' ') => rest.trim(),
        _ => answer,
    };
    (!answer.is_empty()).then(|| answer.to_owned())
}

/// The text before the first stop text in it.
#[must_use]
pub fn cut<'a>(text: &'a str, stops: &[String]) -> &'a str {
    let first = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
    &text[..first.unwrap_or(text.len())]
}

fn words_of(messages: &[ChatMessage]) -> BTreeSet<String> {
    let question = messages.iter().rev().find(|m| m.role == "user").map_or("", |m| m.content.as_str());
    let words = question.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    words.map(str::to_lowercase).collect()
}

/// Shared words over all words (Jaccard 1912).
#[expect(clippy::cast_precision_loss, reason = "a question has few words")]
fn overlap(a: &BTreeSet<String>, b: &BTreeSet<String>) -> f64 {
    let shared = a.intersection(b).count();
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}
