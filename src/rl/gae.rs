//! Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438).

use super::tokens::Spans;

/// What the tokens of a batch were worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// One per token; 0 where the mask is false.
    pub advantages: Vec<f32>,
    /// What the critic learns: advantage + value; 0 where the mask is false.
    pub returns: Vec<f32>,
}

/// GAE(gamma, lambda) over each sequence:
/// `delta_t = r_t + gamma V_{t+1} - V_t`, `A_t = delta_t + gamma lambda A_{t+1}`, `R_t = A_t + V_t`.
///
/// All slices have one number per token of `spans`. Tokens where the mask is false (padding; the words of a tool or a user) are
/// stepped over as if they were not there: `t + 1` is the next selected token. After the last one the value is
/// `bootstrap`'s number for the sequence, or 0 with `None`, because nothing follows an end token and the paper treats a
/// response that was cut off alike. With lambda = 1, `A_t` is the discounted sum of rewards minus `V_t`.
pub fn gae(
    spans: &Spans,
    mask: &[bool],
    rewards: &[f32],
    values: &[f32],
    bootstrap: Option<&[f32]>,
    gamma: f64,
    lambda: f64,
) -> Estimate {
    let mut advantages = vec![0.0; spans.tokens()];
    let mut returns = vec![0.0; spans.tokens()];
    for (sequence, span) in spans.iter().enumerate() {
        let mut next_value = bootstrap.map_or(0.0, |values| f64::from(values[sequence]));
        let mut next_advantage = 0.0;
        for t in span.rev().filter(|&t| mask[t]) {
            let value = f64::from(values[t]);
            let delta = f64::from(rewards[t]) + gamma * next_value - value;
            next_advantage = delta + gamma * lambda * next_advantage;
            next_value = value;
            advantages[t] = next_advantage as f32;
            returns[t] = (next_advantage + value) as f32;
        }
    }
    Estimate { advantages, returns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rl::tokens::{selected, whiten};
    use proptest::prelude::*;
    use serde_json::Value;

    fn floats(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
    }

    /// A discount of 0 ends a sequence, so that a row of an oracle with discounts is several sequences with one gamma each.
    fn check(
        rewards: &[f32],
        values: &[f32],
        last: f32,
        discounts: &[f32],
        lambda: f64,
        expect: &[f32],
        tolerance: f32,
    ) {
        let mut start = 0;
        while start < rewards.len() {
            let zero = discounts[start..].iter().position(|discount| *discount == 0.0);
            let end = zero.map_or(rewards.len(), |zero| start + zero + 1);
            let gamma = f64::from(discounts[start]);
            assert!(discounts[start..end].iter().all(|&d| d == 0.0 || d == discounts[start]));
            let bootstrap = if zero.is_some() { 0.0 } else { last };
            let spans = Spans::new([end - start]);
            let mask = vec![true; end - start];
            let found =
                gae(&spans, &mask, &rewards[start..end], &values[start..end], Some(&[bootstrap]), gamma, lambda);
            for (found, expect) in found.advantages.iter().zip(&expect[start..end]) {
                assert!((found - expect).abs() <= tolerance, "{found} {expect}");
            }
            start = end;
        }
    }

    #[test]
    fn numbers_of_rlax_and_tf_agents() {
        let Some(oracles) = crate::rl::oracles() else { return };
        let rlax = &oracles["gae"][0];
        let mut n_checked = 0;
        for (lambda, expect) in rlax["expected"].as_object().unwrap() {
            for row in 0..2 {
                let (values, discounts) = (floats(&rlax["v_t"][row]), floats(&rlax["discount_t"][row]));
                let (last, values) = values.split_last().unwrap();
                let (rewards, expect) = (floats(&rlax["r_t"][row]), floats(&expect[row]));
                check(&rewards, values, *last, &discounts, lambda.parse().unwrap(), &expect, 1e-3);
                n_checked += 1;
            }
        }
        assert_eq!(n_checked, 6);
        let agents = &oracles["gae"][1];
        let (rewards, values) = (floats(&agents["rewards"]), floats(&agents["values"]));
        let last = agents["final_value"].as_f64().unwrap() as f32;
        let lambda = agents["td_lambda"].as_f64().unwrap();
        check(&rewards, &values, last, &floats(&agents["discounts"]), lambda, &floats(&agents["expected"]), 1e-5);
    }

    #[test]
    fn verls_property_of_masked_positions() {
        let Some(oracles) = crate::rl::oracles() else { return };
        let case = &oracles["gae"][2];
        let rewards = floats(&case["rewards"]);
        let mask: Vec<bool> = floats(&case["response_mask"]).iter().map(|&on| on == 1.0).collect();
        let spans = Spans::new([mask.len()]);
        let with = |elsewhere: f32, gamma: f64, lambda: f64| {
            let values: Vec<f32> = (0..mask.len())
                .map(|t| case["values_at_response"][t.to_string()].as_f64().map_or(elsewhere, |value| value as f32))
                .collect();
            gae(&spans, &mask, &rewards, &values, None, gamma, lambda)
        };
        for (gamma, lambda) in [(0.9, 0.9), (0.5, 0.1), (0.99, 0.95), (0.1, 0.7)] {
            let base = with(0.0, gamma, lambda);
            for elsewhere in [-100.0, 100.0, f32::NAN] {
                assert_eq!(with(elsewhere, gamma, lambda), base);
            }
        }
    }

    /// verl#1850: a value that a critic gives after the end token must not count. At lambda = 1 it would cancel out, below it not.
    #[test]
    fn the_value_after_the_end_is_zero() {
        let (rewards, values) = ([0.0, 0.0, 1.0, 9.0], [0.2, 0.4, 0.6, 5.0]);
        let mask = [true, true, true, false];
        for lambda in [1.0, 0.95, 0.3, 0.0] {
            let padded = gae(&Spans::new([4]), &mask, &rewards, &values, None, 1.0, lambda);
            let cut = gae(&Spans::new([3]), &mask[..3], &rewards[..3], &values[..3], None, 1.0, lambda);
            assert_eq!(padded.advantages[..3], cut.advantages);
            assert_eq!(padded.returns[..3], cut.returns);
            assert!((cut.advantages[2] - 0.4).abs() < 1e-6);
        }
    }

    proptest! {
        #[test]
        fn with_lambda_one_it_is_the_discounted_return_minus_the_value(
            rows in prop::collection::vec((-1f32..1.0, -2f32..2.0), 1..40), gamma in 0.5f64..1.0,
        ) {
            let (rewards, values): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let n = rewards.len();
            let found = gae(&Spans::new([n]), &vec![true; n], &rewards, &values, None, gamma, 1.0);
            for (t, value) in values.iter().enumerate() {
                let closed: f64 = (t..n).map(|k| gamma.powi((k - t) as i32) * f64::from(rewards[k])).sum();
                prop_assert!((f64::from(found.returns[t]) - closed).abs() < 1e-4);
                prop_assert!((f64::from(found.advantages[t]) - (closed - f64::from(*value))).abs() < 1e-4);
            }
        }

        /// Left or right, and whatever it holds: padding changes nothing.
        #[test]
        fn padding_changes_nothing(
            lengths in prop::collection::vec(0usize..9, 1..6), left in 0usize..4, right in 0usize..4,
            junk in prop::sample::select(vec![0f32, 7.5, -1e30, f32::NAN, f32::INFINITY]), lambda in 0f64..1.0,
        ) {
            let number = |sequence: usize, t: usize, salt: u32| {
                ((sequence as u32 * 31 + t as u32 * 7 + salt) % 13) as f32 / 6.0 - 1.0
            };
            let layout = |left: usize, right: usize| {
                let spans = Spans::new(lengths.iter().map(|length| left + length + right));
                let (mut mask, mut rewards, mut values) = (vec![], vec![], vec![]);
                for (sequence, &length) in lengths.iter().enumerate() {
                    for place in 0..left + length + right {
                        let is_on = (left..left + length).contains(&place);
                        mask.push(is_on);
                        let at = |salt| if is_on { number(sequence, place - left, salt) } else { junk };
                        rewards.push(at(1));
                        values.push(at(2));
                    }
                }
                let mut estimate = gae(&spans, &mask, &rewards, &values, None, 0.99, lambda);
                let returns: Vec<f64> = selected(&estimate.returns, &mask).collect();
                whiten(&mut estimate.advantages, &mask);
                let advantages: Vec<f64> = selected(&estimate.advantages, &mask).collect();
                (advantages, returns)
            };
            prop_assert_eq!(layout(left, right), layout(0, 0));
        }
    }
}
