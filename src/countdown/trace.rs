//! The event language: what a trace does, before any words.

use super::derivation::{Derivation, Operator};
use super::puzzle::Puzzle;
use crate::behavior::Behavior;

/// One thing that a thinker does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// Wants `value` first.
    Subgoal { value: i64, reason: Reason },
    /// Starts from the target: `target = need operator number` (or `number operator need`, if `number_first`), so `need` is
    /// what the other numbers must make.
    BackStep { operator: Operator, number: i64, number_first: bool, need: i64 },
    /// Combines numbers.
    Try(Try),
    /// Holds a result against the target.
    Check { value: i64, equal: bool },
    /// Leaves the last try, to go on from its first `kept` steps.
    Backtrack { kept: u8 },
    /// States the answer.
    Stop { outcome: Outcome },
}

/// A combination, of which the steps after the first `from` are new.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Try {
    pub derivation: Derivation,
    pub from: u8,
    /// What the last step is said to give, if that is not what it gives.
    pub slip: Option<i64>,
}

impl Try {
    /// What the last step is said to give.
    pub fn stated(&self) -> i64 {
        self.slip.or_else(|| self.derivation.value()).unwrap_or(0)
    }
}

/// Why a subgoal is worth reaching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Factor,
    Multiple,
    /// The target is this number away from it.
    Near(i64),
    None,
}

/// How a trace ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It believes to have reached the target.
    Reached,
    /// It knows that it has not.
    GivenUp,
}

/// A planned trace. The last segment is what its correct and its wrong twin do not share.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub puzzle: Puzzle,
    pub events: Vec<Event>,
    /// Where the last segment starts: at the last [`Event::Backtrack`], or at 0.
    pub last_segment: usize,
}

impl Trace {
    /// What the answer states: the last try.
    pub fn answer(&self) -> Option<&Derivation> {
        self.tries().last().map(|attempt| &attempt.derivation)
    }

    pub fn tries(&self) -> impl Iterator<Item = &Try> {
        self.events.iter().filter_map(|event| match event {
            Event::Try(attempt) => Some(attempt),
            _ => None,
        })
    }

    /// How often each behavior is shown, by [`Behavior::index`].
    pub fn counts(&self) -> [u32; 4] {
        let mut counts = [0; 4];
        for event in &self.events {
            let behavior = match event {
                Event::Check { .. } => Behavior::Verification,
                Event::Backtrack { .. } => Behavior::Backtracking,
                Event::Subgoal { .. } => Behavior::SubgoalSetting,
                Event::BackStep { .. } => Behavior::BackwardChaining,
                Event::Try(_) | Event::Stop { .. } => continue,
            };
            counts[behavior.index()] += 1;
        }
        counts
    }
}
