//! A text as a stream of normalised words and word n-grams, hashed: what near-duplicate removal and decontamination
//! compare.
//!
//! A word is a maximal run of Unicode alphanumeric characters, compared without case. Punctuation (the underscore
//! too) and combining marks U+0300–U+036F do not count, so that `x_{1}`, `x_1` and `X 1` are the same two words.
//! A script written without spaces gives one word per run between punctuation marks. Nothing is allocated per ASCII
//! word, and hashes do not depend on the platform.

/// The longest n-gram that [`Grams`] can hash, in words.
pub const MAX_GRAM: usize = 63;

/// A word's place in the text and the hash of its normalised form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    pub hash: u64,
    /// Byte offset of the word's first character.
    pub start: usize,
}

/// Calls `visit` with each word of `text`, in order.
#[inline]
pub fn for_each_word(text: &str, mut visit: impl FnMut(Word)) {
    let bytes = text.as_bytes();
    let mut folded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        at += bytes[at..].iter().take_while(|&&byte| IN_WORD[byte as usize]).count();
        if bytes.get(at).is_some_and(|&byte| byte >= UTF8_LEAD) && text[at..].starts_with(continues_word) {
            at = fold_unicode_word(text, start, &mut folded);
            if !folded.is_empty() {
                visit(Word { hash: hash_bytes(&folded), start });
            }
            continue;
        }
        if at > start {
            visit(Word { hash: hash_ascii_word(bytes, start, at), start });
        }
        at += 1;
    }
}

/// The smallest first byte of a character outside ASCII; those from 0x80 to here continue one.
const UTF8_LEAD: u8 = 0xc0;

/// Whether a byte is an ASCII letter or digit.
const IN_WORD: [bool; 256] = {
    let mut in_word = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        in_word[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    in_word
};

/// Writes the normalised word that begins at `start` into `folded` (nothing, where combining marks stand alone) and
/// returns the offset behind it.
fn fold_unicode_word(text: &str, start: usize, folded: &mut Vec<u8>) -> usize {
    folded.clear();
    let mut utf8 = [0; 4];
    let word = text[start..].split(|char| !continues_word(char)).next().unwrap_or_default();
    for char in word.chars() {
        // By way of upper case, which alone brings `ß` and `SS`, `ς` and `Σ`, `ı` and `I` together.
        let upper = char.to_lowercase().flat_map(char::to_uppercase);
        for lower in upper.flat_map(char::to_lowercase).filter(|&folded| !is_combining_mark(folded)) {
            folded.extend_from_slice(lower.encode_utf8(&mut utf8).as_bytes());
        }
    }
    start + word.len()
}

fn continues_word(char: char) -> bool {
    char.is_alphanumeric() || is_combining_mark(char)
}

fn is_combining_mark(char: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&char)
}

/// [`hash_bytes`] of the lower-cased word `bytes[start..end]`, which holds ASCII letters and digits only: for those,
/// setting bit 5 is lower-casing.
#[inline(always)]
fn hash_ascii_word(bytes: &[u8], start: usize, end: usize) -> u64 {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    let mut hash = length_seed(end - start);
    let mut at = start;
    while at < end {
        // Reading past the word and masking is faster than reading what there is.
        let eight = first_eight(bytes.get(at..at + 8).unwrap_or(&bytes[at..]));
        let inside = if end - at < 8 { (1 << (8 * (end - at))) - 1 } else { u64::MAX };
        hash = fold_multiply(hash ^ ((eight | LOWER) & inside));
        at += 8;
    }
    hash
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(length_seed(bytes.len()), |hash, chunk| fold_multiply(hash ^ first_eight(chunk)))
}

