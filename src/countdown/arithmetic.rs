//! Texts that teach a model from scratch to calculate, and nothing of searching: facts, comparisons, expressions and their steps.
//!
//! In the words of the terse traces, so that what a trace is made of is known before priming: `3 * 4 = 12`, `24 24 same`,
//! `use 3 5 7 : 5 + 7 = 12 , 12 * 3 = 36 : ( 5 + 7 ) * 3`. Drills calculate on with the same numbers, or compare with the same value,
//! at random: no text aims at anything, holds a result against an aim, tries again or stops for a reason.

use super::derivation::{Derivation, Notation, Operator, Step};
use super::puzzle::mix;
use super::solver::Operators;
use crate::error::{Exit, Failure};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// What the texts are about.
#[derive(Debug, Clone, PartialEq)]
pub struct ArithmeticSpec {
    /// How many numbers an expression has; each count is drawn equally often.
    pub sizes: Vec<usize>,
    /// The numbers of expressions.
    pub numbers: RangeInclusive<u32>,
    /// No operand and no result of a fact is higher.
    pub highest: u32,
    pub operators: Operators,
    /// Words of the shortest and of the longest texts, about.
    pub lengths: RangeInclusive<usize>,
    pub seed: u64,
}

/// What an item of a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// ` 57 + 14 = 71`
    Fact,
    /// ` 7 24 less`
    Comparison,
    /// ` make 24 : 7 24 less ; 30 24 more ; 24 24 same`
    Comparisons,
    /// ` use 3 5 7 make 36 : 3 5 7 , 36`
    Echo,
    /// ` ( 5 + 7 ) * 3 : 5 + 7 = 12 , 12 * 3 = 36`
    StepsOfExpression,
    /// ` 5 + 7 = 12 , 12 * 3 = 36 : ( 5 + 7 ) * 3`
    ExpressionOfSteps,
    /// ` use 3 5 7 : 5 + 7 = 12 , 12 * 3 = 36 : ( 5 + 7 ) * 3`
    Use,
    /// ` use 3 5 7 : 5 + 7 = 12 , 12 * 3 = 36 ; 3 + 7 = 10 , 10 - 5 = 5`
    Drill,
}

/// How often each kind is drawn.
const KINDS: [(Kind, u32); 8] = [
    (Kind::Fact, 26),
    (Kind::Comparison, 5),
    (Kind::Comparisons, 5),
    (Kind::Echo, 4),
    (Kind::StepsOfExpression, 6),
    (Kind::ExpressionOfSteps, 12),
    (Kind::Use, 12),
    (Kind::Drill, 30),
];

/// The share of texts that mix kinds.
const MIXED: f64 = 0.5;

/// How many a drill calculates, and how many it compares.
const DRILL: RangeInclusive<usize> = 2..=20;
const COMPARISONS: RangeInclusive<usize> = 3..=30;

/// Makes texts, in any order and from any number of threads.
#[derive(Debug, Clone)]
pub struct Arithmetic {
    spec: ArithmeticSpec,
}

impl Arithmetic {
    /// # Errors
    /// A [`Failure`] if the numbers make no expression within the highest value.
    pub fn new(spec: ArithmeticSpec) -> Result<Self, Failure> {
        let arithmetic = Self { spec };
        let mut rng = ChaCha8Rng::seed_from_u64(mix(arithmetic.spec.seed));
        for &size in &arithmetic.spec.sizes {
            let smallest = vec![*arithmetic.spec.numbers.start(); size];
            if arithmetic.derivation(Some(&smallest), &mut rng).is_none() {
                let message = format!(
                    "{size} numbers of {} to {} make no value from 1 to {}",
                    arithmetic.spec.numbers.start(),
                    arithmetic.spec.numbers.end(),
                    arithmetic.spec.highest
                );
                return Err(Failure::new(Exit::Usage, message).hint("raise `highest`, or lower `numbers`"));
            }
        }
        Ok(arithmetic)
    }

