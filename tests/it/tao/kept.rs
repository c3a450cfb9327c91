//! A step that ends in the middle goes on from what it kept, and ends as an unbroken one; what is not its own it leaves.

use super::learning::{model, prompts, quiet};
use pelton::config::{Explore, Lora as LoraSection, Optimize};
use pelton::domain::Candidate;
use pelton::model::Model;
use pelton::tao::explore::{Explored, explore};
use pelton::tao::optimize::{Task, Trained, optimize};
use pelton::tao::{Keeper, Progress, SaveError, Watch};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A keeper that every step finds due.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, Vec<u8>>>);

impl Keeper for Shelf {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, SaveError> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }

    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), SaveError> {
        self.0.lock().unwrap().insert(name.to_owned(), bytes);
        Ok(())
    }

    fn is_due(&self) -> bool {
        true
    }
}

/// Runs until `steps` are done, then is cancelled.
fn broken<R>(shelf: &Shelf, steps: usize, run: impl FnOnce(&Watch<'_>) -> R) -> R {
    let cancelled = AtomicBool::new(false);
    let report = |p: Progress| cancelled.store(p.done >= steps, Ordering::Relaxed);
    run(&Watch::new(&report, &cancelled).keeping(shelf))
}

fn whole<R>(shelf: &Shelf, run: impl FnOnce(&Watch<'_>) -> R) -> R {
    quiet(|watch| run(&watch.keeping(shelf)))
}

fn explored(model: &Model) -> Explored {
    let sampling = Explore { samples: 6, tokens_max: 8, ..Explore::default() };
    let mut explored = quiet(|w| explore(model, None, &prompts(), &sampling, 1, w)).unwrap();
    score(&mut explored.candidates);
    explored
}

fn score(candidates: &mut [Candidate]) {
    for candidate in candidates {
        candidate.reward = Some(f64::from(u8::from(candidate.text.contains("two"))));
    }
}

#[test]
fn a_broken_optimization_ends_as_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let explored = explored(&model);
    let task = Task { model: &model, start: None, prompts: &explored.prompt_tokens, candidates: &explored.candidates };
    let options = Optimize { epochs: 8, prompts_per_step: 3, learning_rate: 1e-2, ..Optimize::default() };
    let lora = LoraSection { rank: 4, alpha: 8.0, ..LoraSection::default() };
    let run = |seed, watch: &Watch<'_>| optimize(&task, &lora, &options, seed, watch);
    let bytes = |trained: &Trained, name: &str| {
        let folder = dir.path().join(name);
        trained.adapter.save(&folder, "base").unwrap();
        std::fs::read(folder.join("adapter_model.safetensors")).unwrap()
    };
    let unbroken = quiet(|w| run(5, w)).unwrap();
    let shelf = Shelf::default();
    for steps in [1, 4, 7] {
        assert!(broken(&shelf, steps, |w| run(5, w)).is_err());
    }
    let resumed = whole(&shelf, |w| run(5, w)).unwrap();
    assert_eq!(resumed.resumed, 7);
    assert_eq!(bytes(&resumed, "resumed"), bytes(&unbroken, "unbroken"));
    assert_eq!(resumed.steps, unbroken.steps);
    // The kept run is of the seed 5, and whole; a run of another seed, or on damaged bytes, begins anew.
    let other = whole(&shelf, |w| run(6, w)).unwrap();
    assert_eq!(other.resumed, 0);
    assert_eq!(bytes(&other, "other"), bytes(&quiet(|w| run(6, w)).unwrap(), "other-unbroken"));
    shelf.0.lock().unwrap().values_mut().for_each(|bytes| bytes.truncate(bytes.len() / 2));
    assert_eq!(whole(&shelf, |w| run(6, w)).unwrap().resumed, 0);
}

#[test]
fn a_broken_exploration_ends_as_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    // More prompts than are drawn at once.
    let words = ["red", "blue", "green", "one", "two", "three", "four"];
    let pairs = words.iter().flat_map(|a| words.iter().map(move |b| format!("{a} {b}")));
    let prompts: Vec<_> = pairs
        .chain(words.iter().flat_map(|a| words.iter().map(move |b| format!("{a} {b} {a}"))))
        .map(|text| {
            let messages = vec![pelton::domain::ChatMessage::user(text)];
            let hash = pelton::domain::PromptHash::of(&messages);
            let request_time = pelton::domain::Timestamp::EPOCH;
            pelton::domain::Prompt { request_id: hash.to_string(), hash, messages, request_time }
        })
        .collect();
    let sampling = Explore { samples: 3, tokens_max: 6, ..Explore::default() };
    let run = |seed, watch: &Watch<'_>| explore(&model, None, &prompts, &sampling, seed, watch);
    let unbroken = quiet(|w| run(1, w)).unwrap();
    let shelf = Shelf::default();
    assert!(broken(&shelf, 1, |w| run(1, w)).is_err());
    assert!(broken(&shelf, 33, |w| run(1, w)).is_err());
    let resumed = whole(&shelf, |w| run(1, w)).unwrap();
    assert_eq!((unbroken.resumed, resumed.resumed), (0, 64));
    assert_eq!(resumed.candidates, unbroken.candidates);
    assert_eq!(whole(&shelf, |w| run(1, w)).unwrap().resumed, prompts.len(), "all of it is kept");
    assert_eq!(whole(&shelf, |w| run(2, w)).unwrap().resumed, 0, "of another seed nothing is");
}
