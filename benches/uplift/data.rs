//! The questions: the first labels for the base, the others without theirs, dev for the figures.

use anyhow::Context as _;
use pelton::domain::{ChatMessage, Prompt, PromptHash, Timestamp};
use serde::Deserialize;
use std::path::Path;

/// One question with the SQL that answers it.
#[derive(Debug, Clone, Deserialize)]
pub struct Question {
    pub question: String,
    pub sql: String,
}

/// All questions by what they are for.
pub struct Data {
    pub labelled: Vec<Question>,
    pub unlabelled: Vec<Question>,
    pub dev: Vec<Question>,
}

impl Question {
    pub fn messages(&self) -> Vec<ChatMessage> {
        vec![ChatMessage::user(self.question.clone())]
    }

    pub fn prompt(&self) -> Prompt {
        let messages = self.messages();
        let hash = PromptHash::of(&messages);
        Prompt { request_id: hash.to_string(), hash, messages, request_time: Timestamp::EPOCH }
    }
}

impl Data {
    pub fn read(folder: &Path, labels: usize) -> anyhow::Result<Self> {
        let mut labelled = read(&folder.join("train.jsonl"))?;
        let unlabelled = labelled.split_off(labels.min(labelled.len()));
        Ok(Self { labelled, unlabelled, dev: read(&folder.join("dev.jsonl"))? })
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Question>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parse = |(i, line)| serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), i + 1));
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}
