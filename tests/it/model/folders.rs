//! Folders: what loads, what is refused and in which words, and that an adapter survives a PEFT folder.

use std::fs;
use std::path::Path;

use pelton::model::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, ChatMessage, ChatTemplate, Error, Llama3Rope, Lora, LoraConfig, Model,
    ModelConfig, Precision, RopeScaling, Tensors, Weights, content_hash, read_safetensors, write_safetensors,
};

use super::{CPU, check_close, fixture, fixture_adapter, fixture_config, largest_difference, small_config, values};

const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\n{% if message['role'] == 'user' %}\n\
    <u> {{ message['content'].strip() }}\n{%- endif %}\n{% endfor %}\n{% if add_generation_prompt %} <a>{% endif %}";

/// A complete model folder of random weights.
fn write_model(folder: &Path) -> Weights {
    let config = ModelConfig { vocab_size: 8, bos_token_id: Some(1), eos_token_ids: vec![2], ..small_config() };
    let weights = Weights::random(&config, 3, &CPU).unwrap();
    fs::write(folder.join("config.json"), config.to_json().unwrap()).unwrap();
    weights.write(folder, Precision::F32).unwrap();
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(1, "<s>"), special(2, "</s>"), special(3, "<u>"), special(4, "<a>")],
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": {
            "<unk>": 0, "<s>": 1, "</s>": 2, "<u>": 3, "<a>": 4, "how": 5, "many": 6, "shops": 7}},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = serde_json::json!({"chat_template": TEMPLATE, "bos_token": "<s>", "eos_token": {"content": "</s>"}});
    fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
    weights
}

/// What loading says once `spoil` has worked on a good folder, with the folder's name left out.
fn refusal(spoil: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    spoil(folder.path());
    let message = Model::load(folder.path(), &CPU).unwrap_err().to_string();
    message.replace(&format!("{}/", folder.path().display()), "").replace(&folder.path().display().to_string(), "DIR")
}

fn edit_config(folder: &Path, field: &str, value: serde_json::Value) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn edit_weights(folder: &Path, edit: impl FnOnce(&mut Tensors)) {
    let path = folder.join("model.safetensors");
    let mut tensors = read_safetensors(&path, &CPU).unwrap();
    edit(&mut tensors);
    write_safetensors(&path, &tensors, Precision::F32).unwrap();
}

#[test]
fn a_folder_loads_with_its_tokenizer_and_template() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let model = Model::load(folder.path(), &CPU).unwrap();
    let ids = model.encode_chat(&[ChatMessage::new("user", "  how many shops ")]).unwrap();
    assert_eq!(ids, [1, 3, 5, 6, 7, 4]);
    assert_eq!(model.decode(&[4, 5, 7, 2]).unwrap(), "how shops");
    assert_eq!(model.stop_tokens(), [2]);
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [2, 4]}"#).unwrap();
    assert_eq!(Model::load(folder.path(), &CPU).unwrap().stop_tokens(), [2, 4]);
    fs::write(folder.path().join("chat_template.jinja"), "<a> {{ messages[0].content }}").unwrap();
    let ids = Model::load(folder.path(), &CPU).unwrap().encode_chat(&[ChatMessage::new("user", "how")]).unwrap();
    assert_eq!(ids, [4, 5]);
}

#[test]
fn half_precision_and_shards_load_as_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let weights = write_model(folder.path());
    weights.write(folder.path(), Precision::F16).unwrap();
    let config = Model::load(folder.path(), &CPU).unwrap().config().clone();
    let half = Weights::read(folder.path(), &config, &CPU).unwrap();
    check_close(&half.tensors, &weights.tensors, 1e-3);
    assert_ne!(values(&half.tensors["model.norm.weight"]).len(), 0);

    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let (mut shards, mut map) = ([Tensors::new(), Tensors::new()], serde_json::Map::new());
    for (index, (name, tensor)) in weights.tensors.iter().enumerate() {
        shards[index % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), format!("part-{}.safetensors", index % 2).into());
    }
    for (index, shard) in shards.iter().enumerate() {
        write_safetensors(&folder.path().join(format!("part-{index}.safetensors")), shard, Precision::F32).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    let sharded = Weights::read(folder.path(), &config, &CPU).unwrap();
    check_close(&sharded.tensors, &weights.tensors, 1e-9);

    map.insert("model.norm.weight".to_owned(), "../outside.safetensors".into());
    fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    let message = Weights::read(folder.path(), &config, &CPU).unwrap_err().to_string();
    assert!(message.ends_with("weight_map is ../outside.safetensors, expected file names without folders"));
}

#[test]
fn the_content_hash_changes_with_configuration_and_weights_alone() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let first = content_hash(folder.path()).unwrap();
    assert_eq!(first.len(), 64);
    fs::write(folder.path().join("README.md"), "words").unwrap();
    assert_eq!(first, content_hash(folder.path()).unwrap());
    assert_eq!(first, Model::load(folder.path(), &CPU).unwrap().content_hash());
    edit_weights(folder.path(), |tensors| {
        let name = "model.norm.weight";
        let more = (&tensors[name] + 0.5).unwrap();
        tensors.insert(name.to_owned(), more);
    });
    let second = content_hash(folder.path()).unwrap();
    edit_config(folder.path(), "rope_theta", 5.into());
    let third = content_hash(folder.path()).unwrap();
    assert!(first != second && second != third);
}

