//! The register tile: a few rows of A times a panel of B, all the way along the inner dimension.
//!
//! B is packed into panels of [`COLUMNS`] columns: `[k / GROUP][COLUMNS][GROUP]`, where GROUP is how many consecutive
//! numbers along the inner dimension one multiply-add instruction takes (1 for f32, 2 for bf16). A is row-major, or
//! transposed: `[k / GROUP][row][GROUP]`. A tile does not cut the inner dimension into blocks, so each output is one
//! chain of multiply-adds in a fixed order.

/// Columns of a panel of B.
pub(crate) const COLUMNS: usize = 64;
/// Rows of A that a tile takes at most: 6 × 64 accumulators fill 24 of AVX-512's 32 registers.
pub(crate) const ROWS: usize = 6;

/// The operands of one tile. Strides count elements.
#[derive(Clone, Copy)]
pub(crate) struct Tile<E> {
    a: *const E,
    /// Between rows of A; GROUP where A is transposed.
    a_row: usize,
    /// Between groups of A's inner dimension; GROUP where A is row-major.
    a_group: usize,
    rows: usize,
    b: *const E,
    b_group: usize,
    groups: usize,
    columns: usize,
    start: *const f32,
    start_stride: usize,
    out: *mut f32,
    out_stride: usize,
}

/// A number as the kernels multiply it.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// Consecutive numbers along the inner dimension that lie together in a panel.
    const GROUP: usize;

    fn from_f32(x: f32) -> Self;

    /// Converts as many numbers as both slices have.
    fn convert(out: &mut [Self], x: &[f32]);

    /// Writes groups of numbers: `out[GROUP i] = first[i]` and, where groups are pairs, `out[GROUP i + 1] = second[i]`.
    /// `out` decides how many; `second` is as long as `first` or, for zeros, empty.
    fn interleave(out: &mut [Self], first: &[f32], second: &[f32]);

    /// Writes sixteen columns side by side: `out[g stride + GROUP c + j] = columns[c][GROUP g + j]` for each of `groups`
    /// groups g, zero where a column has ended.
    fn transpose(out: &mut [Self], stride: usize, groups: usize, columns: &[&[f32]; 16]) {
        for (g, out) in out.chunks_mut(stride).take(groups).enumerate() {
            for (out, column) in out.chunks_exact_mut(Self::GROUP).zip(columns) {
                for (k, out) in (g * Self::GROUP..).zip(out) {
                    *out = Self::from_f32(column.get(k).copied().unwrap_or(0.0));
                }
            }
        }
    }

    /// `out = start + A B` for a few rows of A and one panel of B.
    ///
    /// # Safety
    /// `a` must be readable for `rows` rows of `groups` groups and `b` for `groups` groups of `columns`, rounded up to
    /// 16, columns at their strides; `start` and `out` for `rows` rows of `columns` numbers; one of A's strides is GROUP;
    /// `rows` is 1 to [`rows_of_tile`] and `columns` 1 to [`COLUMNS`]; the processor has what
    /// [`available`](Element::available) asks for.
    unsafe fn multiply(tile: Tile<Self>);

    /// Whether this processor multiplies such numbers well enough to prefer them.
    fn available() -> bool;
}

/// A bfloat16: the upper half of an f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Bf16(pub u16);

/// Where a tile's sums start from: rows of 64 numbers, `stride` apart. A stride of 0 repeats one row.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    pub from: &'a [f32],
    pub stride: usize,
}

impl Start<'_> {
    pub(crate) const ZERO: Start<'static> = Start { from: &[0.0; COLUMNS], stride: 0 };
}

