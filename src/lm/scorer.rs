//! What a judge asks of a model, whoever runs it.

use super::checkpoint::Checkpoint;
use super::decoder::Decoder;
use super::foreign::Foreign;
use super::layer::Precision;
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
    positions: usize,
) -> anyhow::Result<Box<dyn Scorer>> {
    let architecture = checkpoint.config().architecture;
    if architecture.decoded() {
        return Ok(Box::new(Decoder::load(checkpoint, device, precision)?));
    }
    if precision != Precision::F32 {
        let message = format!("models of architecture `{}` are judges in f32 only", architecture.name());
        return Err(Failure::new(Exit::Usage, message).hint("use f32").into());
    }
    Ok(Box::new(Foreign::load(checkpoint, device, positions)?))
}
