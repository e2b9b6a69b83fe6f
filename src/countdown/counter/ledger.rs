//! Keeps the books of a text about a puzzle: which numbers are left, and so which statement goes on from the last result,
//! which only restates something, and which begins a new combination.

use super::super::puzzle::Puzzle;
use super::super::ratio::Ratio;
use super::super::reader::{Statement, Values};

type Pool = Values<8>;

/// Earlier states that are remembered. More than any honest trace goes back over, and a bound on the work per statement.
const MAX_POOLS: usize = 24;

/// How the text announces what comes next.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) enum Announced {
    Nothing,
    /// A try, which may go on from the last result or not.
    Try,
    /// A turn away from the last result.
    Turn,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Begins,
    GoesOn,
    /// Says again what the combination in hand already holds.
    Restates,
}

/// What is known of the combination in hand.
#[derive(Default)]
struct Combination {
    /// Every number seen in it: operands, intermediate values, results.
    values: Values<64>,
    results: Values<16>,
    last: Option<Ratio>,
    /// Its last result was held against the target.
    is_judged: bool,
    /// It states something false, or uses a number that is not there.
    is_flawed: bool,
}

impl Combination {
    fn learn(&mut self, statement: &Statement) {
        statement.seen.as_slice().iter().for_each(|&value| self.values.push(value));
        if let Some(value) = statement.value {
            self.values.push(value);
            self.results.push(value);
        }
    }
}

pub(super) struct Ledger {
    target: Ratio,
    root: Pool,
    /// What may be left now: one pool, or several where the text went back and did not say how far.
    pools: Vec<Pool>,
    /// What was left earlier, latest last.
    history: Vec<Pool>,
    combination: Combination,
    pub(super) n_combinations: u32,
    /// The first combination that truly reaches the target with every number used once.
    pub(super) first_solving: Option<u32>,
}

impl Ledger {
    pub(super) fn new(puzzle: &Puzzle) -> Self {
        let mut root = Pool::default();
        puzzle.numbers().iter().for_each(|&number| root.push(Ratio::whole(number.into())));
        Self {
            target: Ratio::whole(puzzle.target().into()),
            pools: vec![root.clone()],
            root,
            history: Vec::with_capacity(MAX_POOLS),
            combination: Combination::default(),
            n_combinations: 0,
            first_solving: None,
        }
    }

    /// The last result was held against the target.
    pub(super) fn judge(&mut self) {
        self.combination.is_judged = true;
    }

    /// The combination in hand reached the target, and that was said.
    pub(super) fn is_settled(&self) -> bool {
        self.combination.is_judged && self.combination.last == Some(self.target)
    }

    /// Whether a number is among those left, on any reading of the text; after a turn, at any earlier point too.
    pub(super) fn is_left(&self, value: Ratio, announced: Announced) -> bool {
        let anywhere = announced == Announced::Turn;
        self.pools.iter().any(|pool| pool.contains(value))
            || (anywhere && (self.root.contains(value) || self.history.iter().any(|pool| pool.contains(value))))
    }

    /// Whether a goal is a number that nothing has made so far and that the puzzle does not give.
    pub(super) fn is_unmade(&self, goal: Ratio, announced: Announced) -> bool {
        let is_known = announced != Announced::Turn && self.combination.values.contains(goal);
        !is_known && !self.root.contains(goal) && !self.is_left(goal, announced)
    }

    /// Whether the combination in hand already holds a statement: all its numbers, and what it computes.
    pub(super) fn explains(&self, statement: &Statement) -> bool {
        let values = &self.combination.values;
        self.holds_value(statement.computed) && statement.leaves.as_slice().iter().all(|&leaf| values.contains(leaf))
    }

    pub(super) fn holds_value(&self, value: Option<Ratio>) -> bool {
        value.is_some_and(|value| self.combination.values.contains(value))
    }

    /// Books a statement. `is_examined` says that the text is checking what it has.
    pub(super) fn book(&mut self, statement: &Statement, announced: Announced, is_examined: bool) -> Move {
        let leaves = statement.leaves.as_slice();
        if self.n_combinations == 0 || announced == Announced::Turn {
            self.begin(statement);
            return Move::Begins;
        }
        let follows = self.pools.iter().any(|pool| holds(pool, leaves));
        let combination = &self.combination;
        let is_closed = combination.is_judged && combination.last != Some(self.target) && !is_examined;
        if !follows && announced == Announced::Nothing && !is_closed && self.explains(statement) {
            self.combination.learn(statement);
            return Move::Restates;
        }
        let is_own = |leaf| !(combination.is_judged && self.root.contains(leaf));
        let uses_result = match announced {
            Announced::Nothing => leaves.iter().any(|&leaf| combination.results.contains(leaf) && is_own(leaf)),
            // A new try that takes up the last result goes on from it.
            _ => combination.last.is_some_and(|last| leaves.contains(&last) && !self.root.contains(last)),
        };
        if !follows && !uses_result {
            self.begin(statement);
            return Move::Begins;
        }
        if follows {
            self.pools.retain(|pool| holds(pool, leaves));
        } else {
            self.combination.is_flawed = true;
        }
        self.combination.is_judged = false;
        self.consume(statement);
        Move::GoesOn
    }

    /// A new combination, from the start or from any earlier point that has its numbers.
    fn begin(&mut self, statement: &Statement) {
        self.n_combinations += 1;
        self.combination = Combination::default();
        let leaves = statement.leaves.as_slice();
        let earlier = std::iter::once(&self.root).chain(&self.history);
        self.pools = earlier.filter(|pool| holds(pool, leaves)).cloned().collect();
        if self.pools.is_empty() {
            self.combination.is_flawed = true;
            self.pools.push(self.root.clone());
        }
        self.consume(statement);
    }

    /// Takes the operands out of what is left and puts the result in.
    fn consume(&mut self, statement: &Statement) {
        for pool in &mut self.pools {
            for &leaf in statement.leaves.as_slice() {
                pool.take(leaf);
            }
            if let Some(value) = statement.value {
                pool.push(value);
            }
            let is_same =
                |other: &Pool| other.as_slice().len() == pool.as_slice().len() && holds(other, pool.as_slice());
            if let Some(known) = self.history.iter().position(is_same) {
                self.history.remove(known);
            } else if self.history.len() == MAX_POOLS {
                self.history.remove(0);
            }
            self.history.push(pool.clone());
        }
        self.combination.learn(statement);
        self.combination.is_flawed |= 0 < statement.n_false || statement.value.is_none();
        self.combination.last = statement.value;
        let is_complete = self.pools.iter().any(|pool| pool.as_slice() == [self.target]);
        if is_complete && !self.combination.is_flawed && self.first_solving.is_none() {
            self.first_solving = Some(self.n_combinations - 1);
        }
    }
}

/// Whether a pool has all these numbers, each as often as asked.
fn holds(pool: &Pool, leaves: &[Ratio]) -> bool {
    let count = |values: &[Ratio], value: Ratio| values.iter().filter(|&&other| other == value).count();
    leaves.len() <= pool.as_slice().len()
        && leaves.iter().all(|&leaf| count(leaves, leaf) <= count(pool.as_slice(), leaf))
}
