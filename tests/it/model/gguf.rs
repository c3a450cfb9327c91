//! GGUF files mean what transformers reads from them, and what is not understood is named.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use pelton::model::{ChatMessage, Model};

use super::{CPU, fixture_decoder, largest_difference, values};

/// A file that `scripts/fixtures/gguf_models.py` wrote.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

#[test]
fn a_file_computes_what_the_safetensors_do() {
    for name in ["llama_tied", "qwen3"] {
        let model = Model::load(&file(&format!("{name}.gguf")), &CPU).unwrap();
        let row = vec![3, 9, 27, 14, 31, 5, 8, 20];
        let found = model.decoder().logits(std::slice::from_ref(&row)).unwrap();
        let expected = fixture_decoder(name).logits(&[row]).unwrap();
        assert!(largest_difference(&values(&found[0]), &values(&expected[0])) < 1e-5, "{name}");
        assert_eq!(model.stop_tokens(), [2]);
    }
}

#[test]
fn texts_become_the_tokens_that_transformers_makes_of_them() {
    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }
    for name in ["llama_tied", "qwen3"] {
        let model = Model::load(&file(&format!("{name}.gguf")), &CPU).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&fs::read(file(&format!("{name}.json"))).unwrap()).unwrap();
        for case in cases {
            assert_eq!(model.encode(&case.text).unwrap(), case.ids, "{name}: {:?}", case.text);
            assert_eq!(model.decode(&case.ids).unwrap(), case.text, "{name}");
        }
    }
}

#[test]
fn a_folder_with_one_file_is_a_model_and_its_chat_template_counts() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(file("llama_tied.gguf"), folder.path().join("a.gguf")).unwrap();
    let model = Model::load(folder.path(), &CPU).unwrap();
    let message = ChatMessage { role: "user".to_owned(), content: "cab".to_owned() };
    let refused = model.encode_chat(std::slice::from_ref(&message)).unwrap_err().to_string();
    assert!(refused.contains("has no chat template"), "{refused}");
    fs::write(folder.path().join("chat_template.jinja"), "<turn>{{ messages[0]['content'] }}").unwrap();
    let model = Model::load(folder.path(), &CPU).unwrap();
    assert_eq!(model.encode_chat(&[message]).unwrap(), model.encode("<turn>cab").unwrap());
    fs::copy(file("qwen3.gguf"), folder.path().join("b.gguf")).unwrap();
    assert!(Model::load(folder.path(), &CPU).is_err(), "two files are no answer to which one is meant");
}

#[test]
fn what_is_not_understood_is_named() {
    let refusal = |metadata: &[(&str, Value)], tensors: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let tensor = candle_core::Tensor::zeros((4, 4), candle_core::DType::F32, &CPU).unwrap();
        let tensor = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let tensors: Vec<_> = tensors.iter().map(|name| (*name, &tensor)).collect();
        write(&mut File::create(&path).unwrap(), &metadata, &tensors).unwrap();
        let message = Model::load(&path, &CPU).unwrap_err().to_string();
        message.replace(&format!("{}/", folder.path().display()), "")
    };
    let text = |text: &str| Value::String(text.to_owned());
    assert_eq!(refusal(&[], &[]), "x.gguf: general.architecture is missing");
    assert_eq!(
        refusal(&[("general.architecture", text("mamba"))], &[]),
        "x.gguf: general.architecture is \"mamba\"; supported are llama, qwen2, qwen3, gemma3"
    );
    assert_eq!(
        refusal(&[("general.architecture", text("llama"))], &[]),
        "x.gguf: llama.attention.head_count is missing"
    );
    let numbers = ["attention.head_count", "embedding_length", "feed_forward_length", "block_count", "context_length"];
    let mut metadata: HashMap<String, Value> =
        numbers.iter().map(|name| (format!("llama.{name}"), Value::U32(4))).collect();
    metadata.insert("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-6));
    metadata.insert("llama.attention.key_length".to_owned(), Value::U32(4));
    metadata.insert("general.architecture".to_owned(), text("llama"));
    let metadata: Vec<(&str, Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let refused = refusal(&metadata, &["token_embd.weight", "blk.0.ssm_in.weight"]);
    assert_eq!(refused, "x.gguf: tensor blk.0.ssm_in.weight is not understood; is the file of another architecture?");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    fs::write(&path, &fs::read(file("qwen3.gguf")).unwrap()[..9_000]).unwrap();
    let refused = Model::load(&path, &CPU).unwrap_err().to_string();
    assert!(refused.contains("cut.gguf: "), "{refused}");
}
