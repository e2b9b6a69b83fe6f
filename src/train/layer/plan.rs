//! Where a layer's tensors stand among the model's parameters.

use crate::lm::{ModelConfig, Parameter, Parameters};
use crate::train::panels::spread;
use anyhow::{Context, Result};

/// Sizes that every layer has.
#[derive(Debug, Clone, Copy)]
pub(in crate::train) struct Shape {
    pub hidden: usize,
    pub inner: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub eps: f32,
}

impl Shape {
    pub(in crate::train) fn new(config: &ModelConfig) -> Self {
        Self {
            hidden: config.hidden_size,
            inner: config.intermediate_size,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            dim: config.head_dim,
            eps: config.rms_norm_eps,
        }
    }

    /// Width of all queries.
    pub(super) fn query(&self) -> usize {
        self.heads * self.dim
    }

    /// Numbers between the rows of gates and ups.
    pub(super) fn gate_up(&self) -> usize {
        spread(2 * self.inner)
    }

    /// Width of queries, keys and values.
    pub(super) fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }
}

/// A layer's tensors, as indices of parameters.
pub(in crate::train) struct LayerPlan {
    pub(super) linears: [Linear; 4],
    pub(super) attention_norm: usize,
    pub(super) mlp_norm: usize,
    /// Of queries' and keys' heads.
    pub(super) head_norms: Option<(usize, usize)>,
    pub(super) window: Option<usize>,
}

/// The places of [`LayerPlan::linears`].
pub(super) const QKV: usize = 0;
pub(super) const OUTPUT: usize = 1;
pub(super) const GATE_UP: usize = 2;
pub(super) const DOWN: usize = 3;

/// Projections of one input, stacked.
pub(super) struct Linear {
    pub(super) parts: Vec<Part>,
    /// Outputs of all parts.
    pub(super) width: usize,
    pub(super) inner: usize,
}

pub(super) struct Part {
    pub(super) weight: usize,
    pub(super) bias: Option<usize>,
    /// Its first output among those of all parts, and how many it has.
    pub(super) first: usize,
    pub(super) width: usize,
}

impl LayerPlan {
    pub(in crate::train) fn new(config: &ModelConfig, parameters: &Parameters, layer: usize) -> Result<Self> {
        let find = |module: &str| {
            let name = format!("model.layers.{layer}.{module}");
            parameters.iter().position(|entry| entry.name == name).with_context(|| format!("no tensor `{name}`"))
        };
        let linear = |modules: &[&str], bias: bool| {
            let mut linear = Linear { parts: Vec::new(), width: 0, inner: 0 };
            for module in modules {
                let weight = find(&format!("{module}.weight"))?;
                let bias = if bias { Some(find(&format!("{module}.bias"))?) } else { None };
                let [width, inner] = parameters.as_slice()[weight].shape[..] else {
                    anyhow::bail!("the weight of `{module}` is no matrix");
                };
                linear.parts.push(Part { weight, bias, first: linear.width, width });
                linear.width += width;
                linear.inner = inner;
            }
            Ok(linear)
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let norms = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];
        Ok(Self {
            linears: [
                linear(&qkv, config.qkv_bias)?,
                linear(&["self_attn.o_proj"], config.output_bias)?,
                linear(&["mlp.gate_proj", "mlp.up_proj"], config.mlp_bias)?,
                linear(&["mlp.down_proj"], config.mlp_bias)?,
            ],
            attention_norm: find("input_layernorm.weight")?,
            mlp_norm: find("post_attention_layernorm.weight")?,
            head_norms: if config.has_qk_norm() { Some((find(norms[0])?, find(norms[1])?)) } else { None },
            window: config.windows.get(layer).copied().flatten(),
        })
    }
}

impl Linear {
    /// The weights of one output.
    pub(super) fn row<'a>(&self, parameters: &'a [Parameter], output: usize) -> &'a [f32] {
        let after = self.parts.partition_point(|part| part.first <= output);
        let part = &self.parts[after - 1];
        &parameters[part.weight].values[(output - part.first) * self.inner..][..self.inner]
    }

    pub(super) fn has_bias(&self) -> bool {
        self.parts.iter().any(|part| part.bias.is_some())
    }

    /// The biases of all outputs into `out`, which stays empty if there are none.
    pub(super) fn bias(&self, parameters: &[Parameter], out: &mut Vec<f32>) {
        out.clear();
        let biases = self.parts.iter().filter_map(|part| part.bias);
        biases.for_each(|bias| out.extend_from_slice(&parameters[bias].values));
    }
}
