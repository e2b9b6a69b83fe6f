//! Pretraining as a stage: a tiny model learns, a run that was killed ends as one that was not, and transformers loads what it wrote.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use candle_core::Device;
use four_habits::data::sidecar;
use four_habits::lm::{Checkpoint, Decoder, Packed, Precision};
use serde_json::{Value, json};

use super::disk::with_mounts;
use super::program::{Ended, Workplace};

/// A model of some thousand parameters, on texts of few words; every kind of output.
pub const RECIPE: &str = r#"seed = 7

[pretrain]
context = 32
epochs = 2

[pretrain.model]
layers = 1
hidden = 16
heads = 2
tokenizer = "words"
vocabulary = 300

[pretrain.data.text]
source = "data/text.jsonl"
held-out-share = 0.1

[pretrain.batch]
tokens = 256
micro-tokens = 64

[pretrain.optimizer]
learning-rate = 1e-2

[pretrain.checkpoint]
every = 5
keep-last = 2
keep-best = true

[pretrain.eval]
every = 3

[pretrain.samples]
prompts = ["a"]
every = 4
max-tokens = 4

[report]
"#;

const ABORTED: i32 = 128 + 6;

/// Texts that repeat themselves, so that there is something to learn.
pub fn texts(count: usize) -> Vec<u8> {
    let words = ["a", "b", "c", "d", "then", "=", "2", "3", "so", "is", "24", "no", "wait", "first", "e", "f"];
    let line = |i: usize| {
        let text: Vec<&str> = (0..5 + i * 13 % 50).map(|j| words[(i + j * j) % words.len()]).collect();
        json!({ "text": text.join(" ") }).to_string() + "\n"
    };
    (0..count).map(line).collect::<String>().into_bytes()
}

/// Questions whose answers follow from them.
fn completions(count: usize) -> Vec<u8> {
    let line =
        |i: usize| json!({ "query": format!("{i} =") , "completion": format!(" {i} so {}", i % 7) }).to_string() + "\n";
    (0..count).map(line).collect::<String>().into_bytes()
}

pub fn workplace(recipe: &str) -> Workplace {
    Workplace::with(recipe, &[("text.jsonl", texts(80)), ("answers.jsonl", completions(60))])
}

