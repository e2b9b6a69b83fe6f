//! Ways of pretraining: from a GGUF, in bf16, with activations computed again, with z-loss; and training a judge.

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{Device, Tensor};
use four_habits::behavior::judge::Judge;
use four_habits::behavior::lm_judge::{LmJudge, LmJudgeSpec};
use four_habits::lm::{Checkpoint, Parameters, Precision};
use serde_json::{Value, json};
use std::path::Path;

use super::pretrain::{RECIPE, losses, our_logits, texts, workplace};
use super::program::Workplace;

const TEXT: &str = "a b then 2 = 24 so";

/// Writes a Qwen2 folder as a GGUF: whose tensors need no other order than transformers'.
fn write_gguf(folder: &Path, path: &Path) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let config = checkpoint.config();
    let name = |name: &str| {
        let name = name.replace("model.layers.", "blk.").replace("model.embed_tokens", "token_embd");
        let name = name.replace("model.norm", "output_norm").replace("post_attention_layernorm", "ffn_norm");
        let name = name.replace("input_layernorm", "attn_norm").replace("mlp.", "ffn_").replace("_proj", "");
        name.replace("self_attn.o", "attn_output").replace("self_attn.", "attn_")
    };
    let tensors: Vec<(String, QTensor)> = Parameters::from_checkpoint(&checkpoint)
        .unwrap()
        .iter()
        .map(|entry| {
            let tensor = Tensor::from_slice(&entry.values, entry.shape.as_slice(), &Device::Cpu).unwrap();
            (name(&entry.name), QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
        })
        .collect();
    let tokenizer: Value = serde_json::from_slice(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    let text = |value: &Value| gguf_file::Value::String(value.as_str().unwrap().to_owned());
    let mut tokens: Vec<(u64, &String)> = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token))
        .collect();
    tokens.sort();
    let merge = |pair: &Value| match pair {
        Value::Array(pair) => text(&json!(format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))),
        other => text(other),
    };
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    // Normal tokens are of kind 1, control tokens of kind 3.
    let kinds = tokens.iter().map(|(_, token)| gguf_file::Value::I32(if token.starts_with("<|") { 3 } else { 1 }));
    let size = |size: usize| gguf_file::Value::U32(size as u32);
    let metadata = [
        ("general.architecture", text(&json!("qwen2"))),
        ("qwen2.embedding_length", size(config.hidden_size)),
        ("qwen2.block_count", size(config.num_layers)),
        ("qwen2.feed_forward_length", size(config.intermediate_size)),
        ("qwen2.attention.head_count", size(config.num_heads)),
        ("qwen2.attention.head_count_kv", size(config.num_kv_heads)),
        ("qwen2.attention.layer_norm_rms_epsilon", gguf_file::Value::F32(config.rms_norm_eps)),
        ("qwen2.rope.freq_base", gguf_file::Value::F32(config.rope_theta as f32)),
        ("qwen2.context_length", size(config.max_positions)),
        ("tokenizer.ggml.model", text(&json!("gpt2"))),
        ("tokenizer.ggml.pre", text(&json!("qwen2"))),
        ("tokenizer.ggml.token_type", gguf_file::Value::Array(kinds.collect())),
        (
            "tokenizer.ggml.tokens",
            gguf_file::Value::Array(tokens.iter().map(|(_, token)| text(&json!(token))).collect()),
        ),
        ("tokenizer.ggml.merges", gguf_file::Value::Array(merges)),
        ("tokenizer.ggml.eos_token_id", size(config.end_tokens[0] as usize)),
    ];
    let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's input needs no commit")]
    std::fs::write(path, bytes.into_inner()).unwrap();
}

