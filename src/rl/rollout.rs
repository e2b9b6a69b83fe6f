//! Responses that the policy sampled, and how a step is cut into sequences, mini-batches and micro-batches.

use crate::countdown::puzzle::mix;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::sync::Arc;

/// One response to be sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Which prompt of the step it answers.
    pub prompt: usize,
    /// Which of the prompt's responses it is.
    pub sample: usize,
    pub prompt_tokens: Arc<[u32]>,
    /// The seed of its own random stream: a response does not depend on its neighbours.
    pub seed: u64,
}

/// `samples` requests per prompt, those of a prompt side by side.
pub fn requests(prompts: &[Arc<[u32]>], samples: usize, seed: u64, step: u64) -> Vec<Request> {
    let pairs = (0..prompts.len()).flat_map(|prompt| (0..samples).map(move |sample| (prompt, sample)));
    pairs
        .map(|(prompt, sample)| Request {
            prompt,
            sample,
            prompt_tokens: Arc::clone(&prompts[prompt]),
            seed: sample_seed(seed, step, prompt as u64, sample as u64),
        })
        .collect()
}

/// The seed of a sample, from where it stands in the run and from nothing else. Each part is mixed in on its own, so that no two
/// samples of a group share a stream.
pub fn sample_seed(run: u64, step: u64, prompt: u64, sample: u64) -> u64 {
    [step, prompt, sample].iter().fold(mix(run ^ 0x726f_6c6c), |seed, part| mix(seed ^ mix(*part)))
}

/// What the policy drew for a request. Whatever follows the first end token is ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub tokens: Vec<u32>,
    /// The log-probability of each token, at the sampling temperature.
    pub log_probs: Vec<f32>,
}

/// A response as it is judged and learned from.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    pub prompt: usize,
    pub sample: usize,
    pub prompt_tokens: Arc<[u32]>,
    /// With the end token, if it came: choosing to end is an action too. Exactly one, as the last.
    pub tokens: Vec<u32>,
    pub log_probs: Vec<f32>,
    /// No end token came within the limit.
    pub is_truncated: bool,
}

/// A policy's answer that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutFault {
    #[error("the policy gave {found} responses for {asked} requests")]
    Count { asked: usize, found: usize },
    #[error("the policy gave {tokens} tokens with {log_probs} log-probabilities")]
    Length { tokens: usize, log_probs: usize },
    #[error("the policy gave an empty response")]
    Empty,
    #[error("the policy sampled token {token} with the log-probability {log_prob}")]
    LogProb { token: u32, log_prob: String },
}

impl Rollout {
    /// Cuts a sample after its first end token, or after `limit` tokens.
    pub fn new(request: &Request, sampled: Sampled, end_tokens: &[u32], limit: usize) -> Result<Self, RolloutFault> {
        let Sampled { mut tokens, mut log_probs } = sampled;
        if tokens.len() != log_probs.len() {
            return Err(RolloutFault::Length { tokens: tokens.len(), log_probs: log_probs.len() });
        }
        let end = tokens.iter().take(limit).position(|token| end_tokens.contains(token));
        tokens.truncate(end.map_or(limit, |end| end + 1));
        log_probs.truncate(tokens.len());
        if tokens.is_empty() {
            return Err(RolloutFault::Empty);
        }
        // Rounding may put the logarithm of a probability near 1 a little above 0.
        if let Some(at) = log_probs.iter().position(|log_prob| !log_prob.is_finite() || 1e-3 < *log_prob) {
            return Err(RolloutFault::LogProb { token: tokens[at], log_prob: log_probs[at].to_string() });
        }
        Ok(Self {
            prompt: request.prompt,
            sample: request.sample,
            prompt_tokens: Arc::clone(&request.prompt_tokens),
            tokens,
            log_probs,
            is_truncated: end.is_none(),
        })
    }

    /// The response without its end token.
    pub fn said(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - usize::from(!self.is_truncated)]
    }

    pub fn sequence(&self) -> Sequence<'_> {
        Sequence { prompt: &self.prompt_tokens, response: &self.tokens }
    }
}

/// A prompt and a response, to be scored or learned from: one number per token of the response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence<'a> {
    pub prompt: &'a [u32],
    pub response: &'a [u32],
}

