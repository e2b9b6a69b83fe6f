//! `pipeline export --for verl`: a folder that verl's options, its loader's columns and a Python of one's own can be held against.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says when it is skipped")]

use super::ppo::{RECIPE, workplace};
use super::program::Workplace;
use arrow::array::{Array, AsArray, RecordBatch};
use four_habits::countdown::compat;
use four_habits::countdown::puzzle::Puzzle;
use four_habits::countdown::verdict::{self, Reward};
use four_habits::data::sidecar;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

/// Every option of verl 0.7.0's PPO trainer.
const OPTIONS: &str = include_str!("../golden/verl/options-0.7.0.txt");

fn python() -> Option<String> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv/bin/python");
    let found = [own, "python3"].into_iter().find(|python| {
        Command::new(python)
            .args(["-c", "import ast"])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    found.map(str::to_owned)
}

/// What `launch.sh` hands to the trainer, as the program that it starts sees it.
fn overrides(workplace: &Workplace, folder: &str) -> BTreeMap<String, String> {
    workplace.put("stub/python3", b"#!/bin/sh\nprintf '%s\\n' \"$@\"\n");
    let stub = workplace.path("stub");
    let made_executable = Command::new("chmod").arg("+x").arg(stub.join("python3")).status().unwrap();
    assert!(made_executable.success());
    let path = format!("{}:{}", stub.display(), std::env::var("PATH").unwrap());
    let script = workplace.path(folder).join("launch.sh");
    let output = Command::new("bash").arg(script).arg("trainer.nnodes=2").env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let mut words = said.lines();
    assert_eq!((words.next(), words.next()), (Some("-m"), Some("verl.trainer.main_ppo")));
    let known: BTreeSet<&str> = OPTIONS.lines().collect();
    let mut found = BTreeMap::new();
    for word in words {
        let (key, value) = word.split_once('=').unwrap();
        assert!(known.contains(key), "verl has no option `{key}`");
        found.insert(key.to_owned(), value.to_owned());
    }
    found
}

fn check_options(found: &BTreeMap<String, String>, expect: &[(&str, &str)]) {
    for (key, value) in expect {
        assert_eq!(found.get(*key).map(String::as_str), Some(*value), "{key}");
    }
}

fn prompts(batch: &RecordBatch) -> Vec<String> {
    let chats = batch.column_by_name("prompt").unwrap().as_list::<i32>();
    let turns = chats.values().as_struct();
    assert_eq!(turns.len(), batch.num_rows());
    turns.column_by_name("content").unwrap().as_string::<i32>().iter().flatten().map(str::to_owned).collect()
}

#[test]
fn a_run_is_handed_on_with_its_prompts_model_reward_and_settings() {
    let workplace = workplace(RECIPE);
    workplace.run("run", &[]).expect(0);
    let said = workplace.call(&["export", "run/ppo", "--to", "out", "--for", "verl", "--json"]).expect(0);
    let told = said.json();
    assert_eq!((&told["verl"], told["not_carried_over"].as_array().unwrap().len()), (&json!("0.7.0"), 1));
    assert!(said.stderr.contains("not carried over: `checkpoint.keep-best`"), "{}", said.stderr);
    let names: Vec<String> = workplace.files("out").into_keys().collect();
    for name in
        ["README.md", "launch.sh", "model/config.json", "model/model.safetensors", "model/tokenizer.json", "reward.py"]
    {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }

    // The prompts of every step, in the order in which the run here took them.
    let train = sidecar::read(&workplace.path("out/train.parquet")).unwrap();
    let all = prompts(&train);
    assert_eq!(all.len(), 5 * 4);
    for step in [1, 2, 4, 5] {
        let rollouts = sidecar::read(&workplace.path(format!("run/ppo/rollouts/step-{step:06}.parquet"))).unwrap();
        let taken: Vec<&str> =
            rollouts.column_by_name("prompt").unwrap().as_string::<i32>().iter().flatten().step_by(2).collect();
        assert_eq!(taken, all[4 * (step - 1)..4 * step], "{step}");
    }
    let looks = sidecar::read(&workplace.path("run/ppo/evaluations/step-000000.parquet")).unwrap();
    let looked: Vec<&str> =
        looks.column_by_name("prompt").unwrap().as_string::<i32>().iter().flatten().step_by(2).collect();
    assert_eq!(looked, prompts(&sidecar::read(&workplace.path("out/test.parquet")).unwrap()));
    assert_eq!(
        train.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
        ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    );

    // The model is the one that PPO began with, and its chat template adds nothing.
    let file = |path: &str| std::fs::read(workplace.path(path)).unwrap();
    assert_eq!(file("out/model/model.safetensors"), file("run/pretrain/model/model.safetensors"));
    let template = &workplace.json("out/model/tokenizer_config.json")["chat_template"];
    assert!(template.as_str().unwrap().ends_with("{{ message['content'] }}{% endfor %}"));

    let found = overrides(&workplace, "out");
    check_options(
        &found,
        &[
            ("data.train_batch_size", "4"),
            ("data.max_response_length", "12"),
            ("data.shuffle", "false"),
            ("actor_rollout_ref.rollout.n", "2"),
            ("actor_rollout_ref.rollout.val_kwargs.n", "2"),
            ("actor_rollout_ref.rollout.temperature", "1.0"),
            // 8 responses a step, the actor's updates from 4 = 2 prompts' and, as the paper's script has it, the critic's from 2 = 1 prompt's.
            ("actor_rollout_ref.actor.ppo_mini_batch_size", "2"),
            ("critic.ppo_mini_batch_size", "1"),
            ("critic.loss_agg_mode", "seq-mean-token-mean"),
            ("actor_rollout_ref.actor.optim.lr", "0.001"),
            ("actor_rollout_ref.actor.optim.betas", "[0.9,0.999]"),
            ("actor_rollout_ref.actor.clip_ratio_c", "1000000.0"),
            ("critic.cliprange_value", "0.5"),
            ("algorithm.adv_estimator", "gae"),
            ("algorithm.use_kl_in_reward", "true"),
            ("algorithm.kl_penalty", "kl"),
            ("algorithm.kl_ctrl.type", "adaptive"),
            ("algorithm.kl_ctrl.target_kl", "0.01"),
            ("trainer.critic_warmup", "0"),
            ("trainer.total_training_steps", "5"),
            ("trainer.test_freq", "2"),
            ("trainer.save_freq", "2"),
            // What is said on the command line comes last, and wins.
            ("trainer.nnodes", "2"),
        ],
    );
    assert_eq!(found["data.train_files"], workplace.path("out").join("train.parquet").display().to_string());

    // The same again changes nothing; a checkpoint is handed on as the model; neither asks that the stage be done.
    let before = workplace.files("out");
    workplace.call(&["export", "run/ppo", "--to", "out", "--for", "verl"]).expect(0);
    workplace.assert_same("out", &before);
    workplace.call(&["export", "run/ppo/checkpoints/step-000004", "--to", "later", "--for", "verl"]).expect(0);
    assert_eq!(file("later/model/model.safetensors"), file("run/ppo/checkpoints/step-000004/model.safetensors"));
    assert!(!workplace.path("later/model/trainer").exists());
    std::fs::remove_dir_all(workplace.path("run/ppo")).unwrap();
    std::fs::remove_dir_all(workplace.path("run/manifests/ppo")).unwrap();
    workplace.call(&["export", "run/ppo", "--to", "begun", "--for", "verl"]).expect(0);
    assert_eq!(file("begun/train.parquet"), file("out/train.parquet"));
}

#[test]
fn what_verl_has_no_option_for_is_said() {
    let recipe = RECIPE
        .replace(
            "compat = \"tinyzero\"",
            "advantage = \"gae\"\nwhiten = false\nshuffle = true\ncritic-warm-up = 3\ntruncated = { reward = -0.5 }",
        )
        .replace("[ppo.actor]", "[ppo.actor]\nminibatch = 5\nclip = 0\naggregation = \"seq-mean-token-sum-norm\"")
        .replace("target = 0.01", "target = 0.01\nplace = \"loss\"\nestimator = \"k2\"")
        .replace("steps = 5", "steps = 1")
        .replace("keep-best = true", "");
    let workplace = workplace(&recipe);
    workplace.run("run", &[]).expect(0);
    let said = workplace.call(&["export", "run/ppo", "--to", "out", "--for", "verl"]).expect(0);
    let readme = std::fs::read_to_string(workplace.path("out/README.md")).unwrap();
    let expect = [
        "`actor.minibatch = 5`",
        "2 prompts there, 4 responses",
        "`actor.clip = 0`",
        "`actor.aggregation",
        "`whiten = false`",
        "`shuffle`",
        "-0.5",
        "`kl.target`",
    ];
    for note in expect {
        assert!(said.stderr.contains(note), "{note}: {}", said.stderr);
        assert!(readme.contains(note), "{note}: {readme}");
    }
    check_options(
        &overrides(&workplace, "out"),
        &[
            // There the first step is 1 and learns from this step on; here three steps do not.
            ("trainer.critic_warmup", "4"),
            ("algorithm.use_kl_in_reward", "false"),
            ("actor_rollout_ref.actor.use_kl_loss", "true"),
            ("actor_rollout_ref.actor.kl_loss_type", "mse"),
            ("actor_rollout_ref.actor.grad_clip", "1000000.0"),
        ],
    );

    for (advantage, name, scaled) in
        [("grpo", "grpo", Some("true")), ("grpo-unscaled", "grpo", Some("false")), ("rloo", "rloo", None)]
    {
        let recipe = RECIPE
            .replace("compat = \"tinyzero\"", &format!("advantage = \"{advantage}\""))
            .replace("steps = 5", "steps = 1");
        workplace.put("recipe.toml", recipe.as_bytes());
        workplace.run(advantage, &[]).expect(0);
        let out = format!("out-{advantage}");
        workplace.call(&["export", &format!("{advantage}/ppo"), "--to", &out, "--for", "verl"]).expect(0);
        let found = overrides(&workplace, &out);
        check_options(&found, &[("algorithm.adv_estimator", name)]);
        assert_eq!(found.get("algorithm.norm_adv_by_std_in_grpo").map(String::as_str), scaled);
        assert!(!found.keys().any(|key| key.starts_with("critic.")), "{found:?}");
    }
}

#[test]
fn what_cannot_be_handed_on_is_one_error() {
    let recipe = RECIPE.replace("steps = 5", "steps = 0");
    let workplace = workplace(&recipe);
    workplace.run("run", &[]).expect(0);
    let check = |arguments: &[&str], exit: i32, message: &str, hint: &str| {
        let whole = [&["export"], arguments, &["--for", "verl"]].concat();
        workplace.call(&whole).fails(exit, message).hints(hint);
    };
    check(&["run/prime", "--to", "x"], 2, "`run/prime` is not the folder of a `ppo` stage", "run/ppo");
    check(&["data", "--to", "x"], 2, "`data` is not in a run", "runs/ppo/ppo");
    check(&["run/ppo", "--to", "hf://models/a/b"], 2, "`--for verl` writes a folder", "export the folder once more");
    check(&["run/ppo", "--to", "data"], 2, "`data` holds `query.txt`", "empty folder");
    std::fs::remove_file(workplace.path("run/manifests/pretrain/all.json")).unwrap();
    check(&["run/ppo", "--to", "x"], 3, "run/pretrain` is not finished", "goes on where it stopped");

    let command = RECIPE
        .replace("compat = \"tinyzero\"", "reward = { command = [\"./judge\", \"-v\"] }")
        .replace("steps = 5", "steps = 0");
    workplace.put("command.toml", command.as_bytes());
    workplace.put("judge", b"#!/bin/sh\nn=0; while read line; do id=${line#*\\\"id\\\":}; id=${id%%,*}; echo \"{\\\"id\\\": $id, \\\"reward\\\": 0}\"; done\n");
    let made_executable = Command::new("chmod").arg("+x").arg(workplace.path("judge")).status().unwrap();
    assert!(made_executable.success());
    workplace.call(&["run", "command.toml", "--run-dir", "command"]).expect(0);
    check(&["command/ppo", "--to", "x"], 2, "the reward is the program `./judge -v`", "custom_reward_function");
}

/// Responses as models write them and as nobody does.
fn responses(count: usize) -> Vec<String> {
    const PIECES: [&str; 40] = [
        "3",
        "5",
        "7",
        "12",
        "36",
        "+",
        "-",
        "*",
        "/",
        "(",
        ")",
        " ",
        "=",
        "\u{2212}",
        "\u{d7}",
        "\u{f7}",
        "**",
        "//",
        ".",
        "0",
        "\n",
        "\t",
        "\u{a0}",
        "\r",
        "\u{b}",
        "\u{c}",
        "\u{1f}",
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "Assistant:",
        "three",
        "18446744073709551616",
        "\u{663}",
        "4294967296",
        "()",
        "3 * (5 + 7)",
        "(7+5)*3",
        "--",
    ];
    let mut rng = SmallRng::seed_from_u64(7);
    let mut all: Vec<String> = [
        "<answer>3 * (5 + 7)</answer>",
        "</think>\n<answer> (7+5)\u{d7}3 </answer>\n",
        "<answer>3 * (5 + 7) = 36</answer>",
        "<answer>1</answer> <answer>3*(5+7)</answer>",
        "<answer>3*(5+7)</answer><answer>7</answer>",
        "<answer>(5/(3-3)) + 7</answer>",
        "<answer>7**5**3</answer>",
        "<answer>05*7+3</answer>",
        "<answer>((((((((((((((((((((((((((((((((3*(5+7)))))))))))))))))))))))))))))))))</answer>",
        "<answer>-(-3)*(5+7)</answer>",
        "<answer>3*5//7*36</answer>",
        "<answer>\n3*(5+7)\n</answer>",
        "<answer></answer>",
        "",
    ]
    .map(str::to_owned)
    .into();
    while all.len() < count {
        let inside: String = (0..rng.random_range(0..9)).filter_map(|_| PIECES.choose(&mut rng)).copied().collect();
        let whole = if rng.random_bool(0.8) { format!("so </think>\n<answer>{inside}</answer>") } else { inside };
        all.push(if rng.random_bool(0.1) { whole + "\n" } else { whole });
    }
    all
}

/// What `reward.py` of a folder says of some responses.
fn scored(workplace: &Workplace, python: &str, folder: &str, asked: &[Value]) -> Vec<Value> {
    let script = "import json, sys\nsys.path.insert(0, sys.argv[1])\nimport reward\n\
        for line in open(sys.argv[2], encoding='utf-8'):\n    case = json.loads(line)\n    \
        print(json.dumps(reward.compute_score('countdown', case['response'], case['truth'], {'index': 0}, router=None)))\n";
    let lines: String = asked.iter().map(|one| format!("{one}\n")).collect();
    workplace.put("asked.jsonl", lines.as_bytes());
    let output = Command::new(python)
        .args(["-W", "ignore", "-c", script])
        .args([workplace.path(folder), workplace.path("asked.jsonl")])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn reward_py_gives_the_rewards_of_this_program() {
    let Some(python) = python() else {
        println!("skipped: rewards in Python (no Python)");
        return;
    };
    let puzzle = Puzzle::new(&[3, 5, 7], 36).unwrap();
    let texts = responses(3000);
    let asked: Vec<Value> =
        texts.iter().map(|text| json!({ "response": text, "truth": { "numbers": [3, 5, 7], "target": 36 } })).collect();

    let table = Reward { solved: 2.0, form: 0.25, missing: -1.0 };
    let recipe = RECIPE
        .replace("compat = \"tinyzero\"", "reward = { solved = 2.0, form = 0.25, missing = -1.0 }")
        .replace("steps = 5", "steps = 0");
    let workplace = workplace(&recipe);
    let mut seen = BTreeSet::new();
    workplace.run("table", &[]).expect(0);
    workplace.call(&["export", "table/ppo", "--to", "out-table", "--for", "verl"]).expect(0);
    for (text, said) in texts.iter().zip(scored(&workplace, &python, "out-table", &asked)) {
        let verdict = verdict::judge(&puzzle, text);
        seen.insert(verdict.name());
        let acc = f64::from(u8::from(verdict == verdict::Verdict::Solved));
        assert_eq!(said, json!({ "score": table.of(verdict), "acc": acc, "verdict": verdict.name() }), "{text:?}");
    }
    assert_eq!(seen.len(), 5, "{seen:?}");

    // TinyZero's scorer, behind a prompt with its mark and behind one without.
    let (marked, bare) =
        ("use {numbers} make {target}\nAssistant: well <think>", "use {numbers spaced} make {target} <think>");
    let mut earned = BTreeSet::new();
    for (name, query) in [("marked", marked), ("bare", bare)] {
        workplace.put("data/query.txt", query.as_bytes());
        workplace.put("recipe.toml", RECIPE.replace("steps = 5", "steps = 0").as_bytes());
        workplace.run(name, &[]).expect(0);
        let out = format!("out-{name}");
        workplace.call(&["export", &format!("{name}/ppo"), "--to", &out, "--for", "verl"]).expect(0);
        let query =
            query.replace("{numbers}", "[3, 5, 7]").replace("{numbers spaced}", "3 5 7").replace("{target}", "36");
        for (text, said) in texts.iter().zip(scored(&workplace, &python, &out, &asked)) {
            let expect = compat::score(&puzzle, &[query.as_str(), text].concat());
            assert_eq!(said["score"].as_f64(), Some(expect), "{name}: {text:?}");
            earned.insert((name, (10.0 * expect) as u32));
        }
    }
    assert_eq!(earned.len(), 6, "{earned:?}");
}
