//! The estimate of token counts against a real tokenizer.

use four_habits::data::token_count::TokenCounter;

use crate::math_docs::{math_docs, shared};

#[test]
fn the_estimate_is_near_the_tokenizer() {
    let Some(path) = shared("token counts", "models/smollm2_tokenizer_rebuilt_from_gguf.json") else { return };
    let documents = math_docs("token counts").unwrap();
    let tokenizer = TokenCounter::load(&path).unwrap();
    assert!(tokenizer.name().starts_with("smollm2_tokenizer_rebuilt_from_gguf@"), "{}", tokenizer.name());

    let (mut estimated, mut exact, mut errors) = (0, 0, Vec::new());
    for document in documents.iter().step_by(5) {
        let counts = [&TokenCounter::Pieces, &tokenizer].map(|counter| u64::from(counter.count(&document.text)));
        estimated += counts[0];
        exact += counts[1];
        errors.push(counts[0].abs_diff(counts[1]) as f64 / counts[1].max(1) as f64);
    }
    errors.sort_unstable_by(f64::total_cmp);
    let [median, nine_in_ten] = [0.5, 0.9].map(|share| errors[(errors.len() as f64 * share) as usize]);
    assert!((estimated as f64 / exact as f64 - 1.0).abs() < 0.02, "{estimated} estimated, {exact} exact");
    assert!(median < 0.03 && nine_in_ten < 0.07, "errors: median {median}, nine in ten below {nine_in_ten}");
}

/// llama.cpp's own counts of 119 texts in many scripts and notations.
#[test]
fn the_tokenizer_counts_as_llama_cpp_does() {
    let Some(path) = shared("token counts", "models/smollm2_tokenizer_rebuilt_from_gguf.json") else { return };
    let oracle = shared("token counts", "oracles/llamacpp_smollm2_135m_q4_1.json").unwrap();
    let oracle: serde_json::Value = serde_json::from_slice(&std::fs::read(oracle).unwrap()).unwrap();
    let tokenizer = TokenCounter::load(&path).unwrap();
    for text in oracle["tokenize"].as_array().unwrap() {
        let (text, ids) = (text["text"].as_str().unwrap(), text["ids"].as_array().unwrap());
        assert_eq!(tokenizer.count(text) as usize, ids.len(), "`{text}`");
    }
}

#[test]
fn truncation_and_padding_in_the_file_are_not_followed() {
    let Some(path) = shared("token counts", "models/smollm2_tokenizer_rebuilt_from_gguf.json") else { return };
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
    });
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    serde_json::to_writer(std::fs::File::create_new(&path).unwrap(), &json).unwrap();
    let tokenizer = TokenCounter::load(&path).unwrap();
    assert_eq!(["one", "one two three four five six"].map(|text| tokenizer.count(text)), [1, 6]);
    assert!(tokenizer.name().starts_with(&*folder.path().file_name().unwrap().to_string_lossy()));
}
