//! A model behind a server: how it is reached, and how it judges.

use super::Thresholds;
use super::lm::{LmMode, counting_fault};
use crate::endpoint::{Api, EndpointSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp), and how it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EndpointConfig {
    /// The server's address, such as `http://localhost:8000/v1`. Not part of the plan: the same model elsewhere answers the same.
    pub url: String,
    /// The model's id, as the server lists it. May be absent if it serves one alone.
    pub model: Option<String>,
    /// The name of the environment variable that holds the API key; absent if the server wants none.
    pub api_key_env: Option<String>,
    /// Requests under way at once.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// Seconds that an answer may take before it is asked for again.
    #[serde(default = "default_deadline_seconds")]
    pub deadline_seconds: u64,
    /// Seconds that the server may go without answering anything before the run ends with exit code 69.
    #[serde(default = "default_patience_seconds")]
    pub patience_seconds: u64,
}

/// A model behind a server as judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EndpointJudgeConfig {
    /// The server's address, such as `http://localhost:8000/v1`. Not part of the plan: the same model elsewhere answers the same.
    pub url: String,
    /// The model's id, as the server lists it. May be absent if it serves one alone; named, it is part of the plan.
    pub model: Option<String>,
    /// How the model is asked: in `score` mode each of the four questions about a document is one request, and the probability of
    /// the answer "yes" is read off its logprobs; `generate` lets it think in words and count, for each behavior anew, which
    /// takes tens to hundreds of times longer. There a score is the share of replies that found any instance.
    #[serde(default)]
    pub mode: LmMode,
    /// `completions`: the prompt is sent as it is, or, with `tokenizer`, as tokens in the model's chat template.
    /// `chat`: the server applies the chat template, as it always does in `generate` mode.
    #[serde(default)]
    pub api: Api,
    /// The name of the environment variable that holds the API key; absent if the server wants none.
    pub api_key_env: Option<String>,
    /// Windows of documents under way at once; in `generate` mode, replies.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// Seconds that an answer may take before it is asked for again.
    #[serde(default = "default_deadline_seconds")]
    pub deadline_seconds: u64,
    /// Seconds that the server may go without answering anything before the run ends with exit code 69.
    #[serde(default = "default_patience_seconds")]
    pub patience_seconds: u64,
    /// The model's tokenizer: a Hugging Face folder or a `.gguf` file. With it windows are exact and prompts are what
    /// `[classify.lm]` would read; without it text is sent and windows are cut by characters. `score` mode only.
    pub tokenizer: Option<String>,
    /// A folder with prompts of your own: `document.txt` and one `<behavior>.txt` each; in `generate` mode `count.txt` and one
    /// `count_<behavior>.txt` each. Missing files fall back to the embedded ones.
    pub prompts: Option<String>,
    /// A longer document is cut into windows of this many tokens (without `tokenizer`, of three times as many characters);
    /// its score is the highest of its windows'. In `generate` mode a token counts as four characters, windows end behind a
    /// blank, and counts are added up.
    #[serde(default = "default_window_tokens")]
    pub window_tokens: usize,
    /// At most this many windows are read of a document; 0 reads all. What was read stands in `chars_read`.
    #[serde(default)]
    pub max_windows: usize,
    /// The likeliest next tokens that are asked for, among which yes and no must be. vLLM gives 20 unless it is started with
    /// `--max-logprobs`. `score` mode only.
    #[serde(default = "default_top_logprobs")]
    pub top_logprobs: usize,
    /// The probability from which a behavior counts as shown. `score` mode only.
    #[serde(default)]
    pub thresholds: Thresholds,
    /// Thoughts and count together have at most so many tokens. `generate` mode only; 1024 if absent.
    pub max_reply_tokens: Option<usize>,
    /// 0 takes the likeliest token, always; more makes replies vary. `generate` mode only; 0 if absent.
    pub temperature: Option<f32>,
    /// How many replies are drawn for each window and behavior: the score is the share of those that found any instance, the
    /// count their median. More than one needs a temperature. `generate` mode only; 1 if absent.
    pub samples: Option<u32>,
}

impl EndpointJudgeConfig {
    /// How the server is reached.
    pub fn connection(&self) -> EndpointConfig {
        EndpointConfig {
            url: self.url.clone(),
            model: self.model.clone(),
            api_key_env: self.api_key_env.clone(),
            concurrency: self.concurrency,
            deadline_seconds: self.deadline_seconds,
            patience_seconds: self.patience_seconds,
        }
    }

    /// The first key that does not go with the mode, or whose value makes no sense, and what was expected of it. Thresholds
    /// and the connection are checked elsewhere.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        let fault = |holds: bool, key, expected| (!holds).then_some((key, expected));
        const SCORE: &str = "belongs to `mode = \"score\"`";
        let generate = self.mode == LmMode::Generate;
        fault((16..=131_072).contains(&self.window_tokens), "window-tokens", "expected a number from 16 to 131,072")
            .or_else(|| {
                fault((2..=10_000).contains(&self.top_logprobs), "top-logprobs", "expected a number from 2 to 10,000")
            })
            .or_else(|| fault(!generate || self.tokenizer.is_none(), "tokenizer", SCORE))
            .or_else(|| fault(!generate || self.top_logprobs == default_top_logprobs(), "top-logprobs", SCORE))
            .or_else(|| fault(!generate || self.thresholds == Thresholds::default(), "thresholds", SCORE))
            .or_else(|| counting_fault(self.mode, self.max_reply_tokens, self.temperature, self.samples))
    }
}

impl From<&EndpointConfig> for EndpointSpec {
    fn from(config: &EndpointConfig) -> Self {
        Self {
            url: config.url.clone(),
            model: config.model.clone(),
            api_key_env: config.api_key_env.clone(),
            concurrency: config.concurrency,
            deadline: Duration::from_secs(config.deadline_seconds),
            patience: Duration::from_secs(config.patience_seconds),
        }
    }
}

fn default_concurrency() -> usize {
    16
}
fn default_deadline_seconds() -> u64 {
    120
}
fn default_patience_seconds() -> u64 {
    600
}
fn default_window_tokens() -> usize {
    1024
}
fn default_top_logprobs() -> usize {
    20
}
