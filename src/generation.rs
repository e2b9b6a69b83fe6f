//! Text from a language model, local or behind an endpoint: messages in, replies out.
//!
//! Whoever wants text (a judge that reasons before it counts, the rewrite stage, priming traces by a model) asks a
//! [`TextGenerator`] and does not know where the model runs.

mod local;

pub use crate::lm::Finish;
pub use local::{LocalGenerator, LocalSpec};

use crate::lm::Message;
use serde::{Deserialize, Serialize};

/// How tokens are drawn, and where a reply ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; else logits are divided by it.
    pub temperature: f32,
    /// The smallest set of tokens with this much probability is drawn from; 1 for all.
    pub top_p: f32,
    /// Only so many of the likeliest tokens are drawn from; 0 for all.
    pub top_k: usize,
    /// A reply has at most so many tokens.
    pub max_tokens: usize,
    /// A reply ends before the first of these strings, which it does not contain.
    pub stop: Vec<String>,
}

/// One prompt: a chat that the model continues.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    pub messages: Vec<Message>,
    /// How the assistant's reply begins; the reply continues it and does not repeat it. Empty for none.
    pub reply_prefix: String,
    /// The seed of this prompt's own random stream: a reply depends on it and not on its neighbours.
    pub seed: u64,
}

/// What the model wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub text: String,
    pub finish: Finish,
    pub prompt_tokens: u64,
    pub reply_tokens: u64,
}

/// Who wrote: part of the key of everything generated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GeneratorIdentity {
    /// `lm` or `endpoint`.
    pub kind: String,
    /// The model's name.
    pub model: String,
    /// The content hash of a local model's files; what an endpoint says of itself, else empty.
    pub revision: String,
}

/// Why one prompt has no reply, such as one that is longer than the context. The others go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

/// A language model that continues chats.
///
/// `Err` is the generator's own failure (out of memory, a dead endpoint) and ends the unit of work; what is wrong with a
/// single prompt comes back as its own [`Unanswered`].
pub trait TextGenerator: Send {
    fn identity(&self) -> &GeneratorIdentity;

    /// How many prompts a call to [`TextGenerator::generate`] should get to use the model well.
    fn batch_size(&self) -> usize;

    /// Continues every prompt; replies are in the order of `prompts`, one each.
    fn generate(&mut self, prompts: &[Prompt], sampling: &Sampling) -> anyhow::Result<Vec<Result<Reply, Unanswered>>>;
}
