//! The language model: one decoder for Llama, Qwen2 and Qwen3, from disk to text.
//!
//! [`Checkpoint`] opens a Hugging Face folder or a GGUF; [`Decoder`] runs packed sequences ([`Packed`]) without padding;
//! [`TextTokenizer`] and [`ChatTemplate`] make the tokens; [`Decoder::generate`] continues them, many sequences side by side, each
//! with a cache of its own ([`KvCache`]). Invariants: nothing here knows a stage, a judge or a run
//! folder, and a sequence's result does not depend on what else is packed with it.

mod cache;
mod chat;
mod checkpoint;
mod config;
#[cfg(any(feature = "cuda", test))]
mod cuda;
mod decoder;
pub mod device;
mod folder;
mod foreign;
mod generate;
mod gguf;
mod gguf_tokenizer;
#[cfg(any(feature = "cuda", test))]
mod halving;
pub(crate) mod kernels;
mod layer;
mod memory;
mod meter;
mod ops;
mod packed;
mod parameters;
mod sampler;
mod scorer;
mod shape;
mod text_stream;
mod tokenizer;

pub use cache::KvCache;
pub use chat::{ChatTemplate, Message};
pub use checkpoint::{Checkpoint, EMBEDDED};
pub use config::{Architecture, ModelConfig, RopeScaling};
pub use decoder::Decoder;
pub use generate::{BatchLimits, Endings, Finish, Generation, Request, Ungenerated};
pub use layer::{Precision, WeightStorage};
pub use meter::{Measured, Meter, Part};
pub use packed::Packed;
pub use parameters::{Parameter, Parameters};
pub use sampler::{Draw, NotANumber, Sampler, SamplingRule};
pub use scorer::{Scorer, load_scorer, precision_on};
pub use text_stream::TextStream;
pub use tokenizer::TextTokenizer;
