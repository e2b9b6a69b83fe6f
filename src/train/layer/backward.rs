//! The backward of a layer.

use super::forward::normalise;
use super::plan::{DOWN, GATE_UP, Linear, OUTPUT, QKV};
use super::{Activations, Block, LayerPlan, Pass, Scratch, Shape};
use crate::lm::Parameter;
use crate::lm::kernels::tile::{Float, Left};
use crate::train::arithmetic::TrainPart;
use crate::train::panels::interleave_rows;
use crate::train::product::{Begin, add_outer, product};
use crate::train::rows;
use rayon::prelude::*;

/// Rows of a weight whose gradient one task adds up.
const OUTPUTS: usize = 96;

impl Pass<'_> {
    /// Turns the gradient of the layer's output, `dx` of `(T, H)`, into that of its input `x`, and adds to `gradients`.
    pub(in crate::train) fn backward<E: Float>(
        &self,
        layer: &LayerPlan,
        x: &[f32],
        dx: &mut [f32],
        saved: &mut Activations,
        gradients: &mut [Parameter],
        scratch: &mut Scratch<E>,
    ) {
        self.meter.time(TrainPart::Pack, || {
            layer.linears.par_iter().zip(&mut scratch.weights).for_each(|(linear, panels)| {
                panels.pack(linear.width, linear.inner, |output| linear.row(self.parameters, output));
            });
        });
        self.meter.time(TrainPart::OutputMlpBackward, || self.backward_mlp(layer, dx, saved, gradients, scratch));
        self.meter.time(TrainPart::AttentionBackward, || {
            let attention = self.attention(layer, &saved.qkv);
            let (d_attended, gradients_of_heads) = (&scratch.d_attended, &mut scratch.head_gradients);
            attention.backward(&saved.attended, d_attended, &saved.log_sums, gradients_of_heads, &scratch.attention);
        });
        self.meter.time(TrainPart::QkvBackward, || self.backward_qkv(layer, x, dx, saved, gradients, scratch));
        self.meter.time(TrainPart::WeightGradients, || self.weight_gradients(layer, saved, gradients, scratch));
    }

    /// Adds the gradients of the layer's weights, whose operands the ways back left in `scratch`.
    fn weight_gradients<E: Float>(
        &self,
        layer: &LayerPlan,
        saved: &Activations,
        gradients: &mut [Parameter],
        scratch: &mut Scratch<E>,
    ) {
        let mut tasks = Vec::new();
        for (index, gradient) in gradients.iter_mut().enumerate() {
            let Some((product, linear, first)) = layer.weight(index) else { continue };
            let pieces = gradient.values.chunks_mut(OUTPUTS * linear.inner).enumerate();
            tasks.extend(pieces.map(|(i, out)| (product, first + i * OUTPUTS, out)));
        }
        let rights = &scratch.rights;
        let lefts: [Left<'_, E>; 4] = std::array::from_fn(|i| scratch.lefts[i].left(layer.linears[i].width));
        let lefts = match E::as_is(&saved.gate_up) {
            Some(values) => [lefts[QKV], lefts[OUTPUT], Left { values, ..lefts[GATE_UP] }, lefts[DOWN]],
            None => lefts,
        };
        tasks.into_par_iter().with_max_len(1).for_each(|(product, first, out)| {
            add_outer(lefts[product], first, &rights[product], out);
        });
    }

    /// Down to the gradient of what attention gave; `dx` becomes the gradient of the stream between attention and MLP.
    fn backward_mlp<E: Float>(
        &self,
        layer: &LayerPlan,
        dx: &mut [f32],
        saved: &mut Activations,
        gradients: &mut [Parameter],
        scratch: &mut Scratch<E>,
    ) {
        let (tokens, shape) = (self.tokens(), *self.shape);
        let Shape { hidden, inner, eps, .. } = shape;
        let bias = |linear: usize| if layer.linears[linear].has_bias() { layer.linears[linear].width } else { 0 };
        let sums_width = hidden + bias(DOWN) + bias(GATE_UP) + bias(OUTPUT);
        scratch.sums.clear();
        let block = self.rows();
        scratch.sums.resize(tokens.div_ceil(block) * sums_width, 0.0);
        scratch.d_attended.resize(tokens * shape.query(), 0.0);

        let [_, left_output, left_gate_up, left_down] = &mut scratch.lefts;
        let [_, right_output, right_gate_up, right_down] = &mut scratch.rights;
        // What is multiplied as it is needs no copy in its transposed place.
        let step = shape.gate_up();
        let gate_up_width = if E::as_is(&[]).is_some() { 0 } else { step };
        let lefts = left_output
            .blocks(tokens, hidden, block)
            .into_par_iter()
            .zip(left_gate_up.blocks(tokens, gate_up_width, block))
            .zip(left_down.blocks(tokens, hidden, block));
        let rights = right_output
            .blocks(tokens, shape.query(), block)
            .into_par_iter()
            .zip(right_gate_up.blocks(tokens, hidden, block))
            .zip(right_down.blocks(tokens, inner, block));
        let streams = self.blocks(dx, hidden).into_par_iter().zip(self.blocks(&mut saved.gate_up, shape.gate_up()));
        let outputs = self.blocks(&mut scratch.d_attended, shape.query());
        let sums = scratch.sums.par_chunks_mut(sums_width);
        let (weights, middle, norm) = (&scratch.weights, &saved.middle, self.values(layer.mlp_norm));
        let attended = &saved.attended;
        lefts.zip(rights).zip(streams).zip(outputs).zip(sums).enumerate().with_max_len(1).for_each(
            |(index, ((((lefts, rights), (dx, gate_up)), d_attended), sums))| {
                let ((left_output, left_gate_up), left_down) = lefts;
                let ((right_output, right_gate_up), right_down) = rights;
                let (d_norm, sums) = sums.split_at_mut(hidden);
                let (d_down, sums) = sums.split_at_mut(bias(DOWN));
                let (d_gate_up, d_output) = sums.split_at_mut(bias(GATE_UP));
                let middle = self.block_of(middle, index, hidden);
                let rows = middle.len() / hidden;
                scratch.blocks.with(|block| {
                    let Block { operand, normed, d_normed, wide: gated } = block;
                    interleave_rows(left_down, dx, hidden);
                    add_rows(d_down, dx, hidden);
                    gated.resize(rows * inner, 0.0);
                    product(E::left(dx, hidden, operand), rows, &weights[DOWN], Begin::Zero, gated, inner);
                    for (gated, gate_up) in gated.chunks_exact_mut(inner).zip(gate_up.chunks_exact_mut(step)) {
                        let (gate, up) = gate_up.split_at_mut(inner);
                        rows::swiglu_backward(gated, gate, up);
                    }
                    right_down.fill(gated);
                    if !left_gate_up.is_empty() {
                        interleave_rows(left_gate_up, gate_up, step);
                    }
                    add_rows(d_gate_up, gate_up, step);
                    d_normed.resize(rows * hidden, 0.0);
                    let a = E::left(gate_up, step, operand);
                    product(a, rows, &weights[GATE_UP], Begin::Zero, d_normed, hidden);
                    normalise(middle, norm, eps, normed);
                    right_gate_up.fill(normed);
                    norm_backward(dx, d_norm, d_normed, middle, norm, eps);
                    interleave_rows(left_output, dx, hidden);
                    right_output.fill(self.block_of(attended, index, shape.query()));
                    add_rows(d_output, dx, hidden);
                    let a = E::left(dx, hidden, operand);
                    product(a, rows, &weights[OUTPUT], Begin::Zero, d_attended, shape.query());
                });
            },
        );
        let total = total(&mut scratch.sums, sums_width);
        let (d_norm, total) = total.split_at(hidden);
        let (d_down, total) = total.split_at(bias(DOWN));
        let (d_gate_up, d_output) = total.split_at(bias(GATE_UP));
        rows::add(&mut gradients[layer.mlp_norm].values, d_norm);
        layer.linears[DOWN].add_bias_gradient(gradients, d_down);
        layer.linears[GATE_UP].add_bias_gradient(gradients, d_gate_up);
        layer.linears[OUTPUT].add_bias_gradient(gradients, d_output);
    }

    /// From the gradients of heads down to that of the layer's input.
    fn backward_qkv<E: Float>(
        &self,
        layer: &LayerPlan,
        x: &[f32],
        dx: &mut [f32],
        saved: &Activations,
        gradients: &mut [Parameter],
        scratch: &mut Scratch<E>,
    ) {
        let (tokens, shape) = (self.tokens(), *self.shape);
        let Shape { hidden, dim, eps, .. } = shape;
        let head_norms = if layer.head_norms.is_some() { 2 * dim } else { 0 };
        let biases = if layer.linears[QKV].has_bias() { shape.qkv() } else { 0 };
        let sums_width = hidden + head_norms + biases;
        scratch.sums.clear();
        let block = self.rows();
        scratch.sums.resize(tokens.div_ceil(block) * sums_width, 0.0);

        let left = scratch.lefts[QKV].blocks(tokens, shape.qkv(), block);
        let right = scratch.rights[QKV].blocks(tokens, hidden, block);
        let sums = scratch.sums.par_chunks_mut(sums_width);
        let (weights, heads, norm) = (&scratch.weights, &scratch.head_gradients, self.values(layer.attention_norm));
        left.into_par_iter().zip(right).zip(self.blocks(dx, hidden)).zip(sums).enumerate().with_max_len(1).for_each(
            |(index, (((left, right), dx), sums))| {
                let (d_norm, sums) = sums.split_at_mut(hidden);
                let (d_head_norms, d_bias) = sums.split_at_mut(head_norms);
                let x = self.block_of(x, index, hidden);
                let rows = x.len() / hidden;
                scratch.blocks.with(|block| {
                    let Block { operand, normed, d_normed, wide: d_qkv } = block;
                    d_qkv.resize(rows * shape.qkv(), 0.0);
                    self.gather(heads, index * self.rows(), d_qkv);
                    self.unrotate(layer, saved, index * self.rows(), d_qkv, d_head_norms);
                    interleave_rows(left, d_qkv, shape.qkv());
                    add_rows(d_bias, d_qkv, shape.qkv());
                    d_normed.resize(rows * hidden, 0.0);
                    let a = E::left(d_qkv, shape.qkv(), operand);
                    product(a, rows, &weights[QKV], Begin::Zero, d_normed, hidden);
                    normalise(x, norm, eps, normed);
                    right.fill(normed);
                    norm_backward(dx, d_norm, d_normed, x, norm, eps);
                });
            },
        );
        let total = total(&mut scratch.sums, sums_width);
        let (d_norm, total) = total.split_at(hidden);
        let (d_head_norms, d_bias) = total.split_at(head_norms);
        rows::add(&mut gradients[layer.attention_norm].values, d_norm);
        if let Some((query_norm, key_norm)) = layer.head_norms {
            rows::add(&mut gradients[query_norm].values, &d_head_norms[..dim]);
            rows::add(&mut gradients[key_norm].values, &d_head_norms[dim..]);
        }
        layer.linears[QKV].add_bias_gradient(gradients, d_bias);
    }

    /// Rows of the fused projection's gradient from those of heads; keys and values sum over the queries that share them.
    fn gather(&self, heads: &super::HeadGradients, first: usize, d_qkv: &mut [f32]) {
        let (tokens, Shape { heads: queries, kv_heads, dim, .. }) = (self.tokens(), *self.shape);
        let group = queries / kv_heads;
        for (row, d_qkv) in (first..).zip(d_qkv.chunks_exact_mut(self.shape.qkv())) {
            let part = |values: &'_ [f32], head: usize, out: &mut [f32], first: bool| {
                let part = &values[(head * tokens + row) * dim..][..dim];
                if first { out.copy_from_slice(part) } else { rows::add(out, part) }
            };
            for (index, out) in d_qkv.chunks_exact_mut(dim).enumerate() {
                if index < queries {
                    part(&heads.queries, index, out, true);
                    continue;
                }
                let shared = index - queries;
                let (values, shared) =
                    if shared < kv_heads { (&heads.keys, shared) } else { (&heads.values, shared - kv_heads) };
                for member in 0..group {
                    part(values, shared * group + member, out, member == 0);
                }
            }
        }
    }

    /// Back through rotation and the heads' norms, in place.
    fn unrotate(
        &self,
        layer: &LayerPlan,
        saved: &Activations,
        first: usize,
        d_qkv: &mut [f32],
        d_head_norms: &mut [f32],
    ) {
        let Shape { heads, kv_heads, dim, eps, .. } = *self.shape;
        let (turning, half) = (heads + kv_heads, dim / 2);
        let mut d_raw = vec![0f32; if layer.head_norms.is_some() { dim } else { 0 }];
        for (row, d_qkv) in (first..).zip(d_qkv.chunks_exact_mut(self.shape.qkv())) {
            let (cos, sin) = (&self.cos[row * half..][..half], &self.sin[row * half..][..half]);
            for (index, head) in d_qkv.chunks_exact_mut(dim).take(turning).enumerate() {
                rows::rotate(head, cos, sin, -1.0);
                let Some((query_norm, key_norm)) = layer.head_norms else { continue };
                let raw = &saved.raw[(row * turning + index) * dim..][..dim];
                let (norm, d_norm) = if index < heads {
                    (query_norm, &mut d_head_norms[..dim])
                } else {
                    (key_norm, &mut d_head_norms[dim..])
                };
                d_raw.fill(0.0);
                let inverse = rows::inverse_rms(raw, eps);
                rows::rms_norm_backward(&mut d_raw, d_norm, head, raw, self.values(norm), inverse);
                head.copy_from_slice(&d_raw);
            }
        }
    }
}

