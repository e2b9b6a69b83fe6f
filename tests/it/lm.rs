//! The language model against llama.cpp: the same tokens, and next-token probabilities close to its own.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests fail by panicking and say what they skip")]

use candle_core::{Device, IndexOp};
use four_habits::lm::{Checkpoint, Decoder, Packed, TextTokenizer};
use serde::Deserialize;
use std::path::PathBuf;

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");

#[derive(Deserialize)]
struct Oracle {
    tokenize: Vec<Tokenized>,
    next_token_top10: Vec<NextToken>,
}

#[derive(Deserialize)]
struct Tokenized {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct NextToken {
    prompt_ids: Vec<u32>,
    top10: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Candidate {
    id: u32,
    logprob: f32,
}

/// SmolLM2-135M-Instruct as `.ci/models` fetches it, and what llama.cpp says of it; `None` with a note where either is absent.
fn smollm2() -> Option<(PathBuf, Oracle)> {
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
    let decoder = Decoder::load(&Checkpoint::open(&path).unwrap(), &Device::Cpu).unwrap();
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
