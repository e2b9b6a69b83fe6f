//! `pipelines/curate.toml` from end to end: a hub on loopback serves real documents, the program does all the rest.

use crate::hub_server::{Fault, HubServer};
use crate::math_docs::shared;
use crate::program::Workplace;
use std::path::{Path, PathBuf};

const RECIPE: &str = include_str!("../../pipelines/curate.toml");
const TOKEN: &str = "hf_a_token_that_nobody_may_see";

/// The recipe with the test hub's repository in place of the real one, and other judges.
fn recipe(judge: &str) -> String {
    let start = RECIPE.find("hf://datasets/").expect("the recipe names a dataset");
    let end = start + RECIPE[start..].find("/data/").expect("its shards are in data/");
    let text = format!("{}hf://datasets/org/maths@main{}", &RECIPE[..start], &RECIPE[end..]);
    let from = text.find("[classify.lm]").expect("the recipe has a judge");
    let to = text.find("[curate]").expect("the recipe curates");
    format!("{}{judge}\n\n{}", &text[..from], &text[to..])
}

fn serve_math_docs(folder: &Path) -> HubServer {
    let mut shards: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let name = path.file_name().expect("a name").to_string_lossy();
            shards.push((format!("data/{name}"), std::fs::read(&path).expect("a shard")));
        }
    }
    shards.sort();
    let files: Vec<(&str, Vec<u8>)> = shards.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    HubServer::start(&files)
}

fn run(workplace: &Workplace, server: &HubServer, more: &[&str]) -> crate::program::Ended {
    let arguments = [&["run", "recipe.toml", "--run-dir", "run", "--json"], more].concat();
    let mut command = workplace.command(&arguments);
    command.env("HF_ENDPOINT", server.url()).env("HF_TOKEN", TOKEN);
    crate::program::Ended::of(&command.output().expect("the program starts"))
}

#[test]
fn a_corpus_streams_from_a_hub_that_stumbles() {
    let Some(folder) = shared("a_corpus_streams_from_a_hub_that_stumbles", "math_docs") else { return };
    let server = serve_math_docs(&folder);
    server
        .private(TOKEN)
        .fault(Fault::CutAfter(100_000), 2)
        .fault(Fault::Refuse(503, ""), 1)
        .fault(Fault::RateLimited(1), 1);
    let workplace = Workplace::with(&recipe("[classify.cue]"), &[]);
    let ended = run(&workplace, &server, &[]).expect(0);
    assert!(!(ended.stdout.clone() + &ended.stderr).contains(TOKEN), "the token is in the output");
    workplace.verify("run");
    assert_eq!(workplace.counts("run", "classify")[0], 5852);

    // Shards were deleted once used, for judging and again for writing: nothing of them is left in the cache.
    let left: Vec<PathBuf> = blobs(&workplace.path("hf"));
    assert!(left.is_empty(), "shards are left: {left:?}");

    // The plan is pinned to a commit and to hashes, and the token went to the hub alone.
    let plan = workplace.json("run/plan.json");
    let shard = &plan["inputs"][0]["shards"][0];
    assert_eq!(shard["location"]["remote"]["commit"], crate::hub_server::COMMIT);
    assert_eq!(shard["sha256"].as_str().map(str::len), Some(64));
    for seen in server.requests() {
        assert!(
            !seen.on_storage || seen.header("authorization").is_none(),
            "the storage host saw the token: {}",
            seen.path
        );
    }
    for (name, bytes) in workplace.files("run") {
        assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "the token is in `{name}`");
    }
}

#[test]
fn a_language_model_judges_documents_from_a_hub() {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let Some(folder) = shared("a_language_model_judges_documents_from_a_hub", "math_docs") else { return };
    if !model.is_file() {
        #[expect(clippy::print_stderr, reason = "a test that did not run says so")]
        {
            eprintln!("skipped: a_language_model_judges_documents_from_a_hub (no SmolLM2; run .ci/models)");
        }
        return;
    }
    let server = serve_math_docs(&folder);
    let workplace =
        Workplace::with(&recipe(&format!("[classify.lm]\nmodel = \"{}\"\nmax-windows = 1", model.display())), &[]);
    run(&workplace, &server, &["--limit", "6"]).expect(0);
    workplace.verify("run");
    assert_eq!(workplace.counts("run", "classify"), [6, 6, 0, 0]);
    let manifest = workplace
        .files("run")
        .into_iter()
        .find(|(name, _)| name.starts_with("manifests/classify/"))
        .expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.1).expect("JSON");
    assert_eq!(manifest["judge"]["kind"], "lm");
    assert!(manifest["labels"]["tokens_read"].as_u64().is_some_and(|tokens| tokens > 100));
}

/// The files of the hub's cache that hold content.
fn blobs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.parent().is_some_and(|parent| parent.ends_with("blobs")) {
                found.push(path);
            }
        }
    }
    found
}
