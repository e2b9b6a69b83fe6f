//! The models of a run, from the model to begin with or from a checkpoint, and back into one.
//!
//! ```text
//! checkpoints/step-000010/   the policy, as a Hugging Face folder
//!   trainer/                 state.json, moments.safetensors, and of the critic critic.safetensors, critic-moments.safetensors
//! ```
//! A critic's tensors have the names that transformers' models for token classification give them: `model.*` and `score.*`.

use crate::config::{Learner as Settings, Ppo, TrainingPrecision};
use crate::error::{Exit, Failure};
use crate::lm::{BatchLimits, Checkpoint, ModelConfig, Parameter, Parameters, Precision};
use crate::rl::lm_policy::{Descent, LmCritic, LmPolicy, LmReference};
use crate::rl::ppo::State;
use crate::run::commit;
use crate::train::adamw::{AdamW, AdamWOptions};
use crate::train::checkpoint::{Best, Checkpoints};
use crate::train::model::{TrainModel, TrainOptions};
use crate::train::model_files::{ModelFiles, model_files};
use crate::train::vocabulary::Vocabulary;
use crate::train::weights_file::{self, WeightsFile};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How far a run is; with weights and moments all that it needs to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct TrainerState {
    /// A hash of everything that shapes the run: another recipe's checkpoint is not gone on from.
    pub key: String,
    pub ppo: State,
    pub actor_updates: u64,
    pub critic_updates: u64,
    /// The checkpoint with the highest pass@1; its `loss` is 1 less that.
    pub best: Option<Best>,
    pub metrics_bytes: u64,
}

/// The model to begin with.
pub(super) struct Base {
    checkpoint: Checkpoint,
    pub vocabulary: Vocabulary,
    pub end_tokens: Vec<u32>,
    files: ModelFiles,
}

impl Base {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let vocabulary = Vocabulary::of_checkpoint(&checkpoint, path)?;
        let mut end_tokens = checkpoint.end_tokens(vocabulary.tokenizer())?;
        if !end_tokens.contains(&vocabulary.end()) {
            end_tokens.push(vocabulary.end());
        }
        let folder = Some(path).filter(|path| path.is_dir());
        let files = model_files(checkpoint.config(), folder, &vocabulary)?;
        Ok(Self { checkpoint, vocabulary, end_tokens, files })
    }

    pub(super) fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    fn parameters(&self) -> anyhow::Result<Parameters> {
        Parameters::from_checkpoint(&self.checkpoint)
    }
}

/// Everything that learns, and what it is kept near.
pub(super) struct Learner {
    pub policy: LmPolicy,
    pub critic: Option<LmCritic>,
    pub reference: Option<LmReference>,
}

const STATE: &str = "trainer/state.json";
const MOMENTS: &str = "trainer/moments.safetensors";
const CRITIC: &str = "trainer/critic.safetensors";
const CRITIC_MOMENTS: &str = "trainer/critic-moments.safetensors";

impl Learner {
    /// From the newest checkpoint of this run, or from the beginning.
    pub(super) fn begin(
        ppo: &Ppo,
        base: &Base,
        saved: Option<(&Path, &TrainerState)>,
        has_reference: bool,
    ) -> anyhow::Result<Self> {
        let config = base.config();
        let options = TrainOptions {
            precision: match ppo.precision {
                TrainingPrecision::F32 => Precision::F32,
                TrainingPrecision::Bf16 => Precision::Bf16,
            },
            ..TrainOptions::default()
        };
        let model = |parameters| TrainModel::new(config.clone(), parameters, options);
        let (actor, values) = (descent(&ppo.actor), descent(&ppo.critic));
        let (parameters, optimizer) = match saved {
            None => {
                let parameters = base.parameters()?;
                let optimizer = AdamW::new(&parameters, actor.adamw);
                (parameters, optimizer)
            }
            Some((folder, state)) => {
                let parameters = Parameters::from_checkpoint(&Checkpoint::open(folder)?)?;
                let moments = WeightsFile::open(&folder.join(MOMENTS))?;
                let optimizer = saved_optimizer(&moments, &parameters, actor.adamw, state.actor_updates)?;
                (parameters, optimizer)
            }
        };
        let critic = match (ppo.advantage.has_critic(), saved) {
            (false, _) => None,
            (true, None) => {
                let (parameters, head) = (base.parameters()?, LmCritic::new_head(config));
                let optimizer = AdamW::new(&parameters, values.adamw);
                let head_optimizer = AdamW::new(&head, values.adamw);
                Some(LmCritic::new(model(parameters)?, optimizer, head, head_optimizer, values))
            }
            (true, Some((folder, state))) => {
                let weights = WeightsFile::open(&folder.join(CRITIC))?;
                let moments = WeightsFile::open(&folder.join(CRITIC_MOMENTS))?;
                let parameters = Parameters::from_named(config, |name, shape| weights.read(name, shape))?;
                let head = like(&LmCritic::new_head(config), |name, shape| weights.read(name, shape))?;
                let steps = state.critic_updates;
                let body_optimizer = saved_optimizer(&moments, &parameters, values.adamw, steps)?;
                let head_optimizer = saved_optimizer(&moments, &head, values.adamw, steps)?;
                Some(LmCritic::new(model(parameters)?, body_optimizer, head, head_optimizer, values))
            }
        };
        let reference = match has_reference {
            true => Some(LmReference { model: model(base.parameters()?)? }),
            false => None,
        };
        let limits = BatchLimits { sequences: ppo.rollout_sequences, ..BatchLimits::default() };
        let ends = base.end_tokens.clone();
        let policy = LmPolicy::new(model(parameters)?, optimizer, actor, ends, ppo.max_response_tokens, limits);
        Ok(Self { policy, critic, reference })
    }

