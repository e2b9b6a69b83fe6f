//! The judge of an answer, and the reward that follows from its verdict.

use super::expr::{Expr, Value};
use super::puzzle::{Multiset, Puzzle};
use super::ratio::Ratio;
use serde::{Deserialize, Serialize};

/// What an answer is worth, from best to worst. The first fault found in the order missing, unparsable, numbers, value decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Uses every number exactly once and has the target's value, exactly.
    Solved,
    /// The right numbers and another value, or none: division by zero, or a part too large for exact arithmetic.
    WrongValue,
    /// A number is left out, used twice or invented.
    WrongNumbers,
    /// Not an expression of [`Expr`]'s grammar.
    Unparsable,
    /// No `<answer>…</answer>`, or nothing inside.
    Missing,
}

impl Verdict {
    pub const ALL: [Verdict; 5] =
        [Verdict::Solved, Verdict::WrongValue, Verdict::WrongNumbers, Verdict::Unparsable, Verdict::Missing];

    /// The name in columns and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Solved => "solved",
            Verdict::WrongValue => "wrong-value",
            Verdict::WrongNumbers => "wrong-numbers",
            Verdict::Unparsable => "unparsable",
            Verdict::Missing => "missing",
        }
    }
}

/// Judges a completion by its last answer.
pub fn judge(puzzle: &Puzzle, completion: &str) -> Verdict {
    answer(completion).map_or(Verdict::Missing, |answer| judge_answer(puzzle, answer))
}

/// Judges the text between the answer tags.
pub fn judge_answer(puzzle: &Puzzle, answer: &str) -> Verdict {
    if answer.trim().is_empty() {
        return Verdict::Missing;
    }
    let Ok(expr) = Expr::parse(answer) else {
        return Verdict::Unparsable;
    };
    if expr.numbers.len() != puzzle.numbers().len() || Multiset::new(&expr.numbers) != puzzle.multiset() {
        return Verdict::WrongNumbers;
    }
    match expr.value {
        Value::Exact(value) if value == Ratio::whole(puzzle.target().into()) => Verdict::Solved,
        _ => Verdict::WrongValue,
    }
}

/// The text of the last complete `<answer>…</answer>`, trimmed. Unlike TinyZero's, it may span lines and be followed by text.
pub fn answer(completion: &str) -> Option<&str> {
    let end = completion.rfind("</answer>")?;
    let start = completion[..end].rfind("<answer>")? + "<answer>".len();
    Some(completion[start..end].trim())
}

/// What each verdict earns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    pub solved: f64,
    /// For any stated answer that does not solve the puzzle.
    pub form: f64,
    pub missing: f64,
}

impl Reward {
    /// TinyZero's: 1 for a solution, 0.1 for any answer between tags, else 0.
    pub const TINYZERO: Reward = Reward { solved: 1.0, form: 0.1, missing: 0.0 };
    /// 1 for a solution, else 0.
    pub const SOLUTION_ONLY: Reward = Reward { solved: 1.0, form: 0.0, missing: 0.0 };

    pub fn of(&self, verdict: Verdict) -> f64 {
        match verdict {
            Verdict::Solved => self.solved,
            Verdict::WrongValue | Verdict::WrongNumbers | Verdict::Unparsable => self.form,
            Verdict::Missing => self.missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(completion: &str, expect: Verdict) {
        let puzzle = Puzzle::new(&[3, 5, 7], 36).unwrap();
        assert_eq!(judge(&puzzle, completion), expect, "{completion}");
    }

    #[test]
    fn verdicts() {
        check("<think>…</think>\n<answer> 3 * (5 + 7) </answer>", Verdict::Solved);
        check("<answer>(7+5)×3</answer> and that is it.\n", Verdict::Solved);
        check("<answer>\n3 * (5 + 7)\n</answer>", Verdict::Solved);
        check("<answer>1</answer><answer>3 * (5 + 7)</answer>", Verdict::Solved);
        check("<answer>3 * (5 + 7)</answer><answer>7</answer>", Verdict::WrongNumbers);
        check("<answer>3 + 5 + 7</answer>", Verdict::WrongValue);
        check("<answer>7 / (3 - 3) * 5</answer>", Verdict::WrongNumbers);
        check("<answer>3 * 12</answer>", Verdict::WrongNumbers);
        check("<answer>(3 * 5 + 7 * 3)</answer>", Verdict::WrongNumbers);
        check("<answer>3 * (5 + 7) = 36</answer>", Verdict::Unparsable);
        check("<answer>3 * (5 + 7</answer>", Verdict::Unparsable);
        check("<answer>none</answer>", Verdict::Unparsable);
        check("<answer> </answer>", Verdict::Missing);
        check("3 * (5 + 7)", Verdict::Missing);
        check("<answer>3 * (5 + 7)", Verdict::Missing);
        check("</answer><answer>", Verdict::Missing);
        check("", Verdict::Missing);
    }

    #[test]
    fn a_value_that_cannot_be_computed_is_a_verdict() {
        let zero = Puzzle::new(&[7, 3, 3], 36).unwrap();
        assert_eq!(judge_answer(&zero, "7 / (3 - 3)"), Verdict::WrongValue);
    }

    #[test]
    fn rewards() {
        let earned = Verdict::ALL.map(|verdict| Reward::TINYZERO.of(verdict));
        assert_eq!(earned, [1.0, 0.1, 0.1, 0.1, 0.0]);
    }

    proptest! {
        #[test]
        fn any_text_gets_a_verdict(text in any::<String>()) {
            let puzzle = Puzzle::new(&[3, 5, 7], 36).unwrap();
            judge(&puzzle, &text);
            judge(&puzzle, &format!("<answer>{text}</answer>"));
        }
    }
}
