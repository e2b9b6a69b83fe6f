//! How far the policy is from its reference: estimators of the Kullback-Leibler divergence from one sampled token, and the
//! controller of the coefficient that they are weighted with.
//!
//! The estimators are John Schulman's ("Approximating KL Divergence", 2020), in verl's form (`kl_penalty`). Everything is in
//! nats. A good estimate of the divergence need not teach well, and where the penalty is taken decides which one does. In the
//! reward, k1 pulls as the divergence itself, while k3 pulls as KL(policy || reference) - KL(reference || policy), which is next
//! to nothing close to the reference. In the loss, where its slope is taken, k1 teaches nothing (the slope's mean is zero), k2
//! pulls as the divergence, and k3 as the reverse one. The tests show each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Estimates KL(policy || reference) from the log-probabilities of a token that the policy sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KlEstimator {
    /// The difference of log-probabilities: unbiased, of either sign, noisy. The paper's.
    #[default]
    K1,
    /// Half the squared difference: biased, never negative.
    K2,
    /// `r - 1 - ln r` with r the ratio reference / policy: unbiased, never negative; limited to 10 as verl does.
    K3,
}

/// The largest penalty of one token by k3, and beyond that its gradient is 0.
const K3_LIMIT: f64 = 10.0;
/// Log-ratios beyond this are taken as this before they are exponentiated.
const MAX_LOG_RATIO: f64 = 20.0;

impl KlEstimator {
    /// The estimate for one token.
    pub fn value(self, log_prob: f64, reference: f64) -> f64 {
        let difference = log_prob - reference;
        match self {
            Self::K1 => difference,
            Self::K2 => 0.5 * difference * difference,
            Self::K3 => k3(difference).min(K3_LIMIT),
        }
    }

    /// The derivative of [`KlEstimator::value`] by `log_prob`.
    pub fn gradient(self, log_prob: f64, reference: f64) -> f64 {
        let difference = log_prob - reference;
        match self {
            Self::K1 => 1.0,
            Self::K2 => difference,
            Self::K3 if MAX_LOG_RATIO < difference.abs() || K3_LIMIT < k3(difference) => 0.0,
            Self::K3 => 1.0 - (-difference).exp(),
        }
    }
}

fn k3(difference: f64) -> f64 {
    let log_ratio = (-difference).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO);
    log_ratio.exp_m1() - log_ratio
}

/// The coefficient of the penalty, and how it follows what was measured. Part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlController {
    Fixed {
        #[serde(with = "crate::train::exact")]
        coefficient: f64,
    },
    /// Ziegler et al. 2019, as in verl: too far from `target`, the coefficient grows by at most a fifth per `horizon` responses.
    Adaptive {
        #[serde(with = "crate::train::exact")]
        coefficient: f64,
        #[serde(with = "crate::train::exact")]
        target: f64,
        #[serde(with = "crate::train::exact")]
        horizon: f64,
    },
}

impl KlController {
    pub fn coefficient(&self) -> f64 {
        match self {
            Self::Fixed { coefficient } | Self::Adaptive { coefficient, .. } => *coefficient,
        }
    }