    /// Saves everything as the newest checkpoint.
    pub(super) fn save(&self, checkpoints: &Checkpoints, base: &Base, state: &TrainerState) -> anyhow::Result<()> {
        let mut state = state.clone();
        state.actor_updates = self.policy.optimizer.steps;
        state.critic_updates = self.critic.as_ref().map_or(0, |critic| critic.optimizer.steps);
        checkpoints.save_with(state.ppo.step, state.best, |folder| {
            for (name, bytes) in &base.files {
                commit::write_atomic(&folder.join(name), bytes)?;
            }
            let named = |parameter: &'_ Parameter| parameter.name.clone();
            let weights = self.policy.model.parameters.as_slice();
            weights_file::write(&folder.join("model.safetensors"), weights.iter().map(|one| (named(one), one)))?;
            weights_file::write(&folder.join(MOMENTS), moments(&[&self.policy.optimizer]))?;
            if let Some(critic) = &self.critic {
                let weights = critic.model.parameters.as_slice().iter().chain(critic.head.as_slice());
                weights_file::write(&folder.join(CRITIC), weights.map(|one| (named(one), one)))?;
                let optimizers = [&critic.optimizer, &critic.head_optimizer];
                weights_file::write(&folder.join(CRITIC_MOMENTS), moments(&optimizers))?;
            }
            let mut text = serde_json::to_vec_pretty(&state)?;
            text.push(b'\n');
            commit::write_atomic(&folder.join(STATE), &text)
        })
    }
}

/// What a run stood at when a checkpoint was saved; none if it is of another run than `key`.
pub(super) fn read_state(folder: &Path, key: &str) -> anyhow::Result<Option<TrainerState>> {
    let path = folder.join(STATE);
    let damaged = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::BadData, format!("`{}` is damaged: {error}", path.display()))
            .hint("remove its folder and `latest`, and run again")
    };
    let text = std::fs::read(&path).map_err(|error| damaged(&error))?;
    let Ok(state) = serde_json::from_slice::<TrainerState>(&text) else {
        let other: serde_json::Value = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        // Another version's, or another stage's: its key differs.
        return if other["key"] == key { Err(damaged(&"it is not a state of `[ppo]`").into()) } else { Ok(None) };
    };
    Ok((state.key == key).then_some(state))
}

fn descent(settings: &Settings) -> Descent {
    let adamw = AdamWOptions {
        betas: (settings.betas[0], settings.betas[1]),
        eps: settings.epsilon,
        weight_decay: settings.weight_decay,
    };
    Descent { rate: settings.learning_rate, clip: settings.clip, adamw }
}

/// Both moments of some optimizers, by name.
fn moments<'a>(optimizers: &'a [&'a AdamW]) -> impl Iterator<Item = (String, &'a Parameter)> + Clone {
    optimizers.iter().flat_map(|optimizer| {
        let first = optimizer.first_moment.as_slice().iter().map(|one| (format!("first.{}", one.name), one));
        let second = optimizer.second_moment.as_slice().iter().map(|one| (format!("second.{}", one.name), one));
        first.chain(second)
    })
}

fn saved_optimizer(
    moments: &WeightsFile,
    parameters: &Parameters,
    options: AdamWOptions,
    steps: u64,
) -> anyhow::Result<AdamW> {
    let moment = |prefix: &str| like(parameters, |name, shape| moments.read(&format!("{prefix}.{name}"), shape));
    Ok(AdamW { options, steps, first_moment: moment("first")?, second_moment: moment("second")? })
}

/// Tensors of the same names and shapes, with other numbers.
fn like(
    parameters: &Parameters,
    mut find: impl FnMut(&str, &[usize]) -> anyhow::Result<Vec<f32>>,
) -> anyhow::Result<Parameters> {
    let entry = |one: &Parameter| {
        Ok(Parameter { name: one.name.clone(), shape: one.shape.clone(), values: find(&one.name, &one.shape)? })
    };
    Ok(Parameters::of(parameters.iter().map(entry).collect::<anyhow::Result<_>>()?))
}
