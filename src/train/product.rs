//! Matrix products of training: rows times panels, and the outer products that make gradients of weights.

use super::panels::{Panels, Transposed};
use crate::lm::kernels::tile::{COLUMNS, Element, Left, Start, multiply_panel, rows_of_tile};

/// What a product starts from.
#[derive(Clone, Copy)]
pub(super) enum Begin<'a> {
    Zero,
    /// One row, added to every row.
    Bias(&'a [f32]),
    /// Rows as far apart as the output's.
    Rows(&'a [f32]),
    /// What stands in the output.
    Output,
}

/// Groups of the inner dimension that are multiplied at a time: what they read of the right side stays in cache.
const DEPTH: usize = 512;

/// `out = begin + A B` for `rows` rows; `stride` numbers between those of `out`.
pub(super) fn product<E: Element>(
    a: Left<'_, E>,
    rows: usize,
    b: &Panels<E>,
    begin: Begin<'_>,
    out: &mut [f32],
    stride: usize,
) {
    for group in (0..b.groups()).step_by(DEPTH) {
        let groups = DEPTH.min(b.groups() - group);
        let begin = if group == 0 { begin } else { Begin::Output };
        for index in 0..b.count() {
            let (column, panel) = (index * COLUMNS, b.panel(index, group, groups));
            let step = rows_of_tile(panel.columns);
            for row in (0..rows).step_by(step) {
                let at = row * stride + column;
                let start = match begin {
                    Begin::Zero => Some(Start::ZERO),
                    Begin::Bias(bias) => Some(Start { from: &bias[column..], stride: 0 }),
                    Begin::Rows(from) => Some(Start { from: &from[at..], stride }),
                    Begin::Output => None,
                };
                let a = Left { values: &a.values[row * a.row + group * a.group..], ..a };
                multiply_panel(a, step.min(rows - row), panel, start, &mut out[at..], stride);
            }
        }
    }
}

/// Rows of a left side, converted: row-major, padded to whole groups.
pub(super) struct Operand<E> {
    values: Vec<E>,
    stride: usize,
}

impl<E: Element> Operand<E> {
    pub(super) fn new() -> Self {
        Self { values: Vec::new(), stride: 0 }
    }

    /// Converts rows of `width` numbers each.
    pub(super) fn convert(&mut self, rows: &[f32], width: usize) -> Left<'_, E> {
        self.stride = width.next_multiple_of(E::GROUP);
        let count = rows.len() / width;
        self.values.resize(count * self.stride, E::default());
        for (out, row) in self.values.chunks_exact_mut(self.stride).zip(rows.chunks_exact(width)) {
            E::convert(out, row);
            out[width..].fill(E::default());
        }
        Left { values: &self.values, row: self.stride, group: E::GROUP }
    }
}

/// `out += A^T B` for the columns of A from `first` on: `out` is `(M, b.columns())`, row m of it of column `first + m` of A.
///
/// The inner dimension, tokens, is summed in pieces of a fixed size and order.
pub(super) fn add_outer<E: Element>(a: &Transposed<E>, first: usize, b: &Panels<E>, out: &mut [f32]) {
    let (columns, rows) = (b.columns(), out.len() / b.columns());
    let left = a.left(first);
    for group in (0..b.groups()).step_by(DEPTH) {
        let groups = DEPTH.min(b.groups() - group);
        for index in 0..b.count() {
            let panel = b.panel(index, group, groups);
            let step = rows_of_tile(panel.columns);
            for row in (0..rows).step_by(step) {
                let a = Left { values: &left.values[group * left.group + row * left.row..], ..left };
                let out = &mut out[row * columns + index * COLUMNS..];
                multiply_panel(a, step.min(rows - row), panel, None, out, columns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::panels::interleave_rows;
    use super::*;
    use crate::lm::kernels::tile::Bf16;
    use rayon::prelude::*;

    /// Small whole numbers, exact in bf16.
    fn whole(i: usize) -> f32 {
        (i * 7919 % 7) as f32 - 3.0
    }

    fn check<E: Element>(rows: usize, inner: usize, width: usize) {
        if !E::available() {
            return;
        }
        let a: Vec<f32> = (0..rows * inner).map(whole).collect();
        let b: Vec<f32> = (0..inner * width).map(|i| whole(3 * i + 1)).collect();
        let bias: Vec<f32> = (0..width).map(whole).collect();
        let mut panels = Panels::<E>::new();
        panels.pack(inner, width, |k| &b[k * width..][..width]);
        let mut operand = Operand::new();
        let mut out = vec![1.0; rows * width];
        product(operand.convert(&a, inner), rows, &panels, Begin::Bias(&bias), &mut out, width);
        product(operand.convert(&a, inner), rows, &panels, Begin::Output, &mut out, width);
        for (i, found) in out.iter().enumerate() {
            let (r, c) = (i / width, i % width);
            let sum: f32 = (0..inner).map(|k| a[r * inner + k] * b[k * width + c]).sum();
            assert_eq!(*found, bias[c] + 2.0 * sum);
        }

        // The gradient of a weight: inner products over rows.
        let y: Vec<f32> = (0..rows * width).map(|i| whole(5 * i + 2)).collect();
        let mut left = Transposed::<E>::new();
        left.blocks(rows, width, 4)
            .zip(y.par_chunks(4 * width))
            .for_each(|(out, rows)| interleave_rows(out, rows, width));
        panels.pack(rows, inner, |k| &a[k * inner..][..inner]);
        let mut gradient = vec![1.0; width * inner];
        let (half, rest) = gradient.split_at_mut(width / 2 * inner);
        add_outer(&left, 0, &panels, half);
        add_outer(&left, width / 2, &panels, rest);
        for (i, found) in gradient.iter().enumerate() {
            let (m, n) = (i / inner, i % inner);
            let sum: f32 = (0..rows).map(|t| y[t * width + m] * a[t * inner + n]).sum();
            assert_eq!(*found, 1.0 + sum, "{m} {n}");
        }
    }

    #[test]
    fn products_equal_the_definition() {
        for (rows, inner, width) in [(1, 1, 2), (5, 24, 33), (50, 33, 70), (601, 64, 130), (3, 1100, 20)] {
            check::<f32>(rows, inner, width);
            check::<Bf16>(rows, inner, width);
        }
    }
}