#[test]
fn a_bad_folder_is_refused_by_name() {
    let check = |spoil: &dyn Fn(&Path), expected: &str| assert_eq!(refusal(|folder| spoil(folder)), expected);
    check(
        &|folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(),
        "DIR has no tokenizer: expected a tokenizer.json (Hugging Face tokenizers format)",
    );
    check(
        &|folder| fs::remove_file(folder.join("model.safetensors")).unwrap(),
        "DIR has no weights: expected model.safetensors, model.safetensors.index.json or one .gguf file",
    );
    check(&|folder| fs::remove_file(folder.join("config.json")).unwrap(), "cannot read config.json");
    check(
        &|folder| edit_config(folder, "model_type", "mamba".into()),
        "config.json: model_type \"mamba\" is not supported; supported are llama, mistral, qwen2, qwen3, smollm3, gemma3_text",
    );
    check(
        &|folder| edit_config(folder, "hidden_act", "gelu".into()),
        "config.json: field hidden_act is gelu, expected silu or gelu_pytorch_tanh",
    );
    check(
        &|folder| edit_config(folder, "num_key_value_heads", 3.into()),
        "config.json: field num_key_value_heads is 3, expected a divisor of num_attention_heads",
    );
    check(
        &|folder| edit_config(folder, "rope_parameters", serde_json::json!({"rope_type": "yarn"})),
        "config.json: field rope_type is yarn, expected default, linear or llama3",
    );
    check(
        &|folder| edit_config(folder, "intermediate_size", 40.into()),
        "DIR: tensor model.layers.0.mlp.gate_proj.weight has shape [48, 32], expected [40, 32]",
    );
    check(
        &|folder| edit_weights(folder, |tensors| drop(tensors.remove("model.layers.1.self_attn.k_proj.weight"))),
        "DIR has no tensor model.layers.1.self_attn.k_proj.weight (expected shape [16, 32])",
    );
    check(
        &|folder| fs::write(folder.join("model.safetensors"), b"pickle").unwrap(),
        "model.safetensors is not a safetensors file",
    );
    check(
        &|folder| fs::write(folder.join("config.json"), "{\"model_type\": \"llama\"}").unwrap(),
        "config.json is not the JSON that is expected",
    );
}

#[test]
fn a_model_without_a_template_loads_but_does_not_chat() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let model = Model::load(folder.path(), &CPU).unwrap();
    assert_eq!(model.encode("how <a>").unwrap(), [5, 4]);
    let message = model.encode_chat(&[ChatMessage::new("user", "how")]).unwrap_err().to_string();
    assert!(message.contains("has no chat template: expected chat_template.jinja"), "{message}");
}

