//! Causal attention over packed sequences, forward and backward, as FlashAttention-2 (Dao, 2023) orders it on the
//! register tile.
//!
//! One task is one query head of one sequence. Scores exist for a block of queries at a time; the way back computes
//! probabilities again from the saved log of each row's sum. A task owns what it writes, so no sum depends on threads.

use super::panels::Panels;
use super::rows;
use super::workspace::Workspaces;
use crate::lm::kernels::tile::{COLUMNS, Float, Left, Right, Start, multiply_panel, rows_of_tile};
use crate::lm::kernels::vector;
use rayon::prelude::*;
use std::ops::Range;

/// Queries of one block; even, as pairs of rows are one group of bf16.
const BLOCK: usize = 48;

/// What forward and backward share: the rotated projection and who sees whom.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    /// `(T, (heads + 2 kv_heads) D)`: queries and keys rotated, then values.
    pub qkv: &'a [f32],
    pub sequences: &'a [Range<usize>],
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    /// How many positions back a row sees, its own included.
    pub window: Option<usize>,
}

/// What the forward leaves: head-major, so that each task's part is one slice.
#[derive(Default)]
pub(super) struct Attended {
    /// `(heads, T, D)`.
    pub out: Vec<f32>,
    /// `(heads, T)`: the log of each row's sum of exponentials.
    pub log_sums: Vec<f32>,
}

/// Gradients of the rotated queries, and of keys and values as each query head sees them: `(heads, T, D)`.
#[derive(Default)]
pub(super) struct HeadGradients {
    pub queries: Vec<f32>,
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// The buffers of one task.
pub(super) struct Workspace<E> {
    keys_transposed: Panels<E>,
    values_transposed: Panels<E>,
    keys: Panels<E>,
    values: Panels<E>,
    rows: Panels<E>,
    scaled: Vec<f32>,
    operand: Vec<E>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
}

impl<E: Float> Workspace<E> {
    pub(super) fn new() -> Self {
        Self {
            keys_transposed: Panels::new(),
            values_transposed: Panels::new(),
            keys: Panels::new(),
            values: Panels::new(),
            rows: Panels::new(),
            scaled: Vec::new(),
            operand: Vec::new(),
            scores: Vec::new(),
            slopes: Vec::new(),
        }
    }
}

/// A block of queries of one sequence and the keys it sees: whole panels, from that of its oldest key to its last row.
struct Block {
    queries: Range<usize>,
    /// The first panel of keys, and the keys from its start to the end.
    panel: usize,
    keys: Range<usize>,
    /// Numbers between rows of scores: the keys in an odd number of cache lines, so that a column, which the way back multiplies
    /// by, spreads over all sets of the cache.
    stride: usize,
}

impl Block {
    /// How many of the block's keys its first `queries` queries see: all that are not after the last of them.
    fn seen(&self, queries: usize) -> usize {
        self.queries.start + queries - self.keys.start
    }
}

impl Attention<'_> {
    pub(super) fn forward<E: Float>(&self, attended: &mut Attended, workspaces: &Workspaces<Workspace<E>>) {
        let tokens = self.tokens();
        attended.out.resize(self.heads * tokens * self.dim, 0.0);
        attended.log_sums.resize(self.heads * tokens, 0.0);
        let outs = self.tasks(&mut attended.out, self.dim);
        let log_sums = self.tasks(&mut attended.log_sums, 1);
        outs.into_par_iter().zip(log_sums).with_max_len(1).for_each(|((head, sequence, out), (_, _, log_sums))| {
            workspaces.with(|workspace| self.forward_head(head, sequence, out, log_sums, workspace));
        });
    }

