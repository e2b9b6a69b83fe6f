//! Causal attention over packed segments, on the same register tile as the matrix products.
//!
//! Keys are rotated and packed into panels of 64 once, values likewise; then each block of queries multiplies with the
//! panels it sees, takes the softmax over whole rows, and multiplies with the values. Panels are cut relative to a
//! segment's start, so a row's sums run in the same order wherever its sequence lies in the batch.

use super::super::ops::Heads;
use super::super::packed::Packed;
use super::matrix::Lines;
use super::tile::{COLUMNS, Element, ROWS, Start, multiply};
use super::vector;
use rayon::prelude::*;
use std::ops::Range;

/// The inputs of attention.
#[derive(Clone, Copy)]
pub(in crate::lm) struct Attention<'a> {
    /// `(T, heads.width())`: queries, keys and values of every token, not yet rotated.
    pub qkv: &'a [f32],
    /// `(T, D / 2)` each: the angles to rotate by.
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    /// `(2, D)`: weights of RMSNorm over each head of queries and of keys, and its epsilon.
    pub head_norms: Option<(&'a [f32], f32)>,
    pub packed: &'a Packed,
    pub heads: Heads,
    /// How many positions back a row sees, its own included.
    pub window: Option<usize>,
}

/// Queries that one task takes: with grouped heads, some hundred rows of the tile.
const BLOCK: usize = 32;

/// Consecutive query rows of one segment.
struct Block {
    segment: usize,
    rows: Range<usize>,
}

/// A run of keys that a block sees: consecutive panels of one segment.
struct Keys {
    /// The first panel, among all panels, and how many.
    panel: usize,
    panels: usize,
    /// Where in the sequence the first key of that panel stands.
    position: usize,
    /// Keys of the segment from that panel on.
    len: usize,
}

/// Buffers that a thread reuses.
#[derive(Default)]
struct Scratch<E> {
    queries: Vec<E>,
    scores: Vec<f32>,
    weights: Vec<E>,
    inverse_sums: Vec<f32>,
}

