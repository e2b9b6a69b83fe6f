//! What a judge asks of a model, whoever runs it.

use super::checkpoint::Checkpoint;
use super::decoder::Decoder;
use super::foreign::Foreign;
use super::layer::{Precision, WeightStorage};
use super::memory::check_fits;
use super::meter::Meter;
use super::packed::Packed;
use crate::error::{Exit, Failure};
use candle_core::{Device, Tensor};

/// A model that says what comes next.
pub trait Scorer: Send {
    /// Logits of the token after each of `rows`: `(rows.len(), V)`, or `(rows.len(), tokens.len())` for chosen tokens.
    ///
    /// A row's logits depend on the rows it sees and on nothing else in the batch.
    ///
    /// # Errors
    /// A [`Failure`] for a token id beyond the vocabulary.
    fn next_token_logits(&self, packed: &Packed, rows: &[usize], tokens: Option<&[u32]>) -> anyhow::Result<Tensor>;

    /// Measures from now on where the time goes, as far as the model can tell.
    fn set_meter(&mut self, _meter: Meter) {}
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

/// Loads a model of any architecture that a judge may have, for sequences of at most `positions` tokens.
///
/// # Errors
/// As [`Decoder::load`].
pub fn load_scorer(
    checkpoint: &Checkpoint,
    device: &Device,
    precision: Precision,
    storage: WeightStorage,
    positions: usize,
) -> anyhow::Result<Box<dyn Scorer>> {
    let architecture = checkpoint.config().architecture;
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
