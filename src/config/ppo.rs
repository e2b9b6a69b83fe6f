//! `[ppo]`: reinforcement learning from rule rewards.

use super::Prime;
use super::pretrain::{Checkpoints, TrainingPrecision};
use crate::countdown::derivation::Operator;
use crate::countdown::verdict;
use crate::error::Failure;
use crate::rl::advantage::AdvantageKind;
use crate::rl::kl::KlEstimator;
use crate::rl::loss::Aggregation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Trains a language model by reinforcement on puzzles: PPO with a critic, as the paper does, or one of its relatives without.
/// Rollouts are drawn at temperature 1 from all tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ppo {
    /// The model to begin with, which is also the reference that the KL penalty keeps it near: `pretrain` or
    /// `base` for one of this run, a Hugging Face folder, a `.gguf` file, or `hf://OWNER/REPO@REVISION`.
    #[serde(default = "Ppo::default_from")]
    pub from: String,
    /// Steps: rollouts, rewards, updates.
    #[serde(default = "Ppo::default_steps")]
    pub steps: u64,
    /// Prompts per step.
    #[serde(default = "Ppo::default_prompts")]
    pub prompts: usize,
    /// Responses per prompt.
    #[serde(default = "Ppo::default_samples")]
    pub samples: usize,
    /// The most tokens of a response, its end included.
    #[serde(default = "Ppo::default_max_response_tokens")]
    pub max_response_tokens: usize,
    /// The seed of puzzles and samples; the run's seed if absent.
    pub seed: Option<u64>,
    /// `tinyzero` repeats the paper's released script where ours differs: half the responses per update of the actor, but half the
    /// *prompts'* number of responses per update of the critic (with 4 samples, 2 and 8 updates a step); the critic's loss averaged
    /// per response; and TinyZero's scorer to the letter. Keys that are given win.
    pub compat: Option<Compat>,
    /// Which puzzles to train on.
    #[serde(default)]
    pub puzzles: Puzzles,
    /// Questions with known answers to train on in place of puzzles. A right answer earns `reward.solved`, another one `reward.form`.
    pub questions: Option<Questions>,
    /// What responses earn.
    #[serde(default)]
    pub reward: RewardConfig,
    /// What is done with responses that do not end within the limit.
    #[serde(default)]
    pub truncated: Truncated,
    /// How advantages are estimated: `gae` is the paper's PPO, with a critic; `grpo`, `grpo-unscaled`, `rloo` and `reinforce-plus-plus`
    /// need none.
    #[serde(default)]
    pub advantage: AdvantageKind,
    /// Discount per token.
    #[serde(default = "Ppo::one")]
    pub gamma: f64,
    /// GAE's trade of variance against bias: 1 trusts rewards alone, less trusts the critic more.
    #[serde(default = "Ppo::one")]
    pub lambda: f64,
    /// Shift and scale GAE's advantages to mean 0 and variance 1 over a step's whole batch.
    #[serde(default = "super::yes")]
    pub whiten: bool,
    /// The penalty for leaving the reference.
    #[serde(default)]
    pub kl: Kl,
    /// How far a token's probability may move by a step's updates before it is not pushed on: the share by which it may fall or rise.
    #[serde(default = "Ppo::default_clip")]
    pub clip: f64,
    /// The same for rising, if it differs.
    pub clip_high: Option<f64>,
    /// Bounds the loss of a bad token by so many times its advantage. Above 1; absent: no bound.
    pub dual_clip: Option<f64>,
    /// How far a value may move by a step's updates before it is not pushed on; 0 is off.
    #[serde(default = "Ppo::default_value_clip")]
    pub value_clip: f64,
    /// The weight of a bonus for entropy.
    #[serde(default = "Ppo::default_entropy")]
    pub entropy: f64,
    /// How often a step goes through its rollouts.
    #[serde(default = "Ppo::default_epochs")]
    pub epochs: usize,
    /// Deal a step's responses to mini-batches at random, and not in the order of prompts.
    #[serde(default)]
    pub shuffle: bool,
    /// Score rollouts again before the updates, and do not use the log-probabilities that they were drawn with. They are the
    /// same but for rounding: `first_ratio_error` in the metrics says how much.
    #[serde(default)]
    pub recompute_log_probs: bool,
    /// How the policy learns.
    #[serde(default = "Learner::actor")]
    pub actor: Learner,
    /// How the critic learns. It begins as a copy of the model with a new head that says 0.
    #[serde(default = "Learner::critic")]
    pub critic: Learner,
    /// So many first steps train the critic alone.
    #[serde(default)]
    pub critic_warm_up: u64,
    /// Tokens that go through a model at a time, at most. More uses more memory.
    #[serde(default = "Ppo::default_micro_tokens")]
    pub micro_tokens: usize,
    /// Responses that are drawn at a time, at most. More uses more memory. It does not change what is drawn.
    #[serde(default = "Ppo::default_rollout_sequences")]
    pub rollout_sequences: usize,
    /// Looks at held-out puzzles.
    #[serde(default)]
    pub eval: Evaluation,
    /// The rollouts of every so many steps, and of the first and the last, are kept to be read, in `rollouts.parquet`; 0 keeps those two alone.
    #[serde(default = "Ppo::default_keep_rollouts")]
    pub keep_rollouts: u64,
    /// How often to save, and what to keep. The best is the one with the highest pass@1.
    #[serde(default)]
    pub checkpoint: Checkpoints,
    /// In what the models multiply when they learn; rollouts are f32.
    #[serde(default)]
    pub precision: TrainingPrecision,
}