    /// The text of an index.
    pub fn text(&self, index: u64) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(mix(self.spec.seed) ^ index));
        let (low, high) = (*self.spec.lengths.start(), *self.spec.lengths.end());
        let wanted = rng.random_range(low..=high);
        let is_mixed = rng.random_bool(MIXED);
        let mut kind = self.kind(&mut rng);
        let mut text = String::with_capacity(4 * wanted);
        let mut words = 0;
        while words < wanted {
            if is_mixed {
                kind = self.kind(&mut rng);
            }
            if !text.is_empty() {
                text.push_str(" ;");
                words += 1;
            }
            let start = text.len();
            self.write(&mut text, kind, &mut rng);
            words += text[start..].bytes().filter(|&byte| byte == b' ').count();
        }
        // A query begins without a blank, and so does a text with its first word.
        match text.strip_prefix(" use") {
            Some(rest) => format!("use{rest}"),
            None => text,
        }
    }

    fn kind(&self, rng: &mut ChaCha8Rng) -> Kind {
        KINDS.choose_weighted(rng, |(_, weight)| *weight).map_or(Kind::Fact, |(kind, _)| *kind)
    }

    fn write(&self, text: &mut String, kind: Kind, rng: &mut ChaCha8Rng) {
        let highest = self.spec.highest;
        match kind {
            Kind::Fact => self.write_fact(text, rng),
            Kind::Comparison => {
                let right = rng.random_range(1..=highest);
                self.write_comparison(text, right, rng);
            }
            Kind::Comparisons => {
                let right = rng.random_range(1..=highest);
                // Writing to a String cannot fail, here and below.
                let _ = write!(text, " make {right} :");
                for index in 0..rng.random_range(COMPARISONS) {
                    text.push_str(if index == 0 { "" } else { " ;" });
                    self.write_comparison(text, right, rng);
                }
            }
            Kind::Echo => {
                let numbers = self.numbers(self.size(rng), rng);
                let target = rng.random_range(1..=highest);
                let numbers = joined(&numbers);
                let _ = write!(text, " use{numbers} make {target} :{numbers} , {target}");
            }
            Kind::Drill => {
                let Some(first) = self.derivation(None, rng) else { return };
                let _ = write!(text, " use{} :", joined(first.numbers()));
                write_steps(text, &first);
                for _ in 1..rng.random_range(DRILL) {
                    let Some(next) = self.derivation(Some(first.numbers()), rng) else { return };
                    text.push_str(" ;");
                    write_steps(text, &next);
                }
            }
            Kind::StepsOfExpression | Kind::ExpressionOfSteps | Kind::Use => {
                let Some(derivation) = self.derivation(None, rng) else { return };
                let expression = derivation.expression(Notation::Words);
                if kind == Kind::StepsOfExpression {
                    let _ = write!(text, " {expression} :");
                }
                if kind == Kind::Use {
                    let _ = write!(text, " use{} :", joined(derivation.numbers()));
                }
                write_steps(text, &derivation);
                if kind != Kind::StepsOfExpression {
                    let _ = write!(text, " : {expression}");
                }
            }
        }
    }

    fn write_fact(&self, text: &mut String, rng: &mut ChaCha8Rng) {
        let operators: Vec<Operator> = self.spec.operators.iter().collect();
        let highest = i64::from(self.spec.highest);
        // Each step with a number of the puzzle joins it with whatever was made before.
        loop {
            let Some(&operator) = operators.choose(rng) else { return };
            let number = i64::from(rng.random_range(self.spec.numbers.clone()));
            let (left, right) = match operator {
                Operator::Add | Operator::Subtract => (rng.random_range(1..=highest), number),
                Operator::Multiply | Operator::Divide => {
                    let other = rng.random_range(1..=(highest / number).max(1));
                    if operator == Operator::Divide { (number * other, number) } else { (other, number) }
                }
            };
            let (left, right) = if rng.random_bool(0.3) { (right, left) } else { (left, right) };
            let result = operator.apply(left, right).filter(|result| (1..=highest).contains(result));
            if let Some(result) = result {
                let _ = write!(text, " {left} {} {right} = {result}", operator.ascii());
                return;
            }
        }
    }

    /// How a value compares with another, which is as often near or equal as far.
    fn write_comparison(&self, text: &mut String, right: u32, rng: &mut ChaCha8Rng) {
        let highest = self.spec.highest;
        let near = rng.random_range(1..=8);
        let left = match rng.random_range(0..20) {
            0..5 => right,
            5..8 => (right + near).min(highest),
            8..12 => right.saturating_sub(near).max(1),
            _ => rng.random_range(1..=highest),
        };
        let word = match left.cmp(&right) {
            std::cmp::Ordering::Less => "less",
            std::cmp::Ordering::Equal => "same",
            std::cmp::Ordering::Greater => "more",
        };
        let _ = write!(text, " {left} {right} {word}");
    }

    fn size(&self, rng: &mut ChaCha8Rng) -> usize {
        self.spec.sizes.choose(rng).copied().unwrap_or(2)
    }

    fn numbers(&self, size: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
        (0..size).map(|_| rng.random_range(self.spec.numbers.clone())).collect()
    }

    /// These numbers or drawn ones, joined at random, no value beyond the highest.
    fn derivation(&self, given: Option<&[u32]>, rng: &mut ChaCha8Rng) -> Option<Derivation> {
        const DRAWS: u32 = 10_000;
        (0..DRAWS).find_map(|_| {
            let numbers = given.map_or_else(|| self.numbers(self.size(rng), rng), <[u32]>::to_vec);
            let mut derivation = Derivation::new(&numbers);
            let operators: Vec<Operator> = self.spec.operators.iter().collect();
            while !derivation.is_complete() {
                let mut free: Vec<u8> = derivation.free_items(derivation.steps().len()).collect();
                let left = free.swap_remove(rng.random_range(0..free.len()));
                let right = free[rng.random_range(0..free.len())];
                let operator = *operators.choose(rng)?;
                derivation.push(Step { left, operator, right });
                let value = derivation.value()?;
                if !(1..=i64::from(self.spec.highest)).contains(&value) {
                    return None;
                }
            }
            Some(derivation)
        })
    }
}

