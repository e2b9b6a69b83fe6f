//! Eight-bit products: weights rounded per output, activations per row as they come, sums exact in 32 bits.
//!
//! The instruction (VNNI's `vpdpbusd`) multiplies unsigned by signed bytes, so activations are stored 128 too high and what
//! that adds to each column is taken off its sums at the start.

use super::tile::{COLUMNS, Element, Scales, Tile};
use super::vector;

/// A byte: of a weight, signed; of an activation, unsigned and 128 too high.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(in crate::lm) struct Int8(pub u8);

/// The largest magnitude a byte stands for.
const MOST: f32 = 127.0;

/// 1.5 * 2^23: adding it rounds to a whole number, which then stands in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

impl Int8 {
    /// The number a weight's byte stands for.
    #[inline]
    fn signed(self) -> i32 {
        i32::from(self.0 as i8)
    }
}

impl Element for Int8 {
    const GROUP: usize = 4;
    const FLOAT: bool = false;

    /// To nearest, ties to even.
    #[inline]
    fn from_f32(x: f32) -> Self {
        Self((x.clamp(-MOST, MOST) + ROUND).to_bits() as u8)
    }

    fn convert(out: &mut [Self], x: &[f32]) -> f32 {
        let scale = vector::magnitude(x) / MOST;
        vector::to_bytes(out, x, if scale > 0.0 { 1.0 / scale } else { 0.0 });
        scale
    }

    fn scale(row: &[f32]) -> f32 {
        vector::magnitude(row) / MOST
    }

    fn offset(column: impl Iterator<Item = Self>) -> i32 {
        -128 * column.map(Self::signed).sum::<i32>()
    }

    unsafe fn multiply(tile: Tile<Self>, scales: Scales<'_>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's; `available` asked for the features.
        unsafe {
            match tile.rows {
                1 => x86::multiply_int8::<1>(tile, scales),
                2 => x86::multiply_int8::<2>(tile, scales),
                3 => x86::multiply_int8::<3>(tile, scales),
                4 => x86::multiply_int8::<4>(tile, scales),
                5 => x86::multiply_int8::<5>(tile, scales),
                _ => x86::multiply_int8::<6>(tile, scales),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (tile, scales);
    }

    fn available() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::needless_range_loop, reason = "iterators over vector registers are not inlined")]
mod x86 {
    use super::{COLUMNS, Int8, Scales, Tile};
    use std::arch::x86_64::*;

    /// # Safety
    /// As [`super::Element::multiply`], with AVX-512F and AVX512_VNNI.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn multiply_int8<const R: usize>(tile: Tile<Int8>, scales: Scales<'_>) {
        let mut acc = [[_mm512_setzero_si512(); 4]; R];
        for r in 0..R {
            for v in 0..4 {
                // SAFETY: a panel has COLUMNS offsets.
                acc[r][v] = unsafe { _mm512_loadu_si512(scales.offsets.as_ptr().add(16 * v).cast()) };
            }
        }
        for g in 0..tile.groups {
            // SAFETY: g < groups and r < R, within what the caller vouches for.
            unsafe {
                let row = tile.b.add(g * COLUMNS * 4).cast::<i32>();
                let b: [__m512i; 4] = [
                    _mm512_loadu_si512(row.cast()),
                    _mm512_loadu_si512(row.add(16).cast()),
                    _mm512_loadu_si512(row.add(32).cast()),
                    _mm512_loadu_si512(row.add(48).cast()),
                ];
                for r in 0..R {
                    let a = _mm512_set1_epi32(tile.a.add(r * tile.a_row + 4 * g).cast::<i32>().read_unaligned());
                    for v in 0..4 {
                        acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], a, b[v]);
                    }
                }
            }
        }
        for r in 0..R {
            for v in 0..4 {
                // SAFETY: R rows and COLUMNS columns have their scales; the rest is what the caller vouches for.
                unsafe {
                    let row = _mm512_set1_ps(*scales.rows.get_unchecked(r));
                    let scale = _mm512_mul_ps(row, _mm512_loadu_ps(scales.columns.as_ptr().add(16 * v)));
                    let start = _mm512_loadu_ps(tile.start.add(r * tile.start_stride + 16 * v));
                    let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r][v]), scale, start);
                    _mm512_storeu_ps(tile.out.add(r * tile.out_stride + 16 * v), sum);
                }
            }
        }
    }
}
