//! A local language model as judge: how it is asked, and what keys go together.

use super::Thresholds;
use crate::lm::Precision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A local language model as judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LmConfig {
    /// A Hugging Face folder, a `.gguf` file, `hf://OWNER/REPO@REVISION`, or `embedded`: the small judge that is part of the program.
    /// Architectures: `llama`, `mistral`, `qwen2`, `qwen3`, and in `score` mode from a folder `gemma3_text` and `phi3`.
    pub model: String,
    /// How the model is asked: `score` reads the document once, then four short questions, and takes the probability of the
    /// answer "yes" without decoding; `generate` lets it think in words and count, for each behavior anew, which takes tens to
    /// hundreds of times longer. There a score is the share of replies that found any instance.
    #[serde(default)]
    pub mode: LmMode,
    /// The numbers that the model multiplies: `f32`, or, faster where the processor has it and less exact, `bf16` or `int8`.
    #[serde(default)]
    pub precision: Precision,
    /// A folder with prompts of your own: `document.txt` and one `<behavior>.txt` each; in `generate` mode `count.txt` and one
    /// `count_<behavior>.txt` each. Missing files fall back to the embedded ones.
    pub prompts: Option<String>,
    /// A longer document is cut into windows of this many tokens, on token boundaries; its score is the highest of its windows'.
    /// Those of `embedded` have at most 190.
    /// In `generate` mode a token counts as four characters, windows end behind a blank, and counts are added up.
    #[serde(default = "LmConfig::default_window_tokens")]
    pub window_tokens: usize,
    /// At most this many windows are read of a document; 0 reads all. What was read stands in `chars_read`.
    #[serde(default)]
    pub max_windows: usize,
    /// Tokens per forward pass. More uses more memory. It does not change labels.
    #[serde(default = "LmConfig::default_batch_tokens")]
    pub batch_tokens: usize,
    /// Whether all layers stand in memory ready to multiply (`widened`) or the file's own, quantised or not, are read anew for
    /// every batch (`kept`): slower, and in the memory of one layer. It does not change labels. `score` mode only.
    #[serde(default)]
    pub weights: Weights,
    /// The probability from which a behavior counts as shown; if absent 0.5, or for `embedded` what was fitted to it. `score` mode only.
    pub thresholds: Option<Thresholds>,
    /// Thoughts and count together have at most so many tokens. `generate` mode only; 1024 if absent.
    pub max_reply_tokens: Option<usize>,
    /// 0 takes the likeliest token, always; more makes replies vary. `generate` mode only; 0 if absent.
    pub temperature: Option<f32>,
    /// How many replies are drawn for each window and behavior: the score is the share of those that found any instance, the
    /// count their median. More than one needs a temperature. `generate` mode only; 1 if absent.
    pub samples: Option<u32>,
}

/// How a language model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LmMode {
    #[default]
    Score,
    Generate,
}

/// How a local model's weights are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    #[default]
    Widened,
    Kept,
}

impl LmConfig {
    fn default_window_tokens() -> usize {
        1024
    }
    fn default_batch_tokens() -> usize {
        4096
    }

    /// The first key whose value makes no sense, and what was expected of it. Thresholds are checked elsewhere.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        let range = |holds: bool, key, expected| (!holds).then_some((key, expected));
        let found =
            range(!self.model.is_empty(), "model", "expected a folder, a `.gguf` file or `hf://OWNER/REPO@REVISION`")
                .or_else(|| {
                    let window = (16..=131_072).contains(&self.window_tokens);
                    range(window, "window-tokens", "expected a number from 16 to 131,072")
                })
                .or_else(|| {
                    range(self.batch_tokens >= self.window_tokens, "batch-tokens", "expected at least `window-tokens`")
                });
        let generate = self.mode == LmMode::Generate;
        found
            .or_else(|| {
                let read = !generate || self.weights == Weights::Widened;
                range(read, "weights", "`kept` belongs to `mode = \"score\"`")
            })
            .or_else(|| {
                let read = !generate || self.thresholds.is_none();
                range(read, "thresholds", "belongs to `mode = \"score\"`")
            })
            .or_else(|| counting_fault(self.mode, self.max_reply_tokens, self.temperature, self.samples))
    }
}

/// The first key of those that only [`LmMode::Generate`] reads that should not be there, or whose value makes no sense, and
/// what was expected of it.
pub(super) fn counting_fault(
    mode: LmMode,
    max_reply_tokens: Option<usize>,
    temperature: Option<f32>,
    samples: Option<u32>,
) -> Option<(&'static str, &'static str)> {
    let fault = |holds: bool, key, expected| (!holds).then_some((key, expected));
    if mode == LmMode::Score {
        const ONLY: &str = "belongs to `mode = \"generate\"`";
        return fault(max_reply_tokens.is_none(), "max-reply-tokens", ONLY)
            .or_else(|| fault(temperature.is_none(), "temperature", ONLY))
            .or_else(|| fault(samples.is_none(), "samples", ONLY));
    }
    let (reply, temperature, samples) =
        (max_reply_tokens.unwrap_or(1), temperature.unwrap_or(0.0), samples.unwrap_or(1));
    fault((1..=131_072).contains(&reply), "max-reply-tokens", "expected a number from 1 to 131,072")
        .or_else(|| fault((0.0..=10.0).contains(&temperature), "temperature", "expected a number from 0 to 10"))
        .or_else(|| fault((1..=1000).contains(&samples), "samples", "expected a number from 1 to 1,000"))
        .or_else(|| {
            let vary = samples == 1 || temperature > 0.0;
            fault(vary, "samples", "more than one sample needs a `temperature` above 0, or all are equal")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str, expect: Option<&str>) {
        let config: LmConfig = toml::from_str(&format!("model = \"m\"\n{toml}")).unwrap();
        assert_eq!(config.fault().map(|(key, _)| key), expect, "{toml}");
    }

    #[test]
    fn keys_belong_to_their_mode() {
        check("", None);
        check("window-tokens = 8", Some("window-tokens"));
        check("batch-tokens = 100", Some("batch-tokens"));
        check("samples = 1", Some("samples"));
        check("max-reply-tokens = 10", Some("max-reply-tokens"));
        check("mode = \"generate\"", None);
        check("mode = \"generate\"\ntemperature = 0.7\nsamples = 5\nmax-reply-tokens = 10", None);
        check("mode = \"generate\"\nsamples = 2", Some("samples"));
        check("mode = \"generate\"\nsamples = 0", Some("samples"));
        check("mode = \"generate\"\ntemperature = -1.0", Some("temperature"));
        check("mode = \"generate\"\nmax-reply-tokens = 0", Some("max-reply-tokens"));
        check("mode = \"generate\"\nthresholds.verification = 0.4", Some("thresholds"));
    }
}
