//! What must be alike between conditions for a comparison to be fair, measured from the traces themselves, in memory that
//! does not grow with their number.

use super::condition::Stratum;
use super::generate::TraceRecord;
use super::puzzle::{Multiset, mix};
use super::verdict::Verdict;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Bigrams are collected from the first traces only, until there are this many.
const MAX_BIGRAMS: usize = 1 << 20;
/// Longer completions are counted as this long.
const MAX_LENGTH: usize = 8191;

/// Takes traces of one set, one by one.
#[derive(Debug, Clone)]
pub struct Meter {
    n_traces: u64,
    counts: [u64; 4],
    verdicts: BTreeMap<Verdict, u64>,
    strata: BTreeMap<Stratum, u64>,
    phrases: BTreeMap<u16, u64>,
    bigrams: Vec<u64>,
    lengths: Vec<u64>,
}

/// The figures of one set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fairness {
    pub n_traces: u64,
    /// Mean counts by [`crate::behavior::Behavior::index`].
    pub mean_counts: [f64; 4],
    /// Share of answers that solve their puzzle.
    pub solved: f64,
    /// Wrong answers by stratum.
    pub strata: BTreeMap<Stratum, u64>,
    /// Distinct pairs of neighbouring words over all pairs, numbers masked, in a sample of fixed size.
    pub distinct_2: f64,
    /// Entropy of the phrases used, in bits, and how many different ones there are.
    pub phrase_entropy: f64,
    pub n_phrases: usize,
    /// Of completions, in the unit given to [`Meter::add`].
    pub length: Lengths,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lengths {
    pub mean: f64,
    pub p5: u32,
    pub p50: u32,
    pub p95: u32,
    pub max: u32,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            n_traces: 0,
            counts: [0; 4],
            verdicts: BTreeMap::new(),
            strata: BTreeMap::new(),
            phrases: BTreeMap::new(),
            bigrams: Vec::new(),
            lengths: vec![0; MAX_LENGTH + 1],
        }
    }
}

impl Meter {
    /// `length` is the completion's, in tokens if there is a tokenizer, else in bytes.
    pub fn add(&mut self, trace: &TraceRecord, length: usize) {
        self.n_traces += 1;
        for (sum, count) in self.counts.iter_mut().zip(trace.counts) {
            *sum += u64::from(count);
        }
        *self.verdicts.entry(trace.verdict).or_default() += 1;
        if let Some(stratum) = trace.stratum {
            *self.strata.entry(stratum).or_default() += 1;
        }
        for &phrase in &trace.phrases {
            *self.phrases.entry(phrase).or_default() += 1;
        }
        self.lengths[length.min(MAX_LENGTH)] += 1;
        if self.bigrams.len() < MAX_BIGRAMS {
            let mut last = None;
            for word in trace.completion.split_whitespace() {
                let hash = word
                    .bytes()
                    .fold(0, |hash, byte| mix(hash ^ if byte.is_ascii_digit() { 0 } else { u64::from(byte) }));
                if let Some(last) = last.replace(hash) {
                    self.bigrams.push(mix(last) ^ hash);
                }
            }
        }
    }

    pub fn finish(mut self) -> Fairness {
        let n = self.n_traces.max(1) as f64;
        let n_bigrams = self.bigrams.len().max(1) as f64;
        self.bigrams.sort_unstable();
        self.bigrams.dedup();
        let n_used: u64 = self.phrases.values().sum();
        let shares = self.phrases.values().map(|&count| count as f64 / n_used as f64);
        Fairness {
            n_traces: self.n_traces,
            mean_counts: self.counts.map(|sum| sum as f64 / n),
            solved: self.verdicts.get(&Verdict::Solved).copied().unwrap_or(0) as f64 / n,
            strata: self.strata,
            distinct_2: self.bigrams.len() as f64 / n_bigrams,
            phrase_entropy: shares.fold(0.0, |sum, share| sum - share * share.log2()),
            n_phrases: self.phrases.len(),
            length: lengths(&self.lengths, self.n_traces),
        }
    }
}

fn lengths(histogram: &[u64], n: u64) -> Lengths {
    let quantile = |share: f64| {
        let rank = (share * n as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let position = histogram.iter().position(|count| {
            below += count;
            rank <= below
        });
        position.unwrap_or(0) as u32
    };
    let sum: u64 = histogram.iter().enumerate().map(|(length, count)| length as u64 * count).sum();
    Lengths {
        mean: sum as f64 / n.max(1) as f64,
        p5: quantile(0.05),
        p50: quantile(0.5),
        p95: quantile(0.95),
        max: histogram.iter().rposition(|&count| 0 < count).unwrap_or(0) as u32,
    }
}

/// How many of these puzzles share their numbers, in any order, with a set such as the RL prompts or the test set.
pub fn overlap(puzzles: impl Iterator<Item = Multiset>, others: &BTreeSet<Multiset>) -> u64 {
    puzzles.filter(|multiset| others.contains(multiset)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countdown::condition::Condition;
    use crate::countdown::puzzle::Puzzle;

    fn trace(completion: &str, verdict: Verdict, phrases: &[u16]) -> TraceRecord {
        TraceRecord {
            query: String::new(),
            completion: completion.to_owned(),
            puzzle: Puzzle::new(&[3, 5], 8).unwrap(),
            condition: Condition::Direct,
            verdict,
            stratum: (verdict != Verdict::Solved).then_some(Stratum::Slip),
            counts: [1, 2, 0, 0],
            pair_id: 0,
            phrases: phrases.to_vec(),
        }
    }

    #[test]
    fn figures() {
        let mut meter = Meter::default();
        meter.add(&trace("let me try 3", Verdict::Solved, &[1, 2]), 10);
        meter.add(&trace("let me try 7", Verdict::WrongValue, &[1, 2]), 20);
        let fairness = meter.finish();
        assert_eq!(fairness.mean_counts, [1.0, 2.0, 0.0, 0.0]);
        assert_eq!((fairness.solved, fairness.distinct_2, fairness.n_phrases), (0.5, 0.5, 2));
        assert!((fairness.phrase_entropy - 1.0).abs() < 1e-12);
        assert_eq!(fairness.length, Lengths { mean: 15.0, p5: 10, p50: 10, p95: 20, max: 20 });
        assert_eq!(fairness.strata[&Stratum::Slip], 1);
    }

    #[test]
    fn an_empty_set_has_figures_too() {
        assert_eq!(Meter::default().finish().length.max, 0);
    }

    #[test]
    fn overlap_ignores_order() {
        let others = BTreeSet::from([Multiset::new(&[3, 5, 7])]);
        let puzzles = [Multiset::new(&[7, 3, 5]), Multiset::new(&[7, 3, 6])];
        assert_eq!(overlap(puzzles.into_iter(), &others), 1);
    }
}
