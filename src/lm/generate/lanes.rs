//! Lanes: every thread decodes its own sequences, from their prompts to their ends, and waits for no other.
//!
//! The work of a step is small, so threads that share it wait for each other at every product. And the keys and values of
//! many sequences do not fit the last cache, so that every step reads them from memory; a lane takes as few sequences at
//! once as fill a thread's part of that cache, as long as they are enough to make reading the weights worth it.

use super::{BatchLimits, Waiting};
use crate::lm::decoder::Decoder;
use anyhow::Context;
use rayon::prelude::*;

/// A thread's part of the last cache, in bytes, for keys and values.
const NEAR: usize = 6 << 20;

/// Sequences that make a lane worth it: where all weights lie in cache, and where every step reads them from memory.
const ENOUGH: [usize; 2] = [12, 32];

/// Weights that stay in cache, in bytes.
const SMALL: u64 = 4 << 20;

/// How many lanes there are, and the limits of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lanes {
    pub count: usize,
    pub limits: BatchLimits,
}

impl Lanes {
    /// For `sequences` of `bytes` each on so many threads, by a model with `weights` bytes.
    fn new(threads: usize, sequences: usize, bytes: usize, weights: u64, limits: BatchLimits) -> Self {
        let enough = ENOUGH[usize::from(weights > SMALL)];
        let sequences = sequences.min(limits.sequences).min(limits.cache_bytes / bytes.max(1));
        if sequences < enough * threads {
            return Self { count: 1, limits };
        }
        let share = sequences.div_ceil(threads);
        let near = NEAR / bytes.max(1);
        let rounds = if near < enough { 1 } else { share.div_ceil(near) };
        let limits = BatchLimits {
            sequences: share.div_ceil(rounds).min(limits.sequences / threads),
            cache_bytes: limits.cache_bytes / threads,
            prompt_tokens: limits.prompt_tokens / threads,
        };
        Self { count: threads, limits }
    }

    /// Runs `lane` on as many threads at once, and gives what all of them give. Within a lane there is one thread.
    ///
    /// # Errors
    /// A lane's error; when threads cannot be started.
    pub(super) fn run<T: Send>(
        self,
        lane: impl Fn(BatchLimits) -> anyhow::Result<Vec<T>> + Sync,
    ) -> anyhow::Result<Vec<T>> {
        if self.count == 1 {
            return lane(self.limits);
        }
        let start = |_| rayon::ThreadPoolBuilder::new().num_threads(1).build().context("cannot start threads");
        let pools = (0..self.count).map(start).collect::<anyhow::Result<Vec<_>>>()?;
        let parts: Vec<Vec<T>> =
            pools.par_iter().map(|pool| pool.install(|| lane(self.limits))).collect::<anyhow::Result<_>>()?;
        Ok(parts.into_iter().flatten().collect())
    }
}

impl Decoder {
    /// The lanes for what is waiting.
    pub(super) fn lanes(&self, waiting: &[Waiting<'_>], limits: BatchLimits) -> Lanes {
        let threads = rayon::current_num_threads();
        let longest = waiting.iter().map(|(_, request, room)| request.prompt.len() + room).max().unwrap_or(0);
        match self.weight_bytes() {
            Some(weights) => Lanes::new(threads, waiting.len(), self.cache_bytes(longest), weights, limits),
            None => Lanes { count: 1, limits },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { sequences: 128, cache_bytes: 1 << 30, prompt_tokens: 4096 };

    fn check(threads: usize, sequences: usize, bytes: usize, weights: u64, count: usize, live: usize) {
        let lanes = Lanes::new(threads, sequences, bytes, weights, LIMITS);
        assert_eq!((lanes.count, lanes.limits.sequences), (count, live), "{threads} {sequences} {bytes} {weights}");
        assert!(lanes.count * lanes.limits.sequences <= LIMITS.sequences);
        assert!(lanes.count * lanes.limits.cache_bytes <= LIMITS.cache_bytes);
        assert!(lanes.count * lanes.limits.prompt_tokens <= LIMITS.prompt_tokens);
    }

    #[test]
    fn lanes_have_enough_sequences_and_keep_the_limits() {
        // Three rounds of 22 in the last cache.
        check(2, 128, 256 << 10, 1 << 20, 2, 22);
        check(2, 1000, 256 << 10, 1 << 20, 2, 22);
        check(1, 128, 256 << 10, 1 << 20, 1, 22);
        // Too long for it: all at once.
        check(2, 128, 2 << 20, 40 << 20, 2, 64);
        // Too few to read the weights for.
        check(2, 60, 2 << 20, 40 << 20, 1, 128);
        check(2, 20, 256 << 10, 1 << 20, 1, 128);
        check(64, 128, 256 << 10, 1 << 20, 1, 128);
        // Caches that leave room for a few.
        check(2, 128, 100 << 20, 1 << 20, 1, 128);
        check(2, 0, 0, 0, 1, 128);
    }

    #[test]
    fn lanes_run_alone_and_an_error_is_the_whole_runs() {
        let lanes = Lanes { count: 3, limits: LIMITS };
        let threads = lanes.run(|_| Ok(vec![rayon::current_num_threads()])).unwrap();
        assert_eq!(threads, [1, 1, 1]);
        let error = lanes.run::<()>(|_| anyhow::bail!("a loose cable")).unwrap_err();
        assert_eq!(error.to_string(), "a loose cable");
    }
}
