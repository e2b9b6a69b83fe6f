//! A puzzle, the sorted multiset that identifies its numbers, splits by multiset, and the rows of public puzzle sets.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The most numbers a puzzle may have.
pub const MAX_NUMBERS: usize = 6;
/// The largest target.
pub const MAX_TARGET: u32 = 1_000_000;

/// Numbers to combine, each exactly once, and the value to reach.
///
/// Every puzzle is small enough for exact 64-bit search: the product of all (number + 1), which bounds numerator +
/// denominator of everything the numbers can make, fits an `i64` even times the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Row", into = "Row")]
pub struct Puzzle {
    numbers: [u32; MAX_NUMBERS],
    len: u8,
    target: u32,
}

/// Why a row is not a puzzle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PuzzleFault {
    #[error("a puzzle needs 1 to {MAX_NUMBERS} numbers, and there are {0}")]
    Count(usize),
    #[error("`{0}` cannot be a number of a puzzle: expected a whole number of 1 or more")]
    Number(String),
    #[error("`{0}` cannot be a target: expected a whole number from 1 to {MAX_TARGET}")]
    Target(String),
    #[error("the numbers {0:?} with the target {1} are too large to be searched exactly")]
    TooLarge(Vec<u32>, u32),
}

impl Puzzle {
    pub fn new(numbers: &[u32], target: u32) -> Result<Self, PuzzleFault> {
        if numbers.is_empty() || MAX_NUMBERS < numbers.len() {
            return Err(PuzzleFault::Count(numbers.len()));
        }
        if let Some(zero) = numbers.iter().find(|&&number| number == 0) {
            return Err(PuzzleFault::Number(zero.to_string()));
        }
        if target == 0 || MAX_TARGET < target {
            return Err(PuzzleFault::Target(target.to_string()));
        }
        let bound =
            numbers.iter().try_fold(i64::from(target), |bound, &number| bound.checked_mul(i64::from(number) + 1));
        if bound.is_none() {
            return Err(PuzzleFault::TooLarge(numbers.to_vec(), target));
        }
        let mut padded = [0; MAX_NUMBERS];
        padded[..numbers.len()].copy_from_slice(numbers);
        Ok(Self { numbers: padded, len: numbers.len() as u8, target })
    }

    /// A row of the public 3-to-4 set: `nums` is a list of 64-bit integers there.
    pub fn from_row(numbers: &[i64], target: i64) -> Result<Self, PuzzleFault> {
        let fit = |&number: &i64| u32::try_from(number).map_err(|_| PuzzleFault::Number(number.to_string()));
        let numbers = numbers.iter().map(fit).collect::<Result<Vec<_>, _>>()?;
        let target = u32::try_from(target).map_err(|_| PuzzleFault::Target(target.to_string()))?;
        Self::new(&numbers, target)
    }

    /// Numbers as text, separated by spaces, commas or both, with or without brackets: `1 1 4 6`, `30,100,93`, `[3, 5]`.
    pub fn from_text(numbers: &str, target: u32) -> Result<Self, PuzzleFault> {
        let inner = numbers.trim().trim_start_matches('[').trim_end_matches(']');
        let words = inner.split([' ', ',', '\t']).filter(|word| !word.is_empty()).take(MAX_NUMBERS + 1);
        let fit = |word: &str| word.parse().map_err(|_| PuzzleFault::Number(word.chars().take(24).collect()));
        Self::new(&words.map(fit).collect::<Result<Vec<_>, _>>()?, target)
    }

    /// The numbers in the order the puzzle states them.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers[..usize::from(self.len)]
    }

    pub fn target(&self) -> u32 {
        self.target
    }

    pub fn multiset(&self) -> Multiset {
        Multiset::new(&self.numbers)
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    numbers: Vec<u32>,
    target: u32,
}

impl From<Puzzle> for Row {
    fn from(puzzle: Puzzle) -> Self {
        Self { numbers: puzzle.numbers().to_vec(), target: puzzle.target }
    }
}

impl TryFrom<Row> for Puzzle {
    type Error = PuzzleFault;

    fn try_from(row: Row) -> Result<Self, PuzzleFault> {
        Puzzle::new(&row.numbers, row.target)
    }
}

/// A puzzle's numbers in ascending order, zero-padded: equal for every permutation of the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multiset([u32; MAX_NUMBERS]);

impl Multiset {
    /// Of at most [`MAX_NUMBERS`] numbers; more are ignored.
    pub fn new(numbers: &[u32]) -> Self {
        let mut sorted = [0; MAX_NUMBERS];
        let len = numbers.len().min(MAX_NUMBERS);
        sorted[..len].copy_from_slice(&numbers[..len]);
        sorted.sort_unstable();
        Self(sorted)
    }

    /// The numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied().filter(|&number| number != 0)
    }
}

impl fmt::Display for Multiset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.numbers()).finish()
    }
}

/// The part of the data a puzzle belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    Train,
    Validation,
    Test,
}

/// Splits by the hash of the sorted multiset: no permutation of a test puzzle's numbers, whatever the target, is ever in
/// another split, and a puzzle's split depends on nothing but the seed and its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Splits {
    pub seed: u64,
    /// Share of the multisets held for the final test, in [0, 1].
    pub test: f64,
    /// Share held for validation, in [0, 1 - test].
    pub validation: f64,
}

