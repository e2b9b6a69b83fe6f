//! The decoder's operations on tensors, apart from its linear layers: `(T, …)` with T tokens, f32, contiguous.
//!
//! Each is one fused kernel. None of them records a gradient, so a training graph must not be built through them. The CPU
//! is the only device that has them so far.

use super::kernels::attention::Attention;
use super::kernels::tile::Bf16;
use super::kernels::vector;
use super::layer::Precision;
use super::meter::{Meter, Part};
use super::packed::Packed;
use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};
use std::ops::Deref;

/// How the columns of a fused query-key-value projection divide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    pub query: usize,
    /// Heads of keys, and as many of values; divides `query`.
    pub kv: usize,
    pub dim: usize,
}

impl Heads {
    /// Columns of the fused projection.
    pub(super) fn width(self) -> usize {
        (self.query + 2 * self.kv) * self.dim
    }
}

/// Root-mean-square norm of each row, times `weight`: `x weight / sqrt(mean(x^2) + eps)`.
/// `x` is `(T, H)`, `weight` is `(H)`, the result `(T, H)`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let width = weight.dims1()?;
    if x.dims2()?.1 != width {
        bail!("a norm over {width} numbers got rows of {}", x.dims2()?.1);
    }
    let (values, weight) = (floats(x)?, floats(weight)?);
    let mut out = vec![0f32; values.get().len()];
    for (out, x) in out.chunks_exact_mut(width).zip(values.get().chunks_exact(width)) {
        let scale = 1.0 / (vector::sum_of_squares(x) / width as f32 + eps).sqrt();
        vector::scale_by(out, x, scale, weight.get());
    }
    Tensor::from_vec(out, x.shape(), &Device::Cpu)
}

/// What attention needs besides the projection.
pub(super) struct AttentionOptions<'a> {
    pub packed: &'a Packed,
    pub heads: Heads,
    /// Cosines and sines of every row's angles, `(T, D / 2)` each.
    pub angles: &'a (Tensor, Tensor),
    /// Weights of the norms over each head of queries and keys, `(2, D)`, and their epsilon.
    pub head_norms: Option<(&'a Tensor, f32)>,
    /// How many positions back a row sees, its own included; `None` for all.
    pub window: Option<usize>,
    pub precision: Precision,
    pub meter: &'a Meter,
}

/// Rotary causal attention, scaled by `1 / sqrt(D)`, of every row over all rows that it sees.
///
/// `qkv` is `(T, heads.width())`, not yet rotated. The result is `(T, heads.query D)`, or `(rows.len(), heads.query D)`
/// when only some rows are asked for.
pub(super) fn attention(qkv: &Tensor, rows: Option<&[usize]>, options: &AttentionOptions<'_>) -> Result<Tensor> {
    let AttentionOptions { packed, heads, angles: (cos, sin), head_norms, window, precision, meter } = *options;
    let (tokens, half) = (packed.len(), heads.dim / 2);
    if qkv.dims() != [tokens, heads.width()] || cos.dims() != [tokens, half] || sin.dims() != [tokens, half] {
        bail!("attention over {tokens} tokens got {:?}, {:?} and {:?}", qkv.dims(), cos.dims(), sin.dims());
    }
    if let Some(row) = rows.and_then(|rows| rows.iter().find(|row| **row >= tokens)) {
        bail!("row {row} is beyond the batch of {tokens} tokens");
    }
    let (qkv, cos, sin) = (floats(qkv)?, floats(cos)?, floats(sin)?);
    let norms = head_norms.map(|(weights, eps)| Ok::<_, candle_core::Error>((floats(weights)?, eps))).transpose()?;
    let attention = Attention {
        qkv: qkv.get(),
        cos: cos.get(),
        sin: sin.get(),
        head_norms: norms.as_ref().map(|(weights, eps)| (weights.get(), *eps)),
        packed,
        heads,
        window,
    };
    meter.count(Part::Attention, || attention.operations(rows));
    let out = match precision {
        Precision::F32 => attention.run::<f32>(rows),
        Precision::Bf16 => attention.run::<Bf16>(rows),
    };
    Tensor::from_vec(out, (rows.map_or(tokens, <[usize]>::len), heads.query * heads.dim), &Device::Cpu)
}

/// A tensor's numbers, held for reading by candle's lock.
pub(super) struct Floats<G> {
    storage: G,
    start: usize,
    end: usize,
}

/// # Errors
/// When the tensor is not contiguous f32 on the CPU.
pub(super) fn floats(tensor: &Tensor) -> Result<Floats<impl Deref<Target = Storage>>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Floats { storage, start, end }),
        (Storage::Cpu(_), _) => bail!("an operation of the decoder needs contiguous f32, it got {tensor:?}"),
        _ => bail!("the decoder's operations exist for the CPU only"),
    }
}

impl<G: Deref<Target = Storage>> Floats<G> {
    pub(super) fn get(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.end],
            // `floats` admits nothing else.
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    #[test]
    fn rms_norm_divides_by_the_root_mean_square() {
        let x = Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let rms = 12.5f32.sqrt();
        let normed: Vec<Vec<f32>> = rms_norm(&x, &weight, 1e-12).unwrap().to_vec2().unwrap();
        assert_eq!(normed[1], [0.0, 0.0]);
        assert!((normed[0][0] - 3.0 / rms).abs() < 1e-6 && (normed[0][1] - 8.0 / rms).abs() < 1e-6);
    }

    #[test]
    fn a_wrong_tensor_is_an_error() {
        let x = Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        assert!(rms_norm(&x, &weight, 1e-6).is_err());
        let weight = Tensor::new(&[1f32, 1.0], &Device::Cpu).unwrap();
        assert!(rms_norm(&x.t().unwrap(), &weight, 1e-6).is_err());
        assert!(rms_norm(&x.to_dtype(DType::F64).unwrap(), &weight, 1e-6).is_err());
    }
}
