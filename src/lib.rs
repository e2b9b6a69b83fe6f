//! Behavior-curated pretraining data, as a library behind the `pipeline` program.
//!
//! A recipe becomes a [`config`], a config becomes a [`plan`], and a plan is [`run`] into a run folder by its [`stages`].
//! Dependencies point one way: `countdown` and `behavior` know no files, clock or network; `lm` knows no stage,
//! `train` knows `lm`; only `stages` join them.

pub mod behavior;
pub mod cli;
pub mod commands;
pub mod config;
pub mod countdown;
pub mod data;
pub mod endpoint;
pub mod error;
pub mod export;
pub mod generation;
pub mod lm;
pub mod machine;
pub mod plan;
pub mod report;
pub mod rl;
pub mod run;
pub mod stages;
pub mod train;
