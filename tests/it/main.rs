//! Integration tests: one binary, one module per subject.

mod bad_input;
mod cue;
mod curate_hub;
mod decontamination;
mod disk;
mod hub;
mod hub_faults;
mod hub_peer;
mod hub_server;
mod kill;
mod lm;
mod made_documents;
mod math_docs;
mod near_duplicates;
mod prime;
mod program;
mod recipe;
mod repository;
mod run;
mod sample;
mod shard;
mod shard_store;
mod tasks;
mod token_count;
