//! Finds documents that repeat items of given test sets, by word n-grams in common (Brown et al. 2020, appendix C).
//!
//! Items and documents are compared as normalised words (see [`super::words`]), so that case, punctuation and markup do
//! not hide a copy. Where the items come from is the caller's business.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::words::{Grams, MAX_GRAM, for_each_word};
use crate::error::{Exit, Failure};

/// What counts as a repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Words per n-gram.
    pub ngram: usize,
    /// How many different n-grams of one test set make a document contaminated. One is usual for prose. Mathematics soon has
    /// 13 words in common by chance, in matrices, sequences and formulas: of 5,852 documents that repeat no problem of MATH,
    /// 13 share one n-gram with a problem and 7 share three.
    pub min_grams: usize,
    /// Items too short to have `min_grams` n-grams count as one gram each, which suffices alone; those of fewer words than
    /// this are ignored.
    pub min_words: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self { ngram: 13, min_grams: 1, min_words: 8 }
    }
}

/// The n-grams of the test sets' items: 20 to 40 bytes of memory for each different one.
pub struct Contamination {
    rules: Rules,
    sets: Vec<TestSet>,
    grams: HashMap<u64, Evidence, BuildHasherDefault<GramHasher>>,
    /// The lengths in words of all grams in the map, ascending.
    lengths: Vec<usize>,
    /// The last `ending` words of all grams in the map: most words of most documents are none of them.
    endings: Bitmap,
    ending: usize,
}

/// What was read of one test set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestSet {
    pub name: String,
    pub items: usize,
    /// Items of fewer than `min_words` words.
    pub ignored: usize,
}

/// Why a document is contaminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The test set with which the document shares most; of equals, the one given first. A gram of several sets counts
    /// for the first of them.
    pub set: &'a str,
    /// Different grams of that set in the document.
    pub grams: usize,
    /// Where in the document the first of them begins, in characters.
    pub first_gram_char_offset: usize,
}

#[derive(Debug, Clone, Copy)]
struct Evidence {
    set: u16,
    /// The gram is an item's whole text, so that it suffices alone.
    whole: bool,
}

impl Contamination {
    /// Reads the items, `(name of the test set, text)`, in any order.
    pub fn build<Name: AsRef<str>, Text: AsRef<str>>(
        items: impl IntoIterator<Item = (Name, Text)>,
        rules: Rules,
    ) -> Result<Self, Failure> {
        let Rules { ngram, min_grams, min_words } = rules;
        if ngram == 0 || min_grams == 0 || ngram.saturating_add(min_grams) > MAX_GRAM + 2 {
            let message = format!("decontamination cannot look for `{min_grams}` n-grams of `{ngram}` words");
            let hint = format!("take at least 1 of each and at most {} together; 1 and 13 are usual", MAX_GRAM + 2);
            return Err(Failure::new(Exit::Usage, message).hint(hint));
        }
        let (sets, grams, lengths, endings) = (Vec::new(), HashMap::default(), Vec::new(), Bitmap::default());
        let mut built = Self { rules, sets, grams, lengths, endings, ending: min_words.clamp(1, ngram) };
        let mut endings = Vec::new();
        for (name, text) in items {
            let set = built.set(name.as_ref())?;
            built.add(set, text.as_ref(), &mut endings);
        }
        built.lengths.sort_unstable();
        built.endings = Bitmap::of(&endings);
        Ok(built)
    }

    /// The test sets in the order of their first items.
    pub fn sets(&self) -> &[TestSet] {
        &self.sets
    }

    /// How many different grams are looked for.
    pub fn grams(&self) -> usize {
        self.grams.len()
    }

