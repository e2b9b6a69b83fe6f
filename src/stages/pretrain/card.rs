//! The model card: `README.md`.

use super::sources::DataCounts;
use crate::config::Pretrain;
use crate::plan::{Plan, Stage};
use crate::train::metrics::Metric;
use anyhow::Context;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use std::collections::BTreeMap;

/// `chosen` is the step whose checkpoint became `model/`.
pub(super) fn render(
    plan: &Plan,
    stage: &Stage,
    pretrain: &Pretrain,
    chosen: u64,
    counts: &DataCounts,
    metrics: &[Metric],
) -> anyhow::Result<String> {
    let steps = metrics.last().map_or(0, |metric| metric.step);
    let mut held_out: BTreeMap<&str, [Option<f64>; 2]> = BTreeMap::new();
    for metric in metrics {
        if let Some(source) = &metric.held_out {
            let losses = held_out.entry(source).or_default();
            losses[0] = losses[0].or(Some(metric.loss));
            losses[1] = if metric.step <= chosen { Some(metric.loss) } else { losses[1] };
        }
    }
    let last = metrics.iter().rev().find(|metric| metric.held_out.is_none());
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_filter("fixed", |number: f64, digits: usize| format!("{number:.digits$}"));
    environment.add_filter("thousands", |number: u64| indicatif::HumanCount(number).to_string());
    environment
        .add_template("card", include_str!("../../../assets/model_card.md.jinja"))
        .context("the model card's template is wrong")?;
    let card = environment.get_template("card")?.render(context! {
        name => plan.name.as_str(),
        arms => stage.arms.clone(),
        plan_id => plan.plan_id.as_str(),
        version => env!("CARGO_PKG_VERSION"),
        seed => pretrain.seed.unwrap_or(plan.seed),
        pretrain => Serde(pretrain),
        base => pretrain.from.as_deref().and_then(|from| from.strip_prefix("hf://")?.split('@').next()),
        steps,
        chosen,
        tokens => last.map_or(0, |metric| metric.tokens),
        train_loss => last.map(|metric| metric.loss),
        data => Serde(counts),
        held_out => Serde(held_out),
    });
    Ok(card.context("cannot render the model card")? + "\n")
}
