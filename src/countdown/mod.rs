//! The Countdown game: puzzles, expressions, verdicts, the solver, and priming traces with the judge that reads them back.
//!
//! Invariant: this module knows no files, clock, network or global state. The stage gives it text and rows, and gets rows.
//!
//! ```text
//! base     arithmetic
//! game     puzzle · draw · derivation · solver · expr · verdict · compat · query
//! traces   condition · trace (events) · planner · in_turn · wrong · phrases · realiser · scramble · generate · author
//! reading  lexer · reader · lexicon · counter · gates · fairness · calibration
//! ```
//!
//! What writes traces and what reads them share the game and nothing else.

use puzzle::mix;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub mod arithmetic;
pub mod author;
pub mod calibration;
pub mod compat;
pub mod condition;
pub mod counter;
pub mod derivation;
pub mod draw;
pub mod expr;
pub mod fairness;
pub mod gates;
pub mod generate;
mod in_turn;
mod lexer;
mod lexicon;
pub mod phrases;
mod planner;
pub mod puzzle;
pub mod query;
pub mod ratio;
mod reader;
mod realiser;
mod scramble;
pub mod solver;
mod trace;
pub mod verdict;
mod wrong;

/// What randomness is for. Each use draws from a stream of its own, so that one more draw here changes nothing there.
#[derive(Clone, Copy)]
enum Stream {
    Puzzle,
    Plan,
    Words,
    LastWords,
    Answer,
    Twin,
    Scramble,
}

/// The random stream of a use, by seed and index.
fn stream(seed: u64, index: u64, purpose: Stream) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(mix(mix(seed ^ mix(purpose as u64)) ^ index))
}