#[test]
fn templates_render_as_in_python() {
    let check = |source: &str, expected: &str| {
        let template = ChatTemplate::parse(source.to_owned(), Path::new("m"), Some("<s>".into()), None).unwrap();
        let messages = [ChatMessage::new("system", "be \"brief\" <&'>"), ChatMessage::new("user", " a-b ")];
        assert_eq!(template.render(&messages).unwrap(), expected, "{source}");
    };
    check("{% if true %}\n  x\n  {% endif %}\ny", "  x\ny");
    check("{{ messages[1].content | trim }}|{{ messages[1]['content'].strip() }}|", "a-b|a-b|");
    check("{{ messages[1].content.split('-')[0] }}|{{ messages[0].content.startswith('be') }}", " a|True");
    check("{{ messages[0] | tojson }}", r#"{"role": "system", "content": "be \"brief\" <&'>"}"#);
    check("{{ messages[0].get('name', 'nobody') }}{{ messages[0].get('role') }}", "nobodysystem");
    check("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2");
    check("{{ bos_token }}{{ eos_token is defined and eos_token is not none }}", "<s>False");
}

#[test]
fn a_template_that_refuses_says_why() {
    let source = "{{ raise_exception('only users may speak') }}".to_owned();
    let template = ChatTemplate::parse(source, Path::new("m"), None, None).unwrap();
    let Error::ChatTemplate { source, .. } = template.render(&[]).unwrap_err() else { panic!("another error") };
    assert!(source.to_string().contains("only users may speak"));
}

#[test]
fn an_adapter_survives_a_peft_folder() {
    for name in ["llama_tied", "llama_untied"] {
        let folder = tempfile::tempdir().unwrap();
        let lora = fixture_adapter(name);
        assert_eq!((lora.config.rank, lora.config.alpha), (2, 3.0));
        lora.save(folder.path(), "models/base").unwrap();
        let read = |path: &Path| fs::read(path).unwrap();
        let written = read(&folder.path().join(ADAPTER_WEIGHTS));
        // Byte for byte what PEFT itself wrote.
        assert_eq!(written, read(&fixture(name).join("adapter").join(ADAPTER_WEIGHTS)));
        let again = Lora::load(folder.path(), &fixture_config(name), &CPU).unwrap();
        assert_eq!(again.config, lora.config);
        check_close(&again.tensors, &lora.tensors, 1e-9);
        if let Ok(out) = std::env::var("PELTON_PEFT_OUT") {
            lora.save(&Path::new(&out).join(name), "base").unwrap();
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_adapter_and_another_seed_another() {
    let bytes = |seed: u64| {
        let folder = tempfile::tempdir().unwrap();
        let lora = Lora::new(&small_config(), LoraConfig::default(), seed, &CPU).unwrap();
        lora.save(folder.path(), "base").unwrap();
        [ADAPTER_WEIGHTS, ADAPTER_CONFIG].map(|file| fs::read(folder.path().join(file)).unwrap())
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1)[0], bytes(2)[0]);
    let lora = Lora::new(&small_config(), LoraConfig::default(), 1, &CPU).unwrap();
    let a = values(&lora.tensors["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"]);
    let bound = 1.0 / 48f32.sqrt();
    assert!(a.iter().all(|v| v.abs() <= bound) && a.iter().any(|v| v.abs() > 0.9 * bound));
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_by_name() {
    let refusal = |spoil: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        for file in [ADAPTER_WEIGHTS, ADAPTER_CONFIG] {
            fs::copy(fixture("llama_tied").join("adapter").join(file), folder.path().join(file)).unwrap();
        }
        spoil(folder.path());
        let message = Lora::load(folder.path(), &fixture_config("llama_tied"), &CPU).unwrap_err().to_string();
        message.replace(&format!("{}/", folder.path().display()), "")
    };
    let edit = |folder: &Path, field: &str, value: serde_json::Value| {
        let path = folder.join(ADAPTER_CONFIG);
        let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(path, config.to_string()).unwrap();
    };
    let name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight";
    assert_eq!(
        refusal(&|folder| edit(folder, "r", 4.into())),
        "adapter_model.safetensors: tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight \
         has shape [2, 16], expected [4, 16]",
    );
    assert_eq!(
        refusal(&|folder| edit(folder, "target_modules", serde_json::json!(["q_proj"]))),
        format!("adapter_model.safetensors: tensor {name} does not belong to this base model or to target_modules"),
    );
    assert_eq!(
        refusal(&|folder| edit(folder, "use_dora", true.into())),
        "adapter_config.json: field use_dora is true, expected absent, null, false or empty",
    );
    assert_eq!(
        refusal(&|folder| edit(folder, "peft_type", "IA3".into())),
        "adapter_config.json: field peft_type is IA3, expected LORA",
    );
    assert_eq!(
        refusal(&|folder| fs::remove_file(folder.join(ADAPTER_WEIGHTS)).unwrap()),
        "cannot read adapter_model.safetensors",
    );
    assert_eq!(
        refusal(&|folder| {
            let path = folder.join(ADAPTER_WEIGHTS);
            let mut tensors = read_safetensors(&path, &CPU).unwrap();
            tensors.remove(name);
            write_safetensors(&path, &tensors, Precision::F32).unwrap();
        }),
        format!("adapter_model.safetensors has no tensor {name} (expected shape [2, 20])"),
    );
}

#[test]
fn a_written_configuration_reads_back_as_it_was() {
    for name in ["llama_tied", "llama_untied"] {
        let config = fixture_config(name);
        assert_eq!(ModelConfig::parse(&config.to_json().unwrap(), Path::new("again")).unwrap(), config);
    }
    let old = r#"{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "rope_theta": 50000.0, "vocab_size": 9, "eos_token_id": [1, 2], "rope_scaling":
        {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 8192}}"#;
    let config = ModelConfig::parse(old, Path::new("old")).unwrap();
    let llama3 = Llama3Rope {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    assert_eq!((config.rope.theta, config.kv_heads, config.head_dim), (50_000.0, 4, 8));
    assert_eq!(
        (config.eos_token_ids.as_slice(), config.rope.scaling),
        ([1, 2].as_slice(), RopeScaling::Llama3(llama3))
    );
}

#[test]
fn fresh_weights_have_the_spread_that_is_promised() {
    let weights = Weights::random(&small_config(), 3, &CPU).unwrap();
    let spread = |name: &str| {
        let v = values(&weights.tensors[name]);
        (v.iter().map(|v| v * v).sum::<f32>() / v.len() as f32).sqrt()
    };
    assert!((spread("model.embed_tokens.weight") - 0.02).abs() < 0.002);
    assert!((spread("model.layers.0.mlp.down_proj.weight") - 0.01).abs() < 0.002);
    let again = Weights::random(&small_config(), 3, &CPU).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    assert_eq!(largest_difference(&values(&again.tensors[name]), &values(&weights.tensors[name])), 0.0);
}
