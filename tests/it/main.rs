//! Integration tests, one module per subject.

mod hub;
mod hub_peer;
mod hub_server;
mod sample;
mod shard_store;
