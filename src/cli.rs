//! The command line as typed. The doc comments are the help texts.

use crate::lm::device;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;

/// Behavior-curated pretraining data: judge documents, curate corpora, report.
#[derive(Debug, Parser)]
#[command(name = "pipeline", version = crate::machine::version(), about, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print machine-readable output: events and results as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a recipe, or go on where it stopped
    Run(Run),
    /// Show what a recipe would do, what is done and what it will cost
    Plan(PlanArgs),
    /// Show how far a run is; exits with 3 if it is incomplete
    Status(Status),
    /// Prove that a run lost nothing: plan, manifests and files agree
    Verify(Verify),
    /// Show a document with its labels, a Parquet file or a run
    Inspect(Inspect),
    /// Compare a judge with labeled documents
    Evaluate(Evaluate),
    /// Compare the arms of an experiment with one of them, problem by problem
    Compare(Compare),
    /// Measure how fast this machine does a part of the work
    Bench(Bench),
    /// Write one HTML page about one or more runs
    Report(Report),
    /// Hand a corpus or a model to others: as a folder, or uploaded to the Hub or S3
    Export(Export),
    /// Hand a recipe to a scheduler, split into tasks
    Submit(Submit),
    /// Show what this machine has, and what that means for a recipe; exits with 2 if the recipe cannot run here
    Doctor(Doctor),
    /// Print the JSON Schema of recipes, events and manifests, and the columns of every Parquet kind
    Schema(Schema),
    /// Write manual pages, one for each command
    Man(Man),
    /// Print a completion script for a shell
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// The recipe, a TOML file
    pub recipe: PathBuf,
    /// The run folder [default: runs/<recipe>]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Take at most this many documents, for a quick look; part of the plan
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Where a language model runs
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Threads for parallel work [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// Do only the units k with k mod `--task-count` equal to this; a run without it then finishes
    #[arg(long, value_name = "I", requires = "task_count")]
    pub task_index: Option<u64>,
    /// In how many tasks the run is split; may change between attempts
    #[arg(long, value_name = "N", requires = "task_index", value_parser = clap::value_parser!(u64).range(1..))]
    pub task_count: Option<u64>,
    /// Delete what the run folder holds and start over
    #[arg(long, conflicts_with = "task_index")]
    pub fresh: bool,
    /// Try units again that failed three times and were left alone
    #[arg(long)]
    pub retry_failed: bool,
    /// Adopt a changed recipe or changed inputs: stages that the change does not touch are kept
    #[arg(long, conflicts_with_all = ["fresh", "task_index"])]
    pub replan: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// A GPU if this program was built for one and there is one, else the CPU
    #[default]
    Auto,
    Cpu,
    Cuda,
}

impl Device {
    /// Opens it.
    ///
    /// # Errors
    /// As [`device::cuda`], for a GPU that was asked for by name.
    pub fn open(self) -> anyhow::Result<candle_core::Device> {
        match self {
            Self::Auto => Ok(device::auto()),
            Self::Cpu => Ok(candle_core::Device::Cpu),
            Self::Cuda => device::cuda(),
        }
    }
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// The recipe, a TOML file
    pub recipe: Option<PathBuf>,
    /// The run folder whose disk counts [default: runs/<recipe>]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Man {
    /// Where to write `pipeline.1`, `pipeline-run.1`, …
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Export {
    /// A finished stage's folder of a run, a corpus or model in it, a checkpoint, or a folder that was exported before
    pub source: PathBuf,
    /// A folder, a repository of the Hub (`hf://datasets/OWNER/NAME[@BRANCH]`, `hf://models/…`), or `s3://BUCKET/PREFIX`
    #[arg(long, value_name = "DESTINATION")]
    pub to: String,
    /// Hand on a `ppo` stage, finished or not begun: prompts, model, reward function and launch command for verl
    #[arg(long = "for", value_enum, value_name = "TRAINER")]
    pub audience: Option<Audience>,
    /// The licence for the card, by the Hub's id: `odc-by`, `apache-2.0`, `other`
    #[arg(long, value_name = "ID")]
    pub license: Option<String>,
    /// Create the repository as a private one, and refuse one that is public
    #[arg(long)]
    pub private: bool,
    /// The commit's message
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Upload; without it, an export to the Hub or to S3 only shows what it would send
    #[arg(long)]
    pub yes: bool,
}

/// A trainer that goes on where one GPU ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Audience {
    Verl,
}

