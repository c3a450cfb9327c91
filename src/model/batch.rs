//! Prompts and completions packed into rows without padding: each prompt is computed once for all its completions.
//!
//! A completion's rows follow its prompt's and see them as if they stood directly before. Its last token is not a row,
//! because nothing is predicted from it.

use std::ops::Range;

use super::error::{Error, Result};
use super::ops::attention::Span;

/// A prompt and the completions whose log-probabilities are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptGroup {
    /// Token ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// Token ids of each completion, the end-of-text token included where it was drawn. May be empty.
    pub completions: Vec<Vec<u32>>,
}

/// Rows for the decoder, and which of them predict what.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Token id of each row.
    pub(super) ids: Vec<u32>,
    /// Position of each row in its sequence.
    pub(super) positions: Vec<u32>,
    /// Who sees whom; covers all rows in order.
    pub(super) spans: Vec<Span>,
    /// The spans of each group: a prompt and its completions.
    pub(super) families: Vec<Range<usize>>,
    /// The row from which each completion token is predicted, in the order of the completions.
    pub(super) predictors: Vec<u32>,
    /// Each completion token.
    pub(super) targets: Vec<u32>,
    /// Where each completion's tokens stand in `targets`.
    pub(super) completions: Vec<Range<usize>>,
}

impl Batch {
    /// Packs groups for scoring their completions.
    pub(super) fn pack(groups: &[PromptGroup], vocabulary: usize, positions_max: usize) -> Result<Self> {
        let mut batch = Self::default();
        for group in groups {
            batch.push_group(group)?;
        }
        batch.check(vocabulary, positions_max)?;
        Ok(batch)
    }

    fn push_group(&mut self, group: &PromptGroup) -> Result<()> {
        let first_span = self.spans.len();
        let prompt = self.push_rows(&group.prompt, 0..0)?;
        for completion in &group.completions {
            let first_target = self.targets.len();
            if let Some((_, inputs)) = completion.split_last() {
                let before = self.ids.len() as u32;
                if !inputs.is_empty() {
                    self.push_rows(inputs, prompt.clone())?;
                }
                self.predictors.push(prompt.end as u32 - 1);
                self.predictors.extend(before..before + inputs.len() as u32);
                self.targets.extend(completion);
            }
            self.completions.push(first_target..self.targets.len());
        }
        self.families.push(first_span..self.spans.len());
        Ok(())
    }

    /// Adds one span of rows that see the rows of `context` and each other; returns their range.
    fn push_rows(&mut self, ids: &[u32], context: Range<usize>) -> Result<Range<usize>> {
        if ids.is_empty() {
            let expected = "at least one token".to_owned();
            return Err(Error::Argument { what: "length of a prompt", found: "0".to_owned(), expected });
        }
        let rows = self.ids.len()..self.ids.len() + ids.len();
        let offset = context.len();
        self.ids.extend(ids);
        self.positions.extend((0..ids.len()).map(|i| (offset + i) as u32));
        let keys = context.chain(rows.clone()).map(|row| row as u32).collect();
        self.spans.push(Span { queries: rows.clone(), keys });
        Ok(rows)
    }

    fn check(&self, vocabulary: usize, positions_max: usize) -> Result<()> {
        check_ids(self.ids.iter().chain(&self.targets), vocabulary)?;
        let longest = self.positions.iter().max().map_or(0, |position| *position as usize + 1);
        check_length(longest, positions_max)
    }
}

/// Refuses ids that no embedding exists for.
pub(super) fn check_ids<'a>(ids: impl Iterator<Item = &'a u32>, vocabulary: usize) -> Result<()> {
    match ids.max() {
        Some(largest) if *largest as usize >= vocabulary => Err(Error::Argument {
            what: "token id",
            found: largest.to_string(),
            expected: format!("below the vocabulary's {vocabulary}"),
        }),
        _ => Ok(()),
    }
}

/// Refuses sequences longer than the model's positions.
pub(super) fn check_length(tokens: usize, positions_max: usize) -> Result<()> {
    if tokens <= positions_max {
        return Ok(());
    }
    let expected = format!("at most max_position_embeddings, {positions_max}");
    Err(Error::Argument { what: "length of a sequence in tokens", found: tokens.to_string(), expected })
}
