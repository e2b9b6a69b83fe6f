//! From rows of f32 to the numbers and layouts that the register tile multiplies.

use super::tile::{Bf16, Element};
use super::vector;

/// Rounds as many numbers as both have.
pub(super) fn to_bf16(out: &mut [Bf16], x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if Bf16::available() && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the features were detected.
        return unsafe { x86::convert(out, x) };
    }
    vector::to_bf16(out, x);
}

/// What [`Element::interleave`] does.
pub(super) fn to_bf16_pairs(out: &mut [Bf16], first: &[f32], second: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if !second.is_empty() && Bf16::available() && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the features were detected.
        return unsafe { x86::interleave(out, first, second) };
    }
    vector::to_bf16_pairs(out, first, second);
}

/// What [`Element::transpose`] does.
pub(super) fn transpose<E: Element>(out: &mut [E], stride: usize, groups: usize, columns: &[&[f32]; 16]) {
    if !transpose_fast(out, stride, groups, columns) {
        transpose_plain(out, stride, groups, columns);
    }
}

/// What [`Element::transpose`] does, number by number.
fn transpose_plain<E: Element>(out: &mut [E], stride: usize, groups: usize, columns: &[&[f32]; 16]) {
    for (g, out) in out.chunks_mut(stride).take(groups).enumerate() {
        for (out, column) in out.chunks_exact_mut(E::GROUP).zip(columns) {
            for (k, out) in (g * E::GROUP..).zip(out) {
                *out = E::from_f32(column.get(k).copied().unwrap_or(0.0));
            }
        }
    }
}

/// What [`Element::transpose`] does, sixteen groups at a time in registers; false where the processor lacks them.
fn transpose_fast<E: Element>(out: &mut [E], stride: usize, groups: usize, columns: &[&[f32]; 16]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && (E::GROUP == 1 || Bf16::available()) && groups > 0 {
        assert!(out.len() >= (groups - 1) * stride + 16 * E::GROUP, "a panel too short");
        for first in (0..groups).step_by(16) {
            let strips = columns.map(|column| column.get(first * E::GROUP..).unwrap_or(&[]));
            let words = out[first * stride..].as_mut_ptr().cast::<u32>();
            let (rows, stride) = (16.min(groups - first), stride / E::GROUP);
            // SAFETY: the features were detected, and `out` has as many rows of sixteen groups, 32 bits each.
            unsafe {
                match E::GROUP {
                    1 => x86::transpose_f32(strips, words, rows, stride),
                    _ => x86::transpose_pairs(strips, words, rows, stride),
                }
            }
        }
        return true;
    }
    let _ = (out, stride, groups, columns);
    false
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::needless_range_loop, reason = "iterators over vector registers are not inlined, see `Registers`")]
mod x86 {
    use super::{Bf16, Element};
    use std::arch::x86_64::*;

    /// The lanes that `count` numbers fill.
    #[inline(always)]
    fn first_lanes(count: usize) -> u16 {
        if count < 16 { (1 << count) - 1 } else { u16::MAX }
    }

