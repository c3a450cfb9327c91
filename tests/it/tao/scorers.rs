//! Scorers by rule and their composition: what each says of good and bad answers, and how numbers become a reward.

use super::candidate;
use pelton::config::{self, Score, Share};
use pelton::domain::{Candidate, ChatMessage, PromptHash};
use pelton::tao::Watch;
use pelton::tao::score::{Case, Composition, Error, Rated, combine};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub(super) fn section(toml: &str) -> Score {
    toml::from_str(toml).unwrap_or_else(|e| panic!("{toml}: {e}"))
}

pub(super) fn here(path: &str) -> PathBuf {
    Path::new(path).to_owned()
}

pub(super) fn open(toml: &str) -> Composition {
    Composition::open(&section(toml), &here, &[]).unwrap()
}

pub(super) fn quiet<R>(run: impl FnOnce(&Watch<'_>) -> R) -> R {
    run(&Watch::new(&|_| {}, &AtomicBool::new(false)))
}

pub(super) fn sample(messages: &[ChatMessage], number: u32, text: &str) -> Candidate {
    candidate(PromptHash::of(messages), number, text)
}

/// The rewards of several samples of one prompt.
pub(super) fn rewards(composition: &Composition, question: &str, texts: &[&str]) -> Vec<f64> {
    let messages = vec![ChatMessage::user(question)];
    let mut all: Vec<_> = (0..).zip(texts).map(|(i, text)| sample(&messages, i, text)).collect();
    let prompts = HashMap::from([(PromptHash::of(&messages), messages)]);
    quiet(|w| composition.score(&prompts, &mut all, w)).unwrap();
    all.iter().map(|c| c.reward.unwrap()).collect()
}

fn judged(composition: &Composition, case: Case<'_>) -> f64 {
    quiet(|w| composition.judge(&[case], w)).unwrap()[0].reward.unwrap()
}

#[test]
fn each_rule_tells_good_from_bad() {
    let cases: &[(&str, &str, f64)] = &[
        ("json_schema = { schema = { type = 'object', required = ['a'] } }", "{\"a\": 1}", 1.0),
        ("json_schema = { schema = { type = 'object', required = ['a'] } }", "Sure:\n```json\n{\"a\": 1}\n```", 1.0),
        ("json_schema = { schema = { type = 'object', required = ['a'] } }", "{\"b\": 1}", 0.25),
        ("json_schema = { schema = { type = 'object', required = ['a'] } }", "a is 1", 0.0),
        ("regex.id = { pattern = '^[A-Z]{2}\\d+$' }", "AB12", 1.0),
        ("regex.id = { pattern = '^[A-Z]{2}\\d+$' }", "see AB12", 0.0),
        ("regex.shout = { pattern = '!!', forbid = true }", "fine!!", 0.0),
        ("length = { words_max = 4 }", "one two three", 1.0),
        ("length = { words_max = 4 }", "one two three four five six", 0.5),
        ("length = { words_max = 4 }", "a b c d e f g h i j", 0.0),
        ("length = { words_min = 4, words_max = 8 }", "one two", 0.5),
        ("refusal = {}", "Paris.", 1.0),
        ("refusal = {}", "I’m sorry, but I can't help with that.", 0.0),
        ("refusal = {}", "  ", 0.0),
        ("refusal = { phrases = ['kein Kommentar'] }", "Kein Kommentar!", 0.0),
        ("repetition = { words = 2 }", "a b a b a b", 0.4),
        ("repetition = {}", "short", 1.0),
        ("answer = { kind = 'number' }", "It is 1,234.5 m", 1.0),
        ("answer = { kind = 'number' }", "I do not know", 0.0),
        ("answer = { pattern = 'Answer: (.+)' }", "Answer: Paris", 1.0),
        ("answer = { pattern = 'Answer: (.+)' }", "Paris", 0.0),
    ];
    for (toml, response, expected) in cases {
        let messages = [ChatMessage::user("question")];
        let found = judged(&open(toml), Case::new(&messages, response));
        assert!((found - expected).abs() < 1e-12, "{toml} gives {response:?} {found}, expected {expected}");
    }
}

#[test]
fn a_reference_is_compared_as_people_would() {
    let messages = [ChatMessage::user("question")];
    let exact = open("answer = { pattern = '(?i)answer:\\s*(.+)' }");
    let number = open("answer = { kind = 'number' }");
    let cases = [
        (&exact, "Answer: the Eiffel-Tower.", "Eiffel Tower", 1.0),
        (&exact, "Answer: Louvre", "Eiffel Tower", 0.0),
        (&exact, "Eiffel Tower", "Eiffel Tower", 0.0),
        (&number, "So 1,200 g in all", "1200", 1.0),
        (&number, "So -1,200 g in all", "1200", 0.0),
    ];
    for (composition, response, reference, expected) in cases {
        let case = Case { reference: Some(reference), ..Case::new(&messages, response) };
        assert_eq!(judged(composition, case), expected, "{response} against {reference}");
    }
}

const PASSAGE: &str = "The lighthouse of Vardo was finished in 1896 by Henrik Moe. It stands 42 metres tall. \
                       The keeper's house burned down in 1921, and \"nobody was hurt\", a newsletter wrote.";

#[test]
fn only_what_the_document_says_about_the_question_is_grounded() {
    let composition = open("grounded = {}");
    let question = format!("{PASSAGE}\n\nWhen was the lighthouse finished?");
    let answers = [
        "It was finished in 1896.",
        // Hacks and errors, none of which may pay as much.
        "It was finished in 1897.",
        "The keeper's house burned down in 1921.",
        "When was the lighthouse finished?",
        "It was finished by Anna Berg.",
        "The lighthouse was finished in 1896, and \"everybody cheered\".",
        "Quantum fluctuations dominate.",
        "",
    ];
    let earned = rewards(&composition, &question, &answers);
    assert!(earned[0] > 0.95, "{earned:?}");
    for (answer, reward) in answers.iter().zip(&earned).skip(1) {
        assert!(reward + 0.2 < earned[0], "{answer:?} earns {reward} of {}", earned[0]);
    }
    let marked = open("grounded = { begin = '<doc>', end = '</doc>' }");
    let messages = [
        ChatMessage { role: "system".into(), content: format!("Use only <doc>{PASSAGE}</doc>.") },
        ChatMessage::user("How tall is it?"),
    ];
    assert!(judged(&marked, Case::new(&messages, "It stands 42 metres tall.")) > 0.9);
    assert_eq!(judged(&marked, Case::new(&messages, "It stands 52 metres tall.")), 0.0);
    let beside = Case { document: Some(PASSAGE), ..Case::new(&messages[1..], "42 metres") };
    assert!(judged(&composition, beside) > 0.9);
}

#[test]
fn numbers_become_a_reward_by_weight_and_threshold() {
    let share = |weight, threshold, hard| Share { weight, threshold, hard };
    let cases: &[(&[(Share, f64)], f64)] = &[
        (&[(share(1.0, None, true), 0.3)], 0.3),
        (&[(share(3.0, None, true), 1.0), (share(1.0, None, true), 0.0)], 0.75),
        (&[(share(1.0, None, true), 1.0), (share(0.0, Some(0.5), true), 0.4)], 0.0),
        (&[(share(1.0, None, true), 1.0), (share(0.0, Some(0.5), true), 0.5)], 1.0),
        (&[(share(1.0, Some(0.5), false), 0.25), (share(1.0, Some(0.5), false), 0.9)], 0.75),
        (&[(share(0.0, Some(0.5), true), 0.9)], 1.0),
    ];
    for (numbers, expected) in cases {
        assert!((combine(numbers) - expected).abs() < 1e-12, "{numbers:?}");
    }
}

#[test]
fn agreement_weighs_only_among_answers_that_earn_something() {
    let composition = open(
        "answer = { kind = 'number', agreement_weight = 0.5, weight = 0 }\nregex.unit = { pattern = 'km', threshold = 1 }",
    );
    let earned = rewards(&composition, "How far?", &["12 km", "12 km", "15 km", "7", "7", "7"]);
    assert!((earned[0] - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-12, "{earned:?}");
    assert!((earned[2] - (0.5 + 0.5 / 3.0)).abs() < 1e-12, "{earned:?}");
    assert_eq!(earned[3..], [0.0, 0.0, 0.0], "a majority without the unit agrees with nothing");
}

#[test]
fn one_text_for_all_prompts_earns_nothing_and_parts_are_stored_by_name() {
    let composition = open("refusal = {}\nlength = { words_max = 5, weight = 2 }");
    let mut prompts = HashMap::new();
    let mut candidates = Vec::new();
    for i in 0..30 {
        let messages = vec![ChatMessage::user(format!("question {i}"))];
        candidates.push(sample(&messages, 0, "forty two"));
        candidates.push(sample(&messages, 1, &format!("answer {i}")));
        prompts.insert(PromptHash::of(&messages), messages);
    }
    let summary = quiet(|w| composition.score(&prompts, &mut candidates, w)).unwrap();
    assert!(candidates.iter().all(|c| c.reward == Some(f64::from(u8::from(c.sample == 1)))));
    assert_eq!(summary.constant_share, 1.0);
    let names: Vec<&str> = candidates[0].components.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["length", "length.words", "refusal", "varied", "agreement", "tied"]);
    assert!((summary.means["length.words"] - 2.0).abs() < 1e-9);
}

#[test]
fn users_words_count_for_the_same_answer_and_say_nothing_of_others() {
    let messages = vec![ChatMessage::user("Which plan?")];
    let rated = |response: &str, score| Rated { messages: messages.clone(), response: response.to_owned(), score };
    let known =
        [rated("Take the basic plan.", 1.0), rated("Take the large plan.", 0.0), rated("Take the large plan.", 0.5)];
    let composition = Composition::open(&section("feedback = {}"), &here, &known).unwrap();
    let earned = rewards(&composition, "Which plan?", &["Take the basic plan", "take the large plan!", "None at all."]);
    assert_eq!(earned[..2], [1.0, 0.25]);
    assert!((earned[2] - 0.625).abs() < 1e-12, "without a verdict a sample gets what the others got: {earned:?}");
    let other = [ChatMessage::user("Another question")];
    let silent = quiet(|w| composition.judge(&[Case::new(&other, "Take the basic plan.")], w)).unwrap();
    assert_eq!(silent[0].reward, None);
}

#[test]
fn what_cannot_be_set_up_says_which_scorer_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schema.json");
    std::fs::write(&file, "{\"type\": 12}").unwrap();
    let prose = dir.path().join("prose.json");
    std::fs::write(&prose, "an object, please").unwrap();
    let cases = [
        (format!("json_schema = {{ file = '{}' }}", file.display()), "no JSON Schema"),
        (format!("json_schema = {{ file = '{}' }}", prose.display()), "no JSON"),
        ("json_schema = { file = '/nowhere/schema.json' }".to_owned(), "/nowhere/schema.json"),
        ("regex.broken = { pattern = '(' }".to_owned(), "regex.broken"),
        ("judge = { rubric = 'good' }".to_owned(), "endpoint"),
        ("sql = { database = '/nowhere' }".to_owned(), "/nowhere"),
        ("reward_model = { model = '/nowhere' }".to_owned(), "reward_model"),
    ];
    for (toml, hint) in cases {
        let error = Composition::open(&section(&toml), &here, &[]).unwrap_err();
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains(hint), "{toml}: {text}");
    }
    assert!(matches!(Composition::open(&config::Score::default(), &here, &[]), Err(Error::Nothing)));
}
