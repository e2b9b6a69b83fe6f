//! What a judge asks of a model, whoever runs it.

use super::checkpoint::Checkpoint;
#[cfg(feature = "cuda")]
use super::cuda::{Card, CudaDecoder};
use super::decoder::Decoder;
use super::foreign::Foreign;
#[cfg(feature = "cuda")]
use super::halving::Room;
use super::layer::{Precision, WeightStorage};
use super::memory::check_fits;
use super::meter::Meter;
use super::packed::Packed;
use crate::error::{Exit, Failure};
use candle_core::{Device, Tensor};

/// A model that says what comes next. What it returns lies on the CPU, in f32.
pub trait Scorer: Send {
    /// Logits of the token after each of `rows`: `(rows.len(), V)`, or `(rows.len(), tokens.len())` for chosen tokens.
    ///
    /// A row's logits depend on the rows it sees and on nothing else in the batch.
    ///
    /// # Errors
    /// A [`Failure`] for a token id beyond the vocabulary; a GPU's errors.
    fn next_token_logits(&self, packed: &Packed, rows: &[usize], tokens: Option<&[u32]>) -> anyhow::Result<Tensor>;

    /// Measures from now on where the time goes, as far as the model can tell.
    fn set_meter(&mut self, _meter: Meter) {}

    /// Floating-point operations per second that matrix products reach at best where the model runs, measured now: on the CPU
    /// with operands that stay in the cache, on a GPU in a product of 8192 by 8192.
    ///
    /// # Errors
    /// A GPU's.
    fn peak(&self, precision: Precision) -> anyhow::Result<f64> {
        Ok(precision.peak())
    }
}

impl Scorer for Decoder {
    fn next_token_logits(&self, packed: &Packed, rows: &[usize], tokens: Option<&[u32]>) -> anyhow::Result<Tensor> {
        let hidden = self.hidden(packed, rows)?;
        Ok(match tokens {
            Some(tokens) => self.logits_of(&hidden, tokens)?,
            None => self.logits(&hidden)?,
        })
    }

    fn set_meter(&mut self, meter: Meter) {
        Decoder::set_meter(self, meter);
    }
}

/// The decoder on a GPU. A batch that its memory does not hold goes through in parts.
#[cfg(feature = "cuda")]
struct OnGpu {
    decoder: CudaDecoder,
    room: Room,
}

#[cfg(feature = "cuda")]
impl Scorer for OnGpu {
    fn next_token_logits(&self, packed: &Packed, rows: &[usize], tokens: Option<&[u32]>) -> anyhow::Result<Tensor> {
        let hidden = self.room.run(packed, rows, &|packed, rows| self.decoder.hidden(packed, rows))?;
        match tokens {
            Some(tokens) => self.decoder.logits_of(&hidden, tokens),
            None => self.decoder.logits(&hidden),
        }
    }

    fn set_meter(&mut self, meter: Meter) {
        self.decoder.set_meter(meter);
    }

    fn peak(&self, _: Precision) -> anyhow::Result<f64> {
        self.decoder.peak(8192)
    }
}

/// What a model multiplies in on `device` when `asked` is asked for: bf16 on every GPU.
pub fn precision_on(device: &Device, asked: Precision) -> Precision {
    if device.is_cuda() { Precision::Bf16 } else { asked }
}

/// Loads a model of any architecture that a judge may have, for sequences of at most `positions` tokens.
///
/// A GPU holds and multiplies the weights in bf16, whatever `precision` and `storage` say.
///
/// # Errors
/// As [`Decoder::load`]; a [`Failure`] for a model that a GPU cannot hold or has no kernels for.
pub fn load_scorer(
    checkpoint: &Checkpoint,
    device: &Device,
    precision: Precision,
    storage: WeightStorage,
    positions: usize,
) -> anyhow::Result<Box<dyn Scorer>> {
    let architecture = checkpoint.config().architecture;
    if device.is_cuda() && !architecture.decoded() {
        let message = format!("models of architecture `{}` are judges on the CPU only", architecture.name());
        return Err(Failure::new(Exit::Usage, message).hint("use `--device cpu`").into());
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let decoder = CudaDecoder::load(checkpoint, Card::new(device)?)?;
        return Ok(Box::new(OnGpu { decoder, room: Room::default() }));
    }
    if architecture.decoded() {
        return Ok(Box::new(Decoder::load_as(checkpoint, device, precision, storage)?));
    }
    if (precision, storage) != (Precision::F32, WeightStorage::Widened) {
        let message =
            format!("models of architecture `{}` are judges in f32 and with widened weights only", architecture.name());
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let config = checkpoint.config();
    let layers = config.num_layers as u64 * config.layer_size();
    check_fits(checkpoint, 4 * (config.embedding_size() + layers))?;
    Ok(Box::new(Foreign::load(checkpoint, device, positions)?))
}
