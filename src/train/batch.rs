//! What one pass of training sees: packed sequences and the tokens to predict.

use crate::error::{Exit, Failure};
use std::ops::Range;

/// Packed sequences, without padding. A token attends to those before it in its own sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrainBatch {
    pub tokens: Vec<u32>,
    /// The rows of each sequence; together, in order, they are all rows. Positions count from a sequence's start.
    pub sequences: Vec<Range<usize>>,
    /// For each row the token that should come next; `None` where no loss is taken.
    pub targets: Vec<Option<u32>>,
}

impl TrainBatch {
    /// Appends a sequence whose row i predicts `targets[i]`.
    pub fn push(&mut self, tokens: &[u32], targets: impl IntoIterator<Item = Option<u32>>) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.targets.extend(targets);
        self.sequences.push(start..self.tokens.len());
    }

    /// Appends a text whose every token predicts the next one.
    pub fn push_text(&mut self, tokens: &[u32]) {
        let next = tokens.iter().skip(1).map(|token| Some(*token));
        self.push(tokens, next.chain((!tokens.is_empty()).then_some(None)));
    }

    /// Appends a prompt and its completion: only the completion's tokens, its first included, are predicted.
    pub fn push_completion(&mut self, prompt: &[u32], completion: &[u32]) {
        let tokens = [prompt, completion].concat();
        let target = |row: usize| tokens.get(row + 1).copied().filter(|_| row + 1 >= prompt.len());
        let targets: Vec<Option<u32>> = (0..tokens.len()).map(target).collect();
        self.push(&tokens, targets);
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Rows that have something to predict.
    pub fn target_count(&self) -> usize {
        self.targets.iter().flatten().count()
    }

    pub fn clear(&mut self) {
        self.tokens.clear();
        self.sequences.clear();
        self.targets.clear();
    }

    /// # Errors
    /// A [`Failure`] when the parts do not fit together or a token is beyond the vocabulary.
    pub(crate) fn check(&self, vocab: usize) -> anyhow::Result<()> {
        if self.targets.len() != self.tokens.len() {
            let message = format!("a batch of {} tokens has {} targets", self.tokens.len(), self.targets.len());
            return Err(Failure::new(Exit::Failed, message).into());
        }
        let mut end = 0;
        for sequence in &self.sequences {
            if sequence.start != end || sequence.end < sequence.start {
                let message = format!("a batch's sequence has rows {sequence:?} after row {end}");
                return Err(Failure::new(Exit::Failed, message).into());
            }
            end = sequence.end;
        }
        if end != self.tokens.len() {
            let message = format!("a batch's sequences cover {end} of {} tokens", self.tokens.len());
            return Err(Failure::new(Exit::Failed, message).into());
        }
        let all = self.tokens.iter().chain(self.targets.iter().flatten());
        match all.copied().find(|token| *token as usize >= vocab) {
            None => Ok(()),
            Some(token) => {
                let message = format!("token {token} is beyond the model's vocabulary of {vocab}");
                Err(Failure::new(Exit::Usage, message).hint("the tokenizer belongs to another model").into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_next_tokens() {
        let mut batch = TrainBatch::default();
        batch.push_text(&[1, 2, 3]);
        batch.push_completion(&[4, 5], &[6, 7]);
        batch.push_text(&[]);
        assert_eq!(batch.sequences, [0..3, 3..7, 7..7]);
        assert_eq!(batch.targets, [Some(2), Some(3), None, None, Some(6), Some(7), None]);
        assert_eq!((batch.len(), batch.target_count()), (7, 4));
        batch.check(8).unwrap();
    }

    #[test]
    fn a_batch_that_does_not_fit_is_refused() {
        let mut batch = TrainBatch::default();
        batch.push_text(&[1, 2, 3]);
        let message = |batch: &TrainBatch, vocab| batch.check(vocab).unwrap_err().to_string();
        assert!(message(&batch, 3).contains("token 3 is beyond"));
        batch.targets.pop();
        assert!(message(&batch, 9).contains("3 tokens has 2 targets"));
        batch.targets.push(None);
        batch.sequences[0].end = 2;
        assert!(message(&batch, 9).contains("cover 2 of 3"));
        batch.sequences[0] = 1..3;
        assert!(message(&batch, 9).contains("1..3 after row 0"));
    }
}
