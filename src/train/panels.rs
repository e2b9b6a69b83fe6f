//! Matrices laid out for the register tile: the right side of a product in panels of columns, the left side transposed.

use crate::lm::kernels::matrix::Lines;
use crate::lm::kernels::tile::{COLUMNS, Float, Left, Right};
use rayon::prelude::*;

/// The right side of products, `(depth, columns)`, in panels of 64 columns: `[panel][depth / GROUP][width][GROUP]`. The last
/// panel is as wide as the columns left need, in whole sixteens. Memory is reused from one packing to the next.
pub(super) struct Panels<E> {
    values: Lines<E>,
    depth: usize,
    columns: usize,
}

/// Groups of the inner dimension that one packing task takes.
const TASK: usize = 128;

impl<E: Float> Panels<E> {
    pub(super) fn new() -> Self {
        Self { values: Lines::zeroed(0), depth: 0, columns: 0 }
    }

    /// Packs a matrix whose row `k`, of the inner dimension, is `row(k)`.
    pub(super) fn pack<'a>(&mut self, depth: usize, columns: usize, row: impl Fn(usize) -> &'a [f32] + Sync) {
        self.tasks(depth, columns).into_par_iter().for_each(|task| task.rows(&row, depth));
    }

    /// Packs a matrix whose column `n` is `column(n)`.
    pub(super) fn pack_transposed<'a>(
        &mut self,
        depth: usize,
        columns: usize,
        column: impl Fn(usize) -> &'a [f32] + Sync,
    ) {
        self.tasks(depth, columns).into_par_iter().for_each(|task| task.columns(&column, depth));
    }

    /// The rows of a `(depth, columns)` in blocks of `block`, an even number, to be filled in any order.
    pub(super) fn blocks(&mut self, depth: usize, columns: usize, block: usize) -> Vec<PanelRows<'_, E>> {
        let groups = self.reshape(depth, columns);
        let mut blocks: Vec<_> = (0..depth).step_by(block).map(|_| PanelRows { columns, tasks: Vec::new() }).collect();
        let mut rest = &mut self.values[..];
        for first in (0..columns).step_by(COLUMNS) {
            let count = COLUMNS.min(columns - first);
            let size = count.next_multiple_of(16) * E::GROUP;
            let (panel, others) = rest.split_at_mut(groups * size);
            rest = others;
            for (block, values) in blocks.iter_mut().zip(panel.chunks_mut(block / E::GROUP * size)) {
                block.tasks.push(Task { values, first, columns: count, group: 0 });
            }
        }
        blocks
    }

    /// [`Panels::pack`] on this thread.
    pub(super) fn pack_here<'a>(&mut self, depth: usize, columns: usize, row: impl Fn(usize) -> &'a [f32]) {
        self.each_task(depth, columns, |task| task.rows(&row, depth));
    }

    /// [`Panels::pack_transposed`] on this thread.
    pub(super) fn pack_transposed_here<'a>(
        &mut self,
        depth: usize,
        columns: usize,
        column: impl Fn(usize) -> &'a [f32],
    ) {
        self.each_task(depth, columns, |task| task.columns(&column, depth));
    }

    fn each_task(&mut self, depth: usize, columns: usize, mut run: impl FnMut(Task<'_, E>)) {
        let groups = self.reshape(depth, columns);
        let mut rest = &mut self.values[..];
        for first in (0..columns).step_by(COLUMNS) {
            let count = COLUMNS.min(columns - first);
            let (values, others) = rest.split_at_mut(groups * count.next_multiple_of(16) * E::GROUP);
            rest = others;
            run(Task { values, first, columns: count, group: 0 });
        }
    }

    fn tasks(&mut self, depth: usize, columns: usize) -> Vec<Task<'_, E>> {
        let groups = self.reshape(depth, columns);
        let mut rest = &mut self.values[..];
        let mut tasks = Vec::new();
        for first in (0..columns).step_by(COLUMNS) {
            let count = COLUMNS.min(columns - first);
            let size = count.next_multiple_of(16) * E::GROUP;
            let (panel, others) = rest.split_at_mut(groups * size);
            rest = others;
            let pieces = panel.chunks_mut(TASK * size).enumerate();
            tasks.extend(pieces.map(|(i, values)| Task { values, first, columns: count, group: i * TASK }));
        }
        tasks
    }

    /// Makes room, and returns the groups of the inner dimension.
    fn reshape(&mut self, depth: usize, columns: usize) -> usize {
        let last = columns % COLUMNS;
        let width = columns - last + last.next_multiple_of(16);
        self.values.resize(depth.div_ceil(E::GROUP) * E::GROUP * width);
        (self.depth, self.columns) = (depth, columns);
        self.groups()
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Groups of the inner dimension.
    pub(super) fn groups(&self) -> usize {
        self.depth.div_ceil(E::GROUP)
    }

    /// Elements between the rows of a row-major left side that fits: the inner dimension in whole groups.
    pub(super) fn stride(&self) -> usize {
        self.groups() * E::GROUP
    }

    pub(super) fn count(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    /// A panel, or the `groups` groups of it from group `first` on.
    pub(super) fn panel(&self, index: usize, first: usize, groups: usize) -> Right<'_, E> {
        let columns = COLUMNS.min(self.columns - index * COLUMNS);
        let group = columns.next_multiple_of(16) * E::GROUP;
        let start = index * self.stride() * COLUMNS + first * group;
        Right { values: &self.values[start..start + groups * group], group, groups, columns }
    }
}

