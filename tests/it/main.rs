#[cfg(test)]
mod shard;
