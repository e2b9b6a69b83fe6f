//! The language model against llama.cpp: the same tokens, and next-token probabilities close to its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail by panicking and say what they skip; their files are scratch"
)]

use arrow::array::{Array, AsArray, RecordBatch};
use candle_core::quantized::{
    QTensor,
    gguf_file::{self, Value},
};
use candle_core::{Device, IndexOp};
use four_habits::behavior::judge::{Judge, Labels, Unjudgeable};
use four_habits::behavior::lm_judge::{LmJudge, LmJudgeSpec};
use four_habits::error::{Exit, exit_of};
use four_habits::lm::{Checkpoint, Decoder, Message, Packed, Precision, TextTokenizer};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");

#[derive(Deserialize)]
pub(crate) struct Oracle {
    tokenize: Vec<Tokenized>,
    pub(crate) next_token_top10: Vec<NextToken>,
}

#[derive(Deserialize)]
struct Tokenized {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
pub(crate) struct NextToken {
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) top10: Vec<Candidate>,
}

#[derive(Deserialize)]
pub(crate) struct Candidate {
    pub(crate) id: u32,
    pub(crate) logprob: f32,
}

/// SmolLM2-135M-Instruct as `.ci/models` fetches it, and what llama.cpp says of it; `None` with a note where either is absent.
pub(crate) fn smollm2() -> Option<(PathBuf, Oracle)> {
    let path = match std::env::var_os("FOUR_HABITS_SMOLLM2") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/models/SmolLM2-135M-Instruct.Q4_1.gguf"),
    };
    if !path.is_file() {
        eprintln!("skipped: no SmolLM2 at {} (run .ci/models)", path.display());
        return None;
    }
    let oracle = format!("{SHARED}/oracles/llamacpp_smollm2_135m_q4_1.json");
    match std::fs::read(&oracle) {
        Ok(bytes) => Some((path, serde_json::from_slice(&bytes).unwrap())),
        Err(_) => {
            eprintln!("skipped: no llama.cpp oracle (no ../shared/data)");
            None
        }
    }
}

fn check_tokens(tokenizer: &TextTokenizer, oracle: &Oracle) {
    for case in &oracle.tokenize {
        assert_eq!(tokenizer.encode_markup(&case.text).unwrap(), case.ids, "{:?}", case.text);
        let control = case.ids.iter().any(|id| *id < 17);
        let plain = tokenizer.encode(&case.text).unwrap();
        assert_eq!(plain == case.ids, !control, "{:?}", case.text);
        assert!(plain.iter().all(|id| *id >= 17), "a document's text became a control token: {:?}", case.text);
        let spans = tokenizer.encode_spans(&case.text).unwrap();
        assert!(spans.iter().map(|(id, _)| *id).eq(plain), "{:?}", case.text);
    }
    assert_eq!(oracle.tokenize.len(), 119);
}

#[test]
fn the_tokenizer_rebuilt_from_a_gguf_equals_llama_cpp() {
    let Some((path, oracle)) = smollm2() else { return };
    check_tokens(&Checkpoint::open(&path).unwrap().tokenizer().unwrap(), &oracle);
}

/// llama.cpp multiplies 4-bit weights by activations that it rounds to 8 bits, and this decoder computes in f32. Rounding
/// this decoder's activations the same way (blocks of 32, 8 bits) moves these 160 log-probabilities by 0.097 on average
/// and 0.59 at most, so a distance of that size is the oracle's own noise: it measures 0.106 and 0.63. A wrong rotary
/// convention, norm or tie moves them by whole nats.
#[test]
fn next_token_probabilities_agree_with_llama_cpp() {
    let Some((path, oracle)) = smollm2() else { return };
    // Bytes per row are coarser than llama.cpp's per block of 32; `benches/judge_precision.py` measures what they cost.
    for precision in precisions().filter(|precision| *precision != Precision::Int8) {
        let decoder = Decoder::load(&Checkpoint::open(&path).unwrap(), &Device::Cpu, precision).unwrap();
        check_next_tokens(&decoder, &oracle);
    }
}

