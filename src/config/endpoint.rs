//! A model behind a server: how it is reached, and how it judges.

use super::Thresholds;
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

/// A model behind a server as judge, in score mode: each of the four questions about a document is one request, and the
/// probability of the answer "yes" is read off its logprobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EndpointJudgeConfig {
    /// The server's address, such as `http://localhost:8000/v1`. Not part of the plan: the same model elsewhere answers the same.
    pub url: String,
    /// The model's id, as the server lists it. May be absent if it serves one alone; named, it is part of the plan.
    pub model: Option<String>,
    /// `completions`: the prompt is sent as it is, or, with `tokenizer`, as tokens in the model's chat template.
    /// `chat`: the server applies the chat template.
    #[serde(default)]
    pub api: Api,
    /// The name of the environment variable that holds the API key; absent if the server wants none.
    pub api_key_env: Option<String>,
    /// Windows of documents under way at once.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// Seconds that an answer may take before it is asked for again.
    #[serde(default = "default_deadline_seconds")]
    pub deadline_seconds: u64,
    /// Seconds that the server may go without answering anything before the run ends with exit code 69.
    #[serde(default = "default_patience_seconds")]
    pub patience_seconds: u64,
    /// The model's tokenizer: a Hugging Face folder or a `.gguf` file. With it windows are exact and prompts are what
    /// `[classify.lm]` would read; without it text is sent and windows are cut by characters.
    pub tokenizer: Option<String>,
    /// A folder with prompts of your own: `document.txt` and one `<behavior>.txt` each. Missing files fall back to the embedded ones.
    pub prompts: Option<String>,
    /// A longer document is cut into windows of this many tokens (without `tokenizer`, of three times as many characters);
    /// its score is the highest of its windows'.
    #[serde(default = "default_window_tokens")]
    pub window_tokens: usize,
    /// At most this many windows are read of a document; 0 reads all. What was read stands in `chars_read`.
    #[serde(default)]
    pub max_windows: usize,
    /// The likeliest next tokens that are asked for, among which yes and no must be. vLLM gives 20 unless it is started with
    /// `--max-logprobs`.
    #[serde(default = "default_top_logprobs")]
    pub top_logprobs: usize,
    /// The probability from which a behavior counts as shown.
    #[serde(default)]
    pub thresholds: Thresholds,
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
