//! The register tile: a few rows of A times a panel of B, all the way along the inner dimension.
//!
//! B is packed into panels of [`COLUMNS`] columns: `[k / GROUP][COLUMNS][GROUP]`, where GROUP is how many consecutive
//! numbers along the inner dimension one multiply-add instruction takes (1 for f32, 2 for bf16, 4 for bytes). A is row-major. The
//! inner dimension is not cut into blocks, so each output is one chain of multiply-adds in a fixed order.

/// Columns of a panel of B.
pub(in crate::lm) const COLUMNS: usize = 64;
/// Rows of A that a tile takes at most: 6 × 64 accumulators fill 24 of AVX-512's 32 registers.
pub(in crate::lm) const ROWS: usize = 6;

/// Where the sums of a tile come from and go to: rows of [`COLUMNS`] numbers.
#[derive(Clone, Copy)]
pub(in crate::lm) struct Sums {
    pub(super) start: *const f32,
    pub(super) start_stride: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// What turns a tile's sums into numbers, for elements that stand for multiples of something: none for floats.
#[derive(Clone, Copy)]
pub(in crate::lm) struct Scales<'a> {
    /// One for each row of A.
    pub rows: &'a [f32],
    /// One for each column of the panel.
    pub columns: &'a [f32],
    /// What each column's sums start from.
    pub offsets: &'a [i32],
}

impl Scales<'_> {
    pub(in crate::lm) const NONE: Scales<'static> = Scales { rows: &[], columns: &[], offsets: &[] };
}

/// A number as the kernels multiply it.
pub(in crate::lm) trait Element: Copy + Default + Send + Sync + 'static {
    /// Consecutive numbers along the inner dimension that lie together in a panel.
    const GROUP: usize;
    /// Whether numbers stand for themselves, without scales.
    const FLOAT: bool = true;

    fn from_f32(x: f32) -> Self;

    /// Converts as many numbers as both slices have, a row of A, and returns by what they must be multiplied to be `x`.
    fn convert(out: &mut [Self], x: &[f32]) -> f32;

    /// What a row of B's numbers is divided by before each goes through [`Element::from_f32`].
    fn scale(_row: &[f32]) -> f32 {
        1.0
    }

    /// What the sums of a column of B must start from.
    fn offset(_column: impl Iterator<Item = Self>) -> i32 {
        0
    }

    /// `out = start + A B` for `rows` rows of A and one panel of B, `groups * GROUP` deep, A and B being what `scales` makes of
    /// them.
    ///
    /// # Safety
    /// `a` must be readable for `(rows - 1) * stride + groups * GROUP` elements, `b` for `groups * COLUMNS * GROUP`;
    /// `sums.start` and `sums.out` for `rows` rows of [`COLUMNS`] numbers at their strides; elements that are no floats need
    /// scales for all rows and columns; `rows` is 1 to [`ROWS`]; the
    /// processor has what [`available`](Element::available) asks for.
    unsafe fn multiply(
        a: *const Self,
        stride: usize,
        rows: usize,
        b: *const Self,
        groups: usize,
        sums: Sums,
        scales: Scales<'_>,
    );

    /// Whether this processor multiplies such numbers well enough to prefer them.
    fn available() -> bool;
}

/// A bfloat16: the upper half of an f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(in crate::lm) struct Bf16(pub u16);

/// Where a tile's sums start from: rows of 64 numbers, `stride` apart. A stride of 0 repeats one row.
#[derive(Clone, Copy)]
pub(in crate::lm) struct Start<'a> {
    pub from: &'a [f32],
    pub stride: usize,
}

impl Start<'_> {
    pub(in crate::lm) const ZERO: Start<'static> = Start { from: &[0.0; COLUMNS], stride: 0 };
}

