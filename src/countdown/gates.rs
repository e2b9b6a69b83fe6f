//! The hard gates: what every trace is checked for before anyone trains on it, from its text and not from its plan.
//!
//! The stage runs them on everything it writes, whoever made the trace; a trace that fails one is dropped with the reason.

use super::compat;
use super::condition::Stratum;
use super::counter::{self, Reading};
use super::puzzle::Puzzle;
use super::scramble::sentences;
use super::verdict::{Verdict, judge};

/// Why a trace must not be used.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum GateFault {
    #[error("the completion is not one thought and one answer on the last line")]
    Form,
    #[error("the answer is {found:?}, and {expected:?} was asked for")]
    Verdict { expected: Verdict, found: Verdict },
    #[error("TinyZero's scorer gives {0}")]
    Scorer(f64),
    #[error("{found} statements are false, and {expected} was asked for")]
    FalseStatements { expected: u32, found: u32 },
    #[error("try {found:?} solves the puzzle, where {expected:?} should")]
    Solving { expected: Option<u32>, found: Option<u32> },
    #[error("the text shows {text:?} and the plan {plan:?} (verification, backtracking, subgoals, backward)")]
    Counts { plan: [u32; 4], text: [u32; 4] },
    #[error("the text has {text} tries and the plan {plan}")]
    Tries { plan: u32, text: u32 },
    #[error("the thought is not what the condition asks for")]
    Thought,
    #[error("the twins' lengths are {0} and {1}")]
    Length(usize, usize),
    #[error("the twins differ before their last segment")]
    Prefix,
}

impl GateFault {
    /// A name for counting.
    pub const fn name(&self) -> &'static str {
        match self {
            GateFault::Form => "form",
            GateFault::Verdict { .. } => "verdict",
            GateFault::Scorer(_) => "scorer",
            GateFault::FalseStatements { .. } => "false-statements",
            GateFault::Solving { .. } => "solving",
            GateFault::Counts { .. } => "counts",
            GateFault::Tries { .. } => "tries",
            GateFault::Thought => "thought",
            GateFault::Length(..) => "length",
            GateFault::Prefix => "prefix",
        }
    }
}

/// The verdict that a wrong answer of a kind gets, or a correct one.
pub const fn expected_verdict(stratum: Option<Stratum>) -> Verdict {
    match stratum {
        None => Verdict::Solved,
        Some(Stratum::Slip | Stratum::GiveUp) => Verdict::WrongValue,
        Some(Stratum::RuleBreak) => Verdict::WrongNumbers,
    }
}

/// How many statements of a thought are false.
pub fn expected_false(stratum: Option<Stratum>) -> u32 {
    u32::from(stratum == Some(Stratum::Slip))
}

/// Form and answer: what holds for every condition. `query` and `completion` together are what a scorer sees.
pub fn check_answer(puzzle: &Puzzle, query: &str, completion: &str, expected: Verdict) -> Result<Verdict, GateFault> {
    const TAGS: [&str; 3] = ["</think>", "<answer>", "</answer>"];
    let mut n_tags = [0; 3];
    for (at, _) in completion.match_indices('<') {
        for (n, tag) in n_tags.iter_mut().zip(TAGS) {
            *n += usize::from(completion[at..].starts_with(tag));
        }
    }
    let has_form = n_tags == [1; 3]
        && completion.ends_with("</answer>")
        && completion.rsplit('\n').next().is_some_and(|line| line.starts_with("<answer>"));
    if !has_form {
        return Err(GateFault::Form);
    }
    let found = judge(puzzle, completion);
    if expected != found {
        return Err(GateFault::Verdict { expected, found });
    }
    // TinyZero's scorer sees a transcript; a query without its marker cannot be scored by it.
    if query.contains("Assistant:") {
        let score = compat::score_completion(puzzle, query, completion);
        if (score == 1.0) != (found == Verdict::Solved) {
            return Err(GateFault::Scorer(score));
        }
    }
    Ok(found)
}

/// The thought of a trace that was planned: behaviors, tries, truth and honesty are as planned.
pub fn check_thought(
    puzzle: &Puzzle,
    completion: &str,
    stratum: Option<Stratum>,
    plan: [u32; 4],
    n_tries: u32,
) -> Result<Reading, GateFault> {
    let reading = counter::read(puzzle, counter::thought(completion));
    let expected_false = expected_false(stratum);
    if reading.n_false != expected_false {
        return Err(GateFault::FalseStatements { expected: expected_false, found: reading.n_false });
    }
    if reading.counts != plan {
        return Err(GateFault::Counts { plan, text: reading.counts });
    }
    if reading.n_attempts != n_tries {
        return Err(GateFault::Tries { plan: n_tries, text: reading.n_attempts });
    }
    // Only the last try may truly solve the puzzle, and in a wrong trace none.
    let expected = if stratum.is_none() { n_tries.checked_sub(1) } else { None };
    if reading.first_solving != expected {
        return Err(GateFault::Solving { expected, found: reading.first_solving });
    }
    Ok(reading)
}

