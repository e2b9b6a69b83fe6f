//! The part of Python's `eval` that `[\d+\-*/().\s]+` can reach: integers of any size, floats, complex powers, and the
//! operators `+ - * / // **`. `None` stands for every exception.

use num_bigint::BigInt;
use std::cmp::Ordering;

/// The largest integer that is computed. Python computes on, and hangs.
pub const MAX_BITS: u64 = 1 << 16;
/// How deep parentheses and signs may nest.
pub const MAX_DEPTH: usize = 100;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Number {
    Int(BigInt),
    Float(f64),
    Complex(f64, f64),
}

use Number::{Complex, Float, Int};

pub(super) fn evaluate(text: &str) -> Option<Number> {
    let mut parser = Parser { text: text.as_bytes(), at: 0, open: 0 };
    let value = parser.sum(0)?;
    parser.blanks();
    (parser.at == parser.text.len()).then_some(value)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    /// How many parentheses are open: inside them a line may end.
    open: usize,
}

impl Parser<'_> {
    fn sum(&mut self, depth: usize) -> Option<Number> {
        let mut value = self.product(depth)?;
        loop {
            if self.takes(b"+") {
                value = add(value, self.product(depth)?)?;
            } else if self.takes(b"-") {
                value = add(value, negate(self.product(depth)?))?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self, depth: usize) -> Option<Number> {
        let mut value = self.sign(depth)?;
        loop {
            if self.takes(b"//") {
                value = floor_divide(value, self.sign(depth)?)?;
            } else if self.takes(b"/") {
                value = divide(value, self.sign(depth)?)?;
            } else if self.takes(b"*") {
                value = multiply(value, self.sign(depth)?)?;
            } else {
                return Some(value);
            }
        }
    }

    /// Signs bind weaker than a power on their right: `-2**2` is -4.
    fn sign(&mut self, depth: usize) -> Option<Number> {
        if depth == MAX_DEPTH {
            return None;
        }
        if self.takes(b"-") {
            self.sign(depth + 1).map(negate)
        } else if self.takes(b"+") {
            self.sign(depth + 1)
        } else {
            let base = self.atom(depth)?;
            // The exponent may carry a sign and is itself a power: `2**-3**2`.
            if self.takes(b"**") { power(base, self.sign(depth + 1)?) } else { Some(base) }
        }
    }

    fn atom(&mut self, depth: usize) -> Option<Number> {
        if !self.takes(b"(") {
            return self.number();
        }
        self.open += 1;
        let value = self.sum(depth + 1)?;
        // Blanks before the closing parenthesis are still inside.
        self.blanks();
        self.open -= 1;
        self.takes(b")").then_some(value)
    }

    fn number(&mut self) -> Option<Number> {
        self.blanks();
        let start = self.at;
        let digits = |parser: &mut Self| {
            let from = parser.at;
            while parser.text.get(parser.at).is_some_and(u8::is_ascii_digit) {
                parser.at += 1;
            }
            parser.at - from
        };
        let whole = digits(self);
        let has_point = self.text.get(self.at) == Some(&b'.');
        let fraction = if has_point {
            self.at += 1;
            digits(self)
        } else {
            0
        };
        let text = std::str::from_utf8(&self.text[start..self.at]).ok()?;
        if has_point {
            (0 < whole + fraction).then(|| text.parse().ok().map(Float))?
        } else {
            // `0` and `00` are zero; `012` is an error.
            let padded = text.starts_with('0') && text.bytes().any(|digit| digit != b'0');
            (!padded && 0 < whole).then(|| text.parse().ok().map(Int))?
        }
    }

    /// Steps over `symbol` if it comes next. `*` is not taken from `**`, nor `/` from `//`.
    fn takes(&mut self, symbol: &[u8]) -> bool {
        self.blanks();
        let rest = &self.text[self.at..];
        let doubled = matches!(symbol, b"*" | b"/") && rest.get(1) == Some(&symbol[0]);
        let found = rest.starts_with(symbol) && !doubled;
        if found {
            self.at += symbol.len();
        }
        found
    }

    fn blanks(&mut self) {
        let is_blank = |byte: &u8| match byte {
            b' ' | b'\t' | 0x0c => true,
            b'\r' | b'\n' => 0 < self.open,
            _ => false,
        };
        while self.text.get(self.at).is_some_and(is_blank) {
            self.at += 1;
        }
    }
}

fn negate(value: Number) -> Number {
    match value {
        Int(int) => Int(-int),
        Float(float) => Float(-float),
        Complex(re, im) => Complex(-re, -im),
    }
}

fn add(left: Number, right: Number) -> Option<Number> {
    Some(match (left, right) {
        (Int(left), Int(right)) => Int(left + right),
        (Complex(a, b), right) => {
            let (c, d) = complex(right)?;
            Complex(a + c, b + d)
        }
        (left, Complex(c, d)) => {
            let (a, b) = complex(left)?;
            Complex(a + c, b + d)
        }
        (left, right) => Float(real(&left)? + real(&right)?),
    })
}

fn multiply(left: Number, right: Number) -> Option<Number> {
    match (left, right) {
        (Int(left), Int(right)) => fits(left.bits() + right.bits()).then(|| Int(left * right)),
        (left @ Complex(..), right) | (left, right @ Complex(..)) => {
            let ((a, b), (c, d)) = (complex(left)?, complex(right)?);
            Some(Complex(a * c - b * d, a * d + b * c))
        }
        (left, right) => Some(Float(real(&left)? * real(&right)?)),
    }
}

fn divide(left: Number, right: Number) -> Option<Number> {
    match (left, right) {
        (Int(left), Int(right)) => true_divide(&left, &right).map(Float),
        (left @ Complex(..), right) | (left, right @ Complex(..)) => {
            let ((a, b), (c, d)) = (complex(left)?, complex(right)?);
            if c == 0.0 && d == 0.0 {
                return None;
            }
            // Smith's method, as CPython divides complex numbers.
            let (re, im) = if d.abs() <= c.abs() {
                let ratio = d / c;
                let scale = c + d * ratio;
                ((a + b * ratio) / scale, (b - a * ratio) / scale)
            } else {
                let ratio = c / d;
                let scale = c * ratio + d;
                ((a * ratio + b) / scale, (b * ratio - a) / scale)
            };
            Some(Complex(re, im))
        }
        (left, right) => {
            let divisor = real(&right)?;
            let dividend = real(&left)?;
            (divisor != 0.0).then(|| Float(dividend / divisor))
        }
    }
}

/// The quotient of two integers, rounded once to the nearest float, ties to even.
fn true_divide(left: &BigInt, right: &BigInt) -> Option<f64> {
    if *right == BigInt::ZERO {
        return None;
    }
    // A quotient of at least 66 bits, whose lowest bit stands for all that follow, rounds like the exact value.
    let shift = i64::try_from(right.bits()).ok()? - i64::try_from(left.bits()).ok()? + 66;
    let (up, down) = (shift.max(0).unsigned_abs(), shift.min(0).unsigned_abs());
    let (dividend, divisor) = (left.magnitude() << up, right.magnitude() << down);
    let mut quotient = &dividend / &divisor;
    if &quotient * &divisor != dividend {
        quotient.set_bit(0, true);
    }
    let sign = if left.sign() == right.sign() { 1.0 } else { -1.0 };
    let float = big_to_float(&BigInt::from(quotient))?;
    // Scaling by a power of two is exact except among subnormal numbers, which no target is near to.
    let scaled =
        float * 2f64.powi(i32::try_from(-shift / 2).ok()?) * 2f64.powi(i32::try_from(-shift - -shift / 2).ok()?);
    scaled.is_finite().then_some(sign * scaled)
}

fn floor_divide(left: Number, right: Number) -> Option<Number> {
    match (left, right) {
        (Int(left), Int(right)) => {
            if right == BigInt::ZERO {
                return None;
            }
            let quotient = &left / &right;
            let is_rounded_up = &quotient * &right != left && (left.sign() != right.sign());
            Some(Int(if is_rounded_up { quotient - 1 } else { quotient }))
        }
        (Complex(..), _) | (_, Complex(..)) => None,
        (left, right) => {
            let (dividend, divisor) = (real(&left)?, real(&right)?);
            if divisor == 0.0 {
                return None;
            }
            let remainder = dividend % divisor;
            let mut quotient = (dividend - remainder) / divisor;
            if remainder != 0.0 && (divisor < 0.0) != (remainder < 0.0) {
                quotient -= 1.0;
            }
            let floor = quotient.floor();
            Some(Float(if 0.5 < quotient - floor { floor + 1.0 } else { floor }))
        }
    }
}

fn power(base: Number, exponent: Number) -> Option<Number> {
    match (base, exponent) {
        (Int(base), Int(exponent)) if BigInt::ZERO <= exponent => {
            // 0, 1 and -1 stay small whatever the exponent.
            if base.bits() <= 1 {
                let is_odd = exponent.bit(0);
                let value = if exponent == BigInt::ZERO || (!is_odd && base != BigInt::ZERO) { 1.into() } else { base };
                return Some(Int(value));
            }
            let exponent = u32::try_from(exponent).ok()?;
            fits(base.bits().checked_mul(exponent.into())?).then(|| Int(base.pow(exponent)))
        }
        (base @ Complex(..), exponent) | (base, exponent @ Complex(..)) => {
            complex_power(complex(base)?, complex(exponent)?)
        }
        (base, exponent) => {
            let (base, exponent) = (real(&base)?, real(&exponent)?);
            if base == 0.0 && exponent < 0.0 {
                return None;
            }
            if base < 0.0 && base.is_finite() && exponent.is_finite() && exponent.fract() != 0.0 {
                return complex_power((base, 0.0), (exponent, 0.0));
            }
            let value = base.powf(exponent);
            let overflows = !value.is_finite() && base.is_finite() && exponent.is_finite();
            (!overflows).then_some(Float(value))
        }
    }
}

fn complex_power((a, b): (f64, f64), (c, d): (f64, f64)) -> Option<Number> {
    if c == 0.0 && d == 0.0 {
        return Some(Complex(1.0, 0.0));
    }
    if a == 0.0 && b == 0.0 {
        return (d == 0.0 && 0.0 <= c).then_some(Complex(0.0, 0.0));
    }
    let (length, angle) = (a.hypot(b), b.atan2(a));
    let mut scale = length.powf(c);
    let mut turn = angle * c;
    if d != 0.0 {
        scale *= (-angle * d).exp();
        turn += d * length.ln();
    }
    let (re, im) = (scale * turn.cos(), scale * turn.sin());
    (re.is_finite() && im.is_finite()).then_some(Complex(re, im))
}

fn complex(value: Number) -> Option<(f64, f64)> {
    match value {
        Complex(re, im) => Some((re, im)),
        other => Some((real(&other)?, 0.0)),
    }
}

/// A real number as a float; an integer too large for one is Python's OverflowError.
fn real(value: &Number) -> Option<f64> {
    match value {
        Int(int) => big_to_float(int),
        Float(float) => Some(*float),
        Complex(..) => None,
    }
}

/// The nearest float, ties to even.
fn big_to_float(int: &BigInt) -> Option<f64> {
    let magnitude = int.magnitude();
    let excess = magnitude.bits().saturating_sub(64);
    let mut top = (magnitude >> excess).iter_u64_digits().next().unwrap_or(0);
    // What is shifted out only matters as "more than a tie", which the lowest of 64 bits can say.
    if 0 < excess && magnitude.trailing_zeros().is_some_and(|zeros| zeros < excess) {
        top |= 1;
    }
    let float = top as f64 * 2f64.powi(i32::try_from(excess).ok().filter(|&excess| excess < 1024)?);
    let sign = if int.cmp(&BigInt::ZERO) == Ordering::Less { -1.0 } else { 1.0 };
    float.is_finite().then_some(sign * float)
}

fn fits(bits: u64) -> bool {
    bits <= MAX_BITS
}
