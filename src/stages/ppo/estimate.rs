//! What reinforcement will take, as far as it can be told before it begins.

use crate::config::{KlWhere, Ppo, TRAINED, TrainingPrecision};
use crate::lm::{BatchLimits, ModelConfig, Precision};
use crate::plan::{Plan, Stage, Work};
use crate::rl::memory::{Needs, PpoMemory};
use crate::stages::pretrain::estimate::{Sizes, model_sizes, multiplied_weights, trained_sizes};
use crate::train::memory::parameter_count;
use crate::train::model::TrainOptions;
use serde::Serialize;

/// Reinforcement in numbers; what depends on a model that is not there yet is absent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PpoEstimate {
    pub parameters: Option<u64>,
    /// Whether the vocabulary is made from the data, and parameters, operations and memory may be fewer.
    pub at_most: bool,
    pub steps: u64,
    /// Responses to learn from.
    pub responses: u64,
    /// Their tokens if all are as long as the limit.
    pub response_tokens: u64,
    /// Floating-point operations for so many tokens: 2 per weight and pass, 6 where a model learns. Prompts, attention
    /// and evaluations are not counted.
    pub operations: Option<f64>,
    /// Bytes of memory that it will take.
    pub memory_bytes: Option<u64>,
}

impl PpoEstimate {
    pub fn new(plan: &Plan, stage: &Stage, ppo: &Ppo) -> Self {
        let sizes = sizes(plan, stage, ppo);
        let steps = ppo.steps_within(plan.limit);
        let responses = steps * ppo.rollouts() as u64;
        let response_tokens = responses * ppo.max_response_tokens as u64;
        let config = sizes.as_ref().map(|sizes| &sizes.config);
        let operations = |config| multiplied_weights(config) as f64 * response_tokens as f64 * passes(ppo);
        Self {
            parameters: config.map(parameter_count),
            at_most: sizes.as_ref().is_some_and(|sizes| sizes.at_most),
            steps,
            responses,
            response_tokens,
            operations: config.map(operations),
            memory_bytes: config.map(|config| memory(ppo, config).total()),
        }
    }

    /// Bytes on disk: checkpoints of policy and critic with their moments, one more while it is written.
    pub fn disk_bytes(&self, ppo: &Ppo) -> u64 {
        let kept = ppo.checkpoint.keep_last as u64 + u64::from(ppo.checkpoint.keep_best) + 1;
        let learners = 1 + u64::from(ppo.advantage.has_critic());
        self.parameters.unwrap_or(0) * 12 * learners * kept
    }
}

/// Operations per weight and token of a response.
fn passes(ppo: &Ppo) -> f64 {
    let learning = 6.0 * ppo.epochs as f64;
    let scores = f64::from(u8::from(ppo.recompute_log_probs) + u8::from(ppo.kl.place != KlWhere::None));
    let critic = if ppo.advantage.has_critic() { 2.0 + learning } else { 0.0 };
    2.0 + 2.0 * scores + critic + learning
}

/// The memory of a run from such a model, its prompts short.
pub(super) fn memory(ppo: &Ppo, config: &ModelConfig) -> PpoMemory {
    let precision = match ppo.precision {
        TrainingPrecision::F32 => Precision::F32,
        TrainingPrecision::Bf16 => Precision::Bf16,
    };
    PpoMemory::new(
        config,
        &Needs {
            options: TrainOptions { precision, ..TrainOptions::default() },
            micro_tokens: ppo.micro_tokens,
            has_critic: ppo.advantage.has_critic(),
            has_reference: ppo.kl.place != KlWhere::None,
            rollout: BatchLimits { sequences: ppo.rollout_sequences, ..BatchLimits::default() },
            responses: ppo.rollouts(),
            sequence_tokens: ppo.max_response_tokens,
        },
    )
}

fn sizes(plan: &Plan, stage: &Stage, ppo: &Ppo) -> Option<Sizes> {
    if !TRAINED.contains(&ppo.from.as_str()) {
        return model_sizes(plan, &ppo.from);
    }
    let mut upstream = stage.reads.iter().filter_map(|&index| plan.stages.get(index));
    let stage = upstream.find(|stage| stage.work.name() == ppo.from)?;
    match &stage.work {
        Work::Base(pretrain) | Work::Pretrain(pretrain) => trained_sizes(plan, stage, pretrain),
        _ => None,
    }
}
