//! A few documents for people to read: for each behavior those with the highest scores, and some that show none.

use crate::behavior::Behavior;
use crate::behavior::cue::{CueJudge, Lexicon};
use crate::behavior::judge::Mark;
use serde::Serialize;
use std::cmp::Ordering;

/// Documents shown per behavior, and for none of the four.
const SHOWN: usize = 2;

/// Candidates kept per behavior, so that a document that is the best for several is shown once.
const CANDIDATES: usize = 10;

/// Characters shown of a document.
const EXCERPT_CHARS: usize = 600;

/// Characters shown on either side of a cue.
const QUOTE_CHARS: usize = 90;

/// Cues shown per document.
const QUOTES: usize = 2;

/// A document that may be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub id: String,
    pub marks: [Mark; 4],
    /// The corpora that hold it.
    pub corpora: Vec<String>,
    /// Where to read it: a file or unit, and a row of it.
    pub place: (usize, u64),
}

/// The best documents seen so far. What it picks does not depend on the order in which documents are offered.
#[derive(Debug, Default)]
pub struct Picker {
    /// By behavior, and last those that show none; each in order, best first.
    groups: [Vec<Candidate>; 5],
}

impl Picker {
    /// Offers a labeled document that lies at `place`, in `corpus` if in any.
    pub fn offer(&mut self, id: &str, marks: &[Mark; 4], corpus: Option<&str>, place: (usize, u64)) {
        let none = marks.iter().all(|mark| mark.count == 0);
        for (group, list) in self.groups.iter_mut().enumerate() {
            let eligible = marks.get(group).map_or(none, |mark| mark.count > 0);
            let full = list.len() == CANDIDATES;
            let better = |best: &Candidate| compare(group, (&best.marks, &best.id), (marks, id));
            if !eligible || (full && list.last().is_some_and(|worst| better(worst) == Ordering::Less)) {
                continue;
            }
            let at = list.partition_point(|present| better(present) == Ordering::Less);
            match list.get_mut(at) {
                // The same document in another corpus.
                Some(same) if same.id == id => same.corpora.extend(corpus.map(str::to_owned)),
                _ => {
                    let corpora = corpus.map(str::to_owned).into_iter().collect();
                    list.insert(at, Candidate { id: id.to_owned(), marks: *marks, corpora, place });
                    list.truncate(CANDIDATES);
                }
            }
        }
    }

    /// The documents to show, each once: by behavior, and last (`None`) those that show none.
    pub fn pick(self) -> Vec<(Option<Behavior>, Vec<Candidate>)> {
        let behaviors = Behavior::ALL.into_iter().map(Some).chain([None]);
        let mut taken: Vec<String> = Vec::new();
        let mut picked = Vec::new();
        for (behavior, list) in behaviors.zip(self.groups) {
            let (fresh, seen): (Vec<_>, Vec<_>) = list.into_iter().partition(|one| !taken.contains(&one.id));
            let chosen: Vec<Candidate> = fresh.into_iter().chain(seen).take(SHOWN).collect();
            taken.extend(chosen.iter().map(|one| one.id.clone()));
            picked.push((behavior, chosen));
        }
        picked.retain(|(_, chosen)| !chosen.is_empty());
        picked
    }
}

/// For a behavior: the higher score first, then the higher count. For none of the four: the lower highest score first.
fn compare(group: usize, a: (&[Mark; 4], &str), b: (&[Mark; 4], &str)) -> Ordering {
    let marks = match (a.0.get(group), b.0.get(group)) {
        (Some(a), Some(b)) => b.score.total_cmp(&a.score).then(b.count.cmp(&a.count)),
        _ => highest(a.0).total_cmp(&highest(b.0)),
    };
    marks.then_with(|| a.1.cmp(b.1))
}

fn highest(marks: &[Mark; 4]) -> f32 {
    marks.iter().map(|mark| mark.score).fold(0.0, f32::max)
}

/// Documents that show one behavior, or none of the four.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleGroup {
    pub behavior: Option<Behavior>,
    pub documents: Vec<Sample>,
}

/// One document, in part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    pub id: String,
    pub url: Option<String>,
    pub source_file: String,
    pub source_row: u64,
    pub corpora: Vec<String>,
    /// In the order of [`Behavior::ALL`].
    pub marks: [Mark; 4],
    pub excerpt: String,
    /// Characters of the text that the excerpt leaves out.
    pub chars_left_out: u64,
    /// Where the cue judge, with the lexicon that the program ships, sees the behavior.
    pub quotes: Vec<Quote>,
}

/// A cue with some text around it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quote {
    pub before: String,
    pub cue: String,
    pub after: String,
    /// Where the cue begins, in characters of the text.
    pub at: u64,
}

/// The beginning of a text, cut between words, and how many characters are left out. Three empty lines become one.
pub fn excerpt(text: &str) -> (String, u64) {
    let text = text.trim();
    let end = text.char_indices().nth(EXCERPT_CHARS).map_or(text.len(), |(end, _)| end);
    let mut shown = &text[..end];
    if end < text.len()
        && let Some(space) = shown.rfind(char::is_whitespace)
        && shown.len() - space < 60
    {
        shown = &shown[..space];
    }
    let left_out = text[shown.len()..].chars().count() as u64;
    let mut tidy = String::with_capacity(shown.len());
    for line in shown.trim_end().lines() {
        if !(line.trim().is_empty() && tidy.ends_with("\n\n")) {
            tidy.push_str(line.trim_end());
            tidy.push('\n');
        }
    }
    (tidy.trim_end().to_owned(), left_out)
}