impl Attention<'_> {
    /// `(T, heads.query D)`, or `(rows.len(), heads.query D)` for chosen rows.
    pub(in crate::lm) fn run<E: Element>(&self, rows: Option<&[usize]>) -> Vec<f32> {
        let width = self.heads.query * self.heads.dim;
        let blocks = self.blocks(rows);
        let panels = Panels::<E>::pack(self);
        let mut out = vec![0f32; blocks.iter().map(|block| block.rows.len()).sum::<usize>() * width];
        let mut rest = &mut out[..];
        let mut tasks = Vec::with_capacity(blocks.len());
        for block in blocks {
            let (mine, others) = rest.split_at_mut(block.rows.len() * width);
            rest = others;
            tasks.push((block, mine));
        }
        tasks.into_par_iter().for_each_init(Scratch::<E>::default, |scratch, (block, out)| {
            let keys = self.visible(&block, &panels);
            for shared in 0..self.heads.kv {
                self.block(&block, shared, &keys, &panels, scratch, out);
            }
        });
        out
    }

    /// Floating-point operations that the definition asks for: every query with every key it sees, twice.
    pub(in crate::lm) fn operations(&self, rows: Option<&[usize]>) -> u64 {
        let seen = |row: usize| (self.position(row) + 1).min(self.window.unwrap_or(usize::MAX)) as u64;
        let pairs: u64 = match rows {
            Some(rows) => rows.iter().map(|&row| seen(row)).sum(),
            None => (0..self.packed.len()).map(seen).sum(),
        };
        4 * pairs * (self.heads.query * self.heads.dim) as u64
    }

    fn blocks(&self, rows: Option<&[usize]>) -> Vec<Block> {
        let segments: Vec<Range<usize>> = self.packed.segments().collect();
        match rows {
            Some(rows) => {
                // Segments lie in order, so the one of a row is the last that starts at or before it and is not empty.
                let owner = |row: usize| segments.partition_point(|segment| segment.end <= row);
                rows.iter().map(|&row| Block { segment: owner(row), rows: row..row + 1 }).collect()
            }
            None => segments
                .iter()
                .enumerate()
                .flat_map(|(segment, rows)| {
                    let end = rows.end;
                    rows.clone().step_by(BLOCK).map(move |row| Block { segment, rows: row..(row + BLOCK).min(end) })
                })
                .collect(),
        }
    }

    /// The panels that any row of a block sees, from the start of the sequence on.
    fn visible<E: Element>(&self, block: &Block, panels: &Panels<E>) -> Vec<Keys> {
        let last = self.position(block.rows.end - 1);
        let oldest = self.window.map_or(0, |window| (self.position(block.rows.start) + 1).saturating_sub(window));
        let mut chain = self.packed.above(block.segment);
        let own = self.packed.segment(block.segment);
        chain.push(own.start..block.rows.end);
        let mut position = 0;
        let mut keys = Vec::with_capacity(chain.len());
        for rows in chain {
            let start = position;
            position += rows.len();
            let skipped = oldest.saturating_sub(start).min(rows.len()) / COLUMNS;
            let len = rows.len() - skipped * COLUMNS;
            if len > 0 && start <= last {
                let panel = panels.first[&rows.start] + skipped;
                keys.push(Keys { panel, panels: len.div_ceil(COLUMNS), position: start + skipped * COLUMNS, len });
            }
        }
        keys
    }

    fn position(&self, row: usize) -> usize {
        self.packed.positions()[row] as usize
    }

    /// `scale` times a head of one row, normed and rotated as it should be, into `out`.
    fn head(&self, row: usize, index: usize, scale: f32, out: &mut [f32]) {
        let Heads { query, kv, dim } = self.heads;
        let head = &self.qkv[row * self.heads.width() + index * dim..][..dim];
        let half = dim / 2;
        let (cos, sin) = (&self.cos[row * half..][..half], &self.sin[row * half..][..half]);
        match self.head_norms {
            _ if index >= query + kv => vector::scaled(out, head, scale),
            None => vector::rotate(out, head, cos, sin, scale),
            Some((weights, eps)) => {
                let weight = if index < query { &weights[..dim] } else { &weights[dim..] };
                let mut normed = vec![0f32; dim];
                let norm = 1.0 / (vector::sum_of_squares(head) / dim as f32 + eps).sqrt();
                vector::scale_by(&mut normed, head, norm, weight);
                vector::rotate(out, &normed, cos, sin, scale);
            }
        }
    }

    /// The query heads that share key-value head `shared`, for all rows of a block.
    fn block<E: Element>(
        &self,
        block: &Block,
        shared: usize,
        keys: &[Keys],
        panels: &Panels<E>,
        scratch: &mut Scratch<E>,
        out: &mut [f32],
    ) {
        let Heads { query, kv, dim } = self.heads;
        let group = query / kv;
        let count = block.rows.len() * group;
        let depth = dim.next_multiple_of(E::GROUP);
        let columns: usize = keys.iter().map(|keys| keys.panels * COLUMNS).sum();

        // Row r of the tile is query head r % group of the block's row r / group.
        let scale = 1.0 / (dim as f32).sqrt();
        let mut head = vec![0f32; dim];
        scratch.queries.clear();
        scratch.queries.resize(count * depth, E::default());
        for (r, queries) in scratch.queries.chunks_exact_mut(depth).enumerate() {
            self.head(block.rows.start + r / group, shared * group + r % group, scale, &mut head);
            E::convert(queries, &head);
        }

        scratch.scores.resize(count * columns, 0.0);
        let mut column = 0;
        for panel in keys.iter().flat_map(|keys| keys.panel..keys.panel + keys.panels) {
            for first in (0..count).step_by(ROWS) {
                let rows = ROWS.min(count - first);
                let queries = &scratch.queries[first * depth..];
                let scores = &mut scratch.scores[first * columns + column..];
                let panel = panels.keys(shared, panel);
                multiply(queries, depth, rows, panel, depth / E::GROUP, Start::ZERO, scores, columns);
            }
            column += COLUMNS;
        }

        // Hidden keys and the padding of panels get a weight of zero.
        scratch.weights.resize(count * columns, E::default());
        scratch.inverse_sums.clear();
        let rows = scratch.scores.chunks_exact_mut(columns).zip(scratch.weights.chunks_exact_mut(columns)).take(count);
        for (r, (scores, weights)) in rows.enumerate() {
            self.hide(block.rows.start + r / group, keys, scores);
            let highest = vector::highest(scores);
            let sum = vector::exponentials(scores, highest);
            E::convert(weights, scores);
            scratch.inverse_sums.push(1.0 / sum);
        }

        let (mut sums, mut more) = ([0.0; ROWS * COLUMNS], [0.0; ROWS * COLUMNS]);
        for first in (0..count).step_by(ROWS) {
            let rows = ROWS.min(count - first);
            for slice in 0..dim.div_ceil(COLUMNS) {
                let mut column = 0;
                for keys in keys {
                    let weights = &scratch.weights[first * columns + column..];
                    let values = panels.values(shared, slice, keys.panel, keys.panels);
                    let start = match column {
                        0 => Start::ZERO,
                        _ => Start { from: &sums, stride: COLUMNS },
                    };
                    multiply(weights, columns, rows, values, keys.len.div_ceil(E::GROUP), start, &mut more, COLUMNS);
                    std::mem::swap(&mut sums, &mut more);
                    column += keys.panels * COLUMNS;
                }
                let width = COLUMNS.min(dim - slice * COLUMNS);
                for (r, sums) in (first..).zip(sums.chunks_exact(COLUMNS).take(rows)) {
                    let start = (r / group * query + shared * group + r % group) * dim + slice * COLUMNS;
                    let inverse = scratch.inverse_sums[r];
                    vector::scaled(&mut out[start..][..width], sums, inverse);
                }
            }
        }
    }

    /// Sets the scores of the keys that one row does not see to negative infinity.
    fn hide(&self, row: usize, keys: &[Keys], scores: &mut [f32]) {
        let position = self.position(row);
        let oldest = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let mut rest = scores;
        for keys in keys {
            let (scores, others) = rest.split_at_mut(keys.panels * COLUMNS);
            let start = oldest.saturating_sub(keys.position).min(keys.len);
            let end = (position + 1).saturating_sub(keys.position).min(keys.len);
            scores[..start].fill(f32::NEG_INFINITY);
            scores[end.max(start)..].fill(f32::NEG_INFINITY);
            rest = others;
        }
    }
}

