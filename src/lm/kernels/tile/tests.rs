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
        COLUMNS,
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

/// `out += A B` with A transposed, on a narrow panel.
fn check_narrow<E: Float>(rows: usize, columns: usize) {
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

/// Each row with a panel of its own gives what it gives alone.
fn check_apart<E: Float>(rows: usize, groups: usize, columns: usize, add: bool) {
    if !E::available() {
        return;
    }
    let wide = columns.next_multiple_of(16) + 16;
    let wave = |n: usize, step: f32| -> Vec<E> { (0..n).map(|i| E::from_f32((i as f32 * step).sin())).collect() };
    let a = wave(rows * (groups * E::GROUP + 4), 0.7);
    let panels: Vec<Vec<E>> = (0..rows).map(|r| wave(groups * wide * E::GROUP, 0.3 + r as f32)).collect();
    let row = groups * E::GROUP + 4;
    let right = |values| Right { values, group: wide * E::GROUP, groups, columns };
    let mut found: Vec<f32> = (0..rows * (columns + 5)).map(whole).collect();
    let mut expect = found.clone();
    for (r, (out, panel)) in expect.chunks_exact_mut(columns + 5).zip(&panels).enumerate() {
        let left = Left { values: &a[r * row..], row, group: E::GROUP };
        multiply_panel(left, 1, right(panel), (!add).then_some(Start::ZERO), out, columns + 5);
    }
    let begins: Vec<&[E]> = panels.iter().map(Vec::as_slice).collect();
    let left = Left { values: &a, row, group: E::GROUP };
    multiply_rows(left, &begins, right(&panels[0]), add, &mut found, columns + 5);
    assert_eq!(found, expect, "{rows} rows, {groups} groups, {columns} columns");
}

#[test]
fn rows_with_panels_of_their_own_equal_rows_alone() {
    for rows in 1..=ROWS_APART {
        for columns in [1, 16, 24, 33, 64] {
            for (groups, add) in [(12, false), (9, true), (1, false), (0, true)] {
                check_apart::<f32>(rows, groups, columns, add);
                check_apart::<Bf16>(rows, groups, columns, add);
            }
        }
    }
}

#[test]
fn the_portable_tile_equals_the_fast_one() {
    let a: Vec<f32> = (0..6 * 30).map(whole).collect();
    let b: Vec<f32> = (0..30 * COLUMNS).map(whole).collect();
    let (mut fast, mut portable) = ([0.0; 6 * COLUMNS], [0.0; 6 * COLUMNS]);
    multiply(&a, 30, 6, &b, 30, COLUMNS, Start::ZERO, &mut fast, COLUMNS, Scales::NONE);
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
#[should_panic(expected = "a panel shorter")]
fn a_short_panel_is_caught() {
    multiply(&[1f32; 8], 8, 1, &[1f32; 64], 2, COLUMNS, Start::ZERO, &mut [0.0; COLUMNS], COLUMNS, Scales::NONE);
}
