//! Attention of a step of decoding: one row of a sequence over the keys and values in its cache.
//!
//! Such a row is one product with each head's panels and nothing to share between heads, so several heads go side by
//! side. Sums run in the same order as in [`super::attention`], and give the same bits.

use super::super::ops::Heads;
use super::attention::{Attention, Block, KeyValues, Keys, slice_width};
use super::tile::{COLUMNS, Float, Left, ROWS_APART, Right, multiply_rows};
use super::vector;

/// Query heads of one key-value head from which on they fill a tile of their own.
const SHARING: usize = 3;

/// Buffers that a thread reuses.
#[derive(Default)]
pub(super) struct RowScratch<E> {
    head: Vec<f32>,
    queries: Vec<E>,
    scores: Vec<f32>,
    weights: Vec<E>,
    sums: Vec<f32>,
}

impl Attention<'_> {
    /// Whether a block goes through [`Attention::one_row`]; it does not depend on the rest of the batch.
    pub(super) fn is_one_row(&self, block: &Block) -> bool {
        block.rows.len() == 1 && self.heads.query < SHARING * self.heads.kv
    }

    /// All heads of a block of one row: `out` is `(heads.query D)`.
    pub(super) fn one_row<E: Float>(
        &self,
        block: &Block,
        keys: &[Keys],
        panels: &impl KeyValues<E>,
        scratch: &mut RowScratch<E>,
        out: &mut [f32],
    ) {
        let Heads { query, dim, .. } = self.heads;
        // As even as can be: six heads are three and three.
        let together = query.div_ceil(query.div_ceil(ROWS_APART));
        for first in (0..query).step_by(together) {
            let count = together.min(query - first);
            self.side_by_side(block.rows.start, first, keys, panels, scratch, &mut out[first * dim..][..count * dim]);
        }
    }

    /// As many query heads of a row as `out` has room for, at most [`ROWS_APART`].
    fn side_by_side<E: Float>(
        &self,
        row: usize,
        first: usize,
        keys: &[Keys],
        panels: &impl KeyValues<E>,
        scratch: &mut RowScratch<E>,
        out: &mut [f32],
    ) {
        let Heads { query, kv, dim } = self.heads;
        let RowScratch { head, queries, scores, weights, sums } = scratch;
        let count = out.len() / dim;
        let shared = |index: usize| (first + index) / (query / kv);
        let depth = dim.next_multiple_of(E::GROUP);
        let columns: usize = keys.iter().map(|keys| keys.panels * COLUMNS).sum();

        let scale = 1.0 / (dim as f32).sqrt();
        head.resize(dim, 0.0);
        queries.resize(count * depth, E::default());
        for (index, queries) in queries.chunks_exact_mut(depth).enumerate() {
            self.head(row, first + index, scale, head);
            E::convert(queries, head);
            queries[dim..].fill(E::default());
        }

        scores.resize(count * columns, 0.0);
        let left = Left { values: queries, row: depth, group: E::GROUP };
        let mut column = 0;
        for keys in keys {
            for panel in 0..keys.panels {
                // Of the last panel only the keys that are there.
                let width = (keys.len - panel * COLUMNS).min(COLUMNS).next_multiple_of(16);
                let mut own: [&[E]; ROWS_APART] = [&[]; ROWS_APART];
                for (index, own) in own[..count].iter_mut().enumerate() {
                    *own = panels.keys(shared(index), keys.panel + panel);
                }
                let right =
                    Right { values: own[0], group: COLUMNS * E::GROUP, groups: depth / E::GROUP, columns: width };
                multiply_rows(left, &own[..count], right, false, &mut scores[column..], columns);
                column += COLUMNS;
            }
        }

        let mut inverse_sums = [0f32; ROWS_APART];
        for (scores, inverse_sum) in scores.chunks_exact_mut(columns).zip(&mut inverse_sums) {
            self.hide(row, keys, scores);
            let highest = vector::highest(scores);
            *inverse_sum = 1.0 / vector::exponentials(scores, highest);
        }
        let weights = match E::as_is(scores) {
            Some(weights) => weights,
            None => {
                weights.resize(count * columns, E::default());
                E::convert(weights, scores);
                weights
            }
        };

        sums.resize(count * COLUMNS, 0.0);
        for slice in 0..dim.div_ceil(COLUMNS) {
            let wide = slice_width(dim, slice);
            let mut column = 0;
            for keys in keys {
                let mut own: [&[E]; ROWS_APART] = [&[]; ROWS_APART];
                for (index, own) in own[..count].iter_mut().enumerate() {
                    *own = panels.values(shared(index), slice, keys.panel, keys.panels);
                }
                let left = Left { values: &weights[column..], row: columns, group: E::GROUP };
                let groups = keys.len.div_ceil(E::GROUP);
                let right = Right { values: own[0], group: wide * E::GROUP, groups, columns: wide };
                multiply_rows(left, &own[..count], right, column > 0, sums, COLUMNS);
                column += keys.panels * COLUMNS;
            }
            let width = COLUMNS.min(dim - slice * COLUMNS);
            for ((out, sums), inverse) in out.chunks_exact_mut(dim).zip(sums.chunks_exact(COLUMNS)).zip(inverse_sums) {
                vector::scaled(&mut out[slice * COLUMNS..][..width], sums, inverse);
            }
        }
    }
}
