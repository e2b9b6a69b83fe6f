//! Matrix products with packed weights, with what comes before (RMSNorm) and after (bias, residual, SwiGLU) fused in.

use super::super::meter::{Meter, Part, Within};
use super::tile::{COLUMNS, Element, ROWS, Scales, Start, multiply, rows_of_tile};
use super::vector;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// A weight matrix in panels, see [`super::tile`].
pub(in crate::lm) struct PackedMatrix<E> {
    /// `[panel][inner / GROUP][COLUMNS][GROUP]`.
    panels: Lines<E>,
    /// In the panels' order, when there is one.
    bias: Option<Vec<f32>>,
    /// What the columns were divided by, and what their sums start from, in the panels' order; unused for floats.
    scales: Vec<f32>,
    offsets: Vec<i32>,
    inner: usize,
    /// Outputs, or, interleaved, gates.
    width: usize,
    interleaved: bool,
}

/// RMSNorm of the input's rows.
#[derive(Clone, Copy)]
pub(in crate::lm) struct Norm<'a> {
    pub weight: &'a [f32],
    pub eps: f32,
}

impl<E: Element> PackedMatrix<E> {
    /// Packs `weight`, `(width, inner)` row-major, for products `x W^T`.
    pub(in crate::lm) fn new(weight: &[f32], inner: usize, bias: Option<&[f32]>) -> Self {
        let width = weight.len() / inner;
        Self::pack(weight, inner, bias, width, width.div_ceil(COLUMNS), |panel, column| {
            Some(panel * COLUMNS + column).filter(|row| *row < width)
        })
    }

    /// Packs gates and ups, `(2 width, inner)` row-major with gates first, so that every panel holds both halves of its outputs.
    pub(in crate::lm) fn interleaved(weight: &[f32], inner: usize, bias: Option<&[f32]>) -> Self {
        const HALF: usize = COLUMNS / 2;
        let width = weight.len() / inner / 2;
        let packed = Self::pack(weight, inner, bias, width, width.div_ceil(HALF), |panel, column| {
            let output = panel * HALF + column % HALF;
            let first = if column < HALF { 0 } else { width };
            (output < width).then_some(first + output)
        });
        Self { interleaved: true, ..packed }
    }

    /// `row_of(panel, column)` says which row of `weight` a packed column holds; none is zeros.
    fn pack(
        weight: &[f32],
        inner: usize,
        bias: Option<&[f32]>,
        width: usize,
        panels: usize,
        row_of: impl Fn(usize, usize) -> Option<usize> + Sync,
    ) -> Self {
        let size = inner.div_ceil(E::GROUP) * E::GROUP * COLUMNS;
        let mut lines = Lines::zeroed(panels * size);
        let (mut scales, mut offsets) = (vec![0f32; panels * COLUMNS], vec![0i32; panels * COLUMNS]);
        let beside = scales.par_chunks_mut(COLUMNS).zip(offsets.par_chunks_mut(COLUMNS));
        lines.par_chunks_mut(size).zip(beside).enumerate().for_each(|(panel, (values, (scales, offsets)))| {
            let at = |k: usize, column: usize| (k / E::GROUP * COLUMNS + column) * E::GROUP + k % E::GROUP;
            for column in 0..COLUMNS {
                let Some(row) = row_of(panel, column) else { continue };
                let row = &weight[row * inner..][..inner];
                scales[column] = E::scale(row);
                let inverse = if scales[column] == 0.0 { 0.0 } else { 1.0 / scales[column] };
                for (k, x) in row.iter().enumerate() {
                    values[at(k, column)] = E::from_f32(*x * inverse);
                }
                offsets[column] = E::offset((0..inner).map(|k| values[at(k, column)]));
            }
        });
        let bias = bias.map(|bias| {
            let at = |index: usize| row_of(index / COLUMNS, index % COLUMNS).map_or(0.0, |row| bias[row]);
            (0..panels * COLUMNS).map(at).collect()
        });
        Self { panels: lines, bias, scales, offsets, inner, width, interleaved: false }
    }

