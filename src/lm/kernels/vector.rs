//! Loops over rows of numbers, written so that the compiler vectorises them, compiled for the widest registers at hand.
//!
//! They index instead of iterating: adapters such as `zip` are generic functions of other crates, which are inlined only
//! where the build has link-time optimisation, and a loop with a call in it is not vectorised.

/// Defines functions whose loops are compiled for AVX-512, for AVX2 and for the baseline, and chosen at run time.
/// Each variant is the same Rust code, and no variant reorders sums or fuses what another does not.
macro_rules! vectorised {
    ($($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$doc])*
        $visibility fn $name($($argument: $kind),*) $(-> $result)? {
            #[inline(always)]
            fn body($($argument: $kind),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($argument: $kind),*) $(-> $result)? { body($($argument),*) }

                #[target_feature(enable = "avx2")]
                fn medium($($argument: $kind),*) $(-> $result)? { body($($argument),*) }

                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the features were detected.
                    return unsafe { wide($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature was detected.
                    return unsafe { medium($($argument),*) };
                }
            }
            body($($argument),*)
        }
    )*};
}

pub(crate) use vectorised;

use super::int8::{Int8, ROUND};
use super::tile::{Bf16, Element};

vectorised! {
    /// The sum of squares.
    pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += chunk[i] * chunk[i];
            }
        }
        for i in 0..rest.len() {
            lanes[i] += rest[i] * rest[i];
        }
        total(&lanes)
    }

    /// `out = x * scale * weight`.
    pub(crate) fn scale_by(out: &mut [f32], x: &[f32], scale: f32, weight: &[f32]) {
        let n = out.len();
        let (x, weight) = (&x[..n], &weight[..n]);
        for i in 0..n {
            out[i] = x[i] * scale * weight[i];
        }
    }

    /// Rounds to bf16.
    pub(crate) fn to_bf16(out: &mut [Bf16], x: &[f32]) {
        let n = out.len().min(x.len());
        let (out, x) = (&mut out[..n], &x[..n]);
        for i in 0..n {
            out[i] = Bf16::from_f32(x[i]);
        }
    }

    /// The largest absolute value; not a number where one of them is none, or is infinite.
    pub(in crate::lm) fn magnitude(x: &[f32]) -> f32 {
        let (mut lanes, mut strange) = ([0f32; LANES], [0f32; LANES]);
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                let magnitude = chunk[i].abs();
                lanes[i] = if magnitude > lanes[i] { magnitude } else { lanes[i] };
                strange[i] += chunk[i] * 0.0;
            }
        }
        for i in 0..rest.len() {
            let magnitude = rest[i].abs();
            lanes[i] = if magnitude > lanes[i] { magnitude } else { lanes[i] };
            strange[i] += rest[i] * 0.0;
        }
        let mut magnitude = 0.0;
        for lane in lanes {
            magnitude = if lane > magnitude { lane } else { magnitude };
        }
        magnitude + total(&strange)
    }

    /// Rounds `x * inverse`, in [-127, 127], to bytes that are 128 too high.
    pub(in crate::lm) fn to_bytes(out: &mut [Int8], x: &[f32], inverse: f32) {
        let n = out.len().min(x.len());
        let (out, x) = (&mut out[..n], &x[..n]);
        for i in 0..n {
            out[i] = Int8((x[i] * inverse + (128.0 + ROUND)).to_bits() as u8);
        }
    }

    /// Rounds to bf16 in pairs: `first[i]` beside `second[i]`, or beside zero where `second` is empty.
    pub(crate) fn to_bf16_pairs(out: &mut [Bf16], first: &[f32], second: &[f32]) {
        let (pairs, _) = out.as_chunks_mut::<2>();
        let n = pairs.len();
        let first = &first[..n];
        if second.is_empty() {
            for i in 0..n {
                pairs[i] = [Bf16::from_f32(first[i]), Bf16(0)];
            }
        } else {
            let second = &second[..n];
            for i in 0..n {
                pairs[i] = [Bf16::from_f32(first[i]), Bf16::from_f32(second[i])];
            }
        }
    }

    /// The highest of some numbers; negative infinity for none.
    pub(crate) fn highest(x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            }
        }
        for i in 0..rest.len() {
            lanes[i] = if rest[i] > lanes[i] { rest[i] } else { lanes[i] };
        }
        let mut width = LANES;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
            }
        }
        lanes[0]
    }

    /// Replaces every x by `exp(x - shift)` and returns the sum.
    pub(crate) fn exponentials(x: &mut [f32], shift: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = x.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                chunk[i] = exp(chunk[i] - shift);
                lanes[i] += chunk[i];
            }
        }
        for i in 0..rest.len() {
            rest[i] = exp(rest[i] - shift);
            lanes[i] += rest[i];
        }
        total(&lanes)
    }

    /// `out = silu(gate) * up`.
    pub(crate) fn swiglu(out: &mut [f32], gate: &[f32], up: &[f32]) {
        let n = out.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            out[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
        }
    }

    /// `out = a + b`.
    pub(crate) fn sum(out: &mut [f32], a: &[f32], b: &[f32]) {
        let n = out.len();
        let (a, b) = (&a[..n], &b[..n]);
        for i in 0..n {
            out[i] = a[i] + b[i];
        }
    }

    /// `out = x * scale`.
    pub(crate) fn scaled(out: &mut [f32], x: &[f32], scale: f32) {
        let n = out.len();
        let x = &x[..n];
        for i in 0..n {
            out[i] = x[i] * scale;
        }
    }

    /// `out = scale * head` rotated by its position: the head's first half pairs with its second half.
    pub(crate) fn rotate(out: &mut [f32], head: &[f32], cos: &[f32], sin: &[f32], scale: f32) {
        let half = cos.len();
        let (first, second) = head.split_at(half);
        let (out_first, out_second) = out.split_at_mut(half);
        let (second, sin) = (&second[..half], &sin[..half]);
        let out_second = &mut out_second[..half];
        for i in 0..half {
            out_first[i] = (first[i] * cos[i] - second[i] * sin[i]) * scale;
            out_second[i] = (second[i] * cos[i] + first[i] * sin[i]) * scale;
        }
    }
}

