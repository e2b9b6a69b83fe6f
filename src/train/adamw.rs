//! AdamW (Loshchilov and Hutter, 2019) as `torch.optim.AdamW` computes it, in f32, with moments kept by name.
//!
//! Weight decay is decoupled and spares norms and biases (tensors of one dimension). Everything is element by element
//! but the norm of the gradients, which is summed over fixed pieces, so the number of threads never shows.

use crate::lm::{Parameter, Parameters};
use rayon::prelude::*;

/// Constants of the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimizer and its state; saving `steps` and both moments and setting them again resumes it exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    pub options: AdamWOptions,
    /// Updates made so far.
    pub steps: u64,
    /// Running mean of gradients.
    pub first_moment: Parameters,
    /// Running mean of squared gradients.
    pub second_moment: Parameters,
}

/// Numbers that one task takes.
const PIECE: usize = 1 << 15;

impl AdamW {
    pub fn new(parameters: &Parameters, options: AdamWOptions) -> Self {
        Self { options, steps: 0, first_moment: parameters.zeros_like(), second_moment: parameters.zeros_like() }
    }

    /// One update at learning rate `rate`. All four sets of tensors must match.
    ///
    /// # Panics
    /// When `parameters` or `gradients` are of another model.
    pub fn step(&mut self, parameters: &mut Parameters, gradients: &Parameters, rate: f64) {
        assert!(
            self.first_moment.matches(parameters) && self.first_moment.matches(gradients),
            "an optimizer steps the model it was made for"
        );
        self.steps += 1;
        let AdamWOptions { betas: (beta1, beta2), eps, weight_decay } = self.options;
        let steps = self.steps.min(i32::MAX as u64) as i32;
        let factors = |decays: bool| Factors {
            keep: if decays { (1.0 - rate * weight_decay) as f32 } else { 1.0 },
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            gain1: (1.0 - beta1) as f32,
            gain2: (1.0 - beta2) as f32,
            size: (rate / (1.0 - beta1.powi(steps))) as f32,
            inverse_root: (1.0 / (1.0 - beta2.powi(steps)).sqrt()) as f32,
            eps: eps as f32,
        };
        let moments = self.first_moment.iter_mut().zip(self.second_moment.iter_mut());
        let mut pieces = Vec::new();
        for ((parameter, gradient), (first, second)) in parameters.iter_mut().zip(gradients.iter()).zip(moments) {
            let factors = factors(parameter.shape.len() > 1);
            let values = parameter.values.chunks_mut(PIECE).zip(gradient.values.chunks(PIECE));
            let moments = first.values.chunks_mut(PIECE).zip(second.values.chunks_mut(PIECE));
            pieces.extend(values.zip(moments).map(|((p, g), (m, v))| (factors, p, g, m, v)));
        }
        pieces.into_par_iter().for_each(|(factors, p, g, m, v)| factors.update(p, g, m, v));
    }
}

/// The numbers of one update.
#[derive(Clone, Copy)]
struct Factors {
    keep: f32,
    beta1: f32,
    beta2: f32,
    gain1: f32,
    gain2: f32,
    size: f32,
    inverse_root: f32,
    eps: f32,
}

impl Factors {
    fn update(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let n = p.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            m[i] = self.beta1 * m[i] + self.gain1 * g[i];
            v[i] = self.beta2 * v[i] + self.gain2 * g[i] * g[i];
            p[i] = self.keep * p[i] - self.size * m[i] / (v[i].sqrt() * self.inverse_root + self.eps);
        }
    }
}

/// The Euclidean norm of all gradients together; not finite where any of them is not.
pub fn global_norm(gradients: &Parameters) -> f64 {
    let pieces: Vec<&[f32]> = gradients.iter().flat_map(|gradient| gradient.values.chunks(PIECE)).collect();
    let square = |piece: &&[f32]| -> f64 {
        let mut lanes = [0f64; 16];
        let (chunks, rest) = piece.as_chunks::<16>();
        for chunk in chunks {
            for i in 0..16 {
                lanes[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
    };
    let squares: Vec<f64> = pieces.par_iter().map(square).collect();
    squares.iter().sum::<f64>().sqrt()
}

/// Scales gradients so that their global norm is `highest` at most, as `torch.nn.utils.clip_grad_norm_` does.
/// Returns the norm before.
pub fn clip_global_norm(gradients: &mut Parameters, highest: f64) -> f64 {
    let norm = global_norm(gradients);
    let factor = highest / (norm + 1e-6);
    if factor < 1.0 {
        scale(gradients, factor as f32);
    }
    norm
}

/// Multiplies every gradient.
pub fn scale(gradients: &mut Parameters, factor: f32) {
    let pieces: Vec<&mut [f32]> =
        gradients.iter_mut().flat_map(|Parameter { values, .. }| values.chunks_mut(PIECE)).collect();
    pieces.into_par_iter().for_each(|piece| piece.iter_mut().for_each(|x| *x *= factor));
}
