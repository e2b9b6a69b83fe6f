//! What a response earns, and why. Rules are plain functions of a problem and a text.

use super::math_answer::{self, MathVerdict};
use crate::countdown::compat;
use crate::countdown::puzzle::Puzzle;
use crate::countdown::verdict::{self, Verdict};
use std::borrow::Cow;

/// What one response earned.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub reward: f64,
    /// The name of the finding, for shares and tables: `solved`, `wrong-value`, `correct`, `missing`, …
    pub verdict: Cow<'static, str>,
    /// Whether it counts as right in pass@k.
    pub is_solved: bool,
}

/// What a response is judged against.
#[derive(Debug, Clone, PartialEq)]
pub enum Problem {
    Countdown(Puzzle),
    /// A question's known answer.
    Question {
        answer: String,
    },
}

/// How rewards follow from verdicts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// The strict verdict of this project, and what each verdict earns.
    Countdown(verdict::Reward),
    /// TinyZero's scorer to the letter. The verdict, and so pass@k, stays the strict one.
    TinyZero,
    Math(MathReward),
}

/// What each verdict on a question's answer earns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MathReward {
    pub correct: f64,
    pub wrong: f64,
    pub missing: f64,
}

impl MathReward {
    /// 1 for the answer, else 0.
    pub const CORRECT_ONLY: MathReward = MathReward { correct: 1.0, wrong: 0.0, missing: 0.0 };

    pub fn of(&self, verdict: MathVerdict) -> f64 {
        match verdict {
            MathVerdict::Correct => self.correct,
            MathVerdict::Wrong => self.wrong,
            MathVerdict::Missing => self.missing,
        }
    }
}

/// Why a rule cannot judge a problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the reward `{rule}` cannot judge {problem}")]
pub struct Mismatch {
    rule: &'static str,
    problem: &'static str,
}

impl Rule {
    /// Judges a response, given without its end token, to a prompt.
    pub fn judge(&self, problem: &Problem, prompt: &str, response: &str) -> Result<Outcome, Mismatch> {
        match (self, problem) {
            (Self::Countdown(reward), Problem::Countdown(puzzle)) => {
                let verdict = verdict::judge(puzzle, response);
                Ok(countdown(verdict, reward.of(verdict)))
            }
            (Self::TinyZero, Problem::Countdown(puzzle)) => {
                let reward = compat::score(puzzle, &[prompt, response].concat());
                Ok(countdown(verdict::judge(puzzle, response), reward))
            }
            (Self::Math(reward), Problem::Question { answer }) => {
                let verdict = math_answer::judge(answer, response);
                Ok(Outcome {
                    reward: reward.of(verdict),
                    verdict: Cow::Borrowed(verdict.name()),
                    is_solved: verdict == MathVerdict::Correct,
                })
            }
            (Self::Countdown(_) | Self::TinyZero, Problem::Question { .. }) => {
                Err(Mismatch { rule: "countdown", problem: "a question: it needs a puzzle" })
            }
            (Self::Math(_), Problem::Countdown(_)) => {
                Err(Mismatch { rule: "math", problem: "a puzzle: it needs a question with its answer" })
            }
        }
    }
}

fn countdown(verdict: Verdict, reward: f64) -> Outcome {
    Outcome { reward, verdict: Cow::Borrowed(verdict.name()), is_solved: verdict == Verdict::Solved }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countdown::query::QueryTemplate;

    #[test]
    fn countdown_by_both_scorers() {
        let puzzle = Puzzle::new(&[3, 5, 7], 36).unwrap();
        let prompt = QueryTemplate::built_in().unwrap().fill(&puzzle);
        let problem = Problem::Countdown(puzzle);
        let check = |response: &str, verdict: &str, strict: f64, tinyzero: f64| {
            for (rule, expect) in [(Rule::Countdown(verdict::Reward::TINYZERO), strict), (Rule::TinyZero, tinyzero)] {
                let outcome = rule.judge(&problem, &prompt, response).unwrap();
                assert_eq!((outcome.reward, &*outcome.verdict), (expect, verdict), "{response} {rule:?}");
                assert_eq!(outcome.is_solved, verdict == "solved");
            }
        };
        check(" 3 * 12 </think>\n<answer>3 * (5 + 7)</answer>", "solved", 1.0, 1.0);
        check("</think><answer>3 + 5 + 7</answer>", "wrong-value", 0.1, 0.1);
        check("</think><answer>3 * 12</answer>", "wrong-numbers", 0.1, 0.1);
        check("</think><answer>three</answer>", "unparsable", 0.1, 0.1);
        check("I give up", "missing", 0.0, 0.0);
        // Where the two differ: TinyZero reads the last line alone, and takes Python for arithmetic.
        check("</think><answer>3 * (5 + 7)</answer>\n", "solved", 1.0, 0.0);
        check("</think><answer>3*5//7*36</answer>", "unparsable", 0.1, 0.1);
    }

    #[test]
    fn questions_and_mismatches() {
        let rule = Rule::Math(MathReward { wrong: 0.1, ..MathReward::CORRECT_ONLY });
        let question = Problem::Question { answer: "3/4".into() };
        let earned = |text: &str| rule.judge(&question, "", text).unwrap().reward;
        assert_eq!([earned("\\boxed{0.75}"), earned("\\boxed{7}"), earned("7")], [1.0, 0.1, 0.0]);
        assert_eq!(
            Rule::TinyZero.judge(&question, "", "").unwrap_err().to_string(),
            "the reward `countdown` cannot judge a question: it needs a puzzle"
        );
    }
}
