//! Free text as statements: `(3 + 4) * 5 = 7 * 5 = 35` is one, re-evaluated side by side; what lies between statements comes
//! as single numbers, words and marks. Knows nothing of how a text was made.

use super::derivation::Operator;
use super::lexer::{Lexer, Mark, Symbol};
use super::ratio::Ratio;

/// Deeper parentheses end a statement.
const MAX_DEPTH: usize = 8;
/// A statement is read up to this many symbols; the rest is the next one's.
const MAX_SYMBOLS: usize = 96;

#[derive(Debug, Clone)]
pub enum Item<'a> {
    Statement(Box<Statement>),
    Number(Ratio),
    Word(&'a str),
    Mark(Mark),
    Stop,
    Comma,
    Colon,
    Newline,
}

/// A few values, in place; more than `N` are dropped, and `is_full` says so.
#[derive(Debug, Clone)]
pub struct Values<const N: usize> {
    values: [Ratio; N],
    len: usize,
    pub is_full: bool,
}

impl<const N: usize> Default for Values<N> {
    fn default() -> Self {
        Self { values: [Ratio::ZERO; N], len: 0, is_full: false }
    }
}

impl<const N: usize> Values<N> {
    pub fn push(&mut self, value: Ratio) {
        if self.len < N {
            self.values[self.len] = value;
            self.len += 1;
        } else {
            self.is_full = true;
        }
    }

    pub fn as_slice(&self) -> &[Ratio] {
        &self.values[..self.len]
    }

    pub fn contains(&self, value: Ratio) -> bool {
        self.as_slice().contains(&value)
    }

    /// Removes one occurrence. Order is not kept.
    pub fn take(&mut self, value: Ratio) -> bool {
        let position = self.as_slice().iter().position(|&other| other == value);
        if let Some(position) = position {
            self.len -= 1;
            self.values[position] = self.values[self.len];
        }
        position.is_some()
    }
}

/// An expression with at least one operator, and what the text says it equals.
#[derive(Debug, Clone, Default)]
pub struct Statement {
    /// The numbers of the first side that has an operator.
    pub leaves: Values<12>,
    /// What the statement ends at: its last side, or the expression's own value if it stands alone. `None` if that has no
    /// value, or none that fits.
    pub value: Option<Ratio>,
    /// The expression's own value, whatever the text says.
    pub computed: Option<Ratio>,
    /// Every number and every intermediate value on any side.
    pub seen: Values<40>,
    /// How many neighbouring sides differ, those written with decimals or `≈` left out.
    pub n_false: u32,
    pub has_equals: bool,
    /// `24 = 12 * 2` rather than `12 * 2 = 24`; `value` is the number then.
    pub is_number_first: bool,
}

pub struct Reader<'a> {
    lexer: Lexer<'a>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { lexer: Lexer::new(text) }
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        loop {
            let before = self.lexer.clone();
            let symbol = self.lexer.next_symbol()?;
            return Some(match symbol {
                Symbol::Number(..) | Symbol::Open | Symbol::Operator(Operator::Subtract) => {
                    match Side::parse_statement(&before) {
                        Some((statement, after)) => {
                            self.lexer = after;
                            Item::Statement(Box::new(statement))
                        }
                        None => match symbol {
                            Symbol::Number(value, _) => Item::Number(value),
                            _ => continue,
                        },
                    }
                }
                Symbol::Operator(_) | Symbol::Close | Symbol::Equals(_) => continue,
                Symbol::Word(word) => Item::Word(word),
                Symbol::Mark(mark) => Item::Mark(mark),
                Symbol::Stop => Item::Stop,
                Symbol::Comma => Item::Comma,
                Symbol::Colon => Item::Colon,
                Symbol::Newline => Item::Newline,
            });
        }
    }
}

type Join = fn(Ratio, Ratio) -> Option<Ratio>;

/// One side of a statement while it is read.
#[derive(Default)]
struct Side {
    leaves: Values<12>,
    seen: Values<40>,
    n_operators: usize,
    n_symbols: usize,
    is_rounded: bool,
}

