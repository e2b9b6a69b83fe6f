//! The report's files: the page, its pictures, and the same numbers as JSON. Pure: equal runs give equal bytes.
//!
//! The page needs no network, no script and no other file. Whatever comes from documents is escaped by the template
//! engine, and the page's own policy forbids it to load or run anything.

use super::charts::{self, Bar, Cell, Chart, Group, Series};
use super::findings::{CuratedFindings, Findings, INSTANCE_BINS, JudgedFindings};
use super::summary::{Curated, Judged, RunSummary};
use crate::behavior::Behavior;
use crate::plan::Plan;
use crate::run::dir::RunDir;
use crate::run::manifest::Counts;
use crate::stages::curate::Host;
use anyhow::Context;
use indicatif::HumanCount;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Hosts in the page's table; `summary.json` has more.
const HOSTS_SHOWN: usize = 15;

/// What a report tells of one or more runs; what `summary.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub title: String,
    /// The version of the program that wrote the report.
    pub version: String,
    pub runs: Vec<ReportedRun>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportedRun {
    /// The run folder as the reader should type it; absent in a run's own report, which moves with its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    pub summary: RunSummary,
    pub findings: Findings,
}

impl ReportedRun {
    pub fn new(plan: &Plan, dir: &RunDir, folder: Option<String>) -> anyhow::Result<Self> {
        Ok(Self { folder, summary: RunSummary::new(plan, dir)?, findings: Findings::new(plan, dir)? })
    }
}

/// A file of the report, by its path within the report's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportFile {
    pub path: String,
    pub text: String,
}

impl Report {
    pub fn new(title: Option<String>, runs: Vec<ReportedRun>) -> Self {
        let names: BTreeSet<&str> = runs.iter().map(|run| run.summary.name.as_str()).collect();
        let title = title.unwrap_or_else(|| names.into_iter().collect::<Vec<_>>().join(" and "));
        Self { title, version: env!("CARGO_PKG_VERSION").to_owned(), runs }
    }

    /// `report.html`, `summary.json` and `pictures/*.svg`.
    pub fn files(&self) -> anyhow::Result<Vec<ReportFile>> {
        let views: Vec<RunView> = (1..).zip(&self.runs).map(|(number, run)| self.view(number, run)).collect();
        let comparison = self.comparison(&views);
        let summary = serde_json::to_string_pretty(self)? + "\n";
        let mut files = vec![
            ReportFile { path: "report.html".into(), text: self.render(&views, &comparison)? },
            ReportFile { path: "summary.json".into(), text: summary },
        ];
        let charts = views.iter().flat_map(RunView::charts).chain(comparison.iter());
        files.extend(
            charts.map(|chart| ReportFile { path: format!("pictures/{}.svg", chart.name), text: chart.file() }),
        );
        Ok(files)
    }

