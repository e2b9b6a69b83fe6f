//! The embedded sample: every document has its gold labels, every label its evidence, and only the declared copies repeat.

use std::collections::{BTreeMap, BTreeSet};

use four_habits::data::sample::{DOCUMENTS, LABELS};
use serde::Deserialize;

/// The document that appears three times, under the addresses of two mirrors as well.
const REPEATED: &str = "https://puzzles.example.net/classics/four-people-one-torch";
const MIRRORS: [&str; 2] = [
    "https://mirror.example.org/puzzles-archive/four-people-one-torch.html",
    "https://reposts.example.net/brainteasers?id=1733",
];
/// The document that appears a second time with a few words changed.
const RETOLD: [&str; 2] = [
    "https://clockwork.example.net/blog/2017/when-do-the-hands-overlap",
    "https://watchmakers.example.org/articles/hands-of-the-clock",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    url: String,
    text: String,
    date: Option<String>,
    metadata: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    id: String,
    source: String,
    verification: usize,
    backtracking: usize,
    subgoal_setting: usize,
    backward_chaining: usize,
    evidence: Evidence,
}

/// Quotes from the document, one for each counted instance.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Evidence {
    verification: Vec<String>,
    backtracking: Vec<String>,
    subgoal_setting: Vec<String>,
    backward_chaining: Vec<String>,
}

impl Label {
    fn counts(&self) -> [(&'static str, usize, &[String]); 4] {
        [
            ("verification", self.verification, &self.evidence.verification),
            ("backtracking", self.backtracking, &self.evidence.backtracking),
            ("subgoal_setting", self.subgoal_setting, &self.evidence.subgoal_setting),
            ("backward_chaining", self.backward_chaining, &self.evidence.backward_chaining),
        ]
    }

    fn shown(&self) -> Vec<&'static str> {
        self.counts().into_iter().filter(|(_, count, _)| *count > 0).map(|(behavior, ..)| behavior).collect()
    }
}

fn lines<'de, T: Deserialize<'de>>(jsonl: &'de [u8]) -> serde_json::Result<Vec<T>> {
    jsonl.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(serde_json::from_slice).collect()
}

#[test]
fn the_shard_is_small_and_every_address_is_its_own() {
    let documents: Vec<Document> = lines(DOCUMENTS).unwrap();
    assert!(DOCUMENTS.len() <= 400_000, "{} bytes", DOCUMENTS.len());
    assert!(DOCUMENTS.ends_with(b"\n") && LABELS.ends_with(b"\n"));
    assert!(documents.len() >= 120, "{} documents", documents.len());
    let urls: BTreeSet<&str> = documents.iter().map(|document| document.url.as_str()).collect();
    assert_eq!(urls.len(), documents.len());
    for Document { url, text, .. } in &documents {
        let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap();
        assert!(host.ends_with(".example.org") || host.ends_with(".example.net"), "{url} may belong to somebody");
        assert_eq!(text.trim(), text, "{url}");
    }
}

#[test]
fn labels_stand_in_the_order_of_the_documents() {
    let documents: Vec<Document> = lines(DOCUMENTS).unwrap();
    let labels: Vec<Label> = lines(LABELS).unwrap();
    let urls: Vec<&str> = documents.iter().map(|document| document.url.as_str()).collect();
    let ids: Vec<&str> = labels.iter().map(|label| label.id.as_str()).collect();
    assert_eq!(ids, urls);
}

#[test]
fn every_counted_instance_is_quoted_from_the_text() {
    let documents: Vec<Document> = lines(DOCUMENTS).unwrap();
    let labels: Vec<Label> = lines(LABELS).unwrap();
    for (Document { url, text, .. }, label) in documents.iter().zip(&labels) {
        for (behavior, count, quotes) in label.counts() {
            assert_eq!(quotes.len(), count, "{url}: {behavior}");
            for quote in quotes {
                assert!(text.contains(quote.as_str()), "{url}: {behavior} quotes `{quote}`, which is not in the text");
            }
        }
    }
}

#[test]
fn groups_are_large_enough_and_show_what_their_name_says() {
    let labels: Vec<Label> = lines(LABELS).unwrap();
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for label in &labels {
        *sizes.entry(label.source.as_str()).or_default() += 1;
        let shown = label.shown();
        let fits = match label.source.as_str() {
            "none" | "look_alike" => shown.is_empty(),
            "mixed" => shown.len() >= 2,
            alone => shown == [alone],
        };
        assert!(fits, "{} is in the group `{}` and shows {shown:?}", label.id, label.source);
    }
    let check = |source: &str, at_least: usize| {
        let size = sizes.get(source).copied().unwrap_or_default();
        assert!(size >= at_least, "`{source}` has {size} documents, expected at least {at_least}");
    };
    check("verification", 14);
    check("backtracking", 14);
    check("subgoal_setting", 14);
    check("backward_chaining", 14);
    check("mixed", 24);
    check("none", 28);
    check("look_alike", 24);
    assert_eq!(sizes.len(), 7, "{sizes:?}");
}

#[test]
fn only_the_declared_copies_repeat() {
    let documents: Vec<Document> = lines(DOCUMENTS).unwrap();
    let text: BTreeMap<&str, &str> = documents.iter().map(|d| (d.url.as_str(), d.text.as_str())).collect();
    for mirror in MIRRORS {
        assert_eq!(text[mirror], text[REPEATED]);
    }
    let distinct: BTreeSet<&str> = text.values().copied().collect();
    assert_eq!(distinct.len(), documents.len() - MIRRORS.len());

    let words = |url: &str| text[url].split_whitespace().collect::<Vec<_>>();
    let [original, retold] = RETOLD.map(words);
    let shingles = |words: &[&str]| words.windows(5).map(|five| five.join(" ")).collect::<BTreeSet<_>>();
    let (original, retold) = (shingles(&original), shingles(&retold));
    let jaccard = original.intersection(&retold).count() as f64 / original.union(&retold).count() as f64;
    assert!((0.8..1.0).contains(&jaccard), "the near-duplicate shares {jaccard} of its five-word shingles");
}

#[test]
fn awkward_documents_are_present() {
    let documents: Vec<Document> = lines(DOCUMENTS).unwrap();
    let lengths = || documents.iter().map(|document| document.text.chars().count());
    assert!(lengths().min() < Some(100) && lengths().max() > Some(11_000));
    assert!(documents.iter().filter(|document| document.date.is_none()).count() >= 3);
    let not_json =
        documents.iter().filter(|document| serde_json::from_str::<serde_json::Value>(&document.metadata).is_err());
    assert_eq!(not_json.count(), 2);
    let any = |wanted: &dyn Fn(&str) -> bool| documents.iter().any(|document| wanted(&document.text));
    assert!(any(&|text| text.contains("```")), "no code block");
    assert!(any(&|text| text.contains("$$")), "no displayed formula");
    assert!(any(&|text| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))), "no Chinese sentence");
}
