//! Clusters of equal and nearly equal documents, from keys that each document has: its text's hash, or the bands of its
//! MinHash sketch.
//!
//! Two documents with an equal key belong to one cluster, and so do all that are linked through others. The keys come one
//! band at a time, so that memory holds one band of the corpus and four bytes per document. A cluster is named by its
//! first document in corpus order, whatever order keys and bands come in and on however many threads.

use rayon::slice::ParallelSliceMut;

/// The first 128 bits of a text's BLAKE3 hash: the key that makes clusters of byte-equal documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExactKey(u128);

impl ExactKey {
    pub fn of(text: &str) -> Self {
        let hash = blake3::hash(text.as_bytes());
        Self(hash.as_bytes()[..16].iter().fold(0, |key, &byte| key << 8 | u128::from(byte)))
    }

    pub fn high(self) -> u64 {
        (self.0 >> 64) as u64
    }

    pub fn low(self) -> u64 {
        self.0 as u64
    }
}

/// Which documents repeat which. Documents are numbered from zero in corpus order.
#[derive(Debug, Clone)]
pub struct Clusters {
    /// A document's parent is itself or an earlier document of its cluster; between two bands, the first one.
    parents: Vec<u32>,
}

impl Clusters {
    /// Every document alone.
    pub fn new(documents: u32) -> Self {
        Self { parents: (0..documents).collect() }
    }

    /// Joins the documents that have an equal key in this band. Sorts the band; documents without a key are left out of
    /// it.
    ///
    /// # Panics
    /// Where a document's number is not below that of `new`.
    pub fn add_band<Key: Ord + Send>(&mut self, band: &mut [(Key, u32)]) {
        band.par_sort_unstable();
        for pair in band.windows(2) {
            if pair[0].0 == pair[1].0 {
                self.join(pair[0].1, pair[1].1);
            }
        }
        // Parents come first, so that one pass leaves nothing but first documents.
        for document in 0..self.parents.len() {
            self.parents[document] = self.parents[self.parents[document] as usize];
        }
    }

    /// The first document of this document's cluster: itself, unless it repeats an earlier one.
    pub fn representative(&self, document: u32) -> u32 {
        self.parents[document as usize]
    }

    /// How many documents repeat an earlier one.
    pub fn duplicates(&self) -> usize {
        self.parents.iter().zip(0..).filter(|&(&first, document)| first != document).count()
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.first(a), self.first(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }

    fn first(&mut self, mut document: u32) -> u32 {
        while self.parents[document as usize] != document {
            let grandparent = self.parents[self.parents[document as usize] as usize];
            self.parents[document as usize] = grandparent; // Halves the way for whoever comes next.
            document = grandparent;
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn representatives(documents: u32, bands: &[Vec<(u64, u32)>]) -> Vec<u32> {
        let mut clusters = Clusters::new(documents);
        for band in bands {
            clusters.add_band(&mut band.clone());
        }
        (0..documents).map(|document| clusters.representative(document)).collect()
    }

    #[track_caller]
    fn check(bands: &[Vec<(u64, u32)>], expect: &[u32]) {
        assert_eq!(representatives(expect.len() as u32, bands), expect);
    }

    #[test]
    fn equal_keys_join_and_links_carry_over() {
        check(&[], &[0, 1, 2]);
        check(&[vec![(7, 0), (8, 1), (7, 2)]], &[0, 1, 0]);
        check(&[vec![(7, 4), (7, 3), (8, 0)], vec![(1, 3), (1, 1)]], &[0, 1, 2, 1, 1]);
        check(&[vec![(0, 1), (0, 2)], vec![(0, 3), (0, 4)], vec![(0, 4), (0, 1)]], &[0, 1, 1, 1, 1]);
        check(&[vec![]], &[]);
    }

    #[test]
    fn exact_keys_tell_any_byte_apart() {
        let texts = ["a b", "a  b", "a b", "A b", ""];
        let mut clusters = Clusters::new(5);
        clusters.add_band(&mut texts.iter().zip(0..).map(|(text, i)| (ExactKey::of(text), i)).collect::<Vec<_>>());
        assert_eq!((0..5).map(|i| clusters.representative(i)).collect::<Vec<_>>(), [0, 1, 0, 3, 4]);
        assert_eq!(clusters.duplicates(), 1);
        // BLAKE3's published test vector for no input.
        assert_eq!((ExactKey::of("").high(), ExactKey::of("").low()), (0xaf1349b9f5f9a1a6, 0xa0404dea36dcc949));
    }

    /// By the definition: a cluster is what can be reached through equal keys.
    fn reachable(documents: u32, bands: &[Vec<(u64, u32)>]) -> Vec<u32> {
        let mut first: Vec<u32> = (0..documents).collect();
        loop {
            let before = first.clone();
            for band in bands {
                for (key, a) in band {
                    for (_, b) in band.iter().filter(|(other, _)| other == key) {
                        first[*a as usize] = first[*a as usize].min(first[*b as usize]);
                    }
                }
            }
            if before == first {
                return first;
            }
        }
    }

    fn bands() -> impl Strategy<Value = Vec<Vec<(u64, u32)>>> {
        prop::collection::vec(prop::collection::vec((0u64..60, 0u32..60), 0..40), 0..4)
    }

    proptest! {
        #[test]
        fn clusters_do_not_depend_on_any_order(
            (bands, shuffled) in bands().prop_flat_map(|bands| {
                let shuffled: Vec<_> = bands.iter().map(|band| Just(band.clone()).prop_shuffle()).collect();
                (Just(bands), shuffled.prop_flat_map(|bands| Just(bands).prop_shuffle()))
            })
        ) {
            prop_assert_eq!(representatives(60, &bands), representatives(60, &shuffled));
            prop_assert_eq!(representatives(60, &bands), reachable(60, &bands));
        }
    }
}
