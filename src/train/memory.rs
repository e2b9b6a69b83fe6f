//! How much memory training takes, before it is taken.

use super::head::{CHUNK, ROWS};
use super::model::TrainOptions;
use super::panels::spread;
use crate::config::ByteSize;
use crate::error::{Exit, Failure};
use crate::lm::{ModelConfig, Precision};

/// Bytes by what they are for; an estimate of the most that are held at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryEstimate {
    pub parameters: u64,
    pub gradients: u64,
    pub moments: u64,
    /// What is kept of a forward pass for the way back, and buffers.
    pub activations: u64,
}

impl MemoryEstimate {
    /// For parts of at most `tokens` tokens, on as many threads as there are now. The buffers are those of [`TrainModel`](super::TrainModel).
    pub fn new(config: &ModelConfig, options: TrainOptions, tokens: usize) -> Self {
        let count = parameter_count(config);
        let (queries, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let (hidden, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let (float, operand) = (4, if options.precision == Precision::F32 { 4 } else { 2 });
        // What a token keeps in each layer: its input, what attention and MLP read and gave.
        let raw = if config.has_qk_norm() { queries + kv } else { 0 };
        let layer = 2 * hidden + 2 * (queries + kv) + spread(2 * inner) + raw;
        let kept = if options.recompute { config.num_layers * hidden + layer } else { config.num_layers * layer };
        // What all layers share: rows as they are, and rows laid out to be multiplied.
        let rows = 4 * hidden + 5 * queries + config.head_dim;
        let gate_up = if operand == float { 0 } else { 2 * inner };
        let operands = 4 * hidden + gate_up + inner + 2 * queries + 2 * kv;
        let weights = hidden * (2 * queries + 2 * kv) + 3 * hidden * inner;
        // The head: its weights for both ways, a chunk of rows with their logits, a block of logits for each thread.
        let chunk = tokens.min((CHUNK / vocab).max(ROWS));
        let head = operand * (2 * vocab * hidden + chunk * (vocab + hidden))
            + 2 * float * chunk * hidden
            + rayon::current_num_threads() * ROWS * vocab * (float + operand);
        let activations = tokens * (float * (kept + rows) + operand * operands) + operand * weights + head;
        Self { parameters: 4 * count, gradients: 4 * count, moments: 8 * count, activations: activations as u64 }
    }

    pub fn total(&self) -> u64 {
        self.parameters + self.gradients + self.moments + self.activations
    }
}

/// How many trainable numbers a model has.
pub fn parameter_count(config: &ModelConfig) -> u64 {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let bias = |has: bool, size: usize| if has { size } else { 0 };
    let attention = hidden * (q + 2 * kv) + q * hidden;
    let biases = bias(config.qkv_bias, q + 2 * kv)
        + bias(config.output_bias, hidden)
        + bias(config.mlp_bias, 2 * inner + hidden);
    let norms = 2 * hidden + bias(config.has_qk_norm(), 2 * config.head_dim);
    let layer = attention + 3 * hidden * inner + biases + norms;
    let tables = if config.tied_head { 1 } else { 2 };
    (config.num_layers * layer + tables * config.vocab_size * hidden + hidden) as u64
}

/// Whether a stage fits into `available` bytes, if that is known: `parts` are what it takes and for what, the models first, and
/// `hint` says how to take less for the others.
///
/// # Errors
/// A [`Failure`] with [`Exit::Usage`] if it does not.
pub fn check<const N: usize>(
    stage: &str,
    parts: [(&str, u64); N],
    hint: &str,
    available: Option<u64>,
) -> anyhow::Result<()> {
    let total = parts.iter().map(|(_, bytes)| bytes).sum();
    let Some(available) = available.filter(|&available| total > available) else { return Ok(()) };
    let listed: Vec<String> = parts.iter().map(|(what, bytes)| format!("{} for {what}", ByteSize(*bytes))).collect();
    let message = format!(
        "`{stage}` would take about {} of memory ({}), and {} are free",
        ByteSize(total),
        listed.join(", "),
        ByteSize(available)
    );
    let models = parts.first().map_or(0, |(_, bytes)| *bytes);
    let hint = if models > available { "choose a smaller model or a larger machine" } else { hint };
    Err(Failure::new(Exit::Usage, message).hint(hint).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::hint_of;
    use crate::lm::Parameters;

    #[test]
    fn parameters_are_counted_as_they_are_made() {
        for (architecture, tied, bias) in
            [("llama", true, false), ("llama", false, true), ("qwen2", false, false), ("qwen3", true, false)]
        {
            let config = ModelConfig::from_json(&format!(
                r#"{{"model_type": "{architecture}", "vocab_size": 30, "hidden_size": 16, "intermediate_size": 20, "attention_bias": {bias},
                "mlp_bias": {bias}, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": {tied}}}"#
            ))
            .unwrap();
            assert_eq!(parameter_count(&config), Parameters::zeros(&config).count() as u64, "{architecture}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |available| check("ppo", [("weights", 16 << 30), ("rollouts", 8 << 30)], "lower it", available);
        assert!(check(None).is_ok() && check(Some(24 << 30)).is_ok());
        let error = check(Some(20 << 30)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`ppo` would take about 24.0 GiB of memory (16.0 GiB for weights, 8.0 GiB for rollouts), and 20.0 GiB are free"
        );
        assert_eq!(hint_of(&error), Some("lower it"));
        let error = check(Some(10 << 30)).unwrap_err();
        assert!(hint_of(&error).is_some_and(|hint| hint.contains("smaller model")));
    }

    #[test]
    fn recomputing_takes_less() {
        let config = ModelConfig::from_json(
            r#"{"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 12,
            "num_attention_heads": 4}"#,
        )
        .unwrap();
        let total = |recompute| {
            MemoryEstimate::new(&config, TrainOptions { recompute, ..TrainOptions::default() }, 4096).total()
        };
        assert!(total(true) < total(false) / 2, "{} {}", total(true), total(false));
    }
}