    /// Columns of the result.
    pub(in crate::lm) fn width(&self) -> usize {
        self.width
    }

    /// Floating-point operations of a product of so many rows.
    pub(in crate::lm) fn operations(&self, rows: usize) -> u64 {
        let outputs = if self.interleaved { 2 * self.width } else { self.width };
        2 * (rows * self.inner * outputs) as u64
    }

    /// `norm(x) W^T + bias` for `x` of `(T, inner)`: `(T, width)`; of an interleaved matrix `silu(gate) * up`.
    ///
    /// # Panics
    /// When lengths do not fit; [`super::super::layer`] checks them.
    pub(in crate::lm) fn product(&self, x: &[f32], norm: Option<Norm<'_>>, within: Within<'_>) -> Vec<f32> {
        let rows = x.len() / self.inner;
        assert_eq!(x.len(), rows * self.inner, "the input's width");
        let mut out = vec![0f32; rows * self.width];
        if by_columns(rows, self.bytes()) {
            self.by_columns(x, norm, None, &mut out, within);
            return out;
        }
        let task = rows_per_task(rows);
        let tasks = out.par_chunks_mut(task * self.width).zip(x.par_chunks(task * self.inner));
        tasks.for_each_init(Vec::new, |a, (out, x)| self.block(x, norm, None, out, a, within));
        out
    }

    /// [`PackedMatrix::product`] of a few rows, on one thread, plus `added` of `(T, width)` if there is something to add.
    fn block(
        &self,
        x: &[f32],
        norm: Option<Norm<'_>>,
        added: Option<&[f32]>,
        out: &mut [f32],
        a: &mut Vec<E>,
        within: Within<'_>,
    ) {
        let scales = self.convert(x, norm, a, within);
        self.panels(a, &scales, 0..self.panel_count(), added, out, self.width);
    }

    /// What [`PackedMatrix::block`] does, on all threads: each reads its share of the weights, and all of them only once.
    fn by_columns(
        &self,
        x: &[f32],
        norm: Option<Norm<'_>>,
        added: Option<&[f32]>,
        out: &mut [f32],
        within: Within<'_>,
    ) {
        let (rows, stride) = (x.len() / self.inner, self.stride());
        let (mut a, mut scales) = (vec![E::default(); rows * stride], vec![0f32; rows]);
        let task = rows.div_ceil(rayon::current_num_threads()).max(ROWS);
        let tasks =
            a.par_chunks_mut(task * stride).zip(scales.par_chunks_mut(task)).zip(x.par_chunks(task * self.inner));
        tasks.for_each(|((a, scales), x)| self.convert_into(x, norm, a, scales, within));
        let panels = self.panel_count();
        let share = panels.div_ceil(4 * rayon::current_num_threads());
        // A thread's columns lie apart in `out`, so it has memory of its own for them.
        let parts: Vec<(Range<usize>, Vec<f32>)> = (0..panels.div_ceil(share))
            .into_par_iter()
            .map(|part| {
                let range = part * share..((part + 1) * share).min(panels);
                let columns = range.start * self.outputs()..(range.end * self.outputs()).min(self.width);
                let mut out = vec![0f32; rows * columns.len()];
                self.panels(&a, &scales, range, added, &mut out, columns.len());
                (columns, out)
            })
            .collect();
        out.par_chunks_exact_mut(self.width).with_min_len(task).enumerate().for_each(|(row, out)| {
            for (columns, part) in &parts {
                out[columns.clone()].copy_from_slice(&part[row * columns.len()..][..columns.len()]);
            }
        });
    }

    /// The rows of `x`, normed if there is a norm, as they are multiplied; returns the rows' scales.
    fn convert(&self, x: &[f32], norm: Option<Norm<'_>>, a: &mut Vec<E>, within: Within<'_>) -> Vec<f32> {
        let rows = x.len() / self.inner;
        a.resize(rows * self.stride(), E::default());
        let mut row_scales = vec![0f32; rows];
        self.convert_into(x, norm, a, &mut row_scales, within);
        row_scales
    }

