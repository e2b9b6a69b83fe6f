//! Judges of every architecture: against transformers' own answers, against each other, and what is refused.

use crate::lm::{byte_tokenizer, judged, refused, smollm2};
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::llama;
use four_habits::behavior::lm_judge::{LmJudge, LmJudgeSpec};
use four_habits::lm::{Checkpoint, Packed, Precision, Scorer, WeightStorage, load_scorer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Made by `tests/peers/tiny_models.py`.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn scorer(path: &Path, precision: Precision, positions: usize) -> Box<dyn Scorer> {
    let checkpoint = Checkpoint::open(path).unwrap();
    load_scorer(&checkpoint, &Device::Cpu, precision, WeightStorage::Widened, positions).unwrap()
}

#[derive(serde::Deserialize)]
struct Golden {
    tokens: Vec<u32>,
    /// Per row, of the whole vocabulary.
    logits: BTreeMap<usize, Vec<f32>>,
}

/// Sliding windows of 8 over 40 tokens, norms that are no identity, and two rotary bases, in as many tiny models.
#[test]
fn tiny_models_answer_as_in_transformers() {
    for name in ["gemma3", "phi3", "mistral"] {
        let folder = PathBuf::from(GOLDEN).join(name);
        let golden: Golden = serde_json::from_slice(&std::fs::read(folder.join("logits.json")).unwrap()).unwrap();
        let mut packed = Packed::default();
        packed.push(None, &golden.tokens);
        let rows: Vec<usize> = golden.logits.keys().copied().collect();
        let scorer = scorer(&folder, Precision::F32, golden.tokens.len());
        let found: Vec<Vec<f32>> = scorer.next_token_logits(&packed, &rows, None).unwrap().to_vec2().unwrap();
        for (found, expect) in found.iter().zip(golden.logits.values()) {
            assert_eq!(found.len(), expect.len());
            for (found, expect) in found.iter().zip(expect) {
                assert!((found - expect).abs() < 1e-3, "{name}: {found} {expect}");
            }
        }
        let chosen: Vec<Vec<f32>> = scorer.next_token_logits(&packed, &rows, Some(&[7, 3])).unwrap().to_vec2().unwrap();
        for (chosen, all) in chosen.iter().zip(&found) {
            assert!((chosen[0] - all[7]).abs() < 1e-5 && (chosen[1] - all[3]).abs() < 1e-5, "{name}");
        }
    }
}

/// A model folder with seeded random weights and a tokenizer of bytes that knows the answers.
struct Tiny {
    folder: tempfile::TempDir,
}

impl Tiny {
    /// `shapes` names the modules of each layer, `{i}` being its number.
    fn new(config: &Value, shapes: &[(&str, &[usize])]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let layers = config["num_hidden_layers"].as_u64().unwrap();
        let mut tensors = BTreeMap::new();
        for (name, shape) in shapes {
            let names: Vec<String> = match name.contains("{i}") {
                true => (0..layers).map(|layer| name.replace("{i}", &layer.to_string())).collect(),
                false => vec![(*name).to_owned()],
            };
            for name in names {
                let values = (0..shape.iter().product::<usize>()).map(|_| rng.random_range(-0.3..0.3f32));
                let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
                tensors.insert(name, (shape.to_vec(), bytes));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, (shape, bytes))| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        let tiny = Self { folder: tempfile::tempdir().unwrap() };
        tiny.write("model.safetensors", safetensors::serialize(views, None).unwrap());
        tiny.write("config.json", config.to_string());
        tiny.write("tokenizer.json", byte_tokenizer(&["yes", "no"]));
        tiny
    }

    #[expect(clippy::disallowed_methods, reason = "a test's input needs no commit")]
    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.folder.path().join(name), content).unwrap();
    }

    fn spec(&self) -> LmJudgeSpec {
        LmJudgeSpec { window_tokens: 60, ..LmJudgeSpec::new(self.folder.path()) }
    }
}

