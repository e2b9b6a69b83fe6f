//! Whether a completion's final answer to a mathematical question is the known one.
//!
//! The answer is what stands in the last `<answer>…</answer>`, or else in the last `\boxed{…}`. Numbers are compared as exact
//! fractions: `0.5`, `1/2`, `\frac12` and `50%` are equal, `0.333` and `1/3` are not. What is no number is compared as text after
//! the spelling of LaTeX is smoothed, lists part by part. There is no algebra: `x + 1` and `1 + x` differ.
//!
//! Hostile input costs little: answers beyond [`MAX_LENGTH`] are wrong unread, numbers beyond 64 bits are compared as text, and
//! nothing nests deeper than [`MAX_DEPTH`].

use crate::countdown::ratio::Ratio;
use crate::countdown::verdict;
use serde::{Deserialize, Serialize};

/// The longest answer that is read, in bytes.
pub const MAX_LENGTH: usize = 1024;
/// How deep fractions may nest, and lists.
pub const MAX_DEPTH: usize = 8;
/// The longest list that is compared without regard to order.
const MAX_SET: usize = 64;

/// How a completion answers a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MathVerdict {
    Correct,
    /// There is an answer, and it is another one.
    Wrong,
    /// Neither answer tags nor a box, or nothing inside.
    Missing,
}

impl MathVerdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Correct => "correct",
            Self::Wrong => "wrong",
            Self::Missing => "missing",
        }
    }
}

/// Judges a completion by its last answer; `truth` may itself stand in tags or a box.
pub fn judge(truth: &str, completion: &str) -> MathVerdict {
    let Some(answer) = final_answer(completion) else { return MathVerdict::Missing };
    let truth = final_answer(truth).unwrap_or(truth);
    if agree(truth, answer) { MathVerdict::Correct } else { MathVerdict::Wrong }
}

/// The text of the last answer, trimmed, if it is not empty.
pub fn final_answer(completion: &str) -> Option<&str> {
    let tagged = verdict::answer(completion);
    let answer = match tagged {
        Some(inside) => boxed(inside).unwrap_or(inside),
        None => boxed(completion)?,
    };
    Some(answer.trim()).filter(|answer| !answer.is_empty())
}

/// What the last `\boxed{…}` or `\fbox{…}` holds, braces balanced.
fn boxed(text: &str) -> Option<&str> {
    let after = |command: &str| text.rfind(command).map(|start| start + command.len());
    let start = after("\\boxed{").max(after("\\fbox{"))?;
    group_end(&text[start..]).map(|end| &text[start..start + end])
}

/// Where the brace closes that was opened just before `text`.
fn group_end(text: &str) -> Option<usize> {
    let mut depth = 1usize;
    let mut is_escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(index),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Whether two answers say the same.
pub fn agree(truth: &str, answer: &str) -> bool {
    if truth.trim() == answer.trim() {
        return true;
    }
    MAX_LENGTH.max(truth.len()) <= MAX_LENGTH
        && answer.len() <= MAX_LENGTH
        && equal(&smooth(truth), &smooth(answer), MAX_DEPTH)
}

fn equal(truth: &str, answer: &str, depth: usize) -> bool {
    let (truth, answer) = (right_hand_side(truth.trim()), right_hand_side(answer.trim()));
    if let (Some(a), Some(b)) = (Number::parse(truth), Number::parse(answer)) {
        return a.equals(b);
    }
    if plain(truth) == plain(answer) {
        return true;
    }
    let (Some(depth), Some(a), Some(b)) = (depth.checked_sub(1), List::parse(truth), List::parse(answer)) else {
        return false;
    };
    if a.brackets != b.brackets || a.parts.len() != b.parts.len() {
        return false;
    }
    if !a.is_set() {
        return a.parts.iter().zip(&b.parts).all(|(a, b)| equal(a, b, depth));
    }
    let mut left = b.parts;
    MAX_SET >= left.len()
        && a.parts.iter().all(|a| {
            let found = left.iter().position(|b| equal(a, b, depth));
            found.map(|index| left.swap_remove(index)).is_some()
        })
}

/// `x = 5` says 5.
fn right_hand_side(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value)) if !value.contains('=') => {
            let name = name.trim();
            let is_name = name.chars().count() == 1 && name.chars().all(char::is_alphabetic);
            if is_name && !value.trim().is_empty() { value.trim() } else { text }
        }
        _ => text,
    }
}

