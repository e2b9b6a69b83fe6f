//! The register tile: a few rows of A times a panel of B, all the way along the inner dimension.
//!
//! B is packed into panels of [`COLUMNS`] columns: `[k / GROUP][COLUMNS][GROUP]`, where GROUP is how many consecutive
//! numbers along the inner dimension one multiply-add instruction takes (1 for f32, 2 for bf16, 4 for bytes). A is row-major, or
//! transposed: `[k / GROUP][row][GROUP]`. A tile does not cut the inner dimension into blocks, so each output is one
//! chain of multiply-adds in a fixed order.

use super::convert;

/// Columns of a panel of B.
pub(crate) const COLUMNS: usize = 64;
/// Rows that [`multiply_rows`] takes at most: 4 × 64 accumulators, and each has a panel of its own.
pub(crate) const ROWS_APART: usize = 4;
/// Rows of A that a tile takes at most: 6 × 64 accumulators fill 24 of AVX-512's 32 registers.
pub(crate) const ROWS: usize = 6;

/// The operands of one tile. Strides count elements.
#[derive(Clone, Copy)]
pub(crate) struct Tile<E> {
    pub(super) a: *const E,
    /// Between rows of A; GROUP where A is transposed.
    pub(super) a_row: usize,
    /// Between groups of A's inner dimension; GROUP where A is row-major.
    pub(super) a_group: usize,
    pub(super) rows: usize,
    pub(super) b: *const E,
    pub(super) b_group: usize,
    pub(super) groups: usize,
    pub(super) columns: usize,
    pub(super) start: *const f32,
    pub(super) start_stride: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// What turns a tile's sums into numbers, for elements that stand for multiples of something: none for floats.
#[derive(Clone, Copy)]
pub(crate) struct Scales<'a> {
    /// One for each row of A.
    pub rows: &'a [f32],
    /// One for each column of the panel.
    pub columns: &'a [f32],
    /// What each column's sums start from.
    pub offsets: &'a [i32],
}

impl Scales<'_> {
    pub(crate) const NONE: Scales<'static> = Scales { rows: &[], columns: &[], offsets: &[] };
}

/// A number as the kernels multiply it.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
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

    /// `out = start + A B` for a few rows of A and one panel of B, A and B being what `scales` makes of them.
    ///
    /// # Safety
    /// `a` must be readable for `rows` rows of `groups` groups and `b` for `groups` groups of `columns`, rounded up to
    /// 16, columns at their strides; `start` and `out` for `rows` rows of `columns` numbers; one of A's strides is GROUP;
    /// `rows` is 1 to [`rows_of_tile`] and `columns` 1 to [`COLUMNS`]; elements that are no floats need a row-major A, a
    /// whole panel, and scales for all rows and columns; the processor has what [`available`](Element::available) asks for.
    unsafe fn multiply(tile: Tile<Self>, scales: Scales<'_>);

    /// Whether this processor multiplies such numbers well enough to prefer them.
    fn available() -> bool;
}

/// A number that training multiplies, too: on both sides of products, in panels made anew each time.
pub(crate) trait Float: Element {
    /// Writes groups of numbers: `out[GROUP i] = first[i]` and, where groups are pairs, `out[GROUP i + 1] = second[i]`.
    /// `out` decides how many; `second` is as long as `first` or, for zeros, empty.
    fn interleave(out: &mut [Self], first: &[f32], second: &[f32]);

    /// Writes sixteen columns side by side: `out[g stride + GROUP c + j] = columns[c][GROUP g + j]` for each of `groups`
    /// groups g, zero where a column has ended.
    fn transpose(out: &mut [Self], stride: usize, groups: usize, columns: &[&[f32]; 16]);

    /// The numbers themselves, where they are multiplied as they are.
    fn as_is(x: &[f32]) -> Option<&[Self]>;

    /// Rows of `width` numbers as the left side of a product, row-major, converted into `buffer` where they have to be.
    fn left<'a>(rows: &'a [f32], width: usize, buffer: &'a mut Vec<Self>) -> Left<'a, Self>;

    /// [`Float::left`] of the transposed matrix: rows are its inner dimension.
    fn left_transposed<'a>(rows: &'a [f32], width: usize, buffer: &'a mut Vec<Self>) -> Left<'a, Self>;

