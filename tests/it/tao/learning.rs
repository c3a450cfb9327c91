//! A tiny random model explores and learns: the same seed gives the same bytes, and rewards move probabilities.

use candle_core::Device;
use pelton::config::{Algorithm, Explore, Lora as LoraSection, Optimize};
use pelton::domain::{Candidate, ChatMessage, Prompt, PromptHash, Timestamp};
use pelton::model::{LayerConfig, Model, ModelConfig, Options, Precision, Rope, Weights};
use pelton::tao::explore::{answer_greedily, explore};
use pelton::tao::optimize::{Error, Task, Trained, optimize};
use pelton::tao::{Progress, Watch, rng_seed};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const ALL: [Algorithm; 7] = [
    Algorithm::Oapl,
    Algorithm::Grpo,
    Algorithm::DrGrpo,
    Algorithm::Rloo,
    Algorithm::Dpo,
    Algorithm::BestOfN,
    Algorithm::ZeroLabel,
];

const WORDS: [&str; 12] = ["<unk>", "<s>", "</s>", "<u>", "<a>", "red", "blue", "green", "one", "two", "three", "four"];

/// A folder with a random model that knows a dozen words.
pub(super) fn model(folder: &Path) -> Model {
    write_model(folder, None)
}

/// The same, or one that has likings: an output matrix of its own that is `liking` times as large.
pub(super) fn write_model(folder: &Path, liking: Option<f64>) -> Model {
    let config = ModelConfig {
        model_type: "llama".to_owned(),
        hidden_size: 32,
        intermediate_size: 48,
        layers: vec![LayerConfig::PLAIN; 2],
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope: Rope::plain(10_000.0),
        local_rope: None,
        options: Options::llama(8),
        tie_word_embeddings: liking.is_none(),
        vocab_size: WORDS.len(),
        max_position_embeddings: 32,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
    };
    fs::write(folder.join("config.json"), config.to_json().unwrap()).unwrap();
    let mut weights = Weights::random(&config, 3, &Device::Cpu).unwrap();
    if let (Some(liking), Some(head)) = (liking, weights.tensors.get_mut("lm_head.weight")) {
        *head = head.affine(liking, 0.0).unwrap();
    }
    weights.write(folder, Precision::F32).unwrap();
    let special = |id: usize| {
        serde_json::json!({"id": id, "content": WORDS[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().enumerate().map(|(i, w)| ((*w).to_owned(), serde_json::json!(i))).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(1), special(2), special(3), special(4)],
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocabulary},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{{ bos_token }}{% for m in messages %}<u> {{ m['content'] }} {% endfor %}<a>";
    let settings = serde_json::json!({"chat_template": template, "bos_token": "<s>", "eos_token": "</s>"});
    fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
    Model::load(folder, &Device::Cpu).unwrap()
}

pub(super) fn prompts() -> Vec<Prompt> {
    let prompt = |text: &str| {
        let messages = vec![ChatMessage::user(text)];
        Prompt {
            request_id: text.to_owned(),
            hash: PromptHash::of(&messages),
            messages,
            request_time: Timestamp::EPOCH,
        }
    };
    ["red", "blue", "green", "red blue", "blue green", "one red", "two blue"].map(prompt).to_vec()
}

fn sampling() -> Explore {
    Explore { samples: 6, temperatures: vec![0.8, 1.2], tokens_max: 8, batch_rows: 16, ..Explore::default() }
}

pub(super) fn quiet<R>(run: impl FnOnce(&Watch<'_>) -> R) -> R {
    run(&Watch::new(&|_| {}, &AtomicBool::new(false)))
}

/// Rewards answers that hold the word `two`.
fn score(candidates: &mut [Candidate]) {
    for candidate in candidates {
        candidate.reward = Some(f64::from(u8::from(candidate.text.contains("two"))));
    }
}

fn options(algorithm: Algorithm) -> Optimize {
    Optimize {
        algorithm,
        epochs: 12,
        prompts_per_step: 3,
        batch_tokens_max: 64,
        learning_rate: 1e-2,
        oapl_beta_value: 1.0,
        oapl_beta_policy: 0.1,
        zero_label_share_min: 0.1,
        ..Optimize::default()
    }
}

fn cycle(model: &Model, options: &Optimize, seed: u64) -> Result<Trained, Error> {
    let mut explored = quiet(|watch| explore(model, None, &prompts(), &sampling(), seed, watch)).unwrap();
    score(&mut explored.candidates);
    let task = Task { model, start: None, prompts: &explored.prompt_tokens, candidates: &explored.candidates };
    let lora = LoraSection { rank: 4, alpha: 8.0, ..LoraSection::default() };
    quiet(|watch| optimize(&task, &lora, options, seed, watch))
}

fn bytes(trained: &Trained, folder: &Path) -> Vec<u8> {
    trained.adapter.save(folder, "base").unwrap();
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn exploration_depends_on_its_seed_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let run =
        |prompts: &[Prompt], seed| quiet(|w| explore(&model, None, prompts, &sampling(), seed, w)).unwrap().candidates;
    let all = run(&prompts(), 7);
    assert_eq!(all.len(), 7 * 6);
    assert_eq!(all, run(&prompts(), 7));
    assert_ne!(all, run(&prompts(), 8));
    assert_eq!(run(&prompts()[2..3], 7), all[12..18], "a prompt's samples do not depend on the other prompts");
    for candidate in &all {
        assert_eq!(candidate.tokens.len(), candidate.logprobs.len());
        assert!(candidate.logprobs.iter().all(|l| l.is_finite() && *l <= 0.0));
        let rung = if candidate.sample % 2 == 0 { "temperature=0.8" } else { "temperature=1.2" };
        assert_eq!(candidate.strategy, rung);
    }
    assert_ne!(rng_seed(&[1, 2]), rng_seed(&[2, 1]));
}

#[test]
fn the_same_seed_gives_the_same_adapter_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    for algorithm in ALL {
        let options = options(algorithm);
        let run = |seed, name: &str| bytes(&cycle(&model, &options, seed).unwrap(), &dir.path().join(name));
        assert_eq!(run(5, "a"), run(5, "b"));
        assert_ne!(run(5, "a"), run(6, "c"));
    }
}

#[test]
fn what_is_rewarded_becomes_more_probable() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    for algorithm in ALL.into_iter().filter(|a| *a != Algorithm::ZeroLabel) {
        let trained = cycle(&model, &options(algorithm), 5).unwrap();
        let mean = |adapter| {
            let mut explored = quiet(|w| explore(&model, adapter, &prompts(), &sampling(), 77, w)).unwrap();
            score(&mut explored.candidates);
            explored.candidates.iter().filter_map(|c| c.reward).sum::<f64>() / explored.candidates.len() as f64
        };
        let (before, after) = (mean(None), mean(Some(&trained.adapter)));
        assert!(after > before + 0.05, "{algorithm:?}: mean reward {before} became {after}");
        assert!(trained.steps.iter().all(|s| !s.skipped && s.loss.is_finite() && s.tokens > 0));
        assert!(trained.steps[0].kl < 1e-9, "the first step is on the behaviour policy itself");
        assert!(trained.steps.last().unwrap().kl > 1e-4, "the last one has moved");
    }
}

#[test]
fn micro_batches_change_nothing_beyond_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let losses = |batch_tokens_max| {
        let options = Optimize { batch_tokens_max, epochs: 1, ..options(Algorithm::Oapl) };
        cycle(&model, &options, 5).unwrap().steps.iter().map(|s| s.loss).collect::<Vec<_>>()
    };
    for (one, many) in losses(100_000).iter().zip(losses(1)) {
        assert!((one - many).abs() < 1e-5 * one.abs().max(1e-3), "{one} and {many}");
    }
}

