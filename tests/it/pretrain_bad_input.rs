//! Pretraining on bad input: one clear error each, and nothing overwritten.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::pretrain::{RECIPE, workplace};
use super::program::{Ended, Workplace};

/// Runs the recipe with something replaced.
fn run(workplace: &Workplace, name: &str, replaced: &[(&str, &str)]) -> Ended {
    let mut recipe = RECIPE.to_owned();
    for (from, to) in replaced {
        assert!(recipe.contains(from), "{from}");
        recipe = recipe.replace(from, to);
    }
    workplace.put(&format!("{name}.toml"), recipe.as_bytes());
    workplace.call(&["run", &format!("{name}.toml"), "--run-dir", name])
}

/// The recipe with a checkpoint in place of sizes.
fn from(workplace: &Workplace, name: &str, folder: &str, more: &[(&str, &str)]) -> Ended {
    let sizes = "[pretrain.model]\nlayers = 1\nhidden = 16\nheads = 2\ntokenizer = \"words\"\nvocabulary = 300\n";
    let begin = format!("[pretrain]\nfrom = \"{folder}\"\n");
    run(workplace, name, &[&[(sizes, ""), ("[pretrain]\n", begin.as_str())], more].concat())
}

#[test]
fn what_the_recipe_says_wrongly_is_told_with_its_line() {
    let workplace = workplace(RECIPE);
    let check = |from: &str, to: &str, sentence: &str| {
        run(&workplace, "wrong", &[(from, to)]).fails(2, sentence);
        assert!(!workplace.path("wrong").exists(), "nothing was begun");
    };
    check("[pretrain]\n", "[pretrain]\nfrom = \"x\"\n", "expected either the key `from` with a checkpoint or a table");
    check("epochs = 2", "epochs = 2\ntokens = 5", "expected one of `epochs` and `tokens`");
    check("data/text.jsonl", "curate.rich", "expected a table `[curate]` in this recipe, or a path");
    check("data/text.jsonl", "data/none-*.jsonl", "`data/none-*.jsonl` matches no file");
    check("tokens = 256", "tokens = 16", "expected at least `context`");
    check("heads = 2", "heads = 2\narchitecture = \"qwen2\"", "`words` needs another architecture");
    check("heads = 2", "heads = 3", "expected a number of heads that divides `hidden`");
    check("keep-best = true", "export = \"best\"", "`best` needs `keep-best = true`");
    check("learning-rate = 1e-2", "learning-rate = -1.0", "expected a number from 0 to 10");
    check("tokenizer = \"words\"", "tokenizer = \"nowhere.json\"", "`nowhere.json` does not exist");
}

#[test]
fn an_empty_corpus_is_refused() {
    let workplace = workplace(RECIPE);
    workplace.put("data/empty.jsonl", b"");
    workplace.put("data/blank.jsonl", b"{\"text\": \"\"}\n{\"text\": null}\n{\"other\": 1}\n");
    for name in ["empty", "blank"] {
        let source = format!("data/{name}.jsonl");
        run(&workplace, name, &[("data/text.jsonl", &source)]).fails(65, "there is no text to make a tokenizer from");
    }
    run(&workplace, "whole", &[]).expect(0);
    from(&workplace, "bare", "whole/pretrain/model", &[("data/text.jsonl", "data/blank.jsonl")])
        .fails(65, "`pretrain.data.text` (`data/blank.jsonl`) has nothing to train on: of 3 documents none is left");
}