impl Ppo {
    fn default_from() -> String {
        "pretrain".into()
    }
    fn default_steps() -> u64 {
        250
    }
    fn default_prompts() -> usize {
        256
    }
    fn default_samples() -> usize {
        4
    }
    fn default_max_response_tokens() -> usize {
        1024
    }
    fn one() -> f64 {
        1.0
    }
    fn default_clip() -> f64 {
        0.2
    }
    fn default_value_clip() -> f64 {
        0.5
    }
    fn default_entropy() -> f64 {
        0.001
    }
    fn default_epochs() -> usize {
        1
    }
    fn default_micro_tokens() -> usize {
        4096
    }
    fn default_rollout_sequences() -> usize {
        256
    }
    fn default_keep_rollouts() -> u64 {
        10
    }

    /// The table with its puzzles like those of the priming traces, where it does not say otherwise.
    pub fn resolved(&self, prime: Option<&Prime>) -> Self {
        let mut resolved = self.clone();
        if let Some(prime) = prime.filter(|_| self.questions.is_none()) {
            let puzzles = &mut resolved.puzzles;
            puzzles.sizes = puzzles.sizes.take().or_else(|| prime.sizes.clone());
            puzzles.numbers = puzzles.numbers.or(prime.numbers);
            puzzles.targets = puzzles.targets.or(prime.targets);
            puzzles.operators = puzzles.operators.take().or_else(|| prime.operators.clone());
            puzzles.query = puzzles.query.take().or_else(|| prime.query.clone());
        }
        resolved
    }

    /// Steps of a run that is limited to so many training prompts.
    pub fn steps_within(&self, limit: Option<u64>) -> u64 {
        limit.map_or(self.steps, |limit| self.steps.min(limit.div_ceil(self.prompts as u64).max(1)))
    }

    /// Held-out puzzles of a run that is limited to so many.
    pub fn puzzles_within(&self, limit: Option<u64>) -> usize {
        limit.map_or(self.eval.puzzles, |limit| self.eval.puzzles.min(limit.max(1) as usize))
    }

    /// Responses of a step.
    pub fn rollouts(&self) -> usize {
        self.prompts * self.samples
    }

    /// Responses per update of the actor and of the critic.
    pub fn minibatches(&self) -> (usize, usize) {
        let half = self.rollouts().div_ceil(2);
        let critic = if self.compat.is_some() { self.prompts.div_ceil(2) } else { half };
        (self.actor.minibatch.unwrap_or(half), self.critic.minibatch.unwrap_or(critic))
    }

