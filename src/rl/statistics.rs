//! Figures that tell a healthy update from a sick one, over all the mini-batches of a step together.
//!
//! Sums are kept and divided at the end, so that the figures do not depend on how a step was cut (verl#2259).

use super::loss::Loss;
use super::tokens::{mean, mean_and_variance, selected};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The mean over steps of a figure known at some of them, by the trapezoidal rule; `None` if they span no steps.
pub fn mean_over_steps(points: &[(u64, f64)]) -> Option<f64> {
    let steps = points.last()?.0.checked_sub(points.first()?.0).filter(|&steps| steps > 0)?;
    let strip = |pair: &[(u64, f64)]| (pair[1].0 - pair[0].0) as f64 * 0.5 * (pair[0].1 + pair[1].1);
    Some(points.windows(2).map(strip).sum::<f64>() / steps as f64)
}

/// The share of the returns' variance that the values explain: 1 for a critic that knows, 0 for one that says the mean,
/// negative for one that misleads. `None` if the returns are all equal.
pub fn explained_variance(values: &[f32], returns: &[f32], mask: &[bool]) -> Option<f64> {
    let (_, variance) = mean_and_variance(selected(returns, mask));
    let errors: Vec<f64> = selected(returns, mask).zip(selected(values, mask)).map(|(r, v)| r - v).collect();
    let (_, unexplained) = mean_and_variance(errors.iter().copied());
    (1e-12 < variance).then(|| 1.0 - unexplained / variance)
}

/// What a step's updates of the policy did. The divergences are from the policy that sampled, not from the reference.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PolicyStatistics {
    pub loss: f64,
    pub entropy: f64,
    /// The share of tokens whose loss was decided by the clip.
    pub clip_fraction: f64,
    pub ratio_mean: f64,
    pub ratio_min: f64,
    pub ratio_max: f64,
    /// The mean of old minus new log-probabilities: a noisy estimate, of either sign.
    pub approx_kl: f64,
    /// The mean of `rho - 1 - ln rho`: never negative, less noisy.
    pub approx_kl3: f64,
}

/// Adds up [`PolicyStatistics`] token by token.
#[derive(Debug, Clone, Copy, Default)]
pub struct PolicyMeter {
    tokens: u64,
    loss: f64,
    updates: u64,
    entropy: f64,
    clipped: u64,
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    kl: f64,
    kl3: f64,
}

impl PolicyMeter {
    /// One token: its surrogate loss, entropy, and new and old log-probability.
    pub fn token(&mut self, surrogate: Loss, entropy: f64, log_prob: f64, old_log_prob: f64) {
        let ratio = super::loss::ratio(log_prob, old_log_prob);
        let is_first = self.tokens == 0;
        self.tokens += 1;
        self.entropy += entropy;
        self.clipped += u64::from(surrogate.is_clipped);
        self.ratio += ratio;
        self.ratio_min = if is_first { ratio } else { self.ratio_min.min(ratio) };
        self.ratio_max = if is_first { ratio } else { self.ratio_max.max(ratio) };
        self.kl += old_log_prob - log_prob;
        self.kl3 += ratio - 1.0 - ratio.ln();
    }

    /// One mini-batch, with its whole loss.
    pub fn update(&mut self, loss: f64) {
        self.loss += loss;
        self.updates += 1;
    }

    /// `None` if no token was learned from.
    pub fn finish(&self) -> Option<PolicyStatistics> {
        let tokens = self.tokens as f64;
        (self.tokens != 0).then(|| PolicyStatistics {
            loss: self.loss / self.updates.max(1) as f64,
            entropy: self.entropy / tokens,
            clip_fraction: self.clipped as f64 / tokens,
            ratio_mean: self.ratio / tokens,
            ratio_min: self.ratio_min,
            ratio_max: self.ratio_max,
            approx_kl: self.kl / tokens,
            approx_kl3: self.kl3 / tokens,
        })
    }
}

/// What a step's updates of the critic did.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CriticStatistics {
    pub loss: f64,
    /// The share of tokens whose error was decided by the clip.
    pub clip_fraction: f64,
    /// [`explained_variance`] of the values before the updates; absent if all returns are equal.
    pub explained_variance: Option<f64>,
    pub value_mean: f64,
    pub return_mean: f64,
}

/// An interval of a share or a mean, as wide as two-sided 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// The mean of per-problem scores with a normal interval from their standard error: problems are the units that were drawn, and
/// several samples of one problem are not independent. No problems give zeros.
pub fn interval(scores: &[f64]) -> Interval {
    let (mean, variance) = mean_and_variance(scores.iter().copied());
    let half = 1.959_963_984_540_054 * (variance / scores.len().max(1) as f64).sqrt();
    Interval { mean, low: mean - half, high: mean + half }
}

/// The mean difference of paired scores with a 95 % percentile interval, by drawing pairs anew with replacement. Of unequal lengths the
/// rest of the longer is left out; no pairs give zeros.
pub fn paired_bootstrap(scores: &[f64], others: &[f64], resamples: usize, seed: u64) -> Interval {
    let differences: Vec<f64> = scores.iter().zip(others).map(|(score, other)| score - other).collect();
    let count = differences.len();
    let mean = differences.iter().sum::<f64>() / count.max(1) as f64;
    if count == 0 || resamples == 0 {
        return Interval { mean, low: mean, high: mean };
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| (0..count).map(|_| differences[rng.random_range(0..count)]).sum::<f64>() / count as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((resamples - 1) as f64 * share).round() as usize];
    Interval { mean, low: at(0.025), high: at(0.975) }
}

