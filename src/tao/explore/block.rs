//! What was explored so far, kept in blocks, so that a killed exploration goes on and ends as an unbroken one.
//!
//! A block is the candidates of a run of prompts, named by its first. Numbers are kept by their bits: nothing is rounded.
//! A block of other prompts, options, adapters or seeds is not taken.

use super::draw::Drawn;
use super::{Error, Policies};
use crate::config::Explore;
use crate::domain::{Candidate, Finish, Prompt, PromptHash};
use crate::tao::{Fingerprint, Watch};
use serde::{Deserialize, Serialize};

/// Reads and writes the blocks of one exploration.
pub(super) struct Kept<'a> {
    watch: &'a Watch<'a>,
    fingerprint: String,
    /// Drawn, and not yet written: from which prompt on.
    open: (usize, Drawn),
}

/// One block.
pub(super) struct Block {
    /// The number of the first prompt that is not in it.
    pub(super) until: usize,
    pub(super) candidates: Vec<Candidate>,
    pub(super) without_answer: usize,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    fingerprint: String,
    until: usize,
    without_answer: usize,
    candidates: Vec<StoredCandidate>,
}

#[derive(Serialize, Deserialize)]
struct StoredCandidate {
    prompt: String,
    sample: u32,
    strategy: String,
    seed: u64,
    tokens: Vec<u32>,
    text: String,
    logprob_bits: Vec<u32>,
    complete: bool,
}

/// What an exploration depends on.
pub(super) fn fingerprint(
    policies: Policies<'_>,
    prompts: &[Prompt],
    options: &Explore,
    seed: u64,
) -> Result<String, Error> {
    let mut print = Fingerprint::new("explore", policies.model);
    print.number(seed);
    print.text(&format!("{options:?}"));
    print.adapter(policies.adapter)?;
    print.adapter(policies.champion)?;
    for past in policies.past {
        print.text(&past.prompt.to_string());
        print.text(&past.text);
        print.number(past.reward.to_bits());
    }
    prompts.iter().for_each(|prompt| print.text(&prompt.hash.to_string()));
    Ok(print.finish())
}

impl<'a> Kept<'a> {
    pub(super) fn open(watch: &'a Watch<'a>, fingerprint: String) -> Self {
        Self { watch, fingerprint, open: (0, Drawn::default()) }
    }

    /// The block that begins at a prompt, where an earlier run left one of this exploration.
    pub(super) fn next(&mut self, from: usize, prompts: usize) -> Result<Option<Block>, Error> {
        self.open.0 = from;
        let Some(bytes) = self.watch.kept(&name(from)).map_err(Error::Save)? else { return Ok(None) };
        // What is damaged or of another exploration is explored again.
        let stored = serde_json::from_slice::<Stored>(&bytes).ok();
        let fits = |s: &Stored| s.fingerprint == self.fingerprint && s.until > from && s.until <= prompts;
        let Some(stored) = stored.filter(fits) else { return Ok(None) };
        let candidates: Option<Vec<Candidate>> = stored.candidates.into_iter().map(StoredCandidate::read).collect();
        let Some(candidates) = candidates else { return Ok(None) };
        self.open.0 = stored.until;
        Ok(Some(Block { until: stored.until, candidates, without_answer: stored.without_answer }))
    }

    /// Adds what was drawn for the prompts before `until`; writes the block where that is due.
    pub(super) fn add(&mut self, until: usize, drawn: &Drawn) -> Result<(), Error> {
        if !self.watch.keeps() {
            return Ok(());
        }
        let (from, open) = &mut self.open;
        open.candidates.extend(drawn.candidates.iter().cloned());
        open.without_answer += drawn.without_answer;
        if !self.watch.is_due() {
            return Ok(());
        }
        let stored = Stored {
            fingerprint: self.fingerprint.clone(),
            until,
            without_answer: open.without_answer,
            candidates: std::mem::take(&mut open.candidates).into_iter().map(StoredCandidate::of).collect(),
        };
        let bytes = serde_json::to_vec(&stored).map_err(|e| Error::Save(e.into()))?;
        self.watch.keep(&name(*from), bytes).map_err(Error::Save)?;
        self.open = (until, Drawn::default());
        Ok(())
    }
}

fn name(from: usize) -> String {
    format!("explore-{from:08}.json")
}

impl StoredCandidate {
    fn of(candidate: Candidate) -> Self {
        Self {
            prompt: candidate.prompt.to_string(),
            sample: candidate.sample,
            strategy: candidate.strategy,
            seed: candidate.seed,
            tokens: candidate.tokens,
            text: candidate.text,
            logprob_bits: candidate.logprobs.iter().map(|l| l.to_bits()).collect(),
            complete: candidate.finish == Finish::Stop,
        }
    }

    fn read(self) -> Option<Candidate> {
        Some(Candidate {
            prompt: PromptHash::parse(&self.prompt)?,
            sample: self.sample,
            strategy: self.strategy,
            seed: self.seed,
            tokens: self.tokens,
            text: self.text,
            logprobs: self.logprob_bits.into_iter().map(f32::from_bits).collect(),
            finish: if self.complete { Finish::Stop } else { Finish::Length },
            reward: None,
            components: Vec::new(),
        })
    }
}
