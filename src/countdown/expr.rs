//! Arithmetic expressions as an answer may state them: parsed by a real grammar, evaluated exactly.
//!
//! ```text
//! sum     = product (('+' | '-') product)*
//! product = factor (('*' | '/') factor)*
//! factor  = ('+' | '-')* (digits | '(' sum ')')
//! ```
//!
//! `×`, `÷` and `−` stand for `*`, `/` and `-`. Everything else is refused: `**`, `//`, decimals, identifiers, `=`,
//! implicit multiplication, numbers with leading zeros. Length and depth are bounded, so the cost is bounded whatever the text.

use super::ratio::Ratio;

/// The longest expression that is read, in bytes. The longest honest one (six numbers, every pair in parentheses, spaces) has under 100.
pub const MAX_BYTES: usize = 512;
/// How deep parentheses and signs may nest.
pub const MAX_DEPTH: usize = 32;

/// Why a text has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExprFault {
    #[error("more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("not an expression at byte {0}")]
    Syntax(usize),
    #[error("a number at byte {0} is too large")]
    Number(usize),
}

/// What an expression evaluates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Exact(Ratio),
    DivisionByZero,
    /// A part of the exact value does not fit 64 bits.
    Overflow,
}

/// A parsed expression: its value and the numbers it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expr {
    pub value: Value,
    /// The numbers in the order of the text.
    pub numbers: Vec<u32>,
}

