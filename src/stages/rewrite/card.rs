//! The dataset card of the rewritten corpora, `README.md`.

use super::RewriteReport;
use crate::plan::Plan;
use crate::stages::curate::card::size_category;
use anyhow::Context;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, context};

pub(super) fn render(plan: &Plan, report: &RewriteReport) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_filter("fixed", |number: f64, digits: usize| format!("{number:.digits$}"));
    environment.add_filter("thousands", |number: u64| indicatif::HumanCount(number).to_string());
    environment
        .add_template("card", include_str!("../../../assets/rewrite_card.md.jinja"))
        .context("the card's template is wrong")?;
    let rows: u64 = report.corpora.values().map(|corpus| corpus.counts.kept).sum();
    let card = environment.get_template("card")?.render(context! {
        name => plan.name.as_str(),
        plan_id => plan.plan_id.as_str(),
        version => env!("CARGO_PKG_VERSION"),
        seed => plan.seed,
        size_category => size_category(rows),
        report => Serde(report),
    });
    Ok(card.context("cannot render the dataset card")? + "\n")
}
