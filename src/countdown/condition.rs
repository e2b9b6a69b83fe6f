//! What a set of priming traces shows, and how often.

use crate::behavior::Behavior;
use serde::{Deserialize, Serialize};

/// A condition of the paper's priming experiment, or a control of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Verification, backtracking, subgoals and backward chaining.
    AllStrategies,
    OnlyBacktracking,
    BacktrackingVerification,
    BacktrackingBackward,
    BacktrackingSubgoal,
    /// The steps of one combination, no search (the paper's negative control).
    Direct,
    /// The sentences of `all-strategies`, shuffled.
    Scrambled,
    /// The answer of `all-strategies`, no thought.
    Empty,
    /// The answer of `all-strategies`, its thought replaced by as many tokens of dots.
    Dots,
}

impl Condition {
    pub const ALL: [Condition; 9] = [
        Condition::AllStrategies,
        Condition::OnlyBacktracking,
        Condition::BacktrackingVerification,
        Condition::BacktrackingBackward,
        Condition::BacktrackingSubgoal,
        Condition::Direct,
        Condition::Scrambled,
        Condition::Empty,
        Condition::Dots,
    ];

    /// The name in recipes, paths and columns.
    pub const fn name(self) -> &'static str {
        match self {
            Condition::AllStrategies => "all-strategies",
            Condition::OnlyBacktracking => "only-backtracking",
            Condition::BacktrackingVerification => "backtracking-verification",
            Condition::BacktrackingBackward => "backtracking-backward",
            Condition::BacktrackingSubgoal => "backtracking-subgoal",
            Condition::Direct => "direct",
            Condition::Scrambled => "scrambled",
            Condition::Empty => "empty",
            Condition::Dots => "dots",
        }
    }

    /// The behaviors that its traces show on purpose.
    pub const fn shows(self) -> &'static [Behavior] {
        match self {
            Condition::AllStrategies => &Behavior::ALL,
            Condition::OnlyBacktracking => &[Behavior::Backtracking],
            Condition::BacktrackingVerification => &[Behavior::Verification, Behavior::Backtracking],
            Condition::BacktrackingBackward => &[Behavior::Backtracking, Behavior::BackwardChaining],
            Condition::BacktrackingSubgoal => &[Behavior::Backtracking, Behavior::SubgoalSetting],
            // What is left of them in a scrambled trace is not on purpose.
            Condition::Direct | Condition::Scrambled | Condition::Empty | Condition::Dots => &[],
        }
    }

    /// The habits of the traces behind it, set so that the counts come out as the paper's primed models show them
    /// ([`super::calibration`]).
    pub const fn habits(self) -> Habits {
        const BACKTRACKING: Habits = Habits {
            failed_tries: 2.96,
            max_failed_tries: 10,
            checks_misses: 0.0,
            checks_hits: 0.0,
            subgoals: 0.0,
            back_steps: 0.0,
            keeps_steps: 0.5,
            abandons: 0.2,
            order: TryOrder::ByTaste,
            highest: None,
        };
        match self {
            Condition::OnlyBacktracking => BACKTRACKING,
            Condition::BacktrackingVerification => {
                Habits { failed_tries: 2.94, checks_misses: 0.53, checks_hits: 1.0, ..BACKTRACKING }
            }
            Condition::BacktrackingBackward => Habits { failed_tries: 2.5, back_steps: 0.87, ..BACKTRACKING },
            Condition::BacktrackingSubgoal => Habits { failed_tries: 2.93, subgoals: 0.92, ..BACKTRACKING },
            Condition::Direct => Habits { failed_tries: 0.0, max_failed_tries: 0, ..BACKTRACKING },
            Condition::AllStrategies | Condition::Scrambled | Condition::Empty | Condition::Dots => Habits {
                failed_tries: 2.6,
                checks_misses: 0.26,
                checks_hits: 1.0,
                subgoals: 0.95,
                back_steps: 0.64,
                ..BACKTRACKING
            },
        }
    }
}

/// How a planner behaves. Shares are in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Habits {
    /// Mean number of failed tries before the last one.
    pub failed_tries: f64,
    /// Never more of them.
    pub max_failed_tries: u8,
    /// How often a failed try is held against the target.
    pub checks_misses: f64,
    /// How often the last one is.
    pub checks_hits: f64,
    /// How often a try begins with a subgoal.
    pub subgoals: f64,
    /// How often a try begins by working back from the target.
    pub back_steps: f64,
    /// How often backtracking keeps the first steps.
    pub keeps_steps: f64,
    /// How often a failed try of four numbers or more ends before all are used.
    pub abandons: f64,
    /// Which combinations are tried, one after the other.
    pub order: TryOrder,
    /// No step of a try gives more; `None` leaves it to the planner's sense.
    pub highest: Option<u32>,
}

/// In which order combinations are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TryOrder {
    /// As a thinker likes them, by a taste that each trace draws anew.
    #[default]
    ByTaste,
    /// In one fixed order from a place drawn at random, so that what comes next follows from what was tried last.
    InTurn,
}

/// Whether the answers solve the puzzles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answers {
    #[default]
    Correct,
    Wrong,
    /// Some of each.
    Mixed,
}

/// In which way a wrong answer is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stratum {
    /// One false sum at the end makes the last try look right: `12 + 5 = 24`.
    Slip,
    /// All sums are true and reach the target, with a number left out, used twice or invented.
    RuleBreak,
    /// The last try fails, the trace says so and answers with it.
    GiveUp,
}

impl Stratum {
    pub const ALL: [Stratum; 3] = [Stratum::Slip, Stratum::RuleBreak, Stratum::GiveUp];

    pub const fn name(self) -> &'static str {
        match self {
            Stratum::Slip => "slip",
            Stratum::RuleBreak => "rule-break",
            Stratum::GiveUp => "give-up",
        }
    }
}

/// How often each stratum is drawn; weights, not necessarily summing to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Strata {
    pub slip: f64,
    pub rule_break: f64,
    pub give_up: f64,
}

impl Strata {
    pub const DEFAULT: Strata = Strata { slip: 0.3, rule_break: 0.5, give_up: 0.2 };

    pub fn weights(&self) -> [f64; 3] {
        [self.slip, self.rule_break, self.give_up]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_recipes() {
        for condition in Condition::ALL {
            assert_eq!(serde_json::to_string(&condition).unwrap(), format!("\"{}\"", condition.name()));
        }
        for stratum in Stratum::ALL {
            assert_eq!(serde_json::to_string(&stratum).unwrap(), format!("\"{}\"", stratum.name()));
        }
    }
}
