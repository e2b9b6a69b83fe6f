//! A phrase of the lexicon and how it is found in a sentence.
//!
//! ```text
//! phrase  = element+
//! element = word | "@set" | "(" phrase ("|" phrase)* ")" | "..." | "^" | "$"      and "?" after an element: may be absent
//! word    = letters, digits and apostrophes | "<number>" | "<formula>" | one symbol such as = : ≠ ✓
//! ```
//!
//! `...` stands for at most [`LONGEST_GAP`] tokens, `^` for the start of a clause and `$` for its end. Words must be
//! adjacent, but punctuation, line breaks and markup between them do not count, and a hyphen separates words.

use super::sentences::Token;
use super::vocabulary::{FORMULA, NUMBER, Vocabulary, WordId};
use std::collections::BTreeMap;
use std::slice;

/// How many tokens `...` may stand for.
const LONGEST_GAP: usize = 8;
/// In tokens, so that the places where a phrase may end fit the bits of a machine word.
const LONGEST_PHRASE: usize = 63;

/// Named alternatives, `@prove = show|prove`.
pub(super) type Sets = BTreeMap<String, Choice>;

/// Alternatives; those of one word apart and sorted, since they are most.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Choice {
    words: Vec<WordId>,
    longer: Vec<Vec<Element>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Element {
    ClauseStart,
    ClauseEnd,
    Gap,
    Choice { choice: Choice, optional: bool },
}

/// Words of which an occurrence of a phrase has one, between `earliest` and `latest` tokens after its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Anchor {
    pub(super) words: Vec<WordId>,
    pub(super) earliest: usize,
    pub(super) latest: usize,
}

/// A sequence of words, alternatives and gaps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Phrase(Vec<Element>);

impl Phrase {
    /// Parses a phrase, making its words known. An error is a sentence fragment that names the offending part.
    pub(super) fn parse(text: &str, sets: &Sets, vocabulary: &mut Vocabulary) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim(), sets, vocabulary };
        let elements = parser.sequence()?;
        if !parser.rest.is_empty() {
            return Err(format!("nothing opens what ends at `{}`", parser.rest));
        }
        if first_words(&elements, &mut Vec::new()) {
            return Err("it must begin with a word, and not every part may be absent".into());
        }
        if lengths(&elements).1 > LONGEST_PHRASE {
            return Err(format!("it may be longer than {LONGEST_PHRASE} words"));
        }
        Ok(Self(elements))
    }

    /// Where to look for the phrase: the element that is needed and comes least often in texts.
    pub(super) fn anchor(&self, frequencies: &[u32]) -> Anchor {
        let (mut earliest, mut latest) = (0, 0);
        let mut rarest = (u64::MAX, Anchor::default());
        for element in &self.0 {
            let mut words = Vec::new();
            if !first_words(slice::from_ref(element), &mut words) {
                words.sort_unstable();
                words.dedup();
                let frequency: u64 = words.iter().map(|&word| u64::from(frequencies[word as usize])).sum();
                let cost = frequency * (latest - earliest + 1) as u64;
                if cost < rarest.0 {
                    rarest = (cost, Anchor { words, earliest, latest });
                }
            }
            let (shortest, longest) = lengths(slice::from_ref(element));
            earliest += shortest;
            latest += longest;
        }
        rarest.1
    }

    /// The lengths in tokens of the shortest and the longest occurrence that starts at token `at`.
    ///
    /// Bit `n` of a set stands for token `at + n`. Each element maps the set of places where what precedes it may end
    /// to the set where it may end, so an attempt costs at most 64 comparisons per word of the phrase, whatever the text.
    pub(super) fn lengths_at(&self, tokens: &[Token], at: usize) -> Option<(usize, usize)> {
        match advance(&self.0, &tokens[at..], 1) {
            0 => None,
            ends => Some((ends.trailing_zeros() as usize, ends.ilog2() as usize)),
        }
    }
}

/// Where a sequence of elements may end when it starts at one of the places in `reached`.
fn advance(elements: &[Element], tokens: &[Token], reached: u64) -> u64 {
    elements.iter().fold(reached, |reached, element| match element {
        _ if reached == 0 => 0,
        Element::Gap => (0..=LONGEST_GAP).fold(0, |gap, width| gap | reached << width),
        Element::ClauseStart => keep(reached, |place| tokens.get(place).is_some_and(|token| token.opens)),
        Element::ClauseEnd => keep(reached, |place| tokens.get(place).is_none_or(|token| token.opens)),
        Element::Choice { choice, optional } => {
            let agrees =
                |place: usize| tokens.get(place).is_some_and(|token| choice.words.binary_search(&token.word).is_ok());
            let one_word = keep(reached, agrees) << 1;
            let longer = choice.longer.iter().fold(0, |ends, branch| ends | advance(branch, tokens, reached));
            one_word | longer | if *optional { reached } else { 0 }
        }
    })
}