#[derive(Debug, Args)]
pub struct Submit {
    /// What runs the tasks
    #[arg(value_enum)]
    pub engine: Engine,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// In how many tasks the run is split; may change between attempts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub tasks: u64,
    /// How often what is missing is tried in all
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub attempts: u64,
    /// GPUs of each task, for Ray and Kubernetes; for Slurm say `-- --gres=gpu:1`
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpus: u32,
    /// Threads of each task [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// The container image, for Kubernetes
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// A shared volume and where to mount it, for Kubernetes
    #[arg(long, value_name = "CLAIM:PATH")]
    pub volume: Option<String>,
    /// Print what would be submitted, and submit nothing
    #[arg(long)]
    pub print: bool,
    /// Options for the engine, such as `-- --partition=gpu --gres=gpu:1 --time=8:00:00` for Slurm
    #[arg(last = true)]
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// An array job and a finishing job
    Slurm,
    /// One Ray task for each task, by the driver of `python/`
    Ray,
    /// An Indexed Job, printed
    K8s,
    /// Processes on this machine
    Local,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
}

#[derive(Debug, Args)]
pub struct Status {
    /// A run folder
    pub run: PathBuf,
    /// List the units that are not done
    #[arg(long)]
    pub missing: bool,
    /// How to list them: one id a line, or the indices of the tasks that own them for `sbatch --array`
    #[arg(long, value_enum, default_value_t = MissingFormat::Lines, requires = "missing")]
    pub format: MissingFormat,
    /// The number of tasks that the indices count over, for `--format slurm`
    #[arg(long, value_name = "N", required_if_eq("format", "slurm"), value_parser = clap::value_parser!(u64).range(1..))]
    pub task_count: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MissingFormat {
    Lines,
    Slurm,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// A run folder
    pub run: PathBuf,
    /// Also hash every output and every local shard
    #[arg(long)]
    pub deep: bool,
}

#[derive(Debug, Args)]
pub struct Compare {
    /// Run folders of one experiment: other seeds, or other arms
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// The arm that the others are compared with
    #[arg(long, value_name = "ARM", default_value = crate::report::experiment::BASELINE)]
    pub baseline: String,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A run folder or a Parquet file
    pub path: PathBuf,
    /// Show this row, counted from 0
    #[arg(long, value_name = "N", conflicts_with = "id")]
    pub row: Option<u64>,
    /// Show the document with this id: its text, its labels, why they were given, what became of it
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

#[derive(Debug, Args)]
pub struct Evaluate {
    /// Labeled documents: JSON lines with `id, source, text` and a count for each behavior
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// `cue`, `cue:LEXICON`, `lm:MODEL[,mode=generate][,precision=bf16]…` or
    /// `endpoint:URL[,model=ID][,api=chat][,tokenizer=PATH]…`, with any key of the judge's table in a recipe
    #[arg(long, value_name = "SPEC")]
    pub judge: String,
    /// Print thresholds that maximise F1, ready for the judge's table in a recipe
    #[arg(long)]
    pub calibrate: bool,
    /// Where a language model runs
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Bootstrap resamples behind each interval
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub resamples: usize,
    /// Judge at most this many documents
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: BenchWhat,
}

#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Judge documents with a language model: documents per second, memory, and where the time goes
    Judge(BenchJudge),
    /// Generate text with a language model: tokens per second at several batch sizes, and where the time goes
    Generate(BenchGenerate),
    /// Train by PPO with a critic and a reference: seconds per step, and which phase takes them
    Ppo(BenchPpo),
    /// Train a language model on random tokens: tokens per second, memory against its estimate, and where the time goes
    Train(BenchTrain),
}

#[derive(Debug, Args)]
pub struct BenchJudge {
    /// A Hugging Face folder or a `.gguf` file
    #[arg(long, value_name = "PATH", required_unless_present = "shape", conflicts_with = "shape")]
    pub model: Option<PathBuf>,
    /// Random weights of this shape, for speed alone: smollm2-135m, qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b,
    /// llama-3.2-3b, mini-0.3m, mini-10m
    #[arg(long, value_name = "NAME")]
    pub shape: Option<String>,
    /// Where the language model runs
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// The numbers that matrix products multiply
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Read each layer anew for every batch in place of holding all of them
    #[arg(long)]
    pub kept: bool,
    /// A Parquet or JSONL file with a column `text`
    #[arg(long, value_name = "FILE")]
    pub docs: PathBuf,
    /// Judge the first N documents that have a text
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Read so many tokens of each document
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=131_072))]
    pub max_doc_tokens: u64,
    /// Tokens per forward pass
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub batch_tokens: u64,
    /// Threads for parallel work [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// Judge the documents so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: u64,
}

