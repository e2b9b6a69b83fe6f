//! Cuts a text into sentences of tokens, the form in which cues are looked for.
//!
//! Mathematical prose needs its own reader: a formula is one token whatever it contains, line breaks and markup between
//! words do not count, and `e.g.` ends no sentence. It decodes no language: words are runs of letters, lowercased in
//! ASCII, and everything that no cue can name is token 0.
//!
//! Every byte is visited a bounded number of times, also in hostile text: a search for the end of a formula that fails
//! is remembered and not repeated (`Sentences::no_closer_before`).

use super::vocabulary::{FORMULA, NUMBER, UNKNOWN, Vocabulary, WordId};

/// A sentence without an end (a table, a program) is cut after so many tokens, which bounds memory.
const LONGEST_SENTENCE: usize = 400;

/// What ends a formula, by how it begins: the last ones are LaTeX environments.
const CLOSERS: [&str; 18] = [
    "$",
    "$$",
    r"\)",
    r"\]",
    r"\end{equation}",
    r"\end{equation*}",
    r"\end{align}",
    r"\end{align*}",
    r"\end{eqnarray}",
    r"\end{eqnarray*}",
    r"\end{gather}",
    r"\end{gather*}",
    r"\end{multline}",
    r"\end{multline*}",
    r"\end{displaymath}",
    r"\end{math}",
    r"\end{array}",
    r"\end{tabular}",
];
const FIRST_ENVIRONMENT: usize = 4;

/// Commands that start something new, so that no phrase goes across them.
const BREAKING_COMMANDS: [&str; 9] =
    ["item", "begin", "end", "section", "subsection", "subsubsection", "paragraph", "chapter", "par"];

/// Words whose full stop ends no sentence; `e.g.` and `i.e.` are recognised by their inner full stop.
const ABBREVIATIONS: [&str; 14] =
    ["cf", "resp", "eq", "eqs", "fig", "figs", "thm", "prop", "cor", "lem", "sec", "vs", "dr", "prof"];

/// A word, a number, a formula or a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) word: WordId,
    /// Byte offsets into the text.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether a clause starts here, so that the one before has ended: first in the sentence, a colon, or after a
    /// colon, a semicolon, a dash or a bracket.
    pub(super) opens: bool,
}

/// The sentences of a text, one after the other.
pub(super) struct Sentences<'a> {
    text: &'a str,
    vocabulary: &'a Vocabulary,
    at: usize,
    /// The end of the paragraph that `at` was in when it was last asked for.
    paragraph_end: usize,
    /// For each of [`CLOSERS`], a position before which there is none left.
    no_closer_before: [usize; CLOSERS.len()],
    /// How many bytes the searches for closers went over: the tests hold this to a multiple of the text.
    pub(super) searched: usize,
}

impl<'a> Sentences<'a> {
    pub(super) fn new(text: &'a str, vocabulary: &'a Vocabulary) -> Self {
        Self { text, vocabulary, at: 0, paragraph_end: 0, no_closer_before: [0; CLOSERS.len()], searched: 0 }
    }

