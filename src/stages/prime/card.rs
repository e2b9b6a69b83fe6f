//! The dataset card of the priming traces, `README.md`.

use super::FairnessReport;
use crate::config::Prime;
use crate::countdown::calibration;
use crate::countdown::condition::Condition;
use crate::countdown::draw::PuzzleSpec;
use crate::plan::Plan;
use crate::stages::curate::card::size_category;
use anyhow::Context;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, context};

pub(super) fn render(plan: &Plan, prime: &Prime, report: &FairnessReport) -> anyhow::Result<String> {
    let figures = |name: &str| report.conditions.get(name)?.get("train");
    let measured: Vec<_> =
        prime.conditions.iter().filter_map(|&one| Some((one, figures(one.name())?.mean_counts))).collect();
    let spec = PuzzleSpec::from(prime);
    let puzzles = serde_json::json!({
        "sizes": spec.sizes.iter().map(|(size, _)| size).collect::<Vec<_>>(),
        "numbers": [spec.numbers.start(), spec.numbers.end()],
        "targets": [spec.targets.start(), spec.targets.end()],
    });
    let rows = prime.conditions.iter().map(|condition| {
        let splits = report.conditions.get(condition.name());
        let asked =
            prime.author.is_some() && !matches!(condition, Condition::Scrambled | Condition::Empty | Condition::Dots);
        context! { name => condition.name(), asked, splits => splits.map(Serde) }
    });
    let traces = report.conditions.values().flat_map(|splits| splits.values()).map(|split| split.n_traces).sum();
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_filter("percent", |share: f64| format!("{:.1} %", 100.0 * share));
    environment.add_filter("fixed", |number: f64, digits: usize| format!("{number:.digits$}"));
    environment.add_filter("thousands", |number: u64| indicatif::HumanCount(number).to_string());
    environment
        .add_template("card", include_str!("../../../assets/prime_card.md.jinja"))
        .context("the card's template is wrong")?;
    let card = environment.get_template("card")?.render(context! {
        name => plan.name.as_str(),
        plan_id => plan.plan_id.as_str(),
        version => env!("CARGO_PKG_VERSION"),
        seed => plan.seed,
        size_category => size_category(traces),
        prime => Serde(prime),
        puzzles => Serde(puzzles),
        is_by_model => prime.author.is_some(),
        conditions => rows.collect::<Vec<_>>(),
        report => Serde(report),
        calibration => calibration::table(&measured),
    });
    Ok(card.context("cannot render the dataset card")? + "\n")
}
