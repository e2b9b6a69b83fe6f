//! One source of training data: which of its documents are trained on, which are held out, and the pieces that they are cut into.

use super::batch::TrainBatch;
use super::permutation::{Permutation, derive};
use super::token_file::TokenFile;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A part of a document that goes through the model as one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub document: u32,
    /// Its first token's place in the document.
    pub start: u32,
}

/// How documents become sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cutting {
    /// The longest sequence. A longer text is cut; each piece's last token predicts the first one of the next, so that none is lost.
    pub context: usize,
    /// Whether these are completions, which are not cut: the longer ones are left out.
    pub whole: bool,
}

/// Documents of a token file, in an order, as pieces.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: String,
    file: Arc<TokenFile>,
    cutting: Cutting,
    pieces: Vec<Piece>,
    tokens: u64,
}

/// Where a source's documents went. `documents = train + held_out + Σ dropped`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct SourceCounts {
    pub documents: u64,
    pub train: u64,
    pub held_out: u64,
    pub dropped: BTreeMap<String, u64>,
    /// Texts longer than the context, which were cut into pieces.
    pub cut: u64,
    /// The longest document, in tokens.
    pub longest: u64,
}

impl SourceCounts {
    /// Adds the documents of another file.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.train += other.train;
        self.held_out += other.held_out;
        self.cut += other.cut;
        self.longest = self.longest.max(other.longest);
        for (reason, documents) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += documents;
        }
    }

    fn drop_document(&mut self, reason: &str) {
        *self.dropped.entry(reason.to_owned()).or_default() += 1;
    }
}

/// The reason for which completions that cannot be cut are left out.
pub const TOO_LONG: &str = "longer-than-context";

/// Which documents of a file are for what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// The seed of the order in which documents are drawn.
    pub seed: u64,
    /// Look at no more than so many documents.
    pub documents: Option<u64>,
    /// Train on at most so many tokens.
    pub tokens: Option<u64>,
    /// Hold out this share.
    pub held_out_share: f64,
}

impl Source {
    /// Divides a file's documents into those to train on and those held out.
    pub fn divide(
        name: &str,
        file: Arc<TokenFile>,
        cutting: Cutting,
        wanted: Wanted,
    ) -> (Source, Source, SourceCounts) {
        let empty =
            || Source { name: name.to_owned(), file: Arc::clone(&file), cutting, pieces: Vec::new(), tokens: 0 };
        let (mut train, mut held_out) = (empty(), empty());
        let unusable = &file.facts().unusable;
        let mut counts = SourceCounts { documents: file.facts().rows, dropped: unusable.clone(), ..Default::default() };
        let documents = file.len() as u64;
        if documents == 0 {
            return (train, held_out, counts);
        }
        let order = Permutation::new(documents, derive(wanted.seed, "documents"));
        let looked_at = wanted.documents.map_or(documents, |most| documents.min(most));
        let kept_back = (looked_at as f64 * wanted.held_out_share).round() as u64;
        for place in 0..documents {
            let document = order.at(place) as usize;
            let length = file.length(document);
            counts.longest = counts.longest.max(length as u64);
            if wanted.documents.is_some_and(|most| place >= most) {
                counts.drop_document("beyond-limit");
            } else if length < 2 || file.document(document).learned_from as usize >= length {
                counts.drop_document("nothing-to-learn");
            } else if cutting.whole && length - 1 > cutting.context {
                counts.drop_document(TOO_LONG);
            } else if place < kept_back {
                counts.held_out += 1;
                held_out.push(document, length);
            } else if wanted.tokens.is_some_and(|most| train.tokens + length as u64 - 1 > most) {
                counts.drop_document("over-budget");
            } else {
                counts.train += 1;
                counts.cut += u64::from(length - 1 > cutting.context);
                train.push(document, length);
            }
        }
        (train, held_out, counts)
    }

