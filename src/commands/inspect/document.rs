//! One document of a run: where it came from, its text, its labels and the reasons for them, and what became of it.

use super::evidence::Reasons;
use super::lookup::{self, Place};
use super::{layout, value};
use crate::behavior::Behavior;
use crate::error::{Exit, Failure};
use crate::plan::{Plan, Work};
use crate::report::source::SourceDocument;
use crate::run::dir::RunDir;
use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Lines shown of the text, and of other values.
const TEXT_LINES: usize = 30;
const VALUE_LINES: usize = 6;

/// What is known of a document.
#[derive(Serialize)]
pub(super) struct Document {
    pub(super) id: String,
    pub(super) source_file: String,
    pub(super) source_row: u64,
    pub(super) unit: String,
    pub(super) source: Option<SourceDocument>,
    /// Why the source cannot be shown.
    pub(super) source_missing: Option<String>,
    pub(super) labels: Vec<Labels>,
    pub(super) quarantined: Vec<Quarantined>,
    pub(super) decisions: Vec<Decision>,
    pub(super) evidence: Option<Value>,
}

#[derive(Serialize)]
pub(super) struct Labels {
    pub(super) stage: String,
    pub(super) arms: Vec<String>,
    /// The row of the labels sidecar.
    pub(super) fields: Map<String, Value>,
}

#[derive(Serialize)]
pub(super) struct Quarantined {
    pub(super) stage: String,
    pub(super) reason: String,
}

#[derive(Serialize)]
pub(super) struct Decision {
    pub(super) stage: String,
    pub(super) arms: Vec<String>,
    /// By corpus: `train`, `test`, or why the corpus does not have it.
    pub(super) corpora: BTreeMap<String, String>,
    pub(super) duplicate_of: Option<String>,
    /// The test set that it overlaps with.
    pub(super) contaminated_by: Option<String>,
    pub(super) token_count: Option<u64>,
}

pub(super) fn run(plan: &Plan, dir: &RunDir, id: &str, json: bool) -> anyhow::Result<()> {
    if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err(Failure::new(Exit::Usage, format!("`{id}` is not a document's id"))
            .hint("an id has 16 digits, 0 to 9 and a to f, and stands in the column `id` of labels, decisions and corpora")
            .into());
    }
    let (mut labels, mut quarantined, mut place) = (Vec::new(), Vec::new(), None);
    for stage in plan.stages.iter().filter(|stage| matches!(stage.work, Work::Classify(_))) {
        for unit in &plan.inputs[stage.input].units {
            let Some(manifest) = lookup::current(stage, unit, dir)? else { continue };
            for output in &manifest.outputs {
                let Some(fields) = lookup::find(dir, output, id)? else { continue };
                let row = fields.get("source_row").and_then(Value::as_u64).context("a sidecar lacks `source_row`")?;
                place.get_or_insert(Place { stage, unit, row });
                if output.path.contains("/quarantine/") {
                    let reason = fields.get("reason").map(value::text).unwrap_or_default();
                    quarantined.push(Quarantined { stage: stage.folder.clone(), reason });
                } else {
                    labels.push(Labels { stage: stage.folder.clone(), arms: stage.arms.clone(), fields });
                }
            }
        }
    }
    let Some(place) = place else { return Err(lookup::not_found(plan, dir, id)?.into()) };
    let mut document = lookup::look_up(plan, dir, id, &place)?;
    document.labels = labels;
    document.quarantined = quarantined;
    let text = document.source.as_ref().and_then(|source| source.text.clone());
    let reasons = text.as_deref().map(|text| Reasons::new(text, Some(place.stage))).transpose()?;
    if json {
        document.evidence = reasons.map(|reasons| reasons.json());
        return crate::commands::print_json(&document);
    }
    let width = layout::width();
    let mut lines = document.lines(plan, width);
    if let Some(reasons) = reasons {
        lines.push(String::new());
        lines.extend(reasons.lines(width));
    }
    crate::commands::print(&(lines.join("\n") + "\n"))
}

