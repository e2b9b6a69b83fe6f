//! `ppo`: reinforcement learning of a language model on Countdown puzzles, or on questions with known answers.
//!
//! It is one unit that goes on where it stopped. [`crate::rl::ppo`] is the algorithm; this file gives it models, prompts and
//! rewards, writes down what happens, looks at held-out puzzles, and saves.

mod command;
pub mod estimate;
mod learner;
mod prompts;
mod questions;
mod record;
pub mod verl;

use crate::config::{Config, Export, KlWhere, Ppo, Recipe, TRAINED, Truncated};
use crate::countdown::verdict;
use crate::error::{Exit, Failure};
use crate::machine::Memory;
use crate::plan::Stage;
use crate::rl::advantage::Discount;
use crate::rl::kl::KlController;
use crate::rl::loss::{Aggregation, Clip};
use crate::rl::ppo::{self as algorithm, KlPenalty, KlPlace, Models, Phase, Policy, Settings, State, Surroundings};
use crate::rl::reward::{MathReward, Outcome, Rule};
use crate::rl::rollout::{Rollout, Truncation, requests};
use crate::run::events::{Event, Progress, TrainingProgress};
use crate::run::manifest::{Counts, Manifest, Output};
use crate::run::{Runner, commit, judges};
use crate::stages::pretrain::model::trained_model;
use crate::train::checkpoint::{Best, Checkpoints};
use crate::train::memory;
use crate::train::metrics::LineLog;
use anyhow::Context;
use command::{Asked, CommandReward};
use learner::{Base, Learner, TrainerState, read_state};
use prompts::{Prompt, Prompts};
use record::{Line, Readers, Training};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The version of what the stage writes. Raise it when equal settings give other bytes.
pub const FORMAT: u32 = 2;

const METRICS: &str = "metrics.jsonl";