impl Side {
    /// A statement from here, and where it ends.
    fn parse_statement<'a>(start: &Lexer<'a>) -> Option<(Statement, Lexer<'a>)> {
        let mut lexer = start.clone();
        let mut side = Side::default();
        let mut value = side.sum(&mut lexer, 0)?;
        let mut statement = Statement { value, ..Statement::default() };
        let mut has_expression = false;
        loop {
            let is_first = !statement.has_equals;
            if 0 < side.n_operators && !has_expression {
                has_expression = true;
                statement.leaves = side.leaves.clone();
                statement.computed = value;
                statement.is_number_first = !is_first;
            }
            side.seen.as_slice().iter().for_each(|&value| statement.seen.push(value));
            let Some((after, rounds)) = continues(&lexer, is_first && has_expression) else { break };
            let mut next = Side { n_symbols: side.n_symbols, ..Side::default() };
            let mut after = after;
            let Some(next_value) = next.sum(&mut after, 0) else { break };
            if !has_expression && next.n_operators == 0 {
                break;
            }
            lexer = after;
            let is_exact = !rounds && !side.is_rounded && !next.is_rounded;
            statement.n_false += u32::from(is_exact && value != next_value);
            statement.has_equals = true;
            // Once a number stands first, the expression after it only confirms it.
            if !(statement.value == value && !has_expression && 0 < next.n_operators) {
                statement.value = next_value;
            }
            (side, value) = (next, next_value);
        }
        has_expression.then_some((statement, lexer))
    }

    /// The outer `None` means no expression; the inner one, an expression without a value.
    fn sum(&mut self, lexer: &mut Lexer<'_>, depth: usize) -> Option<Option<Ratio>> {
        let mut value = self.product(lexer, depth)?;
        loop {
            let mut after = lexer.clone();
            let apply: Join = match after.next_symbol() {
                Some(Symbol::Operator(Operator::Add)) => Ratio::checked_add,
                Some(Symbol::Operator(Operator::Subtract)) => Ratio::checked_sub,
                _ => return Some(value),
            };
            let Some(right) = self.operand(&mut after, depth, Self::product) else { return Some(value) };
            value = self.join(value, right, apply);
            *lexer = after;
        }
    }

    fn product(&mut self, lexer: &mut Lexer<'_>, depth: usize) -> Option<Option<Ratio>> {
        let mut value = self.factor(lexer, depth)?;
        loop {
            let mut after = lexer.clone();
            let apply: Join = match after.next_symbol() {
                Some(Symbol::Operator(Operator::Multiply) | Symbol::Word("x" | "X")) => Ratio::checked_mul,
                Some(Symbol::Operator(Operator::Divide)) => Ratio::checked_div,
                _ => return Some(value),
            };
            let Some(right) = self.operand(&mut after, depth, Self::factor) else { return Some(value) };
            value = self.join(value, right, apply);
            *lexer = after;
        }
    }

    fn factor(&mut self, lexer: &mut Lexer<'_>, depth: usize) -> Option<Option<Ratio>> {
        if depth == MAX_DEPTH || self.n_symbols == MAX_SYMBOLS {
            return None;
        }
        self.n_symbols += 1;
        match lexer.next_symbol()? {
            Symbol::Number(value, is_rounded) => {
                self.leaves.push(value);
                self.seen.push(value);
                self.is_rounded |= is_rounded;
                Some(Some(value))
            }
            Symbol::Operator(Operator::Subtract) => {
                let Symbol::Number(value, is_rounded) = lexer.next_symbol()? else { return None };
                let value = value.checked_neg()?;
                self.leaves.push(value);
                self.seen.push(value);
                self.is_rounded |= is_rounded;
                Some(Some(value))
            }
            Symbol::Open => {
                let value = self.sum(lexer, depth + 1)?;
                (lexer.next_symbol()? == Symbol::Close).then_some(value)
            }
            _ => None,
        }
    }

    /// What stands right of an operator; if nothing does, the numbers read while looking are forgotten.
    fn operand(
        &mut self,
        lexer: &mut Lexer<'_>,
        depth: usize,
        parse: fn(&mut Self, &mut Lexer<'_>, usize) -> Option<Option<Ratio>>,
    ) -> Option<Option<Ratio>> {
        let (n_leaves, n_seen, n_operators) = (self.leaves.len, self.seen.len, self.n_operators);
        let found = parse(self, lexer, depth);
        if found.is_none() {
            (self.leaves.len, self.seen.len, self.n_operators) = (n_leaves, n_seen, n_operators);
        }
        found
    }

    fn join(&mut self, left: Option<Ratio>, right: Option<Ratio>, apply: Join) -> Option<Ratio> {
        self.n_operators += 1;
        let value = apply(left?, right?)?;
        self.seen.push(value);
        Some(value)
    }
}

