//! How much memory reinforcement takes, before it is taken.

use crate::lm::{BatchLimits, KvCache, ModelConfig, Precision};
use crate::train::memory::{MemoryEstimate, parameter_count};
use crate::train::model::TrainOptions;

/// What decides it, besides the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Needs {
    pub options: TrainOptions,
    /// Tokens that go through a model in training at a time, at most.
    pub micro_tokens: usize,
    pub has_critic: bool,
    pub has_reference: bool,
    pub rollout: BatchLimits,
    /// Responses of a step.
    pub responses: usize,
    /// Prompt and response at their longest, in tokens.
    pub sequence_tokens: usize,
}

/// Bytes by what they are for; an estimate of the most that are held at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PpoMemory {
    /// Weights, gradients and moments of the policy and the critic, and the reference's weights.
    pub models: u64,
    /// What they keep of a forward pass for the way back, and buffers.
    pub activations: u64,
    /// The policy's weights once more, packed for decoding, and the keys and values of live responses.
    pub rollout: u64,
}

impl PpoMemory {
    pub fn new(config: &ModelConfig, needs: &Needs) -> Self {
        let Needs { options, micro_tokens, has_critic, has_reference, rollout, responses, sequence_tokens } = *needs;
        let tokens = micro_tokens.min(responses.saturating_mul(sequence_tokens)).max(sequence_tokens);
        let learner = MemoryEstimate::new(config, options, tokens);
        // The reference never goes back, and keeps what recomputation keeps at most.
        let reader = MemoryEstimate::new(config, TrainOptions { recompute: true, ..options }, tokens);
        let (learners, references) = (1 + u64::from(has_critic), u64::from(has_reference));
        // The head is packed beside the table that it may be tied to.
        let packed = 4 * (parameter_count(config) + (config.vocab_size * config.hidden_size) as u64);
        let live =
            rollout.sequences.min(responses).saturating_mul(KvCache::bytes(config, Precision::F32, sequence_tokens));
        Self {
            models: learners * (learner.total() - learner.activations) + references * reader.parameters,
            activations: learners * learner.activations + references * reader.activations,
            rollout: packed + live.min(rollout.cache_bytes) as u64,
        }
    }

    pub fn total(&self) -> u64 {
        self.models + self.activations + self.rollout
    }
}
