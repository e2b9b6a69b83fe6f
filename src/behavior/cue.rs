//! The baseline judge: counts what a writer says outright, with a lexicon that anyone can read and replace.
//!
//! `CueJudge` looks for phrases ("let me check", "that doesn't work", "it suffices to show") sentence by sentence.
//! It knows nothing of mathematics: a check that is carried out in symbols alone escapes it, and a phrase used loosely
//! misleads it. It is the floor that a language model has to beat, and what the quickstart can run anywhere.
//!
//! A sentence is an instance of a behavior when the weights of the different cues in it reach 1; instances in adjacent
//! sentences are one, and a document whose weak cues reach 1 only together has one. The score is a logistic curve over
//! the document's sum of weights.

mod lexicon;
mod phrase;
mod sentences;
mod vocabulary;

pub use lexicon::Lexicon;

use super::Behavior;
use super::judge::{Judge, JudgeIdentity, Labels, Mark, Unjudgeable};
use lexicon::Role;
use rayon::prelude::*;
use sentences::{Sentences, Token};
use std::ops::Range;

/// Changes when equal lexicons may give other answers: the reader, the matching or the counting changed.
const VERSION: u32 = 1;

/// A cue that fired.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Evidence {
    pub behavior: Behavior,
    /// Bytes of the text.
    pub span: Range<usize>,
    /// The cue's phrase as the lexicon has it.
    pub cue: String,
    pub weight: f32,
}

/// Judges by a [`Lexicon`]. Reads the whole document, in one pass, in time linear in its length.
#[derive(Debug, Clone)]
pub struct CueJudge {
    lexicon: Lexicon,
    identity: JudgeIdentity,
}

impl CueJudge {
    pub fn new(lexicon: &Lexicon) -> Self {
        let identity = JudgeIdentity {
            kind: "cue".into(),
            model: "four-habits-cues".into(),
            revision: format!("{VERSION}-{}", lexicon.hash()),
            prompt_hash: lexicon.hash().to_owned(),
        };
        Self { lexicon: lexicon.clone(), identity }
    }

    /// Every cue that fired in a text, in the order of the text: the reasons for its labels.
    pub fn explain(&self, text: &str) -> Vec<Evidence> {
        let mut evidence = Vec::new();
        self.read(text, |tokens, finding| {
            let entry = self.lexicon.entry(finding.entry);
            evidence.push(Evidence {
                behavior: entry.behavior,
                span: tokens[finding.tokens.start].start..tokens[finding.tokens.end - 1].end,
                cue: entry.text.clone(),
                weight: finding.weight,
            });
        });
        evidence
    }

    fn label(&self, text: &str) -> Result<Labels, Unjudgeable> {
        if text.trim().is_empty() {
            return Err(Unjudgeable("empty text".into()));
        }
        let tallies = self.read(text, |_, _| {}).tallies;
        let marks = Behavior::ALL.map(|behavior| {
            let tally = &tallies[behavior.index()];
            Mark { score: self.lexicon.squash(behavior).score(tally.sum), count: tally.count() }
        });
        Ok(Labels { marks, chars_read: text.chars().count() as u64, tokens_read: 0, windows: 1 })
    }

    /// Goes over the sentences of a text, shows every cue that holds to `on_cue`, and adds up.
    fn read(&self, text: &str, mut on_cue: impl FnMut(&[Token], &Finding)) -> Reading {
        let mut sentences = Sentences::new(text, self.lexicon.vocabulary());
        let mut reading = Reading::default();
        let (mut tokens, mut findings) = (Vec::new(), Vec::new());
        while sentences.next_into(&mut tokens) {
            reading.attempts += self.find(&tokens, &mut findings);
            for tally in &mut reading.tallies {
                tally.begin_sentence();
            }
            for finding in &findings {
                reading.tallies[finding.behavior.index()].add(finding.weight);
                on_cue(&tokens, finding);
            }
            for tally in &mut reading.tallies {
                tally.end_sentence();
            }
        }
        reading.searched = sentences.searched;
        reading
    }

