//! The four habits, what a judge says of a document, and the judges.
//!
//! Invariant: this module knows no stage and no run folder. A judge gets text and gives labels.

use serde::{Deserialize, Serialize};

pub mod counting_judge;
pub mod cue;
pub mod evaluation;
pub mod judge;
pub mod lm_judge;
pub mod windows;

/// One of the four reasoning behaviors of arXiv 2503.01307, in the order every table and column list uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Behavior {
    /// The writer checks a result or own work: "substituting back gives 24, as it should".
    Verification,
    /// The writer abandons a path that does not work and tries another: "that fails, let me try …".
    Backtracking,
    /// The writer announces intermediate goals before reaching for them: "first find f', then set it to zero".
    SubgoalSetting,
    /// The writer starts from the goal and works back: "to get X it suffices to have Y".
    BackwardChaining,
}

impl Behavior {
    pub const ALL: [Behavior; 4] =
        [Behavior::Verification, Behavior::Backtracking, Behavior::SubgoalSetting, Behavior::BackwardChaining];

    /// The name in columns, recipes and labels: `verification`, `backtracking`, `subgoal_setting`, `backward_chaining`.
    pub const fn name(self) -> &'static str {
        match self {
            Behavior::Verification => "verification",
            Behavior::Backtracking => "backtracking",
            Behavior::SubgoalSetting => "subgoal_setting",
            Behavior::BackwardChaining => "backward_chaining",
        }
    }

    /// The position in [`Behavior::ALL`], for arrays indexed by behavior.
    pub const fn index(self) -> usize {
        self as usize
    }
}