/// `out = start + A B` for `rows` rows (1 to [`ROWS`]) of `a`, row-major and `stride` apart, and one panel of B, `groups * GROUP`
/// deep. Writes 64 numbers of each row of `out`, which are `out_stride` apart.
///
/// # Panics
/// When a slice is shorter than that.
#[expect(clippy::too_many_arguments, reason = "two matrices and their strides")]
pub(crate) fn multiply<E: Element>(
    a: &[E],
    stride: usize,
    rows: usize,
    panel: &[E],
    groups: usize,
    start: Start<'_>,
    out: &mut [f32],
    out_stride: usize,
) {
    assert!((1..=ROWS).contains(&rows), "a tile of {rows} rows");
    assert!(a.len() >= (rows - 1) * stride + groups * E::GROUP, "rows of A outside their slice");
    assert!(panel.len() >= groups * COLUMNS * E::GROUP, "a panel shorter than the inner dimension");
    assert!(start.from.len() >= (rows - 1) * start.stride + COLUMNS, "sums start outside their slice");
    assert!(out.len() >= (rows - 1) * out_stride + COLUMNS, "sums end outside their slice");
    let tile = Tile {
        a: a.as_ptr(),
        a_row: stride,
        a_group: E::GROUP,
        rows,
        b: panel.as_ptr(),
        b_group: COLUMNS * E::GROUP,
        groups,
        columns: COLUMNS,
        start: start.from.as_ptr(),
        start_stride: start.stride,
        out: out.as_mut_ptr(),
        out_stride,
    };
    // SAFETY: the lengths were checked above; elements whose instructions the processor lacks are never made, see
    // `Precision::usable`.
    unsafe { E::multiply(tile) }
}

/// Rows of A that a tile of so many columns takes at most: about 24 accumulators.
pub(crate) fn rows_of_tile(columns: usize) -> usize {
    match columns.div_ceil(16) {
        4 => ROWS,
        3 => 8,
        _ => 12,
    }
}

/// Rows of A: row-major (`group` is GROUP), or transposed (`row` is GROUP).
#[derive(Clone, Copy)]
pub(crate) struct Left<'a, E> {
    pub values: &'a [E],
    /// Elements between rows.
    pub row: usize,
    /// Elements between groups of the inner dimension.
    pub group: usize,
}

/// A panel of B, `groups` deep and 1 to [`COLUMNS`] wide, with room for the next multiple of 16 columns.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a, E> {
    pub values: &'a [E],
    /// Elements between groups of the inner dimension.
    pub group: usize,
    pub groups: usize,
    pub columns: usize,
}

/// `out = start + A B`, or `out += A B` without a start, for `rows` rows (1 to [`rows_of_tile`]) of `a`. Writes
/// `b.columns` numbers of each row of `out`, which are `out_stride` apart.
///
/// # Panics
/// When a slice is shorter than that.
pub(crate) fn multiply_panel<E: Element>(
    a: Left<'_, E>,
    rows: usize,
    b: Right<'_, E>,
    start: Option<Start<'_>>,
    out: &mut [f32],
    out_stride: usize,
) {
    assert!((1..=COLUMNS).contains(&b.columns), "a panel of {} columns", b.columns);
    assert!((1..=rows_of_tile(b.columns)).contains(&rows), "a tile of {rows} rows");
    assert!(a.row == E::GROUP || a.group == E::GROUP, "A is row-major or transposed");
    if b.groups > 0 {
        let last = (rows - 1) * a.row + (b.groups - 1) * a.group;
        assert!(a.values.len() >= last + E::GROUP, "rows of A outside their slice");
        let last = (b.groups - 1) * b.group + b.columns.next_multiple_of(16) * E::GROUP;
        assert!(b.values.len() >= last, "a panel shorter than the inner dimension");
    }
    assert!(out.len() >= (rows - 1) * out_stride + b.columns, "sums end outside their slice");
    let (from, start_stride) = match start {
        Some(start) => {
            assert!(start.from.len() >= (rows - 1) * start.stride + b.columns, "sums start outside their slice");
            (start.from.as_ptr(), start.stride)
        }
        None => (out.as_ptr(), out_stride),
    };
    let tile = Tile {
        a: a.values.as_ptr(),
        a_row: a.row,
        a_group: a.group,
        rows,
        b: b.values.as_ptr(),
        b_group: b.group,
        groups: b.groups,
        columns: b.columns,
        start: from,
        start_stride,
        out: out.as_mut_ptr(),
        out_stride,
    };
    // SAFETY: the lengths were checked above; a tile reads a start before it writes the same place.
    unsafe { E::multiply(tile) }
}

