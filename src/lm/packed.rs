//! Many sequences in one flat list of tokens, without padding, sharing beginnings.
//!
//! A segment is a run of tokens that continues another segment, or starts a sequence. So the segments form trees: a
//! template's prefix, under it many documents, under each document its four questions. A token sees its own segment up
//! to itself and every segment above, whole; siblings do not see each other.

use std::ops::Range;

/// Tokens of several sequences, their positions, and the segments that say who sees whom.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
}

/// Consecutive rows of a [`Packed`].
#[derive(Debug, Clone)]
struct Segment {
    rows: Range<usize>,
    parent: Option<usize>,
}

impl Packed {
    /// Appends a segment after the segment `parent`, or as the start of a sequence. Returns its index.
    /// Positions continue the parent's. `parent` must be an index returned before.
    pub fn push(&mut self, parent: Option<usize>, tokens: &[u32]) -> usize {
        let start = self.tokens.len();
        let first = parent.map_or(0, |parent| self.depth(parent)) as u32;
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((first..).take(tokens.len()));
        self.segments.push(Segment { rows: start..self.tokens.len(), parent });
        self.segments.len() - 1
    }

    /// Appends tokens of a sequence whose first `position` tokens lie elsewhere, in a cache. Returns the segment's index.
    pub(super) fn resume(&mut self, position: usize, tokens: &[u32]) -> usize {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((position as u32..).take(tokens.len()));
        self.segments.push(Segment { rows: start..self.tokens.len(), parent: None });
        self.segments.len() - 1
    }

    /// How many tokens all segments have together.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Each token's position in its own sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The row of a segment's last token; `None` for an empty segment.
    pub fn last_row(&self, segment: usize) -> Option<usize> {
        self.segment(segment).next_back()
    }

    /// The rows of one segment.
    pub fn segment(&self, segment: usize) -> Range<usize> {
        self.segments[segment].rows.clone()
    }

    /// The segment that `segment` continues.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn parent(&self, segment: usize) -> Option<usize> {
        self.segments[segment].parent
    }

    /// The rows of every segment, in order.
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.segments.iter().map(|segment| segment.rows.clone())
    }

    /// The rows of the segments above `segment`, from the start of its sequence down to its parent.
    pub fn above(&self, segment: usize) -> Vec<Range<usize>> {
        let mut chain = Vec::new();
        let mut next = self.segments[segment].parent;
        while let Some(index) = next {
            chain.push(self.segments[index].rows.clone());
            next = self.segments[index].parent;
        }
        chain.reverse();
        chain
    }

    /// The tokens of a row's sequence, from its start to the row.
    pub fn sequence(&self, row: usize) -> Vec<u32> {
        let Some(segment) = self.segments.iter().position(|segment| segment.rows.contains(&row)) else {
            return Vec::new();
        };
        let above = self.above(segment).into_iter().flatten();
        above.chain(self.segments[segment].rows.start..=row).map(|row| self.tokens[row]).collect()
    }

    /// How many tokens a sequence has up to the end of `segment`.
    fn depth(&self, segment: usize) -> usize {
        self.above(segment).iter().map(ExactSizeIterator::len).sum::<usize>() + self.segments[segment].rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_continue_down_the_tree() {
        let mut packed = Packed::default();
        let prefix = packed.push(None, &[7, 8]);
        let first = packed.push(Some(prefix), &[1, 2, 3]);
        let question = packed.push(Some(first), &[9, 9]);
        let second = packed.push(Some(prefix), &[4]);
        let empty = packed.push(Some(second), &[]);
        assert_eq!(packed.positions(), [0, 1, 2, 3, 4, 5, 6, 2]);
        assert_eq!(packed.above(question), [0..2, 2..5]);
        assert_eq!(packed.above(second).first(), Some(&(0..2)));
        assert_eq!(packed.last_row(question), Some(6));
        assert_eq!(packed.sequence(6), [7, 8, 1, 2, 3, 9, 9]);
        assert_eq!(packed.sequence(3), [7, 8, 1, 2]);
        assert_eq!(packed.last_row(empty), None);
        assert_eq!(packed.len(), 8);
    }
}
