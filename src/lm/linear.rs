//! Linear layers, their weights packed for the kernels in the precision they multiply in.

use super::kernels::matrix::{Finish, Norm, PackedMatrix};
use super::kernels::tile::{Bf16, Element};
use super::ops::floats;
use candle_core::{Device, Result, Tensor, bail};

/// The numbers that matrix products and attention multiply; sums are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Exact to rounding, on any processor.
    #[default]
    F32,
    /// Weights and activations rounded to bfloat16: twice as fast where the processor has AVX512_BF16.
    Bf16,
}

impl Precision {
    /// Whether this processor has the instructions for it.
    pub fn usable(self) -> bool {
        match self {
            Self::F32 => f32::available(),
            Self::Bf16 => Bf16::available(),
        }
    }
}

/// `y = x W^T + b`, with what comes before and after it.
pub(super) struct Linear {
    inner: usize,
    weights: Weights,
}

enum Weights {
    F32(PackedMatrix<f32>),
    Bf16(PackedMatrix<Bf16>),
}

impl Linear {
    /// From a weight of `(out, in)` and a bias of `(out)`.
    pub(super) fn new(weight: &Tensor, bias: Option<&Tensor>, precision: Precision) -> Result<Self> {
        Self::pack(weight, bias, precision, PackedMatrix::new, PackedMatrix::new)
    }

    /// From the weights of gate and up, `(2 out, in)`, gates first; for [`Linear::swiglu`].
    pub(super) fn gated(weight: &Tensor, bias: Option<&Tensor>, precision: Precision) -> Result<Self> {
        Self::pack(weight, bias, precision, PackedMatrix::interleaved, PackedMatrix::interleaved)
    }

    fn pack(
        weight: &Tensor,
        bias: Option<&Tensor>,
        precision: Precision,
        f32: impl Fn(&[f32], usize, Option<&[f32]>) -> PackedMatrix<f32>,
        bf16: impl Fn(&[f32], usize, Option<&[f32]>) -> PackedMatrix<Bf16>,
    ) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        if bias.is_some_and(|bias| bias.dims() != [out]) {
            bail!("a bias does not have one number for each of {out} outputs");
        }
        if !precision.usable() {
            bail!("this processor cannot multiply in {precision:?}");
        }
        let weight = floats(weight)?;
        let bias = bias.map(floats).transpose()?;
        let bias = bias.as_ref().map(|bias| bias.get());
        let weights = match precision {
            Precision::F32 => Weights::F32(f32(weight.get(), inner, bias)),
            Precision::Bf16 => Weights::Bf16(bf16(weight.get(), inner, bias)),
        };
        Ok(Self { inner, weights })
    }

    /// `(T, in)` to `(T, out)`, after RMSNorm with a weight of `(in)`.
    pub(super) fn after_norm(&self, x: &Tensor, norm: &Tensor, eps: f32) -> Result<Tensor> {
        self.run(x, Some((norm, eps)), None, false)
    }

    /// `residual + x W^T + b`: `(T, in)` and `(T, out)` to `(T, out)`.
    pub(super) fn added_to(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, None, Some(residual), false)
    }

    /// `silu(gate) * up` of a gated projection, after RMSNorm: `(T, in)` to `(T, out)`.
    pub(super) fn swiglu(&self, x: &Tensor, norm: &Tensor, eps: f32) -> Result<Tensor> {
        self.run(x, Some((norm, eps)), None, true)
    }

    fn run(&self, x: &Tensor, norm: Option<(&Tensor, f32)>, residual: Option<&Tensor>, gated: bool) -> Result<Tensor> {
        let width = match &self.weights {
            Weights::F32(matrix) => matrix.width(),
            Weights::Bf16(matrix) => matrix.width(),
        };
        let (rows, inner) = x.dims2()?;
        if inner != self.inner
            || norm.is_some_and(|(weight, _)| weight.dims() != [inner])
            || residual.is_some_and(|residual| residual.dims() != [rows, width])
        {
            bail!("a linear layer from {} to {width} got {:?}", self.inner, x.dims());
        }
        let x = floats(x)?;
        let norm = norm.map(|(weight, eps)| Ok::<_, candle_core::Error>((floats(weight)?, eps))).transpose()?;
        let norm = norm.as_ref().map(|(weight, eps)| Norm { weight: weight.get(), eps: *eps });
        let residual = residual.map(floats).transpose()?;
        let finish = match &residual {
            Some(residual) => Finish::Add(residual.get()),
            None if gated => Finish::SwiGlu,
            None => Finish::Store,
        };
        let out = match &self.weights {
            Weights::F32(matrix) => matrix.product(x.get(), norm, &finish),
            Weights::Bf16(matrix) => matrix.product(x.get(), norm, &finish),
        };
        Tensor::from_vec(out, (rows, width), &Device::Cpu)
    }
}
