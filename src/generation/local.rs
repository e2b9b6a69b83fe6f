//! A model on this machine as generator.

use super::{GeneratorIdentity, Prompt, Reply, Sampling, TextGenerator, Unanswered};
use crate::lm::{
    BatchLimits, Checkpoint, Decoder, Endings, Precision, Request, SamplingRule, TextTokenizer, Ungenerated,
};
use candle_core::Device;
use std::path::PathBuf;

/// What can be chosen about a [`LocalGenerator`].
#[derive(Debug, Clone)]
pub struct LocalSpec {
    /// A Hugging Face folder or a `.gguf` file.
    pub model: PathBuf,
    pub precision: Precision,
    pub device: Device,
    /// How many sequences run at once. Changes speed and memory, not replies.
    pub limits: BatchLimits,
}

impl LocalSpec {
    /// In f32 on the CPU, with the default limits.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self { model: model.into(), precision: Precision::F32, device: Device::Cpu, limits: BatchLimits::default() }
    }
}

/// The generator, its model loaded.
///
/// Prompts follow the model's chat template, and end tokens are all that the model's files name. A model without a template
/// reads what [`TextTokenizer::encode_chat`] makes of the messages.
pub struct LocalGenerator {
    identity: GeneratorIdentity,
    tokenizer: TextTokenizer,
    decoder: Decoder,
    end_tokens: Vec<u32>,
    limits: BatchLimits,
}

impl LocalGenerator {
    /// Loads the model.
    ///
    /// # Errors
    /// A [`Failure`](crate::error::Failure) for a model that cannot be used, see [`Checkpoint::open`] and [`Decoder::load`].
    pub fn load(spec: &LocalSpec) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(&spec.model)?;
        let tokenizer = checkpoint.tokenizer()?;
        let end_tokens = checkpoint.end_tokens(&tokenizer)?;
        let precision = match spec.precision {
            Precision::F32 => "",
            Precision::Bf16 => "-bf16",
        };
        let identity = GeneratorIdentity {
            kind: "lm".into(),
            model: checkpoint.name(),
            revision: checkpoint.revision()? + precision,
        };
        let decoder = Decoder::load(&checkpoint, &spec.device, spec.precision)?;
        Ok(Self { identity, tokenizer, decoder, end_tokens, limits: spec.limits })
    }
}

impl TextGenerator for LocalGenerator {
    fn identity(&self) -> &GeneratorIdentity {
        &self.identity
    }

    /// Twice what runs at once, so that a reply that ends early makes room for another.
    fn batch_size(&self) -> usize {
        2 * self.limits.sequences.max(1)
    }

    fn generate(&mut self, prompts: &[Prompt], sampling: &Sampling) -> anyhow::Result<Vec<Result<Reply, Unanswered>>> {
        let Sampling { temperature, top_p, top_k, max_tokens, ref stop } = *sampling;
        let requests = prompts
            .iter()
            .map(|Prompt { messages, reply_prefix, seed }| {
                let prompt = self.tokenizer.encode_chat(messages, reply_prefix)?;
                Ok(Request { prompt, max_tokens, seed: *seed })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let rule = SamplingRule { temperature, top_p, top_k };
        let endings = Endings { tokens: &self.end_tokens, strings: Some((&self.tokenizer, stop)) };
        let generations = self.decoder.generate(&requests, rule, endings, self.limits)?;
        let replies = generations.into_iter().zip(&requests).map(|(generation, request)| {
            let generation = generation.map_err(|Ungenerated(why)| Unanswered(why))?;
            Ok(Reply {
                prompt_tokens: request.prompt.len() as u64,
                reply_tokens: generation.tokens.len() as u64,
                text: generation.text.unwrap_or_default(),
                finish: generation.finish,
            })
        });
        Ok(replies.collect())
    }
}
