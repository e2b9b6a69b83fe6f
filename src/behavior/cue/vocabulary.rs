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

    /// One more than the largest number given out.
    pub(super) fn size(&self) -> usize {
        FIRST_WORD as usize + self.ids.len()
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
