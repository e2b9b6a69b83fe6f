//! The model that training begins with: a checkpoint, or random numbers in given sizes.

use super::sources::Data;
use crate::config::{NewArchitecture, NewModel, Pretrain};
use crate::error::{Exit, Failure};
use crate::lm::{Architecture, Checkpoint, ModelConfig, Parameters, RopeScaling};
use crate::plan::Stage;
use crate::run::{Runner, commit, judges};
use crate::train::permutation::derive;
use crate::train::vocabulary::{Making, Vocabulary};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What training begins with.
pub(super) enum Base {
    Checkpoint { path: PathBuf, checkpoint: Box<Checkpoint> },
    New(NewModel),
}

impl Base {
    pub(super) fn new(runner: &Runner, stage: &Stage, pretrain: &Pretrain) -> anyhow::Result<Self> {
        match (&pretrain.from, &pretrain.model) {
            (Some(from), _) => {
                let path = match from.as_str() {
                    super::BASE => trained_model(runner, stage, super::BASE)?,
                    from => judges::model_path(from, runner.plan, runner.hub)?,
                };
                let checkpoint = Box::new(Checkpoint::open(&path)?);
                check_context(pretrain, checkpoint.config())?;
                Ok(Self::Checkpoint { path, checkpoint })
            }
            (None, Some(model)) => Ok(Self::New(model.clone())),
            (None, None) => Err(Failure::new(Exit::Usage, "`pretrain` names no model").into()),
        }
    }

    /// The folder whose configuration is kept, for a checkpoint that has one.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Checkpoint { path, .. } => Some(path).filter(|path| path.is_dir()).map(PathBuf::as_path),
            Self::New(_) => None,
        }
    }

    /// The checkpoint's tokenizer, a given one, or one made of the training data; the last is made once for all arms with the same data.
    pub(super) fn vocabulary(&self, runner: &Runner, data: &Data) -> anyhow::Result<Vocabulary> {
        let model = match self {
            Self::Checkpoint { path, checkpoint } => return Vocabulary::of_checkpoint(checkpoint, path),
            Self::New(model) => model,
        };
        let making = match model.tokenizer.as_str() {
            "bpe" => Making::Bpe,
            "words" => Making::Words,
            path => return Vocabulary::of_file(Path::new(path)),
        };
        let also = model.also_spells.as_deref().unwrap_or("");
        let key = data.digest(&format!("{making:?} {} {also}", model.vocabulary));
        let folder = runner.dir.path(super::TOKENS).join(format!("{key}.tokenizer"));
        let names = ["tokenizer.json", "tokenizer_config.json"];
        if names.iter().all(|name| folder.join(name).is_file()) {
            let read = names.map(|name| Ok((name.to_owned(), std::fs::read(folder.join(name))?)));
            let files: BTreeMap<_, _> = read.into_iter().collect::<std::io::Result<_>>()?;
            return Vocabulary::of_bytes(files, &folder);
        }
        runner.reporter.notice(format!("making a tokenizer of at most {} tokens", model.vocabulary));
        let vocabulary = Vocabulary::make(making, model.vocabulary, &data.files(), &data.phrases(), also)?;
        for (name, bytes) in vocabulary.files() {
            commit::write_atomic(&folder.join(name), bytes)?;
        }
        Ok(vocabulary)
    }

    pub(super) fn config(&self, pretrain: &Pretrain, vocabulary: &Vocabulary) -> anyhow::Result<ModelConfig> {
        match self {
            Self::Checkpoint { checkpoint, .. } => Ok(checkpoint.config().clone()),
            Self::New(model) => {
                new_config(model, pretrain.context, vocabulary.tokenizer().vocab_size(), vec![vocabulary.end()])
            }
        }
    }

    pub(super) fn parameters(&self, config: &ModelConfig, seed: u64) -> anyhow::Result<Parameters> {
        match self {
            Self::Checkpoint { checkpoint, .. } => Parameters::from_checkpoint(checkpoint),
            Self::New(_) => Ok(Parameters::random(config, derive(seed, "weights"))),
        }
    }
}

/// The folder of the model that an earlier stage of this run trained.
pub(in crate::stages) fn trained_model(runner: &Runner, stage: &Stage, name: &str) -> anyhow::Result<PathBuf> {
    let mut read = stage.reads.iter().map(|&index| &runner.plan.stages[index]);
    let trained = read.find(|stage| stage.work.name() == name);
    let trained = trained
        .with_context(|| format!("`{}` begins with the model of `{name}`, which is not planned", stage.folder))?;
    Ok(runner.dir.path(&trained.folder).join("model"))
}

/// The configuration of a model from scratch.
pub(super) fn new_config(
    model: &NewModel,
    context: usize,
    vocab_size: usize,
    end_tokens: Vec<u32>,
) -> anyhow::Result<ModelConfig> {
    let architecture = match model.architecture {
        NewArchitecture::Llama => Architecture::Llama,
        NewArchitecture::Qwen2 => Architecture::Qwen2,
        NewArchitecture::Qwen3 => Architecture::Qwen3,
    };
    let config = ModelConfig {
        architecture,
        vocab_size,
        hidden_size: model.hidden,
        intermediate_size: model.intermediate.unwrap_or((8 * model.hidden).div_ceil(3).next_multiple_of(32)),
        num_layers: model.layers,
        num_heads: model.heads,
        num_kv_heads: model.kv_heads.unwrap_or(model.heads),
        head_dim: model.hidden / model.heads,
        rms_norm_eps: 1e-5,
        rope_theta: model.rope_theta,
        rope_scaling: RopeScaling::None,
        max_positions: context,
        tied_head: model.tied_head,
        qkv_bias: architecture == Architecture::Qwen2,
        output_bias: false,
        mlp_bias: false,
        windows: vec![None; model.layers],
        end_tokens,
    };
    config.check()?;
    Ok(config)
}

/// # Errors
/// A [`Failure`] if sequences would be longer than the model was made for.
pub(super) fn check_context(pretrain: &Pretrain, config: &ModelConfig) -> anyhow::Result<()> {
    if pretrain.context <= config.max_positions {
        return Ok(());
    }
    let message = format!("the model was made for at most {} tokens, not {}", config.max_positions, pretrain.context);
    Err(Failure::new(Exit::Usage, message).hint("lower `pretrain.context`").into())
}
