//! The loop: a step's data, its gradient, an update; now and then a look at held-out data, a sample, a checkpoint.
//!
//! It goes on from the newest checkpoint of the same recipe, to the bit: what a step does depends on weights, moments, the
//! cursor and the step's number, and on nothing else.

use super::adamw::{AdamW, AdamWOptions, clip_global_norm, global_norm};
use super::arithmetic::Arithmetic;
use super::batch::TrainBatch;
use super::checkpoint::{self, Best, Checkpoints, TrainerState};
use super::metrics::{LineLog, Metric};
use super::mixture::{Mixture, StepData};
use super::model::{LossSum, TrainModel, TrainOptions};
use super::model_files::ModelFiles;
use super::schedule::Schedule;
use super::source::Source;
use super::vocabulary::Vocabulary;
use super::writing;
use crate::error::{Exit, Failure};
use crate::lm::{ModelConfig, Parameters};
use std::path::Path;

/// Everything that a run does, but the weights that it begins with.
pub struct Training<'a> {
    /// A hash of everything that shapes the run.
    pub key: &'a str,
    /// Where `metrics.jsonl` and `samples.jsonl` go.
    pub folder: &'a Path,
    pub checkpoints: &'a Checkpoints,
    pub config: &'a ModelConfig,
    pub options: TrainOptions,
    pub optimizer: AdamWOptions,
    /// The longest gradient; 0 is off.
    pub clip: f64,
    pub schedule: Schedule,
    pub mixture: &'a Mixture,
    pub held_out: &'a [Source],
    /// Steps between two looks at held-out data; 0: at the beginning and the end alone.
    pub eval_every: u64,
    /// At most so many held-out tokens of each source.
    pub eval_tokens: u64,
    pub samples: Option<Samples<'a>>,
    pub context: usize,
    pub files: &'a ModelFiles,
    pub vocabulary: &'a Vocabulary,
}

/// What to let the model write, and after which steps.
pub struct Samples<'a> {
    pub prompts: &'a [String],
    pub max_tokens: usize,
    pub due: Box<dyn Fn(u64) -> bool + 'a>,
}

/// What the loop tells of itself, and asks.
pub trait Watch {
    /// Whether somebody asked to stop. A step in hand is given up, a checkpoint saved.
    fn stopped(&self) -> bool;
    /// A step is done. `tokens` and `operations` (see [`Arithmetic`]) are those of this step.
    fn step(&self, metric: &Metric, tokens: u64, operations: f64);
    /// Something that people should know.
    fn notice(&self, message: String);
}

/// How the loop ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    Done(TrainerState),
    /// A signal asked for it; the newest checkpoint holds every step done.
    Stopped,
}

/// The files of the loop in its folder.
pub const METRICS: &str = "metrics.jsonl";
pub const SAMPLES: &str = "samples.jsonl";

/// Weight of the past in the running mean of the loss.
const SMOOTHING: f64 = 0.9;

/// Steps before the running mean means anything.
const SETTLED_STEPS: u64 = 20;

