//! TinyZero's scorer to the letter (`verl/utils/reward_score/countdown.py`), for comparisons with published runs.
//!
//! It judges a whole transcript, prompt included, and keeps the original's quirks: only the text after the first
//! `Assistant:` counts, and of that only the last line, so that a newline after `</answer>` scores nothing; the answer is
//! whatever Python's `eval` makes of it, so that `2**3`, `7//2` and `1.5*2` (digits 1, 5, 2) are solutions.
//!
//! Where it differs from the original, on purpose:
//! - A power or product of more than [`MAX_BITS`] bits scores as a failed evaluation; there the original hangs.
//! - Parentheses and signs nested deeper than [`MAX_DEPTH`] score as a failed evaluation; there Python's own limit
//!   depends on its version.
//!
//! [`super::verdict`] is what this project scores with.

use super::puzzle::Puzzle;
use python::Number;

mod python;

pub use python::{MAX_BITS, MAX_DEPTH};

/// 1 for a solution, 0.1 for an answer in tags that is none, 0 without one.
pub fn score(puzzle: &Puzzle, transcript: &str) -> f64 {
    extract(transcript).map_or(0.0, |answer| score_answer(puzzle, answer))
}

/// [`score`] of a query and the completion behind it, without joining them where that makes no difference: only the last
/// line counts, and a completion of several lines holds all of it.
pub fn score_completion(puzzle: &Puzzle, query: &str, completion: &str) -> f64 {
    match completion.rsplit_once('\n') {
        Some((_, line)) if query.contains("Assistant:") => {
            answer_of_line(line).map_or(0.0, |answer| score_answer(puzzle, answer))
        }
        _ => score(puzzle, &[query, completion].concat()),
    }
}

/// [`score`] of the text between the tags.
pub fn score_answer(puzzle: &Puzzle, answer: &str) -> f64 {
    const SOLVED: f64 = 1.0;
    const FORM: f64 = 0.1;
    if !uses_the_numbers(puzzle, answer) {
        return FORM;
    }
    let allowed = |c: char| is_decimal_digit(c) || "+-*/().".contains(c) || is_python_space(c);
    if answer.is_empty() || !answer.chars().all(allowed) {
        return FORM;
    }
    match python::evaluate(answer) {
        Some(value) if is_within(&value, puzzle.target()) => SOLVED,
        _ => FORM,
    }
}

/// The last answer on the last line of the assistant's part.
fn extract(transcript: &str) -> Option<&str> {
    answer_of_line(reply(transcript)?.rsplit('\n').next()?)
}

fn reply(transcript: &str) -> Option<&str> {
    let split = transcript.split_once("Assistant:").or_else(|| transcript.split_once("<|im_start|>assistant"));
    split.map(|(_, reply)| reply)
}

fn answer_of_line(line: &str) -> Option<&str> {
    // Python's non-greedy matches do not overlap: scanning from the left, each opening tag takes the first closing tag after it.
    let mut found = None;
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("<answer>")
        && let Some((inside, after)) = after.split_once("</answer>")
    {
        found = Some(inside.trim_matches(is_python_space));
        rest = after;
    }
    found
}

/// Whether the runs of digits, read as integers, are the puzzle's numbers in some order.
fn uses_the_numbers(puzzle: &Puzzle, answer: &str) -> bool {
    let mut wanted = puzzle.numbers().to_vec();
    let mut run = answer.split(|c: char| !is_decimal_digit(c)).filter(|digits| !digits.is_empty());
    let take = |digits: &str| {
        // Python's `int` refuses more digits than this.
        if 4300 < digits.chars().count() {
            return false;
        }
        let value = digits.chars().try_fold(0u32, |value, c| value.checked_mul(10)?.checked_add(digit_value(c)?));
        let position = value.and_then(|value| wanted.iter().position(|&number| number == value));
        position.map(|position| wanted.swap_remove(position)).is_some()
    };
    run.all(take) && wanted.is_empty()
}

/// `abs(value - target) < 1e-5` as Python computes it.
fn is_within(value: &Number, target: u32) -> bool {
    const TOLERANCE: f64 = 1e-5;
    match value {
        Number::Int(int) => *int == target.into(),
        Number::Float(float) => (float - f64::from(target)).abs() < TOLERANCE,
        Number::Complex(re, im) => (re - f64::from(target)).hypot(*im) < TOLERANCE,
    }
}

/// `\s` of Python's `re` for text, and what `str.strip` removes.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `\d` of Python's `re` for text: Unicode's decimal digits. Python's `eval` refuses those outside ASCII, so only their
/// value matters here and only for the numbers' check.
fn is_decimal_digit(c: char) -> bool {
    digit_value(c).is_some()
}

