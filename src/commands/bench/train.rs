//! `pipeline bench train`: whole training steps on random tokens: forward, backward, clipping, AdamW.

use super::breakdown::{self, Share, breakdown};
use super::{median, process};
use crate::cli::{self, BenchTrain};
use crate::commands::{print, print_json, start_threads};
use crate::error::Exit;
use crate::lm::{Checkpoint, Meter, Parameters, Precision};
use crate::train::adamw::{AdamW, AdamWOptions, clip_global_norm};
use crate::train::arithmetic::{Arithmetic, TrainPart};
use crate::train::memory::{MemoryEstimate, parameter_count};
use crate::train::{TrainBatch, TrainModel, TrainOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fmt::Write;
use std::time::Instant;

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome {
    engine: &'static str,
    model: String,
    device: &'static str,
    precision: &'static str,
    recompute: bool,
    threads: usize,
    /// Sequences of a step, and tokens of a sequence.
    batch: usize,
    length: usize,
    parameters: u64,
    /// Wall-clock time of each step; two before them were not measured.
    seconds: Vec<f64>,
    median_step_seconds: f64,
    /// Tokens of a step over its median time.
    tokens_per_second: f64,
    /// Of all measured steps together, all threads.
    cpu_seconds: Option<f64>,
    /// What training added to this process at its peak.
    peak_memory_bytes: Option<u64>,
    estimated_memory_bytes: u64,
    estimate: MemoryEstimate,
    /// The peak as a share of the estimate.
    memory_of_estimate: Option<f64>,
    /// Of all measured steps.
    flops: f64,
    flops_per_second: f64,
    /// What the matrix kernel reaches on operands in cache, measured in this run.
    peak_flops_per_second: f64,
    share_of_peak: f64,
    /// The same by processor time instead of the clock, which other programs do not disturb.
    share_of_peak_by_cpu_seconds: Option<f64>,
    breakdown: Vec<Share<TrainPart>>,
}

/// Steps before the measured ones: buffers grow to their sizes.
const WARM_UP: u64 = 2;

pub fn run(args: &BenchTrain, json: bool) -> anyhow::Result<Exit> {
    start_threads(args.threads)?;
    let checkpoint = match (&args.shape, &args.model) {
        (Some(shape), _) => Checkpoint::random(shape)?,
        (None, model) => Checkpoint::open(&model.clone().unwrap_or_default())?,
    };
    let config = checkpoint.config().clone();
    let precision = match args.precision {
        cli::TrainingPrecision::F32 => Precision::F32,
        cli::TrainingPrecision::Bf16 => Precision::Bf16,
    };
    let options = TrainOptions { precision, recompute: args.recompute, z_loss: 0.0 };
    let (batch, length) = (args.batch as usize, args.length as usize);
    let estimate = MemoryEstimate::new(&config, options, batch * length);

    let memory_before = process::memory();
    let parameters =
        if args.shape.is_some() { Parameters::random(&config, 0) } else { Parameters::from_checkpoint(&checkpoint)? };
    let mut gradients = parameters.zeros_like();
    let mut optimizer = AdamW::new(&parameters, AdamWOptions::default());
    let mut model = TrainModel::new(config.clone(), parameters, options)?;
    let arithmetic = Arithmetic::new(&config);
    let mut random = ChaCha8Rng::seed_from_u64(0);

    let (mut meter, mut cpu_before) = (Meter::default(), None);
    let mut seconds = Vec::new();
    let mut flops = [0.0; TrainPart::ALL.len()];
    for step in 0..WARM_UP + args.steps {
        let tokens = random_batch(&mut random, batch, length, config.vocab_size as u32);
        if step == WARM_UP {
            meter = Meter::running();
            model.set_meter(meter.clone());
            cpu_before = process::cpu_seconds();
        }
        let started = Instant::now();
        gradients.fill(0.0);
        model.loss_and_gradients(&tokens, 1.0 / tokens.target_count() as f32, &mut gradients)?;
        meter.time(TrainPart::Optimizer, || {
            clip_global_norm(&mut gradients, 1.0);
            optimizer.step(&mut model.parameters, &gradients, 1e-4);
        });
        if step >= WARM_UP {
            seconds.push(started.elapsed().as_secs_f64());
            flops.iter_mut().zip(TrainPart::ALL).for_each(|(sum, part)| *sum += arithmetic.of(&tokens, part));
        }
    }
    let cpu_seconds = process::cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    let peak_memory_bytes = process::peak_memory().zip(memory_before).map(|(peak, before)| peak.saturating_sub(before));
    let peak = precision.peak();

    let total: f64 = seconds.iter().sum();
    let median_step_seconds = median(&seconds);
    let threads = rayon::current_num_threads();
    let parts = TrainPart::ALL.into_iter().zip(flops).map(|(part, flops)| (part, meter.read(part).0, flops));
    let breakdown = breakdown(parts, total, peak);
    let all = breakdown::flops(&breakdown);
    let outcome = Outcome {
        engine: "four-habits",
        model: checkpoint.name(),
        device: "cpu",
        precision: precision.name(),
        recompute: args.recompute,
        threads,
        batch,
        length,
        parameters: parameter_count(&config),
        median_step_seconds,
        tokens_per_second: (batch * length) as f64 / median_step_seconds,
        cpu_seconds,
        peak_memory_bytes,
        estimated_memory_bytes: estimate.total(),
        estimate,
        memory_of_estimate: peak_memory_bytes.map(|bytes| bytes as f64 / estimate.total() as f64),
        flops: all,
        flops_per_second: all / total,
        peak_flops_per_second: peak,
        share_of_peak: all / total / peak,
        share_of_peak_by_cpu_seconds: cpu_seconds.map(|seconds| all / seconds / (peak / threads as f64)),
        breakdown,
        seconds,
    };
    if json {
        print_json(&outcome)?;
    } else {
        print(&outcome.table()?)?;
    }
    Ok(Exit::Done)
}

/// Sequences of random tokens, each of which predicts the next.
fn random_batch(random: &mut ChaCha8Rng, sequences: usize, length: usize, vocabulary: u32) -> TrainBatch {
    let mut batch = TrainBatch::default();
    for _ in 0..sequences {
        let text: Vec<u32> = (0..=length).map(|_| random.random_range(0..vocabulary)).collect();
        batch.push(&text[..length], text[1..].iter().copied().map(Some));
    }
    batch
}

impl Outcome {
    fn table(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        writeln!(
            out,
            "{}, {} parameters, {}, {}, {} threads: {} steps of {} x {} tokens",
            self.model,
            indicatif::HumanCount(self.parameters),
            self.precision,
            self.device,
            self.threads,
            self.seconds.len(),
            self.batch,
            self.length
        )?;
        let mut line = |name: &str, value: String| writeln!(out, "{name:22}{value}");
        line("tokens/s", format!("{:.0}", self.tokens_per_second))?;
        line("step, median", format!("{:.4} s", self.median_step_seconds))?;
        if let Some(seconds) = self.cpu_seconds {
            let each = seconds / self.seconds.len() as f64;
            line("processor seconds", format!("{each:.4} a step"))?;
        }
        let (rate, peak) = (self.flops_per_second / 1e9, self.peak_flops_per_second / 1e9);
        line("GFLOP/s", format!("{rate:.0}, {:.0} % of the kernel's {peak:.0}", 100.0 * self.share_of_peak))?;
        if let Some(share) = self.share_of_peak_by_cpu_seconds {
            line("by processor time", format!("{:.0} %", 100.0 * share))?;
        }
        if let Some((bytes, share)) = self.peak_memory_bytes.zip(self.memory_of_estimate) {
            let estimate = self.estimated_memory_bytes >> 20;
            line("memory", format!("{} MiB, {:.2} of the {estimate} MiB estimated", bytes >> 20, share))?;
        }
        breakdown::write(&mut out, &self.breakdown, self.seconds.iter().sum(), self.peak_flops_per_second)?;
        Ok(out)
    }
}