/// Checks what a recipe's `[ppo]` names, before anything runs.
///
/// # Errors
/// A [`Failure`] at the recipe's key: a folder that is no model, ranges that leave no puzzle, a response limit beyond the context.
pub fn check_recipe(recipe: &Recipe, arm: &str, config: &Config) -> anyhow::Result<()> {
    let Some(ppo) = config.ppo.as_ref().map(|ppo| ppo.resolved(config.prime.as_ref())) else { return Ok(()) };
    let located = |key: &str, error: &anyhow::Error| {
        let failure = recipe.error_in_arm(arm, key, &error.to_string());
        match crate::error::hint_of(error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    };
    let seed = ppo.seed.unwrap_or(config.seed);
    Prompts::new(&ppo, seed).map_err(|(key, failure)| located(key, &failure.into()))?;
    if !TRAINED.contains(&ppo.from.as_str()) && !ppo.from.starts_with("hf://") {
        let base = crate::lm::Checkpoint::open(Path::new(&ppo.from)).map_err(|error| located("ppo.from", &error))?;
        let context = base.config().max_positions;
        check_context(&ppo, 1, context).map_err(|error| located("ppo.max-response-tokens", &error))?;
    }
    Ok(())
}

fn check_context(ppo: &Ppo, prompt: usize, context: usize) -> anyhow::Result<()> {
    let limit = ppo.max_response_tokens;
    if prompt + limit <= context {
        return Ok(());
    }
    let message =
        format!("a prompt of {prompt} tokens and {limit} of response do not fit the model's context of {context}");
    Err(Failure::new(Exit::Usage, message).hint("lower `ppo.max-response-tokens`, or shorten the query").into())
}

/// Everything that shapes the updates, as the recipe means it.
fn settings(ppo: &Ppo, seed: u64, end_tokens: Vec<u32>) -> Settings {
    let place = match ppo.kl.place {
        KlWhere::Reward => Some(KlPlace::Reward),
        KlWhere::Loss => Some(KlPlace::Loss),
        KlWhere::None => None,
    };
    let (actor_minibatch, critic_minibatch) = ppo.minibatches();
    Settings {
        seed,
        samples: ppo.samples,
        end_tokens,
        max_response: ppo.max_response_tokens,
        truncation: match ppo.truncated {
            Truncated::Score => Truncation::Score,
            Truncated::Mask => Truncation::Mask,
            Truncated::Reward(reward) => Truncation::Reward(reward),
        },
        recompute_old: ppo.recompute_log_probs,
        kl: place.map(|place| KlPenalty { place, estimator: ppo.kl.estimator }),
        advantage: ppo.advantage,
        discount: Discount { gamma: ppo.gamma, lambda: ppo.lambda, whiten: ppo.whiten },
        clip: Clip { low: ppo.clip, high: ppo.clip_high.unwrap_or(ppo.clip), dual: ppo.dual_clip },
        value_clip: Some(ppo.value_clip).filter(|&range| range != 0.0),
        entropy: ppo.entropy,
        epochs: ppo.epochs,
        actor_minibatch,
        critic_minibatch,
        micro_batch_tokens: ppo.micro_tokens,
        shuffle: ppo.shuffle,
        actor_aggregation: ppo.actor.aggregation.unwrap_or(Aggregation::TokenMean),
        critic_aggregation: ppo.critic_aggregation(),
        critic_warmup: ppo.critic_warm_up,
    }
}

/// Trains to the end. None: stopped by a signal, resumable.
pub fn run(runner: &Runner, stage: &Stage, ppo: &Ppo) -> anyhow::Result<Option<Manifest>> {
    let folder = runner.dir.path(&stage.folder);
    commit::create_folder(&folder)?;
    let seed = ppo.seed.unwrap_or(runner.plan.seed);
    let base = Base::open(&model_path(runner, stage, ppo)?)?;
    let needed = estimate::memory(ppo, base.config());
    let parts = [
        ("weights, gradients and moments", needed.models),
        ("activations", needed.activations),
        ("rollouts", needed.rollout),
    ];
    memory::check(
        stage.work.name(),
        parts,
        "lower `ppo.micro-tokens` or `ppo.rollout-sequences`",
        Memory::available(),
    )?;
    let prompts = Prompts::new(ppo, seed).map_err(|(_, failure)| failure)?;
    let steps = ppo.steps_within(runner.plan.limit);

    let mut checkpoints = Checkpoints::new(folder.join("checkpoints"));
    checkpoints.keep_last = ppo.checkpoint.keep_last;
    checkpoints.keep_best = ppo.checkpoint.keep_best;
    checkpoints.every = ppo.checkpoint.every;
    checkpoints.steps = steps;
    let mut saved = None;
    if let Some(newest) = checkpoints.latest()? {
        saved = read_state(&newest, &stage.key)?.map(|state| (newest, state));
    }
    if saved.is_none() {
        checkpoints.clear()?;
        for name in ["rollouts", "evaluations"] {
            runner.dir.remove(format!("{}/{name}", stage.folder))?;
        }
    }
    if let Some((_, state)) = &saved {
        checkpoints.sweep_around(state.ppo.step, state.best)?;
    }
    let has_reference = ppo.kl.place != KlWhere::None;
    let from = saved.as_ref().map(|(folder, state)| (folder.as_path(), state));
    let learner = Learner::begin(ppo, &base, from, has_reference)?;
    let resumed = saved.is_some();
    let state = match saved {
        Some((_, state)) => state,
        None => TrainerState {
            key: stage.key.clone(),
            ppo: State { step: 0, kl: controller(ppo) },
            actor_updates: 0,
            critic_updates: 0,
            best: None,
            metrics_bytes: 0,
        },
    };
    let metrics = LineLog::open(&folder.join(METRICS), state.metrics_bytes)?;
    let settings = settings(ppo, seed, base.end_tokens.clone());
    if let Prompts::Questions(questions) = &prompts {
        questions.check_lengths(ppo, base.config().max_positions, base.vocabulary.tokenizer())?;
    }
    let wanted = ppo.puzzles_within(runner.plan.limit);
    let held_out = prompts.held_out(ppo.eval.split, wanted, base.vocabulary.tokenizer())?;
    if held_out.is_empty() {
        let (one, hint) = match &prompts {
            Prompts::Puzzles(_) => ("puzzle", "widen `ppo.puzzles.numbers` or `ppo.puzzles.targets`"),
            Prompts::Questions(_) => ("question", "raise `ppo.questions.held-out-share`"),
        };
        return Err(Failure::new(Exit::Usage, format!("no {one} is left to look at")).hint(hint).into());
    }
    if held_out.len() < wanted {
        runner.reporter.notice(format!(
            "{}: there are {} held-out {} of this split, not {wanted}",
            stage.folder,
            held_out.len(),
            prompts.kind()
        ));
    }
    let work = Job { runner, stage, ppo, folder, base, prompts, held_out, checkpoints, settings, steps };
    let judge = Judge::new(ppo)?;
    let mut course = Course {
        learner,
        state,
        metrics,
        judge,
        readers: Readers::default(),
        saved: resumed,
        best_now: None,
        started: Instant::now(),
        done_here: 0,
    };
    match work.train(&mut course, resumed)? {
        true => Ok(Some(work.finish(&course)?)),
        false => Ok(None),
    }
}

fn controller(ppo: &Ppo) -> KlController {
    let coefficient = ppo.kl.coefficient;
    match ppo.kl.target {
        Some(target) => KlController::Adaptive { coefficient, target, horizon: ppo.kl.horizon },
        None => KlController::Fixed { coefficient },
    }
}

/// The model to begin with, on this disk.
fn model_path(runner: &Runner, stage: &Stage, ppo: &Ppo) -> anyhow::Result<PathBuf> {
    if !TRAINED.contains(&ppo.from.as_str()) {
        return judges::model_path(&ppo.from, runner.plan, runner.hub);
    }
    trained_model(runner, stage, &ppo.from)
}

/// What a run works with and does not change.
struct Job<'a> {
    runner: &'a Runner<'a>,
    stage: &'a Stage,
    ppo: &'a Ppo,
    folder: PathBuf,
    base: Base,
    prompts: Prompts,
    held_out: Vec<Prompt>,
    checkpoints: Checkpoints,
    settings: Settings,
    steps: u64,
}