    /// Whether, and how, the document repeats a test item. Reads it once.
    pub fn check(&self, text: &str) -> Option<Hit<'_>> {
        struct Match {
            set: u16,
            gram: u64,
            start: usize,
            whole: bool,
        }
        let mut matches = Vec::new();
        let mut grams = Grams::default();
        for_each_word(text, |word| {
            grams.push(word);
            if grams.words() < self.ending || !self.endings.may_contain(grams.last(self.ending)) {
                return;
            }
            for &length in self.lengths.iter().take_while(|&&length| length <= grams.words()) {
                let gram = grams.last(length);
                if let Some(&Evidence { set, whole }) = self.grams.get(&gram) {
                    matches.push(Match { set, gram, start: grams.start_of_last(length), whole });
                }
            }
        });
        matches.sort_unstable_by_key(|found| (found.set, found.gram, found.start));
        let mut most: Option<(&[Match], usize)> = None;
        for of_set in matches.chunk_by(|a, b| a.set == b.set) {
            let grams = of_set.chunk_by(|a, b| a.gram == b.gram).count();
            let suffices = grams >= self.rules.min_grams || of_set.iter().any(|found| found.whole);
            if suffices && most.is_none_or(|(_, most)| grams > most) {
                most = Some((of_set, grams));
            }
        }
        let (of_set, grams) = most?;
        let start = of_set.iter().map(|found| found.start).min()?;
        let first_gram_char_offset = text[..start].chars().count();
        Some(Hit { set: &self.sets[usize::from(of_set[0].set)].name, grams, first_gram_char_offset })
    }

    fn set(&mut self, name: &str) -> Result<u16, Failure> {
        let known = self.sets.iter().position(|set| set.name == name);
        let set = known.unwrap_or_else(|| {
            self.sets.push(TestSet { name: name.to_owned(), items: 0, ignored: 0 });
            self.sets.len() - 1
        });
        u16::try_from(set).map_err(|_| {
            Failure::new(Exit::Usage, format!("more than {} test sets, `{name}` is one too many", u16::MAX))
        })
    }

    fn add(&mut self, set: u16, text: &str, endings: &mut Vec<u64>) {
        let Rules { ngram, min_grams, min_words } = self.rules;
        let mut words = Vec::new();
        for_each_word(text, |word| words.push(word));
        let counts = &mut self.sets[usize::from(set)];
        counts.items += 1;
        let whole = words.len() + 1 < ngram + min_grams;
        if words.is_empty() || whole && words.len() < min_words {
            counts.ignored += 1;
            return;
        }
        let length = if whole { words.len() } else { ngram };
        if !self.lengths.contains(&length) {
            self.lengths.push(length);
        }
        let mut grams = Grams::default();
        for word in words {
            grams.push(word);
            if grams.words() >= length {
                let known = self.grams.entry(grams.last(length)).or_insert(Evidence { set, whole });
                known.whole |= whole;
                endings.push(grams.last(self.ending));
            }
        }
    }
}

/// A set of hashes that takes 16 to 32 bits for each, so that it stays in the processor's cache where a map does not. At most
/// one in 16 of other hashes seems to be in it.
#[derive(Default)]
struct Bitmap {
    words: Vec<u64>,
    shift: u32,
}

