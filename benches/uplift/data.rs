//! The questions: some with labels for the base, the others without theirs, dev for the figures.

use anyhow::Context as _;
use arrow::array::AsArray as _;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pelton::domain::{ChatMessage, Prompt, PromptHash, Timestamp};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

/// One question with the SQL that answers it.
#[derive(Debug, Clone, Deserialize)]
pub struct Question {
    pub question: String,
    pub sql: String,
}

/// A text value of the tables.
pub struct Literal {
    column: String,
    value: String,
}

impl Literal {
    /// The value, and the condition that it becomes.
    pub fn as_question(&self) -> Question {
        Question { question: self.value.clone(), sql: format!("{} = '{}'", self.column, self.value) }
    }
}

/// All questions by what they are for.
pub struct Data {
    pub literals: Vec<Literal>,
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
    /// Reads the folder. Such files often lie in the order of the questions' templates, so which questions have labels is
    /// drawn, by the seed.
    pub fn read(folder: &Path, labels: usize, seed: u64) -> anyhow::Result<Self> {
        let mut labelled = read(&folder.join("train.jsonl"))?;
        labelled.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let unlabelled = labelled.split_off(labels.min(labelled.len()));
        let literals = literals(&folder.join("tables"))?;
        Ok(Self { literals, labelled, unlabelled, dev: read(&folder.join("dev.jsonl"))? })
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Question>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parse = |(i, line)| serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), i + 1));
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// Every text value of every table, once for each column that it is in.
fn literals(folder: &Path) -> anyhow::Result<Vec<Literal>> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
            let batch = batch?;
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                if matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
                    let texts = cast(column, &DataType::Utf8)?;
                    let values = texts.as_string::<i32>().iter().flatten();
                    all.extend(values.map(|value| (field.name().clone(), value.to_owned())));
                }
            }
        }
    }
    Ok(all.into_iter().map(|(column, value)| Literal { column, value }).collect())
}