/// At most eight bytes as a little-endian number.
#[inline(always)]
fn first_eight(bytes: &[u8]) -> u64 {
    bytes
        .try_into()
        .map(u64::from_le_bytes)
        .unwrap_or_else(|_| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[inline(always)]
fn length_seed(length: usize) -> u64 {
    (length as u64 ^ 0x2545_f491_4f6c_dd1d).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The 128-bit product with an odd constant, its halves folded together: one multiplication mixes every bit.
#[inline(always)]
fn fold_multiply(value: u64) -> u64 {
    let product = u128::from(value) * 0xa076_1d64_78bd_642f;
    product as u64 ^ (product >> 64) as u64
}

/// A bijection of 64-bit numbers in which each input bit changes about half of the output bits: the finaliser of
/// SplitMix64 (Steele, Lea, Flood 2014).
#[inline(always)]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The hashes of the n-grams that end at the last word pushed, for any n up to [`MAX_GRAM`].
///
/// Keeps polynomial hashes of the text's prefixes modulo 2^64, `P[i] = P[i-1]·BASE + word[i]`, so that an n-gram costs one
/// multiplication whatever its length: `P[i] - P[i-n]·BASE^n`. Words are hashed to 64 random bits and `BASE` is odd, so two
/// different n-grams collide with a probability of about 2^-64.
pub struct Grams {
    prefixes: [u64; MAX_GRAM + 1],
    starts: [usize; MAX_GRAM + 1],
    words: usize,
}

impl Default for Grams {
    fn default() -> Self {
        Self { prefixes: [0; MAX_GRAM + 1], starts: [0; MAX_GRAM + 1], words: 0 }
    }
}

const BASE: u64 = 0x5851_f42d_4c95_7f2d;

const POWERS: [u64; MAX_GRAM + 1] = {
    let mut powers = [1u64; MAX_GRAM + 1];
    let mut exponent = 1;
    while exponent <= MAX_GRAM {
        powers[exponent] = powers[exponent - 1].wrapping_mul(BASE);
        exponent += 1;
    }
    powers
};

impl Grams {
    #[inline(always)]
    pub fn push(&mut self, word: Word) {
        let before = self.prefixes[self.words & MAX_GRAM];
        self.starts[self.words & MAX_GRAM] = word.start;
        self.words += 1;
        self.prefixes[self.words & MAX_GRAM] = before.wrapping_mul(BASE).wrapping_add(word.hash);
    }

    /// How many words were pushed.
    #[inline(always)]
    pub fn words(&self) -> usize {
        self.words
    }

    /// The hash of the last `length` words. Means nothing unless `length <= MAX_GRAM` and `length <= self.words()`.
    #[inline(always)]
    pub fn last(&self, length: usize) -> u64 {
        let before = self.prefixes[self.words.wrapping_sub(length) & MAX_GRAM];
        let now = self.prefixes[self.words & MAX_GRAM];
        now.wrapping_sub(before.wrapping_mul(POWERS[length & MAX_GRAM]))
    }

    /// The byte offset at which the last `length` words begin, under the same conditions.
    #[inline(always)]
    pub fn start_of_last(&self, length: usize) -> usize {
        self.starts[self.words.wrapping_sub(length) & MAX_GRAM]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hashes(text: &str) -> Vec<u64> {
        let mut hashes = Vec::new();
        for_each_word(text, |word| hashes.push(word.hash));
        hashes
    }

    /// The texts have the same words, and as many as `count`.
    #[track_caller]
    fn check(texts: &[&str], count: usize) {
        for text in texts {
            assert_eq!(hashes(text).len(), count, "`{text}`");
            assert_eq!(hashes(text), hashes(texts[0]), "`{text}` and `{}`", texts[0]);
        }
    }

    #[test]
    fn words_are_alphanumeric_runs_without_case() {
        check(&["", " \n", "…—!", "\u{301}", "_"], 0);
        check(&["x_{1}", "X 1", "x_1", " x-1", "x\u{2019}1\u{301}"], 2);
        check(&["Straße", "STRASSE", "strasse"], 1);
        check(&["ΣΊΣΥΦΟΣ", "σίσυφος"], 1);
        check(&["the quick brown fox", "THE QUICK, BROWN... fox!", "“The—quick” brown\u{a0}fox"], 4);
        check(&["deduplication", "DeDuplication"], 1);
        check(&["naïve", "NAÏVE"], 1);
        check(&["数学 题", "数学。题"], 2);
    }

    #[test]
    fn different_words_have_different_hashes() {
        let words =
            ["a", "b", "ab", "ba", "aaaaaaaa", "aaaaaaaaa", "aaaaaaaab", "1", "11", "é", "e", "dedupe", "DEDUP"];
        let mut all: Vec<u64> = words.iter().flat_map(|word| hashes(word)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), words.len());
    }

    #[test]
    fn every_character_folds_as_its_upper_and_lower_case() {
        for char in (0..=0x10_ffff).filter_map(char::from_u32) {
            let (own, upper, lower) =
                (char.to_string(), char.to_uppercase().to_string(), char.to_lowercase().to_string());
            assert_eq!(hashes(&own), hashes(&upper), "{char:?} and {upper:?}");
            assert_eq!(hashes(&own), hashes(&lower), "{char:?} and {lower:?}");
        }
    }

    proptest! {
        #[test]
        fn a_word_is_where_it_says_it_is(text in "\\PC*") {
            let mut words = Vec::new();
            for_each_word(&text, |word| words.push(word));
            prop_assert!(words.is_sorted_by_key(|word| word.start));
            for (i, word) in words.iter().enumerate() {
                let end = words.get(i + 1).map_or(text.len(), |next| next.start);
                prop_assert_eq!(hashes(&text[word.start..end]), vec![word.hash]);
            }
        }

        #[test]
        fn a_gram_depends_on_its_words_only(
            before in prop::collection::vec("[a-c]{1,2}", 0..40),
            own in prop::collection::vec("[a-c]{1,2}", 1..=MAX_GRAM),
        ) {
            let gram = |words: &[String]| {
                let mut grams = Grams::default();
                for_each_word(&words.join(" "), |word| grams.push(word));
                (grams.last(own.len()), grams.start_of_last(own.len()))
            };
            let start = before.iter().map(|word| word.len() + 1).sum::<usize>();
            prop_assert_eq!(gram(&[before, own.clone()].concat()), (gram(&own).0, start));
        }
    }
}