/// All keys and values of a batch, packed.
struct Panels<E> {
    /// `[head][panel][D / GROUP][COLUMNS][GROUP]`: a column per key.
    keys: Lines<E>,
    /// `[head][slice of D][panel][COLUMNS / GROUP][COLUMNS][GROUP]`: a column per dimension.
    values: Lines<E>,
    /// The first panel of each segment, by the segment's first row.
    first: std::collections::BTreeMap<usize, usize>,
    count: usize,
    key_size: usize,
    slices: usize,
}

impl<E: Element> Panels<E> {
    fn pack(attention: &Attention<'_>) -> Self {
        let Heads { query, kv, dim } = attention.heads;
        let mut first = std::collections::BTreeMap::new();
        let mut rows: Vec<Range<usize>> = Vec::new();
        for segment in attention.packed.segments().filter(|segment| !segment.is_empty()) {
            first.insert(segment.start, rows.len());
            let end = segment.end;
            rows.extend(segment.step_by(COLUMNS).map(|row| row..(row + COLUMNS).min(end)));
        }
        let count = rows.len();
        let key_size = dim.next_multiple_of(E::GROUP) * COLUMNS;
        let slices = dim.div_ceil(COLUMNS);
        let mut keys = Lines::<E>::zeroed(kv * count * key_size);
        let mut values = Lines::<E>::zeroed(kv * slices * count * COLUMNS * COLUMNS);
        if count > 0 {
            keys.par_chunks_mut(key_size).enumerate().for_each(|(index, panel)| {
                let (shared, rows) = (index / count, &rows[index % count]);
                let mut head = vec![0f32; dim];
                for (column, row) in rows.clone().enumerate() {
                    attention.head(row, query + shared, 1.0, &mut head);
                    for (d, x) in head.iter().enumerate() {
                        panel[(d / E::GROUP * COLUMNS + column) * E::GROUP + d % E::GROUP] = E::from_f32(*x);
                    }
                }
            });
            values.par_chunks_mut(COLUMNS * COLUMNS).enumerate().for_each(|(index, panel)| {
                let (head, rows) = (index / count, &rows[index % count]);
                let (shared, slice) = (head / slices, head % slices);
                let start = (query + kv + shared) * dim + slice * COLUMNS;
                let width = COLUMNS.min(dim - slice * COLUMNS);
                for (k, row) in rows.clone().enumerate() {
                    let value = &attention.qkv[row * attention.heads.width() + start..][..width];
                    for (column, x) in value.iter().enumerate() {
                        panel[(k / E::GROUP * COLUMNS + column) * E::GROUP + k % E::GROUP] = E::from_f32(*x);
                    }
                }
            });
        }
        Self { keys, values, first, count, key_size, slices }
    }

