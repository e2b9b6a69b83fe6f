//! Which documents a corpus takes: a pure function of facts about documents, so that threads and tasks cannot matter.
//!
//! Order of the questions: does the condition select it, does it overlap with a test set, is it a duplicate of a selected
//! document before it, does the budget or the match have room for it.

use crate::config::{Corpus, Curate};
use crate::run::manifest::Fit;
use std::collections::{BTreeMap, BTreeSet};

/// What selection knows of a document. Documents are numbered in corpus order.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Index of the document's unit.
    pub unit: u32,
    /// Its row in the shard.
    pub row: u64,
    /// Its id, as a number.
    pub id: u64,
    pub tokens: u32,
    pub chars: u32,
    /// Bit i: the condition of the i-th corpus (by name) selects it.
    pub selected: u32,
    /// Bit b: it shows the b-th behavior.
    pub shown: u8,
    pub contaminated: bool,
    /// The first document with the same text, and the first of its cluster of near duplicates.
    pub same_text: u32,
    pub cluster: u32,
}

/// What a corpus does with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Train,
    Test,
    NotSelected,
    Contaminated,
    ExactDuplicate,
    NearDuplicate,
    OverBudget,
    Unmatched,
}

impl Fate {
    /// The word in `decisions.parquet` and in counts of dropped rows.
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Train => "train",
            Fate::Test => "test",
            Fate::NotSelected => "not-selected",
            Fate::Contaminated => "contaminated",
            Fate::ExactDuplicate => "exact-duplicate",
            Fate::NearDuplicate => "near-duplicate",
            Fate::OverBudget => "over-budget",
            Fate::Unmatched => "unmatched",
        }
    }

    pub const fn kept(self) -> bool {
        matches!(self, Fate::Train | Fate::Test)
    }
}

/// One corpus's selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// One per document.
    pub fates: Vec<Fate>,
    /// Documents of each split in the order in which they are written: a seeded shuffle.
    pub train: Vec<u32>,
    pub test: Vec<u32>,
    /// How well a matched corpus fits its partner.
    pub fit: Option<Fit>,
}

/// Selects for all corpora, in the order of their names.
pub fn select(facts: &[Facts], curate: &Curate, seed: u64) -> BTreeMap<String, Selection> {
    let shuffle: Vec<u64> = facts.iter().map(|document| mix(document.id ^ mix(seed))).collect();
    let mut kept: BTreeMap<&str, Chosen> = BTreeMap::new();
    // A matched corpus needs its partner first.
    let order = || curate.corpus.iter().enumerate();
    for (bit, (name, corpus)) in order()
        .filter(|(_, (_, corpus))| corpus.matched.is_none())
        .chain(order().filter(|(_, (_, corpus))| corpus.matched.is_some()))
    {
        let (mut fates, mut candidates) = eligible(facts, bit);
        candidates.sort_unstable_by_key(|&document| (shuffle[document as usize], document));
        let partner = corpus.matched.as_ref().and_then(|partner| kept.get(partner.as_str()));
        let (chosen, fit) = match partner {
            Some((_, wanted, _)) => {
                let (chosen, fit) = matched(facts, wanted, &candidates, &shuffle);
                (chosen, Some(fit))
            }
            None => (within_budget(facts, &candidates, corpus), None),
        };
        for &document in &candidates {
            fates[document as usize] = if partner.is_some() { Fate::Unmatched } else { Fate::OverBudget };
        }
        for &document in &chosen {
            fates[document as usize] = Fate::Train;
        }
        kept.insert(name, (fates, chosen, fit));
    }
    kept.into_iter()
        .map(|(name, (mut fates, mut train, fit))| {
            train.sort_unstable_by_key(|&document| (shuffle[document as usize], document));
            let test = train.split_off(train.len() - (train.len() as f64 * curate.test_share).round() as usize);
            for &document in &test {
                fates[document as usize] = Fate::Test;
            }
            (name.to_owned(), Selection { fates, train, test, fit })
        })
        .collect()
}