/// A scrambled thought has the sentences of the thought it was made from, and no others; `expected` of them are false.
pub fn check_scrambled(puzzle: &Puzzle, thought: &str, original: &str, expected: u32) -> Result<Reading, GateFault> {
    let sorted = |text| {
        let mut pieces = sentences(text).0;
        pieces.sort_unstable();
        pieces
    };
    if sorted(thought) != sorted(original) {
        return Err(GateFault::Thought);
    }
    let reading = counter::read(puzzle, thought);
    if reading.n_false != expected {
        return Err(GateFault::FalseStatements { expected, found: reading.n_false });
    }
    Ok(reading)
}

/// How far apart twins may be, in bytes: 5 % of the correct one, and never less than one number's worth.
pub fn length_slack(correct: usize) -> usize {
    (correct / 20).max(4)
}

/// Twins share what comes before their last segment and are about equally long. Of each: its completion and how much of it
/// is shared.
pub fn check_twins(correct: &str, wrong: &str, shared: usize) -> Result<(), GateFault> {
    if correct.get(..shared).is_none() || correct.get(..shared) != wrong.get(..shared) {
        return Err(GateFault::Prefix);
    }
    if length_slack(correct.len()) < correct.len().abs_diff(wrong.len()) {
        return Err(GateFault::Length(correct.len(), wrong.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn puzzle() -> Puzzle {
        Puzzle::new(&[3, 5, 7], 36).unwrap()
    }

    #[test]
    fn form_and_answer() {
        let check = |completion: &str, stratum: Option<Stratum>, expect: Option<&str>| {
            let expected = expected_verdict(stratum);
            let found =
                check_answer(&puzzle(), "Assistant: <think>", completion, expected).err().map(|fault| fault.name());
            assert_eq!(found, expect, "{completion}");
        };
        check(" x </think>\n<answer> 3 * (5 + 7) </answer>", None, None);
        check(" x </think>\n<answer> 3 * (5 + 7) </answer>\n", None, Some("form"));
        check(" x </think> <answer> 3 * (5 + 7) </answer>", None, Some("form"));
        check(" x </think>\n<answer>1</answer> <answer> 3 * (5 + 7) </answer>", None, Some("form"));
        check("<answer> 3 * (5 + 7) </answer>", None, Some("form"));
        check(" x </think>\n<answer> 3 * 5 + 7 </answer>", None, Some("verdict"));
        check(" x </think>\n<answer> 3 * 5 + 7 </answer>", Some(Stratum::Slip), None);
        check(" x </think>\n<answer> 3 * 5 + 7 </answer>", Some(Stratum::RuleBreak), Some("verdict"));
        check(" x </think>\n<answer> 3 * 12 </answer>", Some(Stratum::RuleBreak), None);
        check(" x </think>\n<answer> 3 × (5 + 7) </answer>", None, Some("scorer"));
    }

    #[test]
    fn thoughts() {
        let check = |thought: &str, stratum: Option<Stratum>, plan: [u32; 4], n_tries: u32, expect: Option<&str>| {
            let completion = format!("{thought}</think>\n<answer></answer>");
            let found = check_thought(&puzzle(), &completion, stratum, plan, n_tries).err().map(|fault| fault.name());
            assert_eq!(found, expect, "{thought}");
        };
        let honest = "3 + 5 = 8, 8 + 7 = 15. Too low. Let me try another. 5 + 7 = 12, 12 * 3 = 36. That works.";
        check(honest, None, [2, 1, 0, 0], 2, None);
        check(honest, None, [1, 1, 0, 0], 2, Some("counts"));
        check(honest, Some(Stratum::GiveUp), [2, 1, 0, 0], 2, Some("solving"));
        check(honest, None, [2, 1, 0, 0], 3, Some("tries"));
        check("3 + 5 = 8, 8 + 7 = 36.", Some(Stratum::Slip), [0; 4], 1, None);
        check("3 + 5 = 8, 8 + 7 = 36.", None, [0; 4], 1, Some("false-statements"));
        check("5 + 7 = 12, 12 * 3 = 36. Another: 3 + 5 = 8, 8 + 7 = 15.", None, [0, 1, 0, 0], 2, Some("solving"));
    }

    #[test]
    fn twins() {
        assert_eq!(check_twins("abcdef", "abcxyz", 3), Ok(()));
        assert_eq!(check_twins("abcdef", "abxdef", 3), Err(GateFault::Prefix));
        assert_eq!(check_twins("abc", "abcdefgh", 3), Err(GateFault::Length(3, 8)));
    }
}
