//! Reinforcement as a stage: from priming traces to a trained policy, the same to the byte however often it was killed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use four_habits::data::sidecar;
use four_habits::lm::Checkpoint;
use serde_json::Value;

use super::program::Workplace;

/// A model of some thousand parameters that has seen a few traces.
pub const RECIPE: &str = r#"seed = 7

[prime]
conditions = ["direct"]
diversity = "terse"
train = 48
test = 8
sizes = [3]
numbers = [1, 12]
targets = [5, 40]
query = "data/query.txt"

[pretrain]
context = 128
epochs = 1

[pretrain.model]
layers = 1
hidden = 16
heads = 2
tokenizer = "words"
vocabulary = 300

[pretrain.data.traces]
source = "prime.direct"

[pretrain.batch]
sequences = 8

[pretrain.optimizer]
learning-rate = 1e-2

[ppo]
steps = 5
prompts = 4
samples = 2
max-response-tokens = 12
compat = "tinyzero"
keep-rollouts = 2

[ppo.actor]
learning-rate = 1e-3

[ppo.critic]
learning-rate = 1e-3

[ppo.kl]
target = 0.01

[ppo.eval]
every = 2
puzzles = 6
samples = 2
k = 2

[ppo.checkpoint]
every = 2
keep-last = 2
keep-best = true
"#;

pub fn workplace(recipe: &str) -> Workplace {
    let query = b"use {numbers spaced} make {target} <think>\n".to_vec();
    Workplace::with(recipe, &[("query.txt", query)])
}

fn lines(workplace: &Workplace, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(workplace.path(run).join("ppo/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn everything_is_written_and_written_again() {
    let workplace = workplace(RECIPE);
    workplace.run("run", &[]).expect(0);
    workplace.verify("run");
    assert_eq!(workplace.counts("run", "ppo"), [40, 40, 0, 0]);

    let lines = lines(&workplace, "run");
    let steps = |kind: &str| -> Vec<u64> {
        lines.iter().filter(|line| line.get(kind).is_some()).map(|line| line["step"].as_u64().unwrap()).collect()
    };
    assert_eq!((steps("train"), steps("evaluation")), (vec![1, 2, 3, 4, 5], vec![0, 2, 4, 5]));
    for line in lines.iter().filter_map(|line| line.get("train")) {
        let statistics = &line["statistics"];
        assert_eq!((&statistics["actor_updates"], &statistics["critic_updates"]), (&2.into(), &4.into()));
        assert!(statistics["first_ratio_error"].as_f64().unwrap() < 1e-4, "{statistics}");
        let shares: f64 = line["verdicts"].as_object().unwrap().values().map(|share| share.as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9);
    }
    let rows = |name: &str| sidecar::read(&workplace.path("run/ppo").join(name)).unwrap().num_rows();
    assert_eq!(rows("metrics.parquet"), lines.len());
    for step in [1, 2, 4, 5] {
        assert_eq!(rows(&format!("rollouts/step-{step:06}.parquet")), 8);
    }
    assert!(!workplace.path("run/ppo/rollouts/step-000003.parquet").exists());
    assert_eq!(rows("evaluations/step-000005.parquet"), 12);
    Checkpoint::open(&workplace.path("run/ppo/model")).unwrap().tokenizer().unwrap();
    workplace.run("again", &["--threads", "1"]).expect(0);
    workplace.assert_same("again", &workplace.files("run"));
}

#[test]
fn a_killed_run_ends_as_one_that_was_not() {
    let workplace = workplace(RECIPE);
    workplace.run("whole", &[]).expect(0);
    let whole = workplace.files("whole");
    for point in (60..1000).step_by(37) {
        let run = format!("run-{point}");
        let ended = workplace.run_killed_at(point, &run, &[]);
        workplace.run(&run, &[]).expect(0);
        workplace.assert_same(&run, &whole);
        if ended.exit == 0 {
            break;
        }
    }
}

#[test]
fn every_kind_of_advantage_and_penalty_runs() {
    for advantage in ["grpo", "rloo", "reinforce-plus-plus"] {
        let recipe = RECIPE
            .replace("compat = \"tinyzero\"", &format!("advantage = \"{advantage}\"\nepochs = 2\nshuffle = true"))
            .replace("target = 0.01", "place = \"loss\"\nestimator = \"k3\"");
        let workplace = workplace(&recipe);
        workplace.run("run", &[]).expect(0);
        let lines = lines(&workplace, "run");
        let last = lines.iter().filter_map(|line| line.get("train")).next_back().unwrap();
        assert_eq!(last["statistics"]["actor_updates"], 4);
        assert!(last["statistics"].get("critic").unwrap().is_null());
    }
}

#[test]
fn a_reward_command_judges_or_stops_the_run_with_one_error() {
    let command = |script: &str| {
        RECIPE.replace("compat = \"tinyzero\"", &format!("reward = {{ command = [\"sh\", \"-c\", '''{script}'''] }}"))
    };
    let counting = r#"n=0; while read line; do
        id=${line#*\"id\":}; id=${id%%,*}; echo "{\"id\": $id, \"reward\": 0.5, \"verdict\": \"half\"}"; done"#;
    let workplace = workplace(&command(counting));
    workplace.run("run", &[]).expect(0);
    let lines = lines(&workplace, "run");
    assert_eq!(lines[1]["train"]["verdicts"]["half"], 1.0);

    workplace.put("broken.toml", command("read line; echo out of luck >&2; exit 3").as_bytes());
    let ended = workplace.call(&["run", "broken.toml", "--run-dir", "broken"]).expect(1);
    assert!(ended.stderr.contains("ended after 0 of 12 answers"), "{}", ended.stderr);
    assert!(ended.stderr.contains("out of luck"), "{}", ended.stderr);
}

#[test]
fn mistakes_are_named_before_anything_runs() {
    let workplace = workplace(RECIPE);
    let check = |from: &str, to: &str, expect: &str| {
        workplace.put("wrong.toml", RECIPE.replace(from, to).as_bytes());
        let ended = workplace.call(&["plan", "wrong.toml"]).expect(2);
        assert!(ended.stderr.contains(expect), "{to}: {}", ended.stderr);
    };
    check("samples = 2\nmax", "samples = 1\nadvantage = \"rloo\"\nmax", "expected at least 2");
    check("steps = 5", "steps = 5\nfrom = \"nowhere\"", "no model at `nowhere`");
    check("keep-rollouts = 2", "clip = 0", "expected a number above 0 to 1");
    check("keep-rollouts = 2", "puzzles = { numbers = [1, 2], targets = [90, 99] }", "below the lowest target 90");
    check("[ppo.actor]", "[ppo.actor]\nminibatch = 9", "expected a number from 1 to 8");
}
