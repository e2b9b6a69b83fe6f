//! The decoder's operations other than matrix products and attention, each one fused loop over f32 rows.
//!
//! Free functions on contiguous tensors, `(T, …)` with T tokens. None of them records a gradient: they are candle
//! custom operations without backward, so a training graph must not be built through them.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Error, InplaceOp2, InplaceOp3, Layout, Result, Shape, Tensor, bail,
};
use rayon::prelude::*;

/// Rows that one parallel task takes, enough to be worth a task.
const ROWS_PER_TASK: usize = 16;

/// Root-mean-square norm of each row, times `weight`: `x * weight / sqrt(mean(x^2) + eps)`.
/// `x` is `(T, H)`, `weight` is `(H)`, the result `(T, H)`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &RmsNorm { eps })
}

/// RMSNorm of every head of the queries and keys inside a fused projection, in place, as Qwen3 does before rotating.
/// `qkv` is `(T, (heads.query + 2 heads.kv) D)`; `weights` is `(2, D)`, queries' weight first.
pub fn norm_heads(qkv: &Tensor, weights: &Tensor, heads: Heads, eps: f32) -> Result<()> {
    qkv.inplace_op2(weights, &NormHeads { heads, eps })
}

/// Turns the queries and keys inside a fused projection by their positions, in place. A head's first half pairs with
/// its second half, as in transformers.
/// `qkv` is `(T, (heads.query + 2 heads.kv) D)`; `cos` and `sin` are `(T, D / 2)`.
pub fn rotate(qkv: &Tensor, cos: &Tensor, sin: &Tensor, heads: Heads) -> Result<()> {
    qkv.inplace_op3(cos, sin, &Rotate { heads })
}

/// `silu(gate) * up` for `gate_up` of `(T, 2 I)`, gates in the first half of a row. The result is `(T, I)`.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    gate_up.apply_op1_no_bwd(&SwiGlu)
}

/// How the columns of a fused query-key-value projection divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    /// Heads of keys, and as many of values.
    pub kv: usize,
    pub dim: usize,
}

impl Heads {
    /// Columns of the fused projection.
    pub fn width(self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }
}

/// A tensor's numbers, when it is f32 and contiguous as every tensor of the decoder is.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => bail!("an operation of the decoder got a tensor that is not contiguous"),
        _ => bail!("an operation of the decoder got a tensor that is not f32"),
    }
}

fn floats_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("an operation of the decoder got a tensor that is not contiguous f32"),
    }
}

fn expect_len(what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::Msg(format!("{what}: {found} numbers where {expected} belong"))) }
}

/// The sum of squares, in lanes so that it vectorises; the order of additions is fixed.
fn sum_of_squares(row: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let mut chunks = row.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    lanes.iter().sum::<f32>() + chunks.remainder().iter().map(|x| x * x).sum::<f32>()
}

fn scale_of(row: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(row) / row.len() as f32 + eps).sqrt()
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (floats(x, lx)?, floats(w, lw)?);
        let (rows, width) = lx.shape().dims2()?;
        expect_len("norm weight", weight.len(), width)?;
        let mut out = vec![0f32; rows * width];
        let task = ROWS_PER_TASK * width;
        out.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let scale = scale_of(x, self.eps);
                for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * scale * weight;
                }
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
}

struct NormHeads {
    heads: Heads,
    eps: f32,
}

impl InplaceOp2 for NormHeads {
    fn name(&self) -> &'static str {
        "norm-heads"
    }

    fn cpu_fwd(&self, qkv: &mut CpuStorage, lq: &Layout, w: &CpuStorage, lw: &Layout) -> Result<()> {
        let Heads { query, kv, dim } = self.heads;
        let (qkv, weights) = (floats_mut(qkv, lq)?, floats(w, lw)?);
        expect_len("head norm weights", weights.len(), 2 * dim)?;
        qkv.par_chunks_mut(ROWS_PER_TASK * self.heads.width()).for_each(|rows| {
            for row in rows.chunks_exact_mut(self.heads.width()) {
                for (index, head) in row.chunks_exact_mut(dim).take(query + kv).enumerate() {
                    let weight = if index < query { &weights[..dim] } else { &weights[dim..] };
                    let scale = scale_of(head, self.eps);
                    for (x, weight) in head.iter_mut().zip(weight) {
                        *x *= scale * weight;
                    }
                }
            }
        });
        Ok(())
    }
}

struct Rotate {
    heads: Heads,
}