/// A corpus before its split: every document's fate, the documents kept, and the fit of a match.
type Chosen = (Vec<Fate>, Vec<u32>, Option<Fit>);

/// Every document's fate up to the budget, and the documents that pass.
fn eligible(facts: &[Facts], bit: usize) -> (Vec<Fate>, Vec<u32>) {
    // The first selected document of each cluster; duplicates of it are dropped.
    let mut first: Vec<u32> = vec![u32::MAX; facts.len()];
    let mut candidates = Vec::new();
    let fates = facts.iter().zip(0u32..).map(|(document, index)| {
        if document.selected & 1 << bit == 0 {
            return Fate::NotSelected;
        }
        if document.contaminated {
            return Fate::Contaminated;
        }
        let first = &mut first[document.cluster as usize];
        if *first != u32::MAX {
            let same_text = facts[*first as usize].same_text == document.same_text;
            return if same_text { Fate::ExactDuplicate } else { Fate::NearDuplicate };
        }
        *first = index;
        candidates.push(index);
        Fate::Train
    });
    let fates = fates.collect();
    (fates, candidates)
}

/// Goes through the shuffled candidates and takes each that still fits.
fn within_budget(facts: &[Facts], candidates: &[u32], corpus: &Corpus) -> Vec<u32> {
    let mut left = corpus.tokens.unwrap_or(u64::MAX);
    let fits = |&&document: &&u32| {
        let tokens = u64::from(facts[document as usize].tokens);
        let fits = tokens <= left;
        left -= if fits { tokens } else { 0 };
        fits
    };
    candidates.iter().filter(fits).copied().collect()
}

/// For each wanted document the unused candidate nearest in tokens.
fn matched(facts: &[Facts], wanted: &[u32], candidates: &[u32], shuffle: &[u64]) -> (Vec<u32>, Fit) {
    let tokens = |document: u32| facts[document as usize].tokens;
    let mut unused: BTreeSet<(u32, u64, u32)> =
        candidates.iter().map(|&document| (tokens(document), shuffle[document as usize], document)).collect();
    let mut chosen = Vec::new();
    let mut difference = 0;
    for &document in wanted {
        let target = tokens(document);
        let above = unused.range((target, 0, 0)..).next().copied();
        let below = unused.range(..(target, 0, 0)).next_back().copied();
        let nearest =
            [below, above].into_iter().flatten().min_by_key(|&(tokens, key, _)| (tokens.abs_diff(target), key));
        let Some(nearest) = nearest else { break };
        unused.remove(&nearest);
        difference += u64::from(nearest.0.abs_diff(target));
        chosen.push(nearest.2);
    }
    let sum = |documents: &[u32]| documents.iter().map(|&document| u64::from(tokens(document))).sum();
    let fit = Fit {
        wanted: wanted.len() as u64,
        matched: chosen.len() as u64,
        tokens_wanted: sum(wanted),
        tokens_matched: sum(&chosen),
        mean_difference: difference as f64 / chosen.len().max(1) as f64,
        length_distance: kolmogorov_smirnov(
            wanted.iter().map(|&d| tokens(d)).collect(),
            chosen.iter().map(|&d| tokens(d)).collect(),
        ),
    };
    (chosen, fit)
}

/// The largest gap between two empirical distribution functions.
fn kolmogorov_smirnov(mut a: Vec<u32>, mut b: Vec<u32>) -> f64 {
    if a.is_empty() || b.is_empty() {
        return if a.len() == b.len() { 0.0 } else { 1.0 };
    }
    a.sort_unstable();
    b.sort_unstable();
    let share = |values: &[u32], at: u32| values.partition_point(|&value| value <= at) as f64 / values.len() as f64;
    a.iter().chain(&b).map(|&at| (share(&a, at) - share(&b, at)).abs()).fold(0.0, f64::max)
}

