//! Integration tests: one binary, one module per subject.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and says what it skipped"
)]

mod attempts;
mod bad_input;
mod bench;
mod chat_server;
mod countdown;
mod cue;
mod curate_hub;
mod curated;
mod decontamination;
mod disk;
mod doctor;
mod endpoint;
mod endpoint_generator;
mod endpoint_llama;
mod experiment;
mod export;
mod export_faults;
mod export_peer;
mod generate;
mod hub;
mod hub_faults;
mod hub_peer;
mod hub_server;
mod inspect;
mod kill;
mod lm;
mod lm_architectures;
mod lm_run;
mod made_documents;
mod math_docs;
mod model_server;
mod near_duplicates;
mod objects;
mod ppo;
mod pretrain;
mod pretrain_bad_input;
mod pretrain_modes;
mod prime;
mod prime_author;
mod program;
mod questions;
mod recipe;
mod reliability;
mod report;
mod repository;
mod rewrite;
mod run;
mod s3_server;
mod sample;
mod shard;
mod shard_store;
mod small_run;
mod submit;
mod tasks;
mod token_count;
mod train_autograd;
mod train_goldens;
mod training_hub;
mod upload_server;
mod verl;