    fn view<'r>(&'r self, number: usize, run: &'r ReportedRun) -> RunView<'r> {
        let same_name = self.runs.iter().filter(|other| other.summary.name == run.summary.name).count() > 1;
        let label = run.folder.clone().filter(|_| same_name).unwrap_or_else(|| run.summary.name.clone());
        let prefix = if self.runs.len() > 1 { format!("run{number}-") } else { String::new() };
        // Pictures of arms that differ are told apart by the stage's folder.
        let name = |stage: &str, picture: &str| {
            let arm = stage.strip_prefix("arms/").and_then(|rest| rest.split('/').next());
            let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "-");
            format!("{prefix}{}{picture}", arm.map_or(String::new(), |arm| plain(arm) + "-"))
        };
        let judged = run.summary.judged.iter().zip(&run.findings.judged);
        let curated = run.summary.curated.iter().zip(&run.findings.curated);
        RunView {
            run,
            label,
            judged: judged
                .map(|(found, more)| JudgedView::new(found, more, &|picture| name(&found.stage, picture)))
                .collect(),
            curated: curated
                .map(|(made, more)| CuratedView::new(made, more, &|picture| name(&made.stage, picture)))
                .collect(),
        }
    }

    /// What several arms or runs show side by side: behaviors found, and shares in corpora.
    fn comparison(&self, views: &[RunView]) -> Vec<Chart> {
        let judged: Vec<(String, &Judged)> = views
            .iter()
            .flat_map(|view| view.judged.iter().map(|one| (self.variant(view, &one.found.arms), one.found)))
            .collect();
        if judged.len() < 2 {
            return vec![];
        }
        let group = |behavior: Behavior| Group {
            label: words(behavior),
            bars: judged
                .iter()
                .map(|(label, found)| {
                    let found = &found.behaviors[behavior.index()];
                    Bar { label: label.clone(), share: found.share, value: percent(found.share) }
                })
                .collect(),
        };
        vec![charts::bars("compared-rates", "Documents that show each behavior", &Behavior::ALL.map(group))]
    }

    /// What a stage's arms, and its run if there are several, are called.
    fn variant(&self, view: &RunView, arms: &[String]) -> String {
        match (self.runs.len() > 1, arms.is_empty()) {
            (_, true) => view.label.clone(),
            (false, false) => arms.join(", "),
            (true, false) => format!("{} · {}", view.label, arms.join(", ")),
        }
    }

    fn render(&self, views: &[RunView], comparison: &[Chart]) -> anyhow::Result<String> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_filter("percent", percent);
        environment.add_filter("thousands", |number: u64| HumanCount(number).to_string());
        environment.add_filter("bytes", |number: u64| crate::config::ByteSize(number).to_string());
        environment.add_filter("fixed", |number: f64, digits: usize| format!("{number:.digits$}"));
        environment.add_filter("words", |name: &str| name.replace('_', " "));
        environment.add_filter("sql", |text: &str| text.replace('\'', "''"));
        environment
            .add_template("report", include_str!("../../assets/report.html.jinja"))
            .context("the report's template is wrong")?;
        let inline = |chart: &Chart| Value::from_safe_string(chart.inline());
        let runs = views.iter().map(|view| {
            let judged = view.judged.iter().map(|one| {
                context! {
                    variant => self.variant(view, &one.found.arms),
                    found => Serde(one.found),
                    quarantine => Serde(&one.more.quarantine),
                    samples => Serde(&one.more.samples),
                    rates => inline(&one.rates),
                    together => inline(&one.together),
                    instances => inline(&one.instances),
                }
            });
            let curated = view.curated.iter().map(|one| {
                context! {
                    variant => self.variant(view, &one.made.arms),
                    made => Serde(one.made),
                    tokens => one.more.tokens,
                    hosts => Serde(hosts(&one.more.hosts)),
                    samples => Serde(&one.more.samples),
                    shares => inline(&one.shares),
                    lengths => inline(&one.lengths),
                }
            });
            context! {
                label => view.label.clone(),
                folder => view.run.folder.clone(),
                summary => Serde(&view.run.summary),
                complete => view.run.summary.complete(),
                judged => judged.collect::<Vec<_>>(),
                curated => curated.collect::<Vec<_>>(),
                rows => Serde(accounts(&view.run.summary)),
            }
        });
        let page = environment.get_template("report")?.render(context! {
            title => self.title.as_str(),
            version => self.version.as_str(),
            behaviors => Behavior::ALL.map(Behavior::name),
            style => Value::from_safe_string(charts::STYLE.to_owned()),
            runs => runs.collect::<Vec<_>>(),
            comparison => comparison.iter().map(inline).collect::<Vec<_>>(),
            settings => Serde(self.settings(views)),
        });
        Ok(visible(&page.context("cannot render the report")?))
    }

    /// The recipes' settings, one column per run and arm.
    fn settings(&self, views: &[RunView]) -> Settings {
        let mut columns: Vec<(String, BTreeMap<String, String>)> = Vec::new();
        for view in views {
            let summary = &view.run.summary;
            let arms: Vec<Option<&String>> =
                if summary.arms.is_empty() { vec![None] } else { summary.arms.iter().map(Some).collect() };
            for arm in arms {
                let label = self.variant(view, &arm.cloned().into_iter().collect::<Vec<_>>());
                let prefix = arm.map_or(String::new(), |arm| format!("arm.{arm}."));
                let own = summary.settings.iter().filter_map(|(key, value)| {
                    let key = key.strip_prefix(&prefix).or_else(|| (key == "--limit").then_some(key.as_str()))?;
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    Some((key.to_owned(), value))
                });
                columns.push((label, own.collect()));
            }
        }
        let keys: BTreeSet<&String> = columns.iter().flat_map(|(_, column)| column.keys()).collect();
        let rows = keys.into_iter().map(|key| {
            let values: Vec<Option<String>> = columns.iter().map(|(_, column)| column.get(key).cloned()).collect();
            SettingRow { key: key.clone(), same: values.windows(2).all(|pair| pair[0] == pair[1]), values }
        });
        Settings { rows: rows.collect(), columns: columns.iter().map(|(label, _)| label.clone()).collect() }
    }
}

