//! `pretrain`: trains a language model on what stages of this run wrote, or on files.
//!
//! It is one unit that goes on where it stopped. Documents are tokenised once into `tokens/` of the run folder, under names that
//! say their content, so that arms share them; then [`crate::train::trainer`] does the work, and the last or best checkpoint
//! becomes `model/`.

mod card;
pub mod estimate;
pub(super) mod model;
mod questions;
mod sources;

use crate::config::{Config, Export, Pretrain, Recipe, ScheduleShape, TrainingPrecision};
use crate::lm::Precision;
use crate::machine::Memory;
use crate::plan::Stage;
use crate::run::events::{Event, Progress, TrainingProgress};
use crate::run::manifest::{Counts, Manifest, Output};
use crate::run::{Runner, commit};
use crate::stages::curate::write_text;
use crate::train::adamw::AdamWOptions;
use crate::train::checkpoint::{Checkpoints, TrainerState};
use crate::train::memory::{self, MemoryEstimate};
use crate::train::metrics::{self, Metric};
use crate::train::mixture::{Length, Mixture, StepSize};
use crate::train::model::TrainOptions;
use crate::train::model_files::model_files;
use crate::train::schedule::{Course, Schedule};
use crate::train::trainer::{Ended, METRICS, SAMPLES, Samples, Training, Watch};
use anyhow::Context;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

/// The version of what training writes. Raise it when equal settings give other bytes.
pub const FORMAT: u32 = 1;

/// The name that stands for this run's `[base]`.
pub(super) const BASE: &str = "base";

/// Where tokenised documents lie in the run folder.
pub const TOKENS: &str = "tokens";

/// Checks what a recipe's `[pretrain]` names, before anything runs.
///
/// # Errors
/// A [`Failure`] at the recipe's key: a folder that is no model, an architecture that we do not know, a context that is too long.
pub fn check_recipe(recipe: &Recipe, arm: &str, config: &Config) -> anyhow::Result<()> {
    for (table, pretrain) in config.trainings() {
        check_table(recipe, arm, table, pretrain)?;
    }
    Ok(())
}

