//! Any completion gets a verdict, and TinyZero's scorer calls nothing less a solution that the verdict calls one.

#![no_main]

use four_habits::countdown::compat;
use four_habits::countdown::expr::Expr;
use four_habits::countdown::puzzle::Puzzle;
use four_habits::countdown::verdict::{Verdict, judge, judge_answer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str)| {
    let (target, text) = input;
    // The text's own numbers make the puzzle, so that values are reached too.
    let numbers = Expr::parse(text).map_or(vec![3, 5, 7], |expr| expr.numbers);
    let Ok(puzzle) = Puzzle::new(&numbers, u32::from(target).max(1)) else { return };
    judge(&puzzle, text);
    let verdict = judge_answer(&puzzle, text);
    if verdict == Verdict::Solved && text.is_ascii() && !text.contains(['\n', '\r', '\u{c}']) {
        assert_eq!(compat::score_answer(&puzzle, text.trim()), 1.0);
    }
});
