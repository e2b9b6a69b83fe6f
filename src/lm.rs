//! The language model: one decoder for Llama, Qwen2 and Qwen3, from disk to hidden states.
//!
//! [`Checkpoint`] opens a Hugging Face folder or a GGUF; [`Decoder`] runs packed sequences ([`Packed`]) without padding;
//! [`TextTokenizer`] and [`ChatTemplate`] make the tokens. Invariants: nothing here knows a stage, a judge or a run
//! folder, and a sequence's result does not depend on what else is packed with it.

mod chat;
mod checkpoint;
mod config;
#[cfg(any(feature = "cuda", test))]
mod cuda;
mod decoder;
pub mod device;
mod folder;
mod gguf;
mod gguf_tokenizer;
#[cfg(any(feature = "cuda", test))]
mod halving;
mod kernels;
mod layer;
mod meter;
mod ops;
mod packed;
mod scorer;
mod shape;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use checkpoint::Checkpoint;
pub use config::{Architecture, ModelConfig, RopeScaling};
pub use decoder::Decoder;
pub use layer::Precision;
pub use meter::{Meter, Part};
pub use packed::Packed;
pub use scorer::Scorer;
pub use tokenizer::TextTokenizer;
