//! Keys and values of one sequence in one layer, kept from step to step: pages of 64 positions in the panels' layout
//! that attention multiplies, see [`super::tile`].
//!
//! A position's sums run in the same order here as in a batch that holds the whole sequence, so both give equal bits.

use super::super::ops::Heads;
use super::attention::{Attention, KeyValues, Keys, put_key, put_value, slice_width};
use super::matrix::Lines;
use super::tile::{COLUMNS, Float};
use std::ops::Range;

/// The pages so far.
pub(in crate::lm) struct KeyValuePages<E> {
    heads: Heads,
    /// Each `[head][D / GROUP][COLUMNS][GROUP]` of keys, then `[head][slice of D][COLUMNS / GROUP][slice_width][GROUP]` of values.
    pages: Vec<Lines<E>>,
    len: usize,
}

impl<E: Float> KeyValuePages<E> {
    pub(in crate::lm) fn new(heads: Heads) -> Self {
        Self { heads, pages: Vec::new(), len: 0 }
    }

    /// Bytes of the pages that so many positions take.
    pub(in crate::lm) fn bytes(heads: Heads, positions: usize) -> usize {
        positions.div_ceil(COLUMNS) * page_len::<E>(heads) * size_of::<E>()
    }

    /// Adds the keys and values of a batch's rows.
    pub(super) fn append(&mut self, attention: &Attention<'_>, rows: Range<usize>) {
        let Heads { query, kv, dim } = self.heads;
        let key_size = key_len::<E>(dim);
        let mut key = vec![0f32; dim];
        for row in rows {
            let column = self.len % COLUMNS;
            if column == 0 {
                self.pages.push(Lines::zeroed(page_len::<E>(self.heads)));
            }
            self.len += 1;
            let Some(page) = self.pages.last_mut() else { continue };
            let (keys, values) = page.split_at_mut(kv * key_size);
            keys.chunks_exact(key_size).for_each(|panel| fetch(panel, column));
            for (shared, panel) in keys.chunks_exact_mut(key_size).enumerate() {
                attention.head(row, query + shared, 1.0, &mut key);
                put_key(panel, column, &key);
            }
            for (shared, head) in values.chunks_exact_mut(value_len(dim)).enumerate() {
                for (slice, panel) in head.chunks_mut(COLUMNS * COLUMNS).enumerate() {
                    put_value(panel, slice_width(dim, slice), column, attention.value(row, shared, slice));
                }
            }
        }
    }

    /// The pages that hold what any position from `first` to `last` sees.
    pub(super) fn visible(first: usize, last: usize, window: Option<usize>) -> Vec<Keys> {
        let oldest = window.map_or(0, |window| (first + 1).saturating_sub(window));
        let keys = |page: usize| {
            let position = page * COLUMNS;
            Keys { panel: page, panels: 1, position, len: COLUMNS.min(last + 1 - position) }
        };
        (oldest / COLUMNS..=last / COLUMNS).map(keys).collect()
    }
}

impl<E: Float> KeyValues<E> for KeyValuePages<E> {
    fn keys(&self, shared: usize, panel: usize) -> &[E] {
        let size = key_len::<E>(self.heads.dim);
        &self.pages[panel][shared * size..][..size]
    }

    /// One page at a time, as [`KeyValuePages::visible`] gives them.
    fn values(&self, shared: usize, slice: usize, panel: usize, _panels: usize) -> &[E] {
        let Heads { kv, dim, .. } = self.heads;
        let start = kv * key_len::<E>(dim) + shared * value_len(dim) + slice * COLUMNS * COLUMNS;
        &self.pages[panel][start..][..COLUMNS * slice_width(dim, slice)]
    }
}

/// Asks for the cache lines that a column of a panel lies in, one for each group of the inner dimension: waiting for one
/// after the other would be most of the work of writing a key.
fn fetch<E: Float>(panel: &[E], column: usize) {
    #[cfg(target_arch = "x86_64")]
    for group in panel.chunks_exact(COLUMNS * E::GROUP) {
        let line = group[column * E::GROUP..].as_ptr().cast();
        // SAFETY: asking for a line changes nothing, and every processor of this kind can.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (panel, column);
}

/// Elements of one head's keys in a page.
fn key_len<E: Float>(dim: usize) -> usize {
    dim.next_multiple_of(E::GROUP) * COLUMNS
}

/// Elements of one head's values in a page: all slices but the last are as wide as a panel.
fn value_len(dim: usize) -> usize {
    let last = dim.div_ceil(COLUMNS) - 1;
    COLUMNS * (last * COLUMNS + slice_width(dim, last))
}

fn page_len<E: Float>(heads: Heads) -> usize {
    heads.kv * (key_len::<E>(heads.dim) + value_len(heads.dim))
}
