//! A linear layer.

use candle_core::{Result, Tensor};

/// `y = x W^T + b`.
pub(super) struct Linear {
    /// `(out, in)`.
    weight: Tensor,
    /// `(out)`.
    bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// `(T, in)` to `(T, out)`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
