//! Samples of what a model in training writes, the likeliest token at a time, for people to read.

use super::vocabulary::Vocabulary;
use crate::lm::{BatchLimits, Decoder, Endings, ModelConfig, Parameters, Precision, Request, SamplingRule};
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
/// While it writes there is a second copy of the weights, packed for decoding; the multiplication is in f32.
pub(super) fn write<'p>(
    config: &ModelConfig,
    parameters: &Parameters,
    vocabulary: &Vocabulary,
    prompts: &'p [String],
    max_tokens: usize,
    context: usize,
    step: u64,
) -> anyhow::Result<Vec<WrittenSample<'p>>> {
    let tokenizer = vocabulary.tokenizer();
    let request = |prompt: &String| -> anyhow::Result<Request> {
        let mut tokens = tokenizer.start().to_vec();
        tokens.extend(tokenizer.encode(prompt)?);
        if tokens.is_empty() {
            tokens.push(vocabulary.end());
        }
        // Of a prompt longer than the context its end counts.
        let excess = tokens.len().saturating_sub(context.saturating_sub(1).max(1));
        tokens.drain(..excess);
        Ok(Request { max_tokens: max_tokens.min(context - tokens.len()), prompt: tokens, seed: 0 })
    };
    let requests = prompts.iter().map(request).collect::<anyhow::Result<Vec<_>>>()?;
    let mut ends = config.end_tokens.clone();
    ends.push(vocabulary.end());
    let endings = Endings { tokens: &ends, strings: None };
    let decoder = Decoder::from_parameters(config, parameters, Precision::F32)?;
    let written = decoder.generate(&requests, SamplingRule::GREEDY, endings, BatchLimits::default())?;
    let mut samples = Vec::new();
    for (prompt, written) in prompts.iter().zip(written) {
        // A model whose output is not a number writes nothing; the next step's loss says so, with its documents.
        let Ok(written) = written else { continue };
        let ended = written.tokens.last().is_some_and(|last| ends.contains(last));
        let text = &written.tokens[..written.tokens.len() - usize::from(ended)];
        samples.push(WrittenSample { step, prompt, text: tokenizer.decode(text)?, ended });
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::documents::{Columns, DataFile};
    use crate::train::vocabulary::Making;
    use crate::train::{TrainBatch, TrainModel, TrainOptions};

    /// The likeliest tokens, each by reading the whole text again.
    fn slowly(model: &mut TrainModel, mut tokens: Vec<u32>, most: usize, ends: &[u32]) -> (Vec<u32>, bool) {
        let start = tokens.len();
        while tokens.len() - start < most {
            let mut batch = TrainBatch::default();
            batch.push_text(&tokens);
            let width = model.config().hidden_size;
            let hidden = model.hidden(&batch).unwrap();
            let last = hidden[hidden.len() - width..].to_vec();
            let table = &model.parameters.get("model.embed_tokens.weight").unwrap().values;
            let logit = |row: &[f32]| row.iter().zip(&last).map(|(a, b)| a * b).sum::<f32>();
            let logits: Vec<f32> = table.chunks(width).map(logit).collect();
            let next = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
            if ends.contains(&next) {
                return (tokens.split_off(start), true);
            }
            tokens.push(next);
        }
        (tokens.split_off(start), false)
    }

    #[test]
    fn samples_are_the_likeliest_tokens_within_the_context() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        crate::run::commit::write_atomic(&path, br#"{"text": "a b c d e f g h i j k l m n o p"}"#).unwrap();
        let data = vec![(vec![DataFile { name: "a.jsonl".into(), path }], Columns::Text("text".into()))];
        let vocabulary = Vocabulary::make(Making::Words, 300, &data, &[], "").unwrap();
        let config = ModelConfig::from_json(&format!(
            r#"{{"model_type": "llama", "vocab_size": {}, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "tie_word_embeddings": true, "max_position_embeddings": 12}}"#,
            vocabulary.tokenizer().vocab_size()
        ))
        .unwrap();
        let prompts: Vec<String> = ["a b", "", "p o n", "a b c d e f g h i j k l m n"].map(str::to_owned).to_vec();
        for seed in 0..5 {
            let parameters = Parameters::random(&config, seed);
            let written = write(&config, &parameters, &vocabulary, &prompts, 8, 12, 3).unwrap();
            let mut model = TrainModel::new(config.clone(), parameters, TrainOptions::default()).unwrap();
            for (sample, prompt) in written.iter().zip(&prompts) {
                let mut tokens = vocabulary.tokenizer().encode(prompt).unwrap();
                if tokens.is_empty() {
                    tokens.push(vocabulary.end());
                }
                tokens.drain(..tokens.len().saturating_sub(11));
                let most = 8.min(12 - tokens.len());
                let (expect, ended) = slowly(&mut model, tokens, most, &[vocabulary.end()]);
                let expect = vocabulary.tokenizer().decode(&expect).unwrap();
                assert_eq!((&sample.text, sample.ended, sample.step), (&expect, ended, 3), "{prompt:?}");
            }
        }
    }
}
