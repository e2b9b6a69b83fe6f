//! MinHash sketches (Broder 1997) of one document: which bands of which minima, and how they are hashed.
//!
//! A document is the set of its word n-grams (see [`super::words`]). For each of `bands × rows` hash functions the
//! sketch takes the smallest value over that set; two documents agree in one of them with probability J, their Jaccard
//! similarity, hence in all rows of at least one band with probability `1 - (1 - J^rows)^bands`. Only a 64-bit key of
//! each band leaves this file: equal keys make candidates, [`super::near_duplicates`] makes clusters of them.

use super::words::{Grams, MAX_GRAM, for_each_word, mix};
use crate::error::{Exit, Failure};

/// What a sketch is made of. Sketches are comparable only when all four agree. The default is datatrove's shape: a pair of
/// Jaccard similarity 0.72 is found with probability 0.65, one of 0.8 with 0.92, one of 0.5 with 0.05.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Words per n-gram.
    pub ngram: usize,
    pub bands: usize,
    /// Minima per band.
    pub rows: usize,
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { ngram: 5, bands: 14, rows: 8, seed: 1 }
    }
}

impl Shape {
    /// The probability that two documents of this Jaccard similarity share at least one band.
    pub fn share_probability(&self, jaccard: f64) -> f64 {
        1.0 - (1.0 - jaccard.powi(self.rows as i32)).powi(self.bands as i32)
    }
}

/// One 64-bit key per band: `bands × 8` bytes per document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    pub bands: Box<[u64]>,
}

/// Sketches any number of documents, on any thread: it holds the hash functions only.
///
/// The functions are `h_i(x) = high(x) + a_i·low(x) mod 2^32` over the halves of a well mixed 64-bit gram hash `x`, with
/// random odd `a_i`: the values of any two functions are as good as independent, and two grams that agree in all of them
/// agree in all 64 bits. One is a multiplication, an addition and a minimum, in vectors of grams.
pub struct MinHasher {
    shape: Shape,
    multipliers: Vec<u32>,
}

/// Grams that are hashed in one go: the buffers stay in the L1 cache.
const BATCH: usize = 512;

/// Batches are filled up to a multiple of this, so that no gram is left to the scalar end of a vector loop.
const VECTOR: usize = 32;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl MinHasher {
    /// Fails where `shape` is not one: nothing in it but the seed may be zero, n-grams have at most 63 words, and there
    /// are at most 4,096 minima.
    pub fn new(shape: Shape) -> Result<Self, Failure> {
        let Shape { ngram, bands, rows, seed } = shape;
        if ngram == 0 || ngram > MAX_GRAM {
            let message = format!("MinHash cannot compare n-grams of `{ngram}` words");
            return Err(Failure::new(Exit::Usage, message).hint(format!("take 1 to {MAX_GRAM}; 5 is usual")));
        }
        if bands == 0 || rows == 0 || bands.saturating_mul(rows) > 4096 {
            let message = format!("MinHash cannot take `{bands}` bands of `{rows}` rows");
            return Err(Failure::new(Exit::Usage, message).hint("take 1 to 4096 in all; 14 bands of 8 rows are usual"));
        }
        let multiplier = |i: usize| mix(seed.wrapping_add((i as u64 + 1).wrapping_mul(GOLDEN))) as u32 | 1;
        Ok(Self { shape, multipliers: (0..bands * rows).map(multiplier).collect() })
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The sketch of `text`, or `None` where it has no word. A text of fewer words than an n-gram has is one gram.
    pub fn sketch(&self, text: &str) -> Option<Sketch> {
        let mut minima = Minima::new(self);
        let mut grams = Grams::default();
        for_each_word(text, |word| {
            grams.push(word);
            if grams.words() >= self.shape.ngram {
                minima.push(grams.last(self.shape.ngram));
            }
        });
        match grams.words() {
            0 => return None,
            words if words < self.shape.ngram => minima.push(grams.last(words)),
            _ => {}
        }
        minima.take_batch();
        Some(Sketch { bands: minima.values.chunks_exact(self.shape.rows).map(band_key).collect() })
    }
}

fn band_key(minima: &[u32]) -> u64 {
    minima.iter().fold(GOLDEN, |key, &minimum| mix(key ^ u64::from(minimum)).wrapping_add(GOLDEN))
}

/// Each hash function's smallest value over the grams so far, but for those still waiting in the batch.
struct Minima<'a> {
    hasher: &'a MinHasher,
    values: Vec<u32>,
    lows: [u32; BATCH],
    highs: [u32; BATCH],
    waiting: usize,
}

