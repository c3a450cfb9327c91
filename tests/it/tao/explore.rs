//! Ways to explore: shares, stop texts, augmented prompts trained as plain ones, the champion, an endpoint.

use super::learning::{model, prompts, quiet};
use crate::support::chat::{Act, ChatServer};
use pelton::config::{Endpoint, Explore, Strategy, StrategyKind};
use pelton::domain::{Candidate, ChatMessage, Finish, PromptHash};
use pelton::model::{Lora, LoraConfig, Model, PromptGroup};
use pelton::tao::explore::strategy::{assigned, cut, final_answer, instructed, with_examples};
use pelton::tao::explore::{Explored, PastAnswer, Policies, answer_greedily, explore, explore_by};

fn sampling(strategies: Vec<Strategy>) -> Explore {
    Explore {
        samples: 6,
        temperatures: vec![0.8, 1.2],
        tokens_max: 8,
        batch_rows: 16,
        strategies,
        ..Explore::default()
    }
}

fn strategy(kind: StrategyKind, share: f64) -> Strategy {
    Strategy { kind, share, ..Strategy::default() }
}

fn from_base<'a>(model: &'a Model, past: &'a [PastAnswer]) -> Policies<'a> {
    Policies { model, adapter: None, champion: None, past }
}

/// An adapter that changes something.
fn adapter(model: &Model) -> Lora {
    let config = LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() };
    let mut lora = Lora::new(model.config(), config, 5, model.decoder().device()).unwrap();
    for (name, tensor) in &mut lora.tensors {
        if name.contains("lora_B") {
            *tensor = (tensor.ones_like().unwrap() * 0.1).unwrap();
        }
    }
    lora
}

/// The log-probabilities of a candidate under its plain prompt by a policy.
fn plain_logprobs(model: &Model, lora: Option<&Lora>, explored: &Explored, candidate: &Candidate) -> Vec<f32> {
    let decoder = lora.map_or_else(|| model.decoder().clone(), |lora| model.decoder().with_adapter(lora).unwrap());
    let prompt = explored.prompt_tokens[&candidate.prompt].clone();
    decoder.logprobs(&[PromptGroup { prompt, completions: vec![candidate.tokens.clone()] }], 1.0).unwrap().remove(0)
}

fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} is not {expected:?}");
}

#[test]
fn shares_are_kept_to_the_sample() {
    let kinds = [StrategyKind::Plain, StrategyKind::ChainOfThought, StrategyKind::FewShot];
    let of = |shares: [f64; 3], samples| {
        let strategies: Vec<Strategy> = kinds.iter().zip(shares).map(|(k, s)| strategy(*k, s)).collect();
        let all = assigned(&strategies, samples);
        (0..3).map(|i| all.iter().filter(|a| **a == i).count()).collect::<Vec<_>>()
    };
    assert_eq!(of([2.0, 1.0, 1.0], 8), [4, 2, 2]);
    assert_eq!(of([1.0, 1.0, 1.0], 8), [3, 3, 2]);
    assert_eq!(of([0.9, 0.1, 0.0], 4), [4, 0, 0]);
    assert_eq!(of([0.5, 0.25, 0.25], 2), [1, 1, 0]);
    assert!(assigned(&[], 8).is_empty());
}

#[test]
fn a_final_answer_stands_behind_the_last_marker_and_outside_its_fence() {
    let marker = "FINAL ANSWER:";
    let cases = [
        ("first a, then b. FINAL ANSWER: SELECT 1", Some("SELECT 1")),
        ("FINAL ANSWER: no\nwait\nFINAL ANSWER:\nSELECT 2\n", Some("SELECT 2")),
        ("FINAL ANSWER:\n```sql\nSELECT 3\nFROM t\n```", Some("SELECT 3\nFROM t")),
        ("FINAL ANSWER: `SELECT 4`", Some("SELECT 4")),
        ("FINAL ANSWER:  ", None),
        ("no marker at all", None),
    ];
    for (text, answer) in cases {
        assert_eq!(final_answer(text, marker).as_deref(), answer, "{text}");
    }
    assert_eq!(cut("a; b\n\nc", &["\n\n".to_owned(), ";".to_owned()]), "a");
    assert_eq!(cut("a b", &[";".to_owned()]), "a b");
    let asked = instructed(&[ChatMessage::user("how many?")], &strategy(StrategyKind::ChainOfThought, 1.0));
    assert!(asked[0].content.starts_with("how many?\n\n") && asked[0].content.contains(marker));
}