impl Training<'_> {
    /// Trains to the end. `begin` gives the weights for a run that has no checkpoint yet.
    ///
    /// # Errors
    /// A [`Failure`] when the loss is no number or explodes, naming the step and its documents; when the disk is full.
    pub fn run(&self, begin: impl FnOnce() -> anyhow::Result<Parameters>, watch: &dyn Watch) -> anyhow::Result<Ended> {
        let mut learner = self.learner(begin)?;
        self.checkpoints.sweep(&learner.state)?;
        if learner.state.step > 0 {
            watch.notice(format!("going on from step {} of {}", learner.state.step, self.checkpoints.steps));
        } else if !learner.resumed {
            self.look(&mut learner, watch)?;
        }
        while learner.state.step < self.checkpoints.steps {
            let before = learner.state.cursor.clone();
            if !self.step(&mut learner, watch)? {
                learner.state.cursor = before;
                if learner.saved != Some(learner.state.step) {
                    self.save(&mut learner)?;
                }
                return Ok(Ended::Stopped);
            }
            self.look(&mut learner, watch)?;
            if self.checkpoints.is_due(learner.state.step) {
                self.save(&mut learner)?;
            }
        }
        if learner.saved != Some(learner.state.step) {
            self.save(&mut learner)?;
        }
        Ok(Ended::Done(learner.state))
    }

    fn learner(&self, begin: impl FnOnce() -> anyhow::Result<Parameters>) -> anyhow::Result<Learner> {
        let mut resumed = None;
        if let Some(folder) = self.checkpoints.latest()? {
            resumed = checkpoint::read_state(&folder, self.key)?.map(|state| (folder, state));
        }
        let (parameters, optimizer, state) = match &resumed {
            Some((folder, state)) => {
                let (parameters, optimizer) = checkpoint::read_tensors(folder, self.config, self.optimizer, state)?;
                (parameters, optimizer, state.clone())
            }
            None => {
                self.checkpoints.clear()?;
                let parameters = begin()?;
                let optimizer = AdamW::new(&parameters, self.optimizer);
                (parameters, optimizer, self.first_state())
            }
        };
        let gradients = parameters.zeros_like();
        Ok(Learner {
            model: TrainModel::new(self.config.clone(), parameters, self.options)?,
            optimizer,
            gradients,
            metrics: LineLog::open(&self.folder.join(METRICS), state.metrics_bytes)?,
            samples: LineLog::open(&self.folder.join(SAMPLES), state.samples_bytes)?,
            resumed: resumed.is_some(),
            saved: resumed.is_some().then_some(state.step),
            held_out: None,
            state,
        })
    }

    fn first_state(&self) -> TrainerState {
        TrainerState {
            key: self.key.to_owned(),
            step: 0,
            cursor: self.mixture.start(),
            optimizer_steps: 0,
            smoothed_loss: 0.0,
            best: None,
            metrics_bytes: 0,
            samples_bytes: 0,
        }
    }

    /// One optimizer step; false if somebody asked to stop before it was done.
    fn step(&self, learner: &mut Learner, watch: &dyn Watch) -> anyhow::Result<bool> {
        let Learner { model, optimizer, gradients, state, .. } = learner;
        let Some(data) = self.mixture.next(&mut state.cursor) else {
            anyhow::bail!("the data ended at step {} of {}", state.step, self.checkpoints.steps);
        };
        gradients.fill(0.0);
        // The mean over all targets of the step, however it is cut into parts.
        let scale = 1.0 / data.targets.max(1) as f32;
        let mut sum = LossSum::default();
        for part in &data.parts {
            if watch.stopped() {
                return Ok(false);
            }
            add(&mut sum, model.loss_and_gradients(part, scale, gradients)?);
        }
        let loss = sum.nll / sum.targets.max(1) as f64;
        let norm = if self.clip > 0.0 { clip_global_norm(gradients, self.clip) } else { global_norm(gradients) };
        self.check_sanity(state, &data, loss, norm)?;
        let rate = self.schedule.rate(state.step);
        optimizer.step(&mut model.parameters, gradients, rate);
        state.step += 1;
        state.optimizer_steps = optimizer.steps;
        state.smoothed_loss =
            if state.step == 1 { loss } else { SMOOTHING * state.smoothed_loss + (1.0 - SMOOTHING) * loss };
        let metric = Metric {
            step: state.step,
            held_out: None,
            loss,
            learning_rate: Some(rate),
            gradient_norm: Some(norm),
            targets: sum.targets,
            tokens: state.cursor.tokens(),
            epochs: self.epochs(state),
        };
        learner.metrics.append(&metric)?;
        learner.held_out = None;
        let arithmetic = Arithmetic::new(self.config);
        watch.step(&metric, data.tokens, data.parts.iter().map(|part| arithmetic.total(part)).sum());
        Ok(true)
    }

    fn epochs(&self, state: &TrainerState) -> f64 {
        state.cursor.tokens() as f64 / self.mixture.epoch_tokens().max(1) as f64
    }

    /// Stops at a loss that is no number, or that is far above what it was.
    fn check_sanity(&self, state: &TrainerState, data: &StepData, loss: f64, norm: f64) -> anyhow::Result<()> {
        let Some(what) = unsound(state, loss, norm) else { return Ok(()) };
        let names = self.mixture.document_names(data);
        let shown: Vec<String> = names.iter().take(4).map(|name| format!("`{name}`")).collect();
        let more = match names.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("{what}; its documents are {}{more}", shown.join(", "));
        let last = match self.checkpoints.latest()? {
            Some(folder) => format!("; `from = \"{}\"` would go on from the last checkpoint", folder.display()),
            None => String::new(),
        };
        let hint = format!(
            "lower `pretrain.optimizer.learning-rate`, lengthen `pretrain.schedule.warm-up` or look at these documents{last}"
        );
        Err(Failure::new(Exit::Failed, message).hint(hint).into())
    }

    /// Looks at held-out data and writes samples, if they are due after this step.
    fn look(&self, learner: &mut Learner, watch: &dyn Watch) -> anyhow::Result<()> {
        let (step, steps) = (learner.state.step, self.checkpoints.steps);
        let every = self.eval_every > 0 && step.is_multiple_of(self.eval_every);
        if step == 0 || step == steps || every || self.checkpoints.is_due(step) {
            self.evaluate(learner, watch)?;
        }
        if let Some(samples) = self.samples.as_ref().filter(|samples| (samples.due)(step)) {
            let (max, context) = (samples.max_tokens, self.context);
            let parameters = &learner.model.parameters;
            let written =
                writing::write(self.config, parameters, self.vocabulary, samples.prompts, max, context, step)?;
            for sample in written {
                learner.samples.append(&sample)?;
            }
        }
        Ok(())
    }

    /// The held-out loss of every source.
    fn evaluate(&self, learner: &mut Learner, watch: &dyn Watch) -> anyhow::Result<()> {
        let mut losses = Vec::new();
        for source in self.held_out {
            let mut sum = LossSum::default();
            for part in self.held_out_parts(source) {
                add(&mut sum, learner.model.loss(&part)?);
            }
            if sum.targets == 0 {
                continue;
            }
            let loss = sum.nll / sum.targets as f64;
            if !loss.is_finite() {
                let message =
                    format!("the held-out loss of `{}` is {loss} after step {}", source.name, learner.state.step);
                let hint = "the weights hold no numbers any more: lower `pretrain.optimizer.learning-rate`, or mend the model that training begins with";
                return Err(Failure::new(Exit::Failed, message).hint(hint).into());
            }
            losses.push(loss);
            learner.metrics.append(&Metric {
                step: learner.state.step,
                held_out: Some(source.name.clone()),
                loss,
                learning_rate: None,
                gradient_norm: None,
                targets: sum.targets,
                tokens: learner.state.cursor.tokens(),
                epochs: self.epochs(&learner.state),
            })?;
        }
        if !losses.is_empty() {
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;
            learner.held_out = Some(mean);
            watch.notice(format!("step {}: held-out loss {mean:.4}", learner.state.step));
        }
        Ok(())
    }

    fn held_out_parts(&self, source: &Source) -> Vec<TrainBatch> {
        let mut left = self.eval_tokens;
        let pieces = (0..source.len()).map(|index| source.piece(index)).take_while(move |&piece| {
            let length = source.length(piece) as u64;
            let fits = length <= left;
            left = left.saturating_sub(length);
            fits
        });
        self.mixture.parts(pieces.map(|piece| (source, piece)))
    }

    fn save(&self, learner: &mut Learner) -> anyhow::Result<()> {
        let state = &mut learner.state;
        state.metrics_bytes = learner.metrics.sync()?;
        state.samples_bytes = learner.samples.sync()?;
        if let Some(loss) = learner.held_out.filter(|_| self.checkpoints.is_due(state.step))
            && state.best.is_none_or(|best| loss < best.loss)
        {
            state.best = Some(Best { step: state.step, loss });
        }
        self.checkpoints.save(&learner.model.parameters, &learner.optimizer, state, self.files)?;
        learner.saved = Some(state.step);
        Ok(())
    }
}