    fn push(&mut self, document: usize, length: usize) {
        // The last token is predicted and predicts nothing.
        let inputs = length - 1;
        for start in (0..inputs).step_by(self.cutting.context) {
            self.pieces.push(Piece { document: document as u32, start: start as u32 });
        }
        self.tokens += inputs as u64;
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Tokens of all pieces.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    pub fn piece(&self, index: usize) -> Piece {
        self.pieces[index]
    }

    /// Tokens of a piece.
    pub fn length(&self, piece: Piece) -> usize {
        (self.file.length(piece.document as usize) - 1 - piece.start as usize).min(self.cutting.context)
    }

    /// What people call a document.
    pub fn document_name(&self, piece: Piece) -> String {
        self.file.name(piece.document as usize)
    }

    /// Appends a piece as a sequence of its own, with the tokens that it has to predict.
    pub fn append(&self, piece: Piece, batch: &mut TrainBatch) {
        let (document, start) = (piece.document as usize, piece.start as usize);
        let length = self.length(piece);
        let learned_from = self.file.document(document).learned_from as usize;
        let first = batch.tokens.len();
        batch.tokens.extend(self.file.slice(document, start..start + length));
        let next = self.file.slice(document, start + 1..start + 1 + length);
        batch.targets.extend(next.zip(start + 1..).map(|(token, place)| (place >= learned_from).then_some(token)));
        batch.sequences.push(first..batch.tokens.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::token_file::{TokenDocument, TokenFacts, TokenWriter};

    /// A file of documents given as their tokens and the first that is learned.
    fn file(documents: &[(&[u32], u32)]) -> Arc<TokenFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tokens");
        let mut writer = TokenWriter::create(&path).unwrap();
        for (row, (tokens, learned_from)) in documents.iter().enumerate() {
            let document = TokenDocument { file: 0, row: row as u64, learned_from: *learned_from };
            writer.push(document, tokens).unwrap();
        }
        let rows = documents.len() as u64;
        writer.finish(&TokenFacts { files: vec!["a".into()], rows, ..Default::default() }).unwrap();
        Arc::new(TokenFile::open(&path).unwrap())
    }

    const ALL: Wanted = Wanted { seed: 1, documents: None, tokens: None, held_out_share: 0.0 };

    fn batch_of(source: &Source) -> TrainBatch {
        let mut batch = TrainBatch::default();
        (0..source.len()).for_each(|piece| source.append(source.piece(piece), &mut batch));
        batch
    }

    #[test]
    fn a_long_text_is_cut_and_no_token_is_lost() {
        let cutting = Cutting { context: 3, whole: false };
        let (train, _, counts) = Source::divide("a", file(&[(&[1, 2, 3, 4, 5, 6, 7, 8], 1)]), cutting, ALL);
        let batch = batch_of(&train);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(batch.sequences, [0..3, 3..6, 6..7]);
        assert_eq!(batch.targets.iter().flatten().copied().collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((counts.cut, counts.longest, train.tokens()), (1, 8, 7));
    }

    #[test]
    fn the_first_token_of_a_completion_counts_and_the_query_does_not() {
        // Query 1 2 3, completion 4 5, end 9.
        let cutting = Cutting { context: 8, whole: true };
        let (train, _, _) = Source::divide("a", file(&[(&[1, 2, 3, 4, 5, 9], 3)]), cutting, ALL);
        let batch = batch_of(&train);
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5]);
        assert_eq!(batch.targets, [None, None, Some(4), Some(5), Some(9)]);
    }

    #[test]
    fn a_completion_longer_than_the_context_is_left_out_and_counted() {
        let cutting = Cutting { context: 3, whole: true };
        let documents = file(&[(&[1, 2, 3, 9], 2), (&[1, 2, 3, 4, 9], 2), (&[1], 1), (&[1, 9], 2)]);
        let (train, _, counts) = Source::divide("a", documents, cutting, ALL);
        assert_eq!((train.len(), counts.train), (1, 1));
        let expect = BTreeMap::from([(TOO_LONG.to_owned(), 1), ("nothing-to-learn".to_owned(), 2)]);
        assert_eq!((counts.documents, counts.dropped), (4, expect));
    }

    #[test]
    fn shares_and_budgets_are_kept_and_add_up() {
        let documents: Vec<Vec<u32>> = (0..200).map(|i| vec![i; 11]).collect();
        let documents: Vec<(&[u32], u32)> = documents.iter().map(|tokens| (tokens.as_slice(), 1)).collect();
        let wanted = Wanted { seed: 3, documents: None, tokens: Some(505), held_out_share: 0.1 };
        let cutting = Cutting { context: 64, whole: false };
        let (train, held_out, counts) = Source::divide("a", file(&documents), cutting, wanted);
        assert_eq!((train.tokens(), held_out.tokens()), (500, 200));
        assert_eq!((counts.train, counts.held_out, counts.dropped["over-budget"]), (50, 20, 130));
        let of = |source: &Source| -> std::collections::BTreeSet<u32> {
            (0..source.len()).map(|i| source.piece(i).document).collect()
        };
        assert!(of(&train).is_disjoint(&of(&held_out)));
        // Another seed draws others.
        let (other, ..) = Source::divide("a", file(&documents), cutting, Wanted { seed: 4, ..wanted });
        assert_ne!(of(&train), of(&other));
    }
}
