//! The forward of a layer.

use super::plan::{DOWN, GATE_UP, OUTPUT, QKV};
use super::{Activations, Block, LayerPlan, Pass, Scratch, Shape};
use crate::lm::kernels::tile::{Float, Left};
use crate::lm::kernels::vector;
use crate::train::arithmetic::TrainPart;
use crate::train::panels::Panels;
use crate::train::product::{Begin, product};
use crate::train::rows;
use rayon::prelude::*;

impl Pass<'_> {
    /// `x` and `out` are `(T, H)`; an empty `out` is not computed, only the activations are.
    pub(in crate::train) fn forward<E: Float>(
        &self,
        layer: &LayerPlan,
        x: &[f32],
        out: &mut [f32],
        saved: &mut Activations,
        scratch: &mut Scratch<E>,
    ) {
        let (tokens, shape) = (self.tokens(), *self.shape);
        let Shape { hidden, inner, heads, kv_heads, dim, .. } = shape;
        self.meter.time(TrainPart::Pack, || {
            let packed = scratch.weights.par_iter_mut().zip(&mut scratch.biases);
            layer.linears.par_iter().zip(packed).for_each(|(linear, (panels, bias))| {
                panels.pack_transposed(linear.inner, linear.width, |output| linear.row(self.parameters, output));
                linear.bias(self.parameters, bias);
            });
        });
        let raw_width = if layer.head_norms.is_some() { (heads + kv_heads) * dim } else { 0 };
        saved.qkv.resize(tokens * shape.qkv(), 0.0);
        saved.raw.resize(tokens * raw_width, 0.0);
        saved.attended.resize(tokens * shape.query(), 0.0);
        saved.middle.resize(tokens * hidden, 0.0);
        saved.gate_up.resize(tokens * shape.gate_up(), 0.0);

        let (weights, biases) = (&scratch.weights, &scratch.biases);
        let qkv = self.blocks(&mut saved.qkv, shape.qkv());
        let raw = self.blocks(&mut saved.raw, raw_width);
        let project = |(index, (qkv, raw)): (usize, (&mut [f32], &mut [f32]))| {
            scratch.blocks.with(|block| {
                let x = self.block_of(x, index, hidden);
                normalise(x, self.values(layer.attention_norm), shape.eps, &mut block.normed);
                let a = E::left(&block.normed, hidden, &mut block.operand);
                product(a, x.len() / hidden, &weights[QKV], begin(&biases[QKV]), qkv, shape.qkv());
                self.norm_and_rotate(layer, index * self.rows(), qkv, raw);
            });
        };
        self.meter.time(TrainPart::Qkv, || qkv.into_par_iter().zip(raw).enumerate().with_max_len(1).for_each(project));

        self.meter.time(TrainPart::Attention, || {
            self.attention(layer, &saved.qkv).forward(&mut scratch.attended, &scratch.attention);
        });
        saved.log_sums.clone_from(&scratch.attended.log_sums);

        let heads_out = &scratch.attended.out;
        let attended = self.blocks(&mut saved.attended, shape.query());
        let middle = self.blocks(&mut saved.middle, hidden);
        let gate_up = self.blocks(&mut saved.gate_up, shape.gate_up());
        let out_width = out.len() / tokens.max(1);
        let out = self.blocks(out, out_width);
        let blocks = attended.into_par_iter().zip(middle).zip(gate_up).zip(out).enumerate().with_max_len(1);
        self.meter.time(TrainPart::OutputMlp, || {
            blocks.for_each(|(index, (((attended, middle), gate_up), out))| {
                scratch.blocks.with(|block| {
                    let x = self.block_of(x, index, hidden);
                    let rows = x.len() / hidden;
                    for (i, part) in attended.chunks_exact_mut(dim).enumerate() {
                        let (row, head) = (index * self.rows() + i / heads, i % heads);
                        part.copy_from_slice(&heads_out[(head * tokens + row) * dim..][..dim]);
                    }
                    let Block { operand, normed, wide, .. } = block;
                    let a = E::left(attended, shape.query(), operand);
                    add_product(a, rows, &weights[OUTPUT], &biases[OUTPUT], x, middle, hidden);
                    normalise(middle, self.values(layer.mlp_norm), shape.eps, normed);
                    let a = E::left(normed, hidden, operand);
                    product(a, rows, &weights[GATE_UP], begin(&biases[GATE_UP]), gate_up, shape.gate_up());
                    if out.is_empty() {
                        return;
                    }
                    wide.resize(rows * inner, 0.0);
                    for (gated, gate_up) in wide.chunks_exact_mut(inner).zip(gate_up.chunks_exact(shape.gate_up())) {
                        let (gate, up) = gate_up.split_at(inner);
                        vector::swiglu(gated, gate, up);
                    }
                    let a = E::left(wide, inner, operand);
                    add_product(a, rows, &weights[DOWN], &biases[DOWN], middle, out, hidden);
                });
            });
        });
    }

    /// Norms the heads of queries and keys where the model does, keeping them as they were, and rotates them.
    fn norm_and_rotate(&self, layer: &LayerPlan, first: usize, qkv: &mut [f32], raw: &mut [f32]) {
        let Shape { heads, kv_heads, dim, eps, .. } = *self.shape;
        let (turning, half) = (heads + kv_heads, dim / 2);
        for (i, qkv) in qkv.chunks_exact_mut(self.shape.qkv()).enumerate() {
            let turned = &mut qkv[..turning * dim];
            if let Some((query_norm, key_norm)) = layer.head_norms {
                let raw = &mut raw[i * turned.len()..][..turned.len()];
                raw.copy_from_slice(turned);
                for (index, (head, raw)) in turned.chunks_exact_mut(dim).zip(raw.chunks_exact(dim)).enumerate() {
                    let weight = self.values(if index < heads { query_norm } else { key_norm });
                    vector::scale_by(head, raw, rows::inverse_rms(raw, eps), weight);
                }
            }
            let (cos, sin) = (&self.cos[(first + i) * half..][..half], &self.sin[(first + i) * half..][..half]);
            turned.chunks_exact_mut(dim).for_each(|head| rows::rotate(head, cos, sin, 1.0));
        }
    }
}

/// RMSNorm of rows.
pub(in crate::train) fn normalise(x: &[f32], weight: &[f32], eps: f32, out: &mut Vec<f32>) {
    out.resize(x.len(), 0.0);
    normalise_into(x, weight, eps, out);
}

/// RMSNorm of rows into as many.
pub(in crate::train) fn normalise_into(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        vector::scale_by(out, x, rows::inverse_rms(x, eps), weight);
    }
}

fn begin(bias: &[f32]) -> Begin<'_> {
    if bias.is_empty() { Begin::Zero } else { Begin::Bias(bias) }
}

/// `out = x + A B + bias`.
fn add_product<E: Float>(
    a: Left<'_, E>,
    rows: usize,
    weight: &Panels<E>,
    bias: &[f32],
    x: &[f32],
    out: &mut [f32],
    width: usize,
) {
    product(a, rows, weight, Begin::Rows(x), out, width);
    if !bias.is_empty() {
        out.chunks_exact_mut(width).for_each(|out| rows::add(out, bias));
    }
}
