//! Keys and values of one sequence in one layer, kept from step to step: pages of 64 positions in the panels' layout
//! that attention multiplies, see [`super::tile`].
//!
//! A position's sums run in the same order here as in a batch that holds the whole sequence, so both give equal bits.

use super::super::ops::Heads;
use super::attention::{Attention, KeyValues, Keys, put_key, put_value};
use super::matrix::Lines;
use super::tile::{COLUMNS, Element};
use std::ops::Range;

/// The pages so far.
pub(in crate::lm) struct KeyValuePages<E> {
    heads: Heads,
    /// Each `[head][D / GROUP][COLUMNS][GROUP]` of keys, then `[head][slice of D][COLUMNS / GROUP][COLUMNS][GROUP]` of values.
    pages: Vec<Lines<E>>,
    len: usize,
}

impl<E: Element> KeyValuePages<E> {
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
        let (key_size, slices) = (key_len::<E>(dim), dim.div_ceil(COLUMNS));
        let mut key = vec![0f32; dim];
        for row in rows {
            let column = self.len % COLUMNS;
            if column == 0 {
                self.pages.push(Lines::zeroed(page_len::<E>(self.heads)));
            }
            self.len += 1;
            let Some(page) = self.pages.last_mut() else { continue };
            let (keys, values) = page.split_at_mut(kv * key_size);
            for (shared, panel) in keys.chunks_exact_mut(key_size).enumerate() {
                attention.head(row, query + shared, 1.0, &mut key);
                put_key(panel, column, &key);
            }
            for (head, panel) in values.chunks_exact_mut(COLUMNS * COLUMNS).enumerate() {
                put_value(panel, column, attention.value(row, head / slices, head % slices));
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

impl<E: Element> KeyValues<E> for KeyValuePages<E> {
    fn keys(&self, shared: usize, panel: usize) -> &[E] {
        let size = key_len::<E>(self.heads.dim);
        &self.pages[panel][shared * size..][..size]
    }

    /// One page at a time, as [`KeyValuePages::visible`] gives them.
    fn values(&self, shared: usize, slice: usize, panel: usize, _panels: usize) -> &[E] {
        let Heads { kv, dim, .. } = self.heads;
        let size = COLUMNS * COLUMNS;
        &self.pages[panel][kv * key_len::<E>(dim) + (shared * dim.div_ceil(COLUMNS) + slice) * size..][..size]
    }
}

/// Elements of one head's keys in a page.
fn key_len<E: Element>(dim: usize) -> usize {
    dim.next_multiple_of(E::GROUP) * COLUMNS
}

fn page_len<E: Element>(heads: Heads) -> usize {
    heads.kv * (key_len::<E>(heads.dim) + heads.dim.div_ceil(COLUMNS) * COLUMNS * COLUMNS)
}
