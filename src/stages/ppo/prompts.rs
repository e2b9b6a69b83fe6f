//! The prompts of a run: a stream to train on, and a fixed list to look at. They state puzzles, or questions with known answers.
//!
//! Puzzles are drawn without end. Their numbers are divided as priming traces divide them, so that with the same seed no puzzle of this stage has the numbers of a
//! trace. The held-out ones are divided once more, into those to choose settings by and those for the result.

use super::questions::QuestionPrompts;
use crate::config::{EvaluationSplit, Ppo};
use crate::countdown::draw::{Draw, PuzzleSpec, Source};
use crate::countdown::puzzle::{Puzzle, Split, Splits, mix};
use crate::countdown::query::QueryTemplate;
use crate::countdown::solver::Operators;
use crate::error::{Exit, Failure};
use crate::lm::TextTokenizer;
use crate::rl::reward::Problem;
use crate::stages::prime;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A problem as the model sees it.
#[derive(Debug, Clone)]
pub(super) struct Prompt {
    pub problem: Problem,
    pub text: String,
    pub tokens: Arc<[u32]>,
}

impl Prompt {
    pub(super) fn new(problem: Problem, text: String, tokenizer: &TextTokenizer) -> anyhow::Result<Self> {
        let mut tokens = tokenizer.start().to_vec();
        tokens.extend(tokenizer.encode(&text)?);
        Ok(Self { problem, text, tokens: tokens.into() })
    }
}

/// Where prompts come from.
pub(super) enum Prompts {
    Puzzles(Box<PuzzlePrompts>),
    Questions(QuestionPrompts),
}

impl Prompts {
    /// # Errors
    /// The recipe's key, and a [`Failure`] for what it names: a template without slots, ranges that leave no puzzle, files that hold no questions.
    pub(super) fn new(ppo: &Ppo, seed: u64) -> Result<Self, (&'static str, Failure)> {
        match &ppo.questions {
            None => Ok(Self::Puzzles(Box::new(PuzzlePrompts::new(ppo, seed)?))),
            Some(questions) => Ok(Self::Questions(QuestionPrompts::new(questions, seed)?)),
        }
    }

    /// What they state, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Puzzles(_) => "puzzles",
            Self::Questions(_) => "questions",
        }
    }

    /// What stands in them, for the record of a run.
    pub(super) fn described(&self) -> &'static str {
        match self {
            Self::Puzzles(_) => "drawn puzzles",
            Self::Questions(_) => "questions",
        }
    }

    /// The prompts of a step.
    pub(super) fn of_step(&self, step: u64, count: usize, tokenizer: &TextTokenizer) -> anyhow::Result<Vec<Prompt>> {
        match self {
            Self::Puzzles(puzzles) => puzzles.of_step(step, count, tokenizer),
            Self::Questions(questions) => questions.of_step(step, count, tokenizer),
        }
    }

    /// Held-out prompts, no problem twice; fewer than asked for if there are not so many.
    pub(super) fn held_out(
        &self,
        split: EvaluationSplit,
        count: usize,
        tokenizer: &TextTokenizer,
    ) -> anyhow::Result<Vec<Prompt>> {
        match self {
            Self::Puzzles(puzzles) => puzzles.held_out(split, count, tokenizer),
            Self::Questions(questions) => questions.held_out(split, count, tokenizer),
        }
    }
}

/// Puzzles, drawn.
pub(super) struct PuzzlePrompts {
    query: QueryTemplate,
    train: Draw,
    held_out: Draw,
    /// Which of the held-out puzzles are for validation.
    halves: Splits,
}

impl PuzzlePrompts {
    fn new(ppo: &Ppo, seed: u64) -> Result<Self, (&'static str, Failure)> {
        let puzzles = &ppo.puzzles;
        let query = match &puzzles.query {
            None => QueryTemplate::built_in(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::new(Exit::Usage, format!("cannot read `{path}`: {error}")))
                .and_then(|text| QueryTemplate::parse(text.trim_end_matches('\n'))),
        };
        let query = query.map_err(|failure| ("ppo.puzzles.query", failure))?;
        let public = PuzzleSpec::three_to_four();
        let range = |given: Option<[u32; 2]>, usual| given.map_or(usual, |[low, high]| low..=high);
        let spec = PuzzleSpec {
            sizes: match &puzzles.sizes {
                Some(sizes) => sizes.iter().map(|&size| (size, 1.0)).collect(),
                None => public.sizes,
            },
            numbers: range(puzzles.numbers, public.numbers),
            targets: range(puzzles.targets, public.targets),
            operators: puzzles.operators.as_ref().map_or(Operators::ALL, |operators| Operators::new(operators)),
        };
        let draw = |split: Split, purpose: u64| {
            let split = (prime::splits(seed), split);
            Draw::new(Source::Drawn(spec.clone()), BTreeSet::new(), Some(split), mix(mix(seed) ^ purpose))
                .map_err(|failure| ("ppo.puzzles", failure))
        };
        Ok(Self {
            query,
            train: draw(Split::Validation, 0x7070_6f01)?,
            held_out: draw(Split::Test, 0x7070_6f02)?,
            halves: Splits { seed: mix(seed ^ 0x7070_6f03), test: 0.5, validation: 0.5 },
        })
    }

    pub(super) fn query(&self) -> &QueryTemplate {
        &self.query
    }

    fn prompt(&self, puzzle: Puzzle, tokenizer: &TextTokenizer) -> anyhow::Result<Prompt> {
        let text = self.query.fill(&puzzle);
        Prompt::new(Problem::Countdown(puzzle), text, tokenizer)
    }

    pub(super) fn of_step(&self, step: u64, count: usize, tokenizer: &TextTokenizer) -> anyhow::Result<Vec<Prompt>> {
        let first = step * count as u64;
        let puzzles = (first..).filter_map(|index| self.train.puzzle(index)).take(count);
        puzzles.map(|(puzzle, _)| self.prompt(puzzle, tokenizer)).collect()
    }

    pub(super) fn held_out(
        &self,
        split: EvaluationSplit,
        count: usize,
        tokenizer: &TextTokenizer,
    ) -> anyhow::Result<Vec<Prompt>> {
        let half = match split {
            EvaluationSplit::Validation => Split::Validation,
            EvaluationSplit::Test => Split::Test,
        };
        let mut seen = BTreeSet::new();
        let mut prompts = Vec::new();
        // So many in vain that there is hardly another.
        for index in 0..100 * count as u64 {
            let Some((puzzle, _)) = self.held_out.puzzle(index) else { continue };
            let multiset = puzzle.multiset();
            if self.halves.of(&multiset) == half && seen.insert((multiset, puzzle.target())) {
                prompts.push(self.prompt(puzzle, tokenizer)?);
                if prompts.len() == count {
                    break;
                }
            }
        }
        Ok(prompts)
    }
}
