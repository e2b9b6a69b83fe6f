//! One layer of the decoder: attention and MLP, with its weights packed in the precision they multiply in.

use super::kernels::matrix::{AfterAttention, Norm, PackedMatrix};
use super::kernels::peak::peak;
use super::kernels::tile::{Bf16, Element};
use super::meter::Part;
use super::ops::{self, AttentionOptions, floats};
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
    /// `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether this processor has the instructions for it.
    pub fn usable(self) -> bool {
        match self {
            Self::F32 => f32::available(),
            Self::Bf16 => Bf16::available(),
        }
    }

    /// Floating-point operations per second that all threads together reach in products that never leave the cache.
    /// Takes a fifth of a second; 0 where it is not [usable](Self::usable).
    pub fn peak(self) -> f64 {
        match self {
            _ if !self.usable() => 0.0,
            Self::F32 => peak::<f32>(),
            Self::Bf16 => peak::<Bf16>(),
        }
    }
}

/// A weight of `(out, in)` and, where the model has it, a bias of `(out)`.
pub(super) struct Projection {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

/// The linear parts of a layer as read.
pub(super) struct Projections {
    /// Queries, keys and values, stacked.
    pub qkv: Projection,
    pub output: Projection,
    /// Gate and up, stacked.
    pub gate_up: Projection,
    pub down: Projection,
}

/// A layer, ready to run.
pub(super) struct Layer {
    pub attention_norm: Tensor,
    /// `(2, D)`: the weights of the norms over queries' and keys' heads, where the model has them.
    pub head_norms: Option<Tensor>,
    pub mlp_norm: Tensor,
    pub weights: Weights,
    /// How many positions back a row sees, its own included; `None` for all.
    pub window: Option<usize>,
}

/// A layer's projections in one precision.
pub(super) enum Weights {
    F32(Box<Packed<f32>>),
    Bf16(Box<Packed<Bf16>>),
}

pub(super) struct Packed<E> {
    qkv: PackedMatrix<E>,
    output: PackedMatrix<E>,
    gate_up: PackedMatrix<E>,
    down: PackedMatrix<E>,
}

impl Weights {
    pub(super) fn pack(projections: &Projections, precision: Precision) -> Result<Self> {
        if !precision.usable() {
            bail!("this processor cannot multiply in {precision:?}");
        }
        Ok(match precision {
            Precision::F32 => Self::F32(Box::new(Packed::new(projections)?)),
            Precision::Bf16 => Self::Bf16(Box::new(Packed::new(projections)?)),
        })
    }
}

impl<E: Element> Packed<E> {
    fn new(projections: &Projections) -> Result<Self> {
        Ok(Self {
            qkv: pack(&projections.qkv, PackedMatrix::new)?,
            output: pack(&projections.output, PackedMatrix::new)?,
            gate_up: pack(&projections.gate_up, PackedMatrix::interleaved)?,
            down: pack(&projections.down, PackedMatrix::new)?,
        })
    }
}

fn pack<E>(
    projection: &Projection,
    pack: impl Fn(&[f32], usize, Option<&[f32]>) -> PackedMatrix<E>,
) -> Result<PackedMatrix<E>> {
    let (out, inner) = projection.weight.dims2()?;
    if projection.bias.as_ref().is_some_and(|bias| bias.dims() != [out]) {
        bail!("a bias does not have one number for each of {out} outputs");
    }
    let weight = floats(&projection.weight)?;
    let bias = projection.bias.as_ref().map(floats).transpose()?;
    Ok(pack(weight.get(), inner, bias.as_ref().map(|bias| bias.get())))
}

impl Layer {
    /// `(T, H)` to `(T, H)`; with `rows`, only those of the result: `(rows.len(), H)`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        rows: Option<&[usize]>,
        options: &AttentionOptions<'_>,
        eps: f32,
    ) -> Result<Tensor> {
        match &self.weights {
            Weights::F32(packed) => self.run(packed, x, rows, options, eps),
            Weights::Bf16(packed) => self.run(packed, x, rows, options, eps),
        }
    }

    fn run<E: Element>(
        &self,
        packed: &Packed<E>,
        x: &Tensor,
        rows: Option<&[usize]>,
        options: &AttentionOptions<'_>,
        eps: f32,
    ) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        if self.attention_norm.dims() != [hidden] || self.mlp_norm.dims() != [hidden] {
            bail!("a layer got rows of {hidden}");
        }
        let meter = options.meter;
        let qkv = {
            let (x, weight) = (floats(x)?, floats(&self.attention_norm)?);
            let norm = Norm { weight: weight.get(), eps };
            meter.count(Part::Qkv, || packed.qkv.operations(tokens));
            meter.time(Part::Qkv, || packed.qkv.product(x.get(), Some(norm), meter))
        };
        let qkv = Tensor::from_vec(qkv, (tokens, packed.qkv.width()), &Device::Cpu)?;
        let attended = meter.time(Part::Attention, || ops::attention(&qkv, rows, options))?;
        let x = match rows {
            Some(rows) => {
                let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
                x.index_select(&Tensor::from_slice(&rows, rows.len(), x.device())?, 0)?
            }
            None => x.clone(),
        };
        let (values, attended, weight) = (floats(&x)?, floats(&attended)?, floats(&self.mlp_norm)?);
        let rest = AfterAttention {
            output: &packed.output,
            norm: Norm { weight: weight.get(), eps },
            gate_up: &packed.gate_up,
            down: &packed.down,
            meter,
        };
        meter.count(Part::OutputMlp, || {
            let rows = values.get().len() / hidden;
            packed.output.operations(rows) + packed.gate_up.operations(rows) + packed.down.operations(rows)
        });
        let out = meter.time(Part::OutputMlp, || rest.run(attended.get(), values.get()));
        Tensor::from_vec(out, x.shape(), &Device::Cpu)
    }
}