    /// `out` and `d_out` are `(T, heads D)`: what the forward gave, and the gradient that comes back.
    pub(super) fn backward<E: Float>(
        &self,
        out: &[f32],
        d_out: &[f32],
        log_sums: &[f32],
        gradients: &mut HeadGradients,
        workspaces: &Workspaces<Workspace<E>>,
    ) {
        let tokens = self.tokens();
        let HeadGradients { queries, keys, values } = gradients;
        for gradient in [&mut *queries, &mut *keys, &mut *values] {
            gradient.resize(self.heads * tokens * self.dim, 0.0);
        }
        let keys = self.tasks(keys, self.dim).into_par_iter().zip(self.tasks(values, self.dim));
        self.tasks(queries, self.dim).into_par_iter().zip(keys).with_max_len(1).for_each(
            |((head, sequence, d_queries), ((_, _, d_keys), (_, _, d_values)))| {
                let log_sums = &log_sums[head * tokens..][sequence.clone()];
                let task = Backward { attention: self, head, sequence, out, d_out, log_sums };
                workspaces.with(|workspace| task.run(d_queries, d_keys, d_values, workspace));
            },
        );
    }

    fn tokens(&self) -> usize {
        self.sequences.last().map_or(0, |sequence| sequence.end)
    }

    /// Cuts a head-major buffer into its tasks: head, sequence and their rows.
    fn tasks<'a>(&self, mut rest: &'a mut [f32], width: usize) -> Vec<(usize, Range<usize>, &'a mut [f32])> {
        let mut tasks = Vec::with_capacity(self.heads * self.sequences.len());
        for head in 0..self.heads {
            for sequence in self.sequences {
                let (mine, others) = rest.split_at_mut(sequence.len() * width);
                rest = others;
                tasks.push((head, sequence.clone(), mine));
            }
        }
        tasks
    }

    fn query(&self, row: usize, head: usize) -> &[f32] {
        self.part(row, head)
    }

    fn key(&self, row: usize, head: usize) -> &[f32] {
        self.part(row, self.heads + head * self.kv_heads / self.heads)
    }

    fn value(&self, row: usize, head: usize) -> &[f32] {
        self.part(row, self.heads + self.kv_heads + head * self.kv_heads / self.heads)
    }

    fn part(&self, row: usize, index: usize) -> &[f32] {
        let width = (self.heads + 2 * self.kv_heads) * self.dim;
        &self.qkv[row * width + index * self.dim..][..self.dim]
    }

    /// `1 / sqrt(D)`.
    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn blocks(&self, rows: usize) -> impl Iterator<Item = Block> {
        let window = self.window;
        (0..rows).step_by(BLOCK).map(move |first| {
            let queries = first..(first + BLOCK).min(rows);
            let oldest = window.map_or(0, |window| (first + 1).saturating_sub(window));
            let panel = oldest / COLUMNS;
            let keys = panel * COLUMNS..queries.end;
            Block { panel, stride: keys.len().next_multiple_of(16) | 16, keys, queries }
        })
    }

    /// The keys that a row sees, counted from the start of its block's keys.
    fn visible(&self, row: usize, block: &Block) -> Range<usize> {
        let oldest = self.window.map_or(0, |window| (row + 1).saturating_sub(window));
        oldest.saturating_sub(block.keys.start)..row + 1 - block.keys.start
    }

    fn forward_head<E: Float>(
        &self,
        head: usize,
        sequence: Range<usize>,
        out: &mut [f32],
        log_sums: &mut [f32],
        workspace: &mut Workspace<E>,
    ) {
        let (start, count, dim) = (sequence.start, sequence.len(), self.dim);
        let Workspace { keys_transposed, values, scaled, operand, scores, .. } = workspace;
        keys_transposed.pack_transposed_here(dim, count, |j| self.key(start + j, head));
        values.pack_here(count, dim, |j| self.value(start + j, head));
        for block in self.blocks(count) {
            self.scores(head, start, &block, keys_transposed, scaled, operand, scores);
            let mut inverse_sums = [0f32; BLOCK];
            let rows = log_sums[block.queries.clone()].iter_mut().zip(&mut inverse_sums);
            let rows = scores.chunks_exact_mut(block.stride).zip(rows);
            for (row, (scores, (log_sum, inverse_sum))) in block.queries.clone().zip(rows) {
                let seen = self.visible(row, &block);
                let highest = vector::highest(&scores[seen.clone()]);
                let sum = vector::exponentials(&mut scores[seen.clone()], highest);
                *log_sum = highest + sum.ln();
                *inverse_sum = 1.0 / sum;
                scores[..seen.start].fill(0.0);
                scores[seen.end..].fill(0.0);
            }
            let weights = E::left(scores, block.stride, operand);
            let out = &mut out[block.queries.start * dim..block.queries.end * dim];
            product_of_keys(weights, &block, values, out, dim);
            for (out, inverse_sum) in out.chunks_exact_mut(dim).zip(inverse_sums) {
                rows::scale(out, inverse_sum);
            }
        }
    }

    /// `scale q k` of a block's queries and keys; what lies beyond the keys is undefined.
    #[expect(clippy::too_many_arguments, reason = "parts of a workspace")]
    fn scores<E: Float>(
        &self,
        head: usize,
        start: usize,
        block: &Block,
        keys: &Panels<E>,
        scaled: &mut Vec<f32>,
        operand: &mut Vec<E>,
        scores: &mut Vec<f32>,
    ) {
        let (count, dim) = (block.queries.len(), self.dim);
        scaled.resize(count * dim, 0.0);
        for (row, out) in block.queries.clone().zip(scaled.chunks_exact_mut(dim)) {
            vector::scaled(out, self.query(start + row, head), self.scale());
        }
        scores.resize(count * block.stride, 0.0);
        product_to_keys(E::left(scaled, dim, operand), block, keys, scores);
    }
}

