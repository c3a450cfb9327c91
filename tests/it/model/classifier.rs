//! Sequence classifiers give the same numbers as Hugging Face transformers (a committed fixture).

use super::{CPU, values};
use pelton::domain::ChatMessage as Turn;
use pelton::model::{ChatMessage, Classifier, read_safetensors};
use pelton::tao::score::RewardModel;
use std::path::{Path, PathBuf};

const TOLERANCE: f32 = 1e-4;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/classifiers").join(name)
}

#[test]
fn scores_agree_with_transformers() {
    for (name, labels) in [("llama", 1), ("qwen2", 1), ("qwen3_three_labels", 3)] {
        let classifier = Classifier::load(&folder(name), &CPU).unwrap();
        assert_eq!(classifier.labels(), labels);
        let expected = read_safetensors(&folder(name).join("expected.safetensors"), &CPU).unwrap();
        let ids = expected["ids"].to_vec2::<f32>().unwrap();
        let lengths = values(&expected["lengths"]);
        let row = |(ids, length): (&Vec<f32>, &f32)| ids[..*length as usize].iter().map(|id| *id as u32).collect();
        let rows: Vec<Vec<u32>> = ids.iter().zip(&lengths).map(row).collect();
        let found = classifier.logits(&rows).unwrap();
        for (found, expected) in found.iter().zip(expected["scores"].to_vec2::<f32>().unwrap()) {
            for (f, e) in found.iter().zip(&expected) {
                assert!((f - e).abs() < TOLERANCE, "{name}: {found:?} for {expected:?}");
            }
        }
        let alone = classifier.logits(&rows[2..3]).unwrap();
        assert!(
            alone[0].iter().zip(&found[2]).all(|(a, b)| (a - b).abs() < 1e-5),
            "a row does not depend on the others"
        );
        let chat = [ChatMessage::new("user", "w7 w9 w30"), ChatMessage::new("assistant", "w12 w5")];
        let chat = classifier.encode_conversation(&chat).unwrap();
        let score = classifier.logits(&[chat]).unwrap();
        for (f, e) in score[0].iter().zip(&values(&expected["chat_score"])) {
            assert!((f - e).abs() < TOLERANCE, "{name}: {score:?}");
        }
    }
}

#[test]
fn a_reward_model_has_one_label_and_leaves_out_what_does_not_fit() {
    let model = RewardModel::load(&folder("llama")).unwrap();
    let messages = [Turn::user("w7 w9 w30")];
    let long = "w5 ".repeat(80);
    let scores = model.scores(&[(&messages, "w12 w5"), (&messages, &long)]).unwrap();
    let expected = read_safetensors(&folder("llama").join("expected.safetensors"), &CPU).unwrap();
    assert!((scores[0].unwrap() - f64::from(values(&expected["chat_score"])[0])).abs() < 1e-4);
    assert_eq!(scores[1], None);
    let error = RewardModel::load(&folder("qwen3_three_labels")).unwrap_err().to_string();
    assert!(error.contains("3 labels"), "{error}");
    let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sql-tiny");
    let error = anyhow::Error::from(RewardModel::load(&plain).unwrap_err());
    assert!(format!("{error:#}").contains("score.weight"), "{error:#}");
}
