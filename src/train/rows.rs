//! Loops over rows of numbers that training adds to the decoder's: derivatives of norms, SwiGLU, rotation and softmax.
//!
//! They index instead of iterating for the reason given in [`crate::lm::kernels::vector`].

use crate::lm::kernels::vector::{self, LANES, exp, total, vectorised};

/// `1 / sqrt(mean(x^2) + eps)`, by which RMSNorm multiplies a row.
pub(super) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (vector::sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

/// Backward of `y = x r w` with `r` the row's [`inverse_rms`]: adds to `dx` and `dw`.
///
/// `dx = r w dy - x r^3 mean(x w dy)`, `dw = dy x r`.
pub(super) fn rms_norm_backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], r: f32) {
    let mean = dot_of_three(dy, x, w) / x.len() as f32;
    norm_gradients(dx, dw, dy, x, w, r, mean * r * r * r);
}

vectorised! {
    /// `Σ a b c`.
    fn dot_of_three(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
        let n = a.len();
        let (b, c) = (&b[..n], &c[..n]);
        let mut lanes = [0f32; LANES];
        let whole = n / LANES * LANES;
        let mut at = 0;
        while at < whole {
            for i in 0..LANES {
                lanes[i] += a[at + i] * b[at + i] * c[at + i];
            }
            at += LANES;
        }
        for i in 0..n - whole {
            lanes[i] += a[whole + i] * b[whole + i] * c[whole + i];
        }
        total(&lanes)
    }

    /// `dx += r w dy - c x`, `dw += r x dy`.
    fn norm_gradients(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], r: f32, c: f32) {
        let n = dx.len();
        let (dw, dy, x, w) = (&mut dw[..n], &dy[..n], &x[..n], &w[..n]);
        for i in 0..n {
            let scaled = r * dy[i];
            dx[i] += scaled * w[i] - c * x[i];
            dw[i] += scaled * x[i];
        }
    }

    /// `Σ a b`.
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let n = a.len();
        let b = &b[..n];
        let mut lanes = [0f32; LANES];
        let whole = n / LANES * LANES;
        let mut at = 0;
        while at < whole {
            for i in 0..LANES {
                lanes[i] += a[at + i] * b[at + i];
            }
            at += LANES;
        }
        for i in 0..n - whole {
            lanes[i] += a[whole + i] * b[whole + i];
        }
        total(&lanes)
    }

    /// `out += x`.
    pub(super) fn add(out: &mut [f32], x: &[f32]) {
        let n = out.len();
        let x = &x[..n];
        for i in 0..n {
            out[i] += x[i];
        }
    }

    /// Backward of `y = silu(gate) up`: takes `dy` in `y`, leaves `y` there, and turns gate and up into their gradients.
    pub(super) fn swiglu_backward(y: &mut [f32], gate: &mut [f32], up: &mut [f32]) {
        let n = y.len();
        let (gate, up) = (&mut gate[..n], &mut up[..n]);
        for i in 0..n {
            let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
            let silu = gate[i] * sigmoid;
            let dy = y[i];
            y[i] = silu * up[i];
            gate[i] = dy * up[i] * (sigmoid + silu * (1.0 - sigmoid));
            up[i] = dy * silu;
        }
    }

    /// Rotates a head by its position, in place; `direction` is 1, or -1 for the way back.
    pub(super) fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
        let half = cos.len();
        let (first, second) = head.split_at_mut(half);
        let (second, sin) = (&mut second[..half], &sin[..half]);
        for i in 0..half {
            let (a, b, sin) = (first[i], second[i], direction * sin[i]);
            first[i] = a * cos[i] - b * sin;
            second[i] = b * cos[i] + a * sin;
        }
    }

    /// Backward of softmax: `ds = p (dp - delta) scale`, in place of `dp`.
    pub(super) fn softmax_backward(dp: &mut [f32], p: &[f32], delta: f32, scale: f32) {
        let n = dp.len();
        let p = &p[..n];
        for i in 0..n {
            dp[i] = p[i] * (dp[i] - delta) * scale;
        }
    }

    /// `Σ exp(x - shift)`.
    pub(super) fn sum_of_exponentials(x: &[f32], shift: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += exp(chunk[i] - shift);
            }
        }
        for i in 0..rest.len() {
            lanes[i] += exp(rest[i] - shift);
        }
        total(&lanes)
    }

    /// `-Σ p ln p` with `p = exp(x - log_normaliser)`.
    pub(super) fn entropy(x: &[f32], log_normaliser: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                let log = chunk[i] - log_normaliser;
                lanes[i] -= exp(log) * log;
            }
        }
        for i in 0..rest.len() {
            let log = rest[i] - log_normaliser;
            lanes[i] -= exp(log) * log;
        }
        total(&lanes)
    }

    /// Logits become gradients: `p slope`, with `p = exp(x - log_normaliser)`.
    pub(super) fn scaled_probabilities(x: &mut [f32], log_normaliser: f32, slope: f32) {
        for i in 0..x.len() {
            x[i] = exp(x[i] - log_normaliser) * slope;
        }
    }

    /// Logits become gradients, with a slope along the entropy too: `p (slope - entropy_slope (ln p + entropy))`.
    pub(super) fn entropy_gradient(x: &mut [f32], log_normaliser: f32, slope: f32, entropy_slope: f32, entropy: f32) {
        for i in 0..x.len() {
            let log = x[i] - log_normaliser;
            x[i] = exp(log) * (slope - entropy_slope * (log + entropy));
        }
    }
}
