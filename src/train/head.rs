//! The output head with its objective: logits exist for a block of rows at a time and are never whole in memory.
//!
//! Rows with a target go through in chunks. A block of a chunk's rows makes its logits, asks the objective for slopes,
//! turns the logits into their gradients in place and multiplies back to hidden states; after a chunk the gradient of the
//! head's weights is summed over its rows.

use super::objective::{Objective, Prediction, RowLoss};
use super::panels::{Panels, Transposed, interleave_rows};
use super::product::{Begin, add_outer, product};
use super::rows;
use super::workspace::Workspaces;
use crate::lm::kernels::tile::Float;
use crate::lm::kernels::vector;
use rayon::prelude::*;

/// Rows of one task.
pub(super) const ROWS: usize = 48;
/// Logits of one chunk at most, but for a chunk of [`ROWS`] rows: what bounds memory.
pub(super) const CHUNK: usize = 1 << 24;
/// Rows of the head's weight whose gradient one task adds up.
const OUTPUTS: usize = 96;

/// Buffers of the head.
pub(super) struct Head<E> {
    /// `(H, V)` on the way to logits, `(V, H)` on the way back.
    weights: Panels<E>,
    weights_back: Panels<E>,
    left: Transposed<E>,
    right: Panels<E>,
    hidden: Vec<f32>,
    d_hidden: Vec<f32>,
    outcomes: Vec<(f64, Prediction)>,
    blocks: Workspaces<(Vec<E>, Vec<f32>)>,
}

/// Where gradients of the head go.
pub(super) struct HeadGradients<'a> {
    /// `(T, H)`: of the normed hidden states, for rows with a target; others stay as they are.
    pub hidden: &'a mut [f32],
    /// `(V, H)`, added to.
    pub weight: &'a mut [f32],
}

impl<E: Float> Head<E> {
    pub(super) fn new() -> Self {
        Self {
            weights: Panels::new(),
            weights_back: Panels::new(),
            left: Transposed::new(),
            right: Panels::new(),
            hidden: Vec::new(),
            d_hidden: Vec::new(),
            outcomes: Vec::new(),
            blocks: Workspaces::new(|| (Vec::new(), Vec::new())),
        }
    }

    /// The objective over all rows with a target, and what the model said of each. `hidden` is `(T, H)`, normed;
    /// `weight` is `(V, H)`.
    pub(super) fn run<O: Objective>(
        &mut self,
        hidden: &[f32],
        width: usize,
        weight: &[f32],
        targets: &[Option<u32>],
        objective: &O,
        mut gradients: Option<HeadGradients<'_>>,
    ) -> (f64, Vec<Option<Prediction>>) {
        let vocab = weight.len() / width;
        let row_of = |output: usize| &weight[output * width..][..width];
        self.weights.pack_transposed(width, vocab, row_of);
        if gradients.is_some() {
            self.weights_back.pack(vocab, width, row_of);
        }
        let listed: Vec<(usize, u32)> =
            targets.iter().enumerate().filter_map(|(row, target)| Some((row, (*target)?))).collect();
        let mut predictions = vec![None; targets.len()];
        let mut loss = 0.0;
        let chunk = (CHUNK / vocab / ROWS * ROWS).max(ROWS);
        for listed in listed.chunks(chunk) {
            self.hidden.resize(listed.len() * width, 0.0);
            for (to, (row, _)) in self.hidden.chunks_exact_mut(width).zip(listed) {
                to.copy_from_slice(&hidden[row * width..][..width]);
            }
            self.chunk(listed, width, vocab, objective, gradients.is_some());
            // Losses are summed in the order of rows.
            for ((row, _), (row_loss, prediction)) in listed.iter().zip(&self.outcomes) {
                loss += row_loss;
                predictions[*row] = Some(*prediction);
            }
            if let Some(HeadGradients { hidden, weight }) = &mut gradients {
                for (from, (row, _)) in self.d_hidden.chunks_exact(width).zip(listed) {
                    hidden[row * width..][..width].copy_from_slice(from);
                }
                let rows = &self.hidden;
                self.right.pack(listed.len(), width, |row| &rows[row * width..][..width]);
                let (left, right) = (self.left.left(vocab), &self.right);
                weight.par_chunks_mut(OUTPUTS * width).enumerate().with_max_len(1).for_each(|(i, out)| {
                    add_outer(left, i * OUTPUTS, right, out);
                });
            }
        }
        (loss, predictions)
    }

    /// Outcomes of a chunk's rows, and, if asked for, the gradients of its logits and hidden states.
    fn chunk<O: Objective>(
        &mut self,
        listed: &[(usize, u32)],
        width: usize,
        vocab: usize,
        objective: &O,
        backward: bool,
    ) {
        self.outcomes.resize(listed.len(), Default::default());
        self.d_hidden.resize(listed.len() * width, 0.0);
        let (weights, weights_back, workspaces) = (&self.weights, &self.weights_back, &self.blocks);
        // Without a backward nothing reads the transposed logits; a chunk's worth of memory is not worth a second path.
        let left = self.left.blocks(listed.len(), vocab, ROWS);
        left.into_par_iter()
            .zip(self.hidden.par_chunks(ROWS * width))
            .zip(self.d_hidden.par_chunks_mut(ROWS * width))
            .zip(self.outcomes.par_chunks_mut(ROWS).zip(listed.par_chunks(ROWS)))
            .with_max_len(1)
            .for_each(|(((left, hidden), d_hidden), (outcomes, listed))| {
                workspaces.with(|(operand, logits)| {
                    logits.resize(listed.len() * vocab, 0.0);
                    let a = E::left(hidden, width, operand);
                    product(a, listed.len(), weights, Begin::Zero, logits, vocab);
                    for (logits, ((row, target), outcome)) in
                        logits.chunks_exact_mut(vocab).zip(listed.iter().zip(outcomes))
                    {
                        let prediction = predict(logits, *target, O::ENTROPY);
                        let row_loss = objective.row(*row, &prediction);
                        *outcome = (row_loss.loss, prediction);
                        if backward {
                            to_gradient(logits, *target, &prediction, &row_loss, O::ENTROPY);
                        }
                    }
                    if backward {
                        interleave_rows(left, logits, vocab);
                        let a = E::left(logits, vocab, operand);
                        product(a, listed.len(), weights_back, Begin::Zero, d_hidden, width);
                    }
                });
            });
    }
}

fn predict(logits: &[f32], target: u32, entropy: bool) -> Prediction {
    let highest = vector::highest(logits);
    let log_normaliser = highest + rows::sum_of_exponentials(logits, highest).ln();
    Prediction {
        log_probability: logits[target as usize] - log_normaliser,
        entropy: if entropy { rows::entropy(logits, log_normaliser) } else { 0.0 },
        log_normaliser,
    }
}

/// d ln p(t) / d x = onehot(t) - p, d H / d x = -p (ln p + H), d ln Z / d x = p.
fn to_gradient(logits: &mut [f32], target: u32, prediction: &Prediction, loss: &RowLoss, entropy: bool) {
    let slope = loss.log_normaliser - loss.log_probability;
    let log_normaliser = prediction.log_normaliser;
    if entropy {
        rows::entropy_gradient(logits, log_normaliser, slope, loss.entropy, prediction.entropy);
    } else {
        rows::scaled_probabilities(logits, log_normaliser, slope);
    }
    logits[target as usize] += loss.log_probability;
}