    fn keys(&self, shared: usize, panel: usize) -> &[E] {
        &self.keys[(shared * self.count + panel) * self.key_size..][..self.key_size]
    }

    /// The values of consecutive panels; they are one long panel.
    fn values(&self, shared: usize, slice: usize, panel: usize, panels: usize) -> &[E] {
        let size = COLUMNS * COLUMNS;
        &self.values[((shared * self.slices + slice) * self.count + panel) * size..][..panels * size]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tile::Bf16;
    use super::*;

    /// Attention by its definition, one row and head at a time.
    fn naive(a: &Attention<'_>) -> Vec<f32> {
        let Heads { query, kv, dim } = a.heads;
        let head = |row: usize, index: usize| {
            let mut head = vec![0f32; dim];
            a.head(row, index, 1.0, &mut head);
            head
        };
        let mut out = Vec::new();
        for (segment, rows) in a.packed.segments().enumerate() {
            for row in rows.clone() {
                let mut seen: Vec<usize> = a.packed.above(segment).into_iter().flatten().collect();
                seen.extend(rows.start..=row);
                let seen = &seen[seen.len().saturating_sub(a.window.unwrap_or(usize::MAX))..];
                for q in 0..query {
                    let mine = head(row, q);
                    let scores: Vec<f64> = seen
                        .iter()
                        .map(|&key| {
                            let key = head(key, query + q / (query / kv));
                            mine.iter().zip(&key).map(|(a, b)| f64::from(a * b)).sum::<f64>() / (dim as f64).sqrt()
                        })
                        .collect();
                    let sum: f64 = scores.iter().map(|score| score.exp()).sum();
                    let values: Vec<Vec<f32>> =
                        seen.iter().map(|&key| head(key, query + kv + q / (query / kv))).collect();
                    out.extend((0..dim).map(|d| {
                        let terms =
                            scores.iter().zip(&values).map(|(score, value)| score.exp() / sum * f64::from(value[d]));
                        terms.sum::<f64>() as f32
                    }));
                }
            }
        }
        out
    }

    fn check<E: Element>(heads: Heads, window: Option<usize>, norms: bool, tolerance: f32) {
        if !E::available() {
            return;
        }
        let mut packed = Packed::default();
        let prefix = packed.push(None, &[0; 5]);
        let document = packed.push(Some(prefix), &[0; 150]);
        packed.push(Some(document), &[0; 3]);
        packed.push(Some(document), &[]);
        packed.push(Some(document), &[0; 70]);
        let other = packed.push(Some(prefix), &[0; 64]);
        packed.push(Some(other), &[0; 1]);
        packed.push(None, &[0; 2]);
        let wave = |n: usize, step: f32| -> Vec<f32> { (0..n).map(|i| 2.0 * (i as f32 * step).sin()).collect() };
        let t = packed.len();
        let qkv = wave(t * heads.width(), 0.7);
        let angles = wave(t * heads.dim / 2, 0.3);
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.iter().map(|x| x.sin_cos()).unzip();
        let weights = wave(2 * heads.dim, 0.9);
        let head_norms = norms.then_some((&weights[..], 1e-6));
        let attention = Attention { qkv: &qkv, cos: &cos, sin: &sin, head_norms, packed: &packed, heads, window };
        let expect = naive(&attention);
        let found = attention.run::<E>(None);
        assert_eq!(found.len(), expect.len());
        for (found, expect) in found.iter().zip(&expect) {
            assert!((found - expect).abs() < tolerance, "{found} {expect}");
        }
        // Chosen rows give what they give among all.
        let rows = [157, 158, 0, 227, t - 1, 154];
        let width = heads.query * heads.dim;
        let chosen: Vec<f32> = rows.iter().flat_map(|row| found[row * width..][..width].to_vec()).collect();
        assert_eq!(attention.run::<E>(Some(&rows)), chosen);
    }

    #[test]
    fn equals_the_definition() {
        for heads in
            [Heads { query: 3, kv: 1, dim: 64 }, Heads { query: 4, kv: 2, dim: 8 }, Heads { query: 2, kv: 2, dim: 96 }]
        {
            for window in [None, Some(1), Some(70), Some(1000)] {
                check::<f32>(heads, window, false, 2e-5);
                check::<Bf16>(heads, window, false, 0.05);
            }
            check::<f32>(heads, None, true, 2e-5);
        }
    }
}
