//! The decoder's loss by its definition, in f64 and without any cleverness: what gradients are checked against.

use super::batch::TrainBatch;
use crate::lm::{ModelConfig, Parameter, Parameters};

/// A model in f64.
pub(super) struct Reference<'a> {
    pub config: &'a ModelConfig,
    names: Vec<String>,
    pub values: Vec<Vec<f64>>,
}

impl<'a> Reference<'a> {
    pub(super) fn new(config: &'a ModelConfig, parameters: &Parameters) -> Self {
        let widen = |entry: &Parameter| entry.values.iter().map(|x| f64::from(*x)).collect();
        Self {
            config,
            names: parameters.iter().map(|entry| entry.name.clone()).collect(),
            values: parameters.iter().map(widen).collect(),
        }
    }

    fn get(&self, name: &str) -> Option<&[f64]> {
        self.names.iter().position(|found| found == name).map(|index| &self.values[index][..])
    }

    /// `x W^T + b`.
    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.get(&format!("{name}.weight")).unwrap();
        let bias = self.get(&format!("{name}.bias"));
        let row = |(i, row): (usize, &[f64])| dot(row, x) + bias.map_or(0.0, |bias| bias[i]);
        weight.chunks_exact(x.len()).enumerate().map(row).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.get(&format!("{name}.weight")).unwrap();
        let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(self.config.rms_norm_eps)).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
    }

    fn rotate(&self, head: &mut [f64], position: usize) {
        let half = head.len() / 2;
        for (i, frequency) in self.config.rope_frequencies().into_iter().enumerate() {
            // The angle as the decoder has it: position times frequency, rounded to f32.
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            let (a, b) = (head[i], head[i + half]);
            (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }

    /// Final hidden states of one sequence, normed.
    fn hidden(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let (config, dim) = (self.config, self.config.head_dim);
        let width = config.hidden_size;
        let embedding = self.get("model.embed_tokens.weight").unwrap();
        let mut stream: Vec<Vec<f64>> =
            tokens.iter().map(|token| embedding[*token as usize * width..][..width].to_vec()).collect();
        for layer in 0..config.num_layers {
            let name = |module: &str| format!("model.layers.{layer}.{module}");
            let window = config.windows[layer].unwrap_or(usize::MAX);
            let heads = |module: &str, norm: &str, rotated: bool| -> Vec<Vec<Vec<f64>>> {
                let heads = |(position, x): (usize, &Vec<f64>)| {
                    let all = self.linear(&name(module), &self.norm(&name("input_layernorm"), x));
                    let head = |head: &[f64]| {
                        let mut head = match config.has_qk_norm() && rotated {
                            true => self.norm(&name(norm), head),
                            false => head.to_vec(),
                        };
                        if rotated {
                            self.rotate(&mut head, position);
                        }
                        head
                    };
                    all.chunks_exact(dim).map(head).collect()
                };
                stream.iter().enumerate().map(heads).collect()
            };
            let queries = heads("self_attn.q_proj", "self_attn.q_norm", true);
            let keys = heads("self_attn.k_proj", "self_attn.k_norm", true);
            let values = heads("self_attn.v_proj", "", false);
            for (row, x) in stream.iter_mut().enumerate() {
                let seen = (row + 1).saturating_sub(window)..row + 1;
                let attend = |(head, query): (usize, &Vec<f64>)| {
                    let shared = head / config.group_size();
                    let score = |key: usize| dot(query, &keys[key][shared]) / (dim as f64).sqrt();
                    let weights = softmax(&seen.clone().map(score).collect::<Vec<_>>());
                    let at = |d: usize| seen.clone().zip(&weights).map(|(key, w)| w * values[key][shared][d]).sum();
                    (0..dim).map(at).collect::<Vec<f64>>()
                };
                let attended: Vec<f64> = queries[row].iter().enumerate().flat_map(attend).collect();
                add(x, &self.linear(&name("self_attn.o_proj"), &attended));
                let normed = self.norm(&name("post_attention_layernorm"), x);
                let (gate, up) =
                    (self.linear(&name("mlp.gate_proj"), &normed), self.linear(&name("mlp.up_proj"), &normed));
                let gated: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(x, &self.linear(&name("mlp.down_proj"), &gated));
            }
        }
        stream.iter().map(|x| self.norm("model.norm", x)).collect()
    }

    /// Of every row, the log of each token's probability and the log-normaliser.
    pub(super) fn log_probabilities(&self, batch: &TrainBatch) -> Vec<(Vec<f64>, f64)> {
        let head = if self.config.tied_head { "model.embed_tokens" } else { "lm_head" };
        let row = |x: Vec<f64>| {
            let logits = self.linear(head, &x);
            let normaliser = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
            (logits.iter().map(|x| x - normaliser).collect(), normaliser)
        };
        self.all_hidden(batch).into_iter().map(row).collect()
    }

    pub(super) fn all_hidden(&self, batch: &TrainBatch) -> Vec<Vec<f64>> {
        batch.sequences.iter().flat_map(|rows| self.hidden(&batch.tokens[rows.clone()])).collect()
    }
}

/// How `f` changes with one number of a model: a central difference.
pub(super) fn slope(model: &mut Reference<'_>, tensor: usize, at: usize, f: impl Fn(&Reference<'_>) -> f64) -> f64 {
    let step = 1e-4;
    let x = model.values[tensor][at];
    model.values[tensor][at] = x + step;
    let above = f(model);
    model.values[tensor][at] = x - step;
    let below = f(model);
    model.values[tensor][at] = x;
    (above - below) / (2.0 * step)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}