fn check_table(recipe: &Recipe, arm: &str, table: &str, pretrain: &Pretrain) -> anyhow::Result<()> {
    let located = |key: &str, error: anyhow::Error| {
        let failure = recipe.error_in_arm(arm, &format!("{table}.{key}"), &error.to_string());
        match crate::error::hint_of(&error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    };
    if let Some(from) = pretrain.from.as_ref().filter(|from| !from.starts_with("hf://") && *from != BASE) {
        let checkpoint = crate::lm::Checkpoint::open(Path::new(from)).map_err(|error| located("from", error))?;
        model::check_context(pretrain, checkpoint.config()).map_err(|error| located("context", error))?;
    }
    Ok(())
}

/// Trains to the end. None: stopped by a signal, resumable.
pub fn run(runner: &Runner, stage: &Stage, pretrain: &Pretrain) -> anyhow::Result<Option<Manifest>> {
    let folder = runner.dir.path(&stage.folder);
    commit::create_folder(&folder)?;
    let base = model::Base::new(runner, stage, pretrain)?;
    let data = sources::Data::locate(runner, stage, pretrain)?;
    let vocabulary = base.vocabulary(runner, &data)?;
    let config = base.config(pretrain, &vocabulary)?;
    let options = TrainOptions {
        precision: match pretrain.precision {
            TrainingPrecision::F32 => Precision::F32,
            TrainingPrecision::Bf16 => Precision::Bf16,
        },
        recompute: pretrain.recompute,
        z_loss: pretrain.z_loss as f32,
    };
    let estimate = MemoryEstimate::new(&config, options, pretrain.batch.micro_tokens(pretrain.context));
    let model = estimate.total() - estimate.activations;
    let parts = [("weights, gradients and moments", model), ("activations", estimate.activations)];
    let hint = "lower `pretrain.batch.micro-tokens`, or set `pretrain.recompute = true`";
    memory::check(stage.work.name(), parts, hint, Memory::available())?;
    let Some(tokenised) = data.tokenise(runner, &vocabulary)? else { return Ok(None) };
    let seed = pretrain.seed.unwrap_or(runner.plan.seed);
    let divided = tokenised.divide(runner, pretrain, seed)?;

    let micro_tokens = pretrain.batch.micro_tokens(pretrain.context);
    let weights = pretrain.is_weighted().then(|| divided.weights.clone());
    let mixture = Mixture::new(divided.train, weights, length(pretrain), step_size(pretrain), micro_tokens, seed);
    let (steps, tokens) = mixture.steps();
    runner.reporter.notice(format!(
        "{}: {} parameters, {} tokens in {} steps, about {} of memory",
        stage.folder,
        indicatif::HumanCount(memory::parameter_count(&config)),
        indicatif::HumanCount(tokens),
        indicatif::HumanCount(steps),
        crate::config::ByteSize(estimate.total())
    ));

    let mut checkpoints = Checkpoints::new(folder.join("checkpoints"));
    checkpoints.keep_last = pretrain.checkpoint.keep_last;
    checkpoints.keep_best = pretrain.checkpoint.keep_best;
    checkpoints.every = pretrain.checkpoint.every;
    checkpoints.steps = steps;
    let files = model_files(&config, base.folder(), &vocabulary)?;
    let samples = pretrain.samples.as_ref().map(|samples| Samples {
        prompts: &samples.prompts,
        max_tokens: samples.max_tokens,
        due: Box::new(move |step| samples.due(step, steps)),
    });
    let training = Training {
        key: &stage.key,
        folder: &folder,
        checkpoints: &checkpoints,
        config: &config,
        options,
        optimizer: AdamWOptions {
            betas: (pretrain.optimizer.betas[0], pretrain.optimizer.betas[1]),
            eps: pretrain.optimizer.epsilon,
            weight_decay: pretrain.optimizer.weight_decay,
        },
        clip: pretrain.optimizer.clip,
        schedule: schedule(pretrain, steps),
        mixture: &mixture,
        held_out: &divided.held_out,
        eval_every: pretrain.eval.every,
        eval_tokens: pretrain.eval.tokens,
        samples,
        context: pretrain.context,
        files: &files,
        vocabulary: &vocabulary,
    };
    let watch = RunWatch::new(runner, stage, steps, tokens, options.precision.peak());
    let state = match training.run(|| base.parameters(&config, seed), &watch)? {
        Ended::Done(state) => state,
        Ended::Stopped => return Ok(None),
    };
    let outputs = finish(runner, stage, pretrain, &checkpoints, &state, &divided.counts)?;
    Ok(Some(manifest(runner, stage, outputs, divided.sum)))
}

fn length(pretrain: &Pretrain) -> Length {
    match (pretrain.tokens, pretrain.epochs) {
        (Some(tokens), _) => Length::Tokens(tokens),
        (None, epochs) => Length::Epochs(epochs.unwrap_or(1)),
    }
}

fn step_size(pretrain: &Pretrain) -> StepSize {
    use crate::config::BatchSize;
    match pretrain.batch.sequences {
        Some(sequences) => StepSize::Sequences(sequences),
        None => StepSize::Tokens(pretrain.batch.tokens.unwrap_or(BatchSize::DEFAULT_TOKENS.max(pretrain.context))),
    }
}

fn schedule(pretrain: &Pretrain, steps: u64) -> Schedule {
    let share = |share: f64| (steps as f64 * share).round() as u64;
    let settings = &pretrain.schedule;
    Schedule {
        peak: pretrain.optimizer.learning_rate,
        floor: pretrain.optimizer.learning_rate * settings.floor,
        warmup_steps: share(settings.warm_up),
        total_steps: steps,
        course: match settings.shape {
            ScheduleShape::Cosine => Course::Cosine,
            ScheduleShape::Linear => Course::Linear,
            ScheduleShape::Constant => Course::Constant,
            ScheduleShape::Wsd => Course::Wsd { decay_steps: share(settings.decay) },
        },
    }
}

/// Writes what stands beside the checkpoints, and lists everything.
fn finish(
    runner: &Runner,
    stage: &Stage,
    pretrain: &Pretrain,
    checkpoints: &Checkpoints,
    state: &TrainerState,
    counts: &sources::DataCounts,
) -> anyhow::Result<Vec<Output>> {
    let folder = runner.dir.path(&stage.folder);
    let chosen = match (pretrain.checkpoint.export, state.best) {
        (Export::Best, Some(best)) => best.step,
        _ => state.step,
    };
    runner.dir.remove(format!("{}/model", stage.folder))?;
    let from = checkpoints.path(chosen);
    for entry in std::fs::read_dir(&from).with_context(|| format!("cannot read `{}`", from.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            commit::link_or_copy(&path, &folder.join("model").join(name))?;
        }
    }
    let written = metrics::read(&folder.join(METRICS))?;
    let rows = metrics::write_table(&written, &folder.join("metrics.parquet"), &stage.key)?.rows;
    let data = serde_json::to_string_pretty(counts)? + "\n";
    write_text(runner, stage, "data.json", &data)?;
    let card = card::render(runner.plan, stage, pretrain, chosen, counts, &written)?;
    write_text(runner, stage, "README.md", &card)?;

    let mut outputs = Vec::new();
    for name in ["README.md", "data.json", METRICS, "metrics.parquet", SAMPLES] {
        let rows = if name == "metrics.parquet" { rows } else { 0 };
        outputs.push(output(runner, stage, name, rows)?);
    }
    for part in ["checkpoints", "model"] {
        for name in files_below(&folder, &folder.join(part))? {
            outputs.push(output(runner, stage, &name, 0)?);
        }
    }
    Ok(outputs)
}

fn output(runner: &Runner, stage: &Stage, name: &str, rows: u64) -> anyhow::Result<Output> {
    let path = format!("{}/{name}", stage.folder);
    let (bytes, sha256) = crate::plan::hash_file(&runner.dir.path(&path))?;
    Ok(Output { path, bytes, sha256, rows })
}

/// Files of a folder and those below it, relative to `root`, in order.
pub(super) fn files_below(root: &Path, folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            names.extend(files_below(root, &path)?);
        } else if let Ok(name) = path.strip_prefix(root) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn manifest(runner: &Runner, stage: &Stage, outputs: Vec<Output>, counts: Counts) -> Manifest {
    Manifest {
        plan_id: runner.plan.plan_id.clone(),
        stage: stage.work.name().to_owned(),
        stage_key: stage.key.clone(),
        unit: "all".to_owned(),
        input: "the training data".to_owned(),
        input_sha256: String::new(),
        outputs,
        counts,
        labels: None,
        judge: None,
        corpora: Default::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Shows the loop's progress as the run's.
struct RunWatch<'a> {
    runner: &'a Runner<'a>,
    stage: &'a Stage,
    started: Instant,
    progress: RefCell<TrainingProgress>,
    shown: Cell<Option<Instant>>,
    /// Operations per second that the processor could reach, and those of the steps so far.
    peak: f64,
    operations: Cell<f64>,
}

const SHOW_INTERVAL: Duration = Duration::from_millis(200);

impl<'a> RunWatch<'a> {
    fn new(runner: &'a Runner<'a>, stage: &'a Stage, steps: u64, tokens_total: u64, peak: f64) -> Self {
        let progress = TrainingProgress { steps, tokens_total, ..TrainingProgress::default() };
        Self {
            runner,
            stage,
            started: Instant::now(),
            progress: RefCell::new(progress),
            shown: Cell::new(None),
            peak,
            operations: Cell::new(0.0),
        }
    }
}

impl Watch for RunWatch<'_> {
    fn stopped(&self) -> bool {
        self.runner.stop.requested()
    }

    fn step(&self, metric: &Metric, tokens: u64, operations: f64) {
        self.operations.set(self.operations.get() + operations);
        let mut progress = self.progress.borrow_mut();
        progress.step = metric.step;
        progress.loss = metric.loss;
        progress.tokens = metric.tokens;
        progress.tokens_here += tokens;
        if self.shown.get().is_none_or(|at| at.elapsed() >= SHOW_INTERVAL) {
            self.shown.set(Some(Instant::now()));
            let seconds = self.started.elapsed().as_secs_f64();
            progress.share_of_peak = (self.peak > 0.0).then(|| self.operations.get() / seconds / self.peak);
            let progress = Progress { seconds, training: Some(progress.clone()), ..Progress::default() };
            self.runner.reporter.emit(Event::Progress { stage: self.stage.folder.clone(), progress });
        }
    }

    fn notice(&self, message: String) {
        self.runner.reporter.notice(format!("{}: {message}", self.stage.folder));
    }
}
