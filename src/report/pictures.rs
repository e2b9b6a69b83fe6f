//! The pictures of a run: what a judge found, and what its corpora hold.

use super::charts::{self, Bar, Cell, Chart, Group, Series};
use super::findings::{CuratedFindings, INSTANCE_BINS, JudgedFindings};
use super::page::ReportedRun;
use super::reinforcement::{self, ReinforcedFindings};
use super::summary::{Curated, Judged};
use super::training::TrainedFindings;
use crate::behavior::Behavior;
use indicatif::HumanCount;
use std::collections::BTreeMap;

/// One group of bars per behavior, of variants that each have a bar for it.
pub(super) fn by_behavior(name: &str, title: &str, variants: impl Iterator<Item = [Bar; 4]>) -> Chart {
    let mut groups = Behavior::ALL.map(|behavior| Group { label: words(behavior), bars: Vec::new() });
    for bars in variants {
        groups.iter_mut().zip(bars).for_each(|(group, bar)| group.bars.push(bar));
    }
    charts::bars(name, title, &groups)
}

/// One run with its pictures.
pub(super) struct RunView<'r> {
    pub(super) run: &'r ReportedRun,
    pub(super) label: String,
    pub(super) judged: Vec<JudgedView<'r>>,
    pub(super) curated: Vec<CuratedView<'r>>,
    pub(super) trained: Vec<(&'r TrainedFindings, Chart)>,
    pub(super) reinforced: Vec<ReinforcedView<'r>>,
}

impl RunView<'_> {
    pub(super) fn charts(&self) -> impl Iterator<Item = &Chart> {
        let judged = self.judged.iter().flat_map(|one| [&one.rates, &one.together, &one.instances]);
        let curated = self.curated.iter().flat_map(|one| [&one.shares, &one.lengths]);
        let reinforced = self.reinforced.iter().flat_map(|one| [&one.success, &one.behaviors, &one.shares, &one.nats]);
        judged.chain(curated).chain(self.trained.iter().map(|(_, chart)| chart)).chain(reinforced)
    }
}

pub(super) struct ReinforcedView<'r> {
    pub(super) found: &'r ReinforcedFindings,
    pub(super) success: Chart,
    pub(super) behaviors: Chart,
    pub(super) shares: Chart,
    pub(super) nats: Chart,
}

impl<'r> ReinforcedView<'r> {
    pub(super) fn new(found: &'r ReinforcedFindings, name: &dyn Fn(&str) -> String) -> Self {
        let title = "Held-out problems solved at one try (pass@1)";
        let health = |picture: &str, title: &str, unit: &str, figures: &[reinforcement::Figure]| {
            reinforcement::health(&name(picture), title, unit, found, figures)
        };
        Self {
            found,
            success: reinforcement::success(&name("success"), title, &[("pass@1".to_owned(), found.success())]),
            behaviors: reinforcement::behaviors(&name("behaviors"), found),
            shares: health(
                "reward",
                "Reward, truncation and clipping in training",
                "share, reward",
                &reinforcement::SHARES,
            ),
            nats: health("entropy", "Entropy and divergence in training", "nats per token", &reinforcement::NATS),
        }
    }
}

pub(super) struct JudgedView<'r> {
    pub(super) found: &'r Judged,
    pub(super) more: &'r JudgedFindings,
    pub(super) rates: Chart,
    pub(super) together: Chart,
    pub(super) instances: Chart,
}

