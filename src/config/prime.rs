//! `[arithmetic]` and `[prime]`: what a small model is taught before it is trained by reinforcement.

use crate::countdown::condition::{Answers, Condition, Habits, Strata, TryOrder};
use crate::countdown::derivation::Operator;
use crate::countdown::phrases::Diversity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Texts of arithmetic: facts, comparisons, expressions and their steps, in the words of terse priming traces, and nothing of
/// searching. Training sources name them `arithmetic.text`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Arithmetic {
    /// Texts to train on.
    pub train: u64,
    /// Texts to hold out.
    pub test: u64,
    /// How many numbers an expression has; each count is drawn equally often.
    pub sizes: Vec<usize>,
    /// The smallest and the largest number of expressions.
    pub numbers: [u32; 2],
    /// No operand and no result is higher.
    pub highest: u32,
    /// `add`, `subtract`, `multiply`, `divide`; all if absent.
    pub operators: Option<Vec<Operator>>,
    /// Words of the shortest and of the longest texts, about.
    pub lengths: [u32; 2],
}

impl Default for Arithmetic {
    fn default() -> Self {
        Self {
            train: 36_000,
            test: 200,
            sizes: vec![3],
            numbers: [1, 15],
            highest: 75,
            operators: None,
            lengths: [30, 300],
        }
    }
}

/// Countdown priming traces: the same puzzles under every condition, each trace checked by the verdict and the counter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Prime {
    /// What the traces show: `all-strategies`, `only-backtracking`, `backtracking-verification`, `backtracking-backward`,
    /// `backtracking-subgoal`, `direct` (no search), and the controls `scrambled`, `empty` and `dots`. A puzzle that one condition cannot use is used by none, so that all hold the same puzzles.
    pub conditions: Vec<Condition>,
    /// Whether the answers solve their puzzles. Two arms that differ in this alone give twins: equal `pair_id`, equal beginning,
    /// lengths within 5 %.
    #[serde(default)]
    pub answers: Answers,
    /// The share of wrong answers if `answers = "mixed"`.
    #[serde(default = "Prime::default_wrong_share")]
    pub wrong_share: f64,
    /// How often each kind of wrong answer is drawn.
    #[serde(default)]
    pub strata: StrataMix,
    /// How the search goes, in place of what the conditions are set to.
    #[serde(default)]
    pub habits: HabitsConfig,
    /// Traces per condition in `train.parquet`.
    #[serde(default = "Prime::default_train")]
    pub train: u64,
    /// Traces per condition in `test.parquet`. No multiset of numbers is in both.
    #[serde(default = "Prime::default_test")]
    pub test: u64,
    /// Puzzle files to take puzzles from, in their order, each row once per split; without any, puzzles are drawn. `.parquet` and
    /// `.jsonl` have a list of numbers in `nums` or `numbers` and a `target`; a `.csv` has `Puzzles` such as `1 1 4 6` and a
    /// `target`, or else it is a list of the Game of 24. Rows that cannot be used are counted by reason.
    #[serde(default)]
    pub puzzles: Vec<String>,
    /// How many numbers a puzzle has; each count is drawn equally often. Absent: 3 or 4, or all that the puzzle files have.
    pub sizes: Option<Vec<usize>>,
    /// The smallest and the largest number. Absent: 1 to 24, or all that the puzzle files have.
    pub numbers: Option<[u32; 2]>,
    /// The smallest and the largest target. Absent: 10 to 25, or all that the puzzle files have.
    pub targets: Option<[u32; 2]>,
    /// The operators of puzzles that are drawn and of their traces: `add`, `subtract`, `multiply`, `divide`; all if absent.
    pub operators: Option<Vec<Operator>>,
    /// How many ways of saying things: `full` has at least 30 phrases for each event, `terse` one, for tiny models.
    #[serde(default)]
    pub diversity: Diversity,
    /// A file to use as query in place of the embedded one, with `{numbers}`, `{target}` and `<think>` at its end.
    pub query: Option<String>,
    /// The path of a `tokenizer.json`. `dots` needs it to match lengths; `fairness.json` then counts tokens, not characters.
    pub tokenizer: Option<String>,
    /// Puzzle files, `.parquet` or `.jsonl`, with a list of numbers in `nums` or `numbers`: no trace uses the same numbers in any order.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Prompts for RL, on numbers that no priming trace of `train` uses. An empty table writes as many as the paper uses.
    pub rl: Option<RlPrompts>,
    /// A language model writes the traces in place of the synthesiser, and they pass the same verdict and counter.
    pub author: Option<Author>,
}