/// SplitMix64's finaliser: a bijection that spreads every bit.
fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Deduplicate;

    fn document(id: u64, tokens: u32, selected: u32) -> Facts {
        Facts {
            unit: 0,
            row: id,
            id,
            tokens,
            chars: 4 * tokens,
            selected,
            shown: 0,
            contaminated: false,
            same_text: id as u32,
            cluster: id as u32,
        }
    }

    fn curate(corpora: &[(&str, Option<u64>, Option<&str>)], test_share: f64) -> Curate {
        let corpus = corpora.iter().map(|&(name, tokens, matched)| {
            (name.to_owned(), Corpus { condition: "true".into(), tokens, matched: matched.map(str::to_owned) })
        });
        Curate {
            token_counter: "pieces".into(),
            deduplicate: Deduplicate::default(),
            decontaminate: None,
            test_share,
            corpus: corpus.collect(),
        }
    }

    #[test]
    fn every_document_has_one_fate() {
        let mut facts: Vec<Facts> = (0..8).map(|id| document(id, 10, 1)).collect();
        facts[1].selected = 0;
        facts[2].contaminated = true;
        facts[4].same_text = 3;
        facts[4].cluster = 3;
        facts[5].cluster = 3;
        // A duplicate of a document that is not selected is the first of its cluster here.
        facts[6].cluster = 1;
        let selection = &select(&facts, &curate(&[("a", None, None)], 0.0), 7)["a"];
        use Fate::*;
        assert_eq!(
            selection.fates,
            [Train, NotSelected, Contaminated, Train, ExactDuplicate, NearDuplicate, Train, Train]
        );
        let mut train = selection.train.clone();
        train.sort_unstable();
        assert_eq!(train, [0, 3, 6, 7]);
    }

    #[test]
    fn a_budget_is_never_passed_and_the_draw_is_seeded() {
        let facts: Vec<Facts> = (0..200).map(|id| document(id, 1 + (id as u32 * 37) % 50, 1)).collect();
        let total = |seed| {
            let selection = select(&facts, &curate(&[("a", Some(1000), None)], 0.1), seed).remove("a").unwrap();
            let tokens: u32 = selection.train.iter().chain(&selection.test).map(|&d| facts[d as usize].tokens).sum();
            assert!(tokens <= 1000 && tokens > 990, "{tokens}");
            assert_eq!(
                selection.test.len(),
                ((selection.train.len() + selection.test.len()) as f64 * 0.1).round() as usize
            );
            selection
        };
        assert_eq!(total(1), total(1));
        assert_ne!(total(1).train, total(2).train);
    }

    #[test]
    fn a_match_has_the_same_lengths() {
        let mut facts: Vec<Facts> = (0..100).map(|id| document(id, 100 + id as u32, 0b10)).collect();
        // Corpora are numbered by name: `plain` is bit 0.
        facts.extend((100..1100).map(|id| document(id, (id as u32 * 7919) % 600, 0b01)));
        let selections = select(&facts, &curate(&[("rich", None, None), ("plain", None, Some("rich"))], 0.0), 0);
        let fit = selections["plain"].fit.unwrap();
        assert_eq!((fit.wanted, fit.matched), (100, 100));
        assert!(fit.mean_difference < 3.0 && fit.length_distance < 0.05, "{fit:?}");
        assert!(fit.tokens_wanted.abs_diff(fit.tokens_matched) < 200, "{fit:?}");
    }

    #[test]
    fn a_match_of_too_few_says_so() {
        let facts = vec![document(0, 10, 0b10), document(1, 20, 0b10), document(2, 11, 0b01)];
        let fit = select(&facts, &curate(&[("rich", None, None), ("plain", None, Some("rich"))], 0.0), 0)["plain"]
            .fit
            .unwrap();
        assert_eq!((fit.wanted, fit.matched), (2, 1));
    }
}
