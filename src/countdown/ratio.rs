//! Exact rational numbers. Overflow is a `None`, never a wrap and never a panic.

use std::cmp::Ordering;
use std::fmt;

/// A reduced fraction with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ratio {
    numerator: i64,
    denominator: i64,
}

impl Ratio {
    pub const ZERO: Ratio = Ratio::whole(0);
    pub const ONE: Ratio = Ratio::whole(1);

    pub const fn whole(value: i64) -> Self {
        Self { numerator: value, denominator: 1 }
    }

    /// `numerator / denominator` in lowest terms, or `None` if the denominator is zero or a part does not fit.
    pub fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let divisor = greatest_common_divisor(numerator.unsigned_abs(), denominator.unsigned_abs());
        let sign = denominator.signum();
        let divisor = i128::try_from(divisor).ok()? * sign;
        Some(Self {
            numerator: i64::try_from(numerator / divisor).ok()?,
            denominator: i64::try_from(denominator / divisor).ok()?,
        })
    }

    /// The value as an integer, if it is one.
    pub fn as_whole(self) -> Option<i64> {
        (self.denominator == 1).then_some(self.numerator)
    }

    pub fn as_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        if self.denominator == 1 && other.denominator == 1 {
            return self.numerator.checked_add(other.numerator).map(Self::whole);
        }
        let (a, b, c, d) = self.parts(other);
        Self::new((a * d).checked_add(c * b)?, b * d)
    }

    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(other.checked_neg()?)
    }

    pub fn checked_mul(self, other: Self) -> Option<Self> {
        if self.denominator == 1 && other.denominator == 1 {
            return self.numerator.checked_mul(other.numerator).map(Self::whole);
        }
        let (a, b, c, d) = self.parts(other);
        Self::new(a * c, b * d)
    }

    /// `None` for a zero divisor as well as for overflow; ask [`Ratio::ZERO`] first to tell them apart.
    pub fn checked_div(self, other: Self) -> Option<Self> {
        let (a, b, c, d) = self.parts(other);
        Self::new(a * d, b * c)
    }

    pub fn checked_neg(self) -> Option<Self> {
        Some(Self { numerator: self.numerator.checked_neg()?, denominator: self.denominator })
    }

    fn parts(self, other: Self) -> (i128, i128, i128, i128) {
        (self.numerator.into(), self.denominator.into(), other.numerator.into(), other.denominator.into())
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ratio {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b, c, d) = self.parts(*other);
        (a * d).cmp(&(c * b))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denominator {
            1 => write!(f, "{}", self.numerator),
            denominator => write!(f, "{}/{denominator}", self.numerator),
        }
    }
}

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_exact_and_reduced() {
        let third = Ratio::new(1, 3).unwrap();
        let sixth = Ratio::new(-2, -12).unwrap();
        assert_eq!(third.checked_add(sixth), Ratio::new(1, 2));
        assert_eq!(third.checked_sub(third), Some(Ratio::ZERO));
        assert_eq!(third.checked_mul(Ratio::whole(3)), Some(Ratio::ONE));
        assert_eq!(
            Ratio::whole(8).checked_div(Ratio::whole(3).checked_sub(Ratio::new(8, 3).unwrap()).unwrap()),
            Some(Ratio::whole(24))
        );
        assert!(third > sixth && Ratio::whole(-1) < Ratio::ZERO);
        assert_eq!(Ratio::new(-6, 4).unwrap().to_string(), "-3/2");
    }

    #[test]
    fn overflow_and_division_by_zero_are_none() {
        let huge = Ratio::whole(i64::MAX);
        assert_eq!(huge.checked_add(Ratio::ONE), None);
        assert_eq!(huge.checked_mul(huge), None);
        assert_eq!(Ratio::whole(i64::MIN).checked_neg(), None);
        assert_eq!(huge.checked_div(Ratio::ZERO), None);
        assert_eq!(Ratio::new(1, i64::MAX as i128).unwrap().checked_div(huge), None);
    }
}
