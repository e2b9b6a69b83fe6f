//! The dataset card and the statistics beside it: what a reader of the corpora needs to know, and the Hub's YAML.

use super::facts::{Gathered, HostStatistics};
use crate::behavior::Behavior;
use crate::config::{Curate, LmMode};
use crate::plan::{Plan, Stage, Work};
use crate::run::manifest::CorpusRecord;
use anyhow::Context;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was found in all judged documents, and what the corpora hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub documents: u64,
    pub tokens: u64,
    /// By behavior's name: documents that show it, and their share.
    pub behaviors: BTreeMap<String, Shown>,
    /// `together[a][b]`: documents that show both, by behavior's name; `together[a][a]` is those that show `a`.
    pub together: BTreeMap<String, BTreeMap<String, u64>>,
    /// Documents that show none.
    pub none: u64,
    /// The hosts with the most documents, and the rest together as `(other)`.
    pub hosts: Vec<Host>,
    pub corpora: BTreeMap<String, CorpusRecord>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub documents: u64,
    pub share: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub host: String,
    pub documents: u64,
    /// Documents that show each behavior, in the order of [`Behavior::ALL`].
    pub shown: [u64; 4],
}

impl Statistics {
    pub(super) fn new(gathered: &Gathered, corpora: &BTreeMap<String, CorpusRecord>, hosts_listed: usize) -> Self {
        let mut combinations = [0u64; 16];
        for fact in &gathered.facts {
            combinations[usize::from(fact.shown)] += 1;
        }
        let both = |a: Behavior, b: Behavior| {
            let mask = 1 << a.index() | 1 << b.index();
            (0..16usize)
                .filter(|combination| combination & mask == mask)
                .map(|combination| combinations[combination])
                .sum::<u64>()
        };
        let documents = gathered.facts.len() as u64;
        let shown = |behavior: Behavior| Shown {
            documents: both(behavior, behavior),
            share: both(behavior, behavior) as f64 / documents.max(1) as f64,
        };
        let together = |a: Behavior| Behavior::ALL.into_iter().map(|b| (b.name().to_owned(), both(a, b))).collect();
        Self {
            documents,
            tokens: gathered.facts.iter().map(|fact| u64::from(fact.tokens)).sum(),
            behaviors: Behavior::ALL
                .into_iter()
                .map(|behavior| (behavior.name().to_owned(), shown(behavior)))
                .collect(),
            together: Behavior::ALL
                .into_iter()
                .map(|behavior| (behavior.name().to_owned(), together(behavior)))
                .collect(),
            none: combinations[0],
            hosts: top_hosts(&gathered.hosts, hosts_listed),
            corpora: corpora.clone(),
        }
    }
}

fn top_hosts(hosts: &BTreeMap<String, HostStatistics>, listed: usize) -> Vec<Host> {
    let mut sorted: Vec<(&String, &HostStatistics)> = hosts.iter().collect();
    sorted.sort_by_key(|(name, statistics)| (std::cmp::Reverse(statistics.documents), *name));
    let name = |name: &str| if name.is_empty() { "(no url)".to_owned() } else { name.to_owned() };
    let mut top: Vec<Host> = sorted
        .iter()
        .take(listed)
        .map(|(host, statistics)| Host { host: name(host), documents: statistics.documents, shown: statistics.shown })
        .collect();
    if sorted.len() > listed {
        let mut rest = Host { host: "(other)".into(), documents: 0, shown: [0; 4] };
        for (_, statistics) in &sorted[listed..] {
            rest.documents += statistics.documents;
            for (sum, part) in rest.shown.iter_mut().zip(statistics.shown) {
                *sum += part;
            }
        }
        top.push(rest);
    }
    top
}

/// The card, `README.md`, with the YAML configurations that the Hub and `datasets` read.
pub(super) fn render(
    plan: &Plan,
    stage: &Stage,
    curate: &Curate,
    statistics: &Statistics,
    corpora: &BTreeMap<String, CorpusRecord>,
) -> anyhow::Result<String> {
    let input = &plan.inputs[stage.input];
    let judge = stage.reads.iter().find_map(|&index| match &plan.stages[index].work {
        Work::Classify(classify) => Some(match (&classify.lm, &classify.endpoint) {
            (Some(lm), _) => {
                let mode = match lm.mode {
                    LmMode::Score => "score",
                    LmMode::Generate => "generate",
                };
                format!("the language model `{}` in {mode} mode", lm.model)
            }
            (None, Some(endpoint)) => {
                let model = endpoint.model.as_deref().unwrap_or("its only model");
                format!("the language model `{model}` behind an endpoint, in score mode")
            }
            (None, None) => "the cue judge, a lexicon-and-pattern baseline".to_owned(),
        }),
        _ => None,
    });
    let rows = corpora.iter().map(|(name, record)| {
        context! {
            name => name,
            condition => curate.corpus.get(name).map(|corpus| corpus.condition.clone()),
            matched => curate.corpus.get(name).and_then(|corpus| corpus.matched.clone()),
            record => Serde(record),
            test => record.test_documents > 0,
            train => record.train_documents > 0,
        }
    });
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_filter("percent", |share: f64| format!("{:.1} %", 100.0 * share));
    environment.add_filter("thousands", |number: u64| indicatif::HumanCount(number).to_string());
    environment
        .add_template("card", include_str!("../../../assets/card.md.jinja"))
        .context("the card's template is wrong")?;
    let card = environment.get_template("card")?.render(context! {
        name => plan.name.as_str(),
        plan_id => plan.plan_id.as_str(),
        version => env!("CARGO_PKG_VERSION"),
        seed => plan.seed,
        judge => judge,
        sources => input.fetch.sources.clone(),
        shards => input.shards.len(),
        token_counter => curate.token_counter.as_str(),
        size_category => size_category(corpora.values().map(|record| record.train_documents + record.test_documents).sum()),
        behaviors => Behavior::ALL.map(Behavior::name),
        statistics => Serde(statistics),
        corpora => rows.collect::<Vec<_>>(),
    });
    card.context("cannot render the dataset card")
}

/// The Hub's word for a number of rows.
pub(in crate::stages) fn size_category(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        _ => "10M<n<100M",
    }
}
