//! Matrices laid out for the register tile: the right side of a product in panels of columns, the left side transposed.

use crate::lm::kernels::matrix::Lines;
use crate::lm::kernels::tile::{COLUMNS, Element, Left, Right};
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

impl<E: Element> Panels<E> {
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
        self.reshape(depth, columns);
        let groups = depth.div_ceil(E::GROUP);
        let mut rest = &mut self.values[..];
        for first in (0..columns).step_by(COLUMNS) {
            let count = COLUMNS.min(columns - first);
            let (values, others) = rest.split_at_mut(groups * count.next_multiple_of(16) * E::GROUP);
            rest = others;
            run(Task { values, first, columns: count, group: 0 });
        }
    }

    fn tasks(&mut self, depth: usize, columns: usize) -> Vec<Task<'_, E>> {
        self.reshape(depth, columns);
        let groups = depth.div_ceil(E::GROUP);
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

    fn reshape(&mut self, depth: usize, columns: usize) {
        let last = columns % COLUMNS;
        let width = columns - last + last.next_multiple_of(16);
        self.values.resize(depth.div_ceil(E::GROUP) * E::GROUP * width);
        (self.depth, self.columns) = (depth, columns);
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

/// Some groups of one panel to fill.
struct Task<'a, E> {
    values: &'a mut [E],
    /// The panel's first column, and how many it has.
    first: usize,
    columns: usize,
    /// The first group.
    group: usize,
}

impl<E: Element> Task<'_, E> {
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

/// The left side of products, transposed: `[rows / GROUP][columns][GROUP]` of a row-major `(rows, columns)`, so that its
/// rows can be the inner dimension. Filled in blocks of rows, each an even number but for the last.
pub(super) struct Transposed<E> {
    values: Lines<E>,
    columns: usize,
}

impl<E: Element> Transposed<E> {
    pub(super) fn new() -> Self {
        Self { values: Lines::zeroed(0), columns: 0 }
    }

    /// Blocks of `block` rows to fill with [`interleave_rows`].
    pub(super) fn blocks(&mut self, rows: usize, columns: usize, block: usize) -> rayon::slice::ChunksMut<'_, E> {
        self.columns = columns;
        self.values.resize(rows.div_ceil(E::GROUP) * E::GROUP * columns);
        self.values.par_chunks_mut((block * columns).max(1))
    }

    /// The columns from `first` on, as rows of a left side.
    pub(super) fn left(&self, first: usize) -> Left<'_, E> {
        Left { values: &self.values[first * E::GROUP..], row: E::GROUP, group: self.columns * E::GROUP }
    }
}

/// Fills a block of a [`Transposed`] from row-major rows.
pub(super) fn interleave_rows<E: Element>(out: &mut [E], rows: &[f32], columns: usize) {
    for (out, rows) in out.chunks_mut(columns * E::GROUP).zip(rows.chunks(columns * E::GROUP)) {
        let (first, second) = rows.split_at(columns);
        E::interleave(out, first, second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::kernels::tile::Bf16;

    fn check<E: Element + PartialEq + std::fmt::Debug>(depth: usize, columns: usize) {
        let matrix: Vec<f32> = (0..depth * columns).map(|i| (i % 251) as f32).collect();
        let transposed: Vec<f32> = (0..depth * columns).map(|i| matrix[i % depth * columns + i / depth]).collect();
        let mut all = [Panels::<E>::new(), Panels::new(), Panels::new(), Panels::new()];
        for panels in &mut all {
            // Whatever was there before must not matter.
            panels.pack_here(200, 70, |_| &[9.0; 70]);
        }
        all[0].pack(depth, columns, |k| &matrix[k * columns..][..columns]);
        all[1].pack_here(depth, columns, |k| &matrix[k * columns..][..columns]);
        all[2].pack_transposed(depth, columns, |n| &transposed[n * depth..][..depth]);
        all[3].pack_transposed_here(depth, columns, |n| &transposed[n * depth..][..depth]);
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
    fn both_ways_of_packing_agree_with_the_layout() {
        for (depth, columns) in [(1, 1), (7, 16), (32, 24), (33, 70), (300, 130)] {
            check::<f32>(depth, columns);
            check::<Bf16>(depth, columns);
        }
    }
}
