//! What training will take, as far as it can be told before it begins.

use super::model::new_config;
use crate::config::{BatchSize, Pretrain, TrainingData, TrainingPrecision};
use crate::data::parquet_table::ParquetTable;
use crate::lm::{Checkpoint, ModelConfig, Precision};
use crate::plan::{Location, Plan, Stage, Work};
use crate::train::memory::{MemoryEstimate, parameter_count};
use crate::train::model::TrainOptions;
use crate::train::vocabulary::Vocabulary;
use serde::Serialize;
use std::path::Path;

/// Bytes of text per token of a tokenizer made for it, about.
const BYTES_PER_TOKEN: f64 = 3.3;

/// Tokens of a priming trace with its query, about.
const TRACE_TOKENS: u64 = 350;

/// Training in numbers; what is unknown before the data are there is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct TrainingEstimate {
    pub parameters: Option<u64>,
    /// Whether the vocabulary is made from the data, and parameters, operations and memory may be fewer.
    pub at_most: bool,
    /// Tokens to train on, all epochs together.
    pub tokens: Option<u64>,
    pub steps: Option<u64>,
    /// Floating-point operations: 6 per weight and token, 8 if the way back computes activations again. Attention is not counted.
    pub operations: Option<f64>,
    /// Bytes of memory that it will take.
    pub memory_bytes: Option<u64>,
}

impl TrainingEstimate {
    pub fn new(plan: &Plan, stage: &Stage, pretrain: &Pretrain) -> Self {
        let sizes = trained_sizes(plan, stage, pretrain);
        let config = sizes.as_ref().map(|sizes| &sizes.config);
        let per_epoch: Option<Vec<(u64, u64)>> = pretrain.data.values().map(|data| size(plan, stage, data)).collect();
        let sum = |of: fn(&(u64, u64)) -> u64| per_epoch.as_ref().map(|sizes| sizes.iter().map(of).sum::<u64>());
        let epochs = pretrain.epochs.unwrap_or(1);
        let tokens = pretrain.tokens.or_else(|| Some(sum(|size| size.1)? * epochs));
        let steps = match pretrain.batch.sequences {
            None => tokens.map(|tokens| {
                let each = pretrain.batch.tokens.unwrap_or(BatchSize::DEFAULT_TOKENS.max(pretrain.context));
                tokens.div_ceil(each as u64)
            }),
            Some(sequences) => {
                let all = match pretrain.tokens {
                    None => sum(|size| size.0).map(|documents| documents * epochs),
                    Some(tokens) => sum(|size| size.0)
                        .zip(sum(|size| size.1))
                        .map(|(documents, all)| (tokens as f64 * documents as f64 / all.max(1) as f64).ceil() as u64),
                };
                all.map(|documents| documents.div_ceil(sequences as u64))
            }
        };
        let options = TrainOptions {
            precision: if pretrain.precision == TrainingPrecision::F32 { Precision::F32 } else { Precision::Bf16 },
            recompute: pretrain.recompute,
            z_loss: 0.0,
        };
        let micro_tokens = pretrain.batch.micro_tokens(pretrain.context);
        Self {
            parameters: config.map(parameter_count),
            at_most: sizes.as_ref().is_some_and(|sizes| sizes.at_most),
            tokens,
            steps,
            operations: config.zip(tokens).map(|(config, tokens)| {
                multiplied_weights(config) as f64 * tokens as f64 * if pretrain.recompute { 8.0 } else { 6.0 }
            }),
            memory_bytes: config.map(|config| MemoryEstimate::new(config, options, micro_tokens).total()),
        }
    }

    /// Bytes on disk: checkpoints with their moments, one more while it is written, and the model; tokens.
    pub fn disk_bytes(&self, pretrain: &Pretrain) -> u64 {
        let kept = pretrain.checkpoint.keep_last as u64 + u64::from(pretrain.checkpoint.keep_best) + 1;
        self.parameters.unwrap_or(0) * 12 * kept + self.tokens.unwrap_or(0) * 4
    }
}

/// Weights that every token is multiplied with: all, but the rows of an embedding that is no head.
pub(in crate::stages) fn multiplied_weights(config: &ModelConfig) -> u64 {
    let looked_up = if config.tied_head { 0 } else { config.vocab_size * config.hidden_size };
    parameter_count(config) - looked_up as u64
}