/// What changes as it goes.
struct Course {
    learner: Learner,
    state: TrainerState,
    metrics: LineLog,
    judge: Judge,
    readers: Readers,
    /// Whether the newest checkpoint is of this step.
    saved: bool,
    /// pass@1 of the present weights, if they were looked at.
    best_now: Option<f64>,
    started: Instant,
    /// Responses drawn for training by this process.
    done_here: u64,
}

/// Who judges responses.
enum Judge {
    Rule(Rule),
    Command(Box<CommandReward>),
}

impl Judge {
    fn new(ppo: &Ppo) -> anyhow::Result<Self> {
        if let Some(command) = &ppo.reward.command {
            let timeout = Duration::from_secs_f64(ppo.reward.timeout_seconds);
            return Ok(Self::Command(Box::new(CommandReward::start(command, timeout)?)));
        }
        let reward = verdict::Reward { solved: ppo.reward.solved, form: ppo.reward.form, missing: ppo.reward.missing };
        Ok(Self::Rule(match (&ppo.questions, ppo.compat) {
            (Some(_), _) => {
                Rule::Math(MathReward { correct: reward.solved, wrong: reward.form, missing: reward.missing })
            }
            (None, Some(_)) => Rule::TinyZero,
            (None, None) => Rule::Countdown(reward),
        }))
    }

