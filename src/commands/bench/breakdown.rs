//! Where the time of a measured piece of work went, row by row.

use crate::lm::{Meter, Part};
use crate::rl::ppo::Phase;
use crate::train::arithmetic::TrainPart;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fmt::Write;

/// What the rows of a breakdown tell apart.
pub(super) trait Row: Copy + Serialize {
    /// What stands above them in a table, and before each in JSON.
    const KIND: &'static str;

    fn name(self) -> &'static str;
}

/// One row of a breakdown. The rows' seconds add up to the wall-clock time.
pub(super) struct Share<R> {
    /// `None` is what lies between the rows.
    row: Option<R>,
    seconds: f64,
    share: f64,
    flops: f64,
    share_of_peak: f64,
}

impl<R> Share<R> {
    fn new(row: Option<R>, seconds: f64, flops: f64, total: f64, peak: f64) -> Self {
        let share_of_peak = if seconds > 0.0 && peak > 0.0 { flops / seconds / peak } else { 0.0 };
        Self { row, seconds, share: seconds / total, flops, share_of_peak }
    }

    /// Whether it is one of the rows that were measured.
    pub(super) fn is_measured(&self) -> bool {
        self.row.is_some()
    }
}

impl<R: Row> Serialize for Share<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Share", 5)?;
        fields.serialize_field(R::KIND, &self.row)?;
        fields.serialize_field("seconds", &self.seconds)?;
        fields.serialize_field("share", &self.share)?;
        fields.serialize_field("flops", &self.flops)?;
        fields.serialize_field("share_of_peak", &self.share_of_peak)?;
        fields.end()
    }
}

/// What was measured during `total` seconds, each row with its seconds and floating-point operations, beside `peak` operations
/// per second.
pub(super) fn breakdown<R>(measured: impl IntoIterator<Item = (R, f64, f64)>, total: f64, peak: f64) -> Vec<Share<R>> {
    let rows = measured.into_iter().map(|(row, seconds, flops)| Share::new(Some(row), seconds, flops, total, peak));
    let mut shares: Vec<Share<R>> = rows.collect();
    let known: f64 = shares.iter().map(|share| share.seconds).sum();
    shares.push(Share::new(None, total - known, 0.0, total, peak));
    shares
}

/// What a decoder's meter measured, for [`breakdown`].
pub(super) fn readings(meter: &Meter) -> impl Iterator<Item = (Part, f64, f64)> {
    Part::ALL.into_iter().map(|part| {
        let (seconds, flops) = meter.read(part);
        (part, seconds, flops)
    })
}

/// Floating-point operations of all rows.
pub(super) fn flops<R>(shares: &[Share<R>]) -> f64 {
    shares.iter().map(|share| share.flops).sum()
}

/// Adds the rows and their sum to a table.
pub(super) fn write<R: Row>(out: &mut String, shares: &[Share<R>], total: f64, peak: f64) -> std::fmt::Result {
    let name = |share: &Share<R>| share.row.map_or("between", R::name);
    let width = 2 + shares.iter().map(|share| name(share).len()).fold(12, usize::max);
    writeln!(out, "\n{:width$}{:>9}{:>9}{:>10}{:>13}", R::KIND, "seconds", "share", "GFLOP", "of the peak")?;
    let mut line = |name: &str, share: &Share<R>| {
        write!(out, "{name:width$}{:9.3}{:8.1}%", share.seconds, 100.0 * share.share)?;
        match share.flops {
            0.0 => writeln!(out),
            flops => writeln!(out, "{:10.2}{:12.0}%", flops / 1e9, 100.0 * share.share_of_peak),
        }
    };
    for share in shares {
        line(name(share), share)?;
    }
    line("all", &Share::new(None, total, flops(shares), total, peak))
}

impl Row for Part {
    const KIND: &'static str = "part";

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

impl Row for TrainPart {
    const KIND: &'static str = "part";

    fn name(self) -> &'static str {
        self.name()
    }
}

impl Row for Phase {
    const KIND: &'static str = "phase";

    fn name(self) -> &'static str {
        self.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up_and_are_named_by_their_kind() {
        let shares = breakdown([(Phase::Rollout, 1.0, 4e9), (Phase::Reward, 0.5, 0.0)], 2.0, 8e9);
        assert_eq!(flops(&shares), 4e9);
        let json = serde_json::to_value(&shares).unwrap();
        let row = |phase: serde_json::Value, seconds: f64, flops: f64, of_peak: f64| {
            serde_json::json!({
                "phase": phase, "seconds": seconds, "share": seconds / 2.0, "flops": flops, "share_of_peak": of_peak
            })
        };
        let expect = [
            row("rollout".into(), 1.0, 4e9, 0.5),
            row("reward".into(), 0.5, 0.0, 0.0),
            row(serde_json::Value::Null, 0.5, 0.0, 0.0),
        ];
        assert_eq!(json, serde_json::json!(expect));

        let mut table = String::new();
        write(&mut table, &shares, 2.0, 8e9).unwrap();
        let rows: Vec<Vec<&str>> = table.trim().lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["rollout", "1.000", "50.0%", "4.00", "50%"]);
        assert_eq!(rows[2..4], [["reward", "0.500", "25.0%"], ["between", "0.500", "25.0%"]]);
        assert_eq!(rows[4], ["all", "2.000", "100.0%", "4.00", "25%"]);
    }
}