fn digit_value(c: char) -> Option<u32> {
    if c.is_ascii_digit() {
        return c.to_digit(10);
    }
    // The zeros of the blocks of decimal digits (Unicode 15, general category Nd); each block has ten in a row.
    const ZEROS: [u32; 65] = [
        0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
        0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
        0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0,
        0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16a60,
        0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0,
    ];
    let code = u32::from(c);
    let block = ZEROS.partition_point(|&zero| zero <= code).checked_sub(1)?;
    let value = code - ZEROS[block];
    (value < 10).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(numbers: &[u32], target: u32, answer: &str, expect: f64) {
        let puzzle = Puzzle::new(numbers, target).unwrap();
        assert_eq!(score_answer(&puzzle, answer), expect, "{answer}");
    }

    #[test]
    fn python_semantics() {
        check(&[1, 2, 3], 1, "(1 + 2) / 3", 1.0);
        check(&[2, 3], 8, "2**3", 1.0);
        check(&[2, 3, 2], 512, "2**3**2", 1.0);
        check(&[2, 2], 4, "-2**2*-1", 0.1);
        check(&[2, 7], 3, "7//2", 1.0);
        check(&[1, 5, 2], 3, "1.5*2", 1.0);
        check(&[5, 2], 10, "05.*2", 1.0);
        check(&[5, 2], 10, "05*2", 0.1);
        check(&[5, 4], 20, ".5*4*10", 0.1);
        check(&[5, 4], 2, ".5*4", 1.0);
        check(&[3, 4, 12], 12, "3 * 4 = 12", 0.1);
        check(&[3, 4], 12, "3(4)", 0.1);
        check(&[3, 4], 12, "3 4", 0.1);
        check(&[3, 4], 12, "3 × 4", 0.1);
        check(&[1, 1, 3], 3, "3/(1-1)", 0.1);
        check(&[99, 98, 99, 97], 99, "99**98//99**97", 1.0);
        check(&[9, 9, 9], 9, "9**9**9", 0.1);
        check(&[2, 7], 5, "7--2 - -2", 0.1);
        check(&[2, 7], 9, "7--2", 1.0);
        check(&[7, 2], 4, "-(-7//2)", 1.0);
        check(&[5, 1, 49, 98], 25, "(-5)**(1/49*98)", 1.0);
        check(&[3], 3, "٣", 0.1);
        check(&[3], 3, "", 0.1);
        check(&[3], 3, "()", 0.1);
        check(&[10, 3], 13, "10 +\t3", 1.0);
        check(&[10, 3], 13, "(10 +\r3)", 1.0);
        check(&[10, 3], 13, "10 +\r3", 0.1);
        check(&[10, 3], 13, "10 +\u{b}3", 0.1);
    }

    #[test]
    fn transcripts() {
        let puzzle = Puzzle::new(&[3, 4], 12).unwrap();
        let check = |transcript: &str, expect: f64| assert_eq!(score(&puzzle, transcript), expect, "{transcript:?}");
        check("User: …\nAssistant: <think></think>\n<answer> 3 * 4 </answer>", 1.0);
        check("<|im_start|>assistant\n<answer>3*4</answer><|im_end|>", 1.0);
        check("Assistant: <answer>3*4</answer>\n", 0.0);
        check("Assistant: <answer>3*\n4</answer>", 0.0);
        check("<answer>3*4</answer>", 0.0);
        check("Assistant: <answer></answer>", 0.1);
        check("Assistant: <answer>no</answer> <answer>4*3</answer>", 1.0);
        check("Assistant: <answer><answer>4*3</answer>", 0.1);
        check("Assistant: 3*4", 0.0);
    }

    #[test]
    fn a_completion_scores_as_its_transcript() {
        let puzzle = Puzzle::new(&[3, 4], 12).unwrap();
        for query in [
            "User: \u{2026}\nAssistant: <think>",
            "<|im_start|>assistant\n<think>",
            "none",
            "",
            "a <answer>3*4</answer>",
        ] {
            for completion in [
                "</think>\n<answer>3*4</answer>",
                "<answer>3*4</answer>",
                "Assistant:\n<answer>3*4</answer>",
                "\n",
                "",
                "<answer>3*4</answer>\n",
            ] {
                let whole = score(&puzzle, &[query, completion].concat());
                assert_eq!(score_completion(&puzzle, query, completion), whole, "{query:?} {completion:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_scored(text in "[-+*/(). 0-9\t\r]{0,80}") {
            let digits = text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
            let numbers: Vec<u32> = digits.take(6).collect();
            if let Ok(puzzle) = Puzzle::new(&numbers, 24) {
                score_answer(&puzzle, &text);
            }
        }
    }
}