    fn judge(&mut self, prompts: &[Prompt], rollouts: &[Rollout], texts: &[String]) -> anyhow::Result<Vec<Outcome>> {
        let rows = rollouts.iter().zip(texts);
        match self {
            Self::Rule(rule) => Ok(rows
                .map(|(rollout, text)| {
                    rule.judge(&prompts[rollout.prompt].problem, &prompts[rollout.prompt].text, text)
                })
                .collect::<Result<_, _>>()?),
            Self::Command(command) => {
                let asked: Vec<Asked> = rows
                    .map(|(rollout, text)| Asked {
                        problem: &prompts[rollout.prompt].problem,
                        prompt: &prompts[rollout.prompt].text,
                        response: text,
                        is_truncated: rollout.is_truncated,
                    })
                    .collect();
                command.judge(&asked)
            }
        }
    }
}

/// A step's prompts and judge, as the algorithm sees them; what was found stays here.
struct Scene<'a> {
    work: &'a Job<'a>,
    prompts: &'a [Prompt],
    judge: &'a mut Judge,
    texts: Vec<String>,
    outcomes: Vec<Outcome>,
}

impl Surroundings for Scene<'_> {
    fn rewards(&mut self, rollouts: &[Rollout]) -> anyhow::Result<Vec<f64>> {
        self.texts = self.work.texts(rollouts)?;
        self.outcomes = self.judge.judge(self.prompts, rollouts, &self.texts)?;
        Ok(self.outcomes.iter().map(|outcome| outcome.reward).collect())
    }

    fn enter(&mut self, phase: Phase) {
        tracing::debug!(phase = phase.name(), "ppo");
    }
}