/// Some rows of a matrix to fill.
pub(super) struct PanelRows<'a, E> {
    columns: usize,
    /// One for each panel.
    tasks: Vec<Task<'a, E>>,
}

impl<E: Float> PanelRows<'_, E> {
    /// Fills them all from row-major rows.
    pub(super) fn fill(self, rows: &[f32]) {
        let columns = self.columns;
        let depth = rows.len() / columns;
        self.tasks.into_iter().for_each(|task| task.rows(&|k| &rows[k * columns..][..columns], depth));
    }
}

/// Some groups of one panel to fill.
struct Task<'a, E> {
    values: &'a mut [E],
    /// The panel's first column, and how many it has.
    first: usize,
    columns: usize,
    /// The first group.
    group: usize,
}

impl<E: Float> Task<'_, E> {
    fn rows<'a>(self, row: &impl Fn(usize) -> &'a [f32], depth: usize) {
        let (start, end) = (self.first, self.first + self.columns);
        let width = self.columns.next_multiple_of(16) * E::GROUP;
        for (group, values) in (self.group..).zip(self.values.chunks_exact_mut(width)) {
            let k = group * E::GROUP;
            let second = if E::GROUP > 1 && k + 1 < depth { &row(k + 1)[start..end] } else { &[] };
            let (values, padding) = values.split_at_mut(self.columns * E::GROUP);
            E::interleave(values, &row(k)[start..end], second);
            padding.fill(E::default());
        }
    }

    fn columns<'a>(self, column: &impl Fn(usize) -> &'a [f32], depth: usize) {
        let wide = self.columns.next_multiple_of(16);
        let (start, count) = (self.group * E::GROUP, self.values.len() / wide);
        let end = depth.min(start + count);
        for sixteen in (0..wide).step_by(16) {
            // Sixteen columns side by side, so that what is written is whole cache lines.
            let columns: [&[f32]; 16] = std::array::from_fn(|i| {
                if sixteen + i < self.columns { &column(self.first + sixteen + i)[start..end] } else { &[] }
            });
            E::transpose(&mut self.values[sixteen * E::GROUP..], wide * E::GROUP, count / E::GROUP, &columns);
        }
    }
}