impl InplaceOp3 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(
        &self,
        qkv: &mut CpuStorage,
        lq: &Layout,
        cos: &CpuStorage,
        lc: &Layout,
        sin: &CpuStorage,
        ls: &Layout,
    ) -> Result<()> {
        let Heads { query, kv, dim } = self.heads;
        let (width, half) = (self.heads.width(), dim / 2);
        let (qkv, cos, sin) = (floats_mut(qkv, lq)?, floats(cos, lc)?, floats(sin, ls)?);
        expect_len("cosines", cos.len(), qkv.len() / width * half)?;
        expect_len("sines", sin.len(), cos.len())?;
        qkv.par_chunks_mut(ROWS_PER_TASK * width)
            .zip(cos.par_chunks(ROWS_PER_TASK * half).zip(sin.par_chunks(ROWS_PER_TASK * half)))
            .for_each(|(rows, (cos, sin))| {
                let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
                for (row, (cos, sin)) in rows.chunks_exact_mut(width).zip(angles) {
                    for head in row.chunks_exact_mut(dim).take(query + kv) {
                        let (first, second) = head.split_at_mut(half);
                        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                        }
                    }
                }
            });
        Ok(())
    }
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate_up: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let gate_up = floats(gate_up, layout)?;
        let (rows, width) = layout.shape().dims2()?;
        let inner = width / 2;
        let mut out = vec![0f32; rows * inner];
        out.par_chunks_mut(ROWS_PER_TASK * inner).zip(gate_up.par_chunks(ROWS_PER_TASK * width)).for_each(
            |(out, x)| {
                for (out, row) in out.chunks_exact_mut(inner).zip(x.chunks_exact(width)) {
                    let (gate, up) = row.split_at(inner);
                    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                        *out = gate / (1.0 + (-gate).exp()) * up;
                    }
                }
            },
        );
        Ok((CpuStorage::F32(out), Shape::from((rows, inner))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    fn check(found: &Tensor, expect: &[f32]) {
        let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found.len(), expect.len());
        for (found, expect) in found.iter().zip(expect) {
            assert!((found - expect).abs() < 1e-6, "{found} {expect}");
        }
    }

    #[test]
    fn rms_norm_divides_by_the_root_mean_square() {
        let weight = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let normed = rms_norm(&tensor(&[3.0, 4.0, 0.0, 0.0], (2, 2)), &weight, 1e-12).unwrap();
        let rms = 12.5f32.sqrt();
        check(&normed, &[3.0 / rms, 8.0 / rms, 0.0, 0.0]);
    }

    #[test]
    fn rotation_turns_halves_of_queries_and_keys_only() {
        let heads = Heads { query: 1, kv: 1, dim: 4 };
        let qkv = tensor(&[1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 0.0, 1.0, 5.0, 6.0, 7.0, 8.0], (1, 12));
        // A quarter turn for the first pair, none for the second.
        rotate(&qkv, &tensor(&[0.0, 1.0], (1, 2)), &tensor(&[1.0, 0.0], (1, 2)), heads).unwrap();
        check(&qkv, &[-3.0, 2.0, 1.0, 4.0, 0.0, 0.0, 1.0, 1.0, 5.0, 6.0, 7.0, 8.0]);
    }

    #[test]
    fn heads_are_normed_with_their_own_weights() {
        let heads = Heads { query: 1, kv: 1, dim: 2 };
        let qkv = tensor(&[3.0, 4.0, 3.0, 4.0, 3.0, 4.0], (1, 6));
        norm_heads(&qkv, &tensor(&[1.0, 1.0, 10.0, 10.0], (2, 2)), heads, 0.0).unwrap();
        let rms = 12.5f32.sqrt();
        check(&qkv, &[3.0 / rms, 4.0 / rms, 30.0 / rms, 40.0 / rms, 3.0, 4.0]);
    }

    #[test]
    fn swiglu_gates_the_second_half() {
        let silu = |x: f32| x / (1.0 + (-x).exp());
        check(&swiglu(&tensor(&[1.0, -2.0, 3.0, 4.0], (1, 4))).unwrap(), &[silu(1.0) * 3.0, silu(-2.0) * 4.0]);
    }

    #[test]
    fn a_wrong_shape_is_an_error() {
        let x = tensor(&[1.0, 2.0], (1, 2));
        let weight = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        assert!(rms_norm(&x, &weight, 1e-6).is_err());
        assert!(swiglu(&x.to_dtype(candle_core::DType::F64).unwrap()).is_err());
    }
}
