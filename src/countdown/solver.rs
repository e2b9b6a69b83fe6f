//! Every solution of a puzzle, once per class of equal ones.
//!
//! Depth first over "join two items": the values left shrink from n to 2, and the last join is a test against the target.
//! Two prunings keep it small without losing a class: independent neighbouring joins are taken in one order only, and a
//! difference is taken larger minus smaller, because a solution with a negative part has an equal one without
//! (`a + (b - c)` is `a - (c - b)`; the target is positive). Values need neither reduction nor overflow checks:
//! [`Puzzle`] bounds numerator + denominator of whatever its numbers make (a sum's is at most the product of its parts').

use super::derivation::{Derivation, MAX_ITEMS, Operator, Step};
use super::puzzle::{MAX_NUMBERS, Puzzle};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// What a solution may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub operators: Operators,
    pub intermediates: Intermediates,
}

impl Rules {
    /// The paper's generator and every trace: all operators, each intermediate result a natural number.
    pub const NATURAL: Rules = Rules { operators: Operators::ALL, intermediates: Intermediates::Naturals };
    /// The Game of 24: fractions may come up on the way.
    pub const RATIONAL: Rules = Rules { operators: Operators::ALL, intermediates: Intermediates::Rationals };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Intermediates {
    Naturals,
    Rationals,
}

/// A set of operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operators(u8);

impl Operators {
    pub const ALL: Operators = Operators(0b1111);

    pub fn new(operators: &[Operator]) -> Self {
        Self(operators.iter().fold(0, |set, &operator| set | 1 << operator as u8))
    }

    pub const fn contains(self, operator: Operator) -> bool {
        self.0 & 1 << operator as u8 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Operator> {
        Operator::ALL.into_iter().filter(move |&operator| self.contains(operator))
    }
}

/// A solution and how hard it is to see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solution {
    pub derivation: Derivation,
    /// See [`effort`].
    pub effort: f64,
}

/// A puzzle's solutions, one per class, from the easiest to the hardest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Solutions {
    pub solutions: Vec<Solution>,
}

impl Solutions {
    pub fn easiest(&self) -> Option<&Solution> {
        self.solutions.first()
    }

    pub fn hardest(&self) -> Option<&Solution> {
        self.solutions.last()
    }
}

/// All solutions up to order and grouping ([`Derivation::class`]); of each class the easiest form found.
pub fn solutions(puzzle: &Puzzle, rules: Rules) -> Solutions {
    match rules.intermediates {
        Intermediates::Naturals => collect::<i64>(puzzle, rules),
        Intermediates::Rationals => collect::<Fraction>(puzzle, rules),
    }
}

pub fn is_solvable(puzzle: &Puzzle, rules: Rules) -> bool {
    let visit = |_: &Derivation| ControlFlow::Break(());
    visit_solutions(puzzle, rules, visit).is_break()
}

/// Calls `visit` for every solution found, equal ones included, until it breaks.
pub fn visit_solutions(
    puzzle: &Puzzle,
    rules: Rules,
    mut visit: impl FnMut(&Derivation) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut derivation = Derivation::new(puzzle.numbers());
    let target = puzzle.target().into();
    match rules.intermediates {
        Intermediates::Naturals => {
            let mut items = start::<i64>(puzzle);
            descend(&mut items, puzzle.numbers().len(), target, rules.operators, &mut derivation, &mut visit)
        }
        Intermediates::Rationals => {
            let mut items = start::<Fraction>(puzzle);
            descend(&mut items, puzzle.numbers().len(), target, rules.operators, &mut derivation, &mut visit)
        }
    }
}

