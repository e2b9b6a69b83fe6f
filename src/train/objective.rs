//! What is minimised: a function of what the model says of each row's target.
//!
//! A row's distribution enters a loss through three numbers only ([`Prediction`]), so an objective is the loss of a row
//! and its slopes along them. The head turns slopes into gradients of the logits and never shows the logits themselves.

/// What the model says of one row's target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prediction {
    /// ln p(target).
    pub log_probability: f32,
    /// -Σ p ln p over the vocabulary, in nats; zero where nobody asked for it.
    pub entropy: f32,
    /// ln Σ exp(logit), what a z-loss holds near zero.
    pub log_normaliser: f32,
}

/// The loss of one row and its derivatives.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowLoss {
    pub loss: f64,
    /// d loss / d log-probability.
    pub log_probability: f32,
    /// d loss / d entropy; used only where [`Objective::ENTROPY`].
    pub entropy: f32,
    /// d loss / d log-normaliser.
    pub log_normaliser: f32,
}

/// A loss that is a sum over rows.
pub trait Objective: Sync {
    /// Whether entropies are needed; they cost a little.
    const ENTROPY: bool;

    /// The loss of the batch's row `row`, which has a target.
    fn row(&self, row: usize, prediction: &Prediction) -> RowLoss;
}

/// Negative log-likelihood, with PaLM's z-loss `z_loss (ln Z)^2` if that is not zero; everything times `scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy {
    pub scale: f32,
    pub z_loss: f32,
}

impl Objective for CrossEntropy {
    const ENTROPY: bool = false;

    fn row(&self, _row: usize, prediction: &Prediction) -> RowLoss {
        let Prediction { log_probability, log_normaliser, .. } = *prediction;
        let loss = self.z_loss * log_normaliser * log_normaliser - log_probability;
        RowLoss {
            loss: f64::from(self.scale) * f64::from(loss),
            log_probability: -self.scale,
            entropy: 0.0,
            log_normaliser: self.scale * self.z_loss * 2.0 * log_normaliser,
        }
    }
}
