//! Puzzles for one part of the data: drawn, or taken from files in their order. Memory does not grow with their number.

use super::puzzles::{PuzzleFile, Row};
use crate::config::Prime;
use crate::countdown::derivation::Derivation;
use crate::countdown::draw::{Draw, Unusable};
use crate::countdown::puzzle::Puzzle;
use crate::error::{Exit, Failure};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A puzzle, one of its solutions, and the index that all randomness around it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Supplied {
    pub index: u64,
    pub puzzle: Puzzle,
    pub solution: Derivation,
}

/// What became of the rows of puzzle files that one part has looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct PuzzleCounts {
    pub rows: u64,
    pub used: u64,
    /// Rows without use, by reason. `other-split` is not lost: another part takes it.
    pub unused: BTreeMap<&'static str, u64>,
}

pub(super) struct Supply<'a> {
    prime: &'a Prime,
    draw: Draw,
    /// The file in hand, and how many were begun.
    file: Option<PuzzleFile>,
    n_begun: usize,
    next: u64,
    counts: PuzzleCounts,
}

impl<'a> Supply<'a> {
    pub(super) fn new(prime: &'a Prime, draw: Draw) -> Self {
        Self { prime, draw, file: None, n_begun: 0, next: 0, counts: PuzzleCounts::default() }
    }

    /// The next `n` usable puzzles; fewer where the files end.
    pub(super) fn take(&mut self, n: u64) -> Result<Vec<Supplied>, Failure> {
        if self.prime.puzzles.is_empty() { self.take_drawn(n) } else { self.take_listed(n as usize) }
    }

    /// None unless puzzles come from files.
    pub(super) fn counts(self) -> Option<PuzzleCounts> {
        (!self.prime.puzzles.is_empty()).then_some(self.counts)
    }

    /// Says that the files have too few puzzles.
    pub(super) fn too_few(&self, what: &str, wanted: u64) -> Failure {
        let PuzzleCounts { rows, used, unused } = &self.counts;
        let reasons: Vec<String> = unused.iter().map(|(reason, rows)| format!("{rows} {reason}")).collect();
        let message = format!(
            "`prime.puzzles` has {used} puzzles for {what}, and {wanted} are wanted: of {rows} rows, {}",
            if reasons.is_empty() { "none is left out".to_owned() } else { reasons.join(", ") }
        );
        Failure::new(Exit::BadData, message)
            .hint("each row is used once, in the split that its numbers belong to; want fewer, or add puzzle files")
    }

    fn take_drawn(&mut self, n: u64) -> Result<Vec<Supplied>, Failure> {
        let indices = self.next..self.next + n;
        self.next = indices.end;
        let draw = &self.draw;
        let drawn: Option<Vec<Supplied>> = indices
            .into_par_iter()
            .map(|index| {
                let (puzzle, solution) = draw.puzzle(index)?;
                Some(Supplied { index, puzzle, solution })
            })
            .collect();
        drawn.ok_or_else(|| {
            Failure::new(Exit::BadData, "hardly any puzzle can be used, and drawing them would take forever")
                .hint("they are unsolvable, excluded or of another split; widen `prime.numbers` or `prime.targets`")
        })
    }

    fn take_listed(&mut self, n: usize) -> Result<Vec<Supplied>, Failure> {
        let mut usable = Vec::with_capacity(n);
        loop {
            let mut candidates = Vec::with_capacity(n - usable.len());
            while usable.len() + candidates.len() < n {
                let Some(row) = self.next_row()? else { break };
                let index = self.next;
                self.next += 1;
                self.counts.rows += 1;
                match self.sift(&row) {
                    Ok(puzzle) => candidates.push((index, puzzle)),
                    Err(reason) => self.leave(reason),
                }
            }
            if candidates.is_empty() {
                return Ok(usable);
            }
            let draw = &self.draw;
            let solved: Vec<Result<Supplied, Unusable>> = candidates
                .into_par_iter()
                .map(|(index, puzzle)| {
                    draw.solution(index, &puzzle).map(|solution| Supplied { index, puzzle, solution })
                })
                .collect();
            for one in solved {
                match one {
                    Ok(supplied) => usable.push(supplied),
                    Err(reason) => self.leave(reason_of(reason)),
                }
            }
            self.counts.used = self.counts.rows - self.counts.unused.values().sum::<u64>();
        }
    }

    fn next_row(&mut self) -> Result<Option<Row>, Failure> {
        loop {
            if let Some(file) = &mut self.file
                && let Some(row) = file.next_row()?
            {
                return Ok(Some(row));
            }
            let Some(path) = self.prime.puzzles.get(self.n_begun) else { return Ok(None) };
            self.n_begun += 1;
            self.file = Some(PuzzleFile::open(Path::new(path), true)?);
        }
    }

    fn leave(&mut self, reason: &'static str) {
        *self.counts.unused.entry(reason).or_default() += 1;
    }

    fn sift(&self, row: &Row) -> Result<Puzzle, &'static str> {
        let numbers: Option<Vec<i64>> = row.numbers.iter().copied().collect();
        let (Some(numbers), Some(target)) = (numbers, row.target) else { return Err("not-whole") };
        let puzzle = Puzzle::from_row(&numbers, target).map_err(|_| "out-of-range")?;
        let within =
            |range: Option<[u32; 2]>, value: u32| range.is_none_or(|[low, high]| (low..=high).contains(&value));
        let is_wanted = self.prime.sizes.as_ref().is_none_or(|sizes| sizes.contains(&numbers.len()))
            && puzzle.numbers().iter().all(|&number| within(self.prime.numbers, number))
            && within(self.prime.targets, puzzle.target());
        if !is_wanted {
            return Err("out-of-range");
        }
        self.draw.sift(&puzzle).map_err(reason_of)?;
        Ok(puzzle)
    }
}

fn reason_of(unusable: Unusable) -> &'static str {
    match unusable {
        Unusable::OtherSplit => "other-split",
        Unusable::Excluded => "excluded",
        Unusable::Unsolvable => "unsolvable",
    }
}