/// `out = start + A B` for `rows` rows (1 to [`ROWS`]) of `a`, row-major and `stride` apart, and one panel of B, `groups * GROUP`
/// deep. Writes 64 numbers of each row of `out`, which are `out_stride` apart.
///
/// # Panics
/// When a slice is shorter than that.
#[expect(clippy::too_many_arguments, reason = "two matrices and their strides")]
pub(in crate::lm) fn multiply<E: Element>(
    a: &[E],
    stride: usize,
    rows: usize,
    panel: &[E],
    groups: usize,
    start: Start<'_>,
    out: &mut [f32],
    out_stride: usize,
    scales: Scales<'_>,
) {
    assert!((1..=ROWS).contains(&rows), "a tile of {rows} rows");
    assert!(a.len() >= (rows - 1) * stride + groups * E::GROUP, "rows of A outside their slice");
    assert!(panel.len() >= groups * COLUMNS * E::GROUP, "a panel shorter than the inner dimension");
    assert!(start.from.len() >= (rows - 1) * start.stride + COLUMNS, "sums start outside their slice");
    assert!(out.len() >= (rows - 1) * out_stride + COLUMNS, "sums end outside their slice");
    let scaled = [scales.columns.len(), scales.offsets.len()].into_iter().all(|len| len >= COLUMNS);
    assert!(E::FLOAT || scaled && scales.rows.len() >= rows, "scales are missing");
    let sums = Sums { start: start.from.as_ptr(), start_stride: start.stride, out: out.as_mut_ptr(), out_stride };
    // SAFETY: the lengths were checked above; elements whose instructions the processor lacks are never made, see
    // `Precision::usable`.
    unsafe { E::multiply(a.as_ptr(), stride, rows, panel.as_ptr(), groups, sums, scales) }
}

/// Calls a function that takes its number of rows as a constant.
macro_rules! by_rows {
    ($f:path, $rows:expr, ($($argument:expr),*)) => {{
        use $f as f;
        match $rows {
            1 => f::<1>($($argument),*),
            2 => f::<2>($($argument),*),
            3 => f::<3>($($argument),*),
            4 => f::<4>($($argument),*),
            5 => f::<5>($($argument),*),
            _ => f::<6>($($argument),*),
        }
    }};
}

pub(super) use by_rows;

impl Element for f32 {
    const GROUP: usize = 1;

    #[inline]
    fn from_f32(x: f32) -> Self {
        x
    }

    fn convert(out: &mut [Self], x: &[f32]) -> f32 {
        let n = out.len().min(x.len());
        out[..n].copy_from_slice(&x[..n]);
        1.0
    }

    unsafe fn multiply(
        a: *const Self,
        stride: usize,
        rows: usize,
        b: *const Self,
        groups: usize,
        sums: Sums,
        _scales: Scales<'_>,
    ) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the caller's, and the feature was detected.
                return unsafe { by_rows!(x86::multiply_f32, rows, (a, stride, b, groups, sums)) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the caller's, and the features were detected.
                return unsafe { by_rows!(x86::multiply_f32_avx2, rows, (a, stride, b, groups, sums)) };
            }
        }
        // SAFETY: the caller's.
        unsafe { by_rows!(multiply_plain, rows, (a, stride, b, groups, sums)) }
    }

    fn available() -> bool {
        true
    }
}

impl Element for Bf16 {
    const GROUP: usize = 2;

