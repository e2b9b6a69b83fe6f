//! What is minimised: the clipped surrogate, the clipped value error, and how the tokens of a mini-batch are averaged.
//!
//! Every loss of a token comes with its derivative in closed form, so that a model only has to carry it back from the
//! log-probability, the value or the entropy of the token to its weights. The average is taken over the whole mini-batch:
//! [`weights`] gives each token its share, and a mini-batch may then be worked through in parts of any size.

use super::tokens::Spans;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A loss and its derivative by what was learned from: the new log-probability, or the new value.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loss {
    pub value: f64,
    pub gradient: f64,
    /// Whether the clipped branch decided.
    pub is_clipped: bool,
}

/// The range of ratios within which the policy may profit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip {
    /// Ratios below `1 - low` gain nothing more from a bad token.
    pub low: f64,
    /// Ratios above `1 + high` gain nothing more from a good token.
    pub high: f64,
    /// Dual clip (Ye et al. 2020): a bad token costs at most `dual` times its advantage, however likely it became. Above 1.
    pub dual: Option<f64>,
}

/// Log-ratios beyond this are taken as this: at this distance the update is broken anyway, and infinities would hide where.
pub const MAX_LOG_RATIO: f64 = 20.0;

/// How likely a token is now, by how likely it was when it was sampled.
pub fn ratio(log_prob: f64, old_log_prob: f64) -> f64 {
    (log_prob - old_log_prob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
}

/// PPO's surrogate for one token, to be minimised: `max(-A rho, -A clip(rho, 1 - low, 1 + high))`
/// (Schulman et al. 2017, arXiv 1707.06347, eq. 7 with the sign turned), with its derivative by `log_prob`.
pub fn clipped_surrogate(log_prob: f64, old_log_prob: f64, advantage: f64, clip: Clip) -> Loss {
    let ratio = ratio(log_prob, old_log_prob);
    let free = -advantage * ratio;
    let clipped = -advantage * ratio.clamp(1.0 - clip.low, 1.0 + clip.high);
    let is_saturated = MAX_LOG_RATIO < (log_prob - old_log_prob).abs();
    let gradient = if is_saturated { 0.0 } else { free };
    if free < clipped {
        return Loss { value: clipped, gradient: 0.0, is_clipped: true };
    }
    match clip.dual {
        Some(most) if advantage < 0.0 && -advantage * most < free => {
            Loss { value: -advantage * most, gradient: 0.0, is_clipped: true }
        }
        _ => Loss { value: free, gradient, is_clipped: false },
    }
}

/// The critic's error for one token, `1/2 max((V - R)^2, (clip(V, V_old - range, V_old + range) - R)^2)`, with its derivative
/// by `value`. `None` does not clip.
pub fn clipped_value_loss(value: f64, old_value: f64, target: f64, range: Option<f64>) -> Loss {
    let free = value - target;
    let Some(range) = range else {
        return Loss { value: 0.5 * free * free, gradient: free, is_clipped: false };
    };
    let clipped = value.clamp(old_value - range, old_value + range) - target;
    if free * free < clipped * clipped {
        // Only a value outside the range can have the larger error by being clipped, and there the clipped one is constant.
        return Loss { value: 0.5 * clipped * clipped, gradient: 0.0, is_clipped: true };
    }
    Loss { value: 0.5 * free * free, gradient: free, is_clipped: false }
}

/// How the losses of tokens become one number. The names are verl's (`loss_agg_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// The mean over all tokens of the mini-batch: long responses weigh more.
    #[default]
    TokenMean,
    /// The mean over responses of each one's mean: every response weighs alike, tokens of long ones less.
    SeqMeanTokenMean,
    /// The mean over responses of each one's sum.
    SeqMeanTokenSum,
    /// The sum over responses, divided by their number and by the response limit: no length is favoured ("Dr. GRPO").
    SeqMeanTokenSumNorm,
}

