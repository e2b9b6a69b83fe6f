//! What every judge offers: text in, four labels out, and an identity that goes into every label file.

use super::Behavior;
use serde::{Deserialize, Serialize};

/// What a judge says about one behavior in one document.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The probability in [0, 1] that the document shows the behavior at all.
    pub score: f32,
    /// How many distinct instances it shows; for a judge that gives probabilities alone, 1 at or above its threshold and else 0.
    pub count: u32,
}

/// A judged document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Labels {
    /// One mark per behavior, indexed by [`Behavior::index`].
    pub marks: [Mark; 4],
    /// Unicode scalar values of the text that the judge actually read; less than the document's length only if
    /// the recipe caps the windows.
    pub chars_read: u64,
    /// Tokens the judge processed for this document's text (not the questions); 0 for a judge without a tokenizer.
    pub tokens_read: u64,
    /// How many windows the document was cut into.
    pub windows: u32,
}

impl Labels {
    pub fn mark(&self, behavior: Behavior) -> Mark {
        self.marks[behavior.index()]
    }
}

/// Why one document could not be judged. The run goes on; the document is quarantined with this reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{0}")]
pub struct Unjudgeable(pub String);

/// Who judged: written into every label file and hashed into the label key, so that labels of different judges never mix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JudgeIdentity {
    /// `cue` or `lm`, … : the kind of judge.
    pub kind: String,
    /// The model's name, or the lexicon's.
    pub model: String,
    /// The content hash of the model's files, or the version of the lexicon.
    pub revision: String,
    /// BLAKE3 (hex, 16 characters) of everything else that shapes an answer: prompts, template, window size, thresholds.
    pub prompt_hash: String,
}

/// A judge of documents.
///
/// Same text, same labels: a document's labels depend neither on its neighbours in the batch nor on the order.
/// `Err` is the judge's own failure (out of memory, a dead endpoint) and ends the unit; what is wrong with a single
/// document comes back as its own [`Unjudgeable`].
pub trait Judge: Send {
    fn identity(&self) -> &JudgeIdentity;

    /// How many documents a call to [`Judge::judge`] should get, for a judge that batches.
    fn batch_size(&self) -> usize;

    /// Judges documents; answers are in the order of `texts`, one each.
    fn judge(&mut self, texts: &[&str]) -> anyhow::Result<Vec<Result<Labels, Unjudgeable>>>;
}
