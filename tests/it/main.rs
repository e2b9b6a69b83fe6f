//! Integration tests: one binary, one module per subject.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and says what it skipped"
)]

mod bad_input;
mod countdown;
mod cue;
mod curate_hub;
mod decontamination;
mod disk;
mod generate;
mod hub;
mod hub_faults;
mod hub_peer;
mod hub_server;
mod inspect;
mod kill;
mod lm;
mod made_documents;
mod math_docs;
mod near_duplicates;
mod ppo;
mod pretrain;
mod pretrain_bad_input;
mod prime;
mod program;
mod recipe;
mod report;
mod repository;
mod run;
mod sample;
mod shard;
mod shard_store;
mod small_run;
mod tasks;
mod token_count;