fn check_next_tokens(decoder: &Decoder, oracle: &Oracle) {
    let mut packed = Packed::default();
    let ends: Vec<usize> = oracle
        .next_token_top10
        .iter()
        .map(|case| {
            let segment = packed.push(None, &case.prompt_ids);
            packed.last_row(segment).unwrap()
        })
        .collect();
    let logits = decoder.logits(&decoder.hidden(&packed, &ends).unwrap()).unwrap();
    let mut total = 0.0;
    for (row, case) in oracle.next_token_top10.iter().enumerate() {
        let logits: Vec<f32> = logits.i(row).unwrap().to_vec1().unwrap();
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let norm = logits.iter().map(|x| (x - highest).exp()).sum::<f32>().ln() + highest;
        for candidate in &case.top10 {
            let found = logits[candidate.id as usize] - norm;
            let tolerance = if candidate.logprob > -6.0 { 0.5 } else { 0.8 };
            assert!((found - candidate.logprob).abs() < tolerance, "{row}: {found} {}", candidate.logprob);
            total += (found - candidate.logprob).abs();
        }
    }
    assert!(total / 160.0 < 0.13, "mean difference {}", total / 160.0);
}

/// A small Llama with seeded random weights, in the way Hugging Face stores it, and a tokenizer that knows the answers.
pub struct TinyModel {
    folder: tempfile::TempDir,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

const TINY_CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 264, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "eos_token_id": 0}"#;

