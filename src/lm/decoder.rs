//! The decoder of Llama, Qwen2 and Qwen3: token ids in, hidden states out.

use super::cache::KvCache;
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::kernels::matrix::PackedMatrix;
use super::layer::{Layer, Precision, Projection, Projections, WeightStorage, Weights};
use super::memory::{check_fits, keep_freed_memory};
use super::meter::{Meter, Part};
use super::ops::{self, AttentionOptions, CachedLayer, Heads, floats};
use super::packed::Packed;
use super::parameters::Parameters;
use crate::error::{Exit, Failure};
use anyhow::Context;
use candle_core::{Device, Result, Tensor, bail};
use std::sync::OnceLock;

/// A loaded model.
pub struct Decoder {
    config: ModelConfig,
    device: Device,
    /// `(V, H)`.
    embedding: Tensor,
    layers: Layers,
    final_norm: Tensor,
    /// `(V, H)`; `None` where the embedding serves.
    head: Option<Tensor>,
    /// The head as [`Decoder::logits`] multiplies with it.
    packed_head: OnceLock<PackedMatrix<f32>>,
    rope_frequencies: Vec<f32>,
    precision: Precision,
    pub(super) meter: Meter,
}

/// A decoder's layers.
enum Layers {
    /// Read, all of them.
    Widened(Vec<Layer>),
    /// To be read from here when their turn comes.
    Kept(Checkpoint),
}

impl Decoder {
    /// Reads every tensor of the model onto `device`, to multiply in `precision`.
    ///
    /// # Errors
    /// A [`Failure`] naming a tensor that is missing, misshapen or cut off, or the instructions that are lacking.
    pub fn load(checkpoint: &Checkpoint, device: &Device, precision: Precision) -> anyhow::Result<Self> {
        Self::load_as(checkpoint, device, precision, WeightStorage::Widened)
    }

    /// [`Decoder::load`], with a choice of how layers are held.
    pub fn load_as(
        checkpoint: &Checkpoint,
        device: &Device,
        precision: Precision,
        storage: WeightStorage,
    ) -> anyhow::Result<Self> {
        if !device.is_cpu() {
            return Err(Failure::new(Exit::Usage, "the decoder runs on the CPU only")
                .hint("use `--device cpu`")
                .into());
        }
        if !checkpoint.config().architecture.decoded() {
            let name = checkpoint.config().architecture.name();
            return Err(Failure::new(
                Exit::Usage,
                format!("models of architecture `{name}` can judge and nothing else"),
            )
            .hint("the decoder implements `llama`, `mistral`, `qwen2` and `qwen3`")
            .into());
        }
        check_usable(precision)?;
        keep_freed_memory();
        let config = checkpoint.config();
        let reader = Reader { source: Source::Checkpoint(checkpoint), device, precision };
        let in_memory = if storage == WeightStorage::Kept { 1 } else { config.num_layers as u64 };
        let layer = in_memory * config.layer_size() * precision.bytes();
        check_fits(checkpoint, 4 * config.embedding_size() + layer)?;
        // Kept or not, every layer is read once now: what is wrong with a model is said before any work.
        let mut layers = Vec::new();
        for index in 0..config.num_layers {
            let layer = reader.layer(config, index)?;
            if storage == WeightStorage::Widened {
                layers.push(layer);
            }
        }
        let layers = match storage {
            WeightStorage::Widened => Layers::Widened(layers),
            WeightStorage::Kept => Layers::Kept(checkpoint.clone()),
        };
        Self::around(layers, config, &reader)
    }

    /// A decoder of weights in training, as they are now: it keeps a copy, packed for products.
    ///
    /// # Errors
    /// A [`Failure`] when the parameters are not the configuration's, or the instructions are lacking.
    pub fn from_parameters(
        config: &ModelConfig,
        parameters: &Parameters,
        precision: Precision,
    ) -> anyhow::Result<Self> {
        parameters.check(config)?;
        check_usable(precision)?;
        let reader = Reader { source: Source::Parameters(parameters), device: &Device::Cpu, precision };
        let layers = (0..config.num_layers).map(|index| reader.layer(config, index)).collect::<anyhow::Result<_>>()?;
        Self::around(Layers::Widened(layers), config, &reader)
    }

