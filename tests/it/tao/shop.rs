//! The demo's task: every question has a true SQL that runs and answers, and the two sides never meet.

use pelton::demo::questions::{Dial, Side, questions, statements};
use pelton::demo::shop::{SHOP_SEED, Shop};
use pelton::tao::score::{Limits, Scorer};
use std::collections::HashSet;

#[test]
fn every_true_sql_runs_and_answers_and_is_right() {
    let shop = Shop::generate(SHOP_SEED);
    let dir = tempfile::tempdir().unwrap();
    shop.write_parquet(dir.path()).unwrap();
    let scorer = Scorer::open(dir.path(), Limits::default()).unwrap();
    let asked = questions(&shop, 5, 500, Side::Asked, Dial::default());
    let sql: Vec<&str> = asked.iter().map(|q| q.sql.as_str()).collect();
    for (question, outcome) in asked.iter().zip(scorer.executor().run_all(&sql)) {
        let answer = outcome.answer().unwrap_or_else(|| panic!("{}: {outcome:?}", question.sql));
        assert!(answer.rows > 0 && answer.has_value && !answer.is_zero, "{question:?} gives {answer:?}");
    }
    let pairs: Vec<_> = asked.iter().map(|q| (q.sql.as_str(), q.sql.as_str())).collect();
    assert!(scorer.is_correct(&pairs).into_iter().all(|right| right));
    let messages: Vec<_> = asked.iter().map(|q| q.messages()).collect();
    let judged: Vec<_> = messages.iter().zip(&sql).map(|(m, sql)| (m.as_slice(), *sql)).collect();
    let rewards = scorer.judge(&judged);
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    assert!(mean > 0.85, "the truth earns {mean} on average without being known");
}

#[test]
fn the_sides_never_meet_and_a_seed_gives_the_same() {
    let shop = Shop::generate(SHOP_SEED);
    assert_eq!(shop, Shop::generate(SHOP_SEED));
    assert_ne!(shop, Shop::generate(SHOP_SEED + 1));
    let labelled = questions(&shop, 1, 600, Side::Labelled, Dial::default());
    let asked = questions(&shop, 1, 600, Side::Asked, Dial::default());
    assert_eq!(asked, questions(&shop, 1, 600, Side::Asked, Dial::default()));
    let hashes: HashSet<_> = labelled.iter().map(|q| q.hash()).collect();
    assert_eq!(hashes.len(), 600, "no question twice");
    assert!(asked.iter().all(|q| !hashes.contains(&q.hash())));
    let easy = Dial { levels: [1.0, 0.0, 0.0] };
    assert!(questions(&shop, 1, 100, Side::Asked, easy).iter().all(|q| q.level == 1));
    assert_eq!(statements(&shop, 3, 50, Dial::default()), statements(&shop, 3, 50, Dial::default()));
}
