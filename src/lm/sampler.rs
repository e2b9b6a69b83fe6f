//! Drawing the next token from logits: greedy, temperature, top-k and top-p.

use super::kernels::vector;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;

/// From what a token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingRule {
    /// 0 takes the likeliest token; else logits are divided by it.
    pub temperature: f32,
    /// The smallest set of tokens with this much probability is drawn from; 1 for all.
    pub top_p: f32,
    /// Only so many of the likeliest tokens are drawn from; 0 for all.
    pub top_k: usize,
}

impl SamplingRule {
    /// The likeliest token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: 0 };
    /// The model's own distribution.
    pub const PLAIN: Self = Self { temperature: 1.0, top_p: 1.0, top_k: 0 };

    /// What is wrong with the rule's numbers, if anything.
    pub fn fault(&self) -> Option<String> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Some(format!("the temperature is {}, expected 0 or more", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Some(format!("top-p is {}, expected more than 0 and at most 1", self.top_p));
        }
        None
    }
}

/// One sequence's random stream. Its draws depend on its seed and the logits it is given, and on nothing else.
#[derive(Debug, Clone)]
pub struct Sampler {
    rule: SamplingRule,
    stream: ChaCha8Rng,
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    pub token: u32,
    /// Its log-probability in the model's own distribution: temperature 1, all tokens.
    pub logprob: f32,
}

/// The logits are no distribution: one is not a number or infinite, or none is finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model's output is not a number")]
pub struct NotANumber;

impl Sampler {
    pub fn new(rule: SamplingRule, seed: u64) -> Self {
        Self { rule, stream: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Draws a token from its logits, one for each of the vocabulary. Of equal logits the lower id is the likelier.
    ///
    /// # Errors
    /// [`NotANumber`] for logits that are no distribution. A logit of negative infinity is a token that cannot be.
    pub fn draw(&mut self, logits: &[f32]) -> Result<Draw, NotANumber> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(NotANumber);
        }
        let highest = vector::highest(logits);
        if !highest.is_finite() {
            return Err(NotANumber);
        }
        let mut weights = logits.to_vec();
        let sum = vector::exponentials(&mut weights, highest);
        let token = if self.rule.temperature == 0.0 {
            logits.iter().position(|logit| *logit == highest).unwrap_or(0)
        } else {
            self.pick(logits, highest, weights)
        };
        Ok(Draw { token: token as u32, logprob: logits[token] - highest - sum.ln() })
    }

    /// `weights` are the exponentials of `logits - highest`.
    fn pick(&mut self, logits: &[f32], highest: f32, mut weights: Vec<f32>) -> usize {
        let SamplingRule { temperature, top_p, top_k } = self.rule;
        if temperature != 1.0 {
            for (weight, logit) in weights.iter_mut().zip(logits) {
                *weight = (logit - highest) / temperature;
            }
            vector::exponentials(&mut weights, 0.0);
        }
        // One number for each token drawn, whatever the rule.
        let point: f64 = self.stream.random();
        if top_k == 0 && top_p >= 1.0 {
            return pick_at(point, weights.iter().copied().enumerate());
        }
        let chosen = likeliest(&weights, top_k, top_p);
        pick_at(point, chosen.into_iter().map(|token| (token, weights[token])))
    }
}

/// The token at which the running sum of weights passes `point` of their total.
fn pick_at(point: f64, weights: impl Iterator<Item = (usize, f32)> + Clone) -> usize {
    let total: f64 = weights.clone().map(|(_, weight)| f64::from(weight)).sum();
    let (mut sum, mut last) = (0.0, 0);
    for (token, weight) in weights {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = token;
            if sum > point * total {
                break;
            }
        }
    }
    last
}

