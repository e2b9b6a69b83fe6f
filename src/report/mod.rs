//! A run, told to people: one page, its pictures, and the same numbers for programs.
//!
//! [`summary`] folds manifests, [`experiment`] compares arms, [`findings`] reads what lies beside them, [`charts`] draws, [`page`] puts it together.

pub mod charts;
pub mod experiment;
pub mod findings;
mod labeled;
pub mod page;
mod pictures;
pub mod reinforcement;
pub mod samples;
pub mod source;
pub mod summary;
pub mod training;
