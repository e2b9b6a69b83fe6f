//! The report's files: the page, its pictures, and the same numbers as JSON. Pure: equal runs give equal bytes.
//!
//! The page needs no network, no script and no other file. Whatever comes from documents is escaped by the template
//! engine, and the page's own policy forbids it to load or run anything.

use super::charts::{self, Bar, Chart};
use super::experiment::Experiment;
use super::findings::Findings;
use super::pictures::{CuratedView, JudgedView, ReinforcedView, RunView, by_behavior, percent};
use super::reinforcement::{self, ReinforcedFindings, Success};
use super::samples::SampleGroup;
use super::summary::RunSummary;
use super::training::{self, TrainedFindings};
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
    /// Arms of these runs side by side, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
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
    pub fn new(title: Option<String>, runs: Vec<ReportedRun>, experiment: Option<Experiment>) -> Self {
        let names: BTreeSet<&str> = runs.iter().map(|run| run.summary.name.as_str()).collect();
        let title = title.unwrap_or_else(|| names.into_iter().collect::<Vec<_>>().join(" and "));
        Self { title, version: env!("CARGO_PKG_VERSION").to_owned(), runs, experiment }
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
            trained: (run.findings.trained.iter())
                .map(|one| {
                    let title = "Training and held-out loss, in nats per token";
                    let chart = training::chart(&name(&one.stage, "losses"), title, &[(String::new(), one)]);
                    (one, chart)
                })
                .collect(),
            reinforced: (run.findings.reinforced.iter())
                .map(|one| ReinforcedView::new(one, &|picture| name(&one.stage, picture)))
                .collect(),
        }
    }

    /// What several arms or runs show side by side: behaviors found, and shares in corpora.
    fn comparison(&self, views: &[RunView]) -> Vec<Chart> {
        let judged = views.iter().flat_map(|view| {
            let bar = |one: &JudgedView, behavior: Behavior| {
                let share = one.found.behaviors[behavior.index()].share;
                Bar { label: self.variant(view, &one.found.arms), share, value: percent(share) }
            };
            view.judged.iter().map(move |one| Behavior::ALL.map(|behavior| bar(one, behavior)))
        });
        let curated = views.iter().flat_map(|view| {
            let corpora = view.curated.iter().flat_map(|one| one.made.corpora.iter().map(move |corpus| (one, corpus)));
            corpora.map(|(one, corpus)| {
                let label = format!("{}, {}", corpus.name, self.variant(view, &one.made.arms));
                corpus.record.shown.map(|shown| {
                    let share = shown as f64 / corpus.documents.max(1) as f64;
                    Bar { label: label.clone(), share, value: percent(share) }
                })
            })
        });
        let stages = |count: fn(&RunView) -> usize| views.iter().map(count).sum::<usize>() > 1;
        let mut comparison = Vec::new();
        if stages(|view| view.judged.len()) {
            comparison.push(by_behavior("compared-rates", "Share of judged documents that show a behavior", judged));
        }
        if stages(|view| view.curated.len()) {
            let title = "Share of each corpus's documents that show a behavior";
            comparison.push(by_behavior("compared-corpora", title, curated));
        }
        comparison.extend(self.reinforcement(views));
        comparison.extend(self.training(views));
        comparison
    }

    /// Success and each behavior over the steps of all reinforcement: by arm, of all runs together, where arms can be compared. An arm of
    /// other steps than the baseline's would squeeze the rest, and stands in the table alone.
    fn reinforcement(&self, views: &[RunView]) -> Vec<Chart> {
        let stages: Vec<(String, &ReinforcedFindings)> = (views.iter())
            .flat_map(|view| view.run.findings.reinforced.iter().map(move |one| (self.variant(view, &one.arms), one)))
            .collect();
        let lines = self.experiment.as_ref().map(Experiment::of_equal_steps);
        let success: Vec<(String, Success)> = match &lines {
            Some(lines) => lines.iter().map(|line| (line.arm.clone(), line.success())).collect(),
            None => stages.iter().map(|(variant, one)| (variant.clone(), one.success())).collect(),
        };
        if success.len() < 2 {
            return Vec::new();
        }
        let title = "Held-out problems solved at one try (pass@1), with 95 % intervals over problems";
        let mut charts = vec![reinforcement::success("compared-success", title, &success)];
        charts.extend(Behavior::ALL.map(|behavior| {
            let found: Vec<(String, Vec<(u64, f64)>)> = match &lines {
                Some(lines) => lines.iter().map(|line| (line.arm.clone(), line.behavior(behavior))).collect(),
                None => stages.iter().map(|(variant, one)| (variant.clone(), one.behavior(behavior))).collect(),
            };
            reinforcement::behavior(&format!("compared-{}", behavior.name()), behavior, &found)
        }));
        charts
    }

    /// The losses of the training stages in one picture. Bases are left out where other stages go on from them.
    fn training(&self, views: &[RunView]) -> Option<Chart> {
        let all = || views.iter().flat_map(|view| view.run.findings.trained.iter().map(move |one| (view, one)));
        let bases_only = all().all(|(_, one)| one.is_base);
        let stages: Vec<(String, &TrainedFindings)> = all()
            .filter(|(_, one)| bases_only || !one.is_base)
            .map(|(view, one)| (self.variant(view, &one.arms), one))
            .collect();
        let title = "Training and held-out loss of each model, in nats per token";
        (stages.len() > 1).then(|| training::chart("compared-losses", title, &stages))
    }

    /// What a stage's arms, and its run if there are several, are called.
    fn variant(&self, view: &RunView, arms: &[String]) -> String {
        match (self.runs.len() > 1, arms.is_empty()) {
            (_, true) => view.label.clone(),
            (false, false) => arms.join(", "),
            // A run of one arm that is named after it.
            (true, false) if *arms == [view.label.as_str()] => view.label.clone(),
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
            let curated = view.curated.iter().enumerate().map(|(index, one)| {
                // Arms that share their judge have much in common: what repeats is shown once.
                let repeats = view.curated[..index].iter().any(|before| before.more.hosts == one.more.hosts);
                let hosts = if repeats { Vec::new() } else { hosts(&one.more.hosts) };
                let samples: &[SampleGroup] = if index > 0 && view.judged.len() == 1 { &[] } else { &one.more.samples };
                context! {
                    variant => self.variant(view, &one.made.arms),
                    made => Serde(one.made),
                    tokens => one.more.tokens,
                    hosts => Serde(hosts),
                    samples => Serde(samples),
                    shares => inline(&one.shares),
                    lengths => inline(&one.lengths),
                }
            });
            let trained = view.trained.iter().map(|(one, chart)| {
                context! {
                    variant => self.variant(view, &one.arms),
                    found => Serde(*one),
                    losses => inline(chart),
                }
            });
            let reinforced = view.reinforced.iter().map(|one| {
                context! {
                    variant => self.variant(view, &one.found.arms),
                    found => Serde(one.found),
                    success => inline(&one.success),
                    behaviors => inline(&one.behaviors),
                    shares => inline(&one.shares),
                    nats => inline(&one.nats),
                }
            });
            context! {
                label => view.label.clone(),
                folder => view.run.folder.clone(),
                summary => Serde(&view.run.summary),
                complete => view.run.summary.complete(),
                judged => judged.collect::<Vec<_>>(),
                curated => curated.collect::<Vec<_>>(),
                trained => trained.collect::<Vec<_>>(),
                reinforced => reinforced.collect::<Vec<_>>(),
                rows => Serde(accounts(&view.run.summary)),
            }
        });
        let page = environment.get_template("report")?.render(context! {
            title => self.title.as_str(),
            version => self.version.as_str(),
            behaviors => Behavior::ALL.map(Behavior::name),
            style => Value::from_safe_string(charts::STYLE.to_owned()),
            runs => runs.collect::<Vec<_>>(),
            comparison => comparison
                .iter()
                .map(|chart| context! { title => chart.title.as_str(), svg => inline(chart) })
                .collect::<Vec<_>>(),
            experiment => Serde(&self.experiment),
            has_judged => views.iter().any(|view| !view.judged.is_empty()),
            has_corpora => views.iter().any(|view| !view.curated.is_empty()),
            has_trained => views.iter().any(|view| !view.trained.is_empty()),
            has_reinforced => views.iter().any(|view| !view.reinforced.is_empty()),
            published => Serde(reinforcement::PUBLISHED),
            judges_differ => views.iter().map(|view| view.judged.len()).sum::<usize>() > 1,
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