/// Calls a function that takes the shape of a tile as constants: rows, registers of columns, whether A is transposed.
macro_rules! by_shape {
    ($f:path, $tile:expr, $group:expr) => {{
        use $f as f;
        let tile = $tile;
        if tile.a_row == $group { by_shape!(f, tile, rows true) } else { by_shape!(f, tile, rows false) }
    }};
    ($f:ident, $tile:ident, rows $t:literal) => {
        match $tile.columns.div_ceil(16) {
            4 => by_shape!($f, $tile, 4, $t, 1 2 3 4 5; 6),
            3 => by_shape!($f, $tile, 3, $t, 1 2 3 4 5 6 7; 8),
            2 => by_shape!($f, $tile, 2, $t, 1 2 3 4 5 6 7 8 9 10 11; 12),
            _ => by_shape!($f, $tile, 1, $t, 1 2 3 4 5 6 7 8 9 10 11; 12),
        }
    };
    ($f:ident, $tile:ident, $v:literal, $t:literal, $($rows:literal)*; $most:literal) => {
        match $tile.rows {
            $($rows => $f::<$rows, $v, $t>($tile),)*
            _ => $f::<$most, $v, $t>($tile),
        }
    };
}

impl Element for f32 {
    const GROUP: usize = 1;

    fn from_f32(x: f32) -> Self {
        x
    }

    fn convert(out: &mut [Self], x: &[f32]) {
        let n = out.len().min(x.len());
        out[..n].copy_from_slice(&x[..n]);
    }

    fn interleave(out: &mut [Self], first: &[f32], _second: &[f32]) {
        out.copy_from_slice(&first[..out.len()]);
    }

    unsafe fn multiply(tile: Tile<Self>) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the caller's, and the feature was detected.
                return unsafe { by_shape!(x86::multiply_f32, tile, 1) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the caller's, and the features were detected.
                return unsafe { x86::multiply_f32_avx2(tile) };
            }
        }
        // SAFETY: the caller's.
        unsafe { multiply_portable::<false>(tile) }
    }

    fn available() -> bool {
        true
    }
}

impl Element for Bf16 {
    const GROUP: usize = 2;

