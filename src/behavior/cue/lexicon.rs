//! The lexicon: what the judge looks for, as text that people read and change.
//!
//! ```text
//! # A comment.
//! [verification]                      what follows is about this behavior
//! squash -2.0 1.5                     score = 1 / (1 + exp(-(-2.0 + 1.5 ln(1 + sum of weights))))
//! @check = check|verify|test          a set, usable as @check from here to the end of the section
//! 1.0  let me @check                  a cue: its weight, its phrase
//! -    let me check my email          a guard: no cue counts where it overlaps a guard
//!        or my phone                  a line that begins with a space continues the one before
//! ```
//!
//! A sentence shows the behavior when the weights of its cues add up to 1. See [`super::phrase`] for phrases.

use super::phrase::{Phrase, Sets, parse_set};
use super::vocabulary::{Vocabulary, WordId};
use crate::behavior::Behavior;
use crate::error::{Exit, Failure};

/// The order of the files is that of [`Behavior::ALL`].
const EMBEDDED: &str = concat!(
    include_str!("../../../assets/lexicon/verification.txt"),
    "\n",
    include_str!("../../../assets/lexicon/backtracking.txt"),
    "\n",
    include_str!("../../../assets/lexicon/subgoal_setting.txt"),
    "\n",
    include_str!("../../../assets/lexicon/backward_chaining.txt"),
);

/// What is found where a phrase is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Role {
    Cue { weight: f32 },
    Guard,
}

/// One line of the lexicon that is looked for.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) behavior: Behavior,
    pub(super) role: Role,
    /// The phrase as written.
    pub(super) text: String,
    pub(super) phrase: Phrase,
}

/// An entry that may start from `latest` to `earliest` tokens before a word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) entry: u32,
    pub(super) earliest: usize,
    pub(super) latest: usize,
}

/// How a document's sum of weights becomes a score: a logistic curve over `ln(1 + sum)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Squash {
    bias: f32,
    slope: f32,
}

impl Squash {
    pub(super) fn score(self, sum: f32) -> f32 {
        1.0 / (1.0 + (-(self.bias + self.slope * sum.ln_1p())).exp())
    }
}

/// The cues and guards of the four behaviors.
#[derive(Debug, Clone)]
pub struct Lexicon {
    entries: Vec<Entry>,
    /// Per word, the entries that it is an anchor of.
    by_anchor: Vec<Vec<Candidate>>,
    squash: [Squash; 4],
    vocabulary: Vocabulary,
    hash: String,
}

impl Lexicon {
    /// The lexicon that the program ships, `assets/lexicon/*.txt`.
    #[expect(clippy::expect_used, reason = "a test parses the embedded text, which cannot change after the build")]
    pub fn embedded() -> Self {
        Self::parse(EMBEDDED).expect("the embedded lexicon is well-formed")
    }

    /// Parses a lexicon with a section for each of the four behaviors, in any order. An error names the line.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut parser = Parser::default();
        for (number, line) in logical_lines(text) {
            parser.line(&line).map_err(|problem| {
                Failure::new(Exit::Usage, format!("line {number} of the lexicon, `{line}`: {problem}"))
                    .hint("`assets/lexicon/verification.txt` explains the format in its first lines")
            })?;
        }
        Ok(parser.finish()?)
    }

    /// BLAKE3 of every line that counts (not of comments and spacing), 16 hex digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(super) fn squash(&self, behavior: Behavior) -> Squash {
        self.squash[behavior.index()]
    }

    /// The entries that a text may hold around a `word`.
    pub(super) fn candidates(&self, word: WordId) -> &[Candidate] {
        &self.by_anchor[word as usize]
    }

    pub(super) fn entry(&self, entry: u32) -> &Entry {
        &self.entries[entry as usize]
    }
}

/// The lines that count, without comments, each with the number of its first line: a line that begins with a space
/// continues the one before.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or_default();
        match lines.last_mut().filter(|_| content.starts_with(char::is_whitespace)) {
            _ if content.trim().is_empty() => {}
            Some((_, before)) => {
                before.push(' ');
                before.push_str(content.trim());
            }
            None => lines.push((index + 1, content.trim().to_owned())),
        }
    }
    lines
}

#[derive(Default)]
struct Parser {
    section: Option<Behavior>,
    sets: Sets,
    squash: [Option<Squash>; 4],
    entries: Vec<Entry>,
    vocabulary: Vocabulary,
    hasher: blake3::Hasher,
}

