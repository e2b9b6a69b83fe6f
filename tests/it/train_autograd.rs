//! Training against automatic differentiation: the decoder from candle's differentiable primitives, in f64.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use four_habits::lm::{ModelConfig, Parameters};
use four_habits::train::{TrainBatch, TrainModel, TrainOptions};
use std::collections::BTreeMap;

/// Never candle-nn's fused operations, which lose gradients without a word.
struct Autograd {
    config: ModelConfig,
    vars: BTreeMap<String, Var>,
}

impl Autograd {
    fn new(config: ModelConfig, parameters: &Parameters) -> Self {
        let var = |values: &[f32], shape: &[usize]| {
            Var::from_tensor(&Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(DType::F64)?)
        };
        let vars = parameters.iter().map(|entry| (entry.name.clone(), var(&entry.values, &entry.shape).unwrap()));
        Self { config, vars: vars.collect() }
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.vars[&format!("{name}.weight")].t()?)?;
        self.vars.get(&format!("{name}.bias")).map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
    }

    fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.rms_norm_eps))?;
        x.broadcast_div(&mean.sqrt()?)?.broadcast_mul(&self.vars[&format!("{name}.weight")])
    }

    /// `(T, heads, D)`.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, _, dim) = x.dims3()?;
        let frequencies = self.config.rope_frequencies();
        let angles: Vec<f64> = (0..tokens)
            .flat_map(|position| frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency)))
            .collect();
        let angles = Tensor::from_vec(angles, (tokens, 1, dim / 2), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (a, b) = (x.narrow(2, 0, dim / 2)?, x.narrow(2, dim / 2, dim / 2)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 2)
    }

    /// The sum over targets of one sequence's negative log-likelihood.
    fn loss(&self, tokens: &[u32], targets: &[Option<u32>]) -> Result<Tensor> {
        let ids = Tensor::from_slice(tokens, tokens.len(), &Device::Cpu)?;
        let mut x = self.vars["model.embed_tokens.weight"].index_select(&ids, 0)?;
        for layer in 0..self.config.num_layers {
            let name = |module: &str| format!("model.layers.{layer}.{module}");
            let normed = self.norm(&name("input_layernorm"), &x)?;
            x = (x + self.attend(&normed, layer)?)?;
            let normed = self.norm(&name("post_attention_layernorm"), &x)?;
            let gate = self.linear(&name("mlp.gate_proj"), &normed)?.silu()?;
            let gated = (gate * self.linear(&name("mlp.up_proj"), &normed)?)?;
            x = (x + self.linear(&name("mlp.down_proj"), &gated)?)?;
        }
        let head = if self.config.tied_head { "model.embed_tokens" } else { "lm_head" };
        let logits = self.linear(head, &self.norm("model.norm", &x)?)?;
        let normaliser = logits.exp()?.sum_keepdim(1)?.log()?;
        let vocab = self.config.vocab_size;
        let mut chosen = vec![0f64; tokens.len() * vocab];
        for (row, target) in targets.iter().enumerate() {
            if let Some(target) = target {
                chosen[row * vocab + *target as usize] = -1.0;
            }
        }
        let chosen = Tensor::from_vec(chosen, (tokens.len(), vocab), &Device::Cpu)?;
        (logits.broadcast_sub(&normaliser)? * chosen)?.sum_all()
    }

    fn attend(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let config = &self.config;
        let (tokens, dim) = (x.dim(0)?, config.head_dim);
        let name = |module: &str| format!("model.layers.{layer}.self_attn.{module}");
        let heads = |module: &str, norm: &str, count: usize| -> Result<Tensor> {
            let heads = self.linear(&name(module), x)?.reshape((tokens, count, dim))?;
            let heads = if config.has_qk_norm() { self.norm(&name(norm), &heads)? } else { heads };
            self.rotate(&heads)?.transpose(0, 1)?.contiguous()
        };
        let shared = |keys: Tensor| -> Result<Tensor> {
            let (kv, group) = (config.num_kv_heads, config.group_size());
            keys.unsqueeze(1)?.broadcast_as((kv, group, tokens, dim))?.reshape((kv * group, tokens, dim))
        };
        let queries = heads("q_proj", "q_norm", config.num_heads)?;
        let keys = shared(heads("k_proj", "k_norm", config.num_kv_heads)?)?;
        let values = self.linear(&name("v_proj"), x)?.reshape((tokens, config.num_kv_heads, dim))?;
        let values = shared(values.transpose(0, 1)?.contiguous()?)?;
        let scores = (queries.matmul(&keys.transpose(1, 2)?)? / (dim as f64).sqrt())?;
        let window = config.windows[layer].unwrap_or(usize::MAX);
        let mask = |i: usize| {
            let (row, key) = (i / tokens, i % tokens);
            if key <= row && row - key < window { 0.0 } else { -1e9 }
        };
        let mask =
            Tensor::from_vec((0..tokens * tokens).map(mask).collect::<Vec<f64>>(), (tokens, tokens), &Device::Cpu)?;
        let powers = scores.broadcast_add(&mask)?.exp()?;
        let weights = powers.broadcast_div(&powers.sum_keepdim(2)?)?;
        let attended = weights.matmul(&values)?.transpose(0, 1)?.reshape((tokens, config.num_heads * dim))?;
        self.linear(&name("o_proj"), &attended)
    }
}

