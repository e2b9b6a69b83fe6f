//! The decoder of Llama, Qwen2 and Qwen3: token ids in, hidden states out.

use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::layer::{Layer, Precision, Projection, Projections, Weights};
use super::meter::{Meter, Part};
use super::ops::{self, AttentionOptions, Heads};
use super::packed::Packed;
use crate::error::{Exit, Failure};
use candle_core::{Device, Result, Tensor};

/// A loaded model.
pub struct Decoder {
    config: ModelConfig,
    device: Device,
    /// `(V, H)`.
    embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: Tensor,
    /// `(V, H)`; `None` where the embedding serves.
    head: Option<Tensor>,
    rope_frequencies: Vec<f32>,
    precision: Precision,
    meter: Meter,
}

impl Decoder {
    /// Reads every tensor of the model onto `device`, to multiply in `precision`.
    ///
    /// # Errors
    /// A [`Failure`] naming a tensor that is missing, misshapen or cut off, or the instructions that are lacking.
    pub fn load(checkpoint: &Checkpoint, device: &Device, precision: Precision) -> anyhow::Result<Self> {
        if !device.is_cpu() {
            return Err(Failure::new(Exit::Usage, "the decoder runs on the CPU only")
                .hint("use `--device cpu`")
                .into());
        }
        if !precision.usable() {
            return Err(Failure::new(Exit::Usage, format!("this processor cannot multiply in {precision:?}"))
                .hint("use f32")
                .into());
        }
        let config = checkpoint.config().clone();
        let reader = Reader { checkpoint, device, precision };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let layers = (0..config.num_layers).map(|index| reader.layer(&config, index)).collect::<anyhow::Result<_>>()?;
        Ok(Self {
            embedding: reader.tensor("model.embed_tokens.weight", &[vocab, hidden])?,
            layers,
            final_norm: reader.tensor("model.norm.weight", &[hidden])?,
            head: if config.tied_head { None } else { Some(reader.tensor("lm_head.weight", &[vocab, hidden])?) },
            rope_frequencies: config.rope_frequencies(),
            device: device.clone(),
            precision,
            meter: Meter::default(),
            config,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Measures from now on what [`Decoder::hidden`] and the logits take.
    pub fn set_meter(&mut self, meter: Meter) {
        self.meter = meter;
    }

    /// The final hidden states, normed, of some rows of a packed batch: `(rows.len(), H)`.
    ///
    /// Every row's result depends on the rows it sees and on nothing else in the batch.
    ///
    /// # Errors
    /// A [`Failure`] for a token id beyond the vocabulary; candle's error for a row beyond the batch.
    pub fn hidden(&self, packed: &Packed, rows: &[usize]) -> anyhow::Result<Tensor> {
        if let Some(token) = packed.tokens().iter().find(|token| **token as usize >= self.config.vocab_size) {
            let message = format!("token {token} is beyond the model's vocabulary of {}", self.config.vocab_size);
            return Err(Failure::new(Exit::Usage, message).hint("the tokenizer belongs to another model").into());
        }
        let (mut x, angles) = self.meter.time(Part::Embed, || self.embed(packed))?;
        let eps = self.config.rms_norm_eps;
        for (index, layer) in self.layers.iter().enumerate() {
            // In the last layer every row still gives keys and values, but only the rows asked for go on.
            let queries = (index + 1 == self.layers.len()).then_some(rows);
            let options = AttentionOptions {
                packed,
                heads: self.heads(),
                angles: &angles,
                head_norms: layer.head_norms.as_ref().map(|weights| (weights, eps)),
                window: layer.window,
                precision: self.precision,
                meter: &self.meter,
            };
            x = layer.forward(&x, queries, &options, eps)?;
        }
        Ok(self.meter.time(Part::Norm, || ops::rms_norm(&x, &self.final_norm, eps))?)
    }

    /// Logits of chosen tokens for hidden states of `(R, H)`: `(R, tokens.len())`.
    pub fn logits_of(&self, hidden: &Tensor, tokens: &[u32]) -> Result<Tensor> {
        self.meter.time(Part::Head, || {
            let ids = Tensor::from_slice(tokens, tokens.len(), &self.device)?;
            hidden.matmul(&self.head().index_select(&ids, 0)?.t()?)
        })
    }

    /// Logits of the whole vocabulary: `(R, V)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.meter.time(Part::Head, || hidden.matmul(&self.head().t()?))
    }

    fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn heads(&self) -> Heads {
        Heads { query: self.config.num_heads, kv: self.config.num_kv_heads, dim: self.config.head_dim }
    }

    /// The first layer's input, `(T, H)`, and the angles of the positions.
    fn embed(&self, packed: &Packed) -> Result<(Tensor, (Tensor, Tensor))> {
        let ids = Tensor::from_slice(packed.tokens(), packed.len(), &self.device)?;
        Ok((self.embedding.index_select(&ids, 0)?, self.angles(packed.positions())?))
    }

    /// Cosines and sines of every position's angles, each `(T, D / 2)`.
    fn angles(&self, positions: &[u32]) -> Result<(Tensor, Tensor)> {
        let shape = (positions.len(), self.rope_frequencies.len());
        let angles =
            positions.iter().flat_map(|&position| self.rope_frequencies.iter().map(move |f| position as f32 * f));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        Ok((Tensor::from_vec(cos, shape, &self.device)?, Tensor::from_vec(sin, shape, &self.device)?))
    }
}

/// Reads tensors from a checkpoint onto a device.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    precision: Precision,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> anyhow::Result<Tensor> {
        Ok(self.checkpoint.tensor(name, shape)?.to_device(self.device)?)
    }

