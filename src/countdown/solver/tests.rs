//! The solver against a search without any pruning, over signed rationals.

use super::*;
use crate::countdown::derivation::Notation;
use crate::countdown::expr::{Expr, Value};
use crate::countdown::ratio::Ratio;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A value, its flattened sum and its flattened product. A part is its text up to sign, and whether it is subtracted or
/// divided by.
#[derive(Clone)]
struct Item {
    value: Ratio,
    terms: Vec<(bool, String)>,
    factors: Vec<(bool, String)>,
}

impl Item {
    fn leaf(number: u32) -> Self {
        let text = number.to_string();
        Self { value: Ratio::whole(number.into()), terms: vec![(false, text.clone())], factors: vec![(false, text)] }
    }

    fn combine(&self, operator: Operator, other: &Self) -> Option<Self> {
        let join = |left: &[(bool, String)], right: &[(bool, String)], flips: bool| {
            let flip = |(side, text): &(bool, String)| ((*side != flips), text.clone());
            left.iter().cloned().chain(right.iter().map(flip)).collect::<Vec<_>>()
        };
        let write = |parts: &[(bool, String)], flips: bool, signs: [char; 2]| {
            let sign = |(side, text): &(bool, String)| {
                let is_one = signs[0] == '*' && text == "1";
                format!("{}{text}", signs[usize::from(*side != flips && !is_one)])
            };
            let mut texts: Vec<String> = parts.iter().map(sign).collect();
            texts.sort();
            format!("({})", texts.concat())
        };
        let value = match operator {
            Operator::Add => self.value.checked_add(other.value),
            Operator::Subtract => self.value.checked_sub(other.value),
            Operator::Multiply => self.value.checked_mul(other.value),
            Operator::Divide => self.value.checked_div(other.value),
        }?;
        Some(if matches!(operator, Operator::Add | Operator::Subtract) {
            let terms = join(&self.terms, &other.terms, operator == Operator::Subtract);
            // As a factor it stands for its magnitude; zero has both signs.
            let texts = (write(&terms, false, ['+', '-']), write(&terms, true, ['+', '-']));
            let text = match value.cmp(&Ratio::ZERO) {
                std::cmp::Ordering::Greater => texts.0,
                std::cmp::Ordering::Less => texts.1,
                std::cmp::Ordering::Equal => texts.0.min(texts.1),
            };
            Self { value, terms, factors: vec![(false, text)] }
        } else {
            let factors = join(&self.factors, &other.factors, operator == Operator::Divide);
            // As a term it has the sign of its value.
            let terms = vec![(value < Ratio::ZERO, write(&factors, false, ['*', '/']))];
            Self { value, terms, factors }
        })
    }

    fn class(&self) -> String {
        let mut terms = self.terms.clone();
        terms.sort();
        format!("{terms:?}")
    }
}

fn brute_force(items: &[Item], target: Ratio, found: &mut BTreeSet<String>) {
    if let [item] = items {
        if item.value == target {
            found.insert(item.class());
        }
        return;
    }
    for (i, left) in items.iter().enumerate() {
        for (j, right) in items.iter().enumerate().filter(|&(j, _)| j != i) {
            for operator in Operator::ALL {
                let Some(joined) = left.combine(operator, right) else { continue };
                let mut rest: Vec<Item> =
                    items.iter().enumerate().filter(|&(k, _)| k != i && k != j).map(|(_, item)| item.clone()).collect();
                rest.push(joined);
                brute_force(&rest, target, found);
            }
        }
    }
}

fn check_against_brute_force(numbers: &[u32], target: u32) {
    let puzzle = Puzzle::new(numbers, target).unwrap();
    let mut classes = BTreeSet::new();
    let items: Vec<Item> = numbers.iter().map(|&number| Item::leaf(number)).collect();
    brute_force(&items, Ratio::whole(target.into()), &mut classes);
    let found = solutions(&puzzle, Rules::RATIONAL).solutions;
    let texts: Vec<String> = found.iter().map(|found| found.derivation.expression(Notation::Spaced)).collect();
    assert_eq!(found.len(), classes.len(), "{numbers:?} {target}\nfound {texts:#?}\nexpected {classes:#?}");
    for text in &texts {
        assert_eq!(crate::countdown::verdict::judge_answer(&puzzle, text), crate::countdown::verdict::Verdict::Solved);
    }
}

