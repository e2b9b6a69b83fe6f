//! The order of training: which piece of which source comes next, and how pieces become steps.
//!
//! Every source has an order of its own for each epoch, a keyed permutation; sources take turns so that their shares of tokens
//! follow their weights as closely as whole pieces allow. A place in all this is three integers for each source, so a run goes on
//! exactly where it stopped, and the number of steps is known before the first.

use super::batch::TrainBatch;
use super::permutation::{Permutation, derive, mix};
use super::source::{Piece, Source};
use serde::{Deserialize, Serialize};

/// Sources and how they are mixed.
#[derive(Debug, Clone)]
pub struct Mixture {
    sources: Vec<Source>,
    /// One for each source, above 0.
    weights: Vec<f64>,
    seed: u64,
    /// Tokens after which training ends.
    goal: u64,
    size: StepSize,
    micro_tokens: usize,
}

/// How much goes into a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepSize {
    Sequences(usize),
    /// At most so many tokens, but at least one sequence.
    Tokens(usize),
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Epochs(u64),
    Tokens(u64),
}

/// How far each source is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub sources: Vec<Place>,
}

/// How far one source is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub epoch: u64,
    /// The next piece in this epoch's order.
    pub next: u64,
    /// Tokens taken in all epochs.
    pub tokens: u64,
}

impl Cursor {
    /// Tokens taken of all sources.
    pub fn tokens(&self) -> u64 {
        self.sources.iter().map(|place| place.tokens).sum()
    }
}

/// One optimizer step's data.
#[derive(Debug, Clone, Default)]
pub struct StepData {
    /// What goes through the model, a part at a time.
    pub parts: Vec<TrainBatch>,
    /// Where it came from: the source's index and the piece.
    pub pieces: Vec<(usize, Piece)>,
    pub tokens: u64,
    /// Tokens to predict, in all parts.
    pub targets: u64,
}

impl Mixture {
    /// `weights` are one for each source, or none: then each counts by its size, and an epoch goes through each exactly once.
    /// Sources without pieces must be left out.
    pub fn new(
        sources: Vec<Source>,
        weights: Option<Vec<f64>>,
        length: Length,
        size: StepSize,
        micro_tokens: usize,
        seed: u64,
    ) -> Self {
        let weights = weights.unwrap_or_else(|| sources.iter().map(|source| source.tokens() as f64).collect());
        let all: u64 = sources.iter().map(Source::tokens).sum();
        let goal = match length {
            Length::Epochs(epochs) => epochs.saturating_mul(all),
            Length::Tokens(tokens) => tokens,
        };
        Self { sources, weights, seed: derive(seed, "order"), goal, size, micro_tokens }
    }

    pub fn start(&self) -> Cursor {
        Cursor { sources: vec![Place::default(); self.sources.len()] }
    }

    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Tokens in one pass over everything.
    pub fn epoch_tokens(&self) -> u64 {
        self.sources.iter().map(Source::tokens).sum()
    }

    /// How many steps there are from the start, and how many tokens in them.
    pub fn steps(&self) -> (u64, u64) {
        let mut cursor = self.start();
        let mut steps = 0;
        while self.take(&mut cursor, |_, _| {}) > 0 {
            steps += 1;
        }
        (steps, cursor.tokens())
    }

    /// The next step's data; none at the end. The cursor moves on.
    pub fn next(&self, cursor: &mut Cursor) -> Option<StepData> {
        let mut step = StepData::default();
        step.tokens = self.take(cursor, |source, piece| step.pieces.push((source, piece)));
        if step.tokens == 0 {
            return None;
        }
        step.parts = self.parts(step.pieces.iter().map(|&(source, piece)| (&self.sources[source], piece)));
        step.targets = step.parts.iter().map(|part| part.targets.iter().flatten().count() as u64).sum();
        Some(step)
    }

    /// What people call the documents of a step, each once.
    pub fn document_names(&self, step: &StepData) -> Vec<String> {
        let mut names: Vec<String> =
            step.pieces.iter().map(|&(source, piece)| self.sources[source].document_name(piece)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Sequences in parts that fit through the model.
    pub fn parts<'s>(&self, pieces: impl Iterator<Item = (&'s Source, Piece)>) -> Vec<TrainBatch> {
        let mut parts: Vec<TrainBatch> = Vec::new();
        for (source, piece) in pieces {
            match parts.last_mut() {
                Some(part) if part.tokens.len() + source.length(piece) <= self.micro_tokens => {
                    source.append(piece, part)
                }
                _ => {
                    let mut part = TrainBatch::default();
                    source.append(piece, &mut part);
                    parts.push(part);
                }
            }
        }
        parts
    }

    /// Takes the pieces of a step and says how many tokens they have; 0 at the end.
    fn take(&self, cursor: &mut Cursor, mut visit: impl FnMut(usize, Piece)) -> u64 {
        let (mut tokens, mut sequences) = (0u64, 0usize);
        let mut taken = cursor.tokens();
        while taken < self.goal {
            let Some(index) = self.turn(cursor) else { break };
            let source = &self.sources[index];
            let place = &mut cursor.sources[index];
            let epoch_key = mix(self.seed ^ mix(place.epoch ^ mix(index as u64 + 1)));
            let at = Permutation::new(source.len() as u64, epoch_key).at(place.next);
            let piece = source.piece(at as usize);
            let length = source.length(piece) as u64;
            let full = match self.size {
                StepSize::Sequences(most) => sequences == most,
                StepSize::Tokens(most) => sequences > 0 && tokens + length > most as u64,
            };
            if full {
                break;
            }
            visit(index, piece);
            (tokens, sequences, taken) = (tokens + length, sequences + 1, taken + length);
            place.tokens += length;
            place.next += 1;
            if place.next == source.len() as u64 {
                (place.epoch, place.next) = (place.epoch + 1, 0);
            }
        }
        tokens
    }