/// Where the next side starts if the statement goes on: after `=` or `≈`, also on the next line, or, after the
/// expression, after a verb that says "equals". The flag is set for `≈`.
fn continues<'a>(lexer: &Lexer<'a>, allows_verb: bool) -> Option<(Lexer<'a>, bool)> {
    let mut after = lexer.clone();
    let mut symbol = after.next_symbol()?;
    if allows_verb {
        let mut verb = after.clone();
        let mut word = symbol;
        for _ in 0..3 {
            match word {
                Symbol::Comma | Symbol::Word("which" | "that" | "this" | "it" | "and") => word = verb.next_symbol()?,
                _ => break,
            }
        }
        if let Symbol::Word("is" | "gives" | "makes" | "equals" | "yields" | "giving" | "making") = word {
            let mut number = verb.clone();
            if matches!(number.next_symbol()?, Symbol::Number(..)) {
                return Some((verb, false));
            }
        }
    }
    for _ in 0..3 {
        match symbol {
            Symbol::Newline => symbol = after.next_symbol()?,
            _ => break,
        }
    }
    match symbol {
        Symbol::Equals(rounds) => Some((after, rounds)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: &[&str]) {
        let show = |values: &[Ratio]| values.iter().map(Ratio::to_string).collect::<Vec<_>>().join(" ");
        let found: Vec<String> = Reader::new(text)
            .filter_map(|item| match item {
                Item::Statement(statement) => Some(format!(
                    "{} -> {}{}{}",
                    show(statement.leaves.as_slice()),
                    statement.value.map_or("?".to_owned(), |value| value.to_string()),
                    if statement.is_number_first { " first" } else { "" },
                    if statement.n_false == 0 { String::new() } else { format!(" false {}", statement.n_false) },
                )),
                Item::Number(value) => Some(value.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn statements() {
        check("3 * 4 = 12, 12 - 5 = 7.", &["3 4 -> 12", "12 5 -> 7"]);
        check("(96 - 62) - (13 - 6) = 34 - 7 = 27", &["96 62 13 6 -> 27"]);
        check("**(72 ÷ (25 − 9))**  \n= **(72 ÷ 16)**  \n= **4.5** → Not 33", &["72 25 9 -> 9/2", "33"]);
        check("12 + 5 = 24", &["12 5 -> 24 false 1"]);
        check("(3 * 4) + 5 = 12 + 5 = 24", &["3 4 5 -> 24 false 1"]);
        check("3 * 4 gives 12, which leaves 5", &["3 4 -> 12", "5"]);
        check("3 x 4 is 12", &["3 4 -> 12"]);
        check("24 = 12 * 2", &["12 2 -> 24 first"]);
        check("24 = 24 and 7 is 7", &["24", "24", "7", "7"]);
        check("(Too high) we had 3, 5 and 7", &["3", "5", "7"]);
        check("(3 + 4 = 7)", &["3 4 -> 7"]);
        check("9 / 0 = 3", &["9 0 -> 3 false 1"]);
        check("41 / 3\n= 13.666... (not 21)", &["41 3 -> 6833/500", "21"]);
        check("62 / 7 ≈ 8.857", &["62 7 -> 8857/1000"]);
        check("28 + (-65) = -37", &["28 -65 -> -37"]);
        check("17\n\n- 70 ÷ 7 = 10", &["17", "70 7 -> 10"]);
        check("+, -, *, / and 3 +", &["3"]);
        check("3 * (4 +", &["3", "4"]);
    }

    #[test]
    fn hostile_text_costs_a_constant_per_byte() {
        for unit in ["(", "((1+", "1+", "1=", "-(", "1 = (", "\\frac{", "1 is ", "{", "1,which that "] {
            let text = unit.repeat(100_000 / unit.len());
            assert!(Reader::new(&text).count() <= text.len());
        }
    }

    proptest! {
        #[test]
        fn any_text_ends(text in "[-+*/()=≈ 0-9x.,\n{}a\\\\]{0,300}") {
            prop_assert!(Reader::new(&text).count() <= text.len());
        }
    }
}
