//! The model's weights on the device: read from the checkpoint tensor by tensor, so that the host never holds more than one.

use super::gpu::{Buffer, Gpu};
use crate::error::{Exit, Failure};
use crate::lm::checkpoint::Checkpoint;
use crate::lm::config::ModelConfig;
use crate::lm::halving::OutOfMemory;

/// A weight of `(outputs, inner)` and, where the model has it, a bias of `(outputs)`.
pub(super) struct Linear<M> {
    pub weight: Buffer<M>,
    pub bias: Option<Buffer<M>>,
    pub outputs: usize,
    pub inner: usize,
}

pub(super) struct Layer<M> {
    pub attention_norm: Buffer<M>,
    /// Queries, keys and values, stacked.
    pub qkv: Linear<M>,
    /// `(2, D)`: the weights of the norms over queries' and keys' heads, where the model has them.
    pub head_norms: Option<Buffer<M>>,
    pub output: Linear<M>,
    pub mlp_norm: Buffer<M>,
    /// Gate and up, stacked.
    pub gate_up: Linear<M>,
    pub down: Linear<M>,
    /// How many positions back a row sees, its own included; 0 for all.
    pub window: u32,
}

pub(super) struct Weights<M> {
    /// `(V, H)`.
    pub embedding: Buffer<M>,
    pub layers: Vec<Layer<M>>,
    pub final_norm: Buffer<M>,
    /// `(V, H)`; `None` where the embedding serves.
    pub head: Option<Buffer<M>>,
}

impl<M> Weights<M> {
    /// # Errors
    /// As [`Checkpoint::tensor`]; a [`Failure`] when the device has too little memory.
    pub(super) fn load<G: Gpu<Memory = M>>(gpu: &G, checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let config = checkpoint.config();
        let reader = Reader { gpu, checkpoint };
        reader.weights(config).map_err(|error| match error.downcast_ref::<OutOfMemory>() {
            Some(full) => {
                Failure::new(Exit::Failed, format!("`{}` does not fit on the GPU: {full}", checkpoint.name()))
                    .hint("use a smaller model, or `--device cpu`")
                    .into()
            }
            None => error,
        })
    }
}

struct Reader<'a, G> {
    gpu: &'a G,
    checkpoint: &'a Checkpoint,
}

impl<G: Gpu> Reader<'_, G> {
    fn weights(&self, config: &ModelConfig) -> anyhow::Result<Weights<G::Memory>> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let table = |name: &str| self.stacked(&[name.to_owned()], &[vocab], &[hidden]);
        Ok(Weights {
            embedding: table("model.embed_tokens.weight")?,
            layers: (0..config.num_layers).map(|index| self.layer(config, index)).collect::<anyhow::Result<_>>()?,
            final_norm: self.stacked(&["model.norm.weight".to_owned()], &[hidden], &[])?,
            head: if config.tied_head { None } else { Some(table("lm_head.weight")?) },
        })
    }

    fn layer(&self, config: &ModelConfig, index: usize) -> anyhow::Result<Layer<G::Memory>> {
        let prefix = format!("model.layers.{index}");
        let (hidden, inner, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (q, kv) = (config.num_heads * dim, config.num_kv_heads * dim);
        let norm = |name: &str| self.stacked(&[format!("{prefix}.{name}.weight")], &[hidden], &[]);
        let linear = |modules: &[&str], outputs: &[usize], inner: usize, bias: bool| {
            let names =
                |kind: &str| modules.iter().map(|module| format!("{prefix}.{module}.{kind}")).collect::<Vec<_>>();
            anyhow::Ok(Linear {
                weight: self.stacked(&names("weight"), outputs, &[inner])?,
                bias: if bias { Some(self.stacked(&names("bias"), outputs, &[])?) } else { None },
                outputs: outputs.iter().sum(),
                inner,
            })
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let head_norms = ["q_norm", "k_norm"].map(|name| format!("{prefix}.self_attn.{name}.weight"));
        Ok(Layer {
            attention_norm: norm("input_layernorm")?,
            qkv: linear(&qkv, &[q, kv, kv], hidden, config.qkv_bias)?,
            head_norms: if config.has_qk_norm() { Some(self.stacked(&head_norms, &[dim, dim], &[])?) } else { None },
            output: linear(&["self_attn.o_proj"], &[hidden], q, config.output_bias)?,
            mlp_norm: norm("post_attention_layernorm")?,
            gate_up: linear(&["mlp.gate_proj", "mlp.up_proj"], &[inner, inner], hidden, config.mlp_bias)?,
            down: linear(&["mlp.down_proj"], &[hidden], inner, config.mlp_bias)?,
            window: config.windows.get(index).copied().flatten().map_or(0, |window| window.max(1) as u32),
        })
    }

    /// Tensors of one shape but for their first dimension, one after the other in one buffer.
    fn stacked(&self, names: &[String], rows: &[usize], rest: &[usize]) -> anyhow::Result<Buffer<G::Memory>> {
        let columns: usize = rest.iter().product();
        let mut buffer = Buffer::bf16(self.gpu, rows.iter().sum::<usize>() * columns)?;
        let mut start = 0;
        for (name, &rows) in names.iter().zip(rows) {
            let shape = [&[rows], rest].concat();
            buffer.write(self.gpu, start, &self.checkpoint.bf16(name, &shape)?)?;
            start += rows * columns;
        }
        Ok(buffer)
    }
}
