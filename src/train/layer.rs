//! One layer of the decoder, forward and backward, by blocks of rows: what lies between products stays in a thread's cache.
//!
//! The order is llm.c's: a forward that writes down its [`Activations`], a backward that reads them and turns the
//! gradient of the layer's output into that of its input. Norms' outputs, rotations and SwiGLU are computed again.
//!
//! Blocks, heads and pieces of weights are handed out one by one (`with_max_len(1)`): as Rayon cuts loops on its own, a thread would
//! often wait for another that has several left.

mod backward;
mod forward;
mod plan;

pub(super) use backward::norm_backward;
pub(super) use forward::normalise_into;
pub(super) use plan::{LayerPlan, Shape};

use super::arithmetic::TrainPart;
use super::attention::{self, Attended, HeadGradients};
use super::panels::{Panels, Transposed};
use super::workspace::Workspaces;
use crate::lm::kernels::tile::Float;
use crate::lm::{Meter, Parameter};
use std::ops::Range;

/// Rows that one task takes of a batch of `tokens`: whole tiles, of even height so that pairs of rows never straddle blocks, and of
/// a few heights that at which two threads are done soonest. The number of threads is not asked, as sums over blocks depend on
/// their height.
fn rows_of_block(tokens: usize) -> usize {
    let heights = [48, 54, 42, 60];
    heights.into_iter().min_by_key(|rows| tokens.div_ceil(2 * rows) * rows).unwrap_or(48)
}

/// What a layer's forward leaves for its backward; T rows each.
#[derive(Default)]
pub(super) struct Activations {
    /// `(T, (heads + 2 kv_heads) D)`: queries and keys normed and rotated, then values.
    qkv: Vec<f32>,
    /// `(T, (heads + kv_heads) D)`: queries and keys before their norm, for models that have it.
    raw: Vec<f32>,
    /// `(T, heads D)`.
    attended: Vec<f32>,
    /// `(heads, T)`.
    log_sums: Vec<f32>,
    /// `(T, H)`: the residual stream between attention and MLP.
    middle: Vec<f32>,
    /// `(T, spread(2 I))`: gates, then ups. Their gradients take their place on the way back.
    gate_up: Vec<f32>,
}

/// The batch and the parameters that a pass runs over.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub shape: &'a Shape,
    pub parameters: &'a [Parameter],
    pub sequences: &'a [Range<usize>],
    /// `(T, D / 2)` each: the angles of every row.
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub meter: &'a Meter<TrainPart>,
}

impl Pass<'_> {
    fn tokens(&self) -> usize {
        self.sequences.last().map_or(0, |sequence| sequence.end)
    }

    /// Rows of a block, see [`rows_of_block`].
    fn rows(&self) -> usize {
        rows_of_block(self.tokens())
    }

    /// Cuts `(T, width)` into blocks; of width 0, as many empty ones.
    fn blocks<'a>(&self, mut rest: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let (tokens, rows) = (self.tokens(), self.rows());
        let cut = |first: usize| {
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(rows.min(tokens - first) * width);
            rest = others;
            mine
        };
        (0..tokens).step_by(rows).map(cut).collect()
    }

    /// The part of `(T, width)` that a block has.
    fn block_of<'a>(&self, values: &'a [f32], block: usize, width: usize) -> &'a [f32] {
        let (start, size) = (block * self.rows() * width, self.rows() * width);
        &values[start..values.len().min(start + size)]
    }

    fn values(&self, index: usize) -> &[f32] {
        &self.parameters[index].values
    }

    fn attention<'a>(&'a self, layer: &LayerPlan, qkv: &'a [f32]) -> attention::Attention<'a> {
        let Shape { heads, kv_heads, dim, .. } = *self.shape;
        attention::Attention { qkv, sequences: self.sequences, heads, kv_heads, dim, window: layer.window }
    }
}

/// Buffers that all layers share.
pub(super) struct Scratch<E> {
    /// The layer's weights, packed for the way that is being gone, in the order of [`LayerPlan::linears`].
    weights: [Panels<E>; 4],
    biases: [Vec<f32>; 4],
    attended: Attended,
    /// Operands of the gradients of weights: of each product its output's gradient and its input.
    lefts: [Transposed<E>; 4],
    rights: [Panels<E>; 4],
    /// `(T, heads D)`.
    d_attended: Vec<f32>,
    head_gradients: HeadGradients,
    /// One row for each block: sums over its rows that become gradients of norms and biases.
    sums: Vec<f32>,
    blocks: Workspaces<Block<E>>,
    attention: Workspaces<attention::Workspace<E>>,
}

/// Buffers of one block of rows.
#[derive(Default)]
struct Block<E> {
    operand: Vec<E>,
    /// `(rows, H)`: the input of a product, and a gradient.
    normed: Vec<f32>,
    d_normed: Vec<f32>,
    /// `(rows, I)`, or as wide as queries, keys and values.
    wide: Vec<f32>,
}

impl<E: Float> Scratch<E> {
    pub(super) fn new() -> Self {
        Self {
            weights: std::array::from_fn(|_| Panels::new()),
            biases: Default::default(),
            attended: Attended::default(),
            lefts: std::array::from_fn(|_| Transposed::new()),
            rights: std::array::from_fn(|_| Panels::new()),
            d_attended: Vec::new(),
            head_gradients: HeadGradients::default(),
            sums: Vec::new(),
            blocks: Workspaces::new(Block::default),
            attention: Workspaces::new(attention::Workspace::new),
        }
    }
}