    /// The source that is furthest behind its share; of equal ones the first.
    fn turn(&self, cursor: &Cursor) -> Option<usize> {
        let behind = |index: usize| cursor.sources[index].tokens as f64 / self.weights[index];
        (0..self.sources.len()).min_by(|&a, &b| behind(a).total_cmp(&behind(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::source::{Cutting, Wanted};
    use crate::train::token_file::{TokenDocument, TokenFacts, TokenFile, TokenWriter};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// `documents` documents of `length` tokens each that are learned.
    fn source(name: &str, documents: usize, length: usize) -> Source {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tokens");
        let mut writer = TokenWriter::create(&path).unwrap();
        for row in 0..documents as u64 {
            writer.push(TokenDocument { file: 0, row, learned_from: 1 }, &vec![row as u32; length + 1]).unwrap();
        }
        writer.finish(&TokenFacts { files: vec![name.into()], rows: documents as u64, ..Default::default() }).unwrap();
        let file = Arc::new(TokenFile::open(&path).unwrap());
        let wanted = Wanted { seed: 0, documents: None, tokens: None, held_out_share: 0.0 };
        Source::divide(name, file, Cutting { context: 64, whole: false }, wanted).0
    }

    fn all_steps(mixture: &Mixture) -> Vec<StepData> {
        let mut cursor = mixture.start();
        std::iter::from_fn(|| mixture.next(&mut cursor)).collect()
    }

    #[test]
    fn epochs_go_through_everything_exactly_once_each() {
        let sources = vec![source("a", 37, 5), source("b", 11, 9)];
        let mixture = Mixture::new(sources, None, Length::Epochs(3), StepSize::Sequences(8), 40, 1);
        let steps = all_steps(&mixture);
        assert_eq!(mixture.steps(), (18, 3 * (37 * 5 + 11 * 9)));
        assert_eq!(steps.len(), 18, "144 pieces, 8 a step");
        let mut times: BTreeMap<(usize, u32), u32> = BTreeMap::new();
        for (source, piece) in steps.iter().flat_map(|step| &step.pieces) {
            *times.entry((*source, piece.document)).or_default() += 1;
        }
        assert_eq!(times.len(), 48);
        assert!(times.values().all(|&times| times == 3));
        // The order differs from epoch to epoch.
        let order: Vec<u32> = steps
            .iter()
            .flat_map(|step| &step.pieces)
            .filter(|(source, _)| *source == 0)
            .map(|(_, piece)| piece.document)
            .collect();
        assert_ne!(order[..37], order[37..74]);
    }

    #[test]
    fn shares_of_tokens_follow_the_weights() {
        let sources = vec![source("a", 40, 10), source("b", 500, 3)];
        let mixture = Mixture::new(sources, Some(vec![3.0, 1.0]), Length::Tokens(4000), StepSize::Tokens(50), 50, 1);
        let mut cursor = mixture.start();
        while let Some(step) = mixture.next(&mut cursor) {
            assert!(step.tokens <= 50);
            let [a, b] = [cursor.sources[0].tokens as f64, cursor.sources[1].tokens as f64];
            // Never further off than a piece.
            assert!((a - 3.0 * b).abs() <= 10.0, "{a} {b}");
        }
        assert!(cursor.tokens() >= 4000 && cursor.tokens() < 4010);
        assert_eq!(cursor.sources[0].epoch, 7, "the small source repeats");
    }

    #[test]
    fn a_cursor_goes_on_where_it_was() {
        let mixture = Mixture::new(vec![source("a", 50, 7)], None, Length::Epochs(2), StepSize::Tokens(30), 16, 9);
        let steps = all_steps(&mixture);
        let mut cursor = mixture.start();
        for step in &steps {
            let json = serde_json::to_string(&cursor).unwrap();
            let mut resumed: Cursor = serde_json::from_str(&json).unwrap();
            assert_eq!(mixture.next(&mut resumed).unwrap().parts, step.parts);
            mixture.next(&mut cursor).unwrap();
        }
        assert!(mixture.next(&mut cursor).is_none());
    }

    #[test]
    fn parts_hold_what_fits() {
        let mixture = Mixture::new(vec![source("a", 9, 6)], None, Length::Epochs(1), StepSize::Tokens(40), 13, 9);
        let step = mixture.next(&mut mixture.start()).unwrap();
        assert_eq!(step.parts.iter().map(|part| part.sequences.len()).collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!((step.tokens, step.targets), (36, 36));
        assert_eq!(mixture.document_names(&step).len(), 6);
    }

    #[test]
    fn no_epochs_are_no_steps() {
        let mixture = Mixture::new(vec![source("a", 9, 6)], None, Length::Epochs(0), StepSize::Tokens(40), 13, 9);
        assert_eq!(mixture.steps(), (0, 0));
    }
}