    /// Replaces `tokens` by those of the next sentence that has any; false at the end of the text.
    pub(super) fn next_into(&mut self, tokens: &mut Vec<Token>) -> bool {
        tokens.clear();
        let bytes = self.text.as_bytes();
        let mut opens = true;
        while let Some(&byte) = bytes.get(self.at) {
            if tokens.len() == LONGEST_SENTENCE {
                return true;
            }
            let start = self.at;
            let word = match byte {
                b'a'..=b'z' | b'A'..=b'Z' => self.word(),
                b'0'..=b'9' => self.number(),
                b'$' => {
                    let kind = usize::from(bytes.get(start + 1) == Some(&b'$'));
                    let opener = kind + 1;
                    let spaced = kind == 0 && bytes.get(start + 1).is_none_or(u8::is_ascii_whitespace);
                    if spaced { self.skip(1) } else { self.formula(kind, opener) }
                }
                b'\\' => {
                    let (word, breaks) = self.command();
                    if breaks && !tokens.is_empty() {
                        return true;
                    }
                    opens |= breaks;
                    word
                }
                b'\n' => {
                    self.at += 1;
                    if starts_block(&bytes[self.at..]) {
                        if !tokens.is_empty() {
                            return true;
                        }
                        opens = true;
                    }
                    None
                }
                b'.' | b'!' | b'?' => {
                    let stop = self.stop(tokens.last());
                    if stop && !tokens.is_empty() {
                        return true;
                    }
                    opens = true;
                    None
                }
                b';' | b'(' | b'[' => {
                    opens = true;
                    self.skip(1)
                }
                b':' | b'=' => self.symbol(1),
                0x80.. => {
                    let symbol = self.text[start..].chars().next().unwrap_or('\u{fffd}');
                    if symbol.is_alphanumeric() {
                        self.word()
                    } else if matches!(symbol, '\u{2018}'..='\u{201f}' | '\u{2014}' | '\u{2013}' | '\u{2026}')
                        || symbol.is_whitespace()
                    {
                        opens |= matches!(symbol, '\u{2014}' | '\u{2026}');
                        self.skip(symbol.len_utf8())
                    } else {
                        self.symbol(symbol.len_utf8())
                    }
                }
                _ => self.skip(1),
            };
            if let Some(word) = word {
                let colon = byte == b':';
                tokens.push(Token { word, start, end: self.at, opens: opens || colon });
                opens = colon;
            }
        }
        !tokens.is_empty()
    }

    fn skip(&mut self, bytes: usize) -> Option<WordId> {
        self.at += bytes;
        None
    }

    fn symbol(&mut self, bytes: usize) -> Option<WordId> {
        let start = self.at;
        self.at += bytes;
        Some(self.vocabulary.id(&self.text.as_bytes()[start..self.at]))
    }

    /// A run of letters and digits, with apostrophes inside: `doesn't` is one word, `double-check` is two.
    fn word(&mut self) -> Option<WordId> {
        let bytes = self.text.as_bytes();
        let mut folded = [0u8; Vocabulary::LONGEST_WORD];
        let mut length = 0;
        let mut push = |byte: u8| {
            if let Some(slot) = folded.get_mut(length) {
                *slot = byte;
            }
            length += 1;
        };
        while let Some(&byte) = bytes.get(self.at) {
            if byte.is_ascii_alphanumeric() {
                push(byte.to_ascii_lowercase());
                self.at += 1;
                continue;
            }
            let apostrophe = match byte {
                b'\'' => 1,
                0xe2 if bytes[self.at..].starts_with("\u{2019}".as_bytes()) => 3,
                _ => 0,
            };
            if apostrophe > 0 {
                if !bytes.get(self.at + apostrophe).is_some_and(u8::is_ascii_alphabetic) {
                    break;
                }
                push(b'\'');
                self.at += apostrophe;
            } else if byte >= 0x80 {
                let letter = self.text[self.at..].chars().next().unwrap_or('\u{fffd}');
                if !letter.is_alphanumeric() {
                    break;
                }
                let end = self.at + letter.len_utf8();
                bytes[self.at..end].iter().for_each(|&byte| push(byte));
                self.at = end;
            } else {
                break;
            }
        }
        Some(folded.get(..length).map_or(UNKNOWN, |word| self.vocabulary.id(word)))
    }

