//! Documents and the files that hold them.

pub mod document;
mod jsonl_source;
mod parquet_claims;
mod parquet_footer;
pub mod parquet_sink;
mod parquet_source;
mod positioned_file;
pub mod shard;
mod shield;