/// Text as it is compared: no blanks, no braces, no case.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '{' | '}')).flat_map(char::to_lowercase).collect()
}

/// One spelling for what LaTeX spells in many ways.
fn smooth(text: &str) -> String {
    const SPELLINGS: [(&str, &str); 36] = [
        ("\\left", ""),
        ("\\right", ""),
        ("\\displaystyle", ""),
        ("\\!", ""),
        ("\\,", " "),
        ("\\;", " "),
        ("\\:", " "),
        ("\\ ", " "),
        ("~", " "),
        ("\u{a0}", " "),
        ("\\(", ""),
        ("\\)", ""),
        ("\\[", ""),
        ("\\]", ""),
        ("\\$", ""),
        ("$", ""),
        ("{,}", ","),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("\\cfrac", "\\frac"),
        ("\\cdot", "*"),
        ("\\times", "*"),
        ("×", "*"),
        ("\\div", "/"),
        ("÷", "/"),
        ("\u{2212}", "-"),
        ("\u{2013}", "-"),
        ("\\%", "%"),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\degree", ""),
        ("°", ""),
        ("\\lbrace", "\\{"),
        ("\\rbrace", "\\}"),
        ("\\infty", "∞"),
        ("\\pi", "π"),
    ];
    let smoothed = SPELLINGS.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let unworded = without_text_commands(&smoothed);
    unworded.trim().trim_end_matches('.').trim().to_owned()
}

/// `\text{yes}` becomes `yes`; behind something else, where it names a unit, it goes.
fn without_text_commands(text: &str) -> String {
    const COMMANDS: [&str; 6] = ["\\text{", "\\textbf{", "\\mathrm{", "\\mathbf{", "\\mbox{", "\\textit{"];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((start, command)) =
        COMMANDS.iter().filter_map(|command| rest.find(command).map(|start| (start, *command))).min()
    {
        let inside = &rest[start + command.len()..];
        let Some(end) = group_end(inside) else { break };
        out.push_str(&rest[..start]);
        rest = &inside[end + 1..];
        let is_unit = out.trim_end().ends_with(|c: char| c.is_ascii_digit() || matches!(c, '}' | '%' | 'π'));
        if !is_unit {
            out.push_str(&inside[..end]);
        } else if let Some(after) = rest.strip_prefix("^2").or_else(|| rest.strip_prefix("^3")) {
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// An exact number, and whether it was stated in per cent.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Number {
    /// Before a per cent sign divides it.
    stated: Ratio,
    is_percent: bool,
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        let (text, is_percent) = match text.strip_suffix('%') {
            Some(before) => (before.trim_end(), true),
            None => (text, false),
        };
        Some(Self { stated: signed(text, MAX_DEPTH)?, is_percent })
    }

    /// Questions that ask for per cent are answered with and without the sign: `50%` is 0.5 and also 50.
    fn equals(self, other: Self) -> bool {
        self.stated == other.stated || self.value().zip(other.value()).is_some_and(|(a, b)| a == b)
    }

    fn value(self) -> Option<Ratio> {
        if self.is_percent { self.stated.checked_div(Ratio::whole(100)) } else { Some(self.stated) }
    }
}

/// `-1 1/2`, `\frac{3}{4}`, `12,345.6`, `3/4`, `1.5 * 10^{3}`, `2e-3`, in parentheses or braces or not.
fn signed(text: &str, depth: usize) -> Option<Ratio> {
    let depth = depth.checked_sub(1)?;
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('-') {
        return signed(rest, depth)?.checked_neg();
    }
    if let Some(rest) = text.strip_prefix('+') {
        return signed(rest, depth);
    }
    if let Some(inside) =
        text.strip_prefix('{').filter(|inside| group_end(inside).map(|end| end + 1) == Some(inside.len()))
    {
        return signed(&inside[..inside.len() - 1], depth);
    }
    if let Some(parts) = text.strip_prefix("\\frac") {
        return latex_fraction(parts, depth).and_then(|(value, rest)| rest.trim().is_empty().then_some(value));
    }
    let (first, rest) = decimal(text)?;
    let rest = rest.trim_start_matches(' ');
    let is_spaced = text[..text.len() - rest.len()].ends_with(' ');
    if rest.is_empty() {
        return Some(first);
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']).or_else(|| power_of_ten(rest)) {
        return scaled(first, exponent);
    }
    if let Some(divisor) = rest.strip_prefix('/') {
        return first.checked_div(signed(divisor, depth)?);
    }
    // A mixed number: a whole, and a proper fraction behind it.
    first.as_whole()?;
    let part = match rest.strip_prefix("\\frac") {
        Some(parts) => latex_fraction(parts, depth).filter(|(_, rest)| rest.trim().is_empty())?.0,
        None if is_spaced => {
            let (numerator, denominator) = rest.split_once('/')?;
            let (numerator, "") = decimal(numerator.trim())? else { return None };
            let (denominator, "") = decimal(denominator.trim())? else { return None };
            numerator.checked_div(denominator)?
        }
        None => return None,
    };
    (Ratio::ZERO <= part && part < Ratio::ONE).then(|| first.checked_add(part))?
}

/// `{a}{b}` or `ab` of single digits, and what follows.
fn latex_fraction(text: &str, depth: usize) -> Option<(Ratio, &str)> {
    let argument = |text: &str| -> Option<(Ratio, usize)> {
        let trimmed = text.trim_start();
        let skipped = text.len() - trimmed.len();
        if let Some(inside) = trimmed.strip_prefix('{') {
            let end = group_end(inside)?;
            return Some((signed(&inside[..end], depth)?, skipped + end + 2));
        }
        let digit = trimmed.chars().next()?.to_digit(10)?;
        Some((Ratio::whole(digit.into()), skipped + 1))
    };
    let (numerator, used) = argument(text)?;
    let rest = &text[used..];
    let (denominator, used) = argument(rest)?;
    Some((numerator.checked_div(denominator)?, &rest[used..]))
}

/// An unsigned decimal at the start, with or without commas between thousands, and what follows.
fn decimal(text: &str) -> Option<(Ratio, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let mut digits = first.to_owned();
    for group in groups {
        if group.len() != 3 || !(1..=3).contains(&first.len()) {
            return None;
        }
        digits.push_str(group);
    }
    if (digits.is_empty() && fraction.is_empty()) || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.push_str(fraction);
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: i128 = digits.parse().ok()?;
    Some((Ratio::new(digits, scale)?, rest))
}

/// The exponent of `* 10^{3}` or `*10^3`.
fn power_of_ten(text: &str) -> Option<&str> {
    let exponent = text.strip_prefix('*')?.trim_start().strip_prefix("10")?.trim_start().strip_prefix('^')?.trim();
    Some(exponent.strip_prefix('{').and_then(|inside| inside.strip_suffix('}')).unwrap_or(exponent))
}

fn scaled(value: Ratio, exponent: &str) -> Option<Ratio> {
    let exponent: i32 = exponent.trim().parse().ok()?;
    let scale = Ratio::new(10i128.checked_pow(exponent.unsigned_abs())?, 1)?;
    if exponent < 0 { value.checked_div(scale) } else { value.checked_mul(scale) }
}

/// Parts separated by commas, in brackets or not.
struct List<'t> {
    /// As written; `\{\}` for a set.
    brackets: (&'t str, &'t str),
    parts: Vec<&'t str>,
}