    /// The first numbers of each column, up to sixteen, as `rows` rows, `stride` 32-bit words apart.
    ///
    /// # Safety
    /// AVX-512F; `out` writable for sixteen words of each row.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose_f32(columns: [&[f32]; 16], out: *mut u32, rows: usize, stride: usize) {
        let mut words = [_mm512_setzero_si512(); 16];
        for i in 0..16 {
            // SAFETY: lanes beyond the column are not touched.
            words[i] = unsafe { _mm512_maskz_loadu_epi32(first_lanes(columns[i].len()), columns[i].as_ptr().cast()) };
        }
        // SAFETY: the caller's.
        unsafe { transpose(words, out, rows, stride) }
    }

    /// The first pairs of each column, up to sixteen, rounded to bf16, as `rows` rows.
    ///
    /// # Safety
    /// AVX-512F and AVX512_BF16; `out` writable for sixteen words of each row.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn transpose_pairs(columns: [&[f32]; 16], out: *mut u32, rows: usize, stride: usize) {
        let mut words = [_mm512_setzero_si512(); 16];
        for i in 0..16 {
            let (from, count) = (columns[i].as_ptr(), columns[i].len());
            // SAFETY: lanes beyond the column are not touched. A register of pairs of bfloat16 is one of 32-bit words.
            words[i] = unsafe {
                let low = _mm512_maskz_loadu_ps(first_lanes(count), from);
                let high = _mm512_maskz_loadu_ps(first_lanes(count.saturating_sub(16)), from.wrapping_add(16));
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
            };
        }
        // SAFETY: the caller's.
        unsafe { transpose(words, out, rows, stride) }
    }

    /// Rounds to bf16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn convert(out: &mut [Bf16], x: &[f32]) {
        let n = out.len().min(x.len());
        let whole = n / 32 * 32;
        for at in (0..whole).step_by(32) {
            // SAFETY: 32 more numbers on both sides; a register of bfloat16 is one of bits.
            unsafe {
                let from = x.as_ptr().add(at);
                let both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from.add(16)), _mm512_loadu_ps(from));
                let bits = std::mem::transmute::<__m512bh, __m512i>(both);
                _mm512_storeu_si512(out.as_mut_ptr().add(at).cast(), bits);
            }
        }
        for i in whole..n {
            out[i] = Bf16::from_f32(x[i]);
        }
    }

    /// Rounds to bf16 in pairs of a number of `first` and one of `second`; as many as all three have.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn interleave(out: &mut [Bf16], first: &[f32], second: &[f32]) {
        /// Where the 32 numbers of two registers go: one of the first, one of the second, in turn.
        const WEAVE: [u16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                order[i] = (i / 2 + i % 2 * 16) as u16;
                i += 1;
            }
            order
        };
        let n = (out.len() / 2).min(first.len()).min(second.len());
        let whole = n / 16 * 16;
        // SAFETY: 32 numbers of 16 bits.
        let weave = unsafe { _mm512_loadu_si512(WEAVE.as_ptr().cast()) };
        for at in (0..whole).step_by(16) {
            // SAFETY: 16 more numbers on one side and pairs on the other; a register of bfloat16 is one of bits.
            unsafe {
                let (first, second) =
                    (_mm512_loadu_ps(first.as_ptr().add(at)), _mm512_loadu_ps(second.as_ptr().add(at)));
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
                let pairs = _mm512_permutexvar_epi16(weave, both);
                _mm512_storeu_si512(out.as_mut_ptr().add(2 * at).cast(), pairs);
            }
        }
        for i in whole..n {
            out[2 * i] = Bf16::from_f32(first[i]);
            out[2 * i + 1] = Bf16::from_f32(second[i]);
        }
    }

    /// Writes the transpose of sixteen rows of sixteen words: pairs of rows, then of pairs, then of quarters are woven.
    ///
    /// # Safety
    /// AVX-512F; `out` writable for sixteen words of each of `count` rows.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose(rows: [__m512i; 16], out: *mut u32, count: usize, stride: usize) {
        let mut pairs = rows;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // fours[4 i + j]: in each quarter q, word 4 q + j of rows 4 i to 4 i + 3.
        let mut fours = pairs;
        for i in 0..4 {
            for j in 0..2 {
                fours[4 * i + 2 * j] = _mm512_unpacklo_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
                fours[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[4 * i + j], pairs[4 * i + 2 + j]);
            }
        }
        for j in 0..4 {
            let (a, b, c, d) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
            let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
            let columns = [
                _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even),
                _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd),
                _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even),
                _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd),
            ];
            for q in 0..4 {
                if 4 * q + j < count {
                    // SAFETY: the caller's.
                    unsafe { _mm512_storeu_si512(out.add((4 * q + j) * stride).cast(), columns[q]) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tile::Float;
    use super::*;

    #[test]
    fn fast_conversions_equal_the_plain_ones() {
        if !Bf16::available() {
            return;
        }
        let numbers: Vec<f32> = (0..75).map(|i| (i as f32 * 0.37).sin() * 1.7f32.powi(i % 40 - 20)).collect();
        let plain: Vec<Bf16> = numbers.iter().map(|x| Bf16::from_f32(*x)).collect();
        let mut converted = vec![Bf16(7); 75];
        Bf16::convert(&mut converted, &numbers);
        assert_eq!(converted, plain);
        let mut pairs = vec![Bf16(7); 2 * 37];
        Bf16::interleave(&mut pairs, &numbers, &numbers[38..]);
        let expect: Vec<Bf16> = (0..37).flat_map(|i| [plain[i], plain[38 + i]]).collect();
        assert_eq!(pairs, expect);
        Bf16::interleave(&mut pairs, &numbers, &[]);
        assert!(pairs.iter().step_by(2).eq(&plain[..37]) && pairs.iter().skip(1).step_by(2).all(|x| *x == Bf16(0)));
    }

    #[test]
    fn rounding_to_bf16_is_to_nearest_even() {
        let round = |x: f32| f32::from_bits(u32::from(Bf16::from_f32(x).0) << 16);
        assert_eq!(round(1.0), 1.0);
        assert_eq!(round(1.0 + 2f32.powi(-8)), 1.0);
        assert_eq!(round(1.0 + 3.0 * 2f32.powi(-8)), 1.0 + 2f32.powi(-6));
        assert_eq!(round(-1.0 - 2f32.powi(-8) - 2f32.powi(-20)), -1.0 - 2f32.powi(-7));
        assert_eq!(round(f32::INFINITY), f32::INFINITY);
    }
}