#[test]
fn classes_equal_a_search_without_pruning() {
    for (numbers, target) in [
        (&[3, 3, 8, 8][..], 24),
        (&[1, 1, 4, 6], 24),
        (&[1, 2, 3, 4], 24),
        (&[5, 5, 5, 1], 24),
        (&[7, 7, 7, 7], 1),
        (&[2, 3, 5, 5], 7),
        (&[4, 4, 10, 10], 24),
        (&[25, 50, 75], 3),
        (&[2, 2], 1),
        (&[9], 9),
        (&[9], 8),
    ] {
        check_against_brute_force(numbers, target);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn classes_equal_a_search_without_pruning_on_random_puzzles(
        numbers in prop::collection::vec(1u32..13, 3..=4),
        target in 1u32..40,
    ) {
        check_against_brute_force(&numbers, target);
    }

    #[test]
    fn solutions_hold(numbers in prop::collection::vec(1u32..100, 2..=4), target in 1u32..100) {
        let puzzle = Puzzle::new(&numbers, target).unwrap();
        for rules in [Rules::NATURAL, Rules::RATIONAL] {
            let found = solutions(&puzzle, rules);
            prop_assert_eq!(found.solutions.is_empty(), !is_solvable(&puzzle, rules));
            for solution in &found.solutions {
                let expr = Expr::parse(&solution.derivation.expression(Notation::Tight)).unwrap();
                prop_assert_eq!(expr.value, Value::Exact(Ratio::whole(target.into())));
                prop_assert!(found.easiest().unwrap().effort <= solution.effort);
            }
        }
        let natural = solutions(&puzzle, Rules::NATURAL).solutions.len();
        prop_assert!(natural <= solutions(&puzzle, Rules::RATIONAL).solutions.len());
    }
}

#[test]
fn famous_puzzles() {
    let check = |numbers: &[u32], target: u32, rules: Rules, easiest: Option<&str>, count: usize| {
        let found = solutions(&Puzzle::new(numbers, target).unwrap(), rules);
        let text = found.easiest().map(|found| found.derivation.expression(Notation::Spaced));
        assert_eq!((text.as_deref(), found.solutions.len()), (easiest, count), "{numbers:?}");
    };
    check(&[3, 3, 8, 8], 24, Rules::RATIONAL, Some("8 / (3 - 8 / 3)"), 1);
    check(&[3, 3, 8, 8], 24, Rules::NATURAL, None, 0);
    check(&[1, 1, 1, 1], 24, Rules::RATIONAL, None, 0);
    check(&[2, 3], 6, Rules::NATURAL, Some("3 * 2"), 1);
}

#[test]
fn operators_can_be_left_out() {
    let puzzle = Puzzle::new(&[6, 4, 2], 12).unwrap();
    let rules = Rules { operators: Operators::new(&[Operator::Add]), ..Rules::NATURAL };
    assert_eq!(solutions(&puzzle, rules).solutions.len(), 1);
}

/// The puzzles of the benchmark, and how many of them `benches/peers/countdown_solver.py` finds to be solvable.
#[test]
fn a_plain_python_solver_agrees() {
    let check = |largest: u64, expect: [usize; 2]| {
        let draw = |index: u64, slot: u64, n: u64| (crate::countdown::puzzle::mix(8 * index + slot) % n) as u32;
        let puzzle = |index: u64| {
            let numbers = [0, 1, 2, 3].map(|slot| 1 + draw(index, slot, largest));
            Puzzle::new(&numbers, 10 + draw(index, 7, largest - 8)).unwrap()
        };
        let solvable = |rules: Rules| (0..200).filter(|&index| is_solvable(&puzzle(index), rules)).count();
        assert_eq!([solvable(Rules::NATURAL), solvable(Rules::RATIONAL)], expect);
    };
    check(24, [119, 122]);
    check(99, [31, 31]);
}