/// A model's sizes before it is there.
pub(in crate::stages) struct Sizes {
    pub config: ModelConfig,
    /// Whether its vocabulary will be made from the data, and may come out smaller than here.
    pub at_most: bool,
}

/// The sizes of a model that a recipe names: of one on the hub from its `config.json`, which the plan has.
pub(in crate::stages) fn model_sizes(plan: &Plan, from: &str) -> Option<Sizes> {
    let config = match plan.resources.get(from).and_then(|resource| resource.config.as_ref()) {
        Some(json) => ModelConfig::from_json(&json.to_string()).ok()?,
        None => Checkpoint::open(Path::new(from)).ok()?.config().clone(),
    };
    Some(Sizes { config, at_most: false })
}

/// The sizes of the model that a stage trains.
pub(in crate::stages) fn trained_sizes(plan: &Plan, stage: &Stage, pretrain: &Pretrain) -> Option<Sizes> {
    if pretrain.from.as_deref() == Some(super::BASE) {
        let mut upstream = stage.reads.iter().filter_map(|&index| plan.stages.get(index));
        return upstream.find_map(|stage| match &stage.work {
            Work::Base(base) => trained_sizes(plan, stage, base),
            _ => None,
        });
    }
    if let Some(from) = &pretrain.from {
        return model_sizes(plan, from);
    }
    let model = pretrain.model.as_ref()?;
    let (vocabulary, at_most) = match model.tokenizer.as_str() {
        "bpe" | "words" => (model.vocabulary, true),
        path => (Vocabulary::of_file(Path::new(path)).ok()?.tokenizer().vocab_size(), false),
    };
    Some(Sizes { config: new_config(model, pretrain.context, vocabulary, Vec::new()).ok()?, at_most })
}

/// Documents and tokens of one source.
fn size(plan: &Plan, stage: &Stage, data: &TrainingData) -> Option<(u64, u64)> {
    let (documents, tokens) = match data.stage() {
        Some((name, set)) => {
            let upstream = stage.reads.iter().filter_map(|&index| plan.stages.get(index));
            match &upstream.into_iter().find(|stage| stage.work.name() == name)?.work {
                Work::Prime(prime) => {
                    let traces = plan.limit.map_or(prime.train, |limit| prime.train.min(limit));
                    (traces, traces * TRACE_TOKENS)
                }
                Work::Arithmetic(arithmetic) => {
                    let [(_, texts), _] = crate::stages::arithmetic::rows(arithmetic, plan.limit);
                    (texts, texts * u64::from(arithmetic.lengths[0] + arithmetic.lengths[1]) / 2)
                }
                Work::Curate(curate) => {
                    let corpus = curate.corpus.get(set)?;
                    let partner = corpus.matched.as_ref().and_then(|name| curate.corpus.get(name));
                    let tokens = corpus.tokens.or(partner.and_then(|partner| partner.tokens))?;
                    (tokens / 1000, tokens)
                }
                _ => return None,
            }
        }
        None => plan.resources.get(&data.source)?.files.iter().try_fold((0, 0), |(documents, tokens), file| {
            let bytes = match &file.location {
                Location::Local(path) if file.name.ends_with(".parquet") => {
                    let table = ParquetTable::open(path).ok()?;
                    let texts = [&data.text, &data.query, &data.completion];
                    let footer = table.footer();
                    let columns = footer.columns.iter().filter(|column| texts.contains(&&column.name));
                    return Some((
                        documents + table.rows(),
                        tokens
                            + (columns.map(|column| column.bytes_uncompressed).sum::<u64>() as f64 / BYTES_PER_TOKEN)
                                as u64,
                    ));
                }
                _ if file.name.ends_with(".gz") || file.name.ends_with(".zst") || file.name.ends_with(".parquet") => {
                    3 * file.bytes
                }
                _ => file.bytes,
            };
            let more = (bytes as f64 / BYTES_PER_TOKEN) as u64;
            Some((documents + more / 1000, tokens + more))
        })?,
    };
    let part = data.tokens.map_or(1.0, |most| (most as f64 / tokens.max(1) as f64).min(1.0));
    Some(((documents as f64 * part) as u64, (tokens as f64 * part) as u64))
}