#[derive(Debug, Args)]
pub struct BenchGenerate {
    /// A Hugging Face folder or a `.gguf` file
    #[arg(long, value_name = "PATH", required_unless_present = "shape", conflicts_with = "shape")]
    pub model: Option<PathBuf>,
    /// Random weights of this shape, for speed alone; those of `bench judge`, mini-0.3m, mini-10m
    #[arg(long, value_name = "NAME")]
    pub shape: Option<String>,
    /// Where the language model runs: text is generated on the CPU only
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// The numbers that matrix products multiply
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// So many sequences at once
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 16, 64], value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub batch: Vec<u64>,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=131_072))]
    pub prompt_tokens: u64,
    /// Tokens drawn after each prompt
    #[arg(long, value_name = "N", default_value_t = 96, value_parser = clap::value_parser!(u64).range(1..=131_072))]
    pub new_tokens: u64,
    /// Threads for parallel work [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// Measure so many times, after once that does not count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub repeat: u64,
}

#[derive(Debug, Args)]
pub struct BenchPpo {
    /// Random weights of this shape, those of `bench judge`
    #[arg(long, value_name = "NAME", default_value = "mini-0.3m")]
    pub shape: String,
    /// The numbers that matrix products multiply: f32 or bf16
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Prompts of a step
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub prompts: u64,
    /// Responses per prompt
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub samples: u64,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=131_072))]
    pub prompt_tokens: u64,
    /// Tokens of each response
    #[arg(long, value_name = "N", default_value_t = 96, value_parser = clap::value_parser!(u64).range(1..=131_072))]
    pub new_tokens: u64,
    /// Tokens that are learned from at once
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub micro_tokens: u64,
    /// Threads for parallel work [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
    /// Measure so many steps, after one that does not count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub repeat: u64,
}

#[derive(Debug, Args)]
pub struct BenchTrain {
    /// A Hugging Face folder or a `.gguf` file
    #[arg(long, value_name = "PATH", required_unless_present = "shape", conflicts_with = "shape")]
    pub model: Option<PathBuf>,
    /// Random weights of this shape: mini-0.3m, mini-10m, smollm2-135m, qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b, llama-3.2-3b
    #[arg(long, value_name = "NAME")]
    pub shape: Option<String>,
    /// The numbers that matrix products multiply
    #[arg(long, value_enum, default_value_t = TrainingPrecision::F32)]
    pub precision: TrainingPrecision,
    /// Compute activations again on the way back
    #[arg(long)]
    pub recompute: bool,
    /// Sequences of a step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    pub batch: u64,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u64).range(2..=1 << 20))]
    pub length: u64,
    /// Measured steps; two more come before them
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub steps: u64,
    /// Threads for parallel work [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub threads: Option<u64>,
}

/// In what training multiplies; master weights and sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TrainingPrecision {
    F32,
    /// Faster where the processor has AVX512_BF16
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    F32,
    /// Faster where the processor has AVX512_BF16
    Bf16,
    /// Faster still where it has AVX512_VNNI, too, and the least exact
    Int8,
}

#[derive(Debug, Args)]
pub struct Report {
    /// Run folders
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Where to write `report.html` and `summary.json` [default: the first run's folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Schema {
    /// Write the files into `schemas/`
    #[arg(long, conflicts_with = "check")]
    pub write: bool,
    /// Compare the files in `schemas/` with the program; exits with 1 if they differ
    #[arg(long)]
    pub check: bool,
}
