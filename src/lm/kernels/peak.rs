//! How fast the register tile can be: the roof that everything else is measured against.

use super::matrix::Lines;
use super::tile::{COLUMNS, Element, ROWS, Scales, Start, multiply};
use std::time::Instant;

/// Floating-point operations per second of all threads together, with operands that stay in the nearest cache. Takes a fifth
/// of a second.
///
/// Other programs only ever make a round slower, so the best of many rounds counts, each shorter than a turn of the scheduler.
pub(in crate::lm) fn peak<E: Element>() -> f64 {
    const ROUNDS: usize = 400;
    const TILES: usize = 400;
    const GROUPS: usize = 64;
    let depth = GROUPS * E::GROUP;
    let scales = Scales { rows: &[1.0; ROWS], columns: &[1.0; COLUMNS], offsets: &[0; COLUMNS] };
    let per_thread = rayon::broadcast(|_| {
        let a = Lines::<E>::zeroed(ROWS * depth);
        let panel = Lines::<E>::zeroed(depth * COLUMNS);
        let mut sums = [0f32; ROWS * COLUMNS];
        let mut round = || {
            let started = Instant::now();
            for _ in 0..TILES {
                multiply(&a, depth, ROWS, &panel, GROUPS, COLUMNS, Start::ZERO, &mut sums, COLUMNS, scales);
                std::hint::black_box(&mut sums);
            }
            started.elapsed().as_secs_f64()
        };
        (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
    });
    let operations = (TILES * 2 * ROWS * COLUMNS * depth) as f64;
    per_thread.into_iter().map(|seconds| operations / seconds).sum()
}
