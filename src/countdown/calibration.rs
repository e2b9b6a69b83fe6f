//! The behavior counts of the paper's primed models, which the conditions' habits are set by.

use super::condition::Condition;
use crate::behavior::Behavior;
use std::fmt::Write as _;

/// Mean counts per completion by [`Behavior::index`] of Llama-3.2-3B right after priming on a condition (arXiv 2503.01307,
/// `results/llama_results.csv`, step 0, counted by gpt-4o-mini). `None` where the paper has no such condition.
///
/// What a condition does not ask for is the judge's noise or the teacher's leakage; ours is exactly 0 there.
pub const fn paper(condition: Condition) -> Option<[f64; 4]> {
    match condition {
        Condition::AllStrategies => Some([1.67, 2.60, 3.42, 1.61]),
        Condition::OnlyBacktracking => Some([0.59, 2.96, 0.10, 0.07]),
        Condition::BacktrackingVerification => Some([2.56, 2.94, 0.61, 0.07]),
        Condition::BacktrackingBackward => Some([0.13, 2.50, 0.95, 2.12]),
        Condition::BacktrackingSubgoal => Some([0.12, 2.93, 3.63, 0.03]),
        Condition::Empty | Condition::Dots => Some([0.0; 4]),
        Condition::Direct | Condition::Scrambled => None,
    }
}

/// Mean counts beside the paper's, as a table. Behaviors that the condition does not ask for are in parentheses.
pub fn table(measured: &[(Condition, [f64; 4])]) -> String {
    let mut text = format!("{:<28}", "condition");
    for behavior in Behavior::ALL {
        let _ = write!(text, "{:>24}", behavior.name());
    }
    text.push('\n');
    for (condition, means) in measured {
        let _ = write!(text, "{:<28}", condition.name());
        for behavior in Behavior::ALL {
            let mean = means[behavior.index()];
            let paper = match paper(*condition) {
                Some(paper) if condition.shows().contains(&behavior) => format!("{:.2}", paper[behavior.index()]),
                Some(paper) => format!("({:.2})", paper[behavior.index()]),
                None => "-".to_owned(),
            };
            let _ = write!(text, "{:>24}", format!("{mean:.2} of {paper}"));
        }
        text.push('\n');
    }
    text
}
