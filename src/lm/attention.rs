//! Causal attention over packed segments, with grouped heads and an optional sliding window.

use super::ops::{Heads, floats};
use super::packed::Packed;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Softmax attention, scaled by `1 / sqrt(D)`, of rows of a fused projection over all rows that they see.
///
/// `qkv` is `(T, (heads.query + 2 heads.kv) D)`, rotated. With `rows`, only those query; the result is then
/// `(rows.len(), heads.query D)`, else `(T, heads.query D)`. `window` bounds how many positions back a row sees,
/// its own included.
pub fn attention(
    qkv: &Tensor,
    packed: &Packed,
    rows: Option<&[usize]>,
    heads: Heads,
    window: Option<usize>,
) -> Result<Tensor> {
    qkv.apply_op1_no_bwd(&Attention { packed, rows, heads, window })
}

struct Attention<'a> {
    packed: &'a Packed,
    rows: Option<&'a [usize]>,
    heads: Heads,
    window: Option<usize>,
}

impl CustomOp1 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = floats(qkv, layout)?;
        let Heads { query, dim, .. } = self.heads;
        let segment_of: Vec<usize> =
            self.packed.segments().enumerate().flat_map(|(index, rows)| rows.map(move |_| index)).collect();
        let all: Vec<usize>;
        let rows = match self.rows {
            Some(rows) => rows,
            None => {
                all = (0..self.packed.len()).collect();
                &all
            }
        };
        let mut out = vec![0f32; rows.len() * query * dim];
        out.par_chunks_mut(query * dim).zip(rows).for_each(|(out, &row)| {
            let keys = self.visible(row, segment_of[row]);
            for (head, out) in out.chunks_exact_mut(dim).enumerate() {
                self.one(qkv, row, head, &keys, out);
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((rows.len(), query * dim))))
    }
}

impl Attention<'_> {
    /// The rows that `row` sees, oldest first.
    fn visible(&self, row: usize, segment: usize) -> Vec<Range<usize>> {
        let mut ranges = self.packed.above(segment);
        let own = self.packed.segments().nth(segment).map_or(row, |rows| rows.start);
        ranges.push(own..row + 1);
        if let Some(window) = self.window {
            let mut hidden = ranges.iter().map(ExactSizeIterator::len).sum::<usize>().saturating_sub(window);
            for range in &mut ranges {
                let skip = hidden.min(range.len());
                range.start += skip;
                hidden -= skip;
            }
        }
        ranges
    }

    fn one(&self, qkv: &[f32], row: usize, head: usize, keys: &[Range<usize>], out: &mut [f32]) {
        let Heads { query, kv, dim } = self.heads;
        let width = self.heads.width();
        let shared = head / (query / kv);
        let q = &qkv[row * width + head * dim..][..dim];
        let scale = 1.0 / (dim as f32).sqrt();
        let mut scores: Vec<f32> = keys
            .iter()
            .cloned()
            .flatten()
            .map(|key| dot(q, &qkv[key * width + (query + shared) * dim..][..dim]) * scale)
            .collect();
        let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for score in &mut scores {
            *score = (*score - highest).exp();
            sum += *score;
        }
        for (key, score) in keys.iter().cloned().flatten().zip(&scores) {
            let value = &qkv[key * width + (query + kv + shared) * dim..][..dim];
            for (out, value) in out.iter_mut().zip(value) {
                *out += score / sum * value;
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (mut a, mut b) = (a.chunks_exact(8), b.chunks_exact(8));
    for (a, b) in (&mut a).zip(&mut b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum::<f32>()
}
