//! Integration tests: one binary, one module per subject.

mod cue;
mod decontamination;
mod hub;
mod hub_faults;
mod hub_peer;
mod hub_server;
mod inspect;
mod lm;
mod math_docs;
mod near_duplicates;
mod report;
mod sample;
mod shard;
mod shard_store;
mod small_run;
mod token_count;
