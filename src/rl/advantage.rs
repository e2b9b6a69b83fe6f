//! From rewards to what each token is taught: PPO's advantages with a critic, and three ways without one.
//!
//! All kinds take the same [`Batch`] and give the same [`Estimate`]. The score of a response is the sum of its tokens'
//! rewards, a penalty for divergence in the reward included. Semantics are those of verl's `core_algos`.

use super::gae::{Estimate, gae};
use super::tokens::{Spans, mean, mean_and_variance, selected, whiten};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How advantages are estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdvantageKind {
    /// The paper's PPO: GAE from a critic's values, whitened over the whole batch.
    #[default]
    Gae,
    /// Shao et al. 2024: each response's score less its group's mean, over its group's standard deviation.
    Grpo,
    /// GRPO without the division, which favours groups that are nearly all right or nearly all wrong ("Dr. GRPO", Liu et al. 2025).
    GrpoUnscaled,
    /// Ahmadian et al. 2024: each response's score less the mean score of the others of its group.
    Rloo,
    /// Hu 2025: the discounted sum of rewards to come, whitened over the whole batch; no groups.
    ReinforcePlusPlus,
}

impl AdvantageKind {
    /// Whether a critic is needed.
    pub fn has_critic(self) -> bool {
        self == Self::Gae
    }

    /// Whether a response is compared with others to the same prompt.
    pub fn has_groups(self) -> bool {
        matches!(self, Self::Grpo | Self::GrpoUnscaled | Self::Rloo)
    }
}

/// The rewards of a whole batch of rollouts; slices have one number per token of `spans`.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub spans: &'a Spans,
    /// The tokens that the policy chose.
    pub mask: &'a [bool],
    pub rewards: &'a [f32],
    /// The critic's; read by [`AdvantageKind::Gae`] alone.
    pub values: &'a [f32],
    /// Which prompt each sequence answers. Sequences of one group need not be neighbours.
    pub groups: &'a [usize],
}

/// Discounting, and whether GAE's advantages are whitened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Discount {
    pub gamma: f64,
    pub lambda: f64,
    pub whiten: bool,
}

/// Advantages and returns of a whole batch, before it is cut into mini-batches.
pub fn advantages(kind: AdvantageKind, batch: &Batch<'_>, discount: Discount) -> Estimate {
    let Batch { spans, mask, rewards, .. } = *batch;
    let Discount { gamma, lambda, whiten: whitens } = discount;
    match kind {
        AdvantageKind::Gae => {
            let mut estimate = gae(spans, mask, rewards, batch.values, None, gamma, lambda);
            if whitens {
                whiten(&mut estimate.advantages, mask);
            }
            estimate
        }
        AdvantageKind::ReinforcePlusPlus => {
            let nothing = vec![0.0; spans.tokens()];
            let mut estimate = gae(spans, mask, rewards, &nothing, None, gamma, 1.0);
            whiten(&mut estimate.advantages, mask);
            estimate
        }
        AdvantageKind::Grpo => spread(batch, |score, group| {
            let (mean, variance) = mean_and_variance(group.iter().copied());
            // A group of one has nothing to be compared with; verl then leaves the score as it is.
            if group.len() == 1 { score } else { (score - mean) / (variance.sqrt() + 1e-6) }
        }),
        AdvantageKind::GrpoUnscaled => spread(batch, |score, group| match group.len() {
            1 => score,
            _ => score - mean(group.iter().copied()),
        }),
        AdvantageKind::Rloo => spread(batch, |score, group| match group.len() {
            1 => score,
            n => (score - mean(group.iter().copied())) * n as f64 / (n - 1) as f64,
        }),
    }
}

/// The score of each response: the sum of its rewards.
pub fn scores(spans: &Spans, mask: &[bool], rewards: &[f32]) -> Vec<f64> {
    spans.iter().map(|span| selected(&rewards[span.clone()], &mask[span]).sum()).collect()
}

