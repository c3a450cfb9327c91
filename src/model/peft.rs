//! Adapters as PEFT folders: `adapter_model.safetensors` and `adapter_config.json`, which `peft`, vLLM and LoRAX load.
//!
//! The same adapter gives the same bytes. Reading checks that every tensor of every target is there, has the shape that
//! the base model implies, and that nothing else is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::Device;
use serde::Deserialize;
use serde_json::Value;

use super::config::ModelConfig;
use super::error::{Error, Result};
use super::lora::{ALL_TARGETS, Lora, LoraConfig};
use super::weights::{Precision, read_safetensors, write_safetensors};

/// The file of the matrices.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// The file of rank, scale and targets.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

impl Lora {
    /// Writes the adapter as a PEFT folder; `base_model` is the name or path by which others find the base.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, folder: &Path, base_model: &str) -> Result<()> {
        fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        write_safetensors(&folder.join(ADAPTER_WEIGHTS), &self.tensors, Precision::F32)?;
        let path = folder.join(ADAPTER_CONFIG);
        let text = format!("{:#}\n", config_json(&self.config, base_model));
        fs::write(&path, text).map_err(|source| Error::Write { path, source })
    }

    /// Reads a PEFT folder for a base model.
    ///
    /// # Errors
    /// A missing or damaged file, another kind of adapter than LoRA, a tensor that is missing, has a wrong shape or
    /// does not belong to this base.
    pub fn load(folder: &Path, model: &ModelConfig, device: &Device) -> Result<Self> {
        let path = folder.join(ADAPTER_CONFIG);
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let json = |source| Error::Json { path: path.clone(), source };
        let raw: Raw = serde_json::from_str(&text).map_err(json)?;
        let config = raw.into_config(&path)?;
        let path = folder.join(ADAPTER_WEIGHTS);
        let tensors = read_safetensors(&path, device)?;
        let expected = Lora::shapes(model, &config);
        for (name, shape) in &expected {
            let path = path.clone();
            match tensors.get(name) {
                None => return Err(Error::MissingTensor { path, name: name.clone(), expected: shape.clone() }),
                Some(tensor) if tensor.dims() != shape => {
                    let found = tensor.dims().to_vec();
                    return Err(Error::Shape { path, name: name.clone(), found, expected: shape.clone() });
                }
                Some(_) => {}
            }
        }
        let known = |name: &&String| !expected.iter().any(|(expected, _)| expected == *name);
        if let Some(name) = tensors.keys().find(known) {
            return Err(Error::UnexpectedTensor { path, name: name.clone() });
        }
        Ok(Self { config, tensors })
    }
}

/// The keys that every version of `peft` knows: newer ones have defaults, and older ones refuse keys they do not know.
fn config_json(config: &LoraConfig, base_model: &str) -> Value {
    let whole = config.alpha.fract() == 0.0 && config.alpha.abs() < 1e15;
    let alpha = if whole { serde_json::json!(config.alpha as i64) } else { serde_json::json!(config.alpha) };
    serde_json::json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": config.targets,
        "task_type": "CAUSAL_LM",
        "use_rslora": false,
    })
}

/// The fields that change what an adapter computes; the others are for training with other tools.
#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    target_modules: Targets,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Fields that must be absent, null, false or empty: an adapter that asks for more is refused by the field's name.
const UNSUPPORTED: &[&str] = &[
    "alpha_pattern",
    "exclude_modules",
    "fan_in_fan_out",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
];

#[derive(Deserialize)]
#[serde(untagged)]
enum Targets {
    Many(Vec<String>),
    One(String),
}

impl Raw {
    fn into_config(self, path: &Path) -> Result<LoraConfig> {
        let require = |holds: bool, field, found: &str, expected: &str| match holds {
            true => Ok(()),
            false => {
                let (found, expected) = (found.to_owned(), expected.to_owned());
                Err(Error::Field { path: path.to_owned(), field, found, expected })
            }
        };
        require(self.peft_type == "LORA", "peft_type", &self.peft_type, "LORA")?;
        require(self.r > 0, "r", "0", "at least 1")?;
        for field in UNSUPPORTED {
            if let Some(value) = self.others.get(*field).filter(|value| asks_for_something(value)) {
                require(false, field, &value.to_string(), "absent, null, false or empty")?;
            }
        }
        let bias = self.others.get("bias").and_then(Value::as_str).unwrap_or("none");
        require(bias == "none", "bias", bias, "none")?;
        let targets = match self.target_modules {
            Targets::Many(targets) => targets,
            Targets::One(target) if target == "all-linear" => ALL_TARGETS.iter().map(|t| (*t).to_owned()).collect(),
            Targets::One(target) => vec![target],
        };
        for target in &targets {
            require(ALL_TARGETS.contains(&target.as_str()), "target_modules", target, &ALL_TARGETS.join(", "))?;
        }
        Ok(LoraConfig { rank: self.r, alpha: self.lora_alpha, targets })
    }
}

fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}