    /// To nearest, ties to even.
    #[inline]
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        Bf16((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }

    fn convert(out: &mut [Self], x: &[f32]) -> f32 {
        super::vector::to_bf16(out, x);
        1.0
    }

    unsafe fn multiply(
        a: *const Self,
        stride: usize,
        rows: usize,
        b: *const Self,
        groups: usize,
        sums: Sums,
        _scales: Scales<'_>,
    ) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's; `available` asked for the features.
        unsafe {
            by_rows!(x86::multiply_bf16, rows, (a, stride, b, groups, sums));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (a, stride, rows, b, groups, sums);
    }

    fn available() -> bool {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

/// # Safety
/// As [`Element::multiply`].
#[inline(always)]
unsafe fn multiply_portable<const R: usize, const FUSED: bool>(
    a: *const f32,
    stride: usize,
    b: *const f32,
    depth: usize,
    sums: Sums,
) {
    // Sixteen columns at a time, so that the sums of a tile stay in registers.
    for first in (0..COLUMNS).step_by(16) {
        let mut acc = [[0f32; 16]; R];
        for k in 0..depth {
            // SAFETY: k < depth, r < R and first + 16 <= COLUMNS, within what the caller vouches for.
            let (b, a) = unsafe { (&*b.add(k * COLUMNS + first).cast::<[f32; 16]>(), a.add(k)) };
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: as above.
                let a = unsafe { *a.add(r * stride) };
                for (acc, b) in acc.iter_mut().zip(b) {
                    // Without the instruction, `mul_add` would be a library call.
                    *acc = if FUSED { a.mul_add(*b, *acc) } else { *acc + a * b };
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (column, acc) in (first..).zip(acc) {
                // SAFETY: as above.
                unsafe {
                    *sums.out.add(r * sums.out_stride + column) = *sums.start.add(r * sums.start_stride + column) + acc;
                }
            }
        }
    }
}

/// # Safety
/// As [`Element::multiply`].
unsafe fn multiply_plain<const R: usize>(a: *const f32, stride: usize, b: *const f32, depth: usize, sums: Sums) {
    // SAFETY: the caller's.
    unsafe { multiply_portable::<R, false>(a, stride, b, depth, sums) }
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::needless_range_loop, reason = "iterators over vector registers are not inlined, see `Registers`")]
mod x86 {
    use super::{Bf16, COLUMNS, Sums};
    use std::arch::x86_64::*;

    /// Four registers of sixteen sums for each row. Plain index loops throughout: values of vector type passed to
    /// functions that lack the target feature (an iterator's, a closure's) would not be inlined.
    type Registers<const R: usize> = [[__m512; 4]; R];

    /// # Safety
    /// As [`super::Element::multiply`], with AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load<const R: usize>(sums: Sums) -> Registers<R> {
        let mut registers = [[_mm512_setzero_ps(); 4]; R];
        for r in 0..R {
            for v in 0..4 {
                // SAFETY: the caller's.
                registers[r][v] = unsafe { _mm512_loadu_ps(sums.start.add(r * sums.start_stride + 16 * v)) };
            }
        }
        registers
    }

    /// # Safety
    /// As [`super::Element::multiply`], with AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store<const R: usize>(registers: &Registers<R>, sums: Sums) {
        for r in 0..R {
            for v in 0..4 {
                // SAFETY: the caller's.
                unsafe { _mm512_storeu_ps(sums.out.add(r * sums.out_stride + 16 * v), registers[r][v]) };
            }
        }
    }

    /// # Safety
    /// As [`super::Element::multiply`], with AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn multiply_f32<const R: usize>(
        a: *const f32,
        stride: usize,
        b: *const f32,
        depth: usize,
        sums: Sums,
    ) {
        // SAFETY: the caller's.
        let mut acc = unsafe { load::<R>(sums) };
        for k in 0..depth {
            // SAFETY: k < depth and r < R, within what the caller vouches for.
            unsafe {
                let row = b.add(k * COLUMNS);
                let b: [__m512; 4] = [
                    _mm512_loadu_ps(row),
                    _mm512_loadu_ps(row.add(16)),
                    _mm512_loadu_ps(row.add(32)),
                    _mm512_loadu_ps(row.add(48)),
                ];
                for r in 0..R {
                    let a = _mm512_set1_ps(*a.add(r * stride + k));
                    for v in 0..4 {
                        acc[r][v] = _mm512_fmadd_ps(a, b[v], acc[r][v]);
                    }
                }
            }
        }
        // SAFETY: the caller's.
        unsafe { store(&acc, sums) };
    }