#[test]
fn training_begins_with_a_gguf() {
    let recipe = RECIPE.replace("heads = 2", "heads = 2\narchitecture = \"qwen2\"").replace("\"words\"", "\"bpe\"");
    let workplace = workplace(&recipe);
    workplace.run("run", &[]).expect(0);
    let original = workplace.path("run/pretrain/model");
    write_gguf(&original, &workplace.path("model.gguf"));
    let from = |epochs: u64| {
        format!(
            "seed = 1\n[pretrain]\nfrom = \"model.gguf\"\ncontext = 32\nepochs = {epochs}\n[pretrain.batch]\ntokens = 256\n[pretrain.data.text]\nsource = \"data/text.jsonl\"\n[pretrain.optimizer]\nlearning-rate = 1e-2\n"
        )
    };
    // Written again as it is, it answers as the model did that the GGUF was made of.
    workplace.put("same.toml", from(0).as_bytes());
    workplace.call(&["run", "same.toml", "--run-dir", "same"]).expect(0);
    assert_eq!(our_logits(&workplace.path("same/pretrain/model"), TEXT), our_logits(&original, TEXT));

    workplace.put("on.toml", from(2).as_bytes());
    workplace.call(&["run", "on.toml", "--run-dir", "on"]).expect(0);
    let (before, after) = (losses(&workplace, "run"), losses(&workplace, "on"));
    assert!(after[0] < before[0] - 0.2 && after[after.len() - 1] < after[0], "{before:?} {after:?}");
}

#[test]
fn computing_activations_again_changes_no_bit() {
    let workplace = workplace(RECIPE);
    workplace.put("again.toml", RECIPE.replace("epochs = 2", "epochs = 2\nrecompute = true").as_bytes());
    workplace.run("run", &[]).expect(0);
    workplace.call(&["run", "again.toml", "--run-dir", "again"]).expect(0);
    let read = |run: &str, name: &str| std::fs::read(workplace.path(run).join("pretrain").join(name)).unwrap();
    for name in ["model/model.safetensors", "metrics.jsonl", "samples.jsonl"] {
        assert!(read("run", name) == read("again", name), "{name}");
    }
}

#[test]
fn bf16_learns_as_f32_does() {
    let workplace = workplace(RECIPE);
    workplace.put("bf16.toml", RECIPE.replace("epochs = 2", "epochs = 2\nprecision = \"bf16\"").as_bytes());
    let ended = workplace.call(&["run", "bf16.toml", "--run-dir", "bf16"]);
    if !Precision::Bf16.usable() {
        assert!(ended.expect(2).stderr.contains("cannot multiply"));
        return;
    }
    ended.expect(0);
    workplace.run("run", &[]).expect(0);
    let (exact, rounded) = (losses(&workplace, "run"), losses(&workplace, "bf16"));
    assert!(exact != rounded && exact.len() == rounded.len());
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact - rounded).abs() < 0.02 * exact, "{exact} in f32, {rounded} in bf16");
    }
    // Weights are written as they were trained.
    assert_eq!(workplace.json("bf16/pretrain/model/config.json")["torch_dtype"], "float32");
}

#[test]
fn z_loss_holds_the_sum_of_the_softmax_down() {
    let workplace = workplace(RECIPE);
    workplace.put("held.toml", RECIPE.replace("epochs = 2", "epochs = 2\nz-loss = 1.0").as_bytes());
    workplace.run("run", &[]).expect(0);
    workplace.call(&["run", "held.toml", "--run-dir", "held"]).expect(0);
    let log_sum = |run: &str| {
        let (_, logits) = our_logits(&workplace.path(run).join("pretrain/model"), TEXT);
        logits.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln().abs()
    };
    assert!(log_sum("held") < 0.9 * log_sum("run"), "{} held down, {} not", log_sum("held"), log_sum("run"));
}

/// Labeled texts that say plainly what they show.
fn labeled(count: usize) -> Vec<u8> {
    let line = |i: usize| {
        let shown = i % 2;
        let cue = if shown == 1 { "Let me check: it works." } else { "It is a group." };
        json!({
            "id": i.to_string(), "source": "s", "text": format!("The number {i} is here. {cue}"), "verification": shown,
            "backtracking": 0, "subgoal_setting": 0, "backward_chaining": 0,
        })
        .to_string()
            + "\n"
    };
    (0..count).map(line).collect::<String>().into_bytes()
}

/// A recipe that trains a judge; `more` goes to its data.
fn judge_recipe(file: &str, more: &str) -> String {
    format!(
        r#"seed = 3
[pretrain]
context = 96
epochs = 15
[pretrain.model]
layers = 1
hidden = 32
heads = 2
tokenizer = "bpe"
vocabulary = 600
[pretrain.data.questions]
source = "data/{file}"
kind = "questions"
held-out-share = 0.0
{more}
[pretrain.batch]
tokens = 1024
[pretrain.optimizer]
learning-rate = 1e-2
"#
    )
}