/// The chance that at least one of `k` samples drawn from `n`, of which `c` are right, is right: the unbiased estimate of pass@k
/// (Chen et al. 2021, arXiv 2107.03374). `k` above `n` counts as `n`.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    let k = k.min(n);
    if n < c + k {
        return if k == 0 { 0.0 } else { 1.0 };
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

/// The mean over sequences of each one's mean over its selected tokens; sequences without any do not count.
pub fn mean_of_means(spans: &super::tokens::Spans, mask: &[bool], values: &[f32]) -> f64 {
    let means = spans
        .iter()
        .filter(|span| mask[span.clone()].contains(&true))
        .map(|span| mean(selected(&values[span.clone()], &mask[span])));
    mean(means)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rl::loss::{Clip, clipped_surrogate};
    use crate::rl::tokens::Spans;

    #[test]
    fn explained_variance_by_cases() {
        let returns = [0.0, 1.0, 0.0, 1.0, f32::NAN];
        let mask = [true, true, true, true, false];
        let check = |values: [f32; 5], expect: Option<f64>| {
            let found = explained_variance(&values, &returns, &mask);
            assert!(found.zip(expect).map_or(found == expect, |(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        check([0.0, 1.0, 0.0, 1.0, 9.0], Some(1.0));
        check([5.0, 6.0, 5.0, 6.0, 9.0], Some(1.0));
        check([0.5; 5], Some(0.0));
        check([1.0, 0.0, 1.0, 0.0, 9.0], Some(-3.0));
        assert_eq!(explained_variance(&[0.0, 1.0], &[1.0, 1.0], &[true; 2]), None);
        assert_eq!(explained_variance(&[], &[], &[]), None);
    }

    #[test]
    fn meters_do_not_depend_on_the_cut() {
        let clip = Clip { low: 0.2, high: 0.2, dual: None };
        let mut meter = PolicyMeter::default();
        for (new, old, advantage) in
            [(-1.0f64, -1.0f64, 1.0), (-0.5, -1.0, 1.0), (-2.0, -1.0, -1.0), (-1.0, -1.1, -1.0)]
        {
            meter.token(clipped_surrogate(new, old, advantage, clip), 0.7, new, old);
        }
        meter.update(-0.25);
        meter.update(0.75);
        let found = meter.finish().unwrap();
        assert_eq!((found.clip_fraction, found.entropy, found.loss), (0.5, 0.7, 0.25));
        assert!((found.ratio_max - 0.5f64.exp()).abs() < 1e-12 && (found.ratio_min - (-1f64).exp()).abs() < 1e-12);
        assert!((found.approx_kl - 0.1).abs() < 1e-12 && 0.0 < found.approx_kl3);
        assert_eq!(PolicyMeter::default().finish(), None);
    }

    #[test]
    fn pass_at_k_is_unbiased() {
        let check = |n, c, k, expect: f64| assert!((pass_at_k(n, c, k) - expect).abs() < 1e-12, "{n} {c} {k}");
        check(4, 0, 1, 0.0);
        check(4, 1, 1, 0.25);
        check(4, 1, 4, 1.0);
        check(4, 2, 2, 1.0 - 1.0 / 6.0);
        check(4, 4, 1, 1.0);
        check(4, 1, 9, 1.0);
        check(0, 0, 1, 0.0);
    }

    #[test]
    fn intervals_are_over_problems() {
        let found = interval(&[0.0, 1.0, 0.0, 1.0]);
        assert!((found.mean - 0.5).abs() < 1e-12 && (found.high - 0.5 - 1.96 * (1f64 / 12.0).sqrt()).abs() < 1e-3);
        assert_eq!(interval(&[]), Interval { mean: 0.0, low: 0.0, high: 0.0 });
    }

    #[test]
    fn a_paired_bootstrap_agrees_with_the_normal_interval() {
        // Differences of 1 in a quarter of the pairs, and large scores that cancel.
        let scores: Vec<f64> = (0..400).map(|i| f64::from(i) + f64::from(u8::from(i % 4 == 0))).collect();
        let others: Vec<f64> = (0..400).map(f64::from).collect();
        let found = paired_bootstrap(&scores, &others, 4000, 1);
        let normal = interval(&scores.iter().zip(&others).map(|(a, b)| a - b).collect::<Vec<f64>>());
        assert_eq!(found.mean, 0.25);
        assert!((found.low - normal.low).abs() < 0.006 && (found.high - normal.high).abs() < 0.006, "{found:?}");
        assert_eq!(found, paired_bootstrap(&scores, &others, 4000, 1));
        assert_eq!(paired_bootstrap(&scores, &scores, 100, 1), Interval { mean: 0.0, low: 0.0, high: 0.0 });
        assert_eq!(paired_bootstrap(&[], &[], 100, 1), Interval { mean: 0.0, low: 0.0, high: 0.0 });
    }

    #[test]
    fn a_mean_of_means_counts_responses_alike() {
        let mask = [true, true, true, false, false];
        let found = mean_of_means(&Spans::new([1, 3, 1]), &mask, &[1.0, 2.0, 4.0, f32::NAN, f32::NAN]);
        assert_eq!(found, 2.0);
    }
}
