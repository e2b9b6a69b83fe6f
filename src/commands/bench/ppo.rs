//! `pipeline bench ppo`: whole steps of PPO with a critic and a reference on random weights, phase by phase.
//!
//! No token ends a response, so that every step does the same amount of work; rewards cost nothing.

use super::breakdown::{self, Share, breakdown};
use super::{median, process};
use crate::cli::BenchPpo;
use crate::commands::{print, print_json, start_threads};
use crate::error::{Exit, Failure};
use crate::lm::{BatchLimits, Checkpoint, Parameters, Precision};
use crate::rl::advantage::{AdvantageKind, Discount};
use crate::rl::kl::{KlController, KlEstimator};
use crate::rl::lm_policy::{Descent, LmCritic, LmPolicy, LmReference};
use crate::rl::loss::{Aggregation, Clip};
use crate::rl::memory::{Needs, PpoMemory};
use crate::rl::ppo::{KlPenalty, KlPlace, Models, Phase, Ppo, Settings, State, Surroundings};
use crate::rl::rollout::{Rollout, Truncation};
use crate::train::adamw::{AdamW, AdamWOptions};
use crate::train::model::{TrainModel, TrainOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Serialize, Serializer};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome {
    engine: &'static str,
    model: String,
    precision: &'static str,
    threads: usize,
    parameters: u64,
    prompts: usize,
    samples: usize,
    prompt_tokens: usize,
    response_tokens: usize,
    actor_updates: usize,
    critic_updates: usize,
    /// Wall-clock time of each step.
    seconds: Vec<f64>,
    /// Over all steps.
    cpu_seconds: Option<f64>,
    median_seconds: f64,
    /// Above what the process had before.
    peak_memory_bytes: Option<u64>,
    estimated_memory_bytes: u64,
    /// What the matrix kernel reaches on operands in cache, measured in this run.
    peak_flops_per_second: f64,
    /// The time of the phases over all steps. Floating-point operations are those of the products with the weights: 2 per weight
    /// and token that is read, 6 per one that is learned from.
    #[serde(serialize_with = "measured")]
    phases: Vec<Share<Phase>>,
}

