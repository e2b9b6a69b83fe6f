//! Cutting shards into units: an input file and a range of its row groups.

use super::inputs::Shard;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A piece of work: some row groups of one shard. Its id is a hash of content, not of a path or a task's number,
/// so that the number of tasks may change between attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub id: String,
    /// Index into the input's shards.
    pub shard: usize,
    pub row_groups: Range<usize>,
    /// The shard's row with which the unit begins.
    pub first_row: u64,
    /// Rows in this unit; unknown for formats without a footer.
    pub rows: Option<u64>,
    /// Read at most this many rows: the end of a run with `--limit`.
    pub take: Option<u64>,
}

/// Cuts shards into units of about `rows_per_unit` rows, and stops at `limit` rows.
pub(super) fn cut(shards: &[Shard], rows_per_unit: u64, limit: Option<u64>) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut left = limit;
    for (index, shard) in shards.iter().enumerate() {
        let mut start = 0;
        let mut first_row = 0;
        while left != Some(0) {
            let (end, rows) = match &shard.row_groups {
                None if start == 0 => (1, None),
                None => break,
                Some(row_groups) => {
                    if start >= row_groups.len() {
                        break;
                    }
                    let mut end = start;
                    let mut rows = 0;
                    while end < row_groups.len() && (rows == 0 || rows + row_groups[end] <= rows_per_unit) {
                        rows += row_groups[end];
                        end += 1;
                    }
                    (end, Some(rows))
                }
            };
            let take = left.filter(|&left| rows.is_none_or(|rows| left < rows));
            let rows = rows.map(|rows| take.map_or(rows, |take| rows.min(take)));
            units.push(Unit {
                id: unit_id(shard, start..end, take),
                shard: index,
                row_groups: start..end,
                first_row,
                rows,
                take,
            });
            // A file without a row count may hold the rest of the limit or less; it then is the last one read.
            left = left.map(|left| rows.map_or(0, |rows| left - rows.min(left)));
            first_row += rows.unwrap_or(0);
            start = end;
        }
    }
    units
}

fn unit_id(shard: &Shard, row_groups: Range<usize>, take: Option<u64>) -> String {
    let text = format!("{} {}..{} {take:?}", shard.identity, row_groups.start, row_groups.end);
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shard, row groups, first row, rows, take.
    type Cut = (usize, Range<usize>, u64, Option<u64>, Option<u64>);

    #[track_caller]
    fn check(shards: &[Option<&[u64]>], rows_per_unit: u64, limit: Option<u64>, expect: &[Cut]) {
        let shards: Vec<Shard> = shards
            .iter()
            .enumerate()
            .map(|(i, groups)| Shard::for_test(&i.to_string(), groups.map(<[u64]>::to_vec)))
            .collect();
        let units = cut(&shards, rows_per_unit, limit);
        let found: Vec<_> = units
            .iter()
            .map(|unit| (unit.shard, unit.row_groups.clone(), unit.first_row, unit.rows, unit.take))
            .collect();
        assert_eq!(found, expect);
        let ids: std::collections::BTreeSet<_> = units.iter().map(|unit| &unit.id).collect();
        assert_eq!(ids.len(), units.len(), "ids are distinct");
    }

    #[test]
    fn units_are_whole_row_groups() {
        check(&[Some(&[10, 10, 10])], 20, None, &[(0, 0..2, 0, Some(20), None), (0, 2..3, 20, Some(10), None)]);
        check(&[Some(&[50, 1])], 20, None, &[(0, 0..1, 0, Some(50), None), (0, 1..2, 50, Some(1), None)]);
        check(&[Some(&[]), Some(&[5]), None], 20, None, &[(1, 0..1, 0, Some(5), None), (2, 0..1, 0, None, None)]);
    }

    #[test]
    fn a_limit_cuts_the_last_unit() {
        check(
            &[Some(&[10, 10]), Some(&[10])],
            10,
            Some(13),
            &[(0, 0..1, 0, Some(10), None), (0, 1..2, 10, Some(3), Some(3))],
        );
        check(&[None, Some(&[10])], 10, Some(13), &[(0, 0..1, 0, None, Some(13))]);
        check(&[Some(&[10])], 10, Some(10), &[(0, 0..1, 0, Some(10), None)]);
    }
}
