//! Documents and the files that hold them.

pub mod document;
mod jsonl_source;
mod parquet_footer;
mod parquet_source;
pub mod sample;
pub mod schema;
pub mod shard;
pub mod sidecar;