    /// How the critic's losses are averaged.
    pub fn critic_aggregation(&self) -> Aggregation {
        let usual = if self.compat.is_some() { Aggregation::SeqMeanTokenMean } else { Aggregation::TokenMean };
        self.critic.aggregation.unwrap_or(usual)
    }
}

/// A published script to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    #[serde(rename = "tinyzero")]
    TinyZero,
}

/// Countdown puzzles. Training, validation and test puzzles never share their numbers, and none shares them with priming traces of
/// the same seed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Puzzles {
    /// How many numbers a puzzle has; each count is drawn equally often. If absent, as in `[prime]`, else 3 and 4.
    pub sizes: Option<Vec<usize>>,
    /// The smallest and the largest number. If absent, as in `[prime]`, else 1 and 99.
    pub numbers: Option<[u32; 2]>,
    /// The smallest and the largest target. If absent, as in `[prime]`, else 10 and 100.
    pub targets: Option<[u32; 2]>,
    /// The operators that a puzzle must be solvable with: `add`, `subtract`, `multiply`, `divide`. If absent, as in `[prime]`, else all.
    /// Answers may use any.
    pub operators: Option<Vec<Operator>>,
    /// A file to use as query in place of the embedded one. If absent, that of `[prime]`.
    pub query: Option<String>,
}

/// Questions with known answers. Their final answer is compared as mathematics: numbers exactly, `1/2` and `0.5` as equals, everything else as
/// text. Which of them are held out is decided by what they ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Questions {
    /// Parquet or JSONL files, `.parquet` or `.jsonl`.
    pub files: Vec<String>,
    /// The column that asks: a text, or a chat, of which the user's last message counts. A field of a structure is named by its path:
    /// `extra_info.question`.
    pub question: String,
    /// The column with the answer, such as `reward_model.ground_truth`; of GSM8K's, what follows `####`.
    pub answer: String,
    /// A file to use as query in place of the embedded one, which is that of `[rewrite]`: it holds `{question}`, and `<think>` at its end.
    pub query: Option<String>,
    /// The share of the questions that is held out, half of it for `eval.split = "validation"` and half for `"test"`.
    pub held_out_share: f64,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            question: "question".into(),
            answer: "answer".into(),
            query: None,
            held_out_share: 0.1,
        }
    }
}

/// What responses earn: by verdict, or by a program of your own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RewardConfig {
    /// For a solution.
    pub solved: f64,
    /// For a stated answer that is none. The paper's 0.1 teaches the form; it also pays for stating a wrong answer early.
    pub form: f64,
    /// For no answer.
    pub missing: f64,
    /// A program and its arguments, in place of the table: it gets a JSON line `{"id", "prompt", "response", "truncated", "problem"}` for each
    /// response and answers with a line `{"id", "reward"}`, and `"verdict"` and `"solved"` if it likes.
    pub command: Option<Vec<String>>,
    /// How long the program may take from one answer to the next.
    pub timeout_seconds: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        let verdict::Reward { solved, form, missing } = verdict::Reward::TINYZERO;
        Self { solved, form, missing, command: None, timeout_seconds: 60.0 }
    }
}

/// What is done with responses that do not end within the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Truncated {
    /// They earn what their text earns, which is usually what no answer earns: the paper's.
    #[default]
    Score,
    /// They are scored and not learned from.
    Mask,
    /// They earn this: `truncated = { reward = -0.5 }`.
    Reward(f64),
}

/// The penalty for leaving the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Kl {
    /// Whether it is taken off rewards, added to the loss, or not at all.
    pub place: KlWhere,
    /// How it is estimated from a token: `k1`, `k2` or `k3`. In the reward only `k1` pulls as the divergence itself does; in the loss `k2` does,
    /// and `k1` teaches nothing.
    pub estimator: KlEstimator,
    /// Its weight; at the beginning, if there is a target.
    pub coefficient: f64,
    /// The divergence per token to keep near: the weight follows it. Absent: the weight is fixed.
    pub target: Option<f64>,
    /// With a target: responses over which the weight may change by a fifth.
    pub horizon: f64,
}