impl<'a> Minima<'a> {
    fn new(hasher: &'a MinHasher) -> Self {
        let values = vec![u32::MAX; hasher.multipliers.len()];
        Self { hasher, values, lows: [0; BATCH], highs: [0; BATCH], waiting: 0 }
    }

    #[inline(always)]
    fn push(&mut self, gram: u64) {
        let mixed = mix(gram ^ self.hasher.shape.seed);
        (self.lows[self.waiting], self.highs[self.waiting]) = (mixed as u32, (mixed >> 32) as u32);
        self.waiting += 1;
        if self.waiting == BATCH {
            self.take_batch();
        }
    }

    fn take_batch(&mut self) {
        if self.waiting > 0 {
            let whole = self.waiting.next_multiple_of(VECTOR);
            for half in [&mut self.lows, &mut self.highs] {
                let first = half[0];
                half[self.waiting..whole].fill(first); // Repeating a gram changes no minimum.
            }
            lower_minima(&mut self.values, &self.hasher.multipliers, &self.lows[..whole], &self.highs[..whole]);
            self.waiting = 0;
        }
    }
}

/// Takes every hash function's minimum with its values at the grams.
fn lower_minima(minima: &mut [u32], multipliers: &[u32], lows: &[u32], highs: &[u32]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the one feature that the function is compiled for.
            return unsafe { lower_minima_avx2(minima, multipliers, lows, highs) };
        }
    }
    lower_minima_anywhere(minima, multipliers, lows, highs);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn lower_minima_avx2(minima: &mut [u32], multipliers: &[u32], lows: &[u32], highs: &[u32]) {
    lower_minima_anywhere(minima, multipliers, lows, highs);
}