impl<'t> List<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        const BRACKETS: [(&str, &str); 5] = [("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")];
        let mut brackets = ("", "");
        let mut inside = text;
        for (open, close) in BRACKETS {
            if let Some(between) = text.strip_prefix(open).and_then(|text| text.strip_suffix(close)) {
                (brackets, inside) = ((open, close), between);
                break;
            }
        }
        let mut parts = Vec::new();
        let (mut start, mut depth) = (0, 0i32);
        for (index, byte) in inside.bytes().enumerate() {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth -= 1,
                b',' if depth == 0 => {
                    parts.push(&inside[start..index]);
                    start = index + 1;
                }
                _ => {}
            }
        }
        parts.push(&inside[start..]);
        (1 < parts.len() || !brackets.0.is_empty()).then_some(Self { brackets, parts })
    }

    fn is_set(&self) -> bool {
        self.brackets.0 == "\\{"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(truth: &str, answer: &str, expect: bool) {
        assert_eq!(agree(truth, answer), expect, "{truth} | {answer}");
        assert_eq!(agree(answer, truth), expect, "{answer} | {truth}");
    }

    #[test]
    fn numbers_are_compared_exactly() {
        for same in [
            "1/2",
            "0.5",
            ".5",
            "\\frac{1}{2}",
            "\\dfrac12",
            "$\\frac 1 2$",
            "2/4",
            "50%",
            "50\\%",
            "0.50",
            "5e-1",
            "+1/2.",
        ] {
            check("0.5", same, true);
        }
        check("1/3", "0.333", false);
        check("1/3", "0.3333333333333333333333333333333333333333333", false);
        check("12345.6", "12,345.6", true);
        check("12345", "12{,}345", true);
        check("12345", "1,2345", false);
        check("-3", "\u{2212}3", true);
        check("-\\frac{3}{4}", "\\frac{-3}{4}", true);
        check("-\\frac{3}{4}", "-0.75", true);
        check("1.5", "1 1/2", true);
        check("1.5", "1\\frac{1}{2}", true);
        check("5.5", "1 1/2", false);
        check("11/2", "1 1/2", false);
        check("1500", "1.5 \\times 10^{3}", true);
        check("1500", "1.5e3", true);
        check("50", "50%", true);
        check("0.5", "50", false);
        check("90", "90^\\circ", true);
        check("5", "5 \\text{ cm}^2", true);
        check("5", "x = 5", true);
        check("1/2", "1/0", false);
        check("100000000000000000000000000001", "100000000000000000000000000001", true);
        check("100000000000000000000000000001", "100000000000000000000000000002", false);
    }

    #[test]
    fn lists_and_words() {
        check("(1, 2)", "\\left(1,\\frac{4}{2}\\right)", true);
        check("(1, 2)", "(2, 1)", false);
        check("(1, 2)", "[1, 2]", false);
        check("\\{1, 2, 3\\}", "\\{3, 2, 1\\}", true);
        check("\\{1, 2, 2\\}", "\\{1, 1, 2\\}", false);
        check("1, 2", "1,2.0", true);
        check("\\text{Yes}", "yes", true);
        check("2\\pi", "2 π", true);
        check("x+1", "x + 1", true);
        check("\\sqrt{2}", "\\sqrt2", true);
        check("\\sqrt{2}", "\\sqrt{3}", false);
        check("a", "b", false);
    }

    #[test]
    fn where_the_answer_stands() {
        let check =
            |completion: &str, expect: MathVerdict| assert_eq!(judge("3/4", completion), expect, "{completion}");
        check("so <answer> 0.75 </answer>", MathVerdict::Correct);
        check("<answer>1</answer> no: <answer>\\boxed{\\frac{3}{4}}</answer>", MathVerdict::Correct);
        check("we get $\\boxed{\\frac{3}{4}}$.", MathVerdict::Correct);
        check("\\boxed{1} and then \\boxed{0.75}", MathVerdict::Correct);
        check("\\boxed{0.75} but <answer>1</answer>", MathVerdict::Wrong);
        check("it is 0.75", MathVerdict::Missing);
        check("\\boxed{\\frac{3}{4}", MathVerdict::Missing);
        check("<answer> </answer>", MathVerdict::Missing);
        check("", MathVerdict::Missing);
        assert_eq!(judge("Thus \\boxed{\\dfrac{3}{4}}.", "<answer>3/4</answer>"), MathVerdict::Correct);
    }

    #[test]
    fn hostile_answers_are_wrong_and_quick() {
        let deep = "{".repeat(400) + "1" + &"}".repeat(400);
        let nested = "\\frac{1}".repeat(100) + "{2}";
        let lists = "(".repeat(300) + ",1" + &")".repeat(300);
        let long = "9".repeat(1_000_000);
        for hostile in [
            deep,
            nested,
            lists,
            long,
            "-".repeat(900) + "3",
            "9e999999999".into(),
            "1e-400".into(),
            "\\text{".repeat(90),
        ] {
            assert_eq!(judge("3", &format!("<answer>{hostile}</answer>")), MathVerdict::Wrong);
        }
    }

    proptest! {
        #[test]
        fn any_text_gets_a_verdict(truth in any::<String>(), text in "[-+0-9/.,%{}()\\\\a-e =^$]{0,40}", other in any::<String>()) {
            judge(&truth, &other);
            judge(&truth, &format!("<answer>{text}</answer>"));
            prop_assert!(agree(&text, &text));
        }

        #[test]
        fn equal_fractions_agree(a in -999i64..999, b in 1i64..99, k in 1i64..9) {
            let latex = format!("\\frac{{{}}}{{{}}}", a * k, b * k);
            let (same, other) = (format!("{a}/{b}"), format!("{}/{b}", a + 1));
            prop_assert!(agree(&same, &latex) && !agree(&other, &latex));
        }
    }
}
