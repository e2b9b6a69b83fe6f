//! The Countdown game: puzzles, expressions, verdicts, the solver, and priming traces with the judge that reads them back.
//!
//! Invariant: this module knows no files, clock, network or global state. The stage gives it text and rows, and gets rows.

pub mod compat;
pub mod derivation;
pub mod expr;
pub mod puzzle;
pub mod ratio;
pub mod solver;
pub mod verdict;
