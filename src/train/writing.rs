//! Samples of what a model in training writes, the likeliest token at a time, for people to read.

use super::batch::TrainBatch;
use super::model::TrainModel;
use super::vocabulary::Vocabulary;
use rayon::prelude::*;
use serde::Serialize;

/// A line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct WrittenSample<'a> {
    pub(super) step: u64,
    pub(super) prompt: &'a str,
    pub(super) text: String,
    /// Whether it ended by itself.
    pub(super) ended: bool,
}

/// Goes on from every prompt, for at most `max_tokens` tokens and never beyond `context`.
///
/// Each token reads the whole text again: this is for a few short samples, and needs no second copy of the model.
pub(super) fn write<'p>(
    model: &mut TrainModel,
    vocabulary: &Vocabulary,
    prompts: &'p [String],
    max_tokens: usize,
    context: usize,
    step: u64,
) -> anyhow::Result<Vec<WrittenSample<'p>>> {
    let tokenizer = vocabulary.tokenizer();
    let mut texts = Vec::new();
    for prompt in prompts {
        let mut tokens = tokenizer.start().to_vec();
        tokens.extend(tokenizer.encode(prompt)?);
        if tokens.is_empty() {
            tokens.push(vocabulary.end());
        }
        // Of a prompt longer than the context its end counts.
        let excess = tokens.len().saturating_sub(context.saturating_sub(1).max(1));
        tokens.drain(..excess);
        texts.push(Text { start: tokens.len(), tokens, ended: false });
    }
    for _ in 0..max_tokens {
        let open: Vec<usize> =
            (0..texts.len()).filter(|&i| !texts[i].ended && texts[i].tokens.len() < context).collect();
        if open.is_empty() {
            break;
        }
        let mut batch = TrainBatch::default();
        for &text in &open {
            batch.push(&texts[text].tokens, texts[text].tokens.iter().map(|_| None));
        }
        let size = model.config().hidden_size;
        let last: Vec<Vec<f32>> = {
            let hidden = model.hidden(&batch)?;
            batch.sequences.iter().map(|rows| hidden[(rows.end - 1) * size..rows.end * size].to_vec()).collect()
        };
        for (&text, hidden) in open.iter().zip(&last) {
            let next = likeliest(model, hidden);
            if next == vocabulary.end() || model.config().end_tokens.contains(&next) {
                texts[text].ended = true;
            } else {
                texts[text].tokens.push(next);
            }
        }
    }
    let sample = |(prompt, text): (&'p String, Text)| -> anyhow::Result<WrittenSample<'p>> {
        let written = tokenizer.decode(&text.tokens[text.start..])?;
        Ok(WrittenSample { step, prompt, text: written, ended: text.ended })
    };
    prompts.iter().zip(texts).map(sample).collect()
}

struct Text {
    tokens: Vec<u32>,
    /// Where the prompt ends.
    start: usize,
    ended: bool,
}

/// The token with the highest logit for a hidden state; of equal ones the first.
fn likeliest(model: &TrainModel, hidden: &[f32]) -> u32 {
    let parameters = &model.parameters;
    let head = parameters.get("lm_head.weight").or_else(|| parameters.get("model.embed_tokens.weight"));
    let rows = head.map_or(&[][..], |head| &head.values[..]);
    let logit = |row: &[f32]| row.iter().zip(hidden).map(|(weight, value)| weight * value).sum::<f32>();
    let logits: Vec<f32> = rows.par_chunks(hidden.len()).with_min_len(512).map(logit).collect();
    (0..logits.len()).fold(0, |best, next| if logits[next] > logits[best] { next } else { best }) as u32
}
