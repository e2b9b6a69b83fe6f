//! Documents: what they are stored in, compared by and counted in.

pub mod decontaminate;
pub mod minhash;
pub mod near_duplicates;
pub mod token_count;
pub mod words;