impl Splits {
    pub fn of(&self, multiset: &Multiset) -> Split {
        let hash = multiset.0.iter().fold(mix(self.seed), |hash, &number| mix(hash ^ u64::from(number)));
        let position = (hash >> 11) as f64 / (1u64 << 53) as f64;
        if position < self.test {
            Split::Test
        } else if position < self.test + self.validation {
            Split::Validation
        } else {
            Split::Train
        }
    }
}

/// The finalizer of SplitMix64: a bijection that spreads every input bit over the output.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A row of the public Game-of-24 list: a puzzle and how many of the people asked solved it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RatedPuzzle {
    pub puzzle: Puzzle,
    /// Share of people who solved it, in [0, 1].
    pub solve_rate: f64,
}

/// Reads the public Game-of-24 list, `Rank,Puzzles,AMT (s),Solved rate,…` with `1 1 4 6` and `99.20%` in the columns used.
/// An error names the line, counted from 1.
pub fn parse_game_of_24(csv: &str) -> Result<Vec<RatedPuzzle>, String> {
    let mut lines = csv.lines().enumerate();
    let header: Vec<&str> = lines.next().map(|(_, line)| line.split(',').map(str::trim).collect()).unwrap_or_default();
    let column = |name: &str| {
        header.iter().position(|&column| column == name).ok_or_else(|| format!("line 1 has no column `{name}`"))
    };
    let (puzzles, rates) = (column("Puzzles")?, column("Solved rate")?);
    let mut rows = Vec::new();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let number = number + 1;
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |index: usize| cells.get(index).copied().ok_or_else(|| format!("line {number} has too few columns"));
        let puzzle = Puzzle::from_text(cell(puzzles)?, 24).map_err(|fault| format!("line {number}: {fault}"))?;
        let rate = cell(rates)?;
        let percent: f64 =
            rate.trim_end_matches('%').parse().map_err(|_| format!("line {number}: `{rate}` is not a percentage"))?;
        rows.push(RatedPuzzle { puzzle, solve_rate: percent / 100.0 });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rows_say_what_is_wrong() {
        let check =
            |fault: Result<Puzzle, PuzzleFault>, expect: &str| assert_eq!(fault.unwrap_err().to_string(), expect);
        check(Puzzle::new(&[], 24), "a puzzle needs 1 to 6 numbers, and there are 0");
        check(Puzzle::new(&[1; 7], 24), "a puzzle needs 1 to 6 numbers, and there are 7");
        check(Puzzle::new(&[3, 0], 24), "`0` cannot be a number of a puzzle: expected a whole number of 1 or more");
        check(Puzzle::new(&[3, 4], 0), "`0` cannot be a target: expected a whole number from 1 to 1000000");
        check(
            Puzzle::from_row(&[3, -4], 7),
            "`-4` cannot be a number of a puzzle: expected a whole number of 1 or more",
        );
        check(Puzzle::from_row(&[3, 4], i64::MAX), &PuzzleFault::Target(i64::MAX.to_string()).to_string());
        check(Puzzle::new(&[9_999_999; 6], 7), &PuzzleFault::TooLarge(vec![9_999_999; 6], 7).to_string());
        check(
            Puzzle::from_text("3 x 4", 7),
            "`x` cannot be a number of a puzzle: expected a whole number of 1 or more",
        );
        check(Puzzle::from_text("1,2,3,4,5,6,7,8", 7), "a puzzle needs 1 to 6 numbers, and there are 7");
    }

    #[test]
    fn text_forms_agree() {
        let expect = Puzzle::new(&[30, 100, 93], 23).unwrap();
        for text in ["30,100,93", "30 100 93", "[30, 100, 93]", " 30,\t100 ,93 "] {
            assert_eq!(Puzzle::from_text(text, 23), Ok(expect), "{text}");
        }
        assert_eq!(serde_json::from_str::<Puzzle>(&serde_json::to_string(&expect).unwrap()).unwrap(), expect);
    }

    #[test]
    fn splits_ignore_order_and_keep_their_shares() {
        let splits = Splits { seed: 7, test: 0.1, validation: 0.05 };
        assert_eq!(splits.of(&Multiset::new(&[5, 3, 9])), splits.of(&Multiset::new(&[9, 5, 3])));
        let mut counts = [0; 3];
        for a in 1..40 {
            for b in a..40 {
                for c in b..40 {
                    counts[splits.of(&Multiset::new(&[a, b, c])) as usize] += 1;
                }
            }
        }
        let total: i32 = counts.iter().sum();
        let share = |part: Split| f64::from(counts[part as usize]) / f64::from(total);
        assert!((share(Split::Test) - 0.1).abs() < 0.01 && (share(Split::Validation) - 0.05).abs() < 0.01);
    }

    #[test]
    fn game_of_24_rows() {
        let text = "Rank,Puzzles,AMT (s),Solved rate,x\n1,1 1 4 6,4.4,99.20%,4.67\n\n";
        let rows = parse_game_of_24(text).unwrap();
        assert_eq!((rows[0].puzzle.numbers(), rows[0].puzzle.target()), (&[1, 1, 4, 6][..], 24));
        assert!((rows[0].solve_rate - 0.992).abs() < 1e-12);
        assert_eq!(parse_game_of_24("Rank,Puzzles\n").unwrap_err(), "line 1 has no column `Solved rate`");
        assert_eq!(
            parse_game_of_24("Puzzles,Solved rate\n1 2 3 4,often\n").unwrap_err(),
            "line 2: `often` is not a percentage"
        );
        assert_eq!(parse_game_of_24("Puzzles,Solved rate\n1 2\n").unwrap_err(), "line 2 has too few columns");
    }
}