    /// Fills `findings` with the cues that count in a sentence, in its order; returns how many phrases were tried.
    fn find(&self, tokens: &[Token], findings: &mut Vec<Finding>) -> usize {
        findings.clear();
        let mut attempts = 0;
        let mut guards: Vec<(Behavior, Range<usize>)> = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            for candidate in self.lexicon.candidates(token.word) {
                let entry = self.lexicon.entry(candidate.entry);
                for start in at.saturating_sub(candidate.latest)..(at + 1).saturating_sub(candidate.earliest) {
                    attempts += 1;
                    let Some((shortest, longest)) = entry.phrase.lengths_at(tokens, start) else { continue };
                    let behavior = entry.behavior;
                    match entry.role {
                        Role::Guard => guards.push((behavior, start..start + longest)),
                        Role::Cue { weight } => {
                            let tokens = start..start + shortest;
                            findings.push(Finding { entry: candidate.entry, behavior, weight, tokens });
                        }
                    }
                }
            }
        }
        let overlap = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        findings.retain(|cue| !guards.iter().any(|(of, span)| *of == cue.behavior && overlap(span, &cue.tokens)));
        // Of cues that overlap, the heaviest counts: "wait, no" is one hesitation, not two.
        findings.sort_by(|a, b| {
            b.weight.total_cmp(&a.weight).then(a.tokens.start.cmp(&b.tokens.start)).then(a.entry.cmp(&b.entry))
        });
        let mut kept: Vec<Finding> = Vec::new();
        for cue in findings.drain(..) {
            let taken = |other: &Finding| {
                other.behavior == cue.behavior && (other.entry == cue.entry || overlap(&other.tokens, &cue.tokens))
            };
            if !kept.iter().any(taken) {
                kept.push(cue);
            }
        }
        kept.sort_by_key(|cue| (cue.tokens.start, cue.behavior));
        *findings = kept;
        attempts
    }
}

impl Judge for CueJudge {
    fn identity(&self) -> &JudgeIdentity {
        &self.identity
    }

    fn batch_size(&self) -> usize {
        256
    }

    fn judge(&mut self, texts: &[&str]) -> anyhow::Result<Vec<Result<Labels, Unjudgeable>>> {
        Ok(texts.par_iter().map(|text| self.label(text)).collect())
    }
}

/// A cue in a sentence.
struct Finding {
    entry: u32,
    behavior: Behavior,
    weight: f32,
    tokens: Range<usize>,
}

/// What a text added up to, and the work it took.
#[derive(Default)]
struct Reading {
    tallies: [Tally; 4],
    /// Phrases tried at a position.
    attempts: usize,
    /// Bytes searched for the ends of formulas.
    searched: usize,
}

/// The sum for one behavior.
#[derive(Default)]
struct Tally {
    sum: f32,
    instances: u32,
    sentence: f32,
    /// Whether the sentence before was an instance.
    running: bool,
}

impl Tally {
    fn begin_sentence(&mut self) {
        self.sentence = 0.0;
    }

    fn add(&mut self, weight: f32) {
        self.sentence += weight;
    }

    fn end_sentence(&mut self) {
        let instance = reaches_one(self.sentence);
        self.instances += u32::from(instance && !self.running);
        self.running = instance;
        self.sum += self.sentence;
    }

    /// Weak cues of different sentences can make one instance together. So a document has a count exactly when its
    /// weights add up to 1, and a count goes with a higher score than none.
    fn count(&self) -> u32 {
        self.instances.max(u32::from(reaches_one(self.sum)))
    }
}

/// Weights have one decimal, which is inexact in binary.
fn reaches_one(weights: f32) -> bool {
    weights >= 0.999
}

#[cfg(test)]
mod tests;
