//! The score path of a decoder, wherever it runs: packed tokens in, hidden states and logits of some rows out.

use super::checkpoint::Checkpoint;
#[cfg(feature = "cuda")]
use super::cuda::{Card, CudaDecoder};
use super::decoder::Decoder;
#[cfg(feature = "cuda")]
use super::halving::Room;
use super::layer::Precision;
use super::meter::Meter;
use super::packed::Packed;
use candle_core::{Device, Tensor};

/// A loaded model on the CPU or on a GPU. What it returns lies on the CPU, in f32.
pub struct Scorer(Engine);

enum Engine {
    Cpu(Box<Decoder>),
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaDecoder>, Room),
}

impl Scorer {
    /// Reads every tensor of the model onto `device`; a GPU multiplies in bf16 whatever `precision` says.
    ///
    /// # Errors
    /// As [`Decoder::load`]; a [`crate::error::Failure`] for a model that a GPU cannot hold or has no kernels for.
    pub fn load(checkpoint: &Checkpoint, device: &Device, precision: Precision) -> anyhow::Result<Self> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            let decoder = CudaDecoder::load(checkpoint, Card::new(device)?)?;
            return Ok(Self(Engine::Cuda(Box::new(decoder), Room::default())));
        }
        Ok(Self(Engine::Cpu(Box::new(Decoder::load(checkpoint, device, precision)?))))
    }

    /// What a model multiplies in on `device` when `asked` is asked for.
    pub fn precision(device: &Device, asked: Precision) -> Precision {
        if device.is_cuda() { Precision::Bf16 } else { asked }
    }

    /// Measures from now on what [`Scorer::hidden`] and the logits take.
    pub fn set_meter(&mut self, meter: Meter) {
        match &mut self.0 {
            Engine::Cpu(decoder) => decoder.set_meter(meter),
            #[cfg(feature = "cuda")]
            Engine::Cuda(decoder, _) => decoder.set_meter(meter),
        }
    }

    /// The final hidden states, normed, of some rows of a packed batch: `(rows.len(), H)`. A batch that a GPU's memory does not
    /// hold goes through in parts.
    ///
    /// # Errors
    /// As [`Decoder::hidden`], and the GPU's.
    pub fn hidden(&self, packed: &Packed, rows: &[usize]) -> anyhow::Result<Tensor> {
        match &self.0 {
            Engine::Cpu(decoder) => decoder.hidden(packed, rows),
            #[cfg(feature = "cuda")]
            Engine::Cuda(decoder, room) => room.run(packed, rows, &|packed, rows| decoder.hidden(packed, rows)),
        }
    }

    /// Logits of chosen tokens for hidden states of `(R, H)`: `(R, tokens.len())`.
    pub fn logits_of(&self, hidden: &Tensor, tokens: &[u32]) -> anyhow::Result<Tensor> {
        match &self.0 {
            Engine::Cpu(decoder) => Ok(decoder.logits_of(hidden, tokens)?),
            #[cfg(feature = "cuda")]
            Engine::Cuda(decoder, _) => decoder.logits_of(hidden, tokens),
        }
    }

    /// Logits of the whole vocabulary: `(R, V)`.
    pub fn logits(&self, hidden: &Tensor) -> anyhow::Result<Tensor> {
        match &self.0 {
            Engine::Cpu(decoder) => Ok(decoder.logits(hidden)?),
            #[cfg(feature = "cuda")]
            Engine::Cuda(decoder, _) => decoder.logits(hidden),
        }
    }

    /// Floating-point operations per second that matrix products reach at best, measured now: on a GPU a product of 8192 by
    /// 8192, on the CPU operands that stay in the cache.
    ///
    /// # Errors
    /// The GPU's.
    pub fn peak(&self, precision: Precision) -> anyhow::Result<f64> {
        match &self.0 {
            Engine::Cpu(_) => Ok(precision.peak()),
            #[cfg(feature = "cuda")]
            Engine::Cuda(decoder, _) => decoder.peak(8192),
        }
    }
}
