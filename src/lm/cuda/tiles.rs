//! Who sees whom, in the form that the attention kernel reads.

use super::super::packed::Packed;

/// Tiles of queries, and for each segment where the positions of its sequence lie in the batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tiles {
    /// Five numbers a tile: the first query's row, how many queries, the first one's row of the output, its position, and
    /// where in `ranges` its segment's list begins.
    pub tiles: Vec<[u32; 5]>,
    /// Two numbers a range: positions up to the first of them lie in the rows `position + second`, modulo 2^32.
    pub ranges: Vec<[u32; 2]>,
}

impl Tiles {
    /// Tiles of at most `most` consecutive queries: of every row, or of chosen ones, whose results come in the order of `rows`.
    pub(super) fn new(packed: &Packed, rows: Option<&[usize]>, most: usize) -> Self {
        let mut tiles = Self::default();
        let mut lists = Vec::new();
        let segments: Vec<_> = packed.segments().collect();
        for (index, segment) in segments.iter().enumerate() {
            lists.push(tiles.ranges.len() as u32);
            let mut position = 0;
            for rows in packed.above(index).into_iter().chain([segment.clone()]) {
                if !rows.is_empty() {
                    let shift = (rows.start as u32).wrapping_sub(position);
                    position += rows.len() as u32;
                    tiles.ranges.push([position, shift]);
                }
            }
        }
        let mut push = |segment: usize, row: usize, queries: usize, out: usize| {
            let position = packed.positions()[row];
            tiles.tiles.push([row as u32, queries as u32, out as u32, position, lists[segment]]);
        };
        match rows {
            Some(rows) => {
                for (out, &row) in rows.iter().enumerate() {
                    // Segments lie in order, so a row's own is the first that ends after it.
                    push(segments.partition_point(|segment| segment.end <= row), row, 1, out);
                }
            }
            None => {
                for (index, segment) in segments.iter().enumerate() {
                    for row in segment.clone().step_by(most) {
                        push(index, row, most.min(segment.end - row), row);
                    }
                }
            }
        }
        tiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_lies_where_its_segment_says() {
        let mut packed = Packed::default();
        let prefix = packed.push(None, &[7, 8]);
        let first = packed.push(Some(prefix), &[1, 2, 3]);
        packed.push(Some(first), &[9, 9]);
        let second = packed.push(Some(prefix), &[4]);
        let empty = packed.push(Some(second), &[]);
        packed.push(Some(empty), &[5]);

        let tiles = Tiles::new(&packed, None, 2);
        assert_eq!(tiles.tiles.iter().map(|tile| tile[1]).sum::<u32>() as usize, packed.len());
        for [row, queries, out, position, list] in tiles.tiles.iter().copied() {
            assert_eq!(out, row);
            assert_eq!(position, packed.positions()[row as usize]);
            // The last query of the tile finds every position of its sequence, its own last.
            let mut seen = Vec::new();
            for at in 0..position + queries {
                let range = tiles.ranges[list as usize..].iter().find(|range| at < range[0]).unwrap();
                seen.push(at.wrapping_add(range[1]) as usize);
            }
            let own = (row + queries - 1) as usize;
            let segment = packed.segments().position(|rows| rows.contains(&own)).unwrap();
            let above = packed.above(segment).into_iter().flatten();
            let expect: Vec<usize> = above.chain(packed.segment(segment).start..=own).collect();
            assert_eq!(seen, expect);
        }

        let chosen = Tiles::new(&packed, Some(&[8, 0, 6]), 2);
        assert_eq!(
            chosen.tiles.iter().map(|tile| [tile[0], tile[1], tile[2]]).collect::<Vec<_>>(),
            [[8, 1, 0], [0, 1, 1], [6, 1, 2]]
        );
        assert_eq!(chosen.ranges, tiles.ranges);
    }
}
