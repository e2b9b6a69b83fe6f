//! A way to combine numbers, step by step: what the solver finds, what a trace tries, what an answer states.

use super::puzzle::MAX_NUMBERS;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

mod class;

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

    /// The same steps over one number more, and its item. `None` if there is no room for it.
    pub fn with_number(&self, number: u32) -> Option<(Self, u8)> {
        let item = self.n_numbers;
        let mut numbers = self.numbers().to_vec();
        numbers.push(number);
        if MAX_NUMBERS < numbers.len() {
            return None;
        }
        let moved = |other: u8| if other < item { other } else { other + 1 };
        let mut wider = Self::new(&numbers);
        for step in self.steps() {
            wider.push(Step { left: moved(step.left), right: moved(step.right), ..*step });
        }
        Some((wider, item))
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
mod tests;