impl Document {
    fn lines(&self, plan: &Plan, width: usize) -> Vec<String> {
        let mut fields = vec![
            ("id", self.id.clone()),
            ("source", format!("{}, row {} (unit {})", self.source_file, self.source_row, self.unit)),
        ];
        let or_null = |value: &Option<String>| value.clone().unwrap_or_else(|| "(null)".into());
        let mut text = None;
        if let Some(source) = &self.source {
            fields.extend([("url", or_null(&source.url)), ("date", or_null(&source.date))]);
            fields.push(("metadata", or_null(&source.metadata)));
            text = source.text.as_ref();
            fields.push(match text {
                Some(text) => ("text", format!("{} characters", text.chars().count())),
                None => ("text", or_null(&source.defect)),
            });
        }
        if let Some(reason) = &self.source_missing {
            fields.push(("text", format!("not at hand: {reason}")));
        }
        for quarantined in &self.quarantined {
            fields.push(("quarantined", format!("{} ({})", quarantined.reason, quarantined.stage)));
        }
        let mut lines = layout::fields(fields.into_iter(), width, VALUE_LINES);
        if let Some(text) = text {
            lines.extend(layout::block(text, 2, width, TEXT_LINES));
        }
        for labels in &self.labels {
            lines.push(String::new());
            lines.extend(labels.lines());
        }
        for decision in &self.decisions {
            lines.push(String::new());
            lines.extend(decision.lines(plan, width));
        }
        lines
    }
}

impl Labels {
    fn lines(&self) -> Vec<String> {
        let text = |name: &str| self.fields.get(name).map(value::text).unwrap_or_default();
        let number = |name: &str| self.fields.get(name).and_then(Value::as_u64).unwrap_or(0);
        let mut lines = vec![format!(
            "{}: labels by {} ({}){}",
            self.stage,
            text("judge_model"),
            text("judge_kind"),
            of_arms(&self.arms)
        )];
        for behavior in Behavior::ALL {
            let score = self.fields.get(&format!("{}_score", behavior.name())).and_then(Value::as_f64);
            let count = number(&format!("{}_count", behavior.name()));
            let instances = if count == 1 { "instance" } else { "instances" };
            lines.push(format!(
                "  {:18}  score {:.2}  {count} {instances}",
                behavior.name(),
                score.unwrap_or(f64::NAN)
            ));
        }
        lines.push(format!(
            "  read {} of {} characters in {} window{}",
            number("chars_read"),
            number("char_count"),
            number("windows"),
            if number("windows") == 1 { "" } else { "s" }
        ));
        lines
    }
}

impl Decision {
    fn lines(&self, plan: &Plan, width: usize) -> Vec<String> {
        let curate = plan.stages.iter().find(|stage| stage.folder == self.stage).and_then(|stage| match &stage.work {
            Work::Curate(curate) => Some(curate),
            _ => None,
        });
        let mut fields: Vec<(&str, String)> = Vec::new();
        for (corpus, fate) in &self.corpora {
            let config = curate.and_then(|curate| curate.corpus.get(corpus));
            let why = match fate.as_str() {
                "train" | "test" => "kept, in this split".to_owned(),
                "not-selected" => {
                    format!("its condition is false: {}", config.map_or("", |corpus| corpus.condition.as_str()))
                }
                "contaminated" => {
                    format!("it overlaps with test set {}", self.contaminated_by.as_deref().unwrap_or("(unknown)"))
                }
                "exact-duplicate" => "a selected document before it has the same text".to_owned(),
                "near-duplicate" => "a selected document before it has nearly the same text".to_owned(),
                "over-budget" => "the corpus has all the tokens that it wants".to_owned(),
                "unmatched" => "no document of the partner needed it as a match".to_owned(),
                _ => "unknown to this version".to_owned(),
            };
            fields.push((corpus, format!("{fate}: {why}")));
        }
        if let Some(first) = &self.duplicate_of {
            fields.push(("duplicate of", format!("{first}, the first of its group")));
        }
        if let Some(tokens) = self.token_count {
            fields.push(("tokens", tokens.to_string()));
        }
        let fields = layout::fields(fields.into_iter(), width - 2, VALUE_LINES);
        let heading = format!("{}: what each corpus did with it{}", self.stage, of_arms(&self.arms));
        std::iter::once(heading).chain(fields.into_iter().map(|line| format!("  {line}"))).collect()
    }
}

fn of_arms(arms: &[String]) -> String {
    if arms.is_empty() { String::new() } else { format!(" (arms {})", arms.join(", ")) }
}