impl Default for Kl {
    fn default() -> Self {
        Self { place: KlWhere::Reward, estimator: KlEstimator::K1, coefficient: 0.001, target: None, horizon: 10_000.0 }
    }
}

/// Where the penalty is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KlWhere {
    Reward,
    Loss,
    None,
}

/// How a model learns: AdamW at a constant rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Learner {
    /// 1e-6 suits the actor of a model of billions of parameters and 1e-5 its critic; 1e-4 and 5e-4 a tiny one.
    pub learning_rate: f64,
    /// Responses per update; half of a step's if absent.
    pub minibatch: Option<usize>,
    /// How slowly the means of gradients and of their squares move.
    #[serde(default = "Learner::default_betas")]
    pub betas: [f64; 2],
    /// Keeps the division by the root of the second mean finite.
    #[serde(default = "Learner::default_epsilon")]
    pub epsilon: f64,
    /// Decoupled decay of weight matrices, scaled by the learning rate.
    #[serde(default = "Learner::default_weight_decay")]
    pub weight_decay: f64,
    /// The longest gradient; a longer one is scaled down. 0 is off.
    #[serde(default = "Learner::default_clip")]
    pub clip: f64,
    /// How tokens' losses are averaged over a mini-batch: `token-mean` (the default), `seq-mean-token-mean`, `seq-mean-token-sum` or
    /// `seq-mean-token-sum-norm`, as verl names them.
    pub aggregation: Option<Aggregation>,
}

impl Learner {
    fn actor() -> Self {
        Self {
            learning_rate: 1e-6,
            minibatch: None,
            betas: Self::default_betas(),
            epsilon: Self::default_epsilon(),
            weight_decay: Self::default_weight_decay(),
            clip: Self::default_clip(),
            aggregation: None,
        }
    }
    fn critic() -> Self {
        Self { learning_rate: 1e-5, ..Self::actor() }
    }
    fn default_betas() -> [f64; 2] {
        [0.9, 0.999]
    }
    fn default_epsilon() -> f64 {
        1e-8
    }
    fn default_weight_decay() -> f64 {
        0.01
    }
    fn default_clip() -> f64 {
        1.0
    }
}

/// Looks at held-out puzzles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Evaluation {
    /// Steps between two looks, beside one before the first step and one after the last; 0: those two alone.
    pub every: u64,
    /// Which held-out puzzles: `validation` to choose settings by, `test` for the result.
    pub split: EvaluationSplit,
    /// How many puzzles, or questions.
    pub puzzles: usize,
    /// Responses per puzzle, at temperature 1.
    pub samples: usize,
    /// The k of pass@k, beside 1.
    pub k: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { every: 10, split: EvaluationSplit::Test, puzzles: 256, samples: 4, k: 4 }
    }
}

/// Which held-out puzzles are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EvaluationSplit {
    Validation,
    Test,
}

