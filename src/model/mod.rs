//! Hugging Face folders and GGUF files to a differentiable decoder with LoRA, and generation.
//!
//! - [`Model`]: a base model with tokenizer and chat template ([`ModelConfig`], [`Weights`], [`ChatTemplate`])
//! - [`Decoder`]: the network; frozen, with an adapter, or trainable as a whole
//! - [`Decoder::generate`]: batched sampling with recorded log-probabilities
//! - [`Decoder::logprobs`], [`Decoder::forward`]: log-probabilities of given completions, and their gradient
//! - [`Lora`]: an adapter, to and from PEFT folders
//! - [`AdamW`]: the optimiser
//!
//! Truth is Hugging Face transformers in f32. On the CPU the same inputs give the same bits, whatever the number of
//! threads and whatever else is in a batch. Nothing here knows rewards, losses or tables.

mod base;
mod batch;
mod chat;
mod classifier;
mod config;
mod constraint;
mod decoder;
mod error;
mod generate;
mod generator;
mod gguf;
mod linear;
mod logprob;
mod lora;
mod memory;
pub mod ops;
mod optim;
mod peft;
mod sample;
mod weights;

pub use base::{Model, TokenCounter};
pub use batch::PromptGroup;
pub use chat::{ChatMessage, ChatTemplate};
pub use classifier::Classifier;
pub use config::{
    Activation, LayerConfig, Llama3Rope, ModelConfig, Options, Rope, RopeScaling, Rotary, SUPPORTED_MODEL_TYPES,
};
pub use constraint::Constraint;
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use generate::{Ends, Finish, Generated, GenerationOptions, GenerationRequest, Ladder, PerSample};
pub use generator::{Ask, Drawn, Generator, Stuck};
pub use logprob::{ForwardPass, Keep};
pub use lora::{ALL_TARGETS, Lora, LoraConfig};
pub use memory::{Footprint, Load};
pub use optim::{AdamW, AdamWConfig, StepReport};
pub use peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
pub use sample::{Draw, Sampling, argmax, draw};
pub use weights::{
    Precision, Tensors, Weights, content_hash, read_safetensors, tensors_from_bytes, tensors_to_bytes,
    write_safetensors,
};
