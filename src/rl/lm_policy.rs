//! Language models behind the traits of [`super::ppo`]: the policy, its reference, and the critic.
//!
//! Rollouts are drawn from the policy as it is, at temperature 1 and from all tokens, by the decoder that shares the trained
//! weights; the log-probabilities of decoding and of training are those of one model, and differ by rounding alone.

use super::ppo::{Critic, Policy, PolicySlopes, Scorer, Scores, ValueSlopes};
use super::rollout::{Request, Sampled, Sequence};
use crate::error::{Exit, Failure};
use crate::lm::{
    BatchLimits, Decoder, Endings, ModelConfig, Parameter, Parameters, Precision, Request as GenerateRequest,
    SamplingRule,
};
use crate::train::adamw::{AdamWOptions, clip_global_norm, global_norm, scale};
use crate::train::{AdamW, Objective, Prediction, RowLoss, TrainBatch, TrainModel};

/// How weights move: AdamW at a constant rate, gradients no longer than `clip` (0: any length).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Descent {
    pub rate: f64,
    pub clip: f64,
    pub adamw: AdamWOptions,
}

/// Rows for sequences: each response token is the target of the row before it.
fn batch(sequences: &[Sequence<'_>]) -> TrainBatch {
    let mut batch = TrainBatch::default();
    sequences.iter().for_each(|sequence| batch.push_completion(sequence.prompt, sequence.response));
    batch
}

fn scores(predictions: &[Option<Prediction>]) -> Scores {
    let (log_probs, entropies) =
        predictions.iter().flatten().map(|prediction| (prediction.log_probability, prediction.entropy)).unzip();
    Scores { log_probs, entropies }
}

fn not_finite(what: &str, norm: f64) -> anyhow::Error {
    Failure::new(Exit::Failed, format!("the length of the {what}'s gradient is {norm}"))
        .hint("the run can go on from its last checkpoint; lower the learning rate, or clip gradients harder")
        .into()
}

/// A policy in training.
pub struct LmPolicy {
    pub model: TrainModel,
    pub optimizer: AdamW,
    descent: Descent,
    gradients: Parameters,
    /// The decoder of the present weights; made when rollouts are due.
    decoder: Option<Decoder>,
    end_tokens: Vec<u32>,
    max_response: usize,
    limits: BatchLimits,
}

impl LmPolicy {
    pub fn new(
        model: TrainModel,
        optimizer: AdamW,
        descent: Descent,
        end_tokens: Vec<u32>,
        max_response: usize,
        limits: BatchLimits,
    ) -> Self {
        let gradients = model.parameters.zeros_like();
        Self { model, optimizer, descent, gradients, decoder: None, end_tokens, max_response, limits }
    }

    /// The decoder of the present weights.
    pub fn decoder(&mut self) -> anyhow::Result<&Decoder> {
        let decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => Decoder::from_parameters(self.model.config(), &self.model.parameters, Precision::F32)?,
        };
        Ok(self.decoder.insert(decoder))
    }
}

impl Scorer for LmPolicy {
    fn score(&mut self, sequences: &[Sequence<'_>]) -> anyhow::Result<Scores> {
        Ok(scores(&self.model.predictions(&batch(sequences), true)?))
    }
}

/// A loss that is known by its slopes.
struct Slopes<'a> {
    slopes: &'a PolicySlopes<'a>,
    /// For each row, how many targets are above it.
    places: Vec<usize>,
}

impl Objective for Slopes<'_> {
    const ENTROPY: bool = true;

    fn row(&self, row: usize, prediction: &Prediction) -> RowLoss {
        let slopes = (self.slopes)(self.places[row], prediction.log_probability, prediction.entropy);
        RowLoss { log_probability: slopes.log_prob, entropy: slopes.entropy, ..RowLoss::default() }
    }
}

fn places(batch: &TrainBatch) -> Vec<usize> {
    let above = batch.targets.iter().scan(0, |count, target| {
        let place = *count;
        *count += usize::from(target.is_some());
        Some(place)
    });
    above.collect()
}

impl Policy for LmPolicy {
    fn generate(&mut self, requests: &[Request]) -> anyhow::Result<Vec<Sampled>> {
        let (end_tokens, limits, max_tokens) = (self.end_tokens.clone(), self.limits, self.max_response);
        let asked: Vec<GenerateRequest> = requests
            .iter()
            .map(|request| GenerateRequest { prompt: request.prompt_tokens.to_vec(), max_tokens, seed: request.seed })
            .collect();
        let endings = Endings { tokens: &end_tokens, strings: None };
        let answers = self.decoder()?.generate(&asked, SamplingRule::PLAIN, endings, limits)?;
        let sampled = answers.into_iter().zip(requests).map(|(answer, request)| match answer {
            Ok(generation) => Ok(Sampled { tokens: generation.tokens, log_probs: generation.logprobs }),
            Err(why) => {
                Err(Failure::new(Exit::Failed, format!("prompt {} has no response: {why}", request.prompt + 1))
                    .hint("a prompt and `max-response-tokens` must fit the model's context")
                    .into())
            }
        });
        sampled.collect()
    }

