//! Documents and where they come from: shards on disk, on the hub, and between the two; and what is computed on text.

pub mod decontaminate;
pub mod document;
pub mod hub;
mod jsonl_source;
pub mod minhash;
pub mod near_duplicates;
pub mod objects;
mod parquet_claims;
mod parquet_footer;
pub mod parquet_sink;
mod parquet_source;
pub mod parquet_table;
mod positioned_file;
pub mod sample;
pub mod schema;
pub mod shard;
pub mod shard_store;
mod shield;
pub mod sidecar;
pub mod token_count;
pub mod words;