#[test]
fn long_documents_are_cut_and_long_completions_are_not() {
    let workplace = workplace(RECIPE);
    let ended = run(&workplace, "cut", &[("context = 32", "context = 16")]).expect(0);
    assert!(ended.stderr.contains("documents are longer than 16 tokens and are cut into pieces"), "{}", ended.stderr);
    let long = format!(
        "{{\"query\": \"a\", \"completion\": \"{}\"}}\n{{\"query\": \"a\", \"completion\": \"b\"}}\n",
        "b ".repeat(40)
    );
    workplace.put("data/long.jsonl", long.as_bytes());
    let data = ("data/text.jsonl", "data/long.jsonl");
    run(&workplace, "refused", &[data])
        .fails(65, "1 of 2 completions of `pretrain.data.text` are longer than the context of 32 tokens")
        .hints("long-completions");
    run(&workplace, "dropped", &[data, ("epochs = 2", "epochs = 2\nlong-completions = \"drop\"")]).expect(0);
    assert_eq!(workplace.counts("dropped", "pretrain"), [2, 1, 1, 0]);
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let workplace = workplace(RECIPE);
    run(&workplace, "whole", &[]).expect(0);
    run(&workplace, "other", &[("\"words\"", "\"bpe\"")]).expect(0);
    let model = |run: &str, name: &str| std::fs::read(workplace.path(run).join("pretrain/model").join(name)).unwrap();
    let put = |folder: &str, name: &str, bytes: &[u8]| workplace.put(&format!("{folder}/{name}"), bytes);
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        for folder in ["mixed", "gpt", "nan"] {
            put(folder, name, &model("whole", name));
        }
    }
    from(&workplace, "nowhere", "no-such-folder", &[]).fails(2, "no model at `no-such-folder`");
    put("gpt", "config.json", b"{\"model_type\": \"gpt2\"}");
    from(&workplace, "architecture", "gpt", &[]).fails(2, "the model's architecture `gpt2` is not supported");
    put("mixed", "tokenizer.json", &model("other", "tokenizer.json"));
    from(&workplace, "vocabulary", "mixed", &[]).fails(2, "the tokenizer of `mixed` has").hints("another model");
    from(
        &workplace,
        "context",
        "whole/pretrain/model",
        &[("context = 32", "context = 33"), ("micro-tokens = 64", "micro-tokens = 99")],
    )
    .fails(2, "the model was made for at most 32 tokens, not 33");

    // Weights that are no numbers end the run at once.
    let mut weights = model("whole", "model.safetensors");
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    put("nan", "model.safetensors", &weights);
    from(&workplace, "not-a-number", "nan", &[]).fails(1, "the held-out loss of `text` is NaN after step 0");
    from(&workplace, "not-seen", "nan", &[("held-out-share = 0.1", "held-out-share = 0.0")])
        .fails(1, "the loss of step 1 is NaN; its documents are `data/text.jsonl row")
        .hints("learning-rate");
}

#[test]
fn another_recipe_does_not_go_on_from_a_checkpoint() {
    let workplace = workplace(RECIPE);
    run(&workplace, "run", &[]).expect(0);
    let before = workplace.files("run");
    let hidden = RECIPE.replace("hidden = 16", "hidden = 32");
    workplace.put("run.toml", hidden.as_bytes());
    workplace
        .call(&["run", "run.toml", "--run-dir", "run"])
        .fails(2, "belongs to another plan; what differs: `pretrain.model.hidden`");
    workplace.assert_same("run", &before);
    // With `--replan` it starts over, and shares what is equal.
    let ended = workplace.call(&["run", "run.toml", "--run-dir", "run", "--replan"]).expect(0);
    assert!(!ended.stderr.contains("going on from step") && !ended.stderr.contains("tokenising"), "{}", ended.stderr);
    workplace.verify("run");
    workplace.call(&["run", "run.toml", "--run-dir", "fresh"]).expect(0);
    workplace.assert_same("run", &workplace.files("fresh"));
}

#[test]
fn a_model_that_does_not_fit_into_memory_is_refused() {
    let workplace = workplace(RECIPE);
    let sizes = ("hidden = 16\nheads = 2", "hidden = 65536\nheads = 512");
    run(&workplace, "run", &[("layers = 1", "layers = 512"), sizes])
        .fails(2, "`pretrain` would take about")
        .hints("smaller model");
}