/// The places of a set that satisfy a condition.
fn keep(places: u64, condition: impl Fn(usize) -> bool) -> u64 {
    let (mut kept, mut left) = (0, places);
    while left != 0 {
        let place = left.trailing_zeros();
        kept |= u64::from(condition(place as usize)) << place;
        left &= left - 1;
    }
    kept
}

/// Adds the words that a sequence may begin with; whether it may also be empty or begin with any word.
fn first_words(elements: &[Element], words: &mut Vec<WordId>) -> bool {
    for element in elements {
        let Element::Choice { choice, optional } = element else {
            if *element == Element::Gap {
                return true;
            }
            continue;
        };
        words.extend(&choice.words);
        let mut may_be_empty = *optional;
        for branch in &choice.longer {
            may_be_empty |= first_words(branch, words);
        }
        if !may_be_empty {
            return false;
        }
    }
    true
}

/// How few and how many tokens a sequence can cover.
fn lengths(elements: &[Element]) -> (usize, usize) {
    let length = |element: &Element| match element {
        Element::ClauseStart | Element::ClauseEnd => (0, 0),
        Element::Gap => (0, LONGEST_GAP),
        Element::Choice { choice, optional } => {
            let one_word = if choice.words.is_empty() { None } else { Some((1, 1)) };
            let branches = choice.longer.iter().map(|branch| lengths(branch)).chain(one_word);
            let (shortest, longest) = branches
                .fold((usize::MAX, 0), |(low, high), (shortest, longest)| (low.min(shortest), high.max(longest)));
            (if *optional { 0 } else { shortest }, longest)
        }
    };
    elements.iter().map(length).fold((0, 0), |(low, high), (shortest, longest)| (low + shortest, high + longest))
}

/// Parses the alternatives of a set.
pub(super) fn parse_set(text: &str, sets: &Sets, vocabulary: &mut Vocabulary) -> Result<Choice, String> {
    let mut parser = Parser { rest: text.trim(), sets, vocabulary };
    let choice = parser.choice()?;
    if parser.rest.is_empty() { Ok(choice) } else { Err(format!("nothing opens what ends at `{}`", parser.rest)) }
}

struct Parser<'a> {
    rest: &'a str,
    sets: &'a Sets,
    vocabulary: &'a mut Vocabulary,
}

