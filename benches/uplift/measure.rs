//! Execution accuracy by the truth, which no recipe but the labelled one sees.

use crate::Flags;
use crate::base::Base;
use crate::data::{Data, Question};
use pelton::config::Explore;
use pelton::domain::{ChatMessage, Prompt};
use pelton::model::{Lora, Model};
use pelton::tao::Watch;
use pelton::tao::explore::{answer_greedily, explore};
use pelton::tao::score::{Limits, Scorer};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;

/// Samples of pass@8.
const SAMPLES: u32 = 8;

/// What every run is measured with.
pub struct Bench<'a> {
    pub scorer: Scorer,
    model: &'a Model,
    data: &'a Data,
    sampling: Explore,
}

/// Shares of questions answered rightly.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub dev_greedy: f64,
    /// Right in any of eight samples at temperature 1.
    pub dev_pass_8: f64,
    pub unlabelled_greedy: f64,
}

impl<'a> Bench<'a> {
    pub fn open(flags: &Flags, base: &'a Base, data: &'a Data) -> anyhow::Result<Self> {
        let scorer = Scorer::open(&flags.questions.join("tables"), Limits::default())?;
        let sampling = Explore {
            samples: SAMPLES,
            temperatures: vec![1.0],
            tokens_max: flags.tokens_max,
            batch_rows: 128,
            ..Explore::default()
        };
        Ok(Self { scorer, model: &base.model, data, sampling })
    }

    pub fn measure(&self, adapter: Option<&Lora>) -> anyhow::Result<Measured> {
        Ok(Measured {
            dev_greedy: self.greedy(adapter, &self.data.dev)?,
            dev_pass_8: self.sampled(adapter, &self.data.dev)?,
            unlabelled_greedy: self.greedy(adapter, &self.data.unlabelled)?,
        })
    }

    fn greedy(&self, adapter: Option<&Lora>, questions: &[Question]) -> anyhow::Result<f64> {
        let conversations: Vec<Vec<ChatMessage>> = questions.iter().map(Question::messages).collect();
        let answers = answer_greedily(self.model, adapter, &conversations, &self.sampling)?;
        let pairs: Vec<(&str, &str)> =
            answers.iter().zip(questions).map(|((text, _), q)| (text.as_str(), q.sql.as_str())).collect();
        Ok(mean(&self.scorer.is_correct(&pairs).into_iter().map(|r| f64::from(u8::from(r))).collect::<Vec<_>>()))
    }

    fn sampled(&self, adapter: Option<&Lora>, questions: &[Question]) -> anyhow::Result<f64> {
        let cancelled = AtomicBool::new(false);
        let prompts: Vec<Prompt> = questions.iter().map(Question::prompt).collect();
        let truth: HashMap<_, &str> = prompts.iter().zip(questions).map(|(p, q)| (p.hash, q.sql.as_str())).collect();
        let watch = Watch::new(&|_| {}, &cancelled);
        let explored = explore(self.model, adapter, &prompts, &self.sampling, 77, &watch)?;
        let pairs: Vec<_> = explored.candidates.iter().map(|c| (c.text.as_str(), truth[&c.prompt])).collect();
        let mut any: HashMap<_, bool> = HashMap::new();
        for (candidate, right) in explored.candidates.iter().zip(self.scorer.is_correct(&pairs)) {
            *any.entry(candidate.prompt).or_default() |= right;
        }
        Ok(mean(&any.values().map(|r| f64::from(u8::from(*r))).collect::<Vec<_>>()))
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [dev, pass, other] = [self.dev_greedy, self.dev_pass_8, self.unlabelled_greedy].map(|s| s * 100.0);
        write!(f, "dev {dev:.1} % greedy, {pass:.1} % pass@8; unlabelled {other:.1} % greedy")
    }
}

/// Mean and standard deviation over seeds.
pub fn spread(all: &[Measured]) -> String {
    let of = |pick: fn(&Measured) -> f64| {
        let values: Vec<f64> = all.iter().map(pick).collect();
        let mean = mean(&values);
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = (squares / (values.len().max(2) - 1) as f64).sqrt();
        format!("{:.1} ± {:.1} %", mean * 100.0, deviation * 100.0)
    };
    format!(
        "dev {} greedy, {} pass@8; unlabelled {} greedy",
        of(|m| m.dev_greedy),
        of(|m| m.dev_pass_8),
        of(|m| m.unlabelled_greedy)
    )
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
