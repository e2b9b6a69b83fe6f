//! Integration tests, one module per subject.

mod hub;
mod hub_faults;
mod hub_peer;
mod hub_server;
mod shard_store;
