//! Banks of phrases: how each thing a trace does may be said. Data files, `assets/phrases/*.txt`, read into templates.

use crate::error::{Exit, Failure};
use serde::{Deserialize, Serialize};

/// What a group of phrases says. Names are the headings of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Opening,
    Try,
    CheckMiss,
    CheckLow,
    CheckHigh,
    CheckHit,
    BacktrackRoot,
    BacktrackKept,
    Subgoal,
    SubgoalFactor,
    SubgoalMultiple,
    SubgoalNear,
    BackStep,
    StopReached,
    StopGivenUp,
}

impl Section {
    pub const ALL: [Section; 15] = [
        Section::Opening,
        Section::Try,
        Section::CheckMiss,
        Section::CheckLow,
        Section::CheckHigh,
        Section::CheckHit,
        Section::BacktrackRoot,
        Section::BacktrackKept,
        Section::Subgoal,
        Section::SubgoalFactor,
        Section::SubgoalMultiple,
        Section::SubgoalNear,
        Section::BackStep,
        Section::StopReached,
        Section::StopGivenUp,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Section::Opening => "opening",
            Section::Try => "try",
            Section::CheckMiss => "check.miss",
            Section::CheckLow => "check.low",
            Section::CheckHigh => "check.high",
            Section::CheckHit => "check.hit",
            Section::BacktrackRoot => "backtrack.root",
            Section::BacktrackKept => "backtrack.kept",
            Section::Subgoal => "subgoal",
            Section::SubgoalFactor => "subgoal.factor",
            Section::SubgoalMultiple => "subgoal.multiple",
            Section::SubgoalNear => "subgoal.near",
            Section::BackStep => "backstep",
            Section::StopReached => "stop.reached",
            Section::StopGivenUp => "stop.given-up",
        }
    }
}

/// What is put into a phrase. See the head of `assets/phrases/full.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Target,
    Value,
    Gap,
    Numbers,
    Steps,
    Formula,
    Expression,
    Subgoal,
    Quotient,
    Distance,
    Number,
    Need,
    Equation,
    Decomposition,
    Forward,
    Rest,
    Kept,
    State,
}

impl Slot {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "t" => Slot::Target,
            "v" => Slot::Value,
            "gap" => Slot::Gap,
            "numbers" => Slot::Numbers,
            "steps" => Slot::Steps,
            "formula" => Slot::Formula,
            "expr" => Slot::Expression,
            "s" => Slot::Subgoal,
            "q" => Slot::Quotient,
            "d" => Slot::Distance,
            "x" => Slot::Number,
            "need" => Slot::Need,
            "eq" => Slot::Equation,
            "split" => Slot::Decomposition,
            "back" => Slot::Forward,
            "rest" => Slot::Rest,
            "kept" => Slot::Kept,
            "state" => Slot::State,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Slot(Slot),
}

pub type Phrase = Vec<Piece>;

/// Which phrases may be used. One in five is held out, so that a classifier of behaviors can be tested on phrases that no
/// training trace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PhraseShare {
    #[default]
    All,
    /// Four in five.
    Training,
    /// The others.
    HeldOut,
}

/// How many ways of saying things there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Diversity {
    /// At least 30 phrases for each event, in varying layouts and notations.
    #[default]
    Full,
    /// One form for each event, every symbol a word of its own: for tiny models with word-level vocabularies.
    Terse,
}

/// Phrases by section, with the line each has in its section's full list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bank {
    sections: Vec<Vec<(u16, Phrase)>>,
}

impl Bank {
    /// The bank built in for a diversity.
    pub fn built_in(diversity: Diversity, share: PhraseShare) -> Result<Self, Failure> {
        match diversity {
            Diversity::Full => Self::parse(include_str!("../../assets/phrases/full.txt"), share),
            // A single phrase cannot be held out.
            Diversity::Terse => Self::parse(include_str!("../../assets/phrases/terse.txt"), PhraseShare::All),
        }
    }