/// The tokens that are left of all by top-k, and of those by top-p, likeliest first.
fn likeliest(weights: &[f32], top_k: usize, top_p: f32) -> Vec<usize> {
    let likelier = |a: &usize, b: &usize| match weights[*b].total_cmp(&weights[*a]) {
        Ordering::Equal => a.cmp(b),
        order => order,
    };
    let mut tokens: Vec<usize> = (0..weights.len()).collect();
    let k = if top_k == 0 { tokens.len() } else { top_k.min(tokens.len()) };
    if k < tokens.len() {
        tokens.select_nth_unstable_by(k, likelier);
        tokens.truncate(k);
    }
    if top_p >= 1.0 {
        tokens.sort_unstable_by(likelier);
        return tokens;
    }
    let target = tokens.iter().map(|&token| f64::from(weights[token])).sum::<f64>() * f64::from(top_p);
    // Few tokens make up most of the probability, so only as many are sorted as are needed.
    let (mut sorted, mut sum, mut more) = (0, 0.0, 64);
    while sorted < tokens.len() {
        let rest = &mut tokens[sorted..];
        let count = more.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, likelier);
        }
        rest[..count].sort_unstable_by(likelier);
        for index in sorted..sorted + count {
            sum += f64::from(weights[tokens[index]]);
            if sum >= target {
                tokens.truncate(index + 1);
                return tokens;
            }
        }
        sorted += count;
        more *= 8;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Top-k and top-p by their definition: sort all, cut, cut again.
    fn brute_force(weights: &[f32], top_k: usize, top_p: f32) -> Vec<usize> {
        let mut tokens: Vec<usize> = (0..weights.len()).collect();
        tokens.sort_by(|a, b| weights[*b].partial_cmp(&weights[*a]).unwrap().then(a.cmp(b)));
        tokens.truncate(if top_k == 0 { usize::MAX } else { top_k });
        let target = tokens.iter().map(|&token| f64::from(weights[token])).sum::<f64>() * f64::from(top_p);
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for token in tokens {
            kept.push(token);
            sum += f64::from(weights[token]);
            if top_p < 1.0 && sum >= target {
                break;
            }
        }
        kept
    }

    fn draws(rule: SamplingRule, seed: u64, logits: &[f32], count: usize) -> Vec<Draw> {
        let mut sampler = Sampler::new(rule, seed);
        (0..count).map(|_| sampler.draw(logits).unwrap()).collect()
    }

    fn tokens(rule: SamplingRule, logits: &[f32], count: usize) -> Vec<u32> {
        draws(rule, 3, logits, count).into_iter().map(|draw| draw.token).collect()
    }

    proptest! {
        #[test]
        fn top_k_and_top_p_equal_their_definition(
            // Eighths tie often, and their sums are exact in any order.
            weights in prop::collection::vec((0u8..9).prop_map(|eighths| f32::from(eighths) / 8.0), 1..700),
            top_k in 0usize..800,
            top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        ) {
            prop_assert_eq!(likeliest(&weights, top_k, top_p), brute_force(&weights, top_k, top_p));
        }

        #[test]
        fn draws_come_from_what_is_left(
            logits in prop::collection::vec(-30f32..30.0, 1..200),
            temperature in prop_oneof![Just(1.0f32), 1e-6f32..5.0],
            top_k in 0usize..50,
            top_p in 0.05f32..1.0,
            seed: u64,
        ) {
            let rule = SamplingRule { temperature, top_p, top_k };
            let drawn = draws(rule, seed, &logits, 5);
            prop_assert_eq!(&drawn, &draws(rule, seed, &logits, 5));
            // Rounding may move a token across top-p's edge, and no further.
            let exact: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) / f64::from(temperature)).max(-1e9)).collect();
            let highest = exact.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = exact.iter().map(|x| (x - highest).exp()).collect();
            let all: f64 = weights.iter().sum();
            for draw in drawn {
                let above = logits.iter().filter(|logit| **logit > logits[draw.token as usize]).count();
                prop_assert!(top_k == 0 || above < top_k);
                let likelier: f64 =
                    (0..logits.len()).filter(|i| logits[*i] > logits[draw.token as usize]).map(|i| weights[i]).sum();
                prop_assert!(likelier / all <= f64::from(top_p) + 1e-4);
            }
        }

        #[test]
        fn log_probabilities_are_the_models_own(logits in prop::collection::vec(-30f32..30.0, 1..200), seed: u64) {
            let rule = SamplingRule { temperature: 2.0, top_p: 0.9, top_k: 7 };
            let draw = draws(rule, seed, &logits, 1)[0];
            let norm = logits.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
            prop_assert!((f64::from(draw.logprob) - (f64::from(logits[draw.token as usize]) - norm)).abs() < 1e-4);
        }

        #[test]
        fn what_is_no_distribution_is_an_error(
            mut logits in prop::collection::vec(-30f32..30.0, 1..50),
            bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY)],
            at: prop::sample::Index,
        ) {
            let at = at.index(logits.len());
            logits[at] = bad;
            for rule in [SamplingRule::GREEDY, SamplingRule::PLAIN, SamplingRule { top_p: 0.5, ..SamplingRule::PLAIN }] {
                prop_assert_eq!(Sampler::new(rule, 0).draw(&logits), Err(NotANumber));
            }
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        assert_eq!(tokens(SamplingRule::GREEDY, &[0.0, 3.0, 3.0, f32::NEG_INFINITY], 2), [1, 1]);
        assert_eq!(Sampler::new(SamplingRule::PLAIN, 0).draw(&[f32::NEG_INFINITY; 3]), Err(NotANumber));
        assert_eq!(Sampler::new(SamplingRule::PLAIN, 0).draw(&[]), Err(NotANumber));
    }

    #[test]
    fn draws_follow_the_distribution() {
        let probabilities = [0.5f32, 0.3, 0.15, 0.05];
        let logits = probabilities.map(f32::ln);
        let shares = |rule| {
            let mut shares = [0.0; 4];
            for token in tokens(rule, &logits, 20_000) {
                shares[token as usize] += 1.0 / 20_000.0;
            }
            shares
        };
        let close = |found: [f64; 4], expect: [f64; 4]| {
            assert!(found.iter().zip(expect).all(|(a, b)| (a - b).abs() < 0.015), "{found:?} {expect:?}");
        };
        close(shares(SamplingRule::PLAIN), [0.5, 0.3, 0.15, 0.05]);
        close(shares(SamplingRule { top_k: 2, ..SamplingRule::PLAIN }), [0.625, 0.375, 0.0, 0.0]);
        close(shares(SamplingRule { top_p: 0.85, ..SamplingRule::PLAIN }), [0.526, 0.316, 0.158, 0.0]);
        // Halving the temperature squares the probabilities.
        close(shares(SamplingRule { temperature: 0.5, ..SamplingRule::PLAIN }), [0.685, 0.247, 0.062, 0.007]);
    }

    #[test]
    fn a_rule_without_sense_is_named() {
        assert_eq!(SamplingRule::GREEDY.fault(), None);
        for (rule, expect) in [
            (SamplingRule { temperature: -1.0, ..SamplingRule::PLAIN }, "temperature"),
            (SamplingRule { temperature: f32::NAN, ..SamplingRule::PLAIN }, "temperature"),
            (SamplingRule { top_p: 0.0, ..SamplingRule::PLAIN }, "top-p"),
            (SamplingRule { top_p: 1.5, ..SamplingRule::PLAIN }, "top-p"),
        ] {
            assert!(rule.fault().is_some_and(|fault| fault.contains(expect)));
        }
    }
}