impl Prime {
    fn default_wrong_share() -> f64 {
        0.5
    }
    fn default_train() -> u64 {
        1000
    }
    fn default_test() -> u64 {
        200
    }
}

/// RL prompts in verl's format: `verl/train.parquet` and `verl/test.parquet`. Their text is that of a trace's `query`, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RlPrompts {
    /// Prompts to train on; their number is independent of how many traces there are.
    pub train: u64,
    /// Prompts to test on.
    pub test: u64,
}

impl Default for RlPrompts {
    /// The paper's: 250 steps of 256 prompts, and 1,024 to test on.
    fn default() -> Self {
        Self { train: 64_000, test: 1024 }
    }
}

/// A language model as author of traces. Exactly one of the tables `lm` and `endpoint` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Author {
    /// A local language model writes.
    pub lm: Option<super::WriterLm>,
    /// A model behind a server writes.
    pub endpoint: Option<super::EndpointConfig>,
    /// How often the model is asked about a puzzle for each condition until a reply passes.
    #[serde(default = "Author::default_attempts")]
    pub attempts: u32,
    /// So many puzzles are tried for each trace that is wanted. When they are used up, there are fewer traces, and a notice says so.
    #[serde(default = "Author::default_puzzles_per_trace")]
    pub puzzles_per_trace: u32,
    /// 0 takes the likeliest token; more makes replies vary. Later attempts draw at 0.7 at least.
    #[serde(default = "Author::default_temperature")]
    pub temperature: f32,
    /// A reply has at most so many tokens.
    #[serde(default = "Author::default_max_reply_tokens")]
    pub max_reply_tokens: usize,
}

impl Author {
    fn default_attempts() -> u32 {
        4
    }
    fn default_puzzles_per_trace() -> u32 {
        4
    }
    fn default_temperature() -> f32 {
        0.5
    }
    fn default_max_reply_tokens() -> usize {
        1024
    }
}

/// How often each kind of wrong answer is drawn: weights, which need not add up to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct StrataMix {
    /// One false sum at the end makes the last try look right.
    pub slip: f64,
    /// True sums reach the target with a number left out, used twice or invented.
    pub rule_break: f64,
    /// The last try fails, and the trace says so.
    pub give_up: f64,
}

impl Default for StrataMix {
    fn default() -> Self {
        let Strata { slip, rule_break, give_up } = Strata::DEFAULT;
        Self { slip, rule_break, give_up }
    }
}

/// How the traces of a search are planned, in place of what each condition is set to (after the counts of the paper's primed models).
/// What a condition leaves out stays out: `direct` does not search, whatever stands here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HabitsConfig {
    /// The mean number of failed tries before the last one.
    pub failed_tries: Option<f64>,
    /// At most so many failed tries.
    pub max_failed_tries: Option<u8>,
    /// How often a failed try is held against the target: a share, like the ones below.
    pub checks_misses: Option<f64>,
    /// How often the last try is.
    pub checks_hits: Option<f64>,
    /// How often a try begins with a subgoal.
    pub subgoals: Option<f64>,
    /// How often a try begins by working back from the target.
    pub back_steps: Option<f64>,
    /// How often backtracking keeps the first steps.
    pub keeps_steps: Option<f64>,
    /// How often a failed try of four numbers or more ends before all are used.
    pub abandons: Option<f64>,
    /// `by-taste` tries combinations as a thinker likes them, by a taste that each trace draws anew; `in-turn` tries them in one fixed
    /// order from a place drawn at random, so that what comes next follows from what was tried last. A puzzle whose solution is not
    /// among them is used by no condition.
    pub order: Option<TryOrder>,
    /// No step of a try gives more, which keeps a tiny model's vocabulary small.
    pub highest: Option<u32>,
}

impl HabitsConfig {
    /// A condition's habits with these in place, as far as the condition has them.
    pub fn over(&self, condition: Condition) -> Habits {
        let own = condition.habits();
        let share = |given: Option<f64>, own: f64| if own == 0.0 { own } else { given.unwrap_or(own) };
        Habits {
            failed_tries: share(self.failed_tries, own.failed_tries),
            max_failed_tries: self
                .max_failed_tries
                .filter(|_| own.max_failed_tries != 0)
                .unwrap_or(own.max_failed_tries),
            checks_misses: share(self.checks_misses, own.checks_misses),
            checks_hits: share(self.checks_hits, own.checks_hits),
            subgoals: share(self.subgoals, own.subgoals),
            back_steps: share(self.back_steps, own.back_steps),
            keeps_steps: share(self.keeps_steps, own.keeps_steps),
            abandons: share(self.abandons, own.abandons),
            order: self.order.unwrap_or(own.order),
            highest: self.highest.or(own.highest),
        }
    }
}