/// One advantage per response, `advantage(score, scores of its group)`, on each of its tokens.
fn spread(batch: &Batch<'_>, advantage: impl Fn(f64, &[f64]) -> f64) -> Estimate {
    let scores = scores(batch.spans, batch.mask, batch.rewards);
    let n_groups = batch.groups.iter().max().map_or(0, |last| last + 1);
    let mut groups = vec![Vec::new(); n_groups];
    for (group, score) in batch.groups.iter().zip(&scores) {
        groups[*group].push(*score);
    }
    let mut advantages = vec![0.0; batch.spans.tokens()];
    for (sequence, span) in batch.spans.iter().enumerate() {
        let value = advantage(scores[sequence], &groups[batch.groups[sequence]]) as f32;
        span.filter(|&t| batch.mask[t]).for_each(|t| advantages[t] = value);
    }
    Estimate { returns: advantages.clone(), advantages }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Discount = Discount { gamma: 1.0, lambda: 1.0, whiten: true };

    /// Two prompts with three responses each, of two tokens and one masked one; the rewards are at the last token.
    fn check(kind: AdvantageKind, scores: [f32; 6], expect: [f32; 6]) {
        let spans = Spans::new([3; 6]);
        let mask = [true, true, false].repeat(6);
        let rewards: Vec<f32> = scores.iter().flat_map(|&score| [0.0, score, f32::NAN]).collect();
        let values = vec![0.0; 18];
        let batch =
            Batch { spans: &spans, mask: &mask, rewards: &rewards, values: &values, groups: &[0, 0, 0, 1, 1, 1] };
        let found = advantages(kind, &batch, PLAIN).advantages;
        for (response, expect) in found.chunks(3).zip(expect) {
            assert!((response[0] - expect).abs() < 1e-4 && (response[1] - expect).abs() < 1e-4, "{kind:?} {found:?}");
            assert_eq!(response[2], 0.0);
        }
        // The order of responses is no information.
        let shuffled: Vec<usize> = vec![4, 0, 5, 2, 3, 1];
        let rewards: Vec<f32> = shuffled.iter().flat_map(|&from| rewards[from * 3..from * 3 + 3].to_vec()).collect();
        let groups: Vec<usize> = shuffled.iter().map(|from| from / 3).collect();
        let batch = Batch { rewards: &rewards, groups: &groups, ..batch };
        let moved = advantages(kind, &batch, PLAIN).advantages;
        for (to, from) in shuffled.iter().enumerate() {
            assert!((moved[to * 3] - found[from * 3]).abs() < 1e-6);
        }
    }

    #[test]
    fn each_kind_by_hand() {
        let scores = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let root = 3f32.sqrt();
        check(AdvantageKind::Grpo, scores, [2.0 / root, -1.0 / root, -1.0 / root, 0.0, 0.0, 0.0]);
        check(AdvantageKind::GrpoUnscaled, scores, [2.0 / 3.0, -1.0 / 3.0, -1.0 / 3.0, 0.0, 0.0, 0.0]);
        check(AdvantageKind::Rloo, scores, [1.0, -0.5, -0.5, 0.0, 0.0, 0.0]);
        // Twelve tokens, eight of them 1: mean 2/3, variance 8/33.
        let (high, low) = ((1.0 / 3.0) / (8.0f32 / 33.0).sqrt(), (-2.0 / 3.0) / (8.0f32 / 33.0).sqrt());
        check(AdvantageKind::ReinforcePlusPlus, scores, [high, low, low, high, high, high]);
        check(AdvantageKind::Gae, scores, [high, low, low, high, high, high]);
    }

    #[test]
    fn equal_rewards_teach_nothing() {
        let kinds = [AdvantageKind::Gae, AdvantageKind::Grpo, AdvantageKind::Rloo, AdvantageKind::ReinforcePlusPlus];
        kinds.iter().for_each(|&kind| check(kind, [0.1; 6], [0.0; 6]));
    }

    #[test]
    fn a_lone_response_keeps_its_score() {
        let spans = Spans::new([1, 1]);
        let batch = Batch { spans: &spans, mask: &[true, true], rewards: &[1.0, 0.5], values: &[], groups: &[0, 1] };
        for kind in [AdvantageKind::Grpo, AdvantageKind::GrpoUnscaled, AdvantageKind::Rloo] {
            assert_eq!(advantages(kind, &batch, PLAIN).advantages, [1.0, 0.5]);
        }
    }
}