    /// Reads a bank: `[section]` headings, one phrase a line, `#` comments.
    pub fn parse(text: &str, share: PhraseShare) -> Result<Self, Failure> {
        let mut sections: Vec<Vec<(u16, Phrase)>> = vec![Vec::new(); Section::ALL.len()];
        let mut current = None;
        let fault = |number: usize, what: String| {
            let names: Vec<&str> = Section::ALL.iter().map(|section| section.name()).collect();
            Failure::new(Exit::Usage, format!("phrases, line {number}: {what}"))
                .hint(format!("sections are {}", names.join(", ")))
        };
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                let section = Section::ALL.iter().position(|section| section.name() == name);
                current = Some(section.ok_or_else(|| fault(number, format!("`{name}` is not a section")))?);
            } else {
                let section = current.ok_or_else(|| fault(number, "a phrase before the first section".to_owned()))?;
                let phrase = parse_phrase(line).map_err(|slot| fault(number, format!("`{{{slot}}}` is not a slot")))?;
                let index = sections[section].len() as u16;
                sections[section].push((index, phrase));
            }
        }
        for section in &mut sections {
            section.retain(|(index, _)| match share {
                PhraseShare::All => true,
                PhraseShare::Training => index % 5 != 4,
                PhraseShare::HeldOut => index % 5 == 4,
            });
        }
        let bank = Self { sections };
        let is_needed =
            |section: &&Section| !matches!(section, Section::Opening | Section::CheckMiss) && !section.is_refinement();
        match Section::ALL.iter().filter(is_needed).find(|&&section| bank.phrases(section).is_empty()) {
            Some(section) => Err(fault(0, format!("section `{}` has no phrase", section.name()))),
            None => Ok(bank),
        }
    }

    pub fn phrases(&self, section: Section) -> &[(u16, Phrase)] {
        &self.sections[section as usize]
    }
}

impl Section {
    /// A section that another one can stand in for.
    fn is_refinement(self) -> bool {
        matches!(
            self,
            Section::CheckLow
                | Section::CheckHigh
                | Section::SubgoalFactor
                | Section::SubgoalMultiple
                | Section::SubgoalNear
        )
    }
}

fn parse_phrase(line: &str) -> Result<Phrase, &str> {
    let mut pieces = Vec::new();
    let mut rest = line;
    while let Some((text, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or(after)?;
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        pieces.push(Piece::Slot(Slot::parse(name).ok_or(name)?));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_diversity_has_thirty_phrases_for_each_event_even_without_the_held_out_ones() {
        let bank = Bank::built_in(Diversity::Full, PhraseShare::Training).unwrap();
        for section in
            Section::ALL.into_iter().filter(|&section| !section.is_refinement() && section != Section::Opening)
        {
            assert!(30 <= bank.phrases(section).len(), "{}: {}", section.name(), bank.phrases(section).len());
        }
    }

    #[test]
    fn shares_are_disjoint_and_whole() {
        let [all, training, held_out] = [PhraseShare::All, PhraseShare::Training, PhraseShare::HeldOut]
            .map(|share| Bank::built_in(Diversity::Full, share).unwrap());
        for section in Section::ALL {
            let (a, b) = (training.phrases(section), held_out.phrases(section));
            assert_eq!(all.phrases(section).len(), a.len() + b.len());
            assert!(a.iter().all(|phrase| !b.contains(phrase)));
        }
    }

    #[test]
    fn no_phrase_is_there_twice() {
        let bank = Bank::built_in(Diversity::Full, PhraseShare::All).unwrap();
        for section in Section::ALL {
            let phrases = bank.phrases(section);
            for (index, (_, phrase)) in phrases.iter().enumerate() {
                assert!(phrases[..index].iter().all(|(_, other)| other != phrase), "{} {phrase:?}", section.name());
            }
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        let check = |text: &str, expect: &str| {
            assert_eq!(Bank::parse(text, PhraseShare::All).unwrap_err().to_string(), expect);
        };
        check("hello", "phrases, line 1: a phrase before the first section");
        check("\n[trie]\n", "phrases, line 2: `trie` is not a section");
        check("[try]\n{stepz}.", "phrases, line 2: `{stepz}` is not a slot");
        check("[try]\n{steps.", "phrases, line 2: `{steps.}` is not a slot");
        check("[opening]\nhm", "phrases, line 0: section `try` has no phrase");
    }
}