impl Job<'_> {
    fn texts(&self, rollouts: &[Rollout]) -> anyhow::Result<Vec<String>> {
        let tokenizer = self.base.vocabulary.tokenizer();
        rollouts.iter().map(|rollout| tokenizer.decode(rollout.said())).collect()
    }

    /// False: stopped by a signal.
    fn train(&self, course: &mut Course, resumed: bool) -> anyhow::Result<bool> {
        if resumed {
            let step = course.state.ppo.step;
            self.runner.reporter.notice(format!("{}: going on from step {step} of {}", self.stage.folder, self.steps));
        } else {
            self.look(course)?;
        }
        while course.state.ppo.step < self.steps {
            if self.runner.stop.requested() {
                if !course.saved {
                    self.save(course)?;
                }
                return Ok(false);
            }
            self.step(course)?;
            let step = course.state.ppo.step;
            if step == self.steps || (0 < self.ppo.eval.every && step.is_multiple_of(self.ppo.eval.every)) {
                self.look(course)?;
            }
            if self.checkpoints.is_due(step) {
                self.save(course)?;
            }
        }
        if !course.saved {
            self.save(course)?;
        }
        Ok(true)
    }

    fn step(&self, course: &mut Course) -> anyhow::Result<()> {
        let before = course.state.ppo.step;
        let prompts = self.prompts.of_step(before, self.ppo.prompts, self.base.vocabulary.tokenizer())?;
        self.check_prompts(&prompts)?;
        let tokens: Vec<_> = prompts.iter().map(|prompt| prompt.tokens.clone()).collect();
        let Course { learner, judge, .. } = course;
        let mut models = Models {
            policy: &mut learner.policy,
            critic: learner.critic.as_mut().map(|critic| critic as &mut dyn algorithm::Critic),
            reference: learner.reference.as_mut().map(|reference| reference as &mut dyn algorithm::Scorer),
        };
        let mut scene = Scene { work: self, prompts: &prompts, judge, texts: Vec::new(), outcomes: Vec::new() };
        let mut ppo = algorithm::Ppo { settings: self.settings.clone(), state: course.state.ppo };
        let step = ppo.step(&mut models, &tokens, &mut scene)?;
        let Scene { texts, outcomes, .. } = scene;
        course.state.ppo = ppo.state;
        course.saved = false;
        course.best_now = None;
        course.done_here += step.rollouts.len() as u64;

        let judged = course.readers.judged(&prompts, &step.rollouts, &texts, &outcomes)?;
        let every = self.ppo.keep_rollouts;
        let is_kept = before == 0 || before + 1 == self.steps || (0 < every && (before + 1).is_multiple_of(every));
        if is_kept {
            let path = self.folder.join(format!("rollouts/step-{:06}.parquet", before + 1));
            record::write_rollouts(before, &judged, &path, &self.stage.key)?;
        }
        let training = Training {
            statistics: step.statistics,
            solved_share: record::solved_share(&judged),
            verdicts: record::verdicts(&judged),
            behaviors: record::behaviors(&judged),
        };
        self.show(course, &training);
        course.metrics.append(&Line { step: before + 1, train: Some(training), evaluation: None })
    }

    fn check_prompts(&self, prompts: &[Prompt]) -> anyhow::Result<()> {
        let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
        if prompts.iter().any(|prompt| prompt.tokens.is_empty()) {
            return Err(Failure::new(Exit::Usage, "the query has no tokens in the model's vocabulary").into());
        }
        check_context(self.ppo, longest, self.base.config().max_positions)
    }

    /// Looks at the held-out puzzles with the present weights.
    fn look(&self, course: &mut Course) -> anyhow::Result<()> {
        self.check_prompts(&self.held_out)?;
        let step = course.state.ppo.step;
        let samples = self.ppo.eval.samples;
        let tokens: Vec<_> = self.held_out.iter().map(|prompt| prompt.tokens.clone()).collect();
        // The same seeds at every look: what differs is the policy.
        let requests = requests(&tokens, samples, self.settings.seed ^ 0x6576_616c, 0);
        let sampled = course.learner.policy.generate(&requests)?;
        let Settings { end_tokens, max_response, .. } = &self.settings;
        let rollouts: Vec<Rollout> = requests
            .iter()
            .zip(sampled)
            .map(|(request, sampled)| Rollout::new(request, sampled, end_tokens, *max_response))
            .collect::<Result<_, _>>()?;
        let texts = self.texts(&rollouts)?;
        let outcomes = course.judge.judge(&self.held_out, &rollouts, &texts)?;
        let judged = course.readers.judged(&self.held_out, &rollouts, &texts, &outcomes)?;
        let path = self.folder.join(format!("evaluations/step-{step:06}.parquet"));
        record::write_rollouts(step, &judged, &path, &self.stage.key)?;
        let evaluated = record::evaluated(&judged, samples, self.ppo.eval.k);
        let pass = evaluated.pass_at_1;
        self.runner.reporter.notice(format!(
            "{}: step {step}: pass@1 {:.3} ({:.3} to {:.3}), pass@{} {:.3} on {} held-out {}",
            self.stage.folder,
            pass.mean,
            pass.low,
            pass.high,
            evaluated.k,
            evaluated.pass_at_k.mean,
            evaluated.puzzles,
            self.prompts.kind()
        ));
        course.best_now = Some(pass.mean);
        course.metrics.append(&Line { step, train: None, evaluation: Some(evaluated) })
    }

    fn save(&self, course: &mut Course) -> anyhow::Result<()> {
        let step = course.state.ppo.step;
        course.state.metrics_bytes = course.metrics.sync()?;
        if let Some(loss) = course.best_now.map(|pass| 1.0 - pass).filter(|_| self.checkpoints.is_due(step))
            && course.state.best.is_none_or(|best| loss < best.loss)
        {
            course.state.best = Some(Best { step, loss });
        }
        course.learner.save(&self.checkpoints, &self.base, &course.state)?;
        course.saved = true;
        Ok(())
    }

    /// The step's health in a line.
    fn show(&self, course: &Course, training: &Training) {
        let Training { statistics, solved_share, .. } = training;
        let mut figures = vec![
            format!("reward {:.3}", statistics.reward_mean),
            format!("solved {:.1} %", 100.0 * solved_share),
            format!("cut off {:.1} %", 100.0 * statistics.truncated_share),
            format!("{:.0} tokens", statistics.response_tokens_mean),
        ];
        if let Some(kl) = statistics.kl {
            figures.push(format!("KL {kl:.4}"));
        }
        if let Some(policy) = statistics.policy {
            figures.push(format!("entropy {:.3}, clipped {:.1} %", policy.entropy, 100.0 * policy.clip_fraction));
        }
        if let Some(explained) = statistics.critic.and_then(|critic| critic.explained_variance) {
            figures.push(format!("explained {explained:.2}"));
        }
        let each = self.ppo.rollouts() as u64;
        let progress = TrainingProgress {
            share_of_peak: None,
            step: statistics.step,
            steps: self.steps,
            loss: statistics.policy.map_or(0.0, |policy| policy.loss),
            tokens: statistics.step * each,
            tokens_total: self.steps * each,
            tokens_here: course.done_here,
            figures: Some(figures.join(", ")),
        };
        let seconds = course.started.elapsed().as_secs_f64();
        let progress = Progress { seconds, training: Some(progress), ..Progress::default() };
        self.runner.reporter.emit(Event::Progress { stage: self.stage.folder.clone(), progress });
    }

    /// Writes what stands beside the checkpoints, and lists everything.
    fn finish(&self, course: &Course) -> anyhow::Result<Manifest> {
        let (runner, stage, state) = (self.runner, self.stage, &course.state);
        let chosen = match (self.ppo.checkpoint.export, state.best) {
            (Export::Best, Some(best)) => best.step,
            _ => state.ppo.step,
        };
        runner.dir.remove(format!("{}/model", stage.folder))?;
        let from = self.checkpoints.path(chosen);
        for entry in std::fs::read_dir(&from).with_context(|| format!("cannot read `{}`", from.display()))? {
            let path = entry?.path();
            if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                commit::link_or_copy(&path, &self.folder.join("model").join(name))?;
            }
        }
        let path = self.folder.join(METRICS);
        let file = std::fs::File::open(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let lines: Vec<Line> = BufReader::new(file)
            .lines()
            .map(|line| Ok(serde_json::from_str(&line?)?))
            .collect::<anyhow::Result<_>>()
            .with_context(|| format!("a line of `{}` is no metric", path.display()))?;
        let rows = record::write_table(&lines, &self.folder.join("metrics.parquet"), &stage.key)?.rows;
        let mut outputs = vec![self.output(METRICS, 0)?, self.output("metrics.parquet", rows)?];
        for part in ["checkpoints", "evaluations", "model", "rollouts"] {
            if self.folder.join(part).is_dir() {
                for name in super::pretrain::files_below(&self.folder, &self.folder.join(part))? {
                    outputs.push(self.output(&name, 0)?);
                }
            }
        }
        let responses = state.ppo.step * self.ppo.rollouts() as u64;
        Ok(Manifest {
            plan_id: runner.plan.plan_id.clone(),
            stage: stage.work.name().to_owned(),
            stage_key: stage.key.clone(),
            unit: "all".to_owned(),
            // As the recipe names it: a path would differ between run folders.
            input: format!("{}, `{}`", self.prompts.described(), self.ppo.from),
            input_sha256: String::new(),
            outputs,
            counts: Counts { rows_in: responses, kept: responses, ..Counts::default() },
            labels: None,
            judge: None,
            corpora: Default::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    fn output(&self, name: &str, rows: u64) -> anyhow::Result<Output> {
        let path = format!("{}/{name}", self.stage.folder);
        let (bytes, sha256) = crate::plan::hash_file(&self.runner.dir.path(&path))?;
        Ok(Output { path, bytes, sha256, rows })
    }
}