fn collect<V: Quantity>(puzzle: &Puzzle, rules: Rules) -> Solutions {
    let mut found: Vec<(u64, Solution)> = Vec::new();
    let _ = visit_solutions(puzzle, rules, |derivation| {
        let values = values_of::<V>(derivation);
        let class = derivation.class();
        let effort = effort(derivation, |item| values[item].as_f64());
        let solution = Solution { derivation: *derivation, effort };
        match found.iter_mut().find(|(known, _)| *known == class) {
            Some((_, known)) if effort < known.effort => *known = solution,
            Some(_) => {}
            None => found.push((class, solution)),
        }
        ControlFlow::Continue(())
    });
    let mut solutions: Vec<Solution> = found.into_iter().map(|(_, solution)| solution).collect();
    solutions.sort_by(|a, b| a.effort.total_cmp(&b.effort));
    Solutions { solutions }
}

/// How hard a derivation is to see, for ordering: each step costs by its operator (1, 1.5, 2, 3), by the size of its
/// result (its decimal logarithm), 4 more where a fraction comes up, and 1 where both sides are results themselves.
pub fn effort(derivation: &Derivation, value: impl Fn(usize) -> f64) -> f64 {
    let n_numbers = derivation.numbers().len();
    let cost = |(index, step): (usize, &Step)| {
        let operator = match step.operator {
            Operator::Add => 1.0,
            Operator::Subtract => 1.5,
            Operator::Multiply => 2.0,
            Operator::Divide => 3.0,
        };
        let result = value(derivation.result_item(index)).abs();
        let fraction = if result.fract() == 0.0 { 0.0 } else { 4.0 };
        let is_composed = |item: u8| n_numbers <= usize::from(item);
        let grouping = if is_composed(step.left) && is_composed(step.right) { 1.0 } else { 0.0 };
        operator + (1.0 + result).log10() + fraction + grouping
    };
    derivation.steps().iter().enumerate().map(cost).sum()
}

fn start<V: Quantity>(puzzle: &Puzzle) -> [(V, u8); MAX_NUMBERS] {
    let mut items = [(V::whole(0), 0); MAX_NUMBERS];
    for (index, (item, &number)) in items.iter_mut().zip(puzzle.numbers()).enumerate() {
        *item = (V::whole(number.into()), index as u8);
    }
    items
}

fn values_of<V: Quantity>(derivation: &Derivation) -> [V; MAX_ITEMS] {
    let mut values = [V::whole(0); MAX_ITEMS];
    for (value, &number) in values.iter_mut().zip(derivation.numbers()) {
        *value = V::whole(number.into());
    }
    for (index, step) in derivation.steps().iter().enumerate() {
        let (left, right) = (values[usize::from(step.left)], values[usize::from(step.right)]);
        values[derivation.result_item(index)] = left.apply(step.operator, right).unwrap_or(V::whole(0));
    }
    values
}

/// `items[..n]` are the free values with their items; they are the same afterwards. Calls `visit` with every derivation
/// that ends at the target.
fn descend<V: Quantity>(
    items: &mut [(V, u8); MAX_NUMBERS],
    n: usize,
    target: i64,
    operators: Operators,
    derivation: &mut Derivation,
    visit: &mut impl FnMut(&Derivation) -> ControlFlow<()>,
) -> ControlFlow<()> {
    if n == 1 {
        let is_hit = items[0].0.hits(V::whole(0), target)[0];
        return if is_hit { visit(derivation) } else { ControlFlow::Continue(()) };
    }
    let depth = derivation.steps().len();
    let last = derivation.steps().last().map(|step| (step.left.min(step.right), step.left.max(step.right)));
    let last_item = derivation.last_item() as u8;
    for high in 1..n {
        for low in 0..high {
            let (low_item, high_item) = (items[low], items[high]);
            let pair = (low_item.1.min(high_item.1), low_item.1.max(high_item.1));
            let is_independent = pair.1 != last_item;
            if is_independent && last.is_some_and(|last| pair < last) {
                continue;
            }
            let (a, b) =
                if low_item.0.is_less_than(high_item.0) { (high_item, low_item) } else { (low_item, high_item) };
            let joins = [
                (a, Operator::Add, b),
                (a, Operator::Subtract, b),
                (a, Operator::Multiply, b),
                (a, Operator::Divide, b),
                (b, Operator::Divide, a),
            ];
            if n == 2 {
                let hits = a.0.hits(b.0, target);
                if hits == [false; 5] {
                    continue;
                }
                for ((left, operator, right), _) in joins.into_iter().zip(hits).filter(|(_, hit)| *hit) {
                    if operators.contains(operator) {
                        derivation.push(Step { left: left.1, operator, right: right.1 });
                        let flow = visit(derivation);
                        derivation.truncate(depth);
                        flow?;
                    }
                }
                continue;
            }
            items[high] = items[n - 1];
            for (left, operator, right) in joins {
                if !operators.contains(operator) {
                    continue;
                }
                let Some(value) = left.0.apply(operator, right.0) else { continue };
                items[low] = (value, derivation.push(Step { left: left.1, operator, right: right.1 }));
                let flow = descend(items, n - 1, target, operators, derivation, visit);
                derivation.truncate(depth);
                flow?;
            }
            (items[low], items[high]) = (low_item, high_item);
        }
    }
    ControlFlow::Continue(())
}