impl Bitmap {
    fn of(hashes: &[u64]) -> Self {
        let bits = (hashes.len() * 16).next_power_of_two().max(64);
        let (mut words, shift) = (vec![0; bits / 64], u64::BITS - bits.ilog2());
        for hash in hashes {
            let bit = hash >> shift;
            words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        Self { words, shift }
    }

    #[inline(always)]
    fn may_contain(&self, hash: u64) -> bool {
        let bit = hash >> self.shift;
        self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }
}

/// Grams are hashes already.
#[derive(Default)]
struct GramHasher(u64);

impl Hasher for GramHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, gram: u64) {
        self.0 = gram;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| hash.rotate_left(8) ^ u64::from(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: &str =
        "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning, and bakes muffins.";
    const SHORT: &str = "How many primes are there below one hundred?";

    fn rules(ngram: usize, min_grams: usize, min_words: usize) -> Rules {
        Rules { ngram, min_grams, min_words }
    }

    /// The hit's set, grams and the document's text from its offset on.
    #[track_caller]
    fn check(rules: Rules, items: &[(&str, &str)], document: &str, expect: Option<(&str, usize, &str)>) {
        let contamination = Contamination::build(items.iter().copied(), rules).unwrap();
        let hit = contamination.check(document).map(|hit| {
            let offset = document.char_indices().nth(hit.first_gram_char_offset).unwrap().0;
            (hit.set, hit.grams, &document[offset..][..expect.map_or(0, |(.., start)| start.len())])
        });
        assert_eq!(hit, expect);
    }

    #[test]
    fn a_copy_is_found_whatever_its_markup() {
        let copy =
            "É — see: **janet’s ducks** lay 16 eggs\nper day; she eats three for breakfast every morning and bakes";
        check(Rules::default(), &[("gsm8k", LONG)], copy, Some(("gsm8k", 5, "janet’s ducks")));
        check(rules(13, 5, 8), &[("gsm8k", LONG)], copy, Some(("gsm8k", 5, "janet")));
        check(rules(13, 6, 8), &[("gsm8k", LONG)], copy, None);
        check(
            Rules::default(),
            &[("gsm8k", LONG)],
            "Janet's ducks lay 16 eggs per day. She eats three for supper.",
            None,
        );
        check(Rules::default(), &[], copy, None);
        check(Rules::default(), &[("gsm8k", LONG)], "", None);
    }

    #[test]
    fn short_items_are_found_whole_or_ignored() {
        let document = "Exercise 3. how many primes are there below one hundred, and below 200?";
        check(Rules::default(), &[("short", SHORT)], document, Some(("short", 1, "how many")));
        check(rules(13, 3, 8), &[("short", SHORT)], document, Some(("short", 1, "how many")));
        check(rules(13, 1, 9), &[("short", SHORT)], document, None);
        check(Rules::default(), &[("short", SHORT)], "how many primes are there below two hundred", None);
        check(rules(13, 1, 1), &[("tiny", "primes"), ("short", SHORT)], document, Some(("tiny", 1, "primes")));
    }

    #[test]
    fn the_set_that_shares_most_is_named() {
        let items = [("short", SHORT), ("gsm8k", LONG), ("again", LONG)];
        check(Rules::default(), &items, &format!("{SHORT} {LONG}"), Some(("gsm8k", 6, "Janet")));
        check(Rules::default(), &items, &format!("{LONG} {LONG} {SHORT}"), Some(("gsm8k", 6, "Janet")));
        check(Rules::default(), &items, SHORT, Some(("short", 1, "How")));
    }

    #[test]
    fn items_are_counted_by_set() {
        let items = [("a", LONG), ("b", "too short"), ("a", SHORT), ("a", "")];
        let contamination = Contamination::build(items, Rules::default()).unwrap();
        let set = |name: &str, items, ignored| TestSet { name: name.to_owned(), items, ignored };
        assert_eq!(contamination.sets(), [set("a", 3, 1), set("b", 1, 1)]);
        assert_eq!(contamination.grams(), 6 + 1);
    }

    #[test]
    fn impossible_rules_are_refused() {
        for (ngram, min_grams) in [(0, 1), (13, 0), (64, 2), (usize::MAX, usize::MAX)] {
            assert!(Contamination::build([("a", "b")], rules(ngram, min_grams, 8)).is_err());
        }
        assert!(Contamination::build([("a", "b")], rules(63, 2, 8)).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_checked(text in ".*", item in ".*", ngram in 1usize..20, min_words in 0usize..10) {
            let contamination = Contamination::build([("set", &item)], rules(ngram, 1, min_words)).unwrap();
            let own = contamination.check(&item);
            prop_assert_eq!(own.is_some(), contamination.grams() > 0);
            if let Some(hit) = contamination.check(&text) {
                prop_assert!(hit.first_gram_char_offset < text.chars().count());
            }
            let inside = contamination.check(&format!("{text} {item} {text}"));
            prop_assert!(own.is_none() || inside.is_some());
        }
    }
}
