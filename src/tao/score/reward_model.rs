//! A sequence classifier on this machine as reward model.

use super::Error;
use super::case::{Case, Finding};
use super::member::Measure;
use crate::config::RewardModelScore;
use crate::domain::ChatMessage;
use crate::model::{self, Classifier};
use crate::tao::Watch;
use candle_core::Device;
use std::path::{Path, PathBuf};

/// Conversations that go through the model together.
const ROWS: usize = 8;

/// A reward model: one number a conversation, higher for better.
#[derive(Debug)]
pub struct RewardModel(Classifier);

impl RewardModel {
    /// Loads a classifier with one label.
    ///
    /// # Errors
    /// What is wrong with the folder.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Model { name: "reward_model", source };
        let classifier = Classifier::load(folder, &Device::Cpu).map_err(failed)?;
        if classifier.labels() != 1 {
            let reason = format!("{} has {} labels; a reward model has one", folder.display(), classifier.labels());
            return Err(Error::Setting { name: "reward_model".to_owned(), reason });
        }
        Ok(Self(classifier))
    }

    /// The raw score of each response to its conversation; nothing where the two do not fit the model's positions.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn scores(&self, pairs: &[(&[ChatMessage], &str)]) -> Result<Vec<Option<f64>>, Error> {
        let failed = |source| Error::Model { name: "reward_model", source };
        let conversation = |(messages, response): &(&[ChatMessage], &str)| {
            let turns = messages.iter().map(|m| model::ChatMessage::new(m.role.clone(), m.content.clone()));
            let answer = model::ChatMessage::new("assistant", *response);
            self.0.encode_conversation(&turns.chain([answer]).collect::<Vec<_>>())
        };
        let ids = pairs.iter().map(conversation).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let fitting: Vec<usize> = (0..ids.len()).filter(|&i| ids[i].len() <= self.0.positions()).collect();
        let mut scores = vec![None; ids.len()];
        for some in fitting.chunks(ROWS) {
            let rows: Vec<Vec<u32>> = some.iter().map(|&i| ids[i].clone()).collect();
            for (&i, logits) in some.iter().zip(self.0.logits(&rows).map_err(failed)?) {
                scores[i] = Some(f64::from(logits[0]));
            }
        }
        Ok(scores)
    }
}

#[derive(Debug)]
pub(super) struct RewardModelMeasure {
    model: RewardModel,
    scale: f64,
    middle: f64,
}

impl RewardModelMeasure {
    pub(super) fn open(settings: &RewardModelScore, resolve: &dyn Fn(&str) -> PathBuf) -> Result<Self, Error> {
        let model = RewardModel::load(&resolve(&settings.model))?;
        Ok(Self { model, scale: settings.scale, middle: settings.middle })
    }
}

impl Measure for RewardModelMeasure {
    fn measure(&self, cases: &[Case<'_>], watch: &Watch<'_>) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::with_capacity(cases.len());
        for some in cases.chunks(ROWS) {
            if watch.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let pairs: Vec<_> = some.iter().map(|c| (c.messages, c.response)).collect();
            for raw in self.model.scores(&pairs)? {
                findings.push(raw.map_or(Finding::NONE, |raw| {
                    let value = 1.0 / (1.0 + (-(raw - self.middle) / self.scale).exp());
                    Finding { value: Some(value), parts: vec![("raw", raw)] }
                }));
            }
        }
        Ok(findings)
    }
}