    /// Takes in the divergence of a batch of `responses`: the mean over responses of each one's mean per token.
    pub fn update(&mut self, divergence: f64, responses: usize) {
        if let Self::Adaptive { coefficient, target, horizon } = self {
            let error = (divergence / *target - 1.0).clamp(-0.2, 0.2);
            *coefficient *= 1.0 + error * responses as f64 / *horizon;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [KlEstimator; 3] = [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3];

    #[test]
    fn values() {
        let check = |estimator: KlEstimator, log_prob: f64, reference: f64, expect: f64| {
            let value = estimator.value(log_prob, reference);
            assert!((value - expect).abs() < 1e-9, "{estimator:?}: {value}");
        };
        check(KlEstimator::K1, -1.0, -1.5, 0.5);
        check(KlEstimator::K1, -1.5, -1.0, -0.5);
        check(KlEstimator::K2, -1.5, -1.0, 0.125);
        check(KlEstimator::K3, -1.0, -1.5, (-0.5f64).exp() - 1.0 + 0.5);
        check(KlEstimator::K3, -30.0, 0.0, 10.0);
        ALL.iter().for_each(|&estimator| check(estimator, -0.7, -0.7, 0.0));
    }

    #[test]
    fn gradients_are_the_slopes() {
        for estimator in ALL {
            for (log_prob, reference) in [(-1.0, -1.5), (-1.5, -1.0), (-0.1, -2.0), (-2.0, -0.3), (-9.0, -0.1)] {
                let h = 1e-6;
                let slope =
                    (estimator.value(log_prob + h, reference) - estimator.value(log_prob - h, reference)) / (2.0 * h);
                let gradient = estimator.gradient(log_prob, reference);
                assert!((gradient - slope).abs() < 1e-6 * gradient.abs().max(1.0), "{estimator:?} {gradient} {slope}");
            }
        }
    }

    #[test]
    fn k1_and_k3_are_unbiased_and_k2_pulls_towards_the_reference() {
        let (p, q) = ([0.5f64, 0.3, 0.2], [0.2f64, 0.2, 0.6]);
        let exact: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        let expected = |estimate: &dyn Fn(f64, f64) -> f64| -> f64 {
            p.iter().zip(q).map(|(p, q)| p * estimate(p.ln(), q.ln())).sum()
        };
        for estimator in [KlEstimator::K1, KlEstimator::K3] {
            assert!((expected(&|p, q| estimator.value(p, q)) - exact).abs() < 1e-12);
        }
        assert!((expected(&|p, q| KlEstimator::K1.gradient(p, q)) - 1.0).abs() < 1e-12);
        // Sign (verl#179): above the reference the penalty's slope is positive, so that descent lowers the probability.
        for estimator in [KlEstimator::K2, KlEstimator::K3] {
            assert!(0.0 < estimator.gradient(-0.5, -1.0) && estimator.gradient(-1.0, -0.5) < 0.0);
        }
    }

    /// What each estimator teaches the logits of a policy, in the reward and in the loss, against exact gradients.
    #[test]
    fn what_each_teaches_in_reward_and_loss() {
        let (p, q) = ([0.5f64, 0.3, 0.2], [0.2f64, 0.2, 0.6]);
        // The expected slope by logit j of a weight per token: sum of p_i w_i (1[i = j] - p_j).
        let taught = |weight: &dyn Fn(f64, f64) -> f64| -> [f64; 3] {
            let weights: Vec<f64> = p.iter().zip(q).map(|(p, q)| p * weight(p.ln(), q.ln())).collect();
            let total: f64 = weights.iter().sum();
            [0, 1, 2].map(|j| weights[j] - p[j] * total)
        };
        let forward = taught(&|p, q| p - q);
        let reverse = [0, 1, 2].map(|j| p[j] - q[j]);
        let check = |found: [f64; 3], expect: [f64; 3]| {
            assert!(
                found.iter().zip(expect).all(|(found, expect)| (found - expect).abs() < 1e-12),
                "{found:?} {expect:?}"
            );
        };
        let in_reward = |estimator: KlEstimator| taught(&|p, q| estimator.value(p, q));
        let in_loss = |estimator: KlEstimator| taught(&|p, q| estimator.gradient(p, q));
        check(in_reward(KlEstimator::K1), forward);
        check(in_reward(KlEstimator::K3), [0, 1, 2].map(|j| forward[j] - reverse[j]));
        check(in_loss(KlEstimator::K1), [0.0; 3]);
        check(in_loss(KlEstimator::K2), forward);
        check(in_loss(KlEstimator::K3), reverse);
    }

    #[test]
    fn the_controller_survives_json_bit_for_bit() {
        for coefficient in [0.1, 1.0 / 3.0, 0.1 + 0.2, f64::MIN_POSITIVE, 1e300] {
            let adaptive = KlController::Adaptive { coefficient, target: 0.1, horizon: 10_000.0 };
            let text = serde_json::to_string(&adaptive).unwrap();
            assert_eq!(serde_json::from_str::<KlController>(&text).unwrap(), adaptive, "{text}");
        }
    }

    #[test]
    fn the_controller_follows_the_target_slowly() {
        let mut fixed = KlController::Fixed { coefficient: 0.001 };
        fixed.update(9.0, 1024);
        assert_eq!(fixed.coefficient(), 0.001);
        let check = |divergence: f64, expect: f64| {
            let mut adaptive = KlController::Adaptive { coefficient: 0.2, target: 0.1, horizon: 10_000.0 };
            adaptive.update(divergence, 1000);
            assert!((adaptive.coefficient() - expect).abs() < 1e-12, "{divergence}: {}", adaptive.coefficient());
        };
        check(0.1, 0.2);
        check(0.11, 0.2 * (1.0 + 0.1 * 0.1));
        check(5.0, 0.2 * 1.02);
        check(0.0, 0.2 * 0.98);
    }
}