    /// What [`multiply_rows`] does; the tile's own `b` is the first of `panels`.
    ///
    /// # Safety
    /// As [`Element::multiply`] for each of the tile's rows, 1 to [`ROWS_APART`], with the panel of the same index.
    unsafe fn multiply_rows(tile: Tile<Self>, panels: &[*const Self; ROWS_APART]);
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
/// deep, both being what `scales` makes of them. Writes `columns` numbers of each row of `out`, which are `out_stride` apart:
/// 64, or fewer where elements are floats, and then up to [`rows_of_tile`] rows at once.
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
    columns: usize,
    start: Start<'_>,
    out: &mut [f32],
    out_stride: usize,
    scales: Scales<'_>,
) {
    assert!(columns == COLUMNS || E::FLOAT && (1..COLUMNS).contains(&columns), "a panel of {columns} columns");
    assert!((1..=rows_of_tile(columns)).contains(&rows), "a tile of {rows} rows");
    assert!(a.len() >= (rows - 1) * stride + groups * E::GROUP, "rows of A outside their slice");
    assert!(panel.len() >= groups * COLUMNS * E::GROUP, "a panel shorter than the inner dimension");
    assert!(start.from.len() >= (rows - 1) * start.stride + columns, "sums start outside their slice");
    assert!(out.len() >= (rows - 1) * out_stride + columns, "sums end outside their slice");
    let scaled = [scales.columns.len(), scales.offsets.len()].into_iter().all(|len| len >= COLUMNS);
    assert!(E::FLOAT || scaled && scales.rows.len() >= rows, "scales are missing");
    let tile = Tile {
        a: a.as_ptr(),
        a_row: stride,
        a_group: E::GROUP,
        rows,
        b: panel.as_ptr(),
        b_group: COLUMNS * E::GROUP,
        groups,
        columns,
        start: start.from.as_ptr(),
        start_stride: start.stride,
        out: out.as_mut_ptr(),
        out_stride,
    };
    // SAFETY: the lengths were checked above; elements whose instructions the processor lacks are never made, see
    // `Precision::usable`.
    unsafe { E::multiply(tile, scales) }
}

