//! A way to combine numbers, step by step: what the solver finds, what a trace tries, what an answer states.

use super::puzzle::{MAX_NUMBERS, mix};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The most steps a derivation has: each joins two items into one.
pub const MAX_STEPS: usize = MAX_NUMBERS - 1;
/// The most items: numbers, then results.
pub const MAX_ITEMS: usize = MAX_NUMBERS + MAX_STEPS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Operator {
    pub const ALL: [Operator; 4] = [Operator::Add, Operator::Subtract, Operator::Multiply, Operator::Divide];

    pub const fn ascii(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
        }
    }

    pub const fn typographic(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "−",
            Operator::Multiply => "×",
            Operator::Divide => "÷",
        }
    }

    /// The operator that takes the result back to the left operand.
    pub const fn inverse(self) -> Operator {
        match self {
            Operator::Add => Operator::Subtract,
            Operator::Subtract => Operator::Add,
            Operator::Multiply => Operator::Divide,
            Operator::Divide => Operator::Multiply,
        }
    }

    /// The result within the natural numbers, or `None` where it leaves them.
    pub fn apply(self, left: i64, right: i64) -> Option<i64> {
        match self {
            Operator::Add => left.checked_add(right),
            Operator::Subtract => left.checked_sub(right).filter(|&result| 0 <= result),
            Operator::Multiply => left.checked_mul(right),
            Operator::Divide => (right != 0 && left % right == 0).then(|| left / right),
        }
    }

    const fn is_additive(self) -> bool {
        matches!(self, Operator::Add | Operator::Subtract)
    }
}

/// Joins two items, named by their position: first the numbers, then the results in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub left: u8,
    pub operator: Operator,
    pub right: u8,
}

/// Numbers and the steps that join them. Complete when one item is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Derivation {
    numbers: [u32; MAX_NUMBERS],
    n_numbers: u8,
    steps: [Step; MAX_STEPS],
    n_steps: u8,
}

impl Derivation {
    /// No steps yet. At most [`MAX_NUMBERS`] numbers; more are ignored.
    pub fn new(numbers: &[u32]) -> Self {
        let n_numbers = numbers.len().min(MAX_NUMBERS);
        let mut padded = [0; MAX_NUMBERS];
        padded[..n_numbers].copy_from_slice(&numbers[..n_numbers]);
        let blank = Step { left: 0, operator: Operator::Add, right: 0 };
        Self { numbers: padded, n_numbers: n_numbers as u8, steps: [blank; MAX_STEPS], n_steps: 0 }
    }

    pub fn numbers(&self) -> &[u32] {
        &self.numbers[..self.n_numbers.into()]
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps[..self.n_steps.into()]
    }

    /// Appends a step and returns its result's item. The caller joins only items that are still free.
    pub fn push(&mut self, step: Step) -> u8 {
        self.steps[usize::from(self.n_steps)] = step;
        self.n_steps += 1;
        self.n_numbers + self.n_steps - 1
    }

    /// Forgets all but the first `n_steps` steps.
    pub fn truncate(&mut self, n_steps: usize) {
        self.n_steps = self.n_steps.min(n_steps as u8);
    }

    pub fn is_complete(&self) -> bool {
        self.n_steps + 1 == self.n_numbers
    }

    /// The item of step `index`'s result.
    pub fn result_item(&self, index: usize) -> usize {
        usize::from(self.n_numbers) + index
    }

    /// Every item's value within the natural numbers, or `None` where a step leaves them.
    pub fn values(&self) -> Option<Values> {
        let mut values = [0; MAX_ITEMS];
        for (value, &number) in values.iter_mut().zip(self.numbers()) {
            *value = number.into();
        }
        for (index, step) in self.steps().iter().enumerate() {
            let result = step.operator.apply(values[usize::from(step.left)], values[usize::from(step.right)])?;
            values[self.result_item(index)] = result;
        }
        Some(values)
    }