/// The lines of a run's `metrics.jsonl`.
fn metrics(workplace: &Workplace, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(workplace.path(run).join("pretrain/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Losses of the training steps, in order.
pub fn losses(workplace: &Workplace, run: &str) -> Vec<f64> {
    let steps = metrics(workplace, run).into_iter().filter(|line| line.get("held_out").is_none());
    steps.map(|line| line["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_model_learns_and_everything_is_written() {
    let workplace = workplace(RECIPE);
    let plan = workplace.call(&["plan", "recipe.toml", "--json"]).expect(0).json();
    assert!(plan["stages"][0]["training"]["parameters"].as_u64().unwrap() > 1000);
    let ended = workplace.run("run", &[]).expect(0);
    assert!(ended.stderr.contains("loss") && ended.stderr.contains("pretrain/model"), "{}", ended.stderr);
    workplace.verify("run");
    assert_eq!(workplace.counts("run", "pretrain"), [80, 80, 0, 0]);

    let losses = losses(&workplace, "run");
    assert!(losses[losses.len() - 1] < losses[0] - 0.3, "{losses:?}");
    let lines = metrics(&workplace, "run");
    let held_out: Vec<u64> =
        lines.iter().filter(|line| line["held_out"] == "text").map(|line| line["step"].as_u64().unwrap()).collect();
    let last = losses.len() as u64;
    assert!(held_out.starts_with(&[0, 3, 5, 6]) && held_out.ends_with(&[last]), "{held_out:?}");
    let table = sidecar::read(&workplace.path("run/pretrain/metrics.parquet")).unwrap();
    assert_eq!((table.num_rows(), table.num_columns()), (lines.len(), 8));
    let samples = std::fs::read_to_string(workplace.path("run/pretrain/samples.jsonl")).unwrap();
    assert!(samples.lines().count() as u64 >= last / 4 && samples.contains("\"prompt\":\"a\""));
    let told = workplace.call(&["inspect", "run"]).expect(0).stdout;
    for what in [
        &format!("pretrain: step {last}, "),
        &format!("held out text: loss {:.4} after step {last}", lines.last().unwrap()["loss"].as_f64().unwrap()),
        &format!("checkpoints/step-{last:06} (latest"),
        &format!("sample after step {last}: a … "),
    ] {
        assert!(told.contains(what), "{what}: {told}");
    }
    let page = std::fs::read_to_string(workplace.path("run/report/report.html")).unwrap();
    assert!(page.contains("Training</h2>") || page.contains("run1-trained"));
    assert!(workplace.path("run/report/pictures/losses.svg").is_file());
    // The model's files, and a second run is equal to the last byte.
    for name in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        assert!(workplace.path("run/pretrain/model").join(name).is_file(), "{name}");
    }
    workplace.run("again", &["--threads", "1"]).expect(0);
    workplace.assert_same("again", &workplace.files("run"));
}

#[test]
fn a_run_killed_at_any_point_ends_as_one_that_was_not() {
    let workplace = workplace(RECIPE);
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    let mut killed = 0;
    for point in (1..400).step_by(11) {
        let run = format!("run-{point}");
        let ended = workplace.run_killed_at(point, &run, &[]);
        killed += u32::from(ended.exit == ABORTED);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        if ended.exit == 0 {
            break;
        }
    }
    assert!(killed > 20, "{killed} runs were killed");
}

#[test]
fn a_signal_saves_a_checkpoint_and_the_run_goes_on() {
    // Long enough to be interrupted.
    let workplace = workplace(&RECIPE.replace("epochs = 2", "epochs = 60").replace("every = 5", "every = 50"));
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    for (signal, exit) in [("TERM", 75), ("INT", 130)] {
        let run = format!("run-{signal}");
        let mut running = workplace.spawn(&["run", "recipe.toml", "--run-dir", &run, "--json"]);
        running.wait_for("progress");
        running.signal(signal);
        running.end().expect(exit);
        assert!(workplace.path(&run).join("pretrain/checkpoints/latest").is_file());
        let ended = workplace.run(&run, &[]).expect(0);
        assert!(ended.stderr.contains("going on from step"), "{}", ended.stderr);
        workplace.assert_same(&run, &whole);
    }
}

#[test]
fn parts_of_a_step_add_up_to_the_whole() {
    let workplace = workplace(RECIPE);
    workplace.put("large.toml", RECIPE.replace("micro-tokens = 64", "micro-tokens = 1024").as_bytes());
    workplace.run("small", &[]).expect(0);
    workplace.call(&["run", "large.toml", "--run-dir", "large"]).expect(0);
    let (small, large) = (losses(&workplace, "small"), losses(&workplace, "large"));
    assert_eq!(small.len(), large.len());
    for (step, (a, b)) in small.iter().zip(&large).enumerate() {
        assert!((a - b).abs() < 1e-3 * a, "step {step}: {a} in parts, {b} at once");
    }
}

/// Arms, a mixture with weights, completions, and a model that begins with another one.
#[test]
fn arms_share_their_tokens_and_stand_side_by_side() {
    let recipe = RECIPE
        .replace("vocabulary = 300", "vocabulary = 300\narchitecture = \"qwen3\"")
        .replace("epochs = 2", "tokens = 3000")
        + r#"
[pretrain.data.answers]
source = "data/answers.jsonl"
weight = 1.0

[arm.even.pretrain.data.text]
weight = 1.0

[arm.more-text.pretrain.data.text]
weight = 4.0

[arm.nothing.pretrain.data.text]
weight = 1.0

[arm.nothing.pretrain]
seed = 11
"#;
    let recipe = recipe.replace("held-out-share = 0.1\n", "held-out-share = 0.1\nweight = 2.0\n");
    let workplace = workplace(&recipe);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    let tokens = std::fs::read_dir(workplace.path("run/tokens")).unwrap().count();
    assert_eq!(tokens, 3, "one tokenizer and two sources for all arms");
    assert!(workplace.path("run/report/pictures/compared-losses.svg").is_file());
    let share = |arm: &str| {
        let state = workplace.path("run").join(format!("arms/{arm}/pretrain/checkpoints"));
        let latest = std::fs::read_to_string(state.join("latest")).unwrap();
        let state: Value =
            serde_json::from_slice(&std::fs::read(state.join(latest.trim()).join("trainer/state.json")).unwrap())
                .unwrap();
        // Sources stand in the order of their names: answers, text.
        let of = |index: usize| state["cursor"]["sources"][index]["tokens"].as_f64().unwrap();
        of(1) / of(0)
    };
    assert!((share("even") - 1.0).abs() < 0.05, "{}", share("even"));
    assert!((share("more-text") - 4.0).abs() < 0.2, "{}", share("more-text"));

    // What an arm wrote can be trained on, or written again as it is.
    let from = "seed = 1\n[pretrain]\nfrom = \"run/arms/even/pretrain/model\"\ncontext = 32\nepochs = 0\n[pretrain.data.text]\nsource = \"data/text.jsonl\"\n";
    workplace.put("from.toml", from.as_bytes());
    workplace.call(&["run", "from.toml", "--run-dir", "from"]).expect(0);
    let read = |path: &str| std::fs::read(workplace.path(path)).unwrap();
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        assert!(
            read(&format!("from/pretrain/model/{name}")) == read(&format!("run/arms/even/pretrain/model/{name}")),
            "{name}"
        );
    }
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before_it_good() {
    let workplace = workplace(&RECIPE.replace("hidden = 16", "hidden = 64").replace("[report]\n", ""));
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    let total: usize = whole.values().map(Vec::len).sum();
    let sizes: Vec<String> = (2..12).map(|part| (total * part / 12 / 4096 * 4).max(8).to_string()).collect();
    let script = format!(
        "mkdir -p mounted results
         for size in {}; do
             mount -t tmpfs -o size=${{size}}k tmpfs mounted
             code=0; \"$1\" run recipe.toml --run-dir mounted/run 2> results/$size.txt || code=$?
             echo $code > results/$size.code
             mount -o remount,size=100m mounted
             \"$1\" run recipe.toml --run-dir mounted/run 2> results/$size.again
             cp -r mounted/run results/run-$size
             umount mounted
         done",
        sizes.join(" ")
    );
    let Some(ended) = with_mounts(&workplace, &script) else { return };
    ended.expect(0);
    let mut went_on = 0;
    for size in &sizes {
        let read = |suffix: &str| std::fs::read_to_string(workplace.path(format!("results/{size}.{suffix}"))).unwrap();
        let exit = read("code").trim().parse().unwrap();
        if exit != 0 {
            let ended = Ended { exit, stdout: String::new(), stderr: read("txt") };
            ended.fails(1, "cannot write `mounted/run").fails(1, "the disk is full").hints("free some space");
            went_on += u32::from(read("again").contains("going on from step"));
        }
        workplace.assert_same(&format!("results/run-{size}"), &whole);
    }
    assert!(went_on >= 2, "{went_on} runs went on from the checkpoint before");
}

/// The interpreter to try; the environment may name another.
fn python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import torch, transformers"]).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}

/// Logits of the last token of a text, by our decoder.
pub fn our_logits(folder: &Path, text: &str) -> (Vec<u32>, Vec<f32>) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let ids = checkpoint.tokenizer().unwrap().encode(text).unwrap();
    let decoder = Decoder::load(&checkpoint, &Device::Cpu, Precision::F32).unwrap();
    let mut packed = Packed::default();
    packed.push(None, &ids);
    let hidden = decoder.hidden(&packed, &[ids.len() - 1]).unwrap();
    (ids, decoder.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1().unwrap())
}

#[test]
fn transformers_loads_a_checkpoint_as_it_is() {
    let Some(python) = python() else {
        println!("skipped: transformers' view of a checkpoint (no Python with `torch` and `transformers`)");
        return;
    };
    const TEXT: &str = "a b then 2 = 24 so";
    for (family, class) in [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")]
    {
        let sizes = format!(
            "heads = 2\nkv-heads = 1\nrope-theta = 5000.0\ntied-head = {}\narchitecture = \"{family}\"",
            family != "qwen2"
        );
        let tokenizer = if family == "llama" { "words" } else { "bpe" };
        let recipe = RECIPE.replace("heads = 2", &sizes).replace("\"words\"", &format!("\"{tokenizer}\""));
        let workplace = workplace(&recipe);
        workplace.run("run", &[]).expect(0);
        let checkpoints = workplace.path("run/pretrain/checkpoints");
        let latest = std::fs::read_to_string(checkpoints.join("latest")).unwrap();
        for folder in [workplace.path("run/pretrain/model"), checkpoints.join(latest.trim())] {
            let (ids, ours) = our_logits(&folder, TEXT);
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/load_model.py");
            let output = Command::new(&python).arg(script).arg(&folder).arg(TEXT).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!((&theirs["class"], &theirs["dtype"]), (&json!(class), &json!("torch.float32")));
            assert_eq!((&theirs["ids"], &theirs["decoded"]), (&json!(ids), &json!(TEXT)));
            assert_eq!(theirs["eos"], theirs["generation_eos"]);
            let theirs: Vec<f32> =
                theirs["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
            assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(&theirs) {
                assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{family}: {a} here, {b} in transformers");
            }
        }
    }
}

/// What transformers must find, checked without it: a golden of the files' form.
#[test]
fn a_checkpoint_has_the_form_that_transformers_reads() {
    let workplace = workplace(RECIPE);
    workplace.run("run", &[]).expect(0);
    let config = workplace.json("run/pretrain/model/config.json");
    let expect = BTreeMap::from([
        ("model_type", json!("llama")),
        ("architectures", json!(["LlamaForCausalLM"])),
        ("hidden_size", json!(16)),
        ("intermediate_size", json!(64)),
        ("num_attention_heads", json!(2)),
        ("max_position_embeddings", json!(32)),
        ("rms_norm_eps", json!(1e-5)),
        ("tie_word_embeddings", json!(true)),
        ("torch_dtype", json!("float32")),
        ("eos_token_id", json!(0)),
    ]);
    for (key, value) in expect {
        assert_eq!(config[key], value, "{key}");
    }
    let weights = std::fs::read(workplace.path("run/pretrain/model/model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&weights).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let names: Vec<String> = header.tensors().into_keys().filter(|name| !name.contains("layers.0")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let tokenizer = workplace.json("run/pretrain/model/tokenizer_config.json");
    assert_eq!(
        (&tokenizer["tokenizer_class"], &tokenizer["eos_token"]),
        (&json!("PreTrainedTokenizerFast"), &json!("<|endoftext|>"))
    );
}