/// `(queries, D)` times panels that have a column for each key: `(queries, stride)`. Of a tile's rows no key is multiplied that
/// comes after the last of them.
fn product_to_keys<E: Float>(a: Left<'_, E>, block: &Block, keys: &Panels<E>, out: &mut [f32]) {
    for (index, column) in (block.panel..).zip((0..block.keys.len()).step_by(COLUMNS)) {
        let panel = keys.panel(index, 0, keys.groups());
        let step = rows_of_tile(panel.columns);
        for row in (0..block.queries.len()).step_by(step) {
            let rows = step.min(block.queries.len() - row);
            let columns = block.seen(row + rows).saturating_sub(column).min(COLUMNS);
            if columns == 0 {
                continue;
            }
            let a = Left { values: &a.values[row * a.row..], ..a };
            let panel = Right { columns, ..panel };
            multiply_panel(a, rows, panel, Some(Start::ZERO), &mut out[row * block.stride + column..], block.stride);
        }
    }
}

/// `(queries, keys)` times panels that have a row for each key: `(queries, D)`. Keys that a tile's rows do not see have zeros.
fn product_of_keys<E: Float>(a: Left<'_, E>, block: &Block, keys: &Panels<E>, out: &mut [f32], dim: usize) {
    let first = block.keys.start / E::GROUP;
    for index in 0..keys.count() {
        let panel = keys.panel(index, first, block.keys.len().div_ceil(E::GROUP));
        let step = rows_of_tile(panel.columns);
        for row in (0..block.queries.len()).step_by(step) {
            let a = Left { values: &a.values[row * a.row..], ..a };
            let rows = step.min(block.queries.len() - row);
            let panel = Right { groups: block.seen(row + rows).div_ceil(E::GROUP), ..panel };
            multiply_panel(a, rows, panel, Some(Start::ZERO), &mut out[row * dim + index * COLUMNS..], dim);
        }
    }
}