fn check(config: &str) {
    let config = ModelConfig::from_json(config).unwrap();
    let mut parameters = Parameters::random(&config, 4);
    for entry in parameters.iter_mut().filter(|entry| entry.shape.len() > 1) {
        entry.values.iter_mut().for_each(|x| *x *= 10.0);
    }
    let mut batch = TrainBatch::default();
    batch.push_text(&(0..70).map(|i| i * i % 31).collect::<Vec<u32>>());
    batch.push_completion(&[1, 2, 3], &[4, 5, 6, 7]);

    let autograd = Autograd::new(config.clone(), &parameters);
    let losses =
        batch.sequences.iter().map(|rows| autograd.loss(&batch.tokens[rows.clone()], &batch.targets[rows.clone()]));
    let losses = losses.collect::<Result<Vec<_>>>().unwrap();
    let loss = Tensor::stack(&losses, 0).unwrap().sum_all().unwrap();
    let expect = loss.backward().unwrap();

    let mut gradients = parameters.zeros_like();
    let mut model = TrainModel::new(config, parameters, TrainOptions::default()).unwrap();
    let sum = model.loss_and_gradients(&batch, 1.0, &mut gradients).unwrap();
    let loss: f64 = loss.to_scalar().unwrap();
    assert!((sum.nll - loss).abs() < 1e-5 * loss, "{} {loss}", sum.nll);
    for gradient in gradients.iter() {
        let expect =
            expect.get(&autograd.vars[&gradient.name]).unwrap_or_else(|| panic!("`{}` has none", gradient.name));
        let expect: Vec<f64> = expect.flatten_all().unwrap().to_vec1().unwrap();
        let norm = expect.iter().map(|x| x * x).sum::<f64>().sqrt();
        let distance =
            gradient.values.iter().zip(&expect).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 0.0 && distance < 1e-4 * norm, "`{}` is off by {distance} of {norm}", gradient.name);
    }
}

#[test]
fn gradients_equal_automatic_differentiation() {
    let sizes = r#""vocab_size": 31, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4"#;
    check(&format!(r#"{{{sizes}, "model_type": "llama", "hidden_size": 24, "tie_word_embeddings": true}}"#));
    check(&format!(
        r#"{{{sizes}, "model_type": "qwen2", "hidden_size": 32, "num_key_value_heads": 2, "use_sliding_window": true,
        "sliding_window": 9, "max_window_layers": 1}}"#
    ));
    check(&format!(
        r#"{{{sizes}, "model_type": "qwen3", "hidden_size": 32, "num_key_value_heads": 1, "head_dim": 12}}"#
    ));
}