/// A value of the search.
trait Quantity: Copy {
    fn whole(value: i64) -> Self;
    fn apply(self, operator: Operator, right: Self) -> Option<Self>;
    /// Which of `a + b`, `a - b`, `a * b`, `a / b` and `b / a` are the target, `a` being `self`.
    fn hits(self, b: Self, target: i64) -> [bool; 5];
    fn is_less_than(self, other: Self) -> bool;
    fn as_f64(self) -> f64;
}

impl Quantity for i64 {
    fn whole(value: i64) -> Self {
        value
    }

    #[inline]
    fn apply(self, operator: Operator, right: Self) -> Option<Self> {
        match operator {
            Operator::Add => Some(self + right),
            Operator::Subtract => Some(self - right),
            Operator::Multiply => Some(self * right),
            Operator::Divide => (right != 0 && self % right == 0).then(|| self / right),
        }
    }

    #[inline]
    fn hits(self, b: Self, target: i64) -> [bool; 5] {
        let a = self;
        [a + b == target, a - b == target, a * b == target, b != 0 && target * b == a, a != 0 && target * a == b]
    }

    fn is_less_than(self, other: Self) -> bool {
        self < other
    }

    fn as_f64(self) -> f64 {
        self as f64
    }
}

/// A non-negative fraction, not reduced.
#[derive(Clone, Copy)]
struct Fraction {
    numerator: i64,
    denominator: i64,
}

impl Quantity for Fraction {
    fn whole(value: i64) -> Self {
        Self { numerator: value, denominator: 1 }
    }

    #[inline]
    fn apply(self, operator: Operator, right: Self) -> Option<Self> {
        let (a, b, c, d) = (self.numerator, self.denominator, right.numerator, right.denominator);
        let (numerator, denominator) = match operator {
            Operator::Add => (a * d + c * b, b * d),
            Operator::Subtract => (a * d - c * b, b * d),
            Operator::Multiply => (a * c, b * d),
            Operator::Divide => (a * d, b * c),
        };
        (denominator != 0).then_some(Self { numerator, denominator })
    }

    #[inline]
    fn hits(self, other: Self, target: i64) -> [bool; 5] {
        let (a, b, c, d) = (self.numerator, self.denominator, other.numerator, other.denominator);
        let (ad, cb, ac, bd) = (a * d, c * b, a * c, b * d);
        let goal = target * bd;
        [ad + cb == goal, ad - cb == goal, ac == goal, cb != 0 && target * cb == ad, ad != 0 && target * ad == cb]
    }

    fn is_less_than(self, other: Self) -> bool {
        self.numerator * other.denominator < other.numerator * self.denominator
    }

    fn as_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

#[cfg(test)]
mod tests;