/// What is wrong with a step, if something is: a sentence that names it.
fn unsound(state: &TrainerState, loss: f64, norm: f64) -> Option<String> {
    let step = state.step + 1;
    if !loss.is_finite() {
        Some(format!("the loss of step {step} is {loss}"))
    } else if !norm.is_finite() {
        Some(format!("the gradient of step {step} is not finite, its loss is {loss:.4}"))
    } else if state.step >= SETTLED_STEPS && loss > 3.0 * state.smoothed_loss + 1.0 {
        Some(format!("the loss explodes: {loss:.3} at step {step}, about {:.3} before", state.smoothed_loss))
    } else {
        None
    }
}

/// A model in training.
struct Learner {
    model: TrainModel,
    optimizer: AdamW,
    gradients: Parameters,
    state: TrainerState,
    metrics: LineLog,
    samples: LineLog,
    /// Whether it goes on from a checkpoint.
    resumed: bool,
    /// The step of the newest checkpoint.
    saved: Option<u64>,
    /// The mean held-out loss after the last step, if it was looked at.
    held_out: Option<f64>,
}

fn add(sum: &mut LossSum, part: LossSum) {
    sum.nll += part.nll;
    sum.z += part.z;
    sum.targets += part.targets;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_that_make_no_sense_are_told() {
        let check = |step, loss, norm, expect: Option<&str>| {
            let state = TrainerState {
                key: String::new(),
                step,
                cursor: Default::default(),
                optimizer_steps: step,
                smoothed_loss: 2.0,
                best: None,
                metrics_bytes: 0,
                samples_bytes: 0,
            };
            assert_eq!(unsound(&state, loss, norm).as_deref(), expect);
        };
        check(50, 6.9, 1e6, None);
        check(50, 7.1, 1.0, Some("the loss explodes: 7.100 at step 51, about 2.000 before"));
        check(3, 7.1, 1.0, None);
        check(3, f64::NAN, 1.0, Some("the loss of step 4 is NaN"));
        check(3, 2.0, f64::INFINITY, Some("the gradient of step 4 is not finite, its loss is 2.0000"));
    }
}
