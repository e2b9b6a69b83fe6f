//! Sketches and clusters on real text, against exact Jaccard similarities.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeSet, HashMap};

use four_habits::data::minhash::{MinHasher, Shape};
use four_habits::data::near_duplicates::Clusters;
use four_habits::data::words::{Grams, for_each_word};

use crate::math_docs::{MathDoc, math_docs, shared};

fn jaccard(a: &str, b: &str) -> f64 {
    let [a, b] = [a, b].map(|text| {
        let mut set = BTreeSet::new();
        let mut grams = Grams::default();
        for_each_word(text, |word| {
            grams.push(word);
            if grams.words() >= 5 {
                set.insert(grams.last(5));
            }
        });
        set
    });
    let shared = a.intersection(&b).count();
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}

fn bands(documents: &[MathDoc], shape: Shape) -> Vec<Vec<(u64, u32)>> {
    let hasher = MinHasher::new(shape).unwrap();
    let mut bands = vec![Vec::new(); shape.bands];
    for (document, index) in documents.iter().zip(0..) {
        if let Some(sketch) = hasher.sketch(&document.text) {
            bands.iter_mut().zip(sketch.bands).for_each(|(band, key)| band.push((key, index)));
        }
    }
    bands
}

/// The pairs that datasketch's MinHash found, whose exact similarities over `\w+` 5-grams were then computed.
#[test]
fn known_pairs_are_found_as_often_as_the_curve_says() {
    let Some(path) = shared("near-duplicate pairs", "oracles/near_duplicates_datasketch.json") else { return };
    let documents = math_docs("near-duplicate pairs").unwrap();
    let by_place: HashMap<(&str, u64), &str> =
        documents.iter().map(|doc| ((doc.shard.as_str(), doc.row as u64), doc.text.as_str())).collect();
    let oracle: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |end: &serde_json::Value| {
        let text = by_place[&(end["shard"].as_str().unwrap(), end["row"].as_u64().unwrap())];
        text.chars().take(20_000).collect::<String>()
    };
    // Ten seeds, so that chance is small beside the number of pairs.
    let hashers: Vec<_> = (0..10).map(|seed| MinHasher::new(Shape { seed, ..Shape::default() }).unwrap()).collect();
    let (mut found, mut expected, mut variance) = (0, 0.0, 0.0);
    let pairs = oracle["pairs"].as_array().unwrap();
    for pair in pairs {
        let [a, b] = ["a", "b"].map(|end| text(&pair[end]));
        let exact = pair["exact_jaccard"].as_f64().unwrap();
        // Their words contain underscores, ours do not.
        let ours = jaccard(&a, &b);
        assert!((ours - exact).abs() < 0.06, "{ours} is not near {exact}: {}", pair["a"]);
        for hasher in &hashers {
            let [a, b] = [&a, &b].map(|text| hasher.sketch(text).unwrap().bands);
            let share = a.iter().zip(&b).any(|(a, b)| a == b);
            assert!(share || exact < 0.9, "a pair of similarity {exact} was missed");
            let probability = hasher.shape().share_probability(ours);
            found += usize::from(share);
            expected += probability;
            variance += probability * (1.0 - probability);
        }
    }
    assert_eq!(pairs.len(), 78);
    assert!((found as f64 - expected).abs() < 4.0 * f64::sqrt(variance), "{found} found, {expected:.1} expected");
}

#[test]
fn no_two_unlike_documents_share_a_band() {
    let Some(documents) = math_docs("candidate pairs") else { return };
    let mut clusters = Clusters::new(documents.len() as u32);
    let mut candidates = BTreeSet::new();
    for mut band in bands(&documents, Shape::default()) {
        clusters.add_band(&mut band);
        for run in band.chunk_by(|a, b| a.0 == b.0) {
            candidates.extend(run.windows(2).map(|pair| (pair[0].1, pair[1].1)));
        }
    }
    assert!(candidates.len() > 10, "{}", candidates.len());
    assert!(clusters.duplicates() <= candidates.len());
    for (a, b) in candidates {
        let similarity = jaccard(&documents[a as usize].text, &documents[b as usize].text);
        let short = documents[a as usize].text.split_whitespace().count() < 5;
        assert!(similarity >= 0.2 || short, "documents {a} and {b} share a band at similarity {similarity}");
        assert_eq!(clusters.representative(a), clusters.representative(b));
    }
}