/// Quotes the strongest cues of a behavior.
pub struct Quoter {
    judge: CueJudge,
}

impl Quoter {
    /// Quotes by the lexicon that the program ships.
    pub fn embedded() -> Self {
        Self { judge: CueJudge::new(&Lexicon::embedded()) }
    }

    /// At most two cues, in the order of the text.
    pub fn quotes(&self, text: &str, behavior: Behavior) -> Vec<Quote> {
        let mut evidence = self.judge.explain(text);
        evidence.retain(|cue| cue.behavior == behavior);
        evidence.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.span.start.cmp(&b.span.start)));
        evidence.truncate(QUOTES);
        evidence.sort_by_key(|cue| cue.span.start);
        evidence
            .into_iter()
            .map(|cue| {
                let (before, after) = (&text[..cue.span.start], &text[cue.span.end..]);
                Quote {
                    before: last_words(before),
                    cue: one_line(&text[cue.span.clone()]),
                    after: first_words(after),
                    at: before.chars().count() as u64,
                }
            })
            .collect()
    }
}

/// The end of a text from a whole word on, in one line, with an ellipsis for what is left out.
fn last_words(text: &str) -> String {
    let from = text.char_indices().rev().nth(QUOTE_CHARS - 1).map_or(0, |(at, _)| at);
    let kept = match text[from..].find(char::is_whitespace) {
        Some(space) if from > 0 && space < 30 => &text[from + space..],
        _ => &text[from..],
    };
    let line = one_line(kept);
    if from > 0 { format!("… {}", line.trim_start()) } else { line.trim_start().to_owned() }
}

/// The beginning of a text up to a whole word, in one line, with an ellipsis for what is left out.
fn first_words(text: &str) -> String {
    let to = text.char_indices().nth(QUOTE_CHARS).map_or(text.len(), |(at, _)| at);
    let kept = match text[..to].rfind(char::is_whitespace) {
        Some(space) if to < text.len() && to - space < 30 => &text[..space],
        _ => &text[..to],
    };
    let line = one_line(kept);
    if to < text.len() { format!("{} …", line.trim_end()) } else { line.trim_end().to_owned() }
}

/// Every run of white space as one blank.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            space if space.is_whitespace() && line.ends_with(' ') => {}
            space if space.is_whitespace() => line.push(' '),
            other => line.push(other),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(scores: [f32; 4]) -> [Mark; 4] {
        scores.map(|score| Mark { score, count: u32::from(score >= 0.5) })
    }

    #[test]
    fn the_highest_scores_are_picked_each_document_once_in_any_order() {
        let documents = [
            ("a", marks([0.9, 0.9, 0.0, 0.0])),
            ("b", marks([0.8, 0.7, 0.0, 0.0])),
            ("c", marks([0.7, 0.6, 0.0, 0.0])),
            ("d", marks([0.6, 0.0, 0.0, 0.0])),
            ("e", marks([0.1, 0.0, 0.0, 0.0])),
            ("f", marks([0.0, 0.0, 0.0, 0.0])),
        ];
        let picked = |order: &mut dyn Iterator<Item = usize>| {
            let mut picker = Picker::default();
            order.for_each(|i| picker.offer(documents[i].0, &documents[i].1, None, (i, 0)));
            let groups = picker.pick();
            groups
                .into_iter()
                .map(|(behavior, list)| {
                    let ids: Vec<String> = list.into_iter().map(|one| one.id).collect();
                    format!("{}: {}", behavior.map_or("none", Behavior::name), ids.join(" "))
                })
                .collect::<Vec<_>>()
        };
        let expect = ["verification: a b", "backtracking: c a", "none: f e"];
        assert_eq!(picked(&mut (0..6)), expect);
        assert_eq!(picked(&mut (0..6).rev()), expect);
    }

    #[test]
    fn a_document_of_two_corpora_is_one() {
        let mut picker = Picker::default();
        for corpus in ["rich", "all"] {
            for id in 0..30 {
                picker.offer(&format!("{id:02}"), &marks([0.9, 0.0, 0.0, 0.0]), Some(corpus), (0, id));
            }
        }
        let picked = picker.pick();
        assert_eq!(picked.len(), 1);
        let ids: Vec<_> = picked[0].1.iter().map(|one| (one.id.as_str(), one.corpora.join(" "))).collect();
        assert_eq!(ids, [("00", "rich all".to_owned()), ("01", "rich all".to_owned())]);
    }

    #[test]
    fn excerpts_end_between_words_and_say_what_is_missing() {
        let check = |text: &str, expect: (&str, u64)| {
            let (shown, left_out) = excerpt(text);
            assert_eq!((shown.as_str(), left_out), expect);
        };
        check("", ("", 0));
        check("  short\n\n\n\n\ntext \n", ("short\n\ntext", 0));
        check(&"x".repeat(700), (&"x".repeat(600), 100));
        check(&"é word ".repeat(100), (&("é word ".repeat(85) + "é"), 103));
    }

    #[test]
    fn cues_are_quoted_with_what_is_around_them() {
        let text = format!("{}\nThat gives 24.  Let me check\nthe result: 4 · 6 = 24.", "Filler é. ".repeat(50));
        let quotes = Quoter::embedded().quotes(&text, Behavior::Verification);
        assert_eq!(quotes.len(), 1, "{quotes:?}");
        assert!(quotes[0].cue.starts_with("Let me check"), "{quotes:?}");
        assert!(
            quotes[0].before.starts_with("… Filler é.") && quotes[0].before.ends_with("That gives 24. "),
            "{quotes:?}"
        );
        assert_eq!(quotes[0].at, 517);
    }
}