    /// Digits with inner points, commas and slashes: `4,560`, `253.33`, `1/115`.
    fn number(&mut self) -> Option<WordId> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            let inner = matches!(byte, b'.' | b',' | b'/') && bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit);
            if !byte.is_ascii_digit() && !inner {
                break;
            }
            self.at += 1;
        }
        Some(NUMBER)
    }

    /// Steps over a formula that begins here with `opener` bytes, or over one byte if nothing closes it in this paragraph.
    fn formula(&mut self, kind: usize, opener: usize) -> Option<WordId> {
        match self.closer(kind, self.at + opener) {
            Some(end) => {
                self.at = end;
                Some(FORMULA)
            }
            None => self.skip(1),
        }
    }

    /// Where the formula whose content starts at `from` ends, closer included.
    fn closer(&mut self, kind: usize, from: usize) -> Option<usize> {
        let paragraph_end = self.paragraph_end(from);
        let closer = CLOSERS[kind];
        let mut search = from.max(self.no_closer_before[kind]);
        while search < paragraph_end {
            let found = self.text[search..paragraph_end].find(closer);
            self.searched += found.map_or(paragraph_end - search, |found| found + closer.len());
            let Some(found) = found else { break };
            let at = search + found;
            let end = at + closer.len();
            // `$5 for one and $10 for two` is money: a dollar sign closes nothing after a space or before a digit.
            let before = self.text.as_bytes().get(at.wrapping_sub(1));
            let money = kind == 0
                && (before.is_some_and(|&byte| byte.is_ascii_whitespace() || byte == b'\\')
                    || self.text.as_bytes().get(end).is_some_and(u8::is_ascii_digit));
            if !money {
                // What was skipped closes no later formula either.
                self.no_closer_before[kind] = at;
                return Some(end);
            }
            search = end;
        }
        self.no_closer_before[kind] = self.no_closer_before[kind].max(paragraph_end);
        None
    }

    fn paragraph_end(&mut self, from: usize) -> usize {
        if self.paragraph_end < from {
            let bytes = self.text.as_bytes();
            let mut at = from;
            self.paragraph_end = loop {
                let Some(line) = self.text.as_bytes()[at..].iter().position(|&byte| byte == b'\n') else {
                    break bytes.len();
                };
                at += line + 1;
                let rest = bytes[at..].iter().position(|&byte| !matches!(byte, b' ' | b'\t' | b'\r'));
                if rest.is_none_or(|rest| bytes[at + rest] == b'\n') {
                    break at;
                }
            };
            self.searched += self.paragraph_end - from;
        }
        self.paragraph_end
    }

    /// A LaTeX command: a formula's beginning, a break, or a name to step over (its argument is read as text).
    fn command(&mut self) -> (Option<WordId>, bool) {
        let rest = &self.text[self.at + 1..];
        match rest.as_bytes().first() {
            Some(b'(') => return (self.formula(2, 2), false),
            Some(b'[') => return (self.formula(3, 2), false),
            Some(byte) if byte.is_ascii_alphabetic() => {}
            Some(byte) if byte.is_ascii() && !byte.is_ascii_whitespace() => return (self.skip(2), false),
            _ => return (self.skip(1), false),
        }
        let length = rest.bytes().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(rest.len());
        let name = &rest[..length];
        if name == "begin" {
            let environment = (FIRST_ENVIRONMENT..CLOSERS.len())
                .find(|&kind| rest[length..].starts_with(&CLOSERS[kind][r"\end".len()..]));
            if let Some(kind) = environment {
                return (self.formula(kind, r"\begin".len()), false);
            }
        }
        self.at += 1 + length;
        let breaks = BREAKING_COMMANDS.contains(&name);
        if breaks && rest[length..].starts_with('{') && matches!(name, "begin" | "end") {
            let name_end = rest[length..].bytes().take(32).position(|byte| byte == b'}');
            self.at += name_end.map_or(0, |end| end + 1);
        }
        (None, breaks)
    }

    /// Steps over `.`, `!`, `?` and what closes after them; whether that ends the sentence.
    fn stop(&mut self, last: Option<&Token>) -> bool {
        let bytes = self.text.as_bytes();
        let first = self.at;
        while matches!(bytes.get(self.at), Some(b'.' | b'!' | b'?' | b')' | b']' | b'}' | b'"' | b'\'' | b'*' | b'_')) {
            self.at += 1;
        }
        let after = bytes[self.at..].iter().take(8).position(|byte| !byte.is_ascii_whitespace());
        match after {
            Some(0) => return false,
            Some(gap) if bytes[self.at + gap].is_ascii_lowercase() => return false,
            _ => {}
        }
        let Some(last) = last.filter(|last| bytes[first] == b'.' && last.end == first) else { return true };
        let word = &self.text[last.start..last.end];
        let inner_stop = word.len() == 1 && last.start > 0 && bytes[last.start - 1] == b'.';
        !inner_stop && !ABBREVIATIONS.iter().any(|abbreviation| abbreviation.eq_ignore_ascii_case(word))
    }
}

