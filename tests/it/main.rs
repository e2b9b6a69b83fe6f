//! Integration tests: one binary, one module per subject.

mod cue;
mod decontamination;
mod hub;
mod hub_faults;
mod hub_peer;
mod hub_server;
mod lm;
mod math_docs;
mod near_duplicates;
mod sample;
mod shard;
mod shard_store;
mod token_count;