/// Each token's share in the loss of a mini-batch, so that the loss is the sum of share times loss. 0 where the mask is false;
/// responses without any selected token do not count. `limit` is the response limit in tokens, for the one mode that asks.
///
/// The shares are of the whole mini-batch: computed per part of it, the step would depend on how it was cut (verl#102, #6957).
pub fn weights(aggregation: Aggregation, spans: &Spans, mask: &[bool], limit: usize) -> Vec<f32> {
    let lengths: Vec<usize> = spans.iter().map(|span| mask[span].iter().filter(|is_on| **is_on).count()).collect();
    let tokens = lengths.iter().sum::<usize>() as f64;
    let sequences = lengths.iter().filter(|length| **length != 0).count() as f64;
    let mut weights = vec![0.0; spans.tokens()];
    for (span, &length) in spans.iter().zip(&lengths) {
        let weight = match aggregation {
            Aggregation::TokenMean => 1.0 / tokens,
            Aggregation::SeqMeanTokenMean => 1.0 / (sequences * length as f64),
            Aggregation::SeqMeanTokenSum => 1.0 / sequences,
            Aggregation::SeqMeanTokenSumNorm => 1.0 / (sequences * limit.max(1) as f64),
        };
        span.filter(|&t| mask[t]).for_each(|t| weights[t] = weight as f32);
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const CLIP: Clip = Clip { low: 0.2, high: 0.2, dual: None };

    /// Mean over time of a loss, with [`weights`], as a step would take it.
    fn aggregated(aggregation: Aggregation, lengths: &[usize], mask: &[bool], losses: &[f64]) -> f64 {
        let weights = weights(aggregation, &Spans::new(lengths.iter().copied()), mask, 10);
        weights.iter().zip(losses).filter(|(w, _)| **w != 0.0).map(|(weight, loss)| f64::from(*weight) * loss).sum()
    }

    fn floats(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    }

    fn log_softmax(logits: &Value) -> Vec<f64> {
        let logits = floats(logits);
        let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        logits.iter().map(|logit| logit - total).collect()
    }

    #[test]
    fn numbers_of_rlax() {
        let Some(oracles) = crate::rl::oracles() else { return };
        let case = &oracles["policy_loss"][0];
        let action = |t: usize| case["actions"][t].as_u64().unwrap() as usize;
        for (advantages, expect) in case["advantages"].as_array().unwrap().iter().zip(floats(&case["expected"])) {
            let advantages = floats(advantages);
            let losses: Vec<f64> = (0..3)
                .map(|t| {
                    let (new, old) = (log_softmax(&case["logits"][t]), log_softmax(&case["old_logits"][t]));
                    clipped_surrogate(new[action(t)], old[action(t)], advantages[t], CLIP).value
                })
                .collect();
            let loss = aggregated(Aggregation::TokenMean, &[3], &[true; 3], &losses);
            assert!((loss - expect).abs() < 1e-4, "{loss} {expect}");
        }
        // At ratio 1 the surrogate's gradient is the policy gradient's: -A, times d log p.
        let case = &oracles["policy_loss"][1];
        for (batch, expect) in case["batch"].as_array().unwrap().iter().zip(floats(&case["expected"])) {
            let (advantages, weights) = (floats(&batch["advantages"]), floats(&batch["weights"]));
            let losses: Vec<f64> = (0..3)
                .map(|t| {
                    let log_prob = log_softmax(&batch["logits"][t])[batch["actions"][t].as_u64().unwrap() as usize];
                    clipped_surrogate(log_prob, log_prob, advantages[t] * weights[t], CLIP).gradient * log_prob
                })
                .collect();
            let loss = aggregated(Aggregation::TokenMean, &[3], &[true; 3], &losses);
            assert!((loss - expect).abs() < 1e-4, "{loss} {expect}");
        }
        let case = &oracles["entropy_loss"][0];
        for (batch, expect) in case["batch"].as_array().unwrap().iter().zip(floats(&case["expected"])) {
            let losses: Vec<f64> = (0..3)
                .map(|t| {
                    let entropy: f64 = log_softmax(&batch["logits"][t]).iter().map(|log_p| -log_p * log_p.exp()).sum();
                    -entropy * floats(&batch["weights"])[t]
                })
                .collect();
            let loss = aggregated(Aggregation::TokenMean, &[3], &[true; 3], &losses);
            assert!((loss - expect).abs() < 1e-4, "{loss} {expect}");
        }
    }

    #[test]
    fn numbers_of_openrlhf() {
        let Some(oracles) = crate::rl::oracles() else { return };
        let modes = [(Aggregation::TokenMean, "token_mean"), (Aggregation::SeqMeanTokenMean, "seq_mean_token_mean")];
        for (case, (mode, name)) in oracles["loss_aggregation"].as_array().unwrap().iter().zip(modes) {
            let flat = |key: &str| case[key].as_array().unwrap().iter().flat_map(floats).collect::<Vec<f64>>();
            let mask: Vec<bool> = flat("mask").iter().map(|&on| on == 1.0).collect();
            let found = aggregated(mode, &[3, 3, 3], &mask, &flat("loss"));
            assert!((found - case[name].as_f64().unwrap()).abs() < 1e-6, "{mode:?} {found}");
        }
    }

    #[test]
    fn aggregations_by_hand() {
        let losses = [1.0, 2.0, 3.0, f64::NAN, 6.0, f64::NAN];
        let mask = [true, true, true, false, true, false];
        let check = |mode: Aggregation, expect: f64| {
            let found = aggregated(mode, &[3, 2, 1], &mask, &losses);
            assert!((found - expect).abs() < 1e-6, "{mode:?} {found}");
        };
        check(Aggregation::TokenMean, 3.0);
        check(Aggregation::SeqMeanTokenMean, 4.0);
        check(Aggregation::SeqMeanTokenSum, 6.0);
        check(Aggregation::SeqMeanTokenSumNorm, 0.6);
        assert_eq!(aggregated(Aggregation::TokenMean, &[2], &[false; 2], &[f64::NAN; 2]), 0.0);
    }

    #[test]
    fn surrogate_by_cases() {
        let check = |ratio: f64, advantage: f64, clip: Clip, value: f64, is_clipped: bool| {
            let loss = clipped_surrogate(ratio.ln(), 0.0, advantage, clip);
            assert!(
                (loss.value - value).abs() < 1e-12 && loss.is_clipped == is_clipped,
                "{ratio} {advantage}: {loss:?}"
            );
            let gradient = if is_clipped { 0.0 } else { -advantage * ratio };
            assert!((loss.gradient - gradient).abs() < 1e-12);
        };
        check(1.0, 2.0, CLIP, -2.0, false);
        check(1.5, 2.0, CLIP, -2.4, true);
        check(0.5, 2.0, CLIP, -1.0, false);
        check(1.5, -2.0, CLIP, 3.0, false);
        check(0.5, -2.0, CLIP, 1.6, true);
        check(9.0, -2.0, CLIP, 18.0, false);
        check(9.0, -2.0, Clip { dual: Some(3.0), ..CLIP }, 6.0, true);
        check(9.0, 2.0, Clip { dual: Some(3.0), ..CLIP }, -2.4, true);
        check(1.25, 2.0, Clip { high: 0.28, ..CLIP }, -2.5, false);
        let broken = clipped_surrogate(0.0, -1e9, -1.0, CLIP);
        assert!(broken.value.is_finite() && broken.gradient == 0.0);
    }

    #[test]
    fn value_loss_by_cases() {
        let check = |value: f64, old: f64, target: f64, range: Option<f64>, expect: f64, gradient: f64| {
            let loss = clipped_value_loss(value, old, target, range);
            assert!((loss.value - expect).abs() < 1e-12 && (loss.gradient - gradient).abs() < 1e-12, "{loss:?}");
        };
        check(1.0, 0.0, 3.0, None, 2.0, -2.0);
        check(0.3, 0.0, 1.0, Some(0.5), 0.5 * 0.49, -0.7);
        // It moved too far towards the target: held back. Too far away from it: pulled.
        check(0.9, 0.0, 1.0, Some(0.5), 0.125, 0.0);
        check(-0.9, 0.0, 1.0, Some(0.5), 0.5 * 1.9 * 1.9, -1.9);
    }

    proptest! {
        /// The closed forms against central differences in f64, away from the corners where there is no derivative.
        #[test]
        fn gradients_are_slopes(
            log_prob in -4f64..0.0, old in -4f64..0.0, advantage in -3f64..3.0, dual in prop::option::of(1.5f64..4.0),
            value in -2f64..2.0, old_value in -2f64..2.0, target in -2f64..2.0, range in prop::option::of(0.1f64..1.0),
        ) {
            let h = 1e-6;
            let surrogate = |log_prob| clipped_surrogate(log_prob, old, advantage, Clip { dual, ..CLIP });
            let error = |value| clipped_value_loss(value, old_value, target, range);
            let check = |at: f64, loss: &dyn Fn(f64) -> Loss| -> Result<(), TestCaseError> {
                let (below, here, above) = (loss(at - h), loss(at), loss(at + h));
                if below.is_clipped == above.is_clipped {
                    let slope = (above.value - below.value) / (2.0 * h);
                    prop_assert!((here.gradient - slope).abs() < 1e-5 * slope.abs().max(1.0), "{here:?} {slope}");
                }
                Ok(())
            };
            check(log_prob, &surrogate)?;
            check(value, &error)?;
        }

        /// A mini-batch in parts of any size: shares are of the whole, so that the parts' sums are the whole's.
        #[test]
        fn shares_of_parts_add_up(lengths in prop::collection::vec(0usize..7, 1..9)) {
            let spans = Spans::new(lengths.iter().copied());
            let mask: Vec<bool> = (0..spans.tokens()).map(|t| t % 5 != 3).collect();
            for mode in [Aggregation::TokenMean, Aggregation::SeqMeanTokenMean] {
                let total: f64 = weights(mode, &spans, &mask, 1).iter().map(|weight| f64::from(*weight)).sum();
                let expect = if mask.contains(&true) { 1.0 } else { 0.0 };
                prop_assert!((total - expect).abs() < 1e-5, "{mode:?} {total}");
            }
        }
    }
}
