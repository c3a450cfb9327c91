//! A reward that is nothing but agreement is hacked: training looks splendid, the model says one thing to everybody, and the
//! gate, which decides by scorers that the training did not see, refuses it.

use super::learning::write_model;
use super::scorers::{open, quiet};
use pelton::config::{Algorithm, Explore, Gate, Lora as LoraSection, Optimize};
use pelton::domain::{Answer, ChatMessage, Comparison, Prompt, PromptHash, Timestamp};
use pelton::evaluate::{Watched, evaluate_watched};
use pelton::model::{Lora, Model};
use pelton::tao::explore::{answer_greedily, explore};
use pelton::tao::optimize::{Task, optimize};
use pelton::tao::score::{Case, Composition};
use std::collections::HashMap;

const COLOURS: [&str; 3] = ["red", "blue", "green"];
const ROUNDS: u64 = 8;
/// A base that likes some words: one that finds all alike has nothing to agree on.
const LIKING: f64 = 10.0;

/// Each prompt begins with a colour and a number: the right answer does too. One answer for all is right for 4 of 48.
fn prompts() -> Vec<Prompt> {
    let numbers = ["one", "two", "three", "four"];
    let mut all = Vec::new();
    for colour in COLOURS {
        for a in numbers {
            for b in ["", "one", "two", "three"] {
                let messages = vec![ChatMessage::user(format!("{colour} {a} {b}").trim().to_owned())];
                let hash = PromptHash::of(&messages);
                all.push(Prompt { request_id: hash.to_string(), hash, messages, request_time: Timestamp::EPOCH });
            }
        }
    }
    all
}

fn truth_of(prompt: &Prompt) -> String {
    prompt.messages[0].content.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Greedy answers with their rewards by a composition that may look at the reference.
fn answers(model: &Model, adapter: Option<&Lora>, scorers: &Composition, prompts: &[Prompt]) -> Vec<Answer> {
    let conversations: Vec<_> = prompts.iter().map(|p| p.messages.clone()).collect();
    let texts = answer_greedily(model, adapter, &conversations, &sampling()).unwrap();
    let truths: Vec<String> = prompts.iter().map(truth_of).collect();
    let cases: Vec<Case<'_>> = prompts
        .iter()
        .zip(&texts)
        .zip(&truths)
        .map(|((p, (text, _)), truth)| Case { reference: Some(truth), ..Case::new(&p.messages, text) })
        .collect();
    let verdicts = quiet(|w| scorers.judge(&cases, w)).unwrap();
    let answer = |((text, tokens), reward): ((String, u32), Option<f64>)| Answer {
        text,
        reward: reward.unwrap(),
        correct: None,
        tokens,
    };
    texts.into_iter().zip(verdicts.into_iter().map(|v| v.reward)).map(answer).collect()
}

fn sampling() -> Explore {
    Explore { samples: 8, tokens_max: 16, ..Explore::default() }
}

#[test]
fn agreement_alone_collapses_looks_splendid_and_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = write_model(dir.path(), Some(LIKING));
    let prompts = prompts();
    let messages: HashMap<_, _> = prompts.iter().map(|p| (p.hash, p.messages.clone())).collect();
    // What the configuration's check forbids: nothing but agreement, and no guard against one answer for all.
    let agreement = open("constant_share_max = 1.0\nanswer = { pattern = '(\\w+)', agreement_weight = 1.0 }");
    let held_out = open("answer = { pattern = '^(\\w+ \\w+)' }");
    let options = Optimize {
        algorithm: Algorithm::Grpo,
        epochs: 4,
        prompts_per_step: 12,
        learning_rate: 2e-2,
        ..Optimize::default()
    };
    let lora = LoraSection { rank: 4, alpha: 8.0, ..LoraSection::default() };
    let (mut adapter, mut curve) = (None, Vec::new());
    for round in 0..ROUNDS {
        let explored = quiet(|w| explore(&model, adapter.as_ref(), &prompts, &sampling(), round, w));
        let mut explored = explored.unwrap();
        let summary = quiet(|w| agreement.score(&messages, &mut explored.candidates, w)).unwrap();
        curve.push(summary.reward_mean);
        let task = Task {
            model: &model,
            start: adapter.as_ref(),
            prompts: &explored.prompt_tokens,
            candidates: &explored.candidates,
        };
        // Once all samples agree there is nothing left to learn: that is the collapse.
        let Ok(trained) = quiet(|w| optimize(&task, &lora, &options, round, w)) else { break };
        adapter = Some(trained.adapter);
    }
    let (before, after) =
        (answers(&model, None, &held_out, &prompts), answers(&model, adapter.as_ref(), &held_out, &prompts));
    let comparison = |((p, champion), challenger): ((&Prompt, Answer), Answer)| Comparison {
        prompt: p.hash,
        question: p.messages[0].content.clone(),
        slice: None,
        champion,
        challenger,
    };
    let comparisons: Vec<_> = prompts.iter().zip(before).zip(after).map(comparison).collect();
    let watched = Watched { training_curve: curve.clone(), ..Watched::default() };
    let report = evaluate_watched(&comparisons, &watched, &Gate::default(), 1);

    let (first, last) = (curve[0], curve[curve.len() - 1]);
    assert!(first < 0.5 && last > 0.9, "the training's reward went {curve:?}");
    let words: Vec<&str> = comparisons.iter().filter_map(|c| c.challenger.text.split(' ').next()).collect();
    let same = words.iter().filter(|w| **w == words[0]).count();
    assert!(same * 10 > words.len() * 9, "{same} of {} answers begin with {}", words.len(), words[0]);
    assert!(!report.verdict.is_promote(), "{report:?}");
    assert!(report.challenger_reward <= 0.1, "one answer for twelve: {}", report.challenger_reward);
    let warnings = report.guards.warnings.join("; ");
    assert!(warnings.contains("the training's reward rose from"), "{warnings}");
}