/// Sizes that every family names alike.
fn config(model_type: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 264, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

const LLAMA: [(&str, &[usize]); 11] = [
    ("model.embed_tokens.weight", &[264, 16]),
    ("model.norm.weight", &[16]),
    ("model.layers.{i}.input_layernorm.weight", &[16]),
    ("model.layers.{i}.post_attention_layernorm.weight", &[16]),
    ("model.layers.{i}.self_attn.q_proj.weight", &[16, 16]),
    ("model.layers.{i}.self_attn.k_proj.weight", &[8, 16]),
    ("model.layers.{i}.self_attn.v_proj.weight", &[8, 16]),
    ("model.layers.{i}.self_attn.o_proj.weight", &[16, 16]),
    ("model.layers.{i}.mlp.gate_proj.weight", &[24, 16]),
    ("model.layers.{i}.mlp.up_proj.weight", &[24, 16]),
    ("model.layers.{i}.mlp.down_proj.weight", &[16, 24]),
];

fn gemma3() -> Tiny {
    let config = config(
        "gemma3_text",
        json!({"num_key_value_heads": 1, "head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 32, "sliding_window_pattern": 2,
               "rope_local_base_freq": 1000.0, "hidden_activation": "gelu_pytorch_tanh"}),
    );
    let norms: [(&str, &[usize]); 4] = [
        ("model.layers.{i}.pre_feedforward_layernorm.weight", &[16]),
        ("model.layers.{i}.post_feedforward_layernorm.weight", &[16]),
        ("model.layers.{i}.self_attn.q_norm.weight", &[4]),
        ("model.layers.{i}.self_attn.k_norm.weight", &[4]),
    ];
    let llama = LLAMA.map(|(name, shape)| match name {
        _ if name.contains(".k_proj.") || name.contains(".v_proj.") => (name, &[4, 16][..]),
        _ => (name, shape),
    });
    Tiny::new(&config, &[&llama[..], &norms].concat())
}

fn phi3() -> Tiny {
    let fused: [(&str, &[usize]); 3] = [
        ("lm_head.weight", &[264, 16]),
        ("model.layers.{i}.self_attn.qkv_proj.weight", &[32, 16]),
        ("model.layers.{i}.mlp.gate_up_proj.weight", &[48, 16]),
    ];
    let own =
        |name: &str| !["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"].iter().any(|other| name.contains(other));
    let shapes: Vec<(&str, &[usize])> = LLAMA.into_iter().filter(|(name, _)| own(name)).chain(fused).collect();
    Tiny::new(&config("phi3", json!({"hidden_act": "silu"})), &shapes)
}

#[test]
fn every_family_judges() {
    let mistral = Tiny::new(&config("mistral", json!({"sliding_window": 400, "tie_word_embeddings": true})), &LLAMA);
    for model in [gemma3(), phi3(), mistral] {
        let mut judge = LmJudge::load(&model.spec()).unwrap();
        let texts =
            ["Check: 3 + 4 = 7.", "a", "naïve 😀 text\n\nwith lines, and more of them than fit into one window."];
        let together = judged(&mut judge, &texts);
        for (text, labels) in texts.iter().zip(&together) {
            assert!(labels.marks.iter().all(|mark| mark.score > 0.0 && mark.score < 1.0));
            assert_eq!(judged(&mut judge, &[text]), std::slice::from_ref(labels), "alone or with others");
        }
        assert!(together[2].windows > 1);
        assert_ne!(together[0].marks, together[1].marks);
    }
}

/// The one architecture that both can run: a Llama, by its own decoder and by candle-transformers.
#[test]
fn the_decoder_agrees_with_candle_transformers() {
    let config = config("llama", json!({"tie_word_embeddings": true}));
    let model = Tiny::new(&config, &LLAMA);
    let tokens: Vec<u32> = (0..50).map(|i| i * 31 % 264).collect();
    let mut packed = Packed::default();
    packed.push(None, &tokens);
    let scorer = scorer(model.folder.path(), Precision::F32, 50);
    let ours = scorer.next_token_logits(&packed, &[tokens.len() - 1], None).unwrap();
    let ours: Vec<f32> = ours.squeeze(0).unwrap().to_vec1().unwrap();

    let config: llama::LlamaConfig = serde_json::from_value(config).unwrap();
    let config = config.into_config(false);
    let file = std::fs::read(model.folder.path().join("model.safetensors")).unwrap();
    let weights = candle_nn::VarBuilder::from_buffered_safetensors(file, DType::F32, &Device::Cpu).unwrap();
    let theirs = llama::Llama::load(weights, &config).unwrap();
    let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
    let ids = Tensor::new(&tokens[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let theirs: Vec<f32> = theirs.forward(&ids, 0, &mut cache).unwrap().squeeze(0).unwrap().to_vec1().unwrap();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
    }
}

#[test]
fn what_would_be_computed_wrong_is_refused() {
    let check = |model: &Tiny, key: &str, value: Value, expect: &str| {
        let path = model.folder.path().join("config.json");
        let whole = std::fs::read_to_string(&path).unwrap();
        let mut config: Value = serde_json::from_str(&whole).unwrap();
        config[key] = value;
        model.write("config.json", config.to_string());
        refused(&model.spec(), expect);
        model.write("config.json", whole);
    };
    let gemma3 = gemma3();
    check(&gemma3, "query_pre_attn_scalar", 9.into(), "`query_pre_attn_scalar = 9` in `config.json`: only `4`");
    check(&gemma3, "rope_scaling", json!({"factor": 8.0, "rope_type": "linear"}), "`rope_scaling = ");
    check(&gemma3, "num_key_value_heads", 2.into(), "`num_key_value_heads = 2` in `config.json`: only `1`");
    check(&gemma3, "hidden_size", 20.into(), "has shape [264, 16], the configuration asks for [264, 20]");
    check(&gemma3, "num_hidden_layers", 3.into(), "lacks the tensor `model.layers.2.");
    let phi3 = phi3();
    check(&phi3, "sliding_window", 100.into(), "outgrow the model's sliding window of 100");
    check(&phi3, "rope_scaling", json!({"type": "longrope"}), "`rope_type = longrope`");
    check(&phi3, "model_type", "mamba".into(), "architecture `mamba` is not supported");
    refused(&LmJudgeSpec { precision: Precision::Bf16, ..phi3.spec() }, "judges in f32");
}

#[test]
fn a_model_larger_than_memory_is_refused_before_it_is_read() {
    let model = Tiny::new(&config("llama", json!({"tie_word_embeddings": true})), &LLAMA);
    let large =
        config("llama", json!({"hidden_size": 1_048_576, "intermediate_size": 4_194_304, "num_hidden_layers": 99}));
    model.write("config.json", large.to_string());
    refused(&model.spec(), "GiB of memory for its weights, and ");
    let phi3 = phi3();
    phi3.write(
        "config.json",
        config("phi3", json!({"hidden_size": 1_048_576, "intermediate_size": 4_194_304})).to_string(),
    );
    refused(&phi3.spec(), "GiB of memory for its weights, and ");
}

#[test]
fn kept_weights_give_the_same_labels_to_the_last_bit() {
    let check = |spec: &LmJudgeSpec, text: &str| {
        let widened = judged(&mut LmJudge::load(spec).unwrap(), &[text]);
        let kept = LmJudgeSpec { weights: WeightStorage::Kept, ..spec.clone() };
        assert_eq!(judged(&mut LmJudge::load(&kept).unwrap(), &[text]), widened);
    };
    let model = Tiny::new(&config("llama", json!({"tie_word_embeddings": true})), &LLAMA);
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8].into_iter().filter(|one| one.usable()) {
        check(&LmJudgeSpec { precision, ..model.spec() }, "Check: 3 + 4 = 7.");
    }
    if let Some((path, _)) = smollm2() {
        check(&LmJudgeSpec::new(&path), "Let us check: 3 + 4 = 7, as it should be.");
    }
}