/// What lies between the phases stands in the table alone.
fn measured<S: Serializer>(phases: &[Share<Phase>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(phases.iter().filter(|phase| phase.is_measured()))
}

/// Rewards for nothing, and a clock.
struct Watch {
    entered: Option<(Phase, Instant)>,
    seconds: [f64; Phase::ALL.len()],
}

impl Watch {
    fn close(&mut self) {
        if let Some((phase, since)) = self.entered.take() {
            let place = Phase::ALL.iter().position(|one| *one == phase).unwrap_or(0);
            self.seconds[place] += since.elapsed().as_secs_f64();
        }
    }
}

impl Surroundings for Watch {
    fn rewards(&mut self, rollouts: &[Rollout]) -> anyhow::Result<Vec<f64>> {
        // They differ, so that there is something to learn.
        Ok(rollouts.iter().map(|rollout| f64::from(rollout.tokens[0] % 2)).collect())
    }

    fn enter(&mut self, phase: Phase) {
        self.close();
        self.entered = Some((phase, Instant::now()));
    }
}

pub fn run(args: &BenchPpo, json: bool) -> anyhow::Result<Exit> {
    start_threads(args.threads)?;
    let checkpoint = Checkpoint::random(&args.shape)?;
    let config = checkpoint.config().clone();
    let (prompt_tokens, response_tokens) = (args.prompt_tokens as usize, args.new_tokens as usize);
    if config.max_positions < prompt_tokens + response_tokens {
        let message = format!(
            "{prompt_tokens} prompt tokens and {response_tokens} of response do not fit the model's context of {}",
            config.max_positions
        );
        return Err(Failure::new(Exit::Usage, message).hint("lower `--prompt-tokens` or `--new-tokens`").into());
    }
    let precision = Precision::from(args.precision);
    if precision == Precision::Int8 {
        return Err(Failure::new(Exit::Usage, "no model is trained in `int8`").hint("use f32 or bf16").into());
    }
    let memory_before = process::memory();
    let parameters = Parameters::from_checkpoint(&checkpoint)?;
    let count: u64 = parameters.iter().map(|one| one.values.len() as u64).sum();
    // Rows of the embedding are looked up, and multiplied where the head is tied to them.
    let weights = (count - if config.tied_head { 0 } else { (config.vocab_size * config.hidden_size) as u64 }) as f64;
    let model =
        |parameters| TrainModel::new(config.clone(), parameters, TrainOptions { precision, ..TrainOptions::default() });
    let descent = Descent { rate: 1e-6, clip: 1.0, adamw: AdamWOptions::default() };
    let optimizer = |parameters: &Parameters| AdamW::new(parameters, descent.adamw);
    let limits = BatchLimits { sequences: (args.prompts * args.samples) as usize, ..BatchLimits::default() };
    let estimate = PpoMemory::new(
        &config,
        &Needs {
            options: TrainOptions { precision, ..TrainOptions::default() },
            micro_tokens: args.micro_tokens as usize,
            has_critic: true,
            has_reference: true,
            rollout: limits,
            responses: (args.prompts * args.samples) as usize,
            sequence_tokens: prompt_tokens + response_tokens,
        },
    );
    let (head, actor_optimizer, critic_optimizer) =
        (LmCritic::new_head(&config), optimizer(&parameters), optimizer(&parameters));
    let head_optimizer = AdamW::new(&head, descent.adamw);
    let mut reference = LmReference { model: model(parameters.clone())? };
    let mut critic = LmCritic::new(model(parameters.clone())?, critic_optimizer, head, head_optimizer, descent);
    let mut policy = LmPolicy::new(model(parameters)?, actor_optimizer, descent, Vec::new(), response_tokens, limits);
    let settings = settings(args);
    let mut ppo = Ppo { settings, state: State { step: 0, kl: KlController::Fixed { coefficient: 0.001 } } };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let prompts: Vec<Arc<[u32]>> = (0..args.prompts)
        .map(|_| (0..prompt_tokens).map(|_| rng.random_range(0..config.vocab_size as u32)).collect())
        .collect();

    let peak = precision.peak();
    let mut watch = Watch { entered: None, seconds: Default::default() };
    let (mut seconds, mut cpu_before, mut updates) = (Vec::new(), None, (0, 0));
    for repeat in 0..=args.repeat {
        let started = Instant::now();
        let mut models = Models { policy: &mut policy, critic: Some(&mut critic), reference: Some(&mut reference) };
        let step = ppo.step(&mut models, &prompts, &mut watch)?;
        watch.close();
        updates = (step.statistics.actor_updates, step.statistics.critic_updates);
        // The first step touches the memory and does not count.
        if repeat == 0 {
            watch.seconds = Default::default();
            cpu_before = process::cpu_seconds();
        } else {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    let cpu_seconds = process::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    let total: f64 = seconds.iter().sum();
    let tokens = (args.repeat * args.prompts * args.samples) as f64 * (prompt_tokens + response_tokens) as f64;
    let phases = Phase::ALL.into_iter().zip(watch.seconds).filter(|(_, seconds)| 0.0 < *seconds);
    let phases = phases.map(|(phase, seconds)| {
        let per_weight = match phase {
            Phase::Reward => 0.0,
            Phase::Rollout | Phase::OldLogProbs | Phase::Reference | Phase::Values => 2.0,
            Phase::Critic | Phase::Actor => 6.0,
        };
        (phase, seconds, weights * tokens * per_weight)
    });
    let outcome = Outcome {
        engine: "four-habits",
        model: checkpoint.name(),
        precision: precision.name(),
        threads: rayon::current_num_threads(),
        parameters: count,
        prompts: args.prompts as usize,
        samples: args.samples as usize,
        prompt_tokens,
        response_tokens,
        actor_updates: updates.0,
        critic_updates: updates.1,
        cpu_seconds,
        median_seconds: median(&seconds),
        peak_memory_bytes: process::peak_memory().zip(memory_before).map(|(peak, before)| peak.saturating_sub(before)),
        estimated_memory_bytes: estimate.total(),
        peak_flops_per_second: peak,
        phases: breakdown(phases, total, peak),
        seconds,
    };
    if json {
        print_json(&outcome)?;
    } else {
        print(&outcome.table()?)?;
    }
    Ok(Exit::Done)
}

/// The paper's algorithm, with half of a step's responses per update.
fn settings(args: &BenchPpo) -> Settings {
    let minibatch = ((args.prompts * args.samples) as usize).div_ceil(2);
    Settings {
        seed: 0,
        samples: args.samples as usize,
        end_tokens: Vec::new(),
        max_response: args.new_tokens as usize,
        truncation: Truncation::Score,
        recompute_old: false,
        kl: Some(KlPenalty { place: KlPlace::Reward, estimator: KlEstimator::K1 }),
        advantage: AdvantageKind::Gae,
        discount: Discount { gamma: 1.0, lambda: 1.0, whiten: true },
        clip: Clip { low: 0.2, high: 0.2, dual: None },
        value_clip: Some(0.5),
        entropy: 0.0,
        epochs: 1,
        actor_minibatch: minibatch,
        critic_minibatch: minibatch,
        micro_batch_tokens: args.micro_tokens as usize,
        shuffle: true,
        actor_aggregation: Aggregation::TokenMean,
        critic_aggregation: Aggregation::TokenMean,
        critic_warmup: 0,
    }
}

impl Outcome {
    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        writeln!(
            out,
            "{}, {}, cpu, {} threads, {} parameters",
            self.model, self.precision, self.threads, self.parameters
        )?;
        writeln!(
            out,
            "a step: {} prompts of {} tokens × {} responses of {} tokens, {} updates of the actor, {} of the critic",
            self.prompts,
            self.prompt_tokens,
            self.samples,
            self.response_tokens,
            self.actor_updates,
            self.critic_updates
        )?;
        writeln!(out, "\n{:22}{:.3} s (median of {})", "a step takes", self.median_seconds, self.seconds.len())?;
        if let Some(seconds) = self.cpu_seconds {
            writeln!(out, "{:22}{:.3} s", "processor per step", seconds / self.seconds.len() as f64)?;
        }
        if let Some(bytes) = self.peak_memory_bytes {
            let (share, estimate) =
                (bytes as f64 / self.estimated_memory_bytes as f64, self.estimated_memory_bytes >> 20);
            writeln!(out, "{:22}{} MiB, {share:.2} of the {estimate} MiB estimated", "memory", bytes >> 20)?;
        }
        breakdown::write(&mut out, &self.phases, self.seconds.iter().sum(), self.peak_flops_per_second)?;
        Ok(out)
    }
}