    /// Several projections of one input, `(module, rows)` each, stacked into one weight and one bias.
    fn stacked(
        &self,
        prefix: &str,
        modules: &[(&str, usize)],
        columns: usize,
        bias: bool,
    ) -> anyhow::Result<Projection> {
        let read = |kind: &str, shape: &dyn Fn(usize) -> Vec<usize>| -> anyhow::Result<Tensor> {
            let parts = modules
                .iter()
                .map(|(module, rows)| self.tensor(&format!("{prefix}.{module}.{kind}"), &shape(*rows)))
                .collect::<anyhow::Result<Vec<_>>>()?;
            Ok(Tensor::cat(&parts, 0)?)
        };
        let weight = read("weight", &|rows| vec![rows, columns])?;
        Ok(Projection { weight, bias: if bias { Some(read("bias", &|rows| vec![rows])?) } else { None } })
    }

    fn layer(&self, config: &ModelConfig, index: usize) -> anyhow::Result<Layer> {
        let prefix = format!("model.layers.{index}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let norm = |name: &str, size: usize| self.tensor(&format!("{prefix}.{name}.weight"), &[size]);
        let head_norms = if config.has_qk_norm() {
            let weights = [norm("self_attn.q_norm", config.head_dim)?, norm("self_attn.k_norm", config.head_dim)?];
            Some(Tensor::stack(&weights, 0)?)
        } else {
            None
        };
        let qkv = [("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        let gate_up = [("mlp.gate_proj", inner), ("mlp.up_proj", inner)];
        let projections = Projections {
            qkv: self.stacked(&prefix, &qkv, hidden, config.qkv_bias)?,
            output: self.stacked(&prefix, &[("self_attn.o_proj", hidden)], q, config.output_bias)?,
            gate_up: self.stacked(&prefix, &gate_up, hidden, config.mlp_bias)?,
            down: self.stacked(&prefix, &[("mlp.down_proj", hidden)], inner, config.mlp_bias)?,
        };
        Ok(Layer {
            attention_norm: norm("input_layernorm", hidden)?,
            head_norms,
            mlp_norm: norm("post_attention_layernorm", hidden)?,
            weights: Weights::pack(&projections, self.precision)?,
            window: config.windows.get(index).copied().flatten(),
        })
    }
}