    /// # Safety
    /// As [`super::Element::multiply`], with AVX-512F and AVX512_BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn multiply_bf16<const R: usize>(
        a: *const Bf16,
        stride: usize,
        b: *const Bf16,
        pairs: usize,
        sums: Sums,
    ) {
        // SAFETY: the caller's.
        let mut acc = unsafe { load::<R>(sums) };
        for p in 0..pairs {
            // SAFETY: p < pairs and r < R, within what the caller vouches for. A register of 32-bit integers and one
            // of pairs of bfloat16 are the same 512 bits.
            unsafe {
                let row = b.add(p * COLUMNS * 2).cast::<i32>();
                let b: [__m512bh; 4] = [
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(row.cast())),
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(row.add(16).cast())),
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(row.add(32).cast())),
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(row.add(48).cast())),
                ];
                for r in 0..R {
                    let pair = a.add(r * stride + 2 * p).cast::<i32>().read_unaligned();
                    let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
                    for v in 0..4 {
                        acc[r][v] = _mm512_dpbf16_ps(acc[r][v], a, b[v]);
                    }
                }
            }
        }
        // SAFETY: the caller's.
        unsafe { store(&acc, sums) };
    }

    /// # Safety
    /// As [`super::Element::multiply`], with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply_f32_avx2<const R: usize>(
        a: *const f32,
        stride: usize,
        b: *const f32,
        depth: usize,
        sums: Sums,
    ) {
        // SAFETY: the caller's; inlined here, the loops are compiled for AVX2.
        unsafe { super::multiply_portable::<R, true>(a, stride, b, depth, sums) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers, which bf16 and sums of their products hold exactly.
    fn whole(i: usize) -> f32 {
        (i * 7919 % 15) as f32 - 7.0
    }

    fn check<E: Element>(rows: usize, depth: usize, stride: usize) {
        if !E::available() {
            return;
        }
        let a: Vec<E> = (0..rows * stride).map(|i| E::from_f32(whole(i))).collect();
        let mut panel = vec![E::default(); depth * COLUMNS];
        for k in 0..depth {
            for column in 0..COLUMNS {
                let at = (k / E::GROUP * COLUMNS + column) * E::GROUP + k % E::GROUP;
                panel[at] = E::from_f32(whole(k * 31 + column));
            }
        }
        let start: Vec<f32> = (0..rows * 70).map(whole).collect();
        let mut out = vec![0.25; (rows - 1) * 80 + COLUMNS + 1];
        multiply(
            &a,
            stride,
            rows,
            &panel,
            depth / E::GROUP,
            Start { from: &start, stride: 70 },
            &mut out,
            80,
            Scales::NONE,
        );
        for (row, sums) in out.chunks(80).enumerate() {
            for (column, sum) in sums.iter().enumerate() {
                let product = |k: usize| whole(row * stride + k) * whole(k * 31 + column);
                let expect = match column {
                    0..COLUMNS => whole(row * 70 + column) + (0..depth).map(product).sum::<f32>(),
                    // What lies between the rows stays as it was.
                    _ => 0.25,
                };
                assert_eq!(*sum, expect, "row {row} column {column}");
            }
        }
    }

    #[test]
    fn every_number_of_rows_multiplies_exactly() {
        for rows in 1..=ROWS {
            check::<f32>(rows, 34, 40);
            check::<Bf16>(rows, 34, 40);
            check::<f32>(rows, 2, 2);
            check::<Bf16>(rows, 2, 2);
        }
    }

    #[test]
    fn the_portable_tile_equals_the_fast_one() {
        let a: Vec<f32> = (0..6 * 30).map(whole).collect();
        let b: Vec<f32> = (0..30 * COLUMNS).map(whole).collect();
        let (mut fast, mut portable) = ([0.0; 6 * COLUMNS], [0.0; 6 * COLUMNS]);
        multiply(&a, 30, 6, &b, 30, Start::ZERO, &mut fast, COLUMNS, Scales::NONE);
        let sums =
            Sums { start: Start::ZERO.from.as_ptr(), start_stride: 0, out: portable.as_mut_ptr(), out_stride: COLUMNS };
        // SAFETY: six rows of 30, 30 rows of a panel, and six rows of sums.
        unsafe { multiply_plain::<6>(a.as_ptr(), 30, b.as_ptr(), 30, sums) };
        assert_eq!(fast, portable);
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

    #[test]
    #[should_panic(expected = "a panel shorter")]
    fn a_short_panel_is_caught() {
        multiply(&[1f32; 8], 8, 1, &[1f32; 64], 2, Start::ZERO, &mut [0.0; COLUMNS], COLUMNS, Scales::NONE);
    }
}
