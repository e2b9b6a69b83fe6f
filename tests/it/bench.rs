//! `pipeline bench`: figures that add up, and one error for each bad flag.

use crate::lm::TinyModel;
use crate::program::Workplace;

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's input needs no commit")]
fn a_judge_is_measured() {
    let (place, model) = (Workplace::new(), TinyModel::new());
    let lines: Vec<String> =
        (0..20).map(|i| format!("{{\"text\": \"Document {i}: check that {i} + 1 is right.\"}}")).collect();
    let docs = place.path("docs.jsonl");
    std::fs::write(&docs, lines.join("\n") + "\n\n{\"text\": \" \"}\n").unwrap();
    let (docs, folder) = (docs.to_string_lossy().into_owned(), model.path().to_string_lossy().into_owned());
    let base = ["bench", "judge", "--docs", &docs, "--max-doc-tokens", "20"];
    let outcome = place.call(&[&base[..], &["--model", &folder, "--json", "--repeat", "2"]].concat()).expect(0).json();
    assert_eq!(outcome["documents"], 20);
    assert_eq!(outcome["document_tokens"], 400);
    assert_eq!(outcome["scores"].as_array().unwrap().len(), 20);
    for key in
        ["documents_per_second", "tokens_per_second", "prompt_tokens_per_second", "flops", "peak_flops_per_second"]
    {
        assert!(outcome[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let sum = |values: &serde_json::Value, key: Option<&str>| -> f64 {
        let number = |value: &serde_json::Value| key.map_or(value, |key| &value[key]).as_f64().unwrap();
        values.as_array().unwrap().iter().map(number).sum()
    };
    let (parts, whole) = (sum(&outcome["breakdown"], Some("seconds")), sum(&outcome["seconds"], None));
    assert!((parts - whole).abs() < 1e-6, "{parts} {whole}");
    assert_eq!(outcome["seconds"].as_array().unwrap().len(), 2);

    let refused = |more: &[&str], expect: &str| {
        let outcome = place.call(&[&base[..], more].concat());
        let outcome = outcome.expect(2);
        assert!(outcome.stderr.contains(expect), "{}", outcome.stderr);
    };
    refused(&[], "--model <PATH>");
    refused(&["--model", &folder, "--shape", "qwen2.5-0.5b"], "cannot be used with");
    refused(&["--shape", "gpt-5"], "`gpt-5` is not a shape");
    refused(&["--model", &folder, "--limit", "0"], "--limit");
    refused(&["--model", &folder, "--precision", "f64"], "f64");
    refused(&["--model", "nowhere"], "no model at `nowhere`");
    place.call(&["bench", "judge", "--model", &folder, "--docs", "docs.txt"]).expect(2);
}

#[test]
fn a_step_of_ppo_is_measured() {
    let place = Workplace::new();
    let base = ["bench", "ppo", "--prompts", "3", "--samples", "2", "--new-tokens", "10", "--repeat", "2"];
    let outcome = place.call(&[&base[..], &["--json"]].concat()).expect(0).json();
    assert_eq!((outcome["actor_updates"].as_u64(), outcome["critic_updates"].as_u64()), (Some(2), Some(2)));
    let phases: Vec<&str> =
        outcome["phases"].as_array().unwrap().iter().map(|one| one["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["rollout", "reward", "reference", "values", "critic", "actor"]);
    let sum = |values: &serde_json::Value, key: Option<&str>| -> f64 {
        let number = |value: &serde_json::Value| key.map_or(value, |key| &value[key]).as_f64().unwrap();
        values.as_array().unwrap().iter().map(number).sum()
    };
    let (parts, whole) = (sum(&outcome["phases"], Some("seconds")), sum(&outcome["seconds"], None));
    assert!(0.0 < parts && parts <= whole, "{parts} {whole}");
    assert!(place.call(&base).expect(0).stdout.contains("a step takes"));
    let refused = |more: &[&str], expect: &str| {
        let outcome = place.call(&[&base[..], more].concat()).expect(2);
        assert!(outcome.stderr.contains(expect), "{}", outcome.stderr);
    };
    refused(&["--shape", "gpt-5"], "`gpt-5` is not a shape");
    refused(&["--precision", "int8"], "`int8`");
    refused(&["--prompt-tokens", "131072"], "do not fit");
}

#[test]
fn decoding_is_measured() {
    let (place, model) = (Workplace::new(), TinyModel::new());
    let folder = model.path().to_string_lossy().into_owned();
    let base = ["bench", "generate", "--model", &folder, "--prompt-tokens", "5", "--new-tokens", "7"];
    let json = ["--json", "--batch", "1,3", "--repeat", "2"];
    let outcome = place.call(&[&base[..], &json].concat()).expect(0).json();
    let batches = outcome["batches"].as_array().unwrap();
    assert_eq!(batches.iter().map(|batch| batch["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    for batch in batches {
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let seconds = numbers(&batch["seconds"]);
        assert_eq!(seconds.len(), 2);
        let median = seconds.iter().copied().fold(0.0, f64::max);
        let rate = 7.0 * batch["batch"].as_f64().unwrap() / median;
        assert!((batch["generated_tokens_per_second"].as_f64().unwrap() / rate - 1.0).abs() < 1e-9);
        let parts: f64 =
            batch["breakdown"].as_array().unwrap().iter().map(|part| part["seconds"].as_f64().unwrap()).sum();
        assert!((parts - seconds.iter().sum::<f64>()).abs() < 1e-6);
        assert!(batch["flops"].as_f64().unwrap() > 0.0);
    }
    let table = place.call(&[&base[..], &["--batch", "2", "--repeat", "1"]].concat()).expect(0).stdout;
    assert!(table.contains("tokens/s") && table.contains("at batch 2:"), "{table}");

    let refused = |arguments: &[&str], expect: &str| {
        let ended = place.call(&[&["bench", "generate"], arguments].concat()).expect(2);
        assert!(ended.stderr.contains(expect), "{}", ended.stderr);
    };
    refused(&["--shape", "mini-1t"], "`mini-1t` is not a shape");
    refused(&["--model", &folder, "--new-tokens", "512"], "the model's context is 512");
    refused(&["--model", &folder, "--device", "cuda"], "text is generated on the CPU only");
    refused(&["--model", &folder, "--batch", "0"], "--batch");
}

#[test]
fn training_is_measured() {
    let place = Workplace::new();
    let base = ["bench", "train", "--batch", "2", "--length", "64", "--steps", "3"];
    let outcome = place.call(&[&base[..], &["--shape", "mini-10m", "--json"]].concat()).expect(0).json();
    assert_eq!((&outcome["batch"], &outcome["length"]), (&2.into(), &64.into()));
    assert_eq!(outcome["parameters"], 10_818_432);
    let number = |key: &str| outcome[key].as_f64().unwrap();
    for key in ["tokens_per_second", "median_step_seconds", "flops", "peak_flops_per_second", "share_of_peak"] {
        assert!(number(key) > 0.0, "{key}");
    }
    assert!((number("tokens_per_second") * number("median_step_seconds") - 128.0).abs() < 1e-6);
    let seconds: Vec<f64> = outcome["seconds"].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
    assert_eq!(seconds.len(), 3);
    let rows = outcome["breakdown"].as_array().unwrap();
    let sum = |key: &str| rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
    assert!((sum("seconds") - seconds.iter().sum::<f64>()).abs() < 1e-6);
    assert!((sum("flops") - number("flops")).abs() < 1.0);
    // Every part that has a place in a step took time.
    assert!(rows.iter().all(|row| row["part"].is_null() || row["seconds"].as_f64().unwrap() > 0.0), "{rows:?}");
    // Weights, gradients and moments are most of it here, and what is estimated is what is taken.
    let share = number("memory_of_estimate");
    assert!((0.8..=1.2).contains(&share), "{share} of the estimate");

    let refused = |more: &[&str], expect: &str| {
        let outcome = place.call(&[&base[..], more].concat()).expect(2);
        assert!(outcome.stderr.contains(expect), "{}", outcome.stderr);
    };
    refused(&[], "--model <PATH>");
    refused(&["--shape", "gpt-5"], "`gpt-5` is not a shape");
    refused(&["--shape", "mini-10m", "--precision", "int8"], "int8");
    refused(&["--model", "nowhere"], "no model at `nowhere`");
}