#[test]
fn a_stop_text_ends_a_response_across_tokens_and_is_cut_from_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let free = Explore { samples: 64, tokens_max: 16, ..sampling(vec![]) };
    let sample = |options: &Explore| quiet(|w| explore(&model, None, &prompts(), options, 7, w)).unwrap().candidates;
    let unstopped = sample(&free);
    // Two words are two tokens: the text crosses their border.
    let pair = |c: &Candidate| c.text.find("red blue");
    assert!(unstopped.iter().filter(|c| pair(c).is_some()).count() > 5, "the model says it now and then");
    let stop = vec!["red blue".to_owned(), "never said".to_owned()];
    let stopped = sample(&Explore { stop: stop.clone(), ..free.clone() });
    for (free, stopped) in unstopped.iter().zip(&stopped) {
        assert!(free.tokens.starts_with(&stopped.tokens), "the draws are the same up to the stop");
        assert_eq!(stopped.tokens.len(), stopped.logprobs.len());
        match pair(free) {
            None => assert_eq!(free, stopped),
            Some(at) => {
                assert_eq!(stopped.text, free.text[..at]);
                assert_eq!(stopped.finish, Finish::Stop);
                let text = model.decode(&stopped.tokens).unwrap();
                assert!(text.ends_with("red blue"), "no token after the match is kept: {text}");
            }
        }
    }
    let conversations: Vec<_> = prompts().into_iter().map(|p| p.messages).collect();
    let greedy =
        |stop: Vec<String>| answer_greedily(&model, None, &conversations, &Explore { stop, ..free.clone() }).unwrap();
    let (whole, word) = (greedy(vec![]), "red");
    for ((text, _), (free, _)) in greedy(vec![word.to_owned()]).iter().zip(&whole) {
        assert_eq!(text, &free[..free.find(word).unwrap_or(free.len())]);
    }
}

#[test]
fn thought_is_drawn_under_an_augmented_prompt_and_its_answer_trained_under_the_plain_one() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let lora = adapter(&model);
    let thought = Strategy {
        instruction: Some("one".to_owned()),
        answer_after: "two".to_owned(),
        tokens_max: Some(12),
        ..strategy(StrategyKind::ChainOfThought, 1.0)
    };
    let options = Explore { samples: 32, ..sampling(vec![strategy(StrategyKind::Plain, 1.0), thought]) };
    let policies = Policies { adapter: Some(&lora), ..from_base(&model, &[]) };
    let explored = quiet(|w| explore_by(policies, &prompts(), &options, 3, w)).unwrap();
    let plain = quiet(|w| explore(&model, Some(&lora), &prompts(), &sampling(vec![]), 3, w)).unwrap();
    let (thought, others): (Vec<_>, Vec<_>) =
        explored.candidates.iter().partition(|c| c.strategy.starts_with("chain_of_thought temperature="));
    assert!(thought.len() > 5, "{} answers", thought.len());
    assert_eq!(thought.len() + explored.without_answer, 7 * 16);
    assert_eq!(others.len(), 7 * 16);
    for own in plain.candidates {
        assert!(others.contains(&&own), "a plain sample is what it is without the other strategy");
    }
    for candidate in thought {
        let complete = candidate.finish == Finish::Stop;
        let mut tokens = model.encode(&candidate.text).unwrap();
        tokens.truncate(7);
        tokens.extend(complete.then_some(2));
        assert_eq!(candidate.tokens, tokens, "{candidate:?}");
        assert!(!candidate.text.contains("two") && !candidate.text.is_empty());
        assert_near(&candidate.logprobs, &plain_logprobs(&model, Some(&lora), &explored, candidate));
    }
}

