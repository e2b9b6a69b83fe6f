//! Any transcript and any answer is scored with one of three scores.

#![no_main]

use four_habits::countdown::compat;
use four_habits::countdown::puzzle::Puzzle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str)| {
    let (target, text) = input;
    let digits = text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
    let numbers: Vec<u32> = digits.take(7).collect();
    let Ok(puzzle) = Puzzle::new(&numbers, u32::from(target).max(1)) else { return };
    assert!([0.1, 1.0].contains(&compat::score_answer(&puzzle, text)));
    assert!([0.0, 0.1, 1.0].contains(&compat::score(&puzzle, text)));
    compat::score(&puzzle, &format!("Assistant:<answer>{text}</answer>"));
});
