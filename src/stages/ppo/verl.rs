//! The prompts of a run in verl's columns, those of every step in order.

use super::learner::Base;
use super::prompts::{Prompt, Prompts};
use crate::config::Ppo;
use crate::countdown::puzzle::Puzzle;
use crate::error::{Exit, Failure};
use crate::rl::reward::Problem;
use crate::stages::prime::rows;
use arrow::array::RecordBatch;
use std::path::Path;

/// A run's prompts as rows.
pub struct VerlPrompts {
    pub train: RecordBatch,
    pub test: RecordBatch,
    /// The tokens of the longest one.
    pub longest: usize,
    /// What every prompt says behind its first `Assistant:`, where TinyZero's scorer begins to read.
    pub after_assistant: Option<String>,
}

/// Draws what the run would draw.
///
/// # Errors
/// A [`Failure`] for prompts that do not fit the model, and where TinyZero's scorer would read another text behind every prompt.
pub fn verl_prompts(ppo: &Ppo, seed: u64, limit: Option<u64>, model: &Path) -> anyhow::Result<VerlPrompts> {
    let base = Base::open(model)?;
    let tokenizer = base.vocabulary.tokenizer();
    let Prompts::Puzzles(prompts) = Prompts::new(ppo, seed).map_err(|(_, failure)| failure)? else {
        return Err(Failure::new(Exit::Usage, "`[ppo.questions]` is not handed on to verl, puzzles are")
            .hint("verl reads questions itself: see its data preparation for GSM8K")
            .into());
    };
    let count = ppo.steps_within(limit).max(1) as usize * ppo.prompts;
    let train = prompts.of_step(0, count, tokenizer)?;
    let test = prompts.held_out(ppo.eval.split, ppo.puzzles_within(limit), tokenizer)?;
    let all = || train.iter().chain(&test);
    let longest = all().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
    super::check_context(ppo, longest, base.config().max_positions)?;
    let after = |text: &str| -> Option<String> {
        let split = text.split_once("Assistant:").or_else(|| text.split_once("<|im_start|>assistant"));
        split.map(|(_, after)| after.to_owned())
    };
    let after_assistant = all().next().and_then(|prompt| after(&prompt.text));
    if ppo.compat.is_some() && all().any(|prompt| after(&prompt.text) != after_assistant) {
        let message = "the query states its puzzle behind `Assistant:`, where TinyZero's scorer reads";
        return Err(Failure::new(Exit::Usage, message)
            .hint("state it before, or leave out `ppo.compat`: verl's reward functions do not see the prompt")
            .into());
    }
    let puzzles = |prompts: &[Prompt]| -> Vec<Puzzle> {
        let puzzle = |prompt: &Prompt| match prompt.problem {
            Problem::Countdown(puzzle) => Some(puzzle),
            Problem::Question { .. } => None,
        };
        prompts.iter().filter_map(puzzle).collect()
    };
    Ok(VerlPrompts {
        train: rows::prompts(&puzzles(&train), prompts.query(), "train", 0)?,
        test: rows::prompts(&puzzles(&test), prompts.query(), "test", 0)?,
        longest,
        after_assistant,
    })
}