impl Parser {
    /// Takes one line without comment, trimmed, not empty.
    fn line(&mut self, line: &str) -> Result<(), String> {
        for word in line.split_whitespace() {
            self.hasher.update(word.as_bytes()).update(b" ");
        }
        self.hasher.update(b"\n");

        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            self.section = Some(behavior_named(name)?);
            self.sets.clear();
            return Ok(());
        }
        let behavior = self.section.ok_or("no section such as `[verification]` has begun")?;
        if let Some(definition) = line.strip_prefix('@') {
            let (name, words) = definition.split_once('=').ok_or("a set is written `@name = word|word`")?;
            let choice = parse_set(words, &self.sets, &mut self.vocabulary)?;
            self.sets.insert(name.trim().to_owned(), choice);
            return Ok(());
        }
        let (head, rest) = line.split_once([' ', '\t']).ok_or("expected a weight or `-`, then a phrase")?;
        let role = match head {
            "squash" => {
                if self.squash[behavior.index()].replace(parse_squash(rest)?).is_some() {
                    return Err(format!("`[{}]` has a `squash` already", behavior.name()));
                }
                return Ok(());
            }
            "-" => Role::Guard,
            weight => match weight.parse::<f32>() {
                Ok(weight) if weight > 0.0 && weight <= 5.0 => Role::Cue { weight },
                Ok(_) => return Err(format!("the weight `{weight}` is not above 0 and at most 5")),
                Err(_) => return Err(format!("`{head}` is neither a weight nor `-` nor `squash`")),
            },
        };
        let phrase = Phrase::parse(rest, &self.sets, &mut self.vocabulary)?;
        if self.entries.iter().any(|entry| entry.behavior == behavior && entry.phrase == phrase) {
            return Err("this phrase is in the section already".into());
        }
        self.entries.push(Entry { behavior, role, text: rest.trim().to_owned(), phrase });
        Ok(())
    }

    fn finish(self) -> Result<Lexicon, Failure> {
        let incomplete = |behavior: Behavior, what: &str| {
            let name = behavior.name();
            Failure::new(Exit::Usage, format!("the lexicon has no {what} for `{name}`"))
                .hint(format!("add a section `[{name}]` with a `squash` line and at least one cue"))
        };
        let mut squash = [Squash { bias: 0.0, slope: 0.0 }; 4];
        for behavior in Behavior::ALL {
            squash[behavior.index()] =
                self.squash[behavior.index()].ok_or_else(|| incomplete(behavior, "`squash` line"))?;
            let cue = |entry: &Entry| entry.behavior == behavior && entry.role != Role::Guard;
            if !self.entries.iter().any(cue) {
                return Err(incomplete(behavior, "cue"));
            }
        }
        let frequencies = self.vocabulary.frequencies();
        let mut by_anchor = vec![Vec::new(); frequencies.len()];
        for (entry, Entry { phrase, .. }) in self.entries.iter().enumerate() {
            let anchor = phrase.anchor(&frequencies);
            for word in anchor.words {
                let candidate = Candidate { entry: entry as u32, earliest: anchor.earliest, latest: anchor.latest };
                by_anchor[word as usize].push(candidate);
            }
        }
        let hash = self.hasher.finalize().to_hex()[..16].to_owned();
        Ok(Lexicon { entries: self.entries, by_anchor, squash, vocabulary: self.vocabulary, hash })
    }
}

fn behavior_named(name: &str) -> Result<Behavior, String> {
    Behavior::ALL.into_iter().find(|behavior| behavior.name() == name).ok_or_else(|| {
        let names = Behavior::ALL.map(Behavior::name).join("`, `");
        format!("`{name}` is no behavior; they are `{names}`")
    })
}

fn parse_squash(text: &str) -> Result<Squash, String> {
    let numbers: Vec<f32> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [bias, slope] if bias.is_finite() && slope.is_finite() && slope > 0.0 => Ok(Squash { bias, slope }),
        _ => Err("expected `squash BIAS SLOPE`, two numbers with a slope above 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "[verification]\nsquash 0 1\n1 aye\n[backtracking]\nsquash 0 1\n1 bee\n\
                            [subgoal_setting]\nsquash 0 1\n1 cee\n[backward_chaining]\nsquash 0 1\n1 dee\n";

    #[test]
    fn the_embedded_lexicon_is_well_formed() {
        let lexicon = Lexicon::embedded();
        assert!(lexicon.entries.len() > 200);
        assert_eq!(lexicon.hash().len(), 16);
    }

    /// Adds lines after the smallest lexicon, which has 12.
    fn refuse(lines: &str, expect: &str) {
        let error = Lexicon::parse(&format!("{SMALLEST}{lines}")).unwrap_err().to_string();
        assert!(error.contains(expect), "{lines}: {error}");
    }

    #[test]
    fn errors_name_the_line() {
        assert!(Lexicon::parse(SMALLEST).is_ok());
        refuse("# fine\n1.0 let (me", "line 14 of the lexicon, `1.0 let (me`: a `(` without its `)`");
        refuse("1 a\n  b\n  (c\n", "line 13 of the lexicon, `1 a b (c`");
        refuse("[verifcation]", "`verifcation` is no behavior; they are `verification`");
        refuse("7 a", "the weight `7` is not above 0 and at most 5");
        refuse("nan a", "the weight `nan`");
        refuse("heavy a", "`heavy` is neither a weight nor `-` nor `squash`");
        refuse("1", "expected a weight or `-`, then a phrase");
        refuse("1 dee", "in the section already");
        refuse("squash 1 1", "has a `squash` already");
        refuse("squash 1", "`squash BIAS SLOPE`");
        refuse("@a b", "a set is written");
        let error = Lexicon::parse("1 a").unwrap_err().to_string();
        assert!(error.contains("no section"), "{error}");
        let error = Lexicon::parse("[verification]\nsquash 0 1\n1 a").unwrap_err().to_string();
        assert_eq!(error, "the lexicon has no `squash` line for `backtracking`");
    }

    #[test]
    fn scores_rise_with_weight() {
        let squash = Squash { bias: -2.0, slope: 1.5 };
        let scores = [0.0, 0.5, 1.0, 2.0, 1e9].map(|sum| squash.score(sum));
        assert!(scores.is_sorted() && scores[0] > 0.0 && scores[4] <= 1.0);
        assert_eq!(squash.score(0.0), 1.0 / (1.0 + 2f32.exp()));
    }
}