impl LayerPlan {
    /// What product a weight belongs to, and its first output in it.
    fn weight(&self, index: usize) -> Option<(usize, &Linear, usize)> {
        self.linears.iter().enumerate().find_map(|(product, linear)| {
            let part = linear.parts.iter().find(|part| part.weight == index)?;
            Some((product, linear, part.first))
        })
    }
}

impl Linear {
    fn add_bias_gradient(&self, gradients: &mut [Parameter], sums: &[f32]) {
        for part in &self.parts {
            if let Some(bias) = part.bias {
                rows::add(&mut gradients[bias].values, &sums[part.first..][..part.width]);
            }
        }
    }
}

/// Backward of RMSNorm of rows: adds to `dx` and, summed over rows, to `dw`.
pub(in crate::train) fn norm_backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], eps: f32) {
    let width = w.len();
    let inputs = dy.chunks_exact(width).zip(x.chunks_exact(width));
    for (dx, (dy, x)) in dx.chunks_exact_mut(width).zip(inputs) {
        rows::rms_norm_backward(dx, dw, dy, x, w, rows::inverse_rms(x, eps));
    }
}

/// Adds every row, as far as it is wanted, to `out`, which may be empty.
fn add_rows(out: &mut [f32], rows: &[f32], stride: usize) {
    if !out.is_empty() {
        rows.chunks_exact(stride).for_each(|row| rows::add(out, row));
    }
}

/// The sum of rows, in order, in place of the first.
fn total(sums: &mut [f32], width: usize) -> &[f32] {
    let (first, rest) = sums.split_at_mut(width.min(sums.len()));
    rest.chunks_exact(width).for_each(|row| rows::add(first, row));
    first
}
