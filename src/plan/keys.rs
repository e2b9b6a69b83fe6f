//! What changes bytes, as hashes: the settings by dotted key, a stage's key, the plan's id.

use super::inputs::Resource;
use super::{Input, Plan, Work};
use crate::behavior::counting_judge::CountingSpec;
use crate::behavior::cue::Lexicon;
use crate::behavior::lm_judge::{EMBEDDED_THRESHOLDS, LmJudgeSpec};
use crate::config::{Fetch, LmMode, Recipe};
use crate::lm::EMBEDDED;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Knobs that change how fast a run is, not what it writes. A run may be continued with others.
const THROUGHPUT: [&str; 4] = ["prefetch-shards", "prefetch-bytes", "keep-shards", "max-quarantined-share"];

/// The same of a table `endpoint`. A model behind another address is the same model.
const ENDPOINT_THROUGHPUT: [&str; 5] = ["url", "api-key-env", "concurrency", "deadline-seconds", "patience-seconds"];

/// All settings that change bytes, by dotted key; an arm's stand under `arm.NAME.`.
pub(super) fn settings(recipe: &Recipe, limit: Option<u64>) -> BTreeMap<String, Value> {
    let mut settings = BTreeMap::new();
    for (arm, config) in super::arms(recipe) {
        let prefix = if arm.is_empty() { String::new() } else { format!("arm.{arm}.") };
        flatten(&prefix, canonical(config), &mut settings);
    }
    if let Some(limit) = limit {
        settings.insert("--limit".into(), limit.into());
    }
    settings
}

/// The keys whose values differ, each with both values.
pub(super) fn differences(before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
    keys.into_iter()
        .filter(|key| before.get(*key) != now.get(*key))
        .map(|key| format!("`{key}` was {}, is {}", shown(before.get(key)), shown(now.get(key))))
        .collect()
}

/// Whether two `[fetch]` tables read the same documents in the same units.
pub(super) fn same_bytes(a: &Fetch, b: &Fetch) -> bool {
    canonical(a) == canonical(b)
}

pub(super) fn stage_key(
    work: &Work,
    input: Option<&Input>,
    resources: &BTreeMap<String, Resource>,
    seed: u64,
    limit: Option<u64>,
    upstream: &[&str],
) -> String {
    let pinned = |name: &Option<String>| name.as_ref().map(|name| resources.get(name).map(Resource::digest));
    let (own, seed) = match work {
        Work::Classify(classify) => {
            let lexicon = classify
                .cue
                .as_ref()
                .map(|cue| pinned(&cue.lexicon).unwrap_or_else(|| Some(Lexicon::embedded().hash().to_owned())));
            let model = classify.lm.as_ref().map(|lm| {
                let (questions, template) = match lm.mode {
                    LmMode::Score => {
                        let embedded = LmJudgeSpec::new("");
                        (embedded.questions, embedded.template)
                    }
                    LmMode::Generate => {
                        let embedded = CountingSpec::default();
                        (embedded.questions, embedded.template)
                    }
                };
                let fitted = (lm.model == EMBEDDED).then(|| EMBEDDED_THRESHOLDS.map(f32::to_bits));
                json!([pinned(&Some(lm.model.clone())), pinned(&lm.prompts), questions, template, fitted])
            });
            let endpoint = classify.endpoint.as_ref().map(|endpoint| {
                let embedded = LmJudgeSpec::new("");
                let pinned = [pinned(&endpoint.tokenizer), pinned(&endpoint.prompts)];
                json!([pinned, embedded.questions, embedded.template])
            });
            (json!([canonical(classify), lexicon, model, endpoint]), 0)
        }
        Work::Sketch(curate) => {
            let counter = pinned(&Some(curate.token_counter.clone()));
            let sets =
                curate.decontaminate.iter().flat_map(|sets| &sets.test_sets).map(|set| pinned(&Some(set.clone())));
            (
                json!([
                    canonical(&curate.deduplicate),
                    curate.token_counter,
                    counter,
                    canonical(&curate.decontaminate),
                    sets.collect::<Vec<_>>()
                ]),
                0,
            )
        }
        Work::Curate(curate) => (canonical(curate), seed),
        Work::Rewrite(rewrite) => {
            let model = rewrite.lm.as_ref().map(|lm| pinned(&Some(lm.model.clone())));
            let prompts = rewrite.corpus.values().map(|&style| crate::stages::rewrite::embedded_prompt(style));
            (json!([canonical(rewrite), model, pinned(&rewrite.prompts), prompts.collect::<Vec<_>>()]), seed)
        }
        Work::Prime(prime) => {
            let files = [&prime.query, &prime.tokenizer].map(pinned);
            let puzzles = prime.exclude.iter().chain(&prime.puzzles);
            let puzzles: Vec<_> = puzzles.map(|file| pinned(&Some(file.clone()))).collect();
            let author = prime.author.as_ref().and_then(|author| author.lm.as_ref());
            let author = author.map(|lm| pinned(&Some(lm.model.clone())));
            (json!([crate::stages::prime::FORMAT, canonical(prime), files, puzzles, author, limit]), seed)
        }
        Work::Arithmetic(arithmetic) => {
            (json!([crate::stages::arithmetic::FORMAT, canonical(arithmetic), limit]), seed)
        }
        Work::Base(pretrain) | Work::Pretrain(pretrain) => {
            let model = [pretrain.from.as_ref(), pretrain.model.as_ref().map(|model| &model.tokenizer)];
            let data = pretrain.data.values().flat_map(|data| [Some(&data.source), data.held_out.as_ref()]);
            let files: Vec<_> = model.into_iter().chain(data).map(|name| pinned(&name.cloned())).collect();
            (json!([crate::stages::pretrain::FORMAT, canonical(pretrain), files, limit]), seed)
        }
        Work::Ppo(ppo) => {
            let files = [pinned(&Some(ppo.from.clone())), pinned(&ppo.puzzles.query)];
            let questions = ppo.questions.as_ref().map(|questions| {
                let files = questions.files.iter().map(|file| pinned(&Some(file.clone())));
                json!([files.collect::<Vec<_>>(), pinned(&questions.query)])
            });
            (json!([crate::stages::ppo::FORMAT, canonical(ppo), files, questions, limit]), seed)
        }
        Work::Report(report) => (canonical(report), seed),
    };
    let input = input.map_or("", |input| &input.key);
    digest(&json!([super::FORMAT, work.name(), own, seed, input, upstream]))
}

