//! Causal attention over packed segments, on the same register tile as the matrix products.
//!
//! Keys are rotated and packed into panels of 64 once, values likewise; then each block of queries multiplies with the
//! panels it sees, takes the softmax over whole rows, and multiplies with the values. Panels are cut relative to a
//! segment's start, so a row's sums run in the same order wherever its sequence lies in the batch.

use super::super::ops::Heads;
use super::super::packed::Packed;
use super::decoding::RowScratch;
use super::matrix::Lines;
use super::pages::KeyValuePages;
use super::tile::{COLUMNS, Float, Left, ROWS, Right, Start, multiply_panel};
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

/// Numbers in a vector register: columns are multiplied so many at once.
const LANES: usize = 16;

/// Queries that one task takes: with grouped heads, some hundred rows of the tile.
const BLOCK: usize = 32;

/// Consecutive query rows of one segment.
pub(super) struct Block {
    segment: usize,
    pub rows: Range<usize>,
}

/// A run of keys that a block sees: consecutive panels of one segment.
pub(super) struct Keys {
    /// The first panel, among all panels, and how many.
    pub panel: usize,
    pub panels: usize,
    /// Where in the sequence the first key of that panel stands.
    pub position: usize,
    /// Keys of the segment from that panel on.
    pub len: usize,
}

/// Where packed keys and values come from.
pub(super) trait KeyValues<E>: Sync {
    /// `[D / GROUP][COLUMNS][GROUP]`, a column per key.
    fn keys(&self, shared: usize, panel: usize) -> &[E];

    /// `[panel][COLUMNS / GROUP][slice_width][GROUP]`, a column per dimension of a slice of 64 of D, for a run of panels.
    fn values(&self, shared: usize, slice: usize, panel: usize, panels: usize) -> &[E];
}

/// Buffers that a thread reuses.
#[derive(Default)]
struct Scratch<E> {
    queries: Vec<E>,
    scores: Vec<f32>,
    weights: Vec<E>,
    row: RowScratch<E>,
}