impl Expr {
    pub fn parse(text: &str) -> Result<Self, ExprFault> {
        if MAX_BYTES < text.len() {
            return Err(ExprFault::TooLong);
        }
        let mut parser = Parser { text: text.as_bytes(), at: 0, numbers: Vec::with_capacity(8) };
        let value = parser.sum(0)?;
        match parser.peek() {
            Symbol::End => Ok(Self { value, numbers: parser.numbers }),
            _ => Err(ExprFault::Syntax(parser.at)),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Symbol {
    Plus,
    Minus,
    Times,
    Over,
    Open,
    Close,
    Digit,
    End,
    Other,
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    numbers: Vec<u32>,
}

impl Parser<'_> {
    fn sum(&mut self, depth: usize) -> Result<Value, ExprFault> {
        let mut value = self.product(depth)?;
        loop {
            let operation = match self.peek() {
                Symbol::Plus => Ratio::checked_add,
                Symbol::Minus => Ratio::checked_sub,
                _ => return Ok(value),
            };
            self.advance();
            value = combine(value, self.product(depth)?, operation);
        }
    }

    fn product(&mut self, depth: usize) -> Result<Value, ExprFault> {
        let mut value = self.factor(depth)?;
        loop {
            let symbol = self.peek();
            if symbol != Symbol::Times && symbol != Symbol::Over {
                return Ok(value);
            }
            self.advance();
            let factor = self.factor(depth)?;
            value = match symbol {
                Symbol::Times => combine(value, factor, Ratio::checked_mul),
                _ if factor == Value::Exact(Ratio::ZERO) => Value::DivisionByZero,
                _ => combine(value, factor, Ratio::checked_div),
            };
        }
    }

    fn factor(&mut self, depth: usize) -> Result<Value, ExprFault> {
        if depth == MAX_DEPTH {
            return Err(ExprFault::TooDeep);
        }
        match self.peek() {
            Symbol::Plus => {
                self.advance();
                self.factor(depth + 1)
            }
            Symbol::Minus => {
                self.advance();
                Ok(match self.factor(depth + 1)? {
                    Value::Exact(ratio) => ratio.checked_neg().map_or(Value::Overflow, Value::Exact),
                    other => other,
                })
            }
            Symbol::Open => {
                self.advance();
                let value = self.sum(depth + 1)?;
                if self.peek() != Symbol::Close {
                    return Err(ExprFault::Syntax(self.at));
                }
                self.advance();
                Ok(value)
            }
            Symbol::Digit => self.number(),
            _ => Err(ExprFault::Syntax(self.at)),
        }
    }

    fn number(&mut self) -> Result<Value, ExprFault> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        if digits.len() > 1 && digits[0] == b'0' {
            return Err(ExprFault::Syntax(start));
        }
        let push = |number: u32, digit: &u8| number.checked_mul(10)?.checked_add(u32::from(digit - b'0'));
        let number = digits.iter().try_fold(0, push).ok_or(ExprFault::Number(start))?;
        self.numbers.push(number);
        Ok(Value::Exact(Ratio::whole(number.into())))
    }

    /// The next symbol, after blanks. Leaves `at` on it.
    fn peek(&mut self) -> Symbol {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        match &self.text[self.at..] {
            [] => Symbol::End,
            [b'+', ..] => Symbol::Plus,
            [b'-', ..] | [0xe2, 0x88, 0x92, ..] => Symbol::Minus,
            [b'*', ..] | [0xc3, 0x97, ..] => Symbol::Times,
            [b'/', ..] | [0xc3, 0xb7, ..] => Symbol::Over,
            [b'(', ..] => Symbol::Open,
            [b')', ..] => Symbol::Close,
            [b'0'..=b'9', ..] => Symbol::Digit,
            _ => Symbol::Other,
        }
    }

    /// Steps over the symbol at `at`, of one, two or three bytes.
    fn advance(&mut self) {
        self.at += match self.text[self.at] {
            0xe2 => 3,
            0xc3 => 2,
            _ => 1,
        };
    }
}

fn combine(left: Value, right: Value, operation: fn(Ratio, Ratio) -> Option<Ratio>) -> Value {
    match (left, right) {
        (Value::Exact(left), Value::Exact(right)) => operation(left, right).map_or(Value::Overflow, Value::Exact),
        (Value::Exact(_), fault) | (fault, _) => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: &str) {
        let found = match Expr::parse(text) {
            Err(fault) => fault.to_string(),
            Ok(Expr { value: Value::Exact(ratio), numbers }) => format!("{ratio} {numbers:?}"),
            Ok(Expr { value, .. }) => format!("{value:?}"),
        };
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn values() {
        check("(1 + 2) / 3", "1 [1, 2, 3]");
        check("8 / (3 - 8 / 3)", "24 [8, 3, 8, 3]");
        check("2 - 3 - 4", "-5 [2, 3, 4]");
        check("-5 + 29", "24 [5, 29]");
        check("3 - -4", "7 [3, 4]");
        check("(90 − 23) − (46 ÷ 46)", "66 [90, 23, 46, 46]");
        check("2×3\n", "6 [2, 3]");
        check("7 / 2", "7/2 [7, 2]");
        check("1 / (2 - 2) + 4", "DivisionByZero");
        check("4294967295 * 4294967295 * 4294967295", "Overflow");
        check("4294967295 * 4294967295 * 4294967295 / 0", "DivisionByZero");
    }

    #[test]
    fn refusals() {
        check("", "not an expression at byte 0");
        check("2 ** 3", "not an expression at byte 3");
        check("7 // 2", "not an expression at byte 3");
        check("1.5 * 2", "not an expression at byte 1");
        check("(1 + 2) * 4 = 12", "not an expression at byte 12");
        check("2 (3)", "not an expression at byte 2");
        check("007", "not an expression at byte 0");
        check("a + 1", "not an expression at byte 0");
        check("(1 + 2", "not an expression at byte 6");
        check("9999999999", "a number at byte 0 is too large");
        check(&"(".repeat(100), "nested deeper than 32");
        check(&"-".repeat(100), "nested deeper than 32");
        check(&"1+".repeat(300), "more than 512 bytes");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-+*/() 0-9×÷−.=a]{0,600}") {
            let _ = Expr::parse(&text);
        }

        #[test]
        fn any_text_is_safe(text in any::<String>()) {
            let _ = Expr::parse(&text);
        }
    }
}
