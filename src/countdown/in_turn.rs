//! A search that tries combinations in one fixed order, so that what comes next follows from what was tried last.
//!
//! The order is a walk over "join two items": pairs of the numbers as they stand, of each pair every operator, and at once what
//! goes on from it. Of equal combinations the first stands for all; what leaves the natural numbers, goes beyond the highest
//! allowed value or meets the target half-way is left out. A trace begins at any place of the order, which goes round.

use super::derivation::{Derivation, Operator, Step};
use super::planner::Means;
use super::puzzle::Puzzle;
use super::trace::Try;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// The failed tries before the solution's like, up to `n_failed` of them, and that. Fewer where another solution stands before
/// it. `None` if the order does not have it.
pub(super) fn tries(
    puzzle: &Puzzle,
    solution: &Derivation,
    means: Means,
    n_failed: usize,
    keeps_steps: f64,
    rng: &mut ChaCha8Rng,
) -> Option<Vec<Try>> {
    let order = combinations(puzzle, means);
    let class = solution.class();
    let place = order.iter().position(|derivation| derivation.class() == class)?;
    let target = i64::from(puzzle.target());
    let before = (1..order.len()).map(|back| order[(place + order.len() - back) % order.len()]);
    let failed = before.take(n_failed).take_while(|derivation| derivation.value() != Some(target));
    let mut derivations: Vec<Derivation> = failed.collect();
    derivations.reverse();
    derivations.push(order[place]);
    let mut tries: Vec<Try> = Vec::with_capacity(derivations.len());
    for derivation in derivations {
        let shared = tries.last().map_or(0, |last| shared_steps(&last.derivation, &derivation));
        let from = if 0 < shared && rng.random_bool(keeps_steps) { shared as u8 } else { 0 };
        tries.push(Try { derivation, from, slip: None });
    }
    Some(tries)
}

/// A try in place of the solution that misses the target: mostly the next one in turn, else any.
pub(super) fn missing_try(puzzle: &Puzzle, solution: &Derivation, means: Means, rng: &mut ChaCha8Rng) -> Option<Try> {
    let order = combinations(puzzle, means);
    let class = solution.class();
    let place = order.iter().position(|derivation| derivation.class() == class)?;
    let target = i64::from(puzzle.target());
    let first = if rng.random_bool(0.5) { 1 } else { rng.random_range(1..order.len().max(2)) };
    let after = (0..order.len()).map(|ahead| order[(place + first + ahead) % order.len()]);
    let derivation = after.into_iter().find(|derivation| derivation.value() != Some(target))?;
    Some(Try { derivation, from: 0, slip: None })
}

/// All complete combinations in order.
fn combinations(puzzle: &Puzzle, means: Means) -> Vec<Derivation> {
    let mut walk = Walk { target: puzzle.target().into(), means, known: BTreeSet::new(), found: Vec::new() };
    walk.descend(Derivation::new(puzzle.numbers()));
    walk.found
}

struct Walk {
    target: i64,
    means: Means,
    known: BTreeSet<u64>,
    found: Vec<Derivation>,
}

impl Walk {
    fn descend(&mut self, derivation: Derivation) {
        if derivation.is_complete() {
            if self.known.insert(derivation.class()) {
                self.found.push(derivation);
            }
            return;
        }
        let Some(values) = derivation.values() else { return };
        let n_numbers = derivation.numbers().len();
        // Results before numbers: one goes on from what was just made.
        let mut free: Vec<u8> = derivation.free_items(derivation.steps().len()).collect();
        free.sort_by_key(|&item| usize::from(item) < n_numbers);
        for (place, &first) in free.iter().enumerate() {
            for &second in &free[place + 1..] {
                for operator in self.means.operators.iter() {
                    let falls = values[usize::from(first)] < values[usize::from(second)];
                    let is_ordered = matches!(operator, Operator::Subtract | Operator::Divide);
                    let (left, right) = if is_ordered && falls { (second, first) } else { (first, second) };
                    let result = operator.apply(values[usize::from(left)], values[usize::from(right)]);
                    let is_last = derivation.steps().len() + 2 == n_numbers;
                    let is_good =
                        |&value: &i64| self.means.allows(value, self.target) && (is_last || value != self.target);
                    if result.filter(is_good).is_some() {
                        let mut next = derivation;
                        next.push(Step { left, operator, right });
                        self.descend(next);
                    }
                }
            }
        }
    }
}

/// How many first steps two combinations have in common, fewer than all.
fn shared_steps(one: &Derivation, other: &Derivation) -> usize {
    let most = one.steps().len().min(other.steps().len()).saturating_sub(1);
    one.steps().iter().zip(other.steps()).take(most).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countdown::condition::TryOrder;
    use crate::countdown::derivation::Notation;
    use crate::countdown::solver::Operators;
    use rand::SeedableRng;

    fn means(operators: &[Operator], highest: Option<i64>) -> Means {
        Means { operators: Operators::new(operators), highest, order: TryOrder::InTurn }
    }

    #[test]
    fn combinations_come_in_one_order_and_once() {
        let check = |numbers: &[u32], target: u32, operators: &[Operator], highest: Option<i64>, expect: &[&str]| {
            let found = combinations(&Puzzle::new(numbers, target).unwrap(), means(operators, highest));
            let found: Vec<String> = found.iter().map(|one| one.expression(Notation::Tight)).collect();
            assert_eq!(found, expect);
        };
        use Operator::{Add, Multiply, Subtract};
        check(&[2, 3], 5, &[Add, Subtract, Multiply], None, &["2+3", "3-2", "2*3"]);
        check(&[3, 3], 5, &[Add, Subtract], None, &["3+3"]);
        check(&[2, 9, 5], 40, &[Add], None, &["2+9+5"]);
    }

    #[test]
    fn a_search_walks_up_to_the_solution() {
        let puzzle = Puzzle::new(&[3, 5, 7], 36).unwrap();
        let means = means(&[Operator::Add, Operator::Subtract, Operator::Multiply], Some(99));
        let order = combinations(&puzzle, means);
        let solution = order.iter().find(|one| one.value() == Some(36)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for n_failed in 0..=30 {
            let tries = tries(&puzzle, solution, means, n_failed, 0.0, &mut rng).unwrap();
            assert_eq!(tries.len(), (n_failed + 1).min(order.len()));
            let places: Vec<usize> =
                tries.iter().map(|one| order.iter().position(|other| *other == one.derivation).unwrap()).collect();
            assert!(places.windows(2).all(|pair| pair[1] == (pair[0] + 1) % order.len()));
            assert_eq!(tries.last().map(Try::stated), Some(36));
        }
        let missed = missing_try(&puzzle, solution, means, &mut rng).unwrap();
        assert_ne!(missed.stated(), 36);
    }
}