/// Whether a line that begins so starts a paragraph, a heading or a list item.
fn starts_block(line: &[u8]) -> bool {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let Some(start) = line.iter().take(64).position(|byte| !blank(byte)) else { return line.len() <= 64 };
    let rest = &line[start..];
    match rest[0] {
        b'\n' | b'#' => true,
        b'-' | b'*' | b'+' => rest.get(1).is_some_and(blank),
        b'0'..=b'9' => {
            let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
            matches!(rest.get(digits), Some(b'.' | b')')) && rest.get(digits + 1).is_some_and(blank)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sentences by their words in the text, `|` between; a token that opens a clause has `^` before it.
    fn check(text: &str, expect: &str) {
        let vocabulary = Vocabulary::default();
        let mut sentences = Sentences::new(text, &vocabulary);
        let (mut tokens, mut found) = (Vec::new(), Vec::new());
        while sentences.next_into(&mut tokens) {
            let word =
                |token: &Token| format!("{}{}", if token.opens { "^" } else { "" }, &text[token.start..token.end]);
            found.push(tokens.iter().map(word).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(found.join(" | "), expect, "{text:?}");
    }

    #[test]
    fn words() {
        check("Let's double-check it, isn’t it", "^Let's double check it isn’t it");
        check("**Wait**, _no_ \"really\" 'quoted'", "^Wait no really quoted");
        check("4,560 is 253.33... or 1/115", "^4,560 is 253.33 ^or 1/115");
        check("naïve Gödel x₁", "^naïve Gödel x₁");
        check("2 ≠ 3 ✓ a=b", "^2 ≠ 3 ✓ a = b");
    }

    #[test]
    fn sentences() {
        check("One. Two! Three? Four", "^One | ^Two | ^Three | ^Four");
        check("See e.g. Lang, i.e. chapter 3, cf. Eq. 5 there.", "^See e ^g ^Lang i ^e ^chapter 3 cf ^Eq ^5 there");
        check("No stop\n\nhere\nbut there", "^No stop | ^here but there");
        check("A line \\\\\nbreak and \\\n\nan end", "^A line break and | ^an end");
        check("Plan:\n1. Find x\n2) Solve\n- Check\n# End", "^Plan ^: | ^1 | ^Find x | ^2 Solve | ^Check | ^End");
        check("a: b; c (d) — e", "^a ^: ^b ^c ^d ^e");
        check("(That works.) So", "^That works | ^So");
    }

    #[test]
    fn formulas() {
        check("so $x. Y$ and $$a\nb$$ hold", "^so $x. Y$ and $$a\nb$$ hold");
        check(r"by \(a\) and \[b. C\] now", r"^by \(a\) and \[b. C\] now");
        check("x\\begin{align*}a\\end{align*}y", "^x \\begin{align*}a\\end{align*} y");
        check("costs $5 for one and $10 for two", "^costs 5 for one and 10 for two");
        check("open $x and\n\nclosed$", "^open x and | ^closed");
        check("\\emph{first} \\item second \\begin{proof} third", "^first | ^second | ^third");
    }

    #[test]
    fn a_sentence_without_end_is_cut() {
        let text = "word ".repeat(1000);
        let vocabulary = Vocabulary::default();
        let mut sentences = Sentences::new(&text, &vocabulary);
        let (mut tokens, mut lengths) = (Vec::new(), Vec::new());
        while sentences.next_into(&mut tokens) {
            lengths.push(tokens.len());
        }
        assert_eq!(lengths, [400, 400, 200]);
    }
}