impl Attention<'_> {
    /// `(T, heads.query D)`, or `(rows.len(), heads.query D)` for chosen rows.
    pub(in crate::lm) fn run<E: Float>(&self, rows: Option<&[usize]>) -> Vec<f32> {
        let panels = Panels::<E>::pack(self);
        self.over(self.blocks(rows), |block| (self.visible(block, &panels), &panels))
    }

    /// [`Attention::run`] of segments that continue sequences whose keys and values lie in a cache, one for each segment.
    /// Those of the segments are added to them first.
    pub(in crate::lm) fn run_cached<E: Float>(
        &self,
        rows: Option<&[usize]>,
        caches: &mut [&mut KeyValuePages<E>],
    ) -> Vec<f32> {
        let segments: Vec<Range<usize>> = self.packed.segments().collect();
        let seen = |block: &Block| {
            let (first, last) = (self.position(block.rows.start), self.position(block.rows.end - 1));
            KeyValuePages::<E>::visible(first, last, self.window)
        };
        let blocks = self.blocks(rows);
        if blocks.len() == caches.len() && blocks.iter().enumerate().all(|(index, block)| block.segment == index) {
            // A step of decoding: what is added to a sequence is still near when its one block reads it.
            let mut out = self.room(&blocks);
            let tasks = self.parts(blocks, &mut out).into_par_iter().zip(caches);
            tasks.for_each_init(Scratch::<E>::default, |scratch, ((block, out), cache)| {
                cache.append(self, segments[block.segment].clone());
                self.heads(&block, &seen(&block), &**cache, scratch, out);
            });
            return out;
        }
        caches.par_iter_mut().zip(segments).for_each(|(cache, rows)| cache.append(self, rows));
        let caches: Vec<&KeyValuePages<E>> = caches.iter().map(|cache| &**cache).collect();
        self.over(blocks, |block| (seen(block), caches[block.segment]))
    }

    /// Every block of rows over the keys that `seen` says it sees.
    fn over<'p, E: Float, P: KeyValues<E> + 'p>(
        &self,
        blocks: Vec<Block>,
        seen: impl Fn(&Block) -> (Vec<Keys>, &'p P) + Sync,
    ) -> Vec<f32> {
        let mut out = self.room(&blocks);
        self.parts(blocks, &mut out).into_par_iter().for_each_init(Scratch::<E>::default, |scratch, (block, out)| {
            let (keys, panels) = seen(&block);
            self.heads(&block, &keys, panels, scratch, out);
        });
        out
    }

    /// Zeros for the results of all blocks.
    fn room(&self, blocks: &[Block]) -> Vec<f32> {
        let rows: usize = blocks.iter().map(|block| block.rows.len()).sum();
        vec![0f32; rows * self.heads.query * self.heads.dim]
    }

    /// Every block with its own part of the results.
    fn parts<'o>(&self, blocks: Vec<Block>, mut out: &'o mut [f32]) -> Vec<(Block, &'o mut [f32])> {
        let width = self.heads.query * self.heads.dim;
        let part = |block: Block| {
            let (mine, others) = std::mem::take(&mut out).split_at_mut(block.rows.len() * width);
            out = others;
            (block, mine)
        };
        blocks.into_iter().map(part).collect()
    }

    /// All heads of a block.
    fn heads<E: Float>(
        &self,
        block: &Block,
        keys: &[Keys],
        panels: &impl KeyValues<E>,
        scratch: &mut Scratch<E>,
        out: &mut [f32],
    ) {
        if self.is_one_row(block) {
            return self.one_row(block, keys, panels, &mut scratch.row, out);
        }
        for shared in 0..self.heads.kv {
            self.block(block, shared, keys, panels, scratch, out);
        }
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
    fn visible<E: Float>(&self, block: &Block, panels: &Panels<E>) -> Vec<Keys> {
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
    pub(super) fn head(&self, row: usize, index: usize, scale: f32, out: &mut [f32]) {
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

    /// A slice of 64 dimensions, or what is left of them, of the values of one row.
    pub(super) fn value(&self, row: usize, shared: usize, slice: usize) -> &[f32] {
        let Heads { query, kv, dim } = self.heads;
        let start = (query + kv + shared) * dim + slice * COLUMNS;
        &self.qkv[row * self.heads.width() + start..][..COLUMNS.min(dim - slice * COLUMNS)]
    }

    /// The query heads that share key-value head `shared`, for all rows of a block.
    fn block<E: Float>(
        &self,
        block: &Block,
        shared: usize,
        keys: &[Keys],
        panels: &impl KeyValues<E>,
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

        // A tile's worth of rows goes all the way before the next, so that its scores stay in the nearest cache.
        scratch.scores.resize(ROWS * columns, 0.0);
        scratch.weights.resize(ROWS * columns, E::default());
        let (mut sums, mut more) = ([0.0; ROWS * COLUMNS], [0.0; ROWS * COLUMNS]);
        for first in (0..count).step_by(ROWS) {
            let rows = ROWS.min(count - first);
            // Keys behind the tile's last row are hidden from all of it.
            let last = self.position(block.rows.start + (first + rows - 1) / group);
            let seen = |keys: &Keys| (last + 1).saturating_sub(keys.position).min(keys.len);

            let queries = Left { values: &scratch.queries[first * depth..], row: depth, group: E::GROUP };
            let mut column = 0;
            for keys in keys {
                for panel in 0..seen(keys).div_ceil(COLUMNS) {
                    let at = column + panel * COLUMNS;
                    // Of the last panel only the keys that are there, which saves reading the rest.
                    let width = (seen(keys) - panel * COLUMNS).min(COLUMNS).next_multiple_of(LANES);
                    let values = panels.keys(shared, keys.panel + panel);
                    let right = Right { values, group: COLUMNS * E::GROUP, groups: depth / E::GROUP, columns: width };
                    multiply_panel(queries, rows, right, Some(Start::ZERO), &mut scratch.scores[at..], columns);
                }
                column += seen(keys).next_multiple_of(COLUMNS);
            }

            // Hidden keys and the padding of panels get a weight of zero.
            let mut inverse_sums = [0f32; ROWS];
            let tile =
                scratch.scores.chunks_exact_mut(columns).zip(scratch.weights.chunks_exact_mut(columns)).take(rows);
            for (r, (scores, weights)) in (first..).zip(tile) {
                let scores = &mut scores[..column];
                self.hide(block.rows.start + r / group, keys, scores);
                let highest = vector::highest(scores);
                inverse_sums[r - first] = 1.0 / vector::exponentials(scores, highest);
                E::convert(weights, scores);
            }

            for slice in 0..dim.div_ceil(COLUMNS) {
                let wide = slice_width(dim, slice);
                let mut column = 0;
                for keys in keys {
                    let weights = Left { values: &scratch.weights[column..], row: columns, group: E::GROUP };
                    let values = panels.values(shared, slice, keys.panel, keys.panels);
                    let start = match column {
                        0 => Start::ZERO,
                        _ => Start { from: &sums, stride: COLUMNS },
                    };
                    let groups = seen(keys).div_ceil(E::GROUP);
                    let right = Right { values, group: wide * E::GROUP, groups, columns: wide };
                    multiply_panel(weights, rows, right, Some(start), &mut more, COLUMNS);
                    std::mem::swap(&mut sums, &mut more);
                    column += seen(keys).next_multiple_of(COLUMNS);
                }
                let width = COLUMNS.min(dim - slice * COLUMNS);
                for (r, sums) in (first..).zip(sums.chunks_exact(COLUMNS).take(rows)) {
                    let start = (r / group * query + shared * group + r % group) * dim + slice * COLUMNS;
                    vector::scaled(&mut out[start..][..width], sums, inverse_sums[r - first]);
                }
            }
        }
    }

    /// Sets the scores of the keys that one row does not see to negative infinity.
    pub(super) fn hide(&self, row: usize, keys: &[Keys], scores: &mut [f32]) {
        let position = self.position(row);
        let oldest = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let mut rest = scores;
        for keys in keys {
            // Only the panels that any row of the tile sees are there.
            let (scores, others) = rest.split_at_mut(rest.len().min(keys.panels * COLUMNS));
            let start = oldest.saturating_sub(keys.position).min(keys.len);
            let end = (position + 1).saturating_sub(keys.position).min(keys.len);
            scores[..start].fill(f32::NEG_INFINITY);
            scores[end.max(start)..].fill(f32::NEG_INFINITY);
            rest = others;
        }
    }
}

/// Writes a key into its column of a panel.
pub(super) fn put_key<E: Float>(panel: &mut [E], column: usize, key: &[f32]) {
    for (d, x) in key.iter().enumerate() {
        panel[(d / E::GROUP * COLUMNS + column) * E::GROUP + d % E::GROUP] = E::from_f32(*x);
    }
}

/// Writes a value into its row of a panel, `width` wide.
pub(super) fn put_value<E: Float>(panel: &mut [E], width: usize, row: usize, value: &[f32]) {
    let row_of_groups = &mut panel[row / E::GROUP * width * E::GROUP..][..width * E::GROUP];
    if E::GROUP == 1 {
        E::convert(row_of_groups, value);
        return;
    }
    for (group, x) in row_of_groups.chunks_exact_mut(E::GROUP).zip(value) {
        group[row % E::GROUP] = E::from_f32(*x);
    }
}

/// Columns of a panel of values: the dimensions of a slice of 64 of D, in whole registers.
pub(super) fn slice_width(dim: usize, slice: usize) -> usize {
    (dim - slice * COLUMNS).min(COLUMNS).next_multiple_of(LANES)
}

/// All keys and values of a batch, packed.
struct Panels<E> {
    /// `[head][panel][D / GROUP][COLUMNS][GROUP]`: a column per key.
    keys: Lines<E>,
    /// `[head][slice of D][panel][COLUMNS / GROUP][slice_width][GROUP]`: a column per dimension.
    values: Lines<E>,
    /// The first panel of each segment, by the segment's first row.
    first: std::collections::BTreeMap<usize, usize>,
    count: usize,
    key_size: usize,
    dim: usize,
}

impl<E: Float> Panels<E> {
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
        let mut values = Lines::<E>::zeroed(kv * count * COLUMNS * dim.next_multiple_of(LANES));
        if count > 0 {
            keys.par_chunks_mut(key_size).enumerate().for_each(|(index, panel)| {
                let (shared, rows) = (index / count, &rows[index % count]);
                let mut head = vec![0f32; dim];
                for (column, row) in rows.clone().enumerate() {
                    attention.head(row, query + shared, 1.0, &mut head);
                    put_key(panel, column, &head);
                }
            });
            let mut rest = &mut values[..];
            let mut panels = Vec::with_capacity(kv * slices * count);
            for (shared, slice) in (0..kv).flat_map(|shared| (0..slices).map(move |slice| (shared, slice))) {
                let width = slice_width(dim, slice);
                for rows in &rows {
                    let (panel, others) = std::mem::take(&mut rest).split_at_mut(COLUMNS * width);
                    rest = others;
                    panels.push((panel, width, rows, shared, slice));
                }
            }
            panels.into_par_iter().for_each(|(panel, width, rows, shared, slice)| {
                for (k, row) in rows.clone().enumerate() {
                    put_value(panel, width, k, attention.value(row, shared, slice));
                }
            });
        }
        Self { keys, values, first, count, key_size, dim }
    }
}

impl<E: Float> KeyValues<E> for Panels<E> {
    fn keys(&self, shared: usize, panel: usize) -> &[E] {
        &self.keys[(shared * self.count + panel) * self.key_size..][..self.key_size]
    }

    /// Consecutive panels are one long panel.
    fn values(&self, shared: usize, slice: usize, panel: usize, panels: usize) -> &[E] {
        let head = shared * self.count * self.dim.next_multiple_of(LANES) * COLUMNS;
        let size = COLUMNS * slice_width(self.dim, slice);
        &self.values[head + slice * COLUMNS * self.count * COLUMNS + panel * size..][..panels * size]
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

    fn check<E: Float>(heads: Heads, window: Option<usize>, norms: bool, tolerance: f32) {
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
        for (query, kv, dim) in [(3, 1, 64), (4, 2, 8), (2, 2, 96), (4, 4, 24), (2, 1, 80)] {
            let heads = Heads { query, kv, dim };
            for window in [None, Some(1), Some(70), Some(1000)] {
                check::<f32>(heads, window, false, 2e-5);
                check::<Bf16>(heads, window, false, 0.05);
            }
            check::<f32>(heads, None, true, 2e-5);
        }
    }
}
