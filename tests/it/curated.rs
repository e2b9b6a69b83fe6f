//! Curated pretraining in miniature, far smaller still: a web of worked puzzles through classify, curate, pretrain and PPO.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says when it is skipped")]

use super::program::Workplace;
use arrow::array::AsArray;
use four_habits::data::sidecar;
use serde_json::json;
use std::process::{Command, Stdio};

const TEXTS: &str = include_str!("../../pipelines/four-habits-curated-texts.toml");
const CURATED: &str = include_str!("../../pipelines/four-habits-curated-mini.toml");

fn changed(recipe: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(recipe.to_owned(), |recipe, (from, to)| {
        assert!(recipe.contains(from), "{from}");
        recipe.replace(from, to)
    })
}

/// A workplace with the traces and texts that the small web is made of.
fn texts() -> Workplace {
    let workplace = Workplace::with(
        &changed(
            TEXTS,
            &[("train = 6000", "train = 40"), ("train = 24_000", "train = 150"), ("test = 200", "test = 5")],
        ),
        &[],
    );
    workplace.put("assets/prompts/terse.txt", include_bytes!("../../assets/prompts/terse.txt"));
    workplace.put("assets/lexicon/terse.txt", include_bytes!("../../assets/lexicon/terse.txt"));
    workplace.run("texts", &[]).expect(0);
    workplace
}

fn column(workplace: &Workplace, file: &str, name: &str) -> Vec<String> {
    let batch = sidecar::read(&workplace.path(file)).unwrap();
    batch.column_by_name(name).unwrap().as_string::<i32>().iter().flatten().map(str::to_owned).collect()
}

fn documents(workplace: &Workplace) -> Vec<String> {
    let traces = |condition: &str| -> Vec<String> {
        let file = format!("texts/prime/{condition}/train.parquet");
        let both = column(workplace, &file, "query").into_iter().zip(column(workplace, &file, "completion"));
        both.map(|(query, completion)| query + &completion).collect()
    };
    let manners = ["all-strategies", "direct", "empty"].map(traces);
    let told = (0..150).map(|row| manners[row % 3][row].clone());
    told.chain(column(workplace, "texts/arithmetic/text/train.parquet", "text")).collect()
}

#[test]
fn a_small_web_is_judged_curated_and_trained_on() {
    let workplace = texts();
    let lines: Vec<String> = documents(&workplace)
        .iter()
        .enumerate()
        .map(|(row, text)| {
            json!({ "url": format!("u{row}"), "text": text, "date": "2026-11-23", "metadata": "{}" }).to_string()
        })
        .collect();
    workplace.put("documents.jsonl", lines.join("\n").as_bytes());
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/base");
    let recipe = changed(
        CURATED,
        &[
            ("runs/four-habits-curated-texts/documents.jsonl", "documents.jsonl"),
            ("assets/base", base),
            ("tokens = 150_000", "tokens = 900"),
            ("epochs = 3", "epochs = 1"),
            ("tokens = 2048", "tokens = 512"),
            ("steps = 40", "steps = 1"),
            ("steps = 10", "steps = 1"),
            ("prompts = 32", "prompts = 2"),
            ("max-response-tokens = 256", "max-response-tokens = 24"),
            ("puzzles = 250", "puzzles = 4"),
        ],
    );
    workplace.put("recipe.toml", recipe.as_bytes());
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");

    // The judge tells searches from the rest by what they say, and the corpora hold what their conditions ask for.
    let corpus = |name: &str| column(&workplace, &format!("run/curate/{name}/train-00000-of-00001.parquet"), "text");
    let (rich, minimal, unselected) = (corpus("rich"), corpus("minimal"), corpus("unselected"));
    assert!(5 < rich.len() && rich.iter().all(|text| text.contains(" retry ") && text.contains("<think>")), "{rich:?}");
    assert!(10 < minimal.len() && minimal.iter().all(|text| text.contains("<think>")), "{minimal:?}");
    assert!(minimal.iter().all(|text| ![" retry", " same", " less", " more"].iter().any(|word| text.contains(word))));
    assert!(unselected.iter().any(|text| !text.contains("<think>")));
    for stage in ["arms/rich/pretrain", "arms/minimal/pretrain", "pretrain"] {
        assert_eq!(workplace.json(&format!("run/{stage}/data.json"))["corpus"]["unknown_tokens"], 0, "{stage}");
    }
    let lines = workplace.call(&["compare", "run", "--baseline", "minimal", "--json"]).expect(0).json();
    let arms: Vec<&str> = lines.as_array().unwrap().iter().map(|line| line["arm"].as_str().unwrap()).collect();
    assert_eq!(arms.len(), 4, "{arms:?}");
}

#[test]
fn the_script_writes_each_puzzle_once_and_every_text() {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    let has = Command::new(python).args(["-c", "import pyarrow"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        println!("skipped: the documents of the curated arm (no Python with `pyarrow`)");
        return;
    }
    let workplace = texts();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/curated_documents.py");
    let output = Command::new(python)
        .args([script.into(), workplace.path("texts"), "--out".into(), workplace.path("documents.jsonl")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(workplace.path("documents.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<&str> = rows.iter().filter_map(|row| row["text"].as_str()).collect();
    let (puzzles, arithmetic): (Vec<&str>, Vec<&str>) = told.iter().partition(|text| text.contains("<think>"));
    let asked: std::collections::BTreeSet<&str> =
        puzzles.iter().filter_map(|text| text.split("<think>").next()).collect();
    assert_eq!((asked.len(), arithmetic.len()), (puzzles.len(), 40));
    assert!(
        100 < puzzles.len()
            && puzzles.iter().any(|text| text.contains("retry"))
            && puzzles.iter().any(|text| text.contains("<think> </think>"))
    );
}
