//! The words that cues are made of, as small numbers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A word of the lexicon; [`UNKNOWN`] is every other.
pub(super) type WordId = u32;
pub(super) const UNKNOWN: WordId = 0;
/// Any number written in digits, `<number>` in a cue.
pub(super) const NUMBER: WordId = 1;
/// Any formula in dollar signs or a LaTeX environment, `<formula>` in a cue.
pub(super) const FORMULA: WordId = 2;
const FIRST_WORD: WordId = 3;

/// How often some words come in 10,000 words of mathematical web text and chains of thought. It decides where matching
/// starts, so it matters to speed and to nothing else; any other word counts as one that comes once.
const FREQUENT: [(&str, u32); 62] = [
    ("the", 480),
    ("a", 360),
    ("=", 300),
    ("of", 270),
    ("is", 250),
    ("x", 220),
    ("to", 170),
    ("and", 160),
    ("n", 160),
    ("in", 140),
    ("b", 120),
    ("i", 110),
    ("that", 110),
    ("we", 100),
    ("s", 90),
    ("k", 90),
    ("p", 90),
    (":", 90),
    ("for", 80),
    ("m", 80),
    ("y", 70),
    ("be", 70),
    ("by", 60),
    ("are", 60),
    ("d", 60),
    ("if", 50),
    ("this", 50),
    ("so", 50),
    ("then", 50),
    ("as", 40),
    ("let", 40),
    ("with", 40),
    ("it", 40),
    ("an", 40),
    ("can", 40),
    ("number", 30),
    ("right", 30),
    ("from", 30),
    ("not", 30),
    ("on", 30),
    ("have", 30),
    ("which", 30),
    ("all", 30),
    ("since", 25),
    ("proof", 25),
    ("but", 25),
    ("there", 25),
    ("each", 20),
    ("equation", 20),
    ("one", 20),
    ("two", 20),
    ("first", 20),
    ("where", 20),
    ("has", 20),
    ("any", 20),
    ("therefore", 20),
    ("thus", 15),
    ("hence", 15),
    ("problem", 15),
    ("also", 15),
    ("now", 15),
    ("both", 10),
];

/// Words by their lowercase bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Vocabulary {
    ids: HashMap<Box<[u8]>, WordId, BuildHasherDefault<Fnv>>,
}

impl Vocabulary {
    /// In bytes; a longer word is in no cue.
    pub(super) const LONGEST_WORD: usize = 24;

    /// The number of a lowercase word.
    pub(super) fn id(&self, word: &[u8]) -> WordId {
        self.ids.get(word).copied().unwrap_or(UNKNOWN)
    }

    /// The number of a lowercase word, which becomes known.
    pub(super) fn intern(&mut self, word: &str) -> WordId {
        let next = FIRST_WORD + self.ids.len() as WordId;
        *self.ids.entry(word.as_bytes().into()).or_insert(next)
    }

    /// By word, how often it comes in 10,000 words of the texts that are judged, roughly.
    pub(super) fn frequencies(&self) -> Vec<u32> {
        let mut frequencies = vec![1; FIRST_WORD as usize + self.ids.len()];
        frequencies[NUMBER as usize] = 600;
        frequencies[FORMULA as usize] = 600;
        for (word, frequency) in FREQUENT {
            frequencies[self.id(word.as_bytes()) as usize] = frequency;
        }
        frequencies
    }
}

/// FNV-1a: short keys, a table whose content no text can change, and the same order of probes in every process.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_usize(&mut self, length: usize) {
        self.write(&[length as u8]);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