#[test]
fn a_judge_learns_from_labels_and_from_cues() {
    let files = [("labels.jsonl", labeled(60)), ("text.jsonl", texts(10))];
    for answers in ["labels", "cue"] {
        let workplace = Workplace::with(&judge_recipe("labels.jsonl", &format!("answers = \"{answers}\"")), &files);
        workplace.run("run", &[]).expect(0);
        let data = workplace.json("run/pretrain/data.json");
        // Labels answer all four questions about a text; cues all four where they find one, else one.
        let expect = if answers == "labels" { 4 * 60 } else { 4 * 30 + 30 };
        assert_eq!(data["questions"]["train"], expect, "{answers}: {data}");
        let spec = LmJudgeSpec { window_tokens: 32, ..LmJudgeSpec::new(workplace.path("run/pretrain/model")) };
        let mut judge = LmJudge::load(&spec).unwrap();
        // What it answers is most of what it would say: it was asked exactly so.
        let mass = judge.answer_mass("The number 7 is here. Let me check: it works.").unwrap();
        assert!(mass.iter().all(|mass| *mass > 0.7), "{answers}: {mass:?}");
        let judged = judge
            .judge(&["The number 99 is here. Let me check: it works.", "The number 98 is here. It is a group."])
            .unwrap();
        let score = |at: usize| judged[at].as_ref().unwrap().marks[0].score;
        assert!(score(0) > 0.8 && score(1) < 0.2, "{answers}: {} {}", score(0), score(1));
    }
}

#[test]
fn the_embedded_judge_is_the_folder_of_its_card() {
    let assets = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/judge"));
    let bytes: u64 = std::fs::read_dir(assets).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 10 << 20, "{bytes} bytes");
    let mut embedded = LmJudge::load(&LmJudgeSpec::new("embedded")).unwrap();
    let mut folder = LmJudge::load(&LmJudgeSpec { window_tokens: 190, ..LmJudgeSpec::new(assets) }).unwrap();
    assert_eq!(embedded.identity().model, "four-habits-judge");
    assert_eq!(embedded.identity().revision, folder.identity().revision);
    let long =
        "We try x = 2, but that does not work. Let us try x = 3 instead. Check: 3 * 3 = 9, as it should. ".repeat(20);
    let texts = [&long[..], "A ring is a set with two operations."];
    let judged = embedded.judge(&texts).unwrap();
    assert_eq!(judged, folder.judge(&texts).unwrap());
    let windows = |at: usize| judged[at].as_ref().unwrap().windows;
    assert!(windows(0) > 2 && windows(1) == 1);
    assert!(embedded.answer_mass(texts[1]).unwrap().iter().all(|mass| *mass > 0.9));

    // A recipe names it, and labels bear its name.
    let recipe = "[fetch]\nsources = [\"data/text.jsonl\"]\n[classify.lm]\nmodel = \"embedded\"\n";
    let workplace = Workplace::with(recipe, &[("text.jsonl", texts_with_urls())]);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    assert!(workplace.call(&["inspect", "run"]).expect(0).stdout.contains("four-habits-judge (lm)"));
}

fn texts_with_urls() -> Vec<u8> {
    let line = |i: usize| {
        let text = format!("Let me check number {i}: it works.");
        json!({ "url": i.to_string(), "text": text, "date": null, "metadata": "{}" }).to_string() + "\n"
    };
    (0..5).map(line).collect::<String>().into_bytes()
}

#[test]
fn questions_need_an_answerer_and_room() {
    let files = [("labels.jsonl", labeled(4)), ("text.jsonl", texts(4))];
    let check = |file: &str, more: &str, exit: i32, expect: &str| {
        let workplace = Workplace::with(&judge_recipe(file, more), &files);
        let ended = workplace.run("run", &[]).expect(exit);
        assert!(ended.stderr.contains(expect), "{more}: {}", ended.stderr);
    };
    check("labels.jsonl", "", 2, "expected with `kind = \"questions\"`");
    check("text.jsonl", "answers = \"labels\"", 65, "missing field `id`");
    let workplace = Workplace::with(&judge_recipe("text.jsonl", "answers = \"cue\"").replace("= 96", "= 32"), &files);
    let ended = workplace.run("run", &[]).expect(2);
    assert!(ended.stderr.contains("raise `pretrain.context`"), "{}", ended.stderr);
}
