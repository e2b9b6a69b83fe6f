//! Where the time of a measured piece of work went, by operation.

use crate::lm::{Meter, Part};
use serde::Serialize;
use std::fmt::Write;

/// One row of a breakdown. The rows' seconds add up to the wall-clock time.
#[derive(Serialize)]
pub(super) struct Share {
    /// `None` is what lies between the parts.
    part: Option<Part>,
    seconds: f64,
    share: f64,
    flops: f64,
    share_of_peak: f64,
}

/// What `meter` measured during `total` seconds, beside `peak` operations per second.
pub(super) fn breakdown(meter: &Meter, total: f64, peak: f64) -> Vec<Share> {
    let share = |part, seconds: f64, flops: f64| {
        let share_of_peak = if seconds > 0.0 && peak > 0.0 { flops / seconds / peak } else { 0.0 };
        Share { part, seconds, share: seconds / total, flops, share_of_peak }
    };
    let mut shares: Vec<Share> = Part::ALL
        .iter()
        .map(|part| {
            let (seconds, flops) = meter.read(*part);
            share(Some(*part), seconds, flops)
        })
        .collect();
    let known: f64 = shares.iter().map(|share| share.seconds).sum();
    shares.push(share(None, total - known, 0.0));
    shares
}

/// Floating-point operations of all rows.
pub(super) fn flops(shares: &[Share]) -> f64 {
    shares.iter().map(|share| share.flops).sum()
}

/// Adds the rows and their sum to a table.
pub(super) fn write(out: &mut String, shares: &[Share], total: f64, peak: f64) -> std::fmt::Result {
    writeln!(out, "\n{:14}{:>9}{:>9}{:>9}{:>13}", "part", "seconds", "share", "GFLOP", "of the peak")?;
    let mut row = |name: &str, seconds: f64, share: f64, flops: f64, of_peak: f64| {
        write!(out, "{name:14}{seconds:9.3}{:8.1}%", 100.0 * share)?;
        match flops {
            0.0 => writeln!(out),
            _ => writeln!(out, "{:9.1}{:12.0}%", flops / 1e9, 100.0 * of_peak),
        }
    };
    for Share { part, seconds, share, flops, share_of_peak } in shares {
        row(part.map_or("between", Part::name), *seconds, *share, *flops, *share_of_peak)?;
    }
    let flops = flops(shares);
    row("all", total, 1.0, flops, if peak > 0.0 { flops / total / peak } else { 0.0 })
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Tokenise => "tokenise",
            Part::Embed => "embed",
            Part::Widen => "widen",
            Part::Norm => "norm",
            Part::Qkv => "qkv",
            Part::Attention => "attention",
            Part::OutputMlp => "output + MLP",
            Part::Head => "head",
        }
    }
}
