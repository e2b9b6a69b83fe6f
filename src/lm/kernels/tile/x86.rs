//! The register tile in vector instructions.

use super::{Bf16, ROWS_APART, Tile};
use std::arch::x86_64::*;

/// Registers of sixteen sums for each row. Plain index loops throughout: values of vector type passed to functions
/// that lack the target feature (an iterator's, a closure's) would not be inlined.
type Registers<const R: usize, const V: usize> = [[__m512; V]; R];

/// The columns of register `v` that a tile has.
#[inline(always)]
fn lanes<const V: usize>(columns: usize, v: usize) -> u16 {
    if v + 1 < V { u16::MAX } else { u16::MAX >> (16 * V - columns) }
}

/// # Safety
/// As [`super::Element::multiply`], with AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<E, const R: usize, const V: usize>(tile: Tile<E>) -> Registers<R, V> {
    let mut registers = [[_mm512_setzero_ps(); V]; R];
    for r in 0..R {
        for v in 0..V {
            // SAFETY: the caller's; lanes beyond the columns are not touched.
            registers[r][v] = unsafe {
                _mm512_maskz_loadu_ps(lanes::<V>(tile.columns, v), tile.start.add(r * tile.start_stride + 16 * v))
            };
        }
    }
    registers
}

/// # Safety
/// As [`super::Element::multiply`], with AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<E, const R: usize, const V: usize>(registers: &Registers<R, V>, tile: Tile<E>) {
    for r in 0..R {
        for v in 0..V {
            // SAFETY: the caller's; lanes beyond the columns are not touched.
            unsafe {
                let to = tile.out.add(r * tile.out_stride + 16 * v);
                _mm512_mask_storeu_ps(to, lanes::<V>(tile.columns, v), registers[r][v]);
            }
        }
    }
}

/// # Safety
/// As [`super::Element::multiply`], with AVX-512F; R rows, V registers of columns.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply_f32<const R: usize, const V: usize, const TRANSPOSED: bool>(tile: Tile<f32>) {
    let (row, group) = if TRANSPOSED { (1, tile.a_group) } else { (tile.a_row, 1) };
    // SAFETY: the caller's.
    let mut acc = unsafe { load::<_, R, V>(tile) };
    for k in 0..tile.groups {
        // SAFETY: k < groups and r < R, within what the caller vouches for.
        unsafe {
            let panel = tile.b.add(k * tile.b_group);
            let mut b = [_mm512_setzero_ps(); V];
            for v in 0..V {
                b[v] = _mm512_loadu_ps(panel.add(16 * v));
            }
            for r in 0..R {
                let a = _mm512_set1_ps(*tile.a.add(r * row + k * group));
                for v in 0..V {
                    acc[r][v] = _mm512_fmadd_ps(a, b[v], acc[r][v]);
                }
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { store(&acc, tile) };
}

/// # Safety
/// As [`super::Element::multiply`], with AVX-512F and AVX512_BF16; R rows, V registers of columns.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply_bf16<const R: usize, const V: usize, const TRANSPOSED: bool>(tile: Tile<Bf16>) {
    let (row, group) = if TRANSPOSED { (2, tile.a_group) } else { (tile.a_row, 2) };
    // SAFETY: the caller's.
    let mut acc = unsafe { load::<_, R, V>(tile) };
    for p in 0..tile.groups {
        // SAFETY: p < groups and r < R, within what the caller vouches for. A register of 32-bit integers and one of
        // pairs of bfloat16 are the same 512 bits.
        unsafe {
            let panel = tile.b.add(p * tile.b_group).cast::<i32>();
            let mut b = [_mm512_setzero_si512(); V];
            for v in 0..V {
                b[v] = _mm512_loadu_si512(panel.add(16 * v).cast());
            }
            for r in 0..R {
                let pair = tile.a.add(r * row + p * group).cast::<i32>().read_unaligned();
                let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
                for v in 0..V {
                    let b = std::mem::transmute::<__m512i, __m512bh>(b[v]);
                    acc[r][v] = _mm512_dpbf16_ps(acc[r][v], a, b);
                }
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { store(&acc, tile) };
}

/// # Safety
/// As [`super::Float::multiply_rows`], with AVX-512F; R rows, V registers of columns.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply_rows_f32<const R: usize, const V: usize>(
    tile: Tile<f32>,
    panels: &[*const f32; ROWS_APART],
) {
    // SAFETY: the caller's.
    let mut acc = unsafe { load::<_, R, V>(tile) };
    for k in 0..tile.groups {
        for r in 0..R {
            // SAFETY: k < groups and r < rows, within what the caller vouches for.
            unsafe {
                let panel = panels[r].add(k * tile.b_group);
                let a = _mm512_set1_ps(*tile.a.add(r * tile.a_row + k));
                for v in 0..V {
                    acc[r][v] = _mm512_fmadd_ps(a, _mm512_loadu_ps(panel.add(16 * v)), acc[r][v]);
                }
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { store(&acc, tile) };
}

/// # Safety
/// As [`super::Float::multiply_rows`], with AVX-512F and AVX512_BF16; R rows, V registers of columns.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn multiply_rows_bf16<const R: usize, const V: usize>(
    tile: Tile<Bf16>,
    panels: &[*const Bf16; ROWS_APART],
) {
    // SAFETY: the caller's.
    let mut acc = unsafe { load::<_, R, V>(tile) };
    for p in 0..tile.groups {
        for r in 0..R {
            // SAFETY: p < groups and r < rows, within what the caller vouches for. A register of 32-bit integers and one of
            // pairs of bfloat16 are the same 512 bits.
            unsafe {
                let panel = panels[r].add(p * tile.b_group).cast::<i32>();
                let pair = tile.a.add(r * tile.a_row + 2 * p).cast::<i32>().read_unaligned();
                let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
                for v in 0..V {
                    let b = _mm512_loadu_si512(panel.add(16 * v).cast());
                    acc[r][v] = _mm512_dpbf16_ps(acc[r][v], a, std::mem::transmute::<__m512i, __m512bh>(b));
                }
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { store(&acc, tile) };
}

/// # Safety
/// As [`super::Element::multiply`], with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply_f32_avx2(tile: Tile<f32>) {
    // SAFETY: the caller's; inlined here, the loops are compiled for AVX2.
    unsafe { super::multiply_portable::<true>(tile) }
}
