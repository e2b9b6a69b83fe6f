//! The decoder as it is trained: forward and backward over a packed batch, layer by layer.

use super::batch::TrainBatch;
use super::objective::{CrossEntropy, Objective, Prediction};
use crate::lm::{ModelConfig, Parameters, Precision};
use anyhow::Result;

/// How a model is trained, apart from its data.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TrainOptions {
    /// The numbers that products multiply; parameters, gradients and sums are always f32.
    pub precision: Precision,
    /// Keep only the input of each layer and compute the rest again on the way back: a third more work, far less memory.
    pub recompute: bool,
    /// PaLM's z-loss; 0 is off.
    pub z_loss: f32,
}

/// What a batch lost, summed over its targets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSum {
    /// Negative log-likelihood in nats.
    pub nll: f64,
    /// Z-loss, its coefficient included.
    pub z: f64,
    pub targets: u64,
}

/// A model's parameters and the buffers to train them with.
pub struct TrainModel {
    config: ModelConfig,
    /// Change them at will between calls.
    pub parameters: Parameters,
    options: TrainOptions,
}

impl TrainModel {
    /// # Errors
    /// A [`Failure`](crate::error::Failure) when the parameters are not the configuration's, or the processor lacks the
    /// instructions for the precision.
    pub fn new(config: ModelConfig, parameters: Parameters, options: TrainOptions) -> Result<Self> {
        parameters.check(&config)?;
        Ok(Self { config, parameters, options })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The loss of a batch; changes nothing.
    pub fn loss(&mut self, batch: &TrainBatch) -> Result<LossSum> {
        let _ = batch;
        todo_error()
    }

    /// The loss of a batch, and its gradient times `scale` added to `gradients`.
    ///
    /// With `scale` one over the targets of all micro-batches together, their sum is the gradient of the mean loss.
    pub fn loss_and_gradients(
        &mut self,
        batch: &TrainBatch,
        scale: f32,
        gradients: &mut Parameters,
    ) -> Result<LossSum> {
        let objective = CrossEntropy { scale, z_loss: self.options.z_loss };
        let _ = (objective, batch, gradients);
        todo_error()
    }

    /// What the model says of each target; `None` for rows without one. `entropy` asks for entropies too.
    pub fn predictions(&mut self, batch: &TrainBatch, entropy: bool) -> Result<Vec<Option<Prediction>>> {
        let _ = (batch, entropy);
        todo_error()
    }

    /// The sum of an objective over a batch, its gradient added to `gradients`; and what the model said.
    pub fn minimise<O: Objective>(
        &mut self,
        batch: &TrainBatch,
        objective: &O,
        gradients: &mut Parameters,
    ) -> Result<(f64, Vec<Option<Prediction>>)> {
        let _ = (objective, batch, gradients);
        todo_error()
    }

    /// Final hidden states, normed, `(T, H)`: what a critic's head reads. They stay until the next call.
    pub fn hidden(&mut self, batch: &TrainBatch) -> Result<&[f32]> {
        let _ = batch;
        todo_error()
    }

    /// Adds to `gradients` what the gradient of the final hidden states, `(T, H)`, gives; `batch` is that of the last
    /// [`TrainModel::hidden`].
    pub fn backward_hidden(
        &mut self,
        batch: &TrainBatch,
        hidden_gradient: &[f32],
        gradients: &mut Parameters,
    ) -> Result<()> {
        let _ = (batch, hidden_gradient, gradients);
        todo_error()
    }
}

fn todo_error<T>() -> Result<T> {
    anyhow::bail!("the backward is not written yet")
}
