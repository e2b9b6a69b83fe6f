//! When two derivations are the same solution.

use super::{Derivation, MAX_ITEMS, Operator};
use crate::countdown::puzzle::mix;

impl Derivation {
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