    /// Adds what stands before and behind the layers.
    fn around(layers: Layers, config: &ModelConfig, reader: &Reader<'_>) -> anyhow::Result<Self> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        Ok(Self {
            embedding: reader.tensor("model.embed_tokens.weight", &[vocab, hidden])?,
            layers,
            final_norm: reader.tensor("model.norm.weight", &[hidden])?,
            head: if config.tied_head { None } else { Some(reader.tensor("lm_head.weight", &[vocab, hidden])?) },
            packed_head: OnceLock::new(),
            rope_frequencies: config.rope_frequencies(),
            device: reader.device.clone(),
            precision: reader.precision,
            meter: Meter::default(),
            config: config.clone(),
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Measures from now on what [`Decoder::hidden`] and the logits take.
    pub fn set_meter(&mut self, meter: Meter) {
        self.meter = meter;
    }

    /// What all layers' weights take in memory; `None` where they are read anew for every batch.
    pub(super) fn weight_bytes(&self) -> Option<u64> {
        match &self.layers {
            Layers::Widened(layers) => Some(layers.len() as u64 * self.config.layer_size() * self.precision.bytes()),
            Layers::Kept(_) => None,
        }
    }

    /// The final hidden states, normed, of some rows of a packed batch: `(rows.len(), H)`.
    ///
    /// Every row's result depends on the rows it sees and on nothing else in the batch.
    ///
    /// # Errors
    /// A [`Failure`] for a token id beyond the vocabulary; candle's error for a row beyond the batch.
    pub fn hidden(&self, packed: &Packed, rows: &[usize]) -> anyhow::Result<Tensor> {
        self.forward(packed, rows, None)
    }

    /// An empty cache, for one sequence.
    pub fn cache(&self) -> KvCache {
        KvCache::new(&self.config, self.precision)
    }

    /// Memory that the cache of a sequence of so many tokens takes, in bytes.
    pub fn cache_bytes(&self, tokens: usize) -> usize {
        KvCache::bytes(&self.config, self.precision, tokens)
    }

    /// Continues sequences by some tokens each, and gives the final hidden state, normed, of each one's last token:
    /// `(caches.len(), H)`. A prompt is a continuation of an empty cache; a decoding step is one token for each.
    ///
    /// A sequence's result does not depend on the others, and is what [`Decoder::hidden`] gives for all of it at once.
    /// After an error the caches are of no use.
    ///
    /// # Errors
    /// As [`Decoder::hidden`]; also when there is not a cache for each continuation, or a continuation is empty.
    pub fn extend(&self, caches: &mut [&mut KvCache], continuations: &[&[u32]]) -> anyhow::Result<Tensor> {
        if caches.len() != continuations.len() || continuations.iter().any(|tokens| tokens.is_empty()) {
            anyhow::bail!("{} caches got {} continuations, or an empty one", caches.len(), continuations.len());
        }
        let mut packed = Packed::default();
        let mut last = Vec::with_capacity(caches.len());
        for (cache, tokens) in caches.iter().zip(continuations) {
            packed.resume(cache.len(), tokens);
            last.push(packed.len() - 1);
        }
        let hidden = self.forward(&packed, &last, Some(&mut *caches))?;
        for (cache, tokens) in caches.iter_mut().zip(continuations) {
            cache.grow(tokens.len());
        }
        Ok(hidden)
    }

    fn forward(
        &self,
        packed: &Packed,
        rows: &[usize],
        mut caches: Option<&mut [&mut KvCache]>,
    ) -> anyhow::Result<Tensor> {
        if let Some(token) = packed.tokens().iter().find(|token| **token as usize >= self.config.vocab_size) {
            let message = format!("token {token} is beyond the model's vocabulary of {}", self.config.vocab_size);
            return Err(Failure::new(Exit::Usage, message).hint("the tokenizer belongs to another model").into());
        }
        let (mut x, angles) = self.meter.time(Part::Embed, || self.embed(packed))?;
        let eps = self.config.rms_norm_eps;
        for index in 0..self.config.num_layers {
            let read;
            let layer = match &self.layers {
                Layers::Widened(layers) => &layers[index],
                Layers::Kept(checkpoint) => {
                    let source = Source::Checkpoint(checkpoint);
                    let reader = Reader { source, device: &self.device, precision: self.precision };
                    read = self.meter.time(Part::Widen, || reader.layer(&self.config, index))?;
                    &read
                }
            };
            // In the last layer every row still gives keys and values, but only the rows asked for go on.
            let queries = (index + 1 == self.config.num_layers).then_some(rows);
            let options = AttentionOptions {
                packed,
                heads: Heads::of(&self.config),
                angles: &angles,
                head_norms: layer.head_norms.as_ref().map(|weights| (weights, eps)),
                window: layer.window,
                precision: self.precision,
                meter: &self.meter,
            };
            let cached = caches.as_deref_mut().map(|caches| CachedLayer { caches, layer: index });
            x = layer.forward(&x, queries, &options, cached, eps)?;
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

    /// Logits of the whole vocabulary: `(R, V)`. A row's do not depend on the others, to the last bit.
    ///
    /// The first call packs the head for it, which takes as much memory again as the head.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let (rows, width) = hidden.dims2()?;
        if width != self.config.hidden_size {
            bail!("the head got rows of {width}");
        }
        let head = match self.packed_head.get() {
            Some(head) => head,
            None => {
                let head = PackedMatrix::new(floats(self.head())?.get(), width, None);
                self.packed_head.get_or_init(|| head)
            }
        };
        self.meter.time(Part::Head, || {
            let logits = head.product(floats(hidden)?.get(), None, self.meter.within(Part::Head));
            Tensor::from_vec(logits, (rows, self.config.vocab_size), &Device::Cpu)
        })
    }

    fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
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

fn check_usable(precision: Precision) -> anyhow::Result<()> {
    if precision.usable() {
        return Ok(());
    }
    let message = format!("this processor cannot multiply in {precision:?}");
    Err(Failure::new(Exit::Usage, message).hint("use f32").into())
}

/// Where a decoder's tensors are.
#[derive(Clone, Copy)]
enum Source<'a> {
    Checkpoint(&'a Checkpoint),
    /// In training.
    Parameters(&'a Parameters),
}

/// Reads tensors onto a device.
struct Reader<'a> {
    source: Source<'a>,
    device: &'a Device,
    precision: Precision,
}

impl Reader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> anyhow::Result<Tensor> {
        let tensor = match self.source {
            Source::Checkpoint(checkpoint) => checkpoint.tensor(name, shape)?,
            Source::Parameters(parameters) => {
                let found = parameters.get(name).with_context(|| format!("no tensor `{name}`"))?;
                Tensor::from_slice(&found.values, shape, &Device::Cpu)?
            }
        };
        Ok(tensor.to_device(self.device)?)
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