    fn convert_into(&self, x: &[f32], norm: Option<Norm<'_>>, a: &mut [E], row_scales: &mut [f32], within: Within<'_>) {
        within.time(Part::Norm, || {
            let mut normed = vec![0f32; self.inner];
            let rows = a.chunks_exact_mut(self.stride()).zip(x.chunks_exact(self.inner));
            for ((a, x), row_scale) in rows.zip(row_scales) {
                *row_scale = match norm {
                    Some(Norm { weight, eps }) => {
                        let scale = 1.0 / (vector::sum_of_squares(x) / self.inner as f32 + eps).sqrt();
                        vector::scale_by(&mut normed, x, scale, weight);
                        E::convert(a, &normed)
                    }
                    None => E::convert(a, x),
                };
            }
        });
    }

    /// The columns of some panels for the converted rows `a` and their scales. `out` has those columns alone, its rows `out_width` long;
    /// `added` has all.
    fn panels(
        &self,
        a: &[E],
        row_scales: &[f32],
        range: Range<usize>,
        added: Option<&[f32]>,
        out: &mut [f32],
        out_width: usize,
    ) {
        let (outputs, stride) = (self.outputs(), self.stride());
        let groups = stride / E::GROUP;
        let rows = a.len() / stride;
        let mut sums = [0.0; rows_of_tile(1) * COLUMNS];
        for index in range.clone() {
            let panel = &self.panels[index * stride * COLUMNS..][..stride * COLUMNS];
            let first = index * outputs;
            // Floats' last panel may be narrow; its padding is not multiplied then.
            let whole = !self.interleaved && (E::FLOAT || first + COLUMNS <= self.width);
            let columns = if whole { COLUMNS.min(self.width - first) } else { COLUMNS };
            let tile_rows = rows_of_tile(columns);
            let bias = self.bias.as_ref().map(|bias| Start { from: &bias[index * COLUMNS..][..COLUMNS], stride: 0 });
            for row in (0..rows).step_by(tile_rows) {
                let count = tile_rows.min(rows - row);
                let a = &a[row * stride..];
                let scales = Scales {
                    rows: &row_scales[row..],
                    columns: &self.scales[index * COLUMNS..],
                    offsets: &self.offsets[index * COLUMNS..],
                };
                let (at, from) = (row * out_width + first - range.start * outputs, row * self.width + first);
                match (whole, bias, added) {
                    // The sums start from what is added and go where they belong.
                    (true, None, Some(added)) => {
                        let start = Start { from: &added[from..], stride: self.width };
                        multiply(a, stride, count, panel, groups, columns, start, &mut out[at..], out_width, scales);
                    }
                    (true, bias, None) => {
                        let start = bias.unwrap_or(Start::ZERO);
                        multiply(a, stride, count, panel, groups, columns, start, &mut out[at..], out_width, scales);
                    }
                    // Everything else goes through a tile's worth of memory.
                    _ => {
                        let start = bias.unwrap_or(Start::ZERO);
                        multiply(a, stride, count, panel, groups, columns, start, &mut sums, COLUMNS, scales);
                        let width = outputs.min(self.width - first);
                        for (row, sums) in sums.chunks_exact(COLUMNS).take(count).enumerate() {
                            let out = &mut out[at + row * out_width..][..width];
                            match added {
                                Some(added) => vector::sum(out, sums, &added[from + row * self.width..]),
                                None if self.interleaved => {
                                    let (gate, up) = sums.split_at(outputs);
                                    vector::swiglu(out, gate, up);
                                }
                                None => out.copy_from_slice(&sums[..width]),
                            }
                        }
                    }
                }
            }
        }
    }

    /// Outputs of a panel.
    fn outputs(&self) -> usize {
        if self.interleaved { COLUMNS / 2 } else { COLUMNS }
    }

    fn panel_count(&self) -> usize {
        self.width.div_ceil(self.outputs())
    }

    fn bytes(&self) -> usize {
        self.panels.len() * size_of::<E>()
    }

    /// Elements of a converted row.
    fn stride(&self) -> usize {
        self.inner.next_multiple_of(E::GROUP)
    }
}