impl Sequence<'_> {
    /// Tokens of prompt and response.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.response.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is done with responses that were cut off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Truncation {
    /// They earn what their text earns: the paper's.
    Score,
    /// They earn this instead.
    Reward(f64),
    /// They are scored, compared within their group, and not learned from.
    Mask,
}

/// The order of a step's sequences in one epoch: as they come, or shuffled by seed.
pub fn order(sequences: usize, shuffle: Option<u64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sequences).collect();
    if let Some(seed) = shuffle {
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    }
    order
}

/// Neighbours together as long as they have at most `max_tokens`; one that is longer goes alone.
pub fn micro_batches(lengths: &[usize], max_tokens: usize) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, length) in lengths.iter().enumerate() {
        match batches.last_mut() {
            Some(batch) if tokens + length <= max_tokens => {
                batch.end = index + 1;
                tokens += length;
            }
            _ => {
                batches.push(index..index + 1);
                tokens = *length;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn rollout(tokens: &[u32], ends: &[u32]) -> Result<Rollout, RolloutFault> {
        let request = Request { prompt: 0, sample: 0, prompt_tokens: Arc::from([7u32]), seed: 0 };
        let log_probs = (0..tokens.len()).map(|index| -(index as f32) / 10.0).collect();
        Rollout::new(&request, Sampled { tokens: tokens.to_vec(), log_probs }, ends, 5)
    }

    #[test]
    fn a_response_ends_with_its_first_end_token() {
        let check = |tokens: &[u32], expect: &[u32], said: &[u32]| {
            let rollout = rollout(tokens, &[0, 1]).unwrap();
            assert_eq!((&rollout.tokens[..], rollout.said()), (expect, said));
            assert_eq!(rollout.log_probs.len(), expect.len());
            assert_eq!(rollout.is_truncated, expect == said);
        };
        check(&[5, 6, 0], &[5, 6, 0], &[5, 6]);
        check(&[5, 6, 1, 9, 9], &[5, 6, 1], &[5, 6]);
        check(&[5, 0, 0, 0], &[5, 0], &[5]);
        check(&[0], &[0], &[]);
        check(&[5, 6, 7, 8, 9, 0], &[5, 6, 7, 8, 9], &[5, 6, 7, 8, 9]);
        check(&[5, 6], &[5, 6], &[5, 6]);
    }

    #[test]
    fn nonsense_of_a_policy_is_named() {
        assert_eq!(rollout(&[], &[0]).unwrap_err().to_string(), "the policy gave an empty response");
        let request = Request { prompt: 0, sample: 0, prompt_tokens: Arc::from([7u32]), seed: 0 };
        let check = |log_probs: Vec<f32>, expect: &str| {
            let sampled = Sampled { tokens: vec![3, 4], log_probs };
            assert_eq!(Rollout::new(&request, sampled, &[4], 5).unwrap_err().to_string(), expect);
        };
        check(vec![-1.0], "the policy gave 2 tokens with 1 log-probabilities");
        check(vec![-1.0, f32::NAN], "the policy sampled token 4 with the log-probability NaN");
        check(vec![0.5, -1.0], "the policy sampled token 3 with the log-probability 0.5");
    }

    #[test]
    fn no_two_samples_share_a_seed() {
        let prompts: Vec<Arc<[u32]>> = vec![Arc::from([1u32]); 40];
        let mut seeds = BTreeSet::new();
        for run in 0..3 {
            for step in 0..20 {
                seeds.extend(requests(&prompts, 8, run, step).iter().map(|request| request.seed));
            }
        }
        assert_eq!(seeds.len(), 3 * 20 * 40 * 8);
        assert_eq!(requests(&prompts, 2, 1, 1)[3].seed, sample_seed(1, 1, 1, 1));
    }

    #[test]
    fn micro_batches_keep_to_their_tokens() {
        assert_eq!(micro_batches(&[3, 3, 3, 9, 1, 1], 7), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(micro_batches(&[3, 3], 1), [0..1, 1..2]);
        assert!(micro_batches(&[], 7).is_empty());
    }

    #[test]
    fn an_epochs_order_is_a_permutation() {
        assert_eq!(order(4, None), [0, 1, 2, 3]);
        let mut shuffled = order(50, Some(3));
        assert_eq!(shuffled, order(50, Some(3)));
        assert_ne!(shuffled, order(50, Some(4)));
        shuffled.sort_unstable();
        assert_eq!(shuffled, order(50, None));
    }
}