/// `out += A^T B` for `(queries, keys)` and `(queries, D)`: `(keys, D)`. Queries before a tile's keys have zeros.
fn add_to_keys<E: Float>(a: Left<'_, E>, block: &Block, queries: &Panels<E>, out: &mut [f32], dim: usize) {
    for index in 0..queries.count() {
        let step = rows_of_tile(queries.panel(index, 0, 0).columns);
        for key in (0..block.keys.len()).step_by(step) {
            let at = block.keys.start + key;
            let first = at.saturating_sub(block.queries.start) / E::GROUP;
            let a = Left { values: &a.values[key * a.row + first * a.group..], ..a };
            let rows = step.min(block.keys.len() - key);
            let panel = queries.panel(index, first, queries.groups() - first);
            multiply_panel(a, rows, panel, None, &mut out[at * dim + index * COLUMNS..], dim);
        }
    }
}

/// The way back through one query head of one sequence.
struct Backward<'a> {
    attention: &'a Attention<'a>,
    head: usize,
    sequence: Range<usize>,
    out: &'a [f32],
    d_out: &'a [f32],
    log_sums: &'a [f32],
}

impl Backward<'_> {
    /// Writes `(rows, D)` each.
    fn run<E: Float>(
        &self,
        d_queries: &mut [f32],
        d_keys: &mut [f32],
        d_values: &mut [f32],
        workspace: &mut Workspace<E>,
    ) {
        let Backward { attention, head, .. } = *self;
        let (start, count, dim) = (self.sequence.start, self.sequence.len(), attention.dim);
        let Workspace {
            keys_transposed, values_transposed, keys, rows: columns, scaled, operand, scores, slopes, ..
        } = workspace;
        keys_transposed.pack_transposed_here(dim, count, |j| attention.key(start + j, head));
        values_transposed.pack_transposed_here(dim, count, |j| attention.value(start + j, head));
        keys.pack_here(count, dim, |j| attention.key(start + j, head));
        d_keys.fill(0.0);
        d_values.fill(0.0);
        for block in attention.blocks(count) {
            attention.scores(head, start, &block, keys_transposed, scaled, operand, scores);
            for (out, row) in scaled.chunks_exact_mut(dim).zip(block.queries.clone()) {
                out.copy_from_slice(self.rows(self.d_out, row));
            }
            slopes.resize(scores.len(), 0.0);
            product_to_keys(E::left(scaled, dim, operand), &block, values_transposed, slopes);
            let both = scores.chunks_exact_mut(block.stride).zip(slopes.chunks_exact_mut(block.stride));
            for (row, (scores, slopes)) in block.queries.clone().zip(both) {
                let seen = attention.visible(row, &block);
                vector::exponentials(&mut scores[seen.clone()], self.log_sums[row]);
                let delta = rows::dot(self.rows(self.out, row), self.rows(self.d_out, row));
                rows::softmax_backward(&mut slopes[seen.clone()], &scores[seen.clone()], delta, attention.scale());
                for hidden in [0..seen.start, seen.end..block.stride] {
                    scores[hidden.clone()].fill(0.0);
                    slopes[hidden].fill(0.0);
                }
            }
            let d_queries = &mut d_queries[block.queries.start * dim..block.queries.end * dim];
            product_of_keys(E::left(slopes, block.stride, operand), &block, keys, d_queries, dim);

            let queries = block.queries.len();
            columns.pack_here(queries, dim, |i| attention.query(start + block.queries.start + i, head));
            add_to_keys(E::left_transposed(slopes, block.stride, operand), &block, columns, d_keys, dim);
            columns.pack_here(queries, dim, |i| self.rows(self.d_out, block.queries.start + i));
            add_to_keys(E::left_transposed(scores, block.stride, operand), &block, columns, d_values, dim);
        }
    }

    /// This head's part of a row of `(T, heads D)`.
    fn rows<'a>(&self, values: &'a [f32], row: usize) -> &'a [f32] {
        let Attention { heads, dim, .. } = *self.attention;
        &values[((self.sequence.start + row) * heads + self.head) * dim..][..dim]
    }
}
