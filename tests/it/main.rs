mod lm;
mod shard;