    /// The items that are neither joined yet after the first `n_steps` steps.
    pub fn free_items(&self, n_steps: usize) -> impl Iterator<Item = u8> + '_ {
        let steps = &self.steps[..n_steps.min(self.n_steps.into())];
        let used = steps.iter().fold(0u32, |used, step| used | 1 << step.left | 1 << step.right);
        (0..self.n_numbers + steps.len() as u8).filter(move |item| used & 1 << item == 0)
    }

    /// The value of the last step's result, or of the first number if there is no step.
    pub fn value(&self) -> Option<i64> {
        self.values().map(|values| values[self.last_item()])
    }

    pub fn last_item(&self) -> usize {
        match self.n_steps {
            0 => 0,
            n_steps => self.result_item(usize::from(n_steps) - 1),
        }
    }

    /// The last result as an expression with the fewest parentheses.
    pub fn expression(&self, notation: Notation) -> String {
        let mut text = String::with_capacity(40);
        self.write_item(&mut text, self.last_item() as u8, notation, 0, None);
        text
    }

    /// [`Derivation::expression`] of what is new after the first `from` steps: their results stand as numbers.
    pub fn write_expression(&self, text: &mut String, notation: Notation, from: usize, values: Option<&Values>) {
        self.write_item(text, self.last_item() as u8, notation, from, values);
    }

    /// `opaque` results (of the first `from` steps) are written as their value.
    fn write_item(&self, text: &mut String, item: u8, notation: Notation, from: usize, values: Option<&Values>) {
        let item = usize::from(item);
        let n_numbers = usize::from(self.n_numbers);
        if item < n_numbers {
            let _ = write!(text, "{}", self.numbers[item]);
            return;
        }
        if let Some(values) = values
            && item - n_numbers < from
        {
            let _ = write!(text, "{}", values[item]);
            return;
        }
        let step = self.steps[item - n_numbers];
        let is_shown = |child: u8| match values {
            Some(_) => n_numbers + from <= usize::from(child),
            None => n_numbers <= usize::from(child),
        };
        for (side, child) in [(Side::Left, step.left), (Side::Right, step.right)] {
            let inner = |child: u8| self.steps[usize::from(child) - n_numbers].operator;
            let needs_parentheses = is_shown(child) && needs_parentheses(step.operator, side, inner(child));
            if needs_parentheses {
                text.push_str(notation.open());
            }
            self.write_item(text, child, notation, from, values);
            if needs_parentheses {
                text.push_str(notation.close());
            }
            if side == Side::Left {
                notation.write_operator(text, step.operator);
            }
        }
    }

    /// Equal for solutions that differ only by order and grouping: sums are flattened to what is added and subtracted,
    /// products to what is multiplied and divided, and dividing by the number 1 is multiplying by it. A 64-bit hash, so
    /// that two different classes agree with probability 2⁻⁶⁴.
    pub fn class(&self) -> u64 {
        let mut forms = [Form::default(); MAX_ITEMS];
        for (form, &number) in forms.iter_mut().zip(self.numbers()) {
            let term = mix(number.into());
            *form = Form::of_term(term);
            if number == 1 {
                (form.product, form.ones) = (Sides::default(), 1);
            }
        }
        for (index, step) in self.steps().iter().enumerate() {
            let (left, right) = (forms[usize::from(step.left)], forms[usize::from(step.right)]);
            forms[self.result_item(index)] = match step.operator {
                Operator::Add => Form::of_sum(left.sum.join(right.sum)),
                Operator::Subtract => Form::of_sum(left.sum.join(right.sum.flipped())),
                Operator::Multiply => Form::of_product(left.product.join(right.product), left.ones + right.ones),
                Operator::Divide => {
                    Form::of_product(left.product.join(right.product.flipped()), left.ones + right.ones)
                }
            };
        }
        forms[self.last_item()].term
    }
}

/// An item as [`Derivation::class`] sees it: one term, a flattened sum and a flattened product.
#[derive(Clone, Copy, Default)]
struct Form {
    term: u64,
    sum: Sides,
    product: Sides,
    /// How often the number 1 is among the product's factors. It is not in `product`, where its side would show.
    ones: u64,
}

/// What is added and what is subtracted, or what is multiplied and what is divided by: the sums of the terms' hashes.
#[derive(Clone, Copy, Default)]
struct Sides(u64, u64);

impl Sides {
    fn join(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0), self.1.wrapping_add(other.1))
    }

    fn flipped(self) -> Self {
        Self(self.1, self.0)
    }
}

impl Form {
    const SUM: u64 = 0x51;
    const PRODUCT: u64 = 0x52;

    fn of_term(term: u64) -> Self {
        Self { term, sum: Sides(mix(term ^ Self::SUM), 0), product: Sides(mix(term ^ Self::PRODUCT), 0), ones: 0 }
    }

    fn of_sum(sum: Sides) -> Self {
        // A difference and its negation are one term; which of them a solution contains follows from its target.
        let term = mix(mix(sum.0.min(sum.1) ^ Self::SUM) ^ sum.0.max(sum.1));
        Self { sum, ..Self::of_term(term) }
    }

    fn of_product(product: Sides, ones: u64) -> Self {
        let term = mix(mix(mix(product.0 ^ Self::PRODUCT) ^ product.1).wrapping_add(ones));
        Self { product, ones, ..Self::of_term(term) }
    }
}

/// Every item's value: numbers, then results.
pub type Values = [i64; MAX_ITEMS];

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

fn needs_parentheses(outer: Operator, side: Side, inner: Operator) -> bool {
    match (outer, side) {
        (Operator::Add, _) | (Operator::Subtract, Side::Left) => false,
        (Operator::Subtract, Side::Right) | (Operator::Multiply | Operator::Divide, Side::Left) => inner.is_additive(),
        // `a * (b / c)` needs none by precedence, yet without them it reads as if `a * b` came first.
        (Operator::Multiply, Side::Right) => inner != Operator::Multiply,
        (Operator::Divide, Side::Right) => true,
    }
}

