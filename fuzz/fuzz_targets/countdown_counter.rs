//! Any text is read, and the figures hang together.

#![no_main]

use four_habits::behavior::Behavior;
use four_habits::countdown::counter;
use four_habits::countdown::puzzle::Puzzle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u8; 4], u8, &str)| {
    let (numbers, target, text) = input;
    let Ok(puzzle) = Puzzle::new(&numbers.map(|number| u32::from(number % 32)), u32::from(target)) else { return };
    let reading = counter::read(&puzzle, counter::thought(text));
    assert_eq!(reading.counts[Behavior::Backtracking.index()], reading.n_attempts.saturating_sub(1));
    assert!(reading.n_attempts <= reading.n_statements);
    assert!(reading.first_solving.is_none_or(|attempt| attempt < reading.n_attempts));
});
