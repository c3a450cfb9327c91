//! The label-free reward: the answer to the question earns the most, and no known hack pays.

use super::{candidate, library};
use pelton::domain::{Candidate, ChatMessage, PromptHash};
use pelton::tao::score::{Executor, Limits, Scorer, reward};
use std::collections::HashMap;

fn scorer() -> Scorer {
    Scorer::new(Executor::new(library(), Limits::default()))
}

/// The rewards of several answers to one question.
fn rewards(scorer: &Scorer, question: &str, answers: &[&str]) -> Vec<f64> {
    let messages = vec![ChatMessage::user(question)];
    let hash = PromptHash::of(&messages);
    let mut all: Vec<_> = (0..).zip(answers).map(|(i, text)| candidate(hash, i, text)).collect();
    scorer.score(&HashMap::from([(hash, messages)]), &mut all).unwrap();
    all.iter().map(|c| c.reward.unwrap()).collect()
}

#[test]
fn hacks_earn_less_than_the_answer_and_most_earn_nothing() {
    let scorer = scorer();
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "Which novels have more than 400 pages?",
            "SELECT title FROM books WHERE genre = 'novel' AND pages > 400",
            &["SELECT * FROM books", "SELECT title FROM books", "SELECT title FROM books WHERE genre = 'novel'"],
        ),
        (
            "What is the average price of travel books?",
            "SELECT AVG(price) FROM books WHERE genre = 'travel'",
            &["SELECT price FROM books", "SELECT AVG(price) FROM books", "SELECT * FROM books WHERE genre = 'travel'"],
        ),
        (
            "How many books did Mira Holt write?",
            "SELECT COUNT(*) FROM books JOIN authors USING (author_id) WHERE name = 'Mira Holt'",
            &["SELECT COUNT(*) FROM books", "SELECT name FROM authors WHERE name = 'Mira Holt'"],
        ),
    ];
    for (question, answer, hacks) in cases {
        for hack in *hacks {
            let earned = rewards(&scorer, question, &[answer, hack]);
            assert!(earned[0] > earned[1] + 0.05, "{question}: {hack} earned {} against {}", earned[1], earned[0]);
        }
        let worthless = [
            "SELECT 1",
            "SELECT 'novel', 400",
            "SELECT title FROM books WHERE pages > 12345",
            "SELECT title FROM books WHERE genre = 'poetry'",
            "SELECT title FROM books WHERE pages < 0",
            "SELECT SUM(pages) FROM books WHERE title = 'no such title'",
            "DROP TABLE books",
            "I do not know",
            "",
        ];
        for (hack, earned) in worthless.iter().zip(rewards(&scorer, question, &worthless)) {
            assert!(earned == 0.0, "{question}: {hack:?} earned {earned}");
        }
    }
}

#[test]
fn one_answer_for_every_question_earns_nothing() {
    let scorer = scorer();
    let constant = "SELECT title, genre, pages, price FROM books";
    let questions: Vec<_> = (0..40).map(|i| vec![ChatMessage::user(format!("Which books, please? ({i})"))]).collect();
    let prompts: HashMap<_, _> = questions.iter().map(|m| (PromptHash::of(m), m.clone())).collect();
    let mut all: Vec<_> = prompts.keys().flat_map(|h| (0..4).map(|i| candidate(*h, i, constant))).collect();
    let summary = scorer.score(&prompts, &mut all).unwrap();
    assert_eq!(summary.constant_share, 1.0);
    assert!(all.iter().all(|c| c.reward == Some(0.0)), "full agreement, and nothing earned");
    let agreement = |c: &Candidate| c.components.iter().find(|p| p.name == "varied").unwrap().value;
    assert!(all.iter().all(|c| agreement(c) == 0.0), "the component says why");
}

#[test]
fn agreement_weighs_by_what_is_tied_to_the_question() {
    let (right, wrong) = (Some(1), Some(2));
    // Three samples agree on an answer that is tied by 0.1 each; one stands alone, tied by 0.9. Weights sum to 1.2.
    let shares = reward::agreement(&[wrong, wrong, wrong, right, None], &[0.1, 0.1, 0.1, 0.9, 0.0]);
    for (found, expected) in shares.iter().zip([0.25, 0.25, 0.25, 0.75, 0.0]) {
        assert!((found - expected).abs() < 1e-12, "{shares:?}");
    }
    // A majority that is not tied at all has no weight, so it does not even agree with itself.
    assert_eq!(reward::agreement(&[wrong, wrong, wrong], &[0.0; 3]), vec![0.0; 3]);
    // 0.9 · (0.6 + 0.4 · 0.75) = 0.81; 0.1 · (0.6 + 0.4 · 0.25) = 0.07.
    assert!((reward::reward(0.9, 0.75, 0.4) - 0.81).abs() < 1e-12);
    assert!((reward::reward(0.1, 0.25, 0.4) - 0.07).abs() < 1e-12);
    assert_eq!(reward::reward(0.0, 1.0, 0.4), 0.0);
}

#[test]
fn values_are_linked_by_the_longest_mention() {
    let links = library().link("Which pages of Sea of Glass are about three winters in IRELAND?");
    let named: Vec<_> = links.values.iter().flatten().map(String::as_str).collect();
    assert_eq!(named, ["Sea of Glass", "Ireland"], "`Glass` is a title too, but part of a longer one here");
    assert!(links.numbers.contains("3"));
    assert!(links.schema_words.contains("page"), "the plural of a column's name");
}

#[test]
fn the_same_candidates_earn_the_same_and_every_part_is_named() {
    let scorer = scorer();
    let messages = vec![ChatMessage::user("How many novels are there?")];
    let hash = PromptHash::of(&messages);
    let prompts = HashMap::from([(hash, messages)]);
    let mut first = vec![candidate(hash, 0, "```sql\nSELECT COUNT(*) FROM books WHERE genre = 'novel';\n```")];
    let mut second = first.clone();
    scorer.score(&prompts, &mut first).unwrap();
    scorer.score(&prompts, &mut second).unwrap();
    assert_eq!(first, second);
    let names: Vec<_> = first[0].components.iter().map(|c| c.name.as_str()).collect();
    let expected =
        ["reads", "executes", "non_empty", "grounded", "values", "schema", "operations", "varied", "agreement", "tied"];
    assert_eq!(names, expected);
    assert_eq!(first[0].reward, Some(1.0), "{:?}", first[0].components);
    let stranger = PromptHash::of_canonical("another");
    let error = scorer.score(&prompts, &mut [candidate(stranger, 3, "SELECT 1")]).unwrap_err().to_string();
    assert!(error.contains(&stranger.to_string()) && error.contains('3'), "{error}");
}
