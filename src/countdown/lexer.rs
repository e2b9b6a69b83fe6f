//! Free text about arithmetic, as symbols: numbers, operators, words, marks. Reads plain text, Markdown and the LaTeX that
//! models mix into it; whatever it does not know is skipped. One pass, no allocation, constant work per byte.

use super::derivation::Operator;
use super::ratio::Ratio;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Symbol<'a> {
    /// A number, and whether it was written with decimals (and so may be rounded).
    Number(Ratio, bool),
    Operator(Operator),
    Open,
    Close,
    /// `=`, or `≈` where `true`.
    Equals(bool),
    Word(&'a str),
    Mark(Mark),
    /// A sentence ends, or a clause: `.` `!` `?` `;` or a dash.
    Stop,
    Comma,
    Colon,
    Newline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// ✅ and its like.
    Good,
    /// ❌ and its like.
    Bad,
    /// ≠
    Unequal,
    /// → and its like.
    Arrow,
}

/// What an open `{` of LaTeX is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Brace {
    Plain,
    Numerator,
    Denominator,
}

/// Braces deeper than this are read as plain.
const MAX_BRACES: usize = 8;

#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    is_line_start: bool,
    braces: [Brace; MAX_BRACES],
    n_braces: usize,
    /// What the next `{` opens, after `\frac` and between its two parts.
    expects: Brace,
    /// Set between the two parts of a fraction: the operator comes before anything else.
    owes_division: bool,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            is_line_start: true,
            braces: [Brace::Plain; MAX_BRACES],
            n_braces: 0,
            expects: Brace::Plain,
            owes_division: false,
        }
    }

    /// The next symbol, or `None` at the end.
    pub fn next_symbol(&mut self) -> Option<Symbol<'a>> {
        if self.owes_division {
            self.owes_division = false;
            return Some(Symbol::Operator(Operator::Divide));
        }
        loop {
            let bytes = self.text.as_bytes();
            let &byte = bytes.get(self.at)?;
            let next = bytes.get(self.at + 1).copied().unwrap_or(b'\n');
            if self.is_line_start && self.skips_bullet(byte, next) {
                continue;
            }
            if !matches!(byte, b' ' | b'\t') {
                self.is_line_start = false;
            }
            let (width, symbol) = match byte {
                b'\n' => {
                    self.is_line_start = true;
                    (1, Some(Symbol::Newline))
                }
                b'0'..=b'9' => return Some(self.number()),
                b'a'..=b'z' | b'A'..=b'Z' => return Some(self.word()),
                b'+' => (1, Some(Symbol::Operator(Operator::Add))),
                b'-' if next == b'>' => (2, Some(Symbol::Mark(Mark::Arrow))),
                // A rule or a dash of plain text.
                b'-' if next == b'-' => (self.run_of(b'-'), Some(Symbol::Stop)),
                b'-' => (1, Some(Symbol::Operator(Operator::Subtract))),
                // Markdown's bold.
                b'*' if next == b'*' => (2, None),
                b'*' => (1, Some(Symbol::Operator(Operator::Multiply))),
                b'/' => (1, Some(Symbol::Operator(Operator::Divide))),
                b'(' => (1, Some(Symbol::Open)),
                b')' => (1, Some(Symbol::Close)),
                b'=' if next == b'>' => (2, Some(Symbol::Mark(Mark::Arrow))),
                b'=' => (1, Some(Symbol::Equals(false))),
                b'!' if next == b'=' => (2, Some(Symbol::Mark(Mark::Unequal))),
                b'.' | b'!' | b'?' | b';' => (1, Some(Symbol::Stop)),
                b',' => (1, Some(Symbol::Comma)),
                b':' => (1, Some(Symbol::Colon)),
                b'{' => (1, self.opens_brace()),
                b'}' => (1, self.closes_brace()),
                b'\\' => self.command(),
                0x80.. => self.beyond_ascii(),
                _ => (1, None),
            };
            self.at += width;
            if symbol.is_some() {
                return symbol;
            }
        }
    }

    /// Steps over a list's bullet or number at the start of a line, where it is no operator and no operand.
    fn skips_bullet(&mut self, byte: u8, next: u8) -> bool {
        let bytes = self.text.as_bytes();
        let is_bullet = matches!(byte, b'-' | b'+' | b'*') && next == b' ';
        let n_digits = bytes[self.at..].iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        let after = |offset: usize| bytes.get(self.at + n_digits + offset).copied();
        let is_number = 0 < n_digits && matches!(after(0), Some(b'.' | b')')) && after(1) == Some(b' ');
        if is_bullet {
            self.at += 2;
        } else if is_number {
            self.at += n_digits + 2;
        } else {
            return false;
        }
        self.is_line_start = false;
        true
    }

    fn run_of(&self, byte: u8) -> usize {
        self.text.as_bytes()[self.at..].iter().take_while(|&&other| other == byte).count()
    }

    fn number(&mut self) -> Symbol<'a> {
        let bytes = self.text.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let start = self.at;
        let n_whole = digits(start);
        let mut end = start + n_whole;
        let has_point = bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
        let n_fraction = if has_point { digits(end + 1) } else { 0 };
        if has_point {
            end += 1 + n_fraction;
        }
        // `2nd` and `4x` are words, and so is a number of absurd length.
        let is_glued = bytes.get(end).is_some_and(u8::is_ascii_alphabetic);
        if is_glued || 15 < n_whole + n_fraction {
            return self.word();
        }
        self.at = end;
        if !has_point {
            let value = bytes[start..end].iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
            return Symbol::Number(Ratio::whole(value), false);
        }
        let parts = bytes[start..end].iter().filter(|byte| byte.is_ascii_digit());
        let numerator = parts.fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        let denominator = 10i128.pow(n_fraction as u32);
        // Fifteen digits over at most 10^15 always fit.
        Symbol::Number(Ratio::new(numerator, denominator).unwrap_or(Ratio::ZERO), true)
    }

    /// A run of letters, digits and apostrophes.
    fn word(&mut self) -> Symbol<'a> {
        let rest = &self.text[self.at..];
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'\'';
        let mut end = rest.bytes().take_while(is_plain).count();
        if rest.as_bytes().get(end).is_some_and(|byte| !byte.is_ascii()) {
            let is_part = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '’');
            end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        }
        self.at += end.max(1);
        Symbol::Word(&rest[..end])
    }

    fn opens_brace(&mut self) -> Option<Symbol<'a>> {
        let brace = std::mem::replace(&mut self.expects, Brace::Plain);
        if self.n_braces == MAX_BRACES {
            return None;
        }
        self.braces[self.n_braces] = brace;
        self.n_braces += 1;
        (brace != Brace::Plain).then_some(Symbol::Open)
    }

    fn closes_brace(&mut self) -> Option<Symbol<'a>> {
        self.n_braces = self.n_braces.checked_sub(1)?;
        let brace = self.braces[self.n_braces];
        if brace == Brace::Numerator {
            self.expects = Brace::Denominator;
            self.owes_division = true;
        }
        (brace != Brace::Plain).then_some(Symbol::Close)
    }

    /// A LaTeX command or an escaped symbol.
    fn command(&mut self) -> (usize, Option<Symbol<'a>>) {
        let rest = &self.text[self.at + 1..];
        let n_letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        if n_letters == 0 {
            // `\(`, `\,`, `\\`: the escaped character belongs to the command unless it is a whole code point of its own.
            return (1 + usize::from(rest.bytes().next().is_some_and(|byte| byte.is_ascii_punctuation())), None);
        }
        let symbol = match &rest[..n_letters] {
            "times" | "cdot" | "ast" => Some(Symbol::Operator(Operator::Multiply)),
            "div" => Some(Symbol::Operator(Operator::Divide)),
            "approx" | "simeq" => Some(Symbol::Equals(true)),
            "neq" | "ne" => Some(Symbol::Mark(Mark::Unequal)),
            "checkmark" => Some(Symbol::Mark(Mark::Good)),
            "rightarrow" | "to" | "Rightarrow" | "implies" => Some(Symbol::Mark(Mark::Arrow)),
            "frac" | "dfrac" | "tfrac" => {
                self.expects = Brace::Numerator;
                None
            }
            _ => None,
        };
        (1 + n_letters, symbol)
    }

    fn beyond_ascii(&mut self) -> (usize, Option<Symbol<'a>>) {
        let Some(c) = self.text[self.at..].chars().next() else { return (1, None) };
        let symbol = match c {
            '−' | '–' => Some(Symbol::Operator(Operator::Subtract)),
            '×' | '·' | '⋅' | '∗' => Some(Symbol::Operator(Operator::Multiply)),
            '÷' => Some(Symbol::Operator(Operator::Divide)),
            '≈' => Some(Symbol::Equals(true)),
            '≠' => Some(Symbol::Mark(Mark::Unequal)),
            '→' | '⇒' | '⟶' | '➜' => Some(Symbol::Mark(Mark::Arrow)),
            '✅' | '✓' | '✔' | '☑' => Some(Symbol::Mark(Mark::Good)),
            '❌' | '✗' | '✘' | '✖' => Some(Symbol::Mark(Mark::Bad)),
            '—' | '…' => Some(Symbol::Stop),
            c if c.is_alphabetic() => {
                let start = self.at;
                let word = self.word();
                let width = self.at - start;
                self.at = start;
                return (width, Some(word));
            }
            _ => None,
        };
        (c.len_utf8(), symbol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: &str) {
        let mut lexer = Lexer::new(text);
        let mut found = Vec::new();
        while let Some(symbol) = lexer.next_symbol() {
            found.push(match symbol {
                Symbol::Number(value, _) => value.to_string(),
                Symbol::Operator(operator) => operator.ascii().to_owned(),
                Symbol::Open => "(".to_owned(),
                Symbol::Close => ")".to_owned(),
                Symbol::Equals(is_rounded) => if is_rounded { "≈" } else { "=" }.to_owned(),
                Symbol::Word(word) => word.to_owned(),
                Symbol::Mark(mark) => format!("{mark:?}"),
                Symbol::Stop => ".".to_owned(),
                Symbol::Comma => ",".to_owned(),
                Symbol::Colon => ":".to_owned(),
                Symbol::Newline => "¶".to_owned(),
            });
        }
        assert_eq!(found.join(" "), expect, "{text:?}");
    }

    #[test]
    fn symbols() {
        check("3*4=12, then 12 − 5 = 7.", "3 * 4 = 12 , then 12 - 5 = 7 .");
        check("**70 ÷ 7** ≈ 10.50 ✅", "70 / 7 ≈ 21/2 Good");
        check("- $70 \\div 7 = 10$\n2. x", "70 / 7 = 10 ¶ x");
        check("67 - \\frac{65 - 61}{1}", "67 - ( 65 - 61 ) / ( 1 )");
        check("\\text{Not } 33 \\quad \\neq \\(a\\)", "Not 33 Unequal a");
        check("that's 2nd → 13.666... !=", "that's 2nd Arrow 6833/500 . . . Unequal");
        check("---\na -> b => c", ". ¶ a Arrow b Arrow c");
        check("1234567890123456 naïve", "1234567890123456 naïve");
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            let mut lexer = Lexer::new(&text);
            let mut n_symbols = 0;
            while lexer.next_symbol().is_some() {
                n_symbols += 1;
            }
            prop_assert!(n_symbols <= 2 * text.len());
        }
    }
}
