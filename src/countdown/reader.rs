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

/// A few values, in place; more than `N` are dropped.
#[derive(Debug, Clone)]
pub struct Values<const N: usize> {
    values: [Ratio; N],
    len: usize,
}

impl<const N: usize> Default for Values<N> {
    fn default() -> Self {
        Self { values: [Ratio::ZERO; N], len: 0 }
    }
}

impl<const N: usize> Values<N> {
    pub fn push(&mut self, value: Ratio) {
        if self.len < N {
            self.values[self.len] = value;
            self.len += 1;
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
    pub leaves: Values<8>,
    /// What the statement ends at: its last side, or the expression's own value if it stands alone. `None` if that has no
    /// value, or none that fits.
    pub value: Option<Ratio>,
    /// The expression's own value, whatever the text says.
    pub computed: Option<Ratio>,
    /// Every number and every intermediate value on any side.
    pub seen: Values<24>,
    /// How many neighbouring sides differ, those written with decimals or `≈` left out.
    pub n_false: u32,
    pub has_equals: bool,
    /// `24 = 12 * 2` rather than `12 * 2 = 24`; `value` is the number then.
    pub is_number_first: bool,
}

/// Reads items one by one.
pub struct Reader<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { cursor: Cursor::new(text) }
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        loop {
            let symbol = self.cursor.symbol?;
            if let Symbol::Number(value, _) = symbol {
                // Most numbers stand alone; what follows says so at once.
                let after = self.cursor.next();
                if !may_continue(after.symbol) {
                    self.cursor = after;
                    return Some(Item::Number(value));
                }
            }
            if matches!(symbol, Symbol::Number(..) | Symbol::Open | Symbol::Operator(Operator::Subtract))
                && let Some((statement, after)) = parse_statement(&self.cursor)
            {
                self.cursor = after;
                return Some(Item::Statement(statement));
            }
            self.cursor.advance();
            return Some(match symbol {
                Symbol::Number(value, _) => Item::Number(value),
                Symbol::Operator(_) | Symbol::Open | Symbol::Close | Symbol::Equals(_) => continue,
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

/// A place in the text: the symbol there, and what comes after it.
#[derive(Clone)]
struct Cursor<'a> {
    symbol: Option<Symbol<'a>>,
    rest: Lexer<'a>,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        let mut rest = Lexer::new(text);
        Self { symbol: rest.next_symbol(), rest }
    }

    fn advance(&mut self) {
        self.symbol = self.rest.next_symbol();
    }

    fn next(&self) -> Self {
        let mut next = self.clone();
        next.advance();
        next
    }
}

/// Whether a number before this symbol may begin a statement.
fn may_continue(symbol: Option<Symbol<'_>>) -> bool {
    matches!(symbol, Some(Symbol::Operator(_) | Symbol::Equals(_) | Symbol::Newline | Symbol::Word("x" | "X")))
}

/// A statement from here, and where it ends.
fn parse_statement<'a>(start: &Cursor<'a>) -> Option<(Box<Statement>, Cursor<'a>)> {
    let mut cursor = start.clone();
    let mut parser = Parser::default();
    let mut value = parser.sum(&mut cursor, 0)?;
    if parser.n_operators == 0 && !matches!(cursor.symbol, Some(Symbol::Equals(_) | Symbol::Newline)) {
        return None;
    }
    parser.statement.value = value;
    let mut has_expression = 0 < parser.n_operators;
    parser.statement.computed = value;
    while let Some((mut after, rounds)) = continues(&cursor, has_expression && !parser.statement.has_equals) {
        let was_rounded = std::mem::replace(&mut parser.is_rounded, false);
        if !has_expression {
            parser.statement.leaves = Values::default();
        }
        parser.n_operators = 0;
        parser.takes_leaves = !has_expression;
        let n_seen = parser.statement.seen.len;
        let Some(next) = parser.sum(&mut after, 0) else {
            parser.statement.seen.len = n_seen;
            break;
        };
        // Two numbers in a row are no expression: `24 = 24`.
        if !has_expression && parser.n_operators == 0 {
            return None;
        }
        let statement = &mut parser.statement;
        let is_exact = !rounds && !was_rounded && !parser.is_rounded;
        statement.n_false += u32::from(is_exact && value != next);
        statement.has_equals = true;
        if has_expression {
            statement.value = next;
        } else {
            // The number stood first, and the expression confirms it.
            (statement.is_number_first, statement.computed) = (true, next);
            has_expression = true;
        }
        (value, cursor) = (next, after);
    }
    has_expression.then_some((parser.statement, cursor))
}

type Join = fn(Ratio, Ratio) -> Option<Ratio>;

struct Parser {
    statement: Box<Statement>,
    /// The leaves of this side are the statement's.
    takes_leaves: bool,
    /// On this side.
    n_operators: usize,
    is_rounded: bool,
    /// In all.
    n_symbols: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self { statement: Box::default(), takes_leaves: true, n_operators: 0, is_rounded: false, n_symbols: 0 }
    }
}

impl Parser {
    /// The outer `None` means no expression; the inner one, an expression without a value.
    fn sum(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Option<Option<Ratio>> {
        let mut value = self.product(cursor, depth)?;
        loop {
            let apply: Join = match cursor.symbol {
                Some(Symbol::Operator(Operator::Add)) => Ratio::checked_add,
                Some(Symbol::Operator(Operator::Subtract)) => Ratio::checked_sub,
                _ => return Some(value),
            };
            let mut after = cursor.next();
            let Some(right) = self.operand(&mut after, depth, Self::product) else { return Some(value) };
            value = self.join(value, right, apply);
            *cursor = after;
        }
    }

    fn product(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Option<Option<Ratio>> {
        let mut value = self.factor(cursor, depth)?;
        loop {
            let apply: Join = match cursor.symbol {
                Some(Symbol::Operator(Operator::Multiply) | Symbol::Word("x" | "X")) => Ratio::checked_mul,
                Some(Symbol::Operator(Operator::Divide)) => Ratio::checked_div,
                _ => return Some(value),
            };
            let mut after = cursor.next();
            let Some(right) = self.operand(&mut after, depth, Self::factor) else { return Some(value) };
            value = self.join(value, right, apply);
            *cursor = after;
        }
    }

    fn factor(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Option<Option<Ratio>> {
        if depth == MAX_DEPTH || self.n_symbols == MAX_SYMBOLS {
            return None;
        }
        self.n_symbols += 1;
        let symbol = cursor.symbol?;
        cursor.advance();
        match symbol {
            Symbol::Number(value, is_rounded) => self.leaf(value, is_rounded),
            Symbol::Operator(Operator::Subtract) => {
                let Symbol::Number(value, is_rounded) = cursor.symbol? else { return None };
                cursor.advance();
                self.leaf(value.checked_neg()?, is_rounded)
            }
            Symbol::Open => {
                let value = self.sum(cursor, depth + 1)?;
                let closes = cursor.symbol? == Symbol::Close;
                cursor.advance();
                closes.then_some(value)
            }
            _ => None,
        }
    }

    fn leaf(&mut self, value: Ratio, is_rounded: bool) -> Option<Option<Ratio>> {
        if self.takes_leaves {
            self.statement.leaves.push(value);
        }
        self.statement.seen.push(value);
        self.is_rounded |= is_rounded;
        Some(Some(value))
    }

    /// What stands right of an operator; if nothing does, what was read while looking is forgotten.
    fn operand(
        &mut self,
        cursor: &mut Cursor<'_>,
        depth: usize,
        parse: fn(&mut Self, &mut Cursor<'_>, usize) -> Option<Option<Ratio>>,
    ) -> Option<Option<Ratio>> {
        let (n_leaves, n_seen, n_operators) = (self.statement.leaves.len, self.statement.seen.len, self.n_operators);
        let found = parse(self, cursor, depth);
        if found.is_none() {
            (self.statement.leaves.len, self.statement.seen.len, self.n_operators) = (n_leaves, n_seen, n_operators);
        }
        found
    }

    fn join(&mut self, left: Option<Ratio>, right: Option<Ratio>, apply: Join) -> Option<Ratio> {
        self.n_operators += 1;
        let value = apply(left?, right?)?;
        self.statement.seen.push(value);
        Some(value)
    }
}

/// Where the next side starts if the statement goes on: after `=` or `≈`, also on the next line, or, after the
/// expression, after a verb that says "equals". The flag is set for `≈`.
fn continues<'a>(cursor: &Cursor<'a>, allows_verb: bool) -> Option<(Cursor<'a>, bool)> {
    match cursor.symbol? {
        Symbol::Equals(rounds) => return Some((cursor.next(), rounds)),
        Symbol::Comma | Symbol::Word(_) if allows_verb => {
            let mut verb = cursor.clone();
            for _ in 0..3 {
                match verb.symbol? {
                    Symbol::Comma | Symbol::Word("which" | "that" | "this" | "it" | "and") => verb.advance(),
                    _ => break,
                }
            }
            if let Symbol::Word("is" | "gives" | "makes" | "equals" | "yields" | "giving" | "making") = verb.symbol? {
                verb.advance();
                return matches!(verb.symbol?, Symbol::Number(..)).then_some((verb, false));
            }
        }
        Symbol::Newline => {
            let mut after = cursor.next();
            for _ in 0..2 {
                if after.symbol? == Symbol::Newline {
                    after.advance();
                }
            }
            if let Symbol::Equals(rounds) = after.symbol? {
                return Some((after.next(), rounds));
            }
        }
        _ => {}
    }
    None
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