fn joined(numbers: &[u32]) -> String {
    numbers.iter().fold(String::new(), |mut text, number| {
        let _ = write!(text, " {number}");
        text
    })
}

fn write_steps(text: &mut String, derivation: &Derivation) {
    let Some(values) = derivation.values() else { return };
    for (index, step) in derivation.steps().iter().enumerate() {
        let (left, right) = (values[usize::from(step.left)], values[usize::from(step.right)]);
        let comma = if index == 0 { "" } else { " ," };
        let result = values[derivation.result_item(index)];
        let _ = write!(text, "{comma} {left} {} {right} = {result}", step.operator.ascii());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countdown::expr::{Expr, Value};
    use crate::countdown::ratio::Ratio;

    fn spec() -> ArithmeticSpec {
        ArithmeticSpec {
            sizes: vec![3],
            numbers: 1..=15,
            highest: 75,
            operators: Operators::new(&[Operator::Add, Operator::Subtract, Operator::Multiply]),
            lengths: 40..=200,
            seed: 1,
        }
    }

    fn value_of(expression: &str) -> Ratio {
        let value = Expr::parse(expression).unwrap().value;
        let exact = if let Value::Exact(value) = value { Some(value) } else { None };
        exact.unwrap()
    }

    /// What an item claims, checked from its words alone.
    fn check_item(item: &str) {
        let parts: Vec<&str> = item.split(" : ").collect();
        let steps = |text: &str| {
            text.split(" , ").fold(String::new(), |_, step| {
                let (left, right) = step.split_once(" = ").unwrap();
                assert_eq!(value_of(left), value_of(right), "{item}");
                right.trim().to_owned()
            })
        };
        let words: Vec<&str> = item.split_whitespace().collect();
        let numbers = |text: &str| {
            let mut all: Vec<u32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            all.sort_unstable();
            all
        };
        match (parts.as_slice(), words.as_slice()) {
            (_, [left, right, word @ ("less" | "same" | "more")]) => {
                let [left, right] = [left, right].map(|number| number.parse::<u32>().unwrap());
                let expect = if left < right {
                    "less"
                } else if left == right {
                    "same"
                } else {
                    "more"
                };
                assert_eq!(*word, expect, "{item}");
            }
            ([head, comparison], _) if head.starts_with(" make") => check_item(&format!(" {comparison}")),
            ([list, echo], _) if list.contains("make") => assert_eq!(numbers(list), numbers(echo), "{item}"),
            ([list, first], _) if list.contains("use") => drop((numbers(list), steps(first))),
            ([list, done, expression], _) => {
                assert_eq!(numbers(list), numbers(expression), "{item}");
                assert_eq!(value_of(expression), value_of(&steps(done)), "{item}");
            }
            ([one, other], _) if one.contains('=') => assert_eq!(value_of(&steps(one)), value_of(other), "{item}"),
            ([one, other], _) => assert_eq!(value_of(one), value_of(&steps(other)), "{item}"),
            ([fact], _) => drop(steps(fact)),
            _ => assert_eq!(item, "", "no known item"),
        }
    }

    #[test]
    fn every_claim_is_true() {
        let arithmetic = Arithmetic::new(spec()).unwrap();
        for index in 0..300 {
            let text = arithmetic.text(index);
            text.split(" ;").for_each(check_item);
            let longest = text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()).max();
            assert!(longest.is_none_or(|number| number <= 75), "{text}");
        }
    }

    #[test]
    fn texts_depend_on_seed_and_index_alone_and_differ() {
        let one = Arithmetic::new(spec()).unwrap();
        let other = Arithmetic::new(ArithmeticSpec { seed: 2, ..spec() }).unwrap();
        assert_eq!(one.text(7), one.clone().text(7));
        assert!(one.text(7) != one.text(8) && one.text(7) != other.text(7));
    }

    #[test]
    fn numbers_that_are_too_large_are_refused() {
        let error = Arithmetic::new(ArithmeticSpec { numbers: 60..=70, highest: 50, ..spec() }).unwrap_err();
        assert_eq!(error.to_string(), "3 numbers of 60 to 70 make no value from 1 to 50");
    }
}