impl TinyModel {
    pub fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|_| rng.random_range(-0.3..0.3f32)).collect();
            tensors.insert(name, (shape.to_vec(), values));
        };
        add("model.embed_tokens.weight".into(), &[264, 32]);
        add("model.norm.weight".into(), &[32]);
        for layer in 0..2 {
            for (module, shape) in [
                ("input_layernorm", &[32][..]),
                ("post_attention_layernorm", &[32]),
                ("self_attn.q_proj", &[32, 32]),
                ("self_attn.k_proj", &[16, 32]),
                ("self_attn.v_proj", &[16, 32]),
                ("self_attn.o_proj", &[32, 32]),
                ("mlp.gate_proj", &[48, 32]),
                ("mlp.up_proj", &[48, 32]),
                ("mlp.down_proj", &[32, 48]),
            ] {
                add(format!("model.layers.{layer}.{module}.weight"), shape);
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let model = Self { folder, tensors };
        model.write("config.json", TINY_CONFIG);
        model.write("tokenizer.json", byte_tokenizer(&["yes", "no"]));
        model.save();
        model
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    fn save(&self) {
        let names: Vec<&String> = self.tensors.keys().collect();
        self.write("model.safetensors", self.serialise(&names, false));
    }

    /// Some of the tensors as a safetensors file, as f32 or as bf16.
    fn serialise(&self, names: &[&String], bf16: bool) -> Vec<u8> {
        let bytes: Vec<Vec<u8>> = names
            .iter()
            .map(|name| {
                let values = self.tensors[*name].1.iter();
                if bf16 {
                    values.flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect()
                } else {
                    values.flat_map(|value| value.to_le_bytes()).collect()
                }
            })
            .collect();
        let dtype = if bf16 { Dtype::BF16 } else { Dtype::F32 };
        let views = names.iter().zip(&bytes).map(|(name, bytes)| {
            (name.as_str(), TensorView::new(dtype, self.tensors[*name].0.clone(), bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    fn spec(&self) -> LmJudgeSpec {
        LmJudgeSpec { window_tokens: 100, ..LmJudgeSpec::new(self.path()) }
    }

    fn refused(&self, expect: &str) {
        refused(&self.spec(), expect);
    }
}

pub fn refused(spec: &LmJudgeSpec, expect: &str) {
    let error = LmJudge::load(spec).err().expect("a bad model must be refused");
    assert!(format!("{error:#}").contains(expect), "{error:#}");
    assert_eq!(exit_of(&error), Exit::Usage, "{error:#}");
}

/// A byte-level tokenizer in which some words are tokens of their own, with and without a blank before them.
pub(crate) fn byte_tokenizer(words: &[&str]) -> String {
    let mut vocab: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    vocab.sort_unstable();
    let mut merges: Vec<(String, String)> = Vec::new();
    for word in words {
        for start in ["", "Ġ"] {
            let mut whole = start.to_owned();
            for c in word.chars() {
                let longer = format!("{whole}{c}");
                if !whole.is_empty() && !vocab.contains(&longer) {
                    merges.push((whole.clone(), c.to_string()));
                    vocab.push(longer.clone());
                }
                whole = longer;
            }
        }
    }
    let vocab: Vec<(String, u32)> = vocab.into_iter().zip(0..).collect();
    let model = BPE::builder().vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.to_string(false).unwrap()
}

#[test]
fn a_model_reads_the_same_from_one_file_or_shards() {
    let model = TinyModel::new();
    let read = || {
        let decoder = Decoder::load(&Checkpoint::open(model.path()).unwrap(), &Device::Cpu, Precision::F32).unwrap();
        let mut packed = Packed::default();
        packed.push(None, &[1, 2, 3, 4]);
        decoder.hidden(&packed, &[3]).unwrap().to_vec2::<f32>().unwrap()
    };
    let single = read();
    let names: Vec<&String> = model.tensors.keys().collect();
    let (first, second) = names.split_at(5);
    model.write("a.safetensors", model.serialise(first, false));
    model.write("b.safetensors", model.serialise(second, false));
    let map: BTreeMap<_, _> = names
        .iter()
        .map(|name| (*name, if first.contains(name) { "a.safetensors" } else { "b.safetensors" }))
        .collect();
    model.write("model.safetensors.index.json", serde_json::json!({"metadata": {}, "weight_map": map}).to_string());
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    assert_eq!(read(), single);
    // In bf16 the same weights are known to 8 bits.
    model.write("a.safetensors", model.serialise(first, true));
    model.write("b.safetensors", model.serialise(second, true));
    let rounded = read();
    assert_ne!(rounded, single);
    assert!(rounded[0].iter().zip(&single[0]).all(|(a, b)| (a - b).abs() < 0.05), "{rounded:?} {single:?}");
}

#[test]
fn a_bad_model_is_one_clear_error() {
    let model = TinyModel::new();
    let whole = std::fs::read(model.path().join("model.safetensors")).unwrap();
    for cut in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        model.write("model.safetensors", &whole[..cut]);
        model.refused("truncated or corrupt");
    }
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    model.refused("has no `model.safetensors`");
    model.write("model.safetensors", &whole);

    model.write("config.json", TINY_CONFIG.replace("llama", "mamba"));
    model.refused("architecture `mamba` is not supported");
    model.write("config.json", TINY_CONFIG.replace("\"hidden_size\": 32", "\"hidden_size\": 64"));
    model.refused("the configuration asks for [");
    model.write("config.json", TINY_CONFIG.replace("true", "false"));
    model.refused("lacks the tensor `lm_head.weight`");
    model.write("config.json", TINY_CONFIG.replace("512", "128"));
    model.refused("the model's context is 128");
    model.write("config.json", "{");
    model.refused("not a JSON object");
    std::fs::remove_file(model.path().join("config.json")).unwrap();
    model.refused("cannot read");
    model.write("config.json", TINY_CONFIG);

    model.write("tokenizer.json", byte_tokenizer(&["yes"]));
    model.refused("no single token for `no`");
    model.write("tokenizer.json", "{}");
    model.refused("truncated or corrupt");
    std::fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    model.refused("has no `tokenizer.json`");
    model.write("tokenizer.json", byte_tokenizer(&["yes", "no"]));

    refused(&LmJudgeSpec { template: "no places".into(), ..model.spec() }, "`{document}` exactly once");
    refused(&LmJudgeSpec { template: "{question} {document}".into(), ..model.spec() }, "`{question}` exactly once");
    refused(&LmJudgeSpec { window_tokens: 0, ..model.spec() }, "windows of 0 tokens");
    refused(&LmJudgeSpec { model: model.path().join("nowhere"), ..model.spec() }, "no model at");
    refused(&LmJudgeSpec { model: model.path().join("config.json"), ..model.spec() }, "is not a GGUF file");
    LmJudge::load(&model.spec()).unwrap();
}

#[test]
fn a_bad_gguf_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let architecture = Value::String("llama".into());
    let other = Value::String("mamba".into());
    let write = |metadata: &[(&str, &Value)], tensors: &[(&str, &QTensor)]| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        gguf_file::write(&mut bytes, metadata, tensors).unwrap();
        std::fs::write(&path, bytes.into_inner()).unwrap();
    };
    let spec = LmJudgeSpec::new(&path);
    write(&[], &[]);
    refused(&spec, "`general.architecture`");
    write(&[("general.architecture", &other)], &[]);
    refused(&spec, "architecture `mamba`");
    write(&[("general.architecture", &architecture)], &[]);
    refused(&spec, "`llama.attention.head_count`");
    let size = Value::U32(2);
    let sizes: Vec<(&str, &Value)> =
        ["llama.attention.head_count", "llama.embedding_length", "llama.block_count", "llama.feed_forward_length"]
            .into_iter()
            .map(|key| (key, &size))
            .chain([("general.architecture", &architecture)])
            .collect();
    write(&sizes, &[]);
    refused(&spec, "lacks the tensor `token_embd.weight`");
}

#[test]
fn a_truncated_gguf_is_one_clear_error() {
    let Some((path, _)) = smollm2() else { return };
    let whole = std::fs::read(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    for cut in [0, 3, 4, 11, 1000, 100_000, 3_000_000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        refused(&LmJudgeSpec::new(&path), if cut < 4 { "is not a GGUF file" } else { "truncated or corrupt" });
    }
}

/// Real texts of different lengths.
fn math_documents(count: usize) -> Option<Vec<String>> {
    let Ok(folder) = std::fs::read_dir(format!("{SHARED}/math_docs")) else {
        eprintln!("skipped: no documents (no ../shared/data)");
        return None;
    };
    let mut shards: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    shards.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    shards.sort();
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&shards[0]).unwrap()).unwrap();
    let batches: Vec<RecordBatch> = reader.with_limit(count).build().unwrap().map(Result::unwrap).collect();
    let texts = batches.iter().flat_map(|batch| {
        let column = batch.column_by_name("text").unwrap().as_string::<i32>();
        (0..column.len()).map(|row| column.value(row).to_owned()).collect::<Vec<_>>()
    });
    Some(texts.collect())
}

/// One plain prompt per question, each read on its own, as the judge's packed one must be.
fn plain_scores(spec: &LmJudgeSpec, text: &str) -> [f32; 4] {
    let checkpoint = Checkpoint::open(&spec.model).unwrap();
    let (tokenizer, decoder) =
        (checkpoint.tokenizer().unwrap(), Decoder::load(&checkpoint, &spec.device, spec.precision).unwrap());
    let of = |words: &[&str]| -> Vec<u32> { words.iter().filter_map(|word| tokenizer.single(word).unwrap()).collect() };
    let yes = of(&["yes", "Yes", "YES", " yes", " Yes", " YES"]);
    let no = of(&["no", "No", "NO", " no", " No", " NO"]);
    let document = tokenizer.encode(text).unwrap();
    std::array::from_fn(|behavior| {
        let content = spec.template.replace("{question}", &spec.questions[behavior]);
        let prompt = match tokenizer.chat() {
            Some(chat) => chat.render(&[Message { role: "user", content }], true).unwrap(),
            None => content,
        };
        let (before, after) = prompt.split_once("{document}").unwrap();
        let tokens = [
            tokenizer.encode_markup(before).unwrap(),
            document[..document.len().min(spec.window_tokens)].to_vec(),
            tokenizer.encode_markup(after).unwrap(),
        ]
        .concat();
        let mut packed = Packed::default();
        packed.push(None, &tokens);
        let logits = decoder.logits(&decoder.hidden(&packed, &[tokens.len() - 1]).unwrap()).unwrap();
        let logits: Vec<f32> = logits.i(0).unwrap().to_vec1().unwrap();
        let sum = |tokens: &[u32]| tokens.iter().map(|&token| logits[token as usize].exp()).sum::<f32>();
        sum(&yes) / (sum(&yes) + sum(&no))
    })
}

/// What this processor can multiply in.
pub(crate) fn precisions() -> impl Iterator<Item = Precision> {
    [Precision::F32, Precision::Bf16, Precision::Int8].into_iter().filter(|precision| precision.usable())
}

pub fn judged(judge: &mut LmJudge, texts: &[&str]) -> Vec<Labels> {
    judge.judge(texts).unwrap().into_iter().map(Result::unwrap).collect()
}

/// Packed and plain agree up to rounding; alone, together, in any order and any batch, labels are equal to the last bit.
fn check_packing(spec: &LmJudgeSpec, texts: &[String]) {
    let tolerance = match spec.precision {
        Precision::F32 => 1e-5,
        // Eight bits of mantissa, and sums in another order.
        Precision::Bf16 => 0.03,
        // A number that lies between two bytes may round to either; on a real model that moves a score as much as the
        // rounding itself does.
        Precision::Int8 => 0.15,
    };
    let mut judge = LmJudge::load(&LmJudgeSpec { max_windows: 1, ..spec.clone() }).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = judged(&mut judge, &texts);
    for (text, labels) in texts.iter().zip(&together) {
        for (mark, plain) in labels.marks.iter().zip(plain_scores(spec, text)) {
            assert!((mark.score - plain).abs() < tolerance, "packed {} plain {plain}", mark.score);
        }
        assert_eq!(judged(&mut judge, &[text]), std::slice::from_ref(labels), "alone or with others");
    }
    let reversed: Vec<&str> = texts.iter().rev().copied().collect();
    assert!(judged(&mut judge, &reversed).iter().rev().eq(&together), "order matters");
    let mut small = LmJudge::load(&LmJudgeSpec { max_windows: 1, batch_tokens: 1, ..spec.clone() }).unwrap();
    assert_eq!(judged(&mut small, &texts), together, "the batch's size matters");
    assert_eq!(small.identity(), judge.identity());
}

#[test]
fn packed_questions_equal_plain_prompts_in_a_tiny_model() {
    let model = TinyModel::new();
    let texts =
        ["Check: 3 + 4 = 7.", "a", "naïve 😀 text\n\nwith lines, and more of them than fit one window of tokens."];
    for precision in precisions() {
        check_packing(&LmJudgeSpec { window_tokens: 50, precision, ..model.spec() }, &texts.map(String::from));
    }
}

#[test]
fn packed_questions_equal_plain_prompts_on_real_text() {
    let (Some((path, _)), Some(texts)) = (smollm2(), math_documents(3)) else { return };
    for precision in precisions() {
        check_packing(&LmJudgeSpec { window_tokens: 300, precision, ..LmJudgeSpec::new(&path) }, &texts);
    }
}

#[test]
fn what_was_read_is_told() {
    let model = TinyModel::new();
    let text = "é".repeat(130) + "abcde";
    let read = |max_windows| {
        let mut judge = LmJudge::load(&LmJudgeSpec { max_windows, ..model.spec() }).unwrap();
        let labels = judged(&mut judge, &[&text]).remove(0);
        assert!(labels.marks.iter().all(|mark| mark.count <= labels.windows));
        (labels.windows, labels.tokens_read, labels.chars_read)
    };
    assert_eq!(read(0), (3, 265, 135));
    assert_eq!(read(2), (2, 200, 100));
    let mut judge = LmJudge::load(&model.spec()).unwrap();
    let answers = judge.judge(&["", "text", " \n\t"]).unwrap();
    assert_eq!(answers[0], Err(Unjudgeable("empty text".into())));
    assert!(answers[1].is_ok());
    assert_eq!(answers[2], answers[0]);
    assert!(judge.answer_mass("text").unwrap().iter().all(|mass| *mass > 0.0 && *mass < 0.5));
}

#[test]
fn a_judge_is_known_by_what_shapes_its_answers() {
    let model = TinyModel::new();
    let identity = |spec: LmJudgeSpec| LmJudge::load(&spec).unwrap().identity().clone();
    let base = identity(model.spec());
    assert_eq!(base.kind, "lm");
    assert_eq!(base, identity(LmJudgeSpec { batch_tokens: 7, ..model.spec() }));
    let mut questions = model.spec().questions;
    questions[3].push('!');
    for changed in [
        LmJudgeSpec { questions, ..model.spec() },
        LmJudgeSpec { window_tokens: 99, ..model.spec() },
        LmJudgeSpec { max_windows: 1, ..model.spec() },
        LmJudgeSpec { thresholds: [0.5, 0.5, 0.5, 0.4], ..model.spec() },
    ] {
        assert_ne!(base.prompt_hash, identity(changed).prompt_hash);
    }
    let mut other = TinyModel::new();
    other.tensors.get_mut("model.norm.weight").unwrap().1[0] += 1.0;
    other.save();
    assert_ne!(base.revision, identity(other.spec()).revision);
    assert_eq!(base.revision, identity(TinyModel::new().spec()).revision);
}

/// The untrained Llama of verl's tests, written by transformers, in bf16.
#[test]
fn packing_holds_in_a_folder_that_transformers_wrote() {
    let path = format!("{SHARED}/models/verl_arithmetic_sequence/model");
    if !Path::new(&path).is_dir() {
        eprintln!("skipped: no model of verl's (no ../shared/data)");
        return;
    }
    let decoder = Decoder::load(&Checkpoint::open(Path::new(&path)).unwrap(), &Device::Cpu, Precision::F32).unwrap();
    let before: Vec<u32> = (0..40).map(|i| i * 7 % 16).collect();
    let mut packed = Packed::default();
    let trunk = packed.push(None, &before);
    let branches: Vec<Vec<u32>> = vec![vec![3, 1, 4, 1, 5], vec![9, 2], vec![6]];
    let ends: Vec<usize> = branches
        .iter()
        .map(|branch| {
            let segment = packed.push(Some(trunk), branch);
            packed.last_row(segment).unwrap()
        })
        .collect();
    let together = decoder.logits(&decoder.hidden(&packed, &ends).unwrap()).unwrap();
    for (row, branch) in branches.iter().enumerate() {
        let mut plain = Packed::default();
        plain.push(None, &[&before[..], branch].concat());
        let alone = decoder.logits(&decoder.hidden(&plain, &[plain.len() - 1]).unwrap()).unwrap();
        let alone: Vec<f32> = alone.i(0).unwrap().to_vec1().unwrap();
        let together: Vec<f32> = together.i(row).unwrap().to_vec1().unwrap();
        for (a, b) in alone.iter().zip(&together) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
    let mut beyond = Packed::default();
    beyond.push(None, &[16]);
    assert!(decoder.hidden(&beyond, &[0]).unwrap_err().to_string().contains("token 16 is beyond"));
}