    /// To nearest, ties to even.
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        Bf16((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }

    fn convert(out: &mut [Self], x: &[f32]) {
        super::vector::to_bf16(out, x);
    }

    fn interleave(out: &mut [Self], first: &[f32], second: &[f32]) {
        super::vector::to_bf16_pairs(out, first, second);
    }

    unsafe fn multiply(tile: Tile<Self>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's; `available` asked for the features.
        unsafe {
            by_shape!(x86::multiply_bf16, tile, 2);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = tile;
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
unsafe fn multiply_portable<const FUSED: bool>(tile: Tile<f32>) {
    let Tile { rows, columns, .. } = tile;
    let mut row = 0;
    while row < rows {
        // Sixteen columns of a few rows at a time, so that the sums stay in registers.
        for first in (0..columns).step_by(16) {
            // SAFETY: rows and columns of the tile.
            unsafe {
                match rows - row {
                    1 => strip::<1, FUSED>(tile, row, first),
                    2 => strip::<2, FUSED>(tile, row, first),
                    3 => strip::<3, FUSED>(tile, row, first),
                    _ => strip::<4, FUSED>(tile, row, first),
                }
            }
        }
        row += 4;
    }
}

/// Sixteen columns, or those that are left, of `R` rows.
///
/// # Safety
/// As [`Element::multiply`], for a tile that has these rows and columns.
#[inline(always)]
unsafe fn strip<const R: usize, const FUSED: bool>(tile: Tile<f32>, row: usize, first: usize) {
    let mut acc = [[0f32; 16]; R];
    for k in 0..tile.groups {
        // SAFETY: k < groups, and a panel has room for whole sixteens.
        let b = unsafe { &*tile.b.add(k * tile.b_group + first).cast::<[f32; 16]>() };
        for (r, acc) in (row..).zip(&mut acc) {
            // SAFETY: r is a row of the tile.
            let a = unsafe { *tile.a.add(r * tile.a_row + k * tile.a_group) };
            for (acc, b) in acc.iter_mut().zip(b) {
                // Without the instruction, `mul_add` would be a library call.
                *acc = if FUSED { a.mul_add(*b, *acc) } else { *acc + a * b };
            }
        }
    }
    for (r, acc) in (row..).zip(&acc) {
        for (column, acc) in (first..tile.columns).zip(acc) {
            // SAFETY: a row and a column of the tile.
            unsafe {
                *tile.out.add(r * tile.out_stride + column) = *tile.start.add(r * tile.start_stride + column) + acc
            };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::needless_range_loop, reason = "iterators over vector registers are not inlined, see `Registers`")]
mod x86 {
    use super::{Bf16, Tile};
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
    /// As [`super::Element::multiply`], with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn multiply_f32_avx2(tile: Tile<f32>) {
        // SAFETY: the caller's; inlined here, the loops are compiled for AVX2.
        unsafe { super::multiply_portable::<true>(tile) }
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
        multiply(&a, stride, rows, &panel, depth / E::GROUP, Start { from: &start, stride: 70 }, &mut out, 80);
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

    /// `out += A B` with A transposed, on a narrow panel.
    fn check_narrow<E: Element>(rows: usize, columns: usize) {
        if !E::available() {
            return;
        }
        let (depth, wide, stride) = (10, columns.next_multiple_of(16), columns + 3);
        let mut a = vec![E::default(); depth * rows];
        let mut b = vec![E::default(); depth * wide];
        for k in 0..depth {
            let at = |width: usize, i: usize| (k / E::GROUP * width + i) * E::GROUP + k % E::GROUP;
            (0..rows).for_each(|r| a[at(rows, r)] = E::from_f32(whole(k * 31 + r)));
            (0..columns).for_each(|c| b[at(wide, c)] = E::from_f32(whole(k * 17 + c)));
        }
        let left = Left { values: &a, row: E::GROUP, group: rows * E::GROUP };
        let right = Right { values: &b, group: wide * E::GROUP, groups: depth / E::GROUP, columns };
        let mut out = vec![0.5; (rows - 1) * stride + columns];
        multiply_panel(left, rows, right, None, &mut out, stride);
        for (i, found) in out.iter().enumerate() {
            let (r, c) = (i / stride, i % stride);
            let sum: f32 = (0..depth).map(|k| whole(k * 31 + r) * whole(k * 17 + c)).sum();
            assert_eq!(*found, 0.5 + if c < columns { sum } else { 0.0 }, "{rows} rows, {columns} columns: {r} {c}");
        }
    }

    #[test]
    fn narrow_and_transposed_tiles_multiply_exactly() {
        for columns in [1, 15, 16, 24, 32, 33, 48, 50, 64] {
            for rows in 1..=rows_of_tile(columns) {
                check_narrow::<f32>(rows, columns);
                check_narrow::<Bf16>(rows, columns);
            }
        }
    }

    #[test]
    fn the_portable_tile_equals_the_fast_one() {
        let a: Vec<f32> = (0..6 * 30).map(whole).collect();
        let b: Vec<f32> = (0..30 * COLUMNS).map(whole).collect();
        let (mut fast, mut portable) = ([0.0; 6 * COLUMNS], [0.0; 6 * COLUMNS]);
        multiply(&a, 30, 6, &b, 30, Start::ZERO, &mut fast, COLUMNS);
        let tile = Tile {
            a: a.as_ptr(),
            a_row: 30,
            a_group: 1,
            rows: 6,
            b: b.as_ptr(),
            b_group: COLUMNS,
            groups: 30,
            columns: COLUMNS,
            start: Start::ZERO.from.as_ptr(),
            start_stride: 0,
            out: portable.as_mut_ptr(),
            out_stride: COLUMNS,
        };
        // SAFETY: six rows of 30, 30 rows of a panel, and six rows of sums.
        unsafe { multiply_portable::<false>(tile) };
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
        multiply(&[1f32; 8], 8, 1, &[1f32; 64], 2, Start::ZERO, &mut [0.0; COLUMNS], COLUMNS);
    }
}