/// Rows of A that a tile of so many columns takes at most: about 24 accumulators.
pub(crate) const fn rows_of_tile(columns: usize) -> usize {
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
#[inline]
pub(crate) fn multiply_panel<E: Float>(
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
    unsafe { E::multiply(tile, Scales::NONE) }
}

/// `out[r] = a[r] B[r]`, or `out[r] += a[r] B[r]` with `add`, for one row and one panel each: the panels are of one shape and
/// begin at `panels`, of which `b` tells the groups and columns. Rows of A are `row` elements apart, those of `out`
/// `out_stride`. Each sum is the chain of multiply-adds that [`multiply_panel`] makes.
///
/// One row alone waits for its own sums most of the time; several at once fill each other's gaps.
///
/// # Panics
/// When a slice is shorter than that, or there are more than [`ROWS_APART`] rows.
#[inline]
pub(crate) fn multiply_rows<E: Float>(
    a: Left<'_, E>,
    panels: &[&[E]],
    b: Right<'_, E>,
    add: bool,
    out: &mut [f32],
    out_stride: usize,
) {
    let rows = panels.len();
    assert!((1..=ROWS_APART).contains(&rows), "{rows} rows at once");
    assert!((1..=COLUMNS).contains(&b.columns), "a panel of {} columns", b.columns);
    assert!(a.group == E::GROUP, "A is row-major");
    assert!(a.values.len() >= (rows - 1) * a.row + b.groups * E::GROUP, "rows of A outside their slice");
    let reach = b.groups.saturating_sub(1) * b.group + b.columns.next_multiple_of(16) * E::GROUP;
    assert!(
        b.groups == 0 || panels.iter().all(|panel| panel.len() >= reach),
        "a panel shorter than the inner dimension"
    );
    assert!(out.len() >= (rows - 1) * out_stride + b.columns, "sums end outside their slice");
    let mut begins = [std::ptr::null(); ROWS_APART];
    for (begin, panel) in begins.iter_mut().zip(panels) {
        *begin = panel.as_ptr();
    }
    let (start, start_stride) = if add { (out.as_ptr(), out_stride) } else { (Start::ZERO.from.as_ptr(), 0) };
    let tile = Tile {
        a: a.values.as_ptr(),
        a_row: a.row,
        a_group: E::GROUP,
        rows,
        b: begins[0],
        b_group: b.group,
        groups: b.groups,
        columns: b.columns,
        start,
        start_stride,
        out: out.as_mut_ptr(),
        out_stride,
    };
    // SAFETY: the lengths were checked above; a row's start is read before it is written.
    unsafe { E::multiply_rows(tile, &begins) }
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

/// Calls a function that takes the shape of a tile whose rows have panels of their own as constants: rows, registers of
/// columns.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows_apart {
    ($f:path, $tile:expr, $panels:expr) => {{
        use $f as f;
        let (tile, panels) = ($tile, $panels);
        match tile.columns.div_ceil(16) {
            4 => by_rows_apart!(f, tile, panels, 4),
            3 => by_rows_apart!(f, tile, panels, 3),
            2 => by_rows_apart!(f, tile, panels, 2),
            _ => by_rows_apart!(f, tile, panels, 1),
        }
    }};
    ($f:ident, $tile:ident, $panels:ident, $v:literal) => {
        match $tile.rows {
            1 => $f::<1, $v>($tile, $panels),
            2 => $f::<2, $v>($tile, $panels),
            3 => $f::<3, $v>($tile, $panels),
            _ => $f::<ROWS_APART, $v>($tile, $panels),
        }
    };
}

impl Element for f32 {
    const GROUP: usize = 1;

    fn from_f32(x: f32) -> Self {
        x
    }

    fn convert(out: &mut [Self], x: &[f32]) -> f32 {
        let n = out.len().min(x.len());
        out[..n].copy_from_slice(&x[..n]);
        1.0
    }

    unsafe fn multiply(tile: Tile<Self>, _scales: Scales<'_>) {
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

impl Float for f32 {
    fn interleave(out: &mut [Self], first: &[f32], _second: &[f32]) {
        out.copy_from_slice(&first[..out.len()]);
    }

    fn transpose(out: &mut [Self], stride: usize, groups: usize, columns: &[&[f32]; 16]) {
        convert::transpose(out, stride, groups, columns);
    }

    fn as_is(x: &[f32]) -> Option<&[Self]> {
        Some(x)
    }

    fn left<'a>(rows: &'a [f32], width: usize, _buffer: &'a mut Vec<Self>) -> Left<'a, Self> {
        Left { values: rows, row: width, group: 1 }
    }

    fn left_transposed<'a>(rows: &'a [f32], width: usize, _buffer: &'a mut Vec<Self>) -> Left<'a, Self> {
        Left { values: rows, row: 1, group: width }
    }

    unsafe fn multiply_rows(tile: Tile<Self>, panels: &[*const Self; ROWS_APART]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the caller's, and the feature was detected.
            return unsafe { by_rows_apart!(x86::multiply_rows_f32, tile, panels) };
        }
        // SAFETY: the caller's.
        unsafe { each_row(tile, panels) }
    }
}

impl Element for Bf16 {
    const GROUP: usize = 2;

    /// To nearest, ties to even.
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        Bf16((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }

    fn convert(out: &mut [Self], x: &[f32]) -> f32 {
        convert::to_bf16(out, x);
        1.0
    }

    unsafe fn multiply(tile: Tile<Self>, _scales: Scales<'_>) {
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

impl Float for Bf16 {
    fn interleave(out: &mut [Self], first: &[f32], second: &[f32]) {
        convert::to_bf16_pairs(out, first, second);
    }

    fn transpose(out: &mut [Self], stride: usize, groups: usize, columns: &[&[f32]; 16]) {
        convert::transpose(out, stride, groups, columns);
    }

    fn as_is(_x: &[f32]) -> Option<&[Self]> {
        None
    }

    fn left<'a>(rows: &'a [f32], width: usize, buffer: &'a mut Vec<Self>) -> Left<'a, Self> {
        let stride = width.next_multiple_of(2);
        buffer.resize(rows.len() / width * stride, Self::default());
        for (out, row) in buffer.chunks_exact_mut(stride).zip(rows.chunks_exact(width)) {
            Self::convert(out, row);
            out[width..].fill(Self::default());
        }
        Left { values: buffer, row: stride, group: 2 }
    }

    fn left_transposed<'a>(rows: &'a [f32], width: usize, buffer: &'a mut Vec<Self>) -> Left<'a, Self> {
        buffer.resize((rows.len() / width).next_multiple_of(2) * width, Self::default());
        for (out, rows) in buffer.chunks_mut(2 * width).zip(rows.chunks(2 * width)) {
            let (first, second) = rows.split_at(width);
            Self::interleave(out, first, second);
        }
        Left { values: buffer, row: 2, group: 2 * width }
    }

    unsafe fn multiply_rows(tile: Tile<Self>, panels: &[*const Self; ROWS_APART]) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's; `available` asked for the features.
        unsafe {
            by_rows_apart!(x86::multiply_rows_bf16, tile, panels);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (tile, panels);
    }
}

/// What [`multiply_rows`] does, one row after another.
///
/// # Safety
/// As [`Float::multiply_rows`].
unsafe fn each_row(tile: Tile<f32>, panels: &[*const f32; ROWS_APART]) {
    for (row, panel) in panels.iter().enumerate().take(tile.rows) {
        // SAFETY: a row of the tile, and its panel.
        unsafe {
            let one = Tile {
                a: tile.a.add(row * tile.a_row),
                rows: 1,
                b: *panel,
                start: tile.start.add(row * tile.start_stride),
                out: tile.out.add(row * tile.out_stride),
                ..tile
            };
            f32::multiply(one, Scales::NONE);
        }
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
mod x86;

#[cfg(test)]
mod tests;
