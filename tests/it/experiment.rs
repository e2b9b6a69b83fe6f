//! The experiment in small: `pipelines/smoke.toml` from nothing to the comparison of its arms.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::program::Workplace;
use arrow::array::AsArray;
use four_habits::data::sidecar;
use std::collections::BTreeSet;

const RECIPE: &str = include_str!("../../pipelines/smoke.toml");
const MINI: &str = include_str!("../../pipelines/four-habits-mini.toml");
const QUERY: &[u8] = include_bytes!("../../assets/prompts/terse.txt");

fn texts(workplace: &Workplace, file: &str, column: &str) -> Vec<String> {
    let batch = sidecar::read(&workplace.path(file)).unwrap();
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    column.iter().flatten().map(str::to_owned).collect()
}

#[test]
fn the_smoke_recipe_goes_from_nothing_to_a_comparison() {
    let workplace = Workplace::with(RECIPE, &[]);
    workplace.put("assets/prompts/terse.txt", QUERY);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");

    // One base for all arms, which has read nothing of a search.
    let plan = workplace.json("run/plan.json");
    let stages = plan["stages"].as_array().unwrap();
    let of = |name: &str| stages.iter().filter(|stage| stage["work"].get(name).is_some()).count();
    assert_eq!((of("arithmetic"), of("base"), of("prime"), of("pretrain"), of("ppo")), (1, 1, 2, 3, 3));
    let arithmetic = texts(&workplace, "run/arithmetic/text/train.parquet", "text");
    assert_eq!(arithmetic.len(), 400);
    assert!(arithmetic.iter().all(|text| !["retry", "done", "stop", "<"].iter().any(|word| text.contains(word))));

    // Each try differs from all before it, and what is said to be solved is said by the right answers alone.
    let traces = texts(&workplace, "run/prime/all-strategies/train.parquet", "completion");
    for trace in &traces {
        let tries: Vec<&str> = trace.split(';').filter(|part| part.contains(" = ")).collect();
        assert_eq!(tries.iter().collect::<BTreeSet<_>>().len(), tries.len(), "{trace}");
        assert!(!tries.is_empty() && trace.contains("same ; done"), "{trace}");
    }
    let wrong = texts(&workplace, "run/arms/wrong/prime/all-strategies/train.parquet", "verdict");
    assert!(wrong.len() == 64 && wrong.iter().all(|verdict| verdict != "solved"));

    // Nothing of the traces is outside the vocabulary that the base was made with.
    for stage in ["pretrain", "arms/all/pretrain", "arms/wrong/pretrain"] {
        let data = workplace.json(&format!("run/{stage}/data.json"));
        assert_eq!(data["traces"]["unknown_tokens"], 0, "{stage}");
    }

    let lines = workplace.call(&["compare", "run", "--json"]).expect(0).json();
    let lines = lines.as_array().unwrap();
    let names: Vec<&str> = lines.iter().map(|line| line["arm"].as_str().unwrap()).collect();
    assert_eq!(names, ["all", "empty", "wrong"]);
    for line in lines {
        assert_eq!((line["problems"].as_u64(), line["steps"].as_u64()), (Some(8), Some(2)), "{line}");
        let is_baseline = line["arm"] == "empty";
        assert_eq!(line["pass_at_1_difference"].is_null(), is_baseline);
        let steps: Vec<u64> =
            line["curve"].as_array().unwrap().iter().filter_map(|look| look["step"].as_u64()).collect();
        assert_eq!((steps, line["scores"].as_object().unwrap().len()), (vec![0, 2], 8));
        let [low, mean, high] = ["low", "mean", "high"].map(|key| line["pass_at_1"][key].as_f64().unwrap());
        assert!((0.0..=1.0).contains(&low) && low <= mean && mean <= high && high <= 1.0, "{line}");
    }
    let table = workplace.call(&["compare", "run", "--baseline", "all"]).expect(0).stdout;
    assert!(table.contains("| minus `all` |") && table.lines().count() == 5, "{table}");
    workplace
        .call(&["compare", "run", "--baseline", "none"])
        .fails(2, "no arm `none` is done")
        .hints("all, empty, wrong");
}

/// The base that is part of the repository spells everything that the experiment's traces say, and can be gone on from.
#[test]
fn the_experiment_can_begin_at_the_committed_base() {
    let cut = |text: &str, from: &str, to: &str| {
        let (start, end) = (text.find(from).unwrap(), text.find(to).unwrap());
        format!("{}{}", &text[..start], &text[end..])
    };
    let recipe = cut(MINI, "[base]", "[pretrain]");
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base");
    let arms = recipe.find("[arm.empty]").unwrap();
    let mut recipe = recipe[..arms].replace("from = \"base\"", &format!("from = {base:?}"));
    for (from, to) in [
        ("train = 52_000", "train = 40"),
        ("train = 8000", "train = 48"),
        ("prime.empty", "prime.all-strategies"),
        // The texts that it was made to calculate with stand beside the traces.
        ("[pretrain.batch]", "[pretrain.data.arithmetic]\nsource = \"arithmetic.text\"\n\n[pretrain.batch]"),
        ("steps = 60", "steps = 1"),
        ("prompts = 48", "prompts = 2"),
        ("puzzles = 250", "puzzles = 4"),
    ] {
        assert!(recipe.contains(from), "{from}");
        recipe = recipe.replace(from, to);
    }
    let workplace = Workplace::with(&recipe, &[]);
    workplace.put("assets/prompts/terse.txt", QUERY);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    assert_eq!(workplace.json("run/pretrain/data.json")["traces"]["unknown_tokens"], 0);
    let metrics = std::fs::read_to_string(workplace.path("run/pretrain/metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let before = lines.into_iter().find(|line| line["step"] == 0 && line["held_out"] == "arithmetic").unwrap();
    // A model that knows nothing would begin at ln 100 = 4.6.
    assert!(before["loss"].as_f64().unwrap() < 0.8, "{before}");
}
