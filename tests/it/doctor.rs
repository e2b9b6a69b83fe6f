//! `pipeline doctor`, `man` and `--version`: what the program says about the machine and about itself.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::hub_server::HubServer;
use crate::made_documents::{documents, jsonl};
use crate::program::{Ended, RECIPE, Workplace};
use serde_json::{Value, json};

fn doctor(workplace: &Workplace, endpoint: &str, more: &[&str]) -> Ended {
    let mut command = workplace.command(&[&["doctor"], more].concat());
    command.env("HF_ENDPOINT", endpoint).env("HF_TOKEN", "hf_secret_of_doctor").env_remove("HF_HUB_OFFLINE");
    let ended = Ended::of(&command.output().unwrap());
    assert!(!(ended.stdout.clone() + &ended.stderr).contains("hf_secret_of_doctor"), "{ended:?}");
    ended
}

fn grades(said: &Value) -> Vec<&str> {
    said["recipe"]["findings"].as_array().unwrap().iter().map(|finding| finding["grade"].as_str().unwrap()).collect()
}

#[test]
fn the_machine_is_told_whether_or_not_the_hub_is_there() {
    let (workplace, server) = (Workplace::new(), HubServer::start(&[]));
    let said = doctor(&workplace, &server.url(), &["--json"]).expect(0).json();
    assert!(said["processor"]["cores"].as_u64().unwrap() >= 1);
    assert!(said["memory"]["available"].as_u64().unwrap() <= said["memory"]["total"].as_u64().unwrap());
    assert!(said["disk"]["free"].as_u64().unwrap() > 0);
    assert_eq!((&said["hub"]["reachable"], &said["hub"]["has_token"]), (&json!(true), &json!(true)));
    assert_eq!((&said["recipe"], said["gpus"].is_array()), (&json!(null), true));

    let gone = server.url();
    drop(server);
    let said = doctor(&workplace, &gone, &[]).expect(0).stdout;
    assert!(said.contains("hub       out of reach: ") && said.contains("cores     "), "{said}");
    let mut command = workplace.command(&["doctor", "--json"]);
    let said = Ended::of(&command.env("HF_HUB_OFFLINE", "1").output().unwrap()).expect(0).json();
    assert_eq!(said["hub"]["reachable"], json!(null));
}

#[test]
fn a_recipe_is_compared_with_the_machine() {
    let server = HubServer::start(&[]);
    let workplace = Workplace::with(RECIPE, &[("a.jsonl", jsonl(&documents(50, 1)))]);
    let said = doctor(&workplace, &server.url(), &["recipe.toml", "--json"]).expect(0).json();
    assert!(grades(&said).iter().all(|grade| *grade == "fine"), "{said}");

    // What cannot work here is named, with the remedy, and the exit code is that of `run`.
    let missing = RECIPE.replace("data/*", "elsewhere/*");
    workplace.put("missing.toml", missing.as_bytes());
    let said = doctor(&workplace, &server.url(), &["missing.toml"]).expect(2).stdout;
    assert!(said.contains("WRONG") && said.contains("`elsewhere/*`") && said.contains("hint: "), "{said}");
    workplace.put("typo.toml", RECIPE.replace("[curate]", "[curat]").as_bytes());
    let said = doctor(&workplace, &server.url(), &["typo.toml", "--json"]).expect(2).json();
    assert_eq!(grades(&said), ["wrong"]);

    // A model that no machine holds.
    workplace.put(
        "large.toml",
        b"[pretrain]\ntokens = 1_000_000\n\n[pretrain.model]\nlayers = 512\nhidden = 16384\nheads = 128\ntokenizer = \"bpe\"\n\n\
          [pretrain.data.text]\nsource = \"data/a.jsonl\"\n",
    );
    let said = doctor(&workplace, &server.url(), &["large.toml"]).expect(2).stdout;
    assert!(said.contains("`pretrain` would take about ") && said.contains("of memory"), "{said}");
}

#[test]
fn manual_pages_and_version() {
    let workplace = Workplace::new();
    let said = workplace.call(&["man", "--out", "pages"]).expect(0).stdout;
    let pages = workplace.files("pages");
    assert_eq!(said.lines().count(), pages.len());
    for name in ["pipeline.1", "pipeline-run.1", "pipeline-export.1", "pipeline-bench-judge.1"] {
        let page = String::from_utf8(pages[name].clone()).unwrap();
        assert!(page.starts_with(".ie") || page.contains(".TH"), "{name}: {page}");
    }
    let run = String::from_utf8(pages["pipeline-run.1"].clone()).unwrap();
    assert!(run.contains("task\\-index") && run.contains("pipeline run"), "{run}");

    let said = workplace.call(&["--version"]).expect(0).stdout;
    let version = env!("CARGO_PKG_VERSION");
    assert!(said.starts_with(&format!("pipeline {version} (CPU")) && said.contains("; here "), "{said}");
}