/// Partial sums that a loop keeps: four AVX-512 registers' worth.
pub(crate) const LANES: usize = 64;

/// Adds lanes pairwise.
#[inline(always)]
pub(crate) fn total(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

/// e^x to about one unit in the last place, without branches so that loops over it vectorise. Below -87.3 it is 0,
/// above 88.3 it stays at that power.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7, 2^n by the exponent bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let bounded = x.clamp(-87.3, 88.3);
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first short enough that its product with n is exact.
    let r = bounded - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let power = p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_the_last_digits() {
        let mut worst = 0f64;
        for i in -87_000..=88_000i32 {
            let x = i as f32 / 1000.0;
            let expect = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - expect).abs() / expect);
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e9) == 0.0 && exp(f32::NEG_INFINITY) == 0.0 && exp(1e9) > 1e38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn loops_cover_lengths_that_are_no_multiple() {
        for n in [0, 1, 63, 64, 65, 200] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let close = |a: f32, b: f32| assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{n}: {a} {b}");
            close(sum_of_squares(&x), x.iter().map(|x| x * x).sum());
            assert_eq!(highest(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let mut powers = x.clone();
            close(exponentials(&mut powers, 0.5), x.iter().map(|x| (x - 0.5).exp()).sum());
            for (found, x) in powers.iter().zip(&x) {
                close(*found, (x - 0.5).exp());
            }
            let mut gated = vec![0.0; n];
            swiglu(&mut gated, &x, &powers);
            for ((found, x), up) in gated.iter().zip(&x).zip(&powers) {
                close(*found, x / (1.0 + (-x).exp()) * up);
            }
        }
    }
}