/// Inlined into the above, where the compiler turns the fold into AVX2's instructions: twice SSE2's speed (AVX-512 would
/// add nothing more, cutting text into words takes longer than this by then).
#[inline(always)]
fn lower_minima_anywhere(minima: &mut [u32], multipliers: &[u32], lows: &[u32], highs: &[u32]) {
    for (minimum, multiplier) in minima.iter_mut().zip(multipliers) {
        let values = lows.iter().zip(highs).map(|(&low, &high)| multiplier.wrapping_mul(low).wrapping_add(high));
        *minimum = values.fold(*minimum, u32::min);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn sketch(text: &str) -> Option<Sketch> {
        MinHasher::new(Shape::default()).unwrap().sketch(text)
    }

    /// Both texts have one sketch.
    #[track_caller]
    fn check(text: &str, same: &str) {
        assert!(sketch(text).is_some(), "`{text}`");
        assert_eq!(sketch(text), sketch(same), "`{text}` and `{same}`");
    }

    #[test]
    fn case_and_punctuation_do_not_matter() {
        check("The set of all primes is infinite.", "the SET of ‘all’ primes -- is infinite");
        check("Let $x_1 = 2$", "let x 1 2");
        check("one", "\n ONE!");
    }

    #[test]
    fn short_texts_are_one_gram_and_empty_ones_have_no_sketch() {
        assert_eq!(sketch(""), None);
        assert_eq!(sketch(" … \n"), None);
        let short = ["a", "a b", "b a", "a b c", "a b c d", "a b c d e", "a a"].map(|text| sketch(text).unwrap().bands);
        for (i, bands) in short.iter().enumerate() {
            assert_eq!(bands.len(), 14);
            for other in &short[..i] {
                assert!(bands.iter().zip(other).all(|(a, b)| a != b));
            }
        }
    }

    #[test]
    fn sketches_do_not_change_between_versions_and_machines() {
        let text = "Eight multiplications per word are fewer than one hundred and twelve. ".repeat(100) + "naïve 数学";
        let bands = sketch(&text).unwrap().bands;
        assert_eq!((bands[0], bands[13]), (13704331850099368626, 8223592076354135302));
        let mut portable = Vec::new();
        for anywhere in [false, true] {
            let hasher = MinHasher::new(Shape::default()).unwrap();
            let (lows, highs): (Vec<u32>, Vec<u32>) = (0..1000).map(|i| (mix(i) as u32, mix(!i) as u32)).unzip();
            let mut minima = vec![u32::MAX; hasher.multipliers.len()];
            let lower = if anywhere { lower_minima_anywhere } else { lower_minima };
            lower(&mut minima, &hasher.multipliers, &lows, &highs);
            portable.push(minima);
        }
        assert_eq!(portable[0], portable[1]);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (ngram, bands, rows) in [(0, 14, 8), (64, 14, 8), (5, 0, 8), (5, 14, 0), (5, usize::MAX, 2)] {
            assert!(MinHasher::new(Shape { ngram, bands, rows, seed: 1 }).is_err());
        }
    }

    /// Of pairs of sets of `size` words with Jaccard similarity `jaccard`, the share that has a band in common lies
    /// within four standard errors of the S-curve `1 - (1 - J^rows)^bands`.
    #[track_caller]
    fn check_curve(shape: Shape, size: usize, jaccard: f64) {
        const PAIRS: usize = 4000;
        let hasher = MinHasher::new(shape).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(shape.seed);
        let shared = (2.0 * size as f64 * jaccard / (1.0 + jaccard)).round() as usize;
        let jaccard = shared as f64 / (2 * size - shared) as f64;
        let mut found = 0;
        for _ in 0..PAIRS {
            let words: Vec<String> = (0..2 * size - shared).map(|_| format!("{:x}", random.random::<u64>())).collect();
            let [mut a, mut b] = [&words[..size], &words[size - shared..]].map(<[String]>::to_vec);
            a.shuffle(&mut random);
            b.shuffle(&mut random);
            let [a, b] = [a, b].map(|words| hasher.sketch(&words.join(" ")).unwrap().bands);
            found += usize::from(a.iter().zip(&b).any(|(a, b)| a == b));
        }
        let expected = shape.share_probability(jaccard);
        let error = (expected * (1.0 - expected) / PAIRS as f64).sqrt();
        let share = found as f64 / PAIRS as f64;
        assert!((share - expected).abs() <= 4.0 * error + 1e-3, "J = {jaccard}: {share}, expected {expected}");
    }

    #[test]
    fn pairs_share_a_band_as_often_as_the_curve_says() {
        let default = Shape { ngram: 1, ..Shape::default() };
        for jaccard in [0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95] {
            check_curve(default, 60, jaccard);
        }
        for size in [2, 5, 12, 700] {
            check_curve(Shape { seed: size as u64, ..default }, size, 0.7);
        }
        check_curve(Shape { bands: 1, rows: 1, ..default }, 60, 0.5);
        check_curve(Shape { bands: 20, rows: 3, ..default }, 60, 0.3);
    }

    #[test]
    fn the_default_curve_is_as_documented() {
        let at = |jaccard| (Shape::default().share_probability(jaccard) * 100.0).round() / 100.0;
        assert_eq!([0.5, 0.72, 0.8, 0.9].map(at), [0.05, 0.65, 0.92, 1.0]);
    }

    proptest! {
        #[test]
        fn any_text_has_one_sketch_however_it_is_cased(text in ".*") {
            let own = sketch(&text);
            prop_assert_eq!(&own, &sketch(&text));
            prop_assert_eq!(&own, &sketch(&text.to_uppercase()));
            prop_assert_eq!(&own, &sketch(&text.to_lowercase()));
            prop_assert_eq!(own.is_some(), text.chars().any(char::is_alphanumeric));
        }

        #[test]
        fn punctuation_does_not_matter(words in prop::collection::vec("\\w{1,9}", 1..40), mark in "[[:punct:]\\s]{1,3}") {
            let words: Vec<_> = words.iter().map(|word| word.replace('_', "")).filter(|word| !word.is_empty()).collect();
            prop_assert_eq!(sketch(&words.join(" ")), sketch(&words.join(&mark)));
        }

        #[test]
        fn any_shape_takes_any_length(words in 0usize..1500, ngram in 1..=MAX_GRAM, bands in 1usize..20, rows in 1usize..10) {
            let text: String = (0..words).map(|i| format!("{} ", i % 7)).collect();
            let sketch = MinHasher::new(Shape { ngram, bands, rows, seed: 3 }).unwrap().sketch(&text);
            prop_assert_eq!(sketch.map(|sketch| sketch.bands.len()), (words > 0).then_some(bands));
        }
    }
}