/// What a layer does to each row on its own after attention.
pub(in crate::lm) struct AfterAttention<'a, E> {
    pub output: &'a PackedMatrix<E>,
    pub norm: Norm<'a>,
    /// Interleaved.
    pub gate_up: &'a PackedMatrix<E>,
    pub down: &'a PackedMatrix<E>,
    pub meter: &'a Meter,
}

impl<E: Element> AfterAttention<'_, E> {
    /// `y + down(swiglu(norm(y)))` with `y = x + output(attended)`, for `attended` of `(T, heads D)` and `x` of `(T, H)`: `(T, H)`.
    ///
    /// A block of rows goes all the way on one thread, so that what lies between the products stays in its cache; unless
    /// reading the weights is the work, which threads then share.
    pub(in crate::lm) fn run(&self, attended: &[f32], x: &[f32]) -> Vec<f32> {
        let width = self.down.width;
        let rows = x.len() / width;
        assert_eq!((x.len(), attended.len()), (rows * width, rows * self.output.inner), "the inputs' widths");
        let mut out = vec![0f32; rows * width];
        let within = self.meter.within(Part::OutputMlp);
        if by_columns(rows, self.output.bytes() + self.gate_up.bytes() + self.down.bytes()) {
            let (mut y, mut gated) = (vec![0f32; x.len()], vec![0f32; rows * self.gate_up.width]);
            self.output.by_columns(attended, None, Some(x), &mut y, within);
            self.gate_up.by_columns(&y, Some(self.norm), None, &mut gated, within);
            self.down.by_columns(&gated, None, Some(&y), &mut out, within);
            return out;
        }
        let task = rows_per_task(rows);
        let inputs = attended.par_chunks(task * self.output.inner).zip(x.par_chunks(task * width));
        out.par_chunks_mut(task * width).zip(inputs).for_each_init(
            || (Vec::new(), Vec::new(), Vec::new()),
            |(a, y, gated), (out, (attended, x))| {
                y.resize(x.len(), 0.0);
                self.output.block(attended, None, Some(x), y, a, within);
                gated.resize(x.len() / width * self.gate_up.width, 0.0);
                self.gate_up.block(y, Some(self.norm), None, gated, a, within);
                self.down.block(gated, None, Some(y), out, a, within);
            },
        );
        out
    }
}

/// How many rows a parallel task takes at most.
const MOST: usize = 16 * ROWS;

/// Weights that a core's own cache holds, in bytes.
const NEAR: usize = 1 << 20;

/// Whether threads should share the columns of a product and not its rows: when there are too few rows to give each thread a
/// full task of them, and reading so many bytes of weights on every thread would cost more than sharing does.
fn by_columns(rows: usize, bytes: usize) -> bool {
    let threads = rayon::current_num_threads();
    threads > 1 && (rows < ROWS * threads || rows < MOST * threads && bytes > NEAR)
}

/// How many rows one parallel task takes: enough to reuse a panel while it is in cache, few enough that every thread has
/// several tasks. One thread alone need not share.
pub(super) fn rows_per_task(rows: usize) -> usize {
    match rayon::current_num_threads() {
        1 => MOST,
        threads => (rows / (4 * threads)).clamp(1, MOST).next_multiple_of(ROWS),
    }
}

/// Numbers that begin on a cache line, so that no vector load straddles two.
pub(crate) struct Lines<E> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<E>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl<E: Element> Lines<E> {
    pub(crate) fn zeroed(len: usize) -> Self {
        let lines = (len * size_of::<E>()).div_ceil(size_of::<Line>());
        Self { lines: vec![Line([0; 64]); lines], len, element: PhantomData }
    }

    /// Takes another length. What was written stays where both lengths reach; memory is never given back.
    pub(crate) fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<E>()).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = len;
    }
}

