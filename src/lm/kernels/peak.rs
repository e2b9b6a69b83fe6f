//! How fast the register tile can be: the roof that everything else is measured against.

use super::matrix::Lines;
use super::tile::{COLUMNS, Element, ROWS, Start, multiply};
use std::time::{Duration, Instant};

/// Floating-point operations per second of all threads, with operands that stay in the nearest cache. Takes a fifth of a second.
pub(in crate::lm) fn peak<E: Element>() -> f64 {
    const ROUNDS: usize = 10;
    // Other programs and the clock's own changes only ever make a round slower.
    (0..ROUNDS).map(|_| round::<E>(Duration::from_millis(20))).fold(0.0, f64::max)
}

fn round<E: Element>(length: Duration) -> f64 {
    const GROUPS: usize = 64;
    let depth = GROUPS * E::GROUP;
    let per_thread = rayon::broadcast(|_| {
        let a = Lines::<E>::zeroed(ROWS * depth);
        let panel = Lines::<E>::zeroed(depth * COLUMNS);
        let mut sums = [0f32; ROWS * COLUMNS];
        let (started, mut tiles) = (Instant::now(), 0u64);
        while started.elapsed() < length {
            for _ in 0..100 {
                multiply(&a, depth, ROWS, &panel, GROUPS, Start::ZERO, &mut sums, COLUMNS);
                std::hint::black_box(&mut sums);
            }
            tiles += 100;
        }
        (tiles * (2 * ROWS * COLUMNS * depth) as u64) as f64 / started.elapsed().as_secs_f64()
    });
    per_thread.into_iter().sum()
}