#[test]
fn examples_are_similar_good_and_never_the_question_itself() {
    let past = |question: &str, text: &str, reward| {
        let messages = vec![ChatMessage::user(question)];
        PastAnswer { prompt: PromptHash::of(&messages), messages, text: text.to_owned(), reward }
    };
    let all = [
        past("red", "self", 1.0),
        past("red blue", "near", 0.9),
        past("red green", "bad", 0.1),
        past("four", "far", 1.0),
    ];
    let asked = vec![ChatMessage { role: "system".to_owned(), content: "s".to_owned() }, ChatMessage::user("red")];
    let one = Strategy { examples: 2, ..strategy(StrategyKind::FewShot, 1.0) };
    let shown = with_examples(all[0].prompt, &asked, &all, &one, 1).unwrap();
    let texts: Vec<&str> = shown.iter().map(|m| m.content.as_str()).collect();
    assert_eq!(texts, ["s", "four", "far", "red blue", "near", "red"]);
    assert_eq!(with_examples(all[0].prompt, &asked, &all[..1], &one, 1), None);

    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let options = sampling(vec![one]);
    let explored = quiet(|w| explore_by(from_base(&model, &all), &prompts(), &options, 3, w)).unwrap();
    assert_eq!(explored.candidates.len(), 7 * 6);
    for candidate in &explored.candidates {
        assert!(candidate.strategy.starts_with("few_shot "), "{}", candidate.strategy);
        assert_near(&candidate.logprobs, &plain_logprobs(&model, None, &explored, candidate));
    }
    let none = quiet(|w| explore_by(from_base(&model, &[]), &prompts(), &options, 3, w)).unwrap();
    let plain = quiet(|w| explore(&model, None, &prompts(), &sampling(vec![]), 3, w)).unwrap();
    assert_eq!(none.candidates, plain.candidates, "without a past the plain way is taken");
}

#[test]
fn the_champion_draws_as_itself() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let lora = adapter(&model);
    let options = sampling(vec![strategy(StrategyKind::Plain, 1.0), strategy(StrategyKind::Champion, 1.0)]);
    let policies = Policies { champion: Some(&lora), ..from_base(&model, &[]) };
    let explored = quiet(|w| explore_by(policies, &prompts(), &options, 3, w)).unwrap();
    let by_base = quiet(|w| explore(&model, None, &prompts(), &sampling(vec![]), 3, w)).unwrap();
    let by_champion = quiet(|w| explore(&model, Some(&lora), &prompts(), &sampling(vec![]), 3, w)).unwrap();
    for ((mixed, base), champion) in explored.candidates.iter().zip(&by_base.candidates).zip(&by_champion.candidates) {
        if mixed.sample < 3 {
            assert_eq!(mixed, base);
        } else {
            let strategy = format!("champion {}", champion.strategy);
            assert_eq!(*mixed, Candidate { strategy, ..champion.clone() });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_answers_and_its_logprobs_are_taken_here() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let server =
        ChatServer::start([Act::Say("one two; three".to_owned()), Act::Status(400, None), Act::Say("four".to_owned())])
            .await;
    let endpoint = Endpoint { concurrency: 1, ..Endpoint::new(&server.url, "m") };
    let elsewhere = Strategy { endpoint: Some(endpoint), ..strategy(StrategyKind::Endpoint, 1.0) };
    let options = Explore { stop: vec![";".to_owned()], ..sampling(vec![elsewhere]) };
    let some = &prompts()[..2];
    let run = || quiet(|w| explore_by(from_base(&model, &[]), some, &options, 3, w));
    let explored = tokio::task::block_in_place(run).unwrap();
    assert_eq!((explored.candidates.len(), explored.without_answer), (11, 1), "the refused call is one sample less");
    assert_eq!(explored.candidates.iter().filter(|c| c.text == "one two").count(), 1);
    for candidate in &explored.candidates {
        assert_eq!(candidate.tokens.last(), Some(&2), "it ends as the model ends");
        assert!(candidate.strategy.starts_with("endpoint temperature="));
        assert_near(&candidate.logprobs, &plain_logprobs(&model, None, &explored, candidate));
    }
    assert!(server.asked().iter().all(|call| call["stop"] == serde_json::json!([";"])));

    let deaf = ChatServer::start([Act::Status(400, None)]).await;
    let endpoint = Endpoint::new(&deaf.url, "m");
    let elsewhere = Strategy { endpoint: Some(endpoint), ..strategy(StrategyKind::Endpoint, 1.0) };
    let run = || quiet(|w| explore_by(from_base(&model, &[]), some, &sampling(vec![elsewhere.clone()]), 3, w));
    let error = tokio::task::block_in_place(run).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("400"), "{error:?}");
}