impl Parser<'_> {
    /// Whether `symbol` comes next; steps over it and the space after it.
    fn take(&mut self, symbol: &str) -> bool {
        let after = self.rest.strip_prefix(symbol);
        self.rest = after.unwrap_or(self.rest).trim_start();
        after.is_some()
    }

    /// Elements up to `|`, `)` or the end.
    fn sequence(&mut self) -> Result<Vec<Element>, String> {
        let mut elements = Vec::new();
        loop {
            let choice = if self.rest.is_empty() || self.rest.starts_with(['|', ')']) {
                let open_end = elements.first() == Some(&Element::Gap) || elements.last() == Some(&Element::Gap);
                return match elements.is_empty() {
                    true => Err("an alternative is empty".into()),
                    false if open_end => Err("`...` needs a word before it and after it".into()),
                    false => Ok(elements),
                };
            } else if self.take("...") {
                elements.push(Element::Gap);
                continue;
            } else if self.take("^") {
                elements.push(Element::ClauseStart);
                continue;
            } else if self.take("$") {
                elements.push(Element::ClauseEnd);
                continue;
            } else if self.take("(") {
                let choice = self.choice()?;
                if !self.rest.starts_with(')') {
                    return Err("a `(` without its `)`".into());
                }
                self.rest = &self.rest[1..];
                choice
            } else {
                let end = self.rest.find(|c: char| c.is_whitespace() || "()|?".contains(c)).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.word(word)?
            };
            let optional = self.rest.starts_with('?');
            self.take("?");
            self.rest = self.rest.trim_start();
            elements.push(Element::Choice { choice, optional });
        }
    }

    /// Sequences between `|`, up to `)` or the end.
    fn choice(&mut self) -> Result<Choice, String> {
        let mut choice = Choice::default();
        loop {
            let mut sequence = self.sequence()?;
            match sequence.pop() {
                Some(Element::Choice { choice: only, optional: false }) if sequence.is_empty() => {
                    choice.words.extend(only.words);
                    choice.longer.extend(only.longer);
                }
                last => {
                    sequence.extend(last);
                    choice.longer.push(sequence);
                }
            }
            if !self.take("|") {
                choice.words.sort_unstable();
                choice.words.dedup();
                return Ok(choice);
            }
        }
    }

    fn word(&mut self, word: &str) -> Result<Choice, String> {
        if let Some(name) = word.strip_prefix('@') {
            return self.sets.get(name).cloned().ok_or_else(|| format!("the set `@{name}` is not defined above it"));
        }
        let one = |id| Ok(Choice { words: vec![id], longer: Vec::new() });
        match word {
            "<number>" => return one(NUMBER),
            "<formula>" => return one(FORMULA),
            ":" | "=" => return one(self.vocabulary.intern(word)),
            _ => {}
        }
        if word.len() > Vocabulary::LONGEST_WORD {
            return Err(format!("the word `{word}` is longer than {} bytes", Vocabulary::LONGEST_WORD));
        }
        if word.contains('-') {
            return Err(format!("`{word}` has a hyphen, which separates words: write `{}`", word.replace('-', " ")));
        }
        let mut letters = word.chars();
        let symbol = letters.next().is_some_and(|c| !c.is_ascii() && !c.is_alphanumeric()) && letters.next().is_none();
        let inner = word.chars().enumerate().all(|(at, c)| c.is_alphanumeric() || (c == '\'' && at > 0));
        let number = word.starts_with(|c: char| c.is_ascii_digit());
        if !symbol && (!inner || number || word.ends_with('\'')) {
            return Err(format!("`{word}` is no word: letters, `<number>`, `<formula>` or one symbol such as `≠`"));
        }
        one(self.vocabulary.intern(&word.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sentences::Sentences;
    use super::*;

    /// The occurrences of a phrase in a text, as the shortest match from each start.
    fn check(phrase: &str, text: &str, expect: &[&str]) {
        let mut vocabulary = Vocabulary::default();
        let sets = [("do", "find|work out")]
            .map(|(name, words)| (name.to_owned(), parse_set(words, &Sets::new(), &mut vocabulary).unwrap()));
        let phrase = Phrase::parse(phrase, &Sets::from(sets), &mut vocabulary).unwrap();
        let anchor = phrase.anchor(&vocabulary.frequencies());
        let mut sentences = Sentences::new(text, &vocabulary);
        let (mut tokens, mut found) = (Vec::new(), Vec::new());
        while sentences.next_into(&mut tokens) {
            for at in 0..tokens.len() {
                if let Some((length, _)) = phrase.lengths_at(&tokens, at) {
                    found.push(&text[tokens[at].start..tokens[at + length - 1].end]);
                    let anchored =
                        |offset: usize| tokens.get(at + offset).is_some_and(|token| anchor.words.contains(&token.word));
                    assert!((anchor.earliest..=anchor.latest).any(anchored), "{anchor:?}");
                }
            }
        }
        assert_eq!(found, expect, "{phrase:?} in {text:?}");
    }

    #[test]
    fn occurrences() {
        check("let me check", "Let me CHECK. let\nme, check! let us check", &["Let me CHECK", "let\nme, check"]);
        check("we (first|now)? @do x", "we find x, we first work out x, we x", &["we find x", "we first work out x"]);
        check("a ... b", "a b a c b b", &["a b", "a c b"]);
        check("a ... b", "a 1 2 3 4 5 6 7 8 b", &["a 1 2 3 4 5 6 7 8 b"]);
        check("a ... b", "a 1 2 3 4 5 6 7 8 9 b", &[]);
        check("^ wait", "wait wait: wait (wait", &["wait", "wait", "wait"]);
        check("right $", "right so right. That is right: yes", &["right", "right"]);
        check(
            "(^|so) it works ($|because)",
            "it works. so it works because and it works",
            &["it works", "so it works because"],
        );
        check("<number> ≠ <number>", "3 ≠ 4 and x ≠ 4", &["3 ≠ 4"]);
        check("we have <formula>", "we have $x$, we have x", &["we have $x$"]);
        check("don't", "Don’t", &["Don’t"]);
        check("a (b (c|d e)? f|g)", "a b d e f, a g, a b f, a b d f", &["a b d e f", "a g", "a b f"]);
    }

    fn refuse(phrase: &str, expect: &str) {
        let error = Phrase::parse(phrase, &Sets::new(), &mut Vocabulary::default()).unwrap_err();
        assert!(error.contains(expect), "{phrase}: {error}");
    }

    #[test]
    fn what_is_no_phrase() {
        refuse("", "empty");
        refuse("a? b?", "not every part may be absent");
        refuse("... a", "`...` needs a word");
        refuse("(... a|b) c", "`...` needs a word");
        refuse("a (b", "without its `)`");
        refuse("a) b", "nothing opens");
        refuse("a (b|) c", "empty");
        refuse("a @missing", "`@missing` is not defined");
        refuse("double-check", "write `double check`");
        refuse("a 12", "`12` is no word");
        refuse("a ... b ... c ... d ... e ... f ... g ... h ... i", "longer than 63");
    }
}