#[test]
fn a_run_ends_early_by_flag_and_fails_with_what_to_try() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let mut explored = quiet(|w| explore(&model, None, &prompts(), &sampling(), 1, w)).unwrap();
    score(&mut explored.candidates);
    let task = |candidates| Task { model: &model, start: None, prompts: &explored.prompt_tokens, candidates };
    let lora = LoraSection::default();

    let (cancelled, seen) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let progress = |p: Progress| {
        seen.lock().unwrap().push(p.done);
        cancelled.store(p.done == 2, Ordering::Relaxed);
    };
    let watch = Watch::new(&progress, &cancelled);
    let ended = optimize(&task(&explored.candidates), &lora, &options(Algorithm::Oapl), 1, &watch);
    assert!(matches!(ended, Err(Error::Cancelled { steps: 2 })), "{ended:?}");
    assert_eq!(*seen.lock().unwrap(), [1, 2]);

    let mut flat = explored.candidates.clone();
    flat.iter_mut().for_each(|c| c.reward = Some(0.5));
    let error = quiet(|w| optimize(&task(&flat), &lora, &options(Algorithm::Oapl), 1, w)).unwrap_err().to_string();
    assert!(error.contains("nothing to learn") && error.contains("temperature"), "{error}");

    let wild = Optimize { learning_rate: 1e30, skipped_steps_max: 1, ..options(Algorithm::Oapl) };
    let error = quiet(|w| optimize(&task(&explored.candidates), &lora, &wild, 1, w)).unwrap_err().to_string();
    assert!(error.contains("not finite") && error.contains("learning_rate"), "{error}");
}

#[test]
fn greedy_answers_are_the_same_whatever_is_asked_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let conversations: Vec<_> = prompts().into_iter().map(|p| p.messages).collect();
    let all = answer_greedily(&model, None, &conversations, &sampling()).unwrap();
    for (conversation, answer) in conversations.iter().zip(&all) {
        assert_eq!(answer_greedily(&model, None, std::slice::from_ref(conversation), &sampling()).unwrap()[0], *answer);
    }
}
