//! `pipelines/pretrain.toml` and `pipelines/prime-sft.toml` from end to end: shards and the model to go on from come from a hub on
//! loopback. The model is the embedded judge under the name that the recipe has; a language model's labels are the one thing replaced.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::hub_server::HubServer;
use crate::made_documents::{Document, documents, parquet};
use crate::program::{Ended, Workplace};
use std::path::PathBuf;

const PRETRAIN: &str = include_str!("../../pipelines/pretrain.toml");
const PRIME_SFT: &str = include_str!("../../pipelines/prime-sft.toml");
/// What both recipes go on from.
const MODEL: &str = "Qwen/Qwen2.5-0.5B";

/// A hub with two shards, and a small model that takes the recipes' context.
fn hub() -> HubServer {
    let [first, second] = [1, 2]
        .map(|seed| parquet(&[documents(30, seed), plain(50 * seed as usize..50 * seed as usize + 50)].concat(), 20));
    let server = HubServer::start(&[("data/a.parquet", first), ("data/b.parquet", second)]);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/judge");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let config = String::from_utf8(read("config.json")).unwrap();
    let config = config.replace("\"max_position_embeddings\": 256", "\"max_position_embeddings\": 2048");
    let mut files = vec![("config.json", config.into_bytes())];
    files.extend(["model.safetensors", "tokenizer.json", "tokenizer_config.json"].map(|name| (name, read(name))));
    server.model(MODEL, &files);
    server
}

/// Documents that show none of the habits, of the same lengths.
fn plain(numbers: std::ops::Range<usize>) -> Vec<Document> {
    let document = |number: usize| {
        let sentence =
            |i: usize| format!("The determinant of matrix {} is not zero. Here x{i} equals {number}.", i * number);
        let text: Vec<String> = (0..3 + number % 27).map(sentence).collect();
        Document { url: format!("https://plain.org/{number}"), text: Some(text.join(" ").into_bytes()) }
    };
    numbers.map(document).collect()
}

fn run(workplace: &Workplace, server: &HubServer, limit: &str) -> Ended {
    let arguments = ["run", "recipe.toml", "--run-dir", "run", "--limit", limit];
    let mut command = workplace.command(&arguments);
    command.env("HF_ENDPOINT", server.url());
    Ended::of(&command.output().unwrap())
}

/// The loss of the first and last step of what lies in `arm`, and how many losses were told.
fn course(workplace: &Workplace, arm: &str) -> (f64, f64, usize) {
    let text = std::fs::read_to_string(workplace.path(format!("run/{arm}pretrain/metrics.jsonl"))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let losses: Vec<f64> = lines.filter_map(|line| line["loss"].as_f64()).collect();
    (losses[0], losses[losses.len() - 1], losses.len())
}

#[test]
fn continued_pretraining_runs_from_a_hub() {
    let server = hub();
    let judge = PRETRAIN.find("[classify.lm]").unwrap()..PRETRAIN.find("[curate.corpus.rich]").unwrap();
    let mut recipe = PRETRAIN.to_owned();
    recipe.replace_range(judge, "[classify.cue]\n\n");
    let dataset = recipe.find("hf://datasets/").unwrap()..recipe.find("/data/*").unwrap();
    recipe.replace_range(dataset, "hf://datasets/org/maths@main");
    let workplace = Workplace::with(&recipe.replace("tokens = 32768", "tokens = 2048"), &[]);
    let said = run(&workplace, &server, "160").expect(0).stderr;
    workplace.verify("run");
    for arm in ["arms/rich/", "arms/minimal/"] {
        let (first, last, steps) = course(&workplace, arm);
        assert!(last < first && 1 < steps, "{arm}: {first} {last} after {steps} steps: {said}");
    }
    let model = |arm: &str| std::fs::read(workplace.path(format!("run/arms/{arm}/pretrain/model/model.safetensors")));
    assert!(model("rich").unwrap() != model("minimal").unwrap());
    // The arm without training is the model as it was.
    assert!(workplace.path("run/arms/none/pretrain/model/config.json").is_file());
    assert_ne!(model("none").unwrap(), model("rich").unwrap());
    let plan = std::fs::read_to_string(workplace.path("run/plan.json")).unwrap();
    assert!(plan.contains(crate::hub_server::COMMIT), "the plan pins no commit");
}

#[test]
fn priming_runs_from_a_hub() {
    let server = hub();
    let workplace = Workplace::with(PRIME_SFT, &[]);
    run(&workplace, &server, "32").expect(0);
    workplace.verify("run");
    for arm in ["", "arms/backtracking-verification/", "arms/direct/", "arms/empty/"] {
        let (first, last, steps) = course(&workplace, arm);
        assert!(last < first && 1 < steps, "{arm}: {first} {last} after {steps} steps");
    }
}

/// The `config.json` of Llama-3.2-3B.
const LLAMA_3B: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 3072,
    "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": true, "hidden_act": "silu",
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#;

#[test]
fn the_papers_recipe_tells_its_cost_before_its_model_is_here() {
    let weights = b"never read".repeat(1000);
    let plan = |config: &str, arguments: &[&str]| {
        let server = HubServer::start(&[]);
        let files = [("config.json", config.as_bytes().to_vec()), ("model.safetensors", weights.clone())];
        server.model("meta-llama/Llama-3.2-3B", &files);
        let workplace = Workplace::with(include_str!("../../pipelines/four-habits-3b.toml"), &[]);
        let mut command = workplace.command(&[&["plan", "recipe.toml"], arguments].concat());
        command.env("HF_ENDPOINT", server.url());
        Ended::of(&command.output().unwrap())
    };
    let planned = plan(LLAMA_3B, &["--json"]).expect(0).json();
    let stages = planned["stages"].as_array().unwrap();
    let ppo: Vec<_> = stages.iter().filter_map(|stage| stage.get("reinforcement")).collect();
    assert_eq!(ppo.len(), 9, "{planned:#}");
    for ppo in ppo {
        assert_eq!(ppo["parameters"], 3_212_749_824u64);
        assert_eq!((ppo["responses"].as_u64(), ppo["response_tokens"].as_u64()), (Some(256_000), Some(262_144_000)));
        // A rollout, the reference and the critic's values read; critic and actor learn: 18 per weight and token.
        assert_eq!(ppo["operations"].as_f64(), Some(18.0 * 3_212_749_824.0 * 262_144_000.0));
        // Policy and critic with gradients and moments, the reference, and the policy packed once more: 16, 16, 4 and 4 bytes a weight.
        assert!(ppo["memory_bytes"].as_u64().unwrap() > 40 * 3_212_749_824);
    }
    let text = plan(LLAMA_3B, &[]).expect(0).stdout;
    assert!(
        text.contains(
            "3,212,749,824 parameters, 250 steps, 256,000 responses, at most 262,144,000 tokens, at most 15.2 EFLOP"
        ),
        "{text}"
    );

    // What cannot be trained is refused as early.
    let gemma = LLAMA_3B.replace(r#""model_type": "llama""#, r#""model_type": "gemma3_text""#);
    let said = plan(&gemma, &[]).expect(2).stderr;
    assert!(said.contains("key `pretrain.from`") && said.contains("cannot be trained"), "{said}");
}
