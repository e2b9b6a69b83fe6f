//! One file per stage: what it does to a unit, and what it records. Only stages join data, judges and the run folder.

pub mod arithmetic;
pub mod classify;
pub mod curate;
pub mod documents;
pub mod ppo;
pub mod pretrain;
pub mod prime;
pub mod report;
pub mod rewrite;
pub mod sketch;