impl<'r> JudgedView<'r> {
    pub(super) fn new(found: &'r Judged, more: &'r JudgedFindings, name: &dyn Fn(&str) -> String) -> Self {
        let counted = |label: String, documents: u64| {
            let share = documents as f64 / found.documents.max(1) as f64;
            Bar { label, share, value: format!("{} · {}", HumanCount(documents), percent(share)) }
        };
        let bars = found.behaviors.iter().map(|one| counted(words(one.behavior), one.documents)).collect();
        let rates =
            charts::bars(&name("rates"), "Documents that show each behavior", &[Group { label: String::new(), bars }]);
        let breakable =
            |behavior| words(behavior).replace("ification", "ifi\u{ad}cation").replace("backt", "back\u{ad}t");
        let labels = Behavior::ALL.map(breakable).to_vec();
        let cells: Vec<Vec<Cell>> = (0..4)
            .map(|row| {
                let of = found.together[row][row].max(1);
                let cell = |&both: &u64| {
                    let share = both as f64 / of as f64;
                    Cell { share, text: HumanCount(both).to_string(), below: format!("{:.0} %", 100.0 * share) }
                };
                found.together[row].iter().map(cell).collect()
            })
            .collect();
        let together = charts::matrix(&name("together"), "Behaviors shown by the same document", &labels, &cells);
        let series: Vec<Series> = (found.behaviors.iter().zip(&more.instances))
            .map(|(one, counts)| Series {
                label: words(one.behavior),
                note: format!("{} in {} documents", HumanCount(one.instances), HumanCount(one.documents)),
                counts: counts.to_vec(),
            })
            .collect();
        let instances = charts::histograms(
            &name("instances"),
            "Instances in a document that shows the behavior",
            "instances in a document",
            &instance_bins(),
            &series,
        );
        Self { found, more, rates, together, instances }
    }
}

pub(super) struct CuratedView<'r> {
    pub(super) made: &'r Curated,
    pub(super) more: &'r CuratedFindings,
    pub(super) shares: Chart,
    pub(super) lengths: Chart,
}

impl<'r> CuratedView<'r> {
    pub(super) fn new(made: &'r Curated, more: &'r CuratedFindings, name: &dyn Fn(&str) -> String) -> Self {
        let variants = made.corpora.iter().map(|corpus| {
            corpus.record.shown.map(|shown| {
                let share = shown as f64 / corpus.documents.max(1) as f64;
                Bar { label: corpus.name.clone(), share, value: percent(share) }
            })
        });
        let shares = by_behavior(&name("corpora"), "Share of each corpus that shows a behavior", variants);
        let all = || more.lengths.values().flatten();
        let first = all().map(|bin| bin.from).min().unwrap_or(0);
        let last = all().map(|bin| bin.from).max().unwrap_or(0);
        let bins: Vec<u64> = std::iter::once(0)
            .chain((1..33).map(|power| 1 << power))
            .filter(|&from| first <= from && from <= last && !more.lengths.is_empty())
            .collect();
        let series: Vec<Series> = (made.corpora.iter())
            .filter_map(|corpus| {
                let counts: BTreeMap<u64, u64> =
                    more.lengths.get(&corpus.name)?.iter().map(|bin| (bin.from, bin.documents)).collect();
                Some(Series {
                    label: corpus.name.clone(),
                    note: format!("{} documents", HumanCount(corpus.documents)),
                    counts: bins.iter().map(|from| counts.get(from).copied().unwrap_or(0)).collect(),
                })
            })
            .collect();
        let label = |&from: &u64| if from < 1024 { from.to_string() } else { format!("{}k", from >> 10) };
        let labels: Vec<String> = bins.iter().map(label).collect();
        let lengths = charts::histograms(
            &name("lengths"),
            "Lengths of the corpora's documents",
            "tokens in a document, at least (k = 1,024)",
            &labels,
            &series,
        );
        Self { made, more, shares, lengths }
    }
}

fn instance_bins() -> Vec<String> {
    let ends = INSTANCE_BINS.iter().skip(1).map(Some).chain([None]);
    let name = |(first, next): (&u32, Option<&u32>)| match next {
        Some(next) if first + 1 == *next => first.to_string(),
        Some(next) => format!("{first}–{}", next - 1),
        None => format!("{first}+"),
    };
    INSTANCE_BINS.iter().zip(ends).map(name).collect()
}

fn words(behavior: Behavior) -> String {
    behavior.name().replace('_', " ")
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