    fn accumulate(&mut self, sequences: &[Sequence<'_>], slopes: &PolicySlopes<'_>) -> anyhow::Result<Scores> {
        let batch = batch(sequences);
        let objective = Slopes { slopes, places: places(&batch) };
        let (_, predictions) = self.model.minimise(&batch, &objective, &mut self.gradients)?;
        Ok(scores(&predictions))
    }

    fn step(&mut self) -> anyhow::Result<f64> {
        let Descent { rate, clip, .. } = self.descent;
        let norm = if 0.0 < clip { clip_global_norm(&mut self.gradients, clip) } else { global_norm(&self.gradients) };
        if !norm.is_finite() {
            return Err(not_finite("policy", norm));
        }
        self.optimizer.step(&mut self.model.parameters, &self.gradients, rate);
        self.gradients.fill(0.0);
        self.decoder = None;
        Ok(norm)
    }
}

/// What the policy is kept near: a model that stays as it is.
pub struct LmReference {
    pub model: TrainModel,
}

impl Scorer for LmReference {
    fn score(&mut self, sequences: &[Sequence<'_>]) -> anyhow::Result<Scores> {
        Ok(scores(&self.model.predictions(&batch(sequences), false)?))
    }
}

/// A critic in training: a decoder of its own with a number in place of the vocabulary, as transformers' models for token
/// classification have it. The value of a token is read where the token is predicted.
pub struct LmCritic {
    /// The decoder; a language-model head of its own, where it has one, is neither read nor trained.
    pub model: TrainModel,
    pub optimizer: AdamW,
    /// `score.weight` of `(1, H)` and `score.bias` of `(1)`.
    pub head: Parameters,
    pub head_optimizer: AdamW,
    descent: Descent,
    gradients: Parameters,
    head_gradients: Parameters,
}

impl LmCritic {
    /// The head of a new critic: it says 0 of everything.
    pub fn new_head(config: &ModelConfig) -> Parameters {
        let zeros = |name: &str, shape: Vec<usize>| Parameter {
            name: name.to_owned(),
            values: vec![0.0; shape.iter().product()],
            shape,
        };
        Parameters::of(vec![zeros("score.weight", vec![1, config.hidden_size]), zeros("score.bias", vec![1])])
    }

    pub fn new(model: TrainModel, optimizer: AdamW, head: Parameters, head_optimizer: AdamW, descent: Descent) -> Self {
        let (gradients, head_gradients) = (model.parameters.zeros_like(), head.zeros_like());
        Self { model, optimizer, head, head_optimizer, descent, gradients, head_gradients }
    }

    /// The values of the batch's targets, and the hidden states `(T, H)` of the rows that they were read from.
    fn look(&mut self, batch: &TrainBatch) -> anyhow::Result<(Vec<f32>, &[f32])> {
        let width = self.model.config().hidden_size;
        let [weight, bias] = self.head.as_slice() else { anyhow::bail!("the critic's head is not of two tensors") };
        let hidden = self.model.hidden(batch)?;
        let rows = hidden.chunks_exact(width).zip(&batch.targets).filter(|(_, target)| target.is_some());
        let value = |row: &[f32]| -> f32 {
            let products = row.iter().zip(&weight.values).map(|(x, w)| f64::from(*x) * f64::from(*w));
            (products.sum::<f64>() + f64::from(bias.values[0])) as f32
        };
        let values = rows.map(|(row, _)| value(row)).collect();
        Ok((values, hidden))
    }
}

impl Critic for LmCritic {
    fn values(&mut self, sequences: &[Sequence<'_>]) -> anyhow::Result<Vec<f32>> {
        Ok(self.look(&batch(sequences))?.0)
    }

    fn accumulate(&mut self, sequences: &[Sequence<'_>], slopes: &ValueSlopes<'_>) -> anyhow::Result<Vec<f32>> {
        let batch = batch(sequences);
        let width = self.model.config().hidden_size;
        let mut head_gradients = std::mem::replace(&mut self.head_gradients, Parameters::of(Vec::new()));
        let (values, hidden) = self.look(&batch)?;
        let mut hidden_gradient = vec![0.0; hidden.len()];
        let mut row_slopes = Vec::with_capacity(values.len());
        if let [weight, bias] = head_gradients.as_mut_slice() {
            let rows = (0..batch.len()).filter(|&row| batch.targets[row].is_some());
            for (index, row) in rows.enumerate() {
                let slope = slopes(index, values[index]);
                row_slopes.push((row, slope));
                let states = &hidden[row * width..][..width];
                weight.values.iter_mut().zip(states).for_each(|(gradient, state)| *gradient += slope * state);
                bias.values[0] += slope;
            }
        }
        for (row, slope) in row_slopes {
            let gradient = &mut hidden_gradient[row * width..][..width];
            gradient.iter_mut().zip(&self.head.as_slice()[0].values).for_each(|(gradient, w)| *gradient = slope * w);
        }
        self.head_gradients = head_gradients;
        self.model.backward_hidden(&hidden_gradient, &mut self.gradients)?;
        Ok(values)
    }

    fn step(&mut self) -> anyhow::Result<f64> {
        let Descent { rate, clip, .. } = self.descent;
        let norm = global_norm(&self.gradients).hypot(global_norm(&self.head_gradients));
        if !norm.is_finite() {
            return Err(not_finite("critic", norm));
        }
        if 0.0 < clip && clip < norm {
            let factor = (clip / (norm + 1e-6)) as f32;
            scale(&mut self.gradients, factor);
            scale(&mut self.head_gradients, factor);
        }
        self.optimizer.step(&mut self.model.parameters, &self.gradients, rate);
        self.head_optimizer.step(&mut self.head, &self.head_gradients, rate);
        self.gradients.fill(0.0);
        self.head_gradients.fill(0.0);
        Ok(norm)
    }
}

#[cfg(test)]
mod tests;