/// Numbers between rows of so many columns, where columns will be walked along: an odd number of cache lines, so that a column
/// spreads over all sets of a cache.
pub(super) fn spread(columns: usize) -> usize {
    if columns == 0 { 0 } else { columns.next_multiple_of(16) | 16 }
}

/// The left side of products, transposed: `[rows / GROUP][spread(columns)][GROUP]` of a row-major `(rows, columns)`, so that
/// its rows can be the inner dimension. Filled in blocks of rows, each an even number but for the last.
pub(super) struct Transposed<E> {
    values: Lines<E>,
}

impl<E: Float> Transposed<E> {
    pub(super) fn new() -> Self {
        Self { values: Lines::zeroed(0) }
    }

    /// Blocks of `block` rows to fill with [`interleave_rows`]; without columns they are empty.
    pub(super) fn blocks(&mut self, rows: usize, columns: usize, block: usize) -> Vec<&mut [E]> {
        let stride = spread(columns);
        self.values.resize(rows.div_ceil(E::GROUP) * E::GROUP * stride);
        let mut rest = &mut self.values[..];
        let cut = |first: usize| {
            let count = block.min(rows - first).next_multiple_of(E::GROUP);
            let (mine, others) = std::mem::take(&mut rest).split_at_mut(count * stride);
            rest = others;
            mine
        };
        (0..rows).step_by(block).map(cut).collect()
    }

    /// All columns, as rows of a left side.
    pub(super) fn left(&self, columns: usize) -> Left<'_, E> {
        Left { values: &self.values, row: E::GROUP, group: spread(columns) * E::GROUP }
    }
}

/// Fills a block of a [`Transposed`] from row-major rows.
pub(super) fn interleave_rows<E: Float>(out: &mut [E], rows: &[f32], columns: usize) {
    for (out, rows) in out.chunks_mut(spread(columns) * E::GROUP).zip(rows.chunks(columns * E::GROUP)) {
        let (first, second) = rows.split_at(columns);
        E::interleave(&mut out[..columns * E::GROUP], first, second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::kernels::tile::Bf16;

    fn check<E: Float + PartialEq + std::fmt::Debug>(depth: usize, columns: usize) {
        let matrix: Vec<f32> = (0..depth * columns).map(|i| (i % 251) as f32).collect();
        let transposed: Vec<f32> = (0..depth * columns).map(|i| matrix[i % depth * columns + i / depth]).collect();
        let mut all: [Panels<E>; 5] = std::array::from_fn(|_| Panels::new());
        for panels in &mut all {
            // Whatever was there before must not matter.
            panels.pack_here(200, 70, |_| &[9.0; 70]);
        }
        all[0].pack(depth, columns, |k| &matrix[k * columns..][..columns]);
        all[1].pack_here(depth, columns, |k| &matrix[k * columns..][..columns]);
        all[2].pack_transposed(depth, columns, |n| &transposed[n * depth..][..depth]);
        all[3].pack_transposed_here(depth, columns, |n| &transposed[n * depth..][..depth]);
        let blocks = all[4].blocks(depth, columns, 6);
        for (block, rows) in blocks.into_iter().zip(matrix.chunks(6 * columns)).rev() {
            block.fill(rows);
        }
        for panels in &all {
            for index in 0..panels.count() {
                let right = panels.panel(index, 0, panels.groups());
                for k in 0..panels.stride() {
                    for c in 0..right.columns.next_multiple_of(16) {
                        let at = k / E::GROUP * right.group + c * E::GROUP + k % E::GROUP;
                        let inside = k < depth && c < right.columns;
                        let expect = if inside { matrix[k * columns + index * COLUMNS + c] } else { 0.0 };
                        assert_eq!(right.values[at], E::from_f32(expect), "{depth} {columns}: {index} {k} {c}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_ways_of_packing_agree_with_the_layout() {
        for (depth, columns) in [(1, 1), (7, 16), (32, 24), (33, 70), (300, 130)] {
            check::<f32>(depth, columns);
            check::<Bf16>(depth, columns);
        }
    }
}