#[derive(Serialize)]
struct Settings {
    columns: Vec<String>,
    rows: Vec<SettingRow>,
}

#[derive(Serialize)]
struct SettingRow {
    key: String,
    /// All columns agree.
    same: bool,
    /// None: the run does not have the setting.
    values: Vec<Option<String>>,
}

/// A line of the account of rows.
#[derive(Serialize)]
struct Account {
    what: String,
    /// A corpus of the stage above it.
    part: bool,
    units_missing: u64,
    counts: Counts,
    balanced: bool,
}

fn accounts(summary: &RunSummary) -> Vec<Account> {
    let mut accounts = Vec::new();
    let mut add = |what: &str, part, units_missing, counts: &Counts| {
        let (counts, balanced) = (counts.clone(), counts.conserve());
        accounts.push(Account { what: what.to_owned(), part, units_missing, counts, balanced });
    };
    for stage in &summary.stages {
        add(&stage.stage, false, stage.units - stage.units_done, &stage.counts);
        for corpus in summary.curated.iter().filter(|made| made.stage == stage.stage).flat_map(|made| &made.corpora) {
            add(&corpus.name, true, 0, &corpus.record.counts);
        }
    }
    accounts
}

/// One run with its pictures.
struct RunView<'r> {
    run: &'r ReportedRun,
    label: String,
    judged: Vec<JudgedView<'r>>,
    curated: Vec<CuratedView<'r>>,
}

impl RunView<'_> {
    fn charts(&self) -> impl Iterator<Item = &Chart> {
        let judged = self.judged.iter().flat_map(|one| [&one.rates, &one.together, &one.instances]);
        judged.chain(self.curated.iter().flat_map(|one| [&one.shares, &one.lengths]))
    }
}

struct JudgedView<'r> {
    found: &'r Judged,
    more: &'r JudgedFindings,
    rates: Chart,
    together: Chart,
    instances: Chart,
}

impl<'r> JudgedView<'r> {
    fn new(found: &'r Judged, more: &'r JudgedFindings, name: &dyn Fn(&str) -> String) -> Self {
        let counted = |label: String, documents: u64| {
            let share = documents as f64 / found.documents.max(1) as f64;
            Bar { label, share, value: format!("{} · {}", HumanCount(documents), percent(share)) }
        };
        let mut bars: Vec<Bar> =
            found.behaviors.iter().map(|one| counted(words(one.behavior), one.documents)).collect();
        bars.push(counted("none of the four".into(), found.none));
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

struct CuratedView<'r> {
    made: &'r Curated,
    more: &'r CuratedFindings,
    shares: Chart,
    lengths: Chart,
}

impl<'r> CuratedView<'r> {
    fn new(made: &'r Curated, more: &'r CuratedFindings, name: &dyn Fn(&str) -> String) -> Self {
        let group = |behavior: Behavior| Group {
            label: words(behavior),
            bars: made
                .corpora
                .iter()
                .map(|corpus| {
                    let share = corpus.record.shown[behavior.index()] as f64 / corpus.documents.max(1) as f64;
                    Bar { label: corpus.name.clone(), share, value: percent(share) }
                })
                .collect(),
        };
        let shares =
            charts::bars(&name("corpora"), "Share of each corpus that shows a behavior", &Behavior::ALL.map(group));
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

/// The hosts with the most documents, the rest in one row.
fn hosts(all: &[Host]) -> Vec<Host> {
    let mut shown: Vec<Host> = all.iter().take(HOSTS_SHOWN).cloned().collect();
    if let Some(rest) = all.get(HOSTS_SHOWN..).filter(|rest| !rest.is_empty()) {
        let mut other = Host { host: "(other)".into(), documents: 0, shown: [0; 4] };
        for host in rest {
            other.documents += host.documents;
            other.shown.iter_mut().zip(host.shown).for_each(|(sum, part)| *sum += part);
        }
        shown.push(other);
    }
    shown
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

/// Control characters, which HTML does not allow, as their pictures: `␛` for escape.
fn visible(page: &str) -> String {
    page.chars()
        .map(|character| match character {
            '\n' | '\t' => character,
            '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(character)).unwrap_or(' '),
            '\u{7f}' => '␡',
            '\u{80}'..='\u{9f}' => char::REPLACEMENT_CHARACTER,
            other => other,
        })
        .collect()
}

fn words(behavior: Behavior) -> String {
    behavior.name().replace('_', " ")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
