//! Decontamination of real documents from real test sets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};

use four_habits::data::decontaminate::{Contamination, Rules};

use crate::math_docs::{math_docs, shared};

/// (test set, question, solution)
fn items() -> Option<Vec<(&'static str, String, String)>> {
    let mut items = Vec::new();
    for (set, file, question, solution) in [
        ("gsm8k", "math_docs/gsm8k_test.jsonl", "question", "answer"),
        ("math", "math_docs/hendrycks_math_test_5000.jsonl", "problem", "solution"),
    ] {
        for line in std::fs::read_to_string(shared("decontamination", file)?).unwrap().lines() {
            let item: serde_json::Value = serde_json::from_str(line).unwrap();
            items.push((set, item[question].as_str().unwrap().to_owned(), item[solution].as_str().unwrap().to_owned()));
        }
    }
    Some(items)
}

#[test]
fn every_planted_question_is_found_and_nearly_no_document_is() {
    let Some(items) = items() else { return };
    let documents = math_docs("decontamination").unwrap();
    let questions = items.iter().map(|(set, question, _)| (*set, question));
    let contamination = Contamination::build(questions, Rules::default()).unwrap();
    let counts: Vec<_> = contamination.sets().iter().map(|set| (set.name.as_str(), set.items)).collect();
    assert_eq!(counts, [("gsm8k", 1319), ("math", 5000)]);
    let ignored: usize = contamination.sets().iter().map(|set| set.ignored).sum();

    let mut missed = 0;
    for ((_, question, _), document) in items.iter().zip(documents.iter().cycle()) {
        let cut = document.text.char_indices().nth(1000).map_or(document.text.len(), |(at, _)| at);
        let (before, after) = document.text.split_at(cut);
        let planted = format!("{before} \n**Problem.** {} {after}", question.to_uppercase().replace(' ', "  "));
        missed += usize::from(contamination.check(&planted).is_none());
    }
    assert_eq!(missed, ignored);

    let hits = documents.iter().filter(|document| contamination.check(&document.text).is_some()).count();
    assert!(hits < documents.len() / 200, "{hits} of {}", documents.len());
}

/// Words as numbers, so that n-grams compare without hashes of ours.
#[derive(Default)]
struct Vocabulary(HashMap<String, u32>);

impl Vocabulary {
    fn words(&mut self, text: &str) -> Vec<u32> {
        let lower = text.to_lowercase();
        let words = lower.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty());
        words
            .map(|word| {
                let next = self.0.len() as u32;
                *self.0.entry(word.to_owned()).or_insert(next)
            })
            .collect()
    }
}

#[test]
fn documents_are_contaminated_by_the_definition() {
    let Some(items) = items() else { return };
    let documents = math_docs("decontamination").unwrap();
    let texts: Vec<_> =
        items.iter().flat_map(|(set, question, solution)| [(*set, question), (*set, solution)]).collect();
    let rules = Rules { min_words: 10, ..Rules::default() };
    let contamination = Contamination::build(texts.iter().copied(), rules).unwrap();

    let mut vocabulary = Vocabulary::default();
    let texts: Vec<_> = texts.iter().map(|(_, text)| vocabulary.words(text)).collect();
    let long_enough = texts.iter().filter(|words| words.len() >= rules.min_words);
    let grams: HashSet<&[u32]> = long_enough.flat_map(|words| words.windows(rules.ngram.min(words.len()))).collect();
    assert_eq!(contamination.grams(), grams.len());
    let mut hits = 0;
    for document in &documents {
        let words = vocabulary.words(&document.text);
        let mut shared: HashSet<&[u32]> = HashSet::new();
        for length in rules.min_words..=rules.ngram {
            shared.extend(words.windows(length).filter(|gram| grams.contains(gram)));
        }
        let hit = contamination.check(&document.text);
        assert_eq!(hit.map_or(0, |hit| hit.grams), shared.len(), "{} row {}", document.shard, document.row);
        hits += usize::from(hit.is_some());
    }
    assert!(hits > 10, "{hits}");
}