/// Checks what types cannot rule out.
pub(super) fn check(
    ppo: &Ppo,
    has_stage: impl Fn(&str) -> bool,
    expect: impl Fn(bool, &str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    expect(
        !super::TRAINED.contains(&ppo.from.as_str()) || has_stage(&ppo.from),
        "ppo.from",
        &format!("expected a model: this recipe has no `[{}]` that would make one", ppo.from),
    )?;
    let counts = [
        ("steps", ppo.steps as usize, 0, 1_000_000),
        ("prompts", ppo.prompts, 1, 1 << 20),
        ("samples", ppo.samples, 1, 4096),
        ("max-response-tokens", ppo.max_response_tokens, 1, 1 << 20),
        ("epochs", ppo.epochs, 1, 100),
        ("micro-tokens", ppo.micro_tokens, 1, 1 << 30),
        ("rollout-sequences", ppo.rollout_sequences, 1, 1 << 20),
        ("actor.minibatch", ppo.minibatches().0, 1, ppo.rollouts()),
        ("critic.minibatch", ppo.minibatches().1, 1, ppo.rollouts()),
        ("eval.puzzles", ppo.eval.puzzles, 1, 1 << 20),
        ("eval.samples", ppo.eval.samples, 1, 4096),
        ("eval.k", ppo.eval.k, 1, ppo.eval.samples),
        ("checkpoint.keep-last", ppo.checkpoint.keep_last, 1, usize::MAX),
    ];
    for (key, value, low, high) in counts {
        let expectation = format!("expected a number from {low} to {high}");
        expect((low..=high).contains(&value), &format!("ppo.{key}"), &expectation)?;
    }
    expect(
        !ppo.advantage.has_groups() || 2 <= ppo.samples,
        "ppo.samples",
        "expected at least 2: this `advantage` compares the responses to a prompt with each other",
    )?;
    let positive = f64::MIN_POSITIVE;
    let mut ranges = vec![
        ("gamma", ppo.gamma, positive, 1.0),
        ("lambda", ppo.lambda, 0.0, 1.0),
        ("clip", ppo.clip, positive, 1.0),
        ("clip-high", ppo.clip_high.unwrap_or(ppo.clip), positive, 100.0),
        ("dual-clip", ppo.dual_clip.unwrap_or(2.0), 1.0, 1e9),
        ("value-clip", ppo.value_clip, 0.0, 1e9),
        ("entropy", ppo.entropy, 0.0, 1.0),
        ("kl.coefficient", ppo.kl.coefficient, 0.0, 1e3),
        ("kl.target", ppo.kl.target.unwrap_or(1.0), positive, 1e3),
        ("kl.horizon", ppo.kl.horizon, 1.0, 1e12),
        ("reward.timeout-seconds", ppo.reward.timeout_seconds, positive, 1e6),
    ];
    let reward = &ppo.reward;
    for (key, reward) in
        [("reward.solved", reward.solved), ("reward.form", reward.form), ("reward.missing", reward.missing)]
    {
        ranges.push((key, reward, -1e6, 1e6));
    }
    if let Truncated::Reward(reward) = ppo.truncated {
        ranges.push(("truncated.reward", reward, -1e6, 1e6));
    }
    for (name, learner) in [("actor", &ppo.actor), ("critic", &ppo.critic)] {
        let key = |actor: &'static str, critic: &'static str| if name == "actor" { actor } else { critic };
        ranges.extend([
            (key("actor.learning-rate", "critic.learning-rate"), learner.learning_rate, 0.0, 10.0),
            (key("actor.betas[0]", "critic.betas[0]"), learner.betas[0], 0.0, 0.999_999),
            (key("actor.betas[1]", "critic.betas[1]"), learner.betas[1], 0.0, 0.999_999),
            (key("actor.epsilon", "critic.epsilon"), learner.epsilon, positive, 1.0),
            (key("actor.weight-decay", "critic.weight-decay"), learner.weight_decay, 0.0, 10.0),
            (key("actor.clip", "critic.clip"), learner.clip, 0.0, 1e9),
        ]);
    }
    for (key, value, low, high) in ranges {
        let low_shown = if low == positive { "above 0".to_owned() } else { format!("from {low}") };
        let expectation = format!("expected a number {low_shown} to {high}");
        expect((low..=high).contains(&value), &format!("ppo.{key}"), &expectation)?;
    }
    if let Some(questions) = &ppo.questions {
        let share = questions.held_out_share;
        expect(!questions.files.is_empty(), "ppo.questions.files", "expected the name of a Parquet or JSONL file")?;
        expect(0.0 < share && share < 1.0, "ppo.questions.held-out-share", "expected a number between 0 and 1")?;
        let puzzles = "expected no `[ppo.puzzles]`: with `[ppo.questions]` none is drawn";
        expect(ppo.puzzles == Puzzles::default(), "ppo.puzzles", puzzles)?;
        expect(
            ppo.compat.is_none(),
            "ppo.compat",
            "expected none: TinyZero's scorer judges puzzles, not `[ppo.questions]`",
        )?;
    }
    expect(
        ppo.reward.command.as_ref().is_none_or(|command| !command.is_empty()),
        "ppo.reward.command",
        "expected a program and its arguments, such as `[\"python3\", \"reward.py\"]`",
    )
}