pub(super) fn input_key(fetch: &Fetch, shards: &[super::Shard], units: &[super::Unit]) -> String {
    // Not how the sources were written: a glob and a list of the same files read the same documents.
    let shards: Vec<[&str; 2]> = shards.iter().map(|shard| [shard.name.as_str(), shard.identity.as_str()]).collect();
    let ids: Vec<&str> = units.iter().map(|unit| unit.id.as_str()).collect();
    digest(&json!([canonical(&fetch.columns), shards, ids]))
}

pub(super) fn plan_id(plan: &Plan) -> String {
    let inputs: Vec<&str> = plan.inputs.iter().map(|input| input.key.as_str()).collect();
    let stages: Vec<&str> = plan.stages.iter().map(|stage| stage.key.as_str()).collect();
    digest(&json!([plan.format, plan.settings, inputs, stages]))
}

pub(super) fn digest(value: &Value) -> String {
    blake3::hash(value.to_string().as_bytes()).to_hex()[..32].to_owned()
}

/// A configuration as JSON, without absent values and throughput knobs, its keys sorted.
fn canonical(config: &impl Serialize) -> Value {
    strip(serde_json::to_value(config).unwrap_or(Value::Null))
}

fn strip(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept: BTreeMap<String, Value> = map
                .into_iter()
                .filter(|(key, value)| !value.is_null() && !THROUGHPUT.contains(&key.as_str()))
                .map(|(key, value)| (key, strip(value)))
                .collect();
            let kept = kept.into_iter().map(|(key, value)| match (key.as_str(), value) {
                ("endpoint", Value::Object(mut table)) => {
                    table.retain(|key, _| !ENDPOINT_THROUGHPUT.contains(&key.as_str()));
                    (key, Value::Object(table))
                }
                (_, value) => (key, value),
            });
            kept.collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(values) => values.into_iter().map(strip).collect(),
        value => value,
    }
}

fn flatten(prefix: &str, value: Value, settings: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let key = if prefix.is_empty() || prefix.ends_with('.') {
                    format!("{prefix}{key}")
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&key, value, settings);
            }
        }
        value => {
            settings.insert(prefix.to_owned(), value);
        }
    }
}
