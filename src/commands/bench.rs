//! `pipeline bench`: how fast this machine does a part of the work, and what keeps it from being faster.

mod breakdown;
mod generate;
mod judge;
mod ppo;
mod train;

use crate::cli::{self, Bench, BenchWhat};
use crate::error::Exit;
use crate::lm::Precision;

pub fn run(args: &Bench, json: bool) -> anyhow::Result<Exit> {
    match &args.what {
        BenchWhat::Judge(args) => judge::run(args, json),
        BenchWhat::Train(args) => train::run(args, json),
        BenchWhat::Generate(args) => generate::run(args, json),
        BenchWhat::Ppo(args) => ppo::run(args, json),
    }
}

impl From<cli::Precision> for Precision {
    fn from(precision: cli::Precision) -> Self {
        match precision {
            cli::Precision::F32 => Self::F32,
            cli::Precision::Bf16 => Self::Bf16,
            cli::Precision::Int8 => Self::Int8,
        }
    }
}

/// The middle one, the later of two, as the peers take it.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What the operating system says of this process.
mod process {
    use std::fs::read_to_string;

    /// The most memory it has held so far, in bytes; `None` where the system does not say.
    pub(super) fn peak_memory() -> Option<u64> {
        status("VmHWM:")
    }

    /// The memory it holds now.
    pub(super) fn memory() -> Option<u64> {
        status("VmRSS:")
    }

    fn status(key: &str) -> Option<u64> {
        let status = read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Seconds of processor time that all its threads have used.
    pub(super) fn cpu_seconds() -> Option<f64> {
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = read_to_string("/proc/self/stat").ok()?;
        // The second field, the program's name in parentheses, may hold blanks; user and system time are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')')?;
        let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
        Some(times.sum::<Result<f64, _>>().ok()? / TICKS_PER_SECOND)
    }
}
