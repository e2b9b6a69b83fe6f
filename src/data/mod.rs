//! Documents and where they come from: shards on disk, on the hub, and between the two.

pub mod hub;
pub mod shard_store;