/// How operators and parentheses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// `(3 + 4) * 5`
    Spaced,
    /// `(3+4)*5`
    Tight,
    /// `(3 + 4) × 5`
    Typographic,
    /// `( 3 + 4 ) * 5`: every symbol is a word of its own, for word-level vocabularies.
    Words,
}

impl Notation {
    const fn open(self) -> &'static str {
        match self {
            Notation::Words => "( ",
            _ => "(",
        }
    }

    const fn close(self) -> &'static str {
        match self {
            Notation::Words => " )",
            _ => ")",
        }
    }

    /// The operator with the blanks around it.
    pub fn write_operator(self, text: &mut String, operator: Operator) {
        let (blank, symbol) = match self {
            Notation::Spaced | Notation::Words => (" ", operator.ascii()),
            Notation::Tight => ("", operator.ascii()),
            Notation::Typographic => (" ", operator.typographic()),
        };
        text.push_str(blank);
        text.push_str(symbol);
        text.push_str(blank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countdown::expr::{Expr, Value};
    use Operator::{Add, Divide, Multiply, Subtract};

    fn derive(numbers: &[u32], steps: &[(u8, Operator, u8)]) -> Derivation {
        let mut derivation = Derivation::new(numbers);
        for &(left, operator, right) in steps {
            derivation.push(Step { left, operator, right });
        }
        derivation
    }

    #[test]
    fn expressions_have_the_fewest_parentheses() {
        let check = |numbers: &[u32], steps: &[(u8, Operator, u8)], expect: &str| {
            assert_eq!(derive(numbers, steps).expression(Notation::Spaced), expect);
        };
        check(&[1, 2, 3], &[(0, Add, 1), (3, Divide, 2)], "(1 + 2) / 3");
        check(&[1, 2, 3], &[(1, Add, 2), (0, Add, 3)], "1 + 2 + 3");
        check(&[9, 2, 3], &[(1, Subtract, 2), (0, Subtract, 3)], "9 - (2 - 3)");
        check(&[8, 4, 2], &[(1, Divide, 2), (0, Divide, 3)], "8 / (4 / 2)");
        check(&[8, 4, 2], &[(1, Divide, 2), (0, Multiply, 3)], "8 * (4 / 2)");
        check(&[8, 4, 2], &[(0, Divide, 1), (3, Multiply, 2)], "8 / 4 * 2");
        check(&[5], &[], "5");
    }

    #[test]
    fn expressions_mean_what_the_steps_say() {
        // Every derivation over three numbers whose values stay natural.
        for first in Operator::ALL {
            for second in Operator::ALL {
                for (left, right) in [(3, 2), (2, 3)] {
                    let derivation = derive(&[12, 3, 36], &[(0, first, 1), (left, second, right)]);
                    let Some(value) = derivation.value() else { continue };
                    for notation in [Notation::Spaced, Notation::Tight, Notation::Typographic, Notation::Words] {
                        let expr = Expr::parse(&derivation.expression(notation)).unwrap();
                        assert_eq!(expr.value, Value::Exact(super::super::ratio::Ratio::whole(value)));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_known_stands_as_a_number() {
        let derivation = derive(&[3, 4, 5, 6], &[(0, Multiply, 1), (2, Add, 3), (4, Add, 5)]);
        let values = derivation.values().unwrap();
        let mut text = String::new();
        derivation.write_expression(&mut text, Notation::Typographic, 1, Some(&values));
        assert_eq!(text, "12 + 5 + 6");
        assert_eq!(derivation.free_items(1).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn classes_ignore_order_and_grouping() {
        let class = |numbers: &[u32], steps: &[(u8, Operator, u8)]| derive(numbers, steps).class();
        // 9 - (5 - 2) and (9 + 2) - 5 and (9 - 5) + 2
        let one = class(&[9, 5, 2], &[(1, Subtract, 2), (0, Subtract, 3)]);
        assert_eq!(one, class(&[5, 2, 9], &[(2, Add, 1), (3, Subtract, 0)]));
        assert_eq!(one, class(&[9, 5, 2], &[(0, Subtract, 1), (3, Add, 2)]));
        assert_ne!(one, class(&[9, 5, 2], &[(0, Subtract, 1), (3, Subtract, 2)]));
        // 8 * 6 / 2 and 8 * (6 / 2)
        let two = class(&[8, 6, 2], &[(0, Multiply, 1), (3, Divide, 2)]);
        assert_eq!(two, class(&[8, 6, 2], &[(1, Divide, 2), (3, Multiply, 0)]));
        assert_eq!(class(&[7, 1], &[(0, Multiply, 1)]), class(&[7, 1], &[(0, Divide, 1)]));
        assert_ne!(class(&[7, 1], &[(0, Multiply, 1)]), class(&[7, 1], &[(1, Divide, 0)]));
    }
}
