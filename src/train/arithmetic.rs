//! What a training step is made of, and how many floating-point operations its products take.

use super::batch::TrainBatch;
use crate::lm::{Measured, ModelConfig};

/// What the time of a step is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainPart {
    /// Rows of the embedding, angles of the positions, and the gradient of the embedding.
    Embed,
    /// Weights laid out for the products of each way.
    Pack,
    /// Norm and the product that gives queries, keys and values; rotation.
    Qkv,
    Attention,
    /// The product after attention, and the three of the MLP.
    OutputMlp,
    /// Logits, loss, and their gradients.
    Head,
    /// From the gradient of a layer's output to that of attention's.
    OutputMlpBackward,
    AttentionBackward,
    /// From the gradient of queries, keys and values to that of the layer's input.
    QkvBackward,
    /// The gradients of a layer's weights.
    WeightGradients,
    /// Clipping and AdamW.
    Optimizer,
}

impl TrainPart {
    pub const ALL: [TrainPart; 11] = [
        TrainPart::Embed,
        TrainPart::Pack,
        TrainPart::Qkv,
        TrainPart::Attention,
        TrainPart::OutputMlp,
        TrainPart::Head,
        TrainPart::OutputMlpBackward,
        TrainPart::AttentionBackward,
        TrainPart::QkvBackward,
        TrainPart::WeightGradients,
        TrainPart::Optimizer,
    ];

    pub fn name(self) -> &'static str {
        match self {
            TrainPart::Embed => "embed",
            TrainPart::Pack => "pack weights",
            TrainPart::Qkv => "qkv",
            TrainPart::Attention => "attention",
            TrainPart::OutputMlp => "output + MLP",
            TrainPart::Head => "head, both ways",
            TrainPart::OutputMlpBackward => "output + MLP back",
            TrainPart::AttentionBackward => "attention back",
            TrainPart::QkvBackward => "qkv back",
            TrainPart::WeightGradients => "weight gradients",
            TrainPart::Optimizer => "clip + AdamW",
        }
    }
}

impl Measured for TrainPart {
    const COUNT: usize = Self::ALL.len();

    fn index(self) -> usize {
        self as usize
    }
}

/// Floating-point operations of the products that the mathematics of a step asks for, a multiplication and its addition being two:
/// forward once, backward twice, attention over what each row sees, the head for rows with a target. What is computed a second time
/// to save memory does not count.
#[derive(Debug, Clone, PartialEq)]
pub struct Arithmetic {
    /// Of one row, forward, in all layers.
    qkv: f64,
    output_mlp: f64,
    /// For each key that a row sees, in one layer.
    per_key: f64,
    layers: f64,
    /// How far the layers see that do not see everything before.
    windows: Vec<usize>,
    /// Of one row with a target.
    head: f64,
}

impl Arithmetic {
    pub fn new(config: &ModelConfig) -> Self {
        let (hidden, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
        let (queries, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let layers = config.num_layers as f64;
        let windowed: Vec<usize> = config.windows.iter().flatten().copied().collect();
        Self {
            qkv: 2.0 * layers * hidden * (queries + 2 * kv) as f64,
            output_mlp: 2.0 * layers * (queries as f64 * hidden + 3.0 * hidden * inner),
            per_key: 4.0 * queries as f64,
            layers,
            windows: windowed,
            head: 2.0 * hidden * config.vocab_size as f64,
        }
    }

    /// Of a batch, by part; [`TrainPart`]s without products have none.
    pub fn of(&self, batch: &TrainBatch, part: TrainPart) -> f64 {
        let rows = batch.len() as f64;
        let attention = || batch.sequences.iter().map(|rows| self.attention(rows.len() as f64)).sum::<f64>();
        match part {
            TrainPart::Qkv | TrainPart::QkvBackward => self.qkv * rows,
            TrainPart::OutputMlp | TrainPart::OutputMlpBackward => self.output_mlp * rows,
            TrainPart::WeightGradients => (self.qkv + self.output_mlp) * rows,
            TrainPart::Attention => attention(),
            TrainPart::AttentionBackward => 2.0 * attention(),
            TrainPart::Head => 3.0 * self.head * batch.target_count() as f64,
            TrainPart::Embed | TrainPart::Pack | TrainPart::Optimizer => 0.0,
        }
    }

    /// Of a batch, all parts together.
    pub fn total(&self, batch: &TrainBatch) -> f64 {
        TrainPart::ALL.iter().map(|part| self.of(batch, *part)).sum()
    }

    /// Scores and values of one sequence, forward.
    fn attention(&self, rows: f64) -> f64 {
        let seen = |window: f64| window * (window + 1.0) / 2.0 + (rows - window) * window;
        let whole = (self.layers - self.windows.len() as f64) * seen(rows);
        let windowed: f64 = self.windows.iter().map(|&window| seen(rows.min(window as f64))).sum();
        self.per_key * (whole + windowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_counted() {
        let config = ModelConfig::from_json(
            r#"{"model_type": "llama", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1}"#,
        )
        .unwrap();
        let mut batch = TrainBatch::default();
        batch.push(&[1, 2, 3], [Some(2), None, Some(1)]);
        batch.push(&[4], [None]);
        let arithmetic = Arithmetic::new(&config);
        let check = |part, expect: f64| assert_eq!(arithmetic.of(&batch, part), expect, "{part:?}");
        // Four rows; queries of 4 and keys and values of 2 each from 4 numbers, in two layers.
        check(TrainPart::Qkv, 4.0 * 2.0 * 2.0 * 4.0 * 8.0);
        check(TrainPart::OutputMlp, 4.0 * 2.0 * 2.0 * (16.0 + 72.0));
        // The rows see 1, 2, 3 and 1 keys, each for a score and a value of 4 numbers.
        check(TrainPart::Attention, 2.0 * 7.0 * 2.0 * 2.0 * 4.0);
        check(TrainPart::Head, 3.0 * 2.0 * 2.0 * 4.0 * 10.0);
        check(TrainPart::Optimizer, 0.0);
        let forward =
            [TrainPart::Qkv, TrainPart::OutputMlp, TrainPart::Attention].map(|part| arithmetic.of(&batch, part));
        let expect = 3.0 * forward.iter().sum::<f64>() + arithmetic.of(&batch, TrainPart::Head);
        assert_eq!(arithmetic.total(&batch), expect);
        let windowed = Arithmetic::new(&ModelConfig { windows: vec![Some(2), None], ..config });
        assert_eq!(windowed.of(&batch, TrainPart::Attention), (6.0 + 7.0) * 2.0 * 2.0 * 4.0);
    }
}