impl<E: Element> Deref for Lines<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        // SAFETY: the lines are at least `len` elements long and aligned for any of them, and every bit pattern is a
        // valid element (f32, or a u16 or u8 of bits).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<E: Element> DerefMut for Lines<E> {
    fn deref_mut(&mut self) -> &mut [E] {
        // SAFETY: as in `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::int8::Int8;
    use super::super::tile::Bf16;
    use super::*;

    fn wave(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    fn naive(x: &[f32], weight: &[f32], inner: usize, bias: Option<&[f32]>) -> Vec<f32> {
        let outputs = weight.len() / inner;
        let cell = |x: &[f32], output: usize| {
            let products = x.iter().zip(&weight[output * inner..]).map(|(x, w)| f64::from(*x) * f64::from(*w));
            products.sum::<f64>() as f32 + bias.map_or(0.0, |bias| bias[output])
        };
        x.chunks_exact(inner).flat_map(|x| (0..outputs).map(move |output| cell(x, output))).collect()
    }

    fn close(found: &[f32], expect: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expect.len());
        for (found, expect) in found.iter().zip(expect) {
            assert!((found - expect).abs() < tolerance, "{found} {expect}");
        }
    }

    fn check<E: Element>(rows: usize, inner: usize, width: usize, tolerance: f32) {
        if !E::available() {
            return;
        }
        let (x, weight, bias) = (wave(rows * inner, 0.7), wave(width * inner, 0.3), wave(width, 0.9));
        let plain = naive(&x, &weight, inner, None);
        let packed = PackedMatrix::<E>::new(&weight, inner, None);
        close(&packed.product(&x, None, Meter::<Part>::default().within(Part::Qkv)), &plain, tolerance);

        let biased = PackedMatrix::<E>::new(&weight, inner, Some(&bias));
        let added = wave(rows * width, 0.1);
        let expect: Vec<f32> = naive(&x, &weight, inner, Some(&bias)).iter().zip(&added).map(|(a, b)| a + b).collect();
        let mut sums = vec![0.0; added.len()];
        biased.block(&x, None, Some(&added), &mut sums, &mut Vec::new(), Meter::<Part>::default().within(Part::Qkv));
        close(&sums, &expect, tolerance);

        let norm_weight = wave(inner, 1.1);
        let normed: Vec<f32> = x
            .chunks_exact(inner)
            .flat_map(|x| {
                let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() / inner as f32 + 1e-5).sqrt();
                x.iter().zip(&norm_weight).map(move |(x, w)| x * scale * w)
            })
            .collect();
        let norm = Norm { weight: &norm_weight, eps: 1e-5 };
        close(
            &packed.product(&x, Some(norm), Meter::<Part>::default().within(Part::Qkv)),
            &naive(&normed, &weight, inner, None),
            2.0 * tolerance,
        );

        if width.is_multiple_of(2) {
            let both = PackedMatrix::<E>::interleaved(&weight, inner, Some(&bias));
            let expect: Vec<f32> = naive(&x, &weight, inner, Some(&bias))
                .chunks_exact(width)
                .flat_map(|row| {
                    let (gate, up) = row.split_at(width / 2);
                    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect::<Vec<_>>()
                })
                .collect();
            close(&both.product(&x, None, Meter::<Part>::default().within(Part::Qkv)), &expect, 4.0 * tolerance);
        }
    }

    #[test]
    fn products_equal_the_definition() {
        let many = MOST * rayon::current_num_threads() + 5;
        for (rows, inner, width) in [(1, 1, 1), (1, 64, 64), (7, 33, 70), (13, 48, 130), (many, 24, 96)] {
            check::<f32>(rows, inner, width, 1e-4);
            check::<Bf16>(rows, inner, width, 0.1);
            check::<Int8>(rows, inner, width, 0.1);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let many = MOST * rayon::current_num_threads();
        for rows in [50, many] {
            let (x, weight) = (wave(rows * 40, 0.7), wave(72 * 40, 0.3));
            let packed = PackedMatrix::<f32>::new(&weight, 40, None);
            let together = packed.product(&x, None, Meter::<Part>::default().within(Part::Qkv));
            for row in [0, 5, 6, rows - 1] {
                let alone = packed.product(&x[row * 40..][..40], None, Meter::<Part>::default().within(Part::Qkv));
                assert_eq!(alone, together[row * 72..][..72]);
            }
        }
    }
}
