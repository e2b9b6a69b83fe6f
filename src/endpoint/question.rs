//! What is sent: a stretch of a document and four questions about it, as bodies of requests.
//!
//! The document stands first and the question last, so that a server's prefix cache serves three of four questions.

use super::judge::EndpointJudgeSpec;
use crate::behavior::lm_judge::{Prompt, split_once};
use crate::behavior::windows::Windows;
use crate::lm::{Message, TextTokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Which of the server's two interfaces is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// `/v1/completions`: the prompt is sent as it is; with `tokenizer`, as tokens, in the model's own chat template.
    #[default]
    Completions,
    /// `/v1/chat/completions`: the server applies the model's chat template.
    Chat,
}

/// Characters that count as a token where there is no tokenizer to ask: fewer than mathematics in English has on average.
const CHARS_PER_TOKEN: usize = 3;

/// How questions are put to one server.
pub(super) struct Asking {
    api: Api,
    model: String,
    top_logprobs: usize,
    /// Further fields of every request.
    pub(super) extras: Map<String, Value>,
    window_tokens: usize,
    tokenizer: Option<TextTokenizer>,
    /// What stands before the document, between it and the question, and after that.
    pieces: [String; 3],
    questions: [String; 4],
    /// The same as tokens, in the model's chat template, if that is what is sent.
    tokens: Option<Prompt>,
}

/// A stretch of a document.
pub(super) struct Stretch<'a> {
    pub text: &'a str,
    /// Empty without a tokenizer.
    pub tokens: Vec<u32>,
    pub chars: u64,
}

impl Asking {
    /// # Errors
    /// A template without its two places; a tokenizer that cannot be read, or in which no single token says yes or no.
    pub(super) fn new(spec: &EndpointJudgeSpec, model: &str) -> anyhow::Result<Self> {
        let tokenizer = spec.tokenizer.as_deref().map(TextTokenizer::open).transpose()?;
        let tokens = tokenizer.as_ref().filter(|_| spec.api == Api::Completions);
        let tokens = tokens.map(|tokenizer| Prompt::new(tokenizer, &spec.template, &spec.questions)).transpose()?;
        let (before, rest) = split_once(&spec.template, "{document}", "{document}")?;
        let (between, tail) = split_once(rest, "{question}", "{question}")?;
        Ok(Self {
            api: spec.api,
            model: model.to_owned(),
            top_logprobs: spec.top_logprobs,
            extras: Map::new(),
            window_tokens: spec.window_tokens,
            tokenizer,
            pieces: [before, between, tail].map(str::to_owned),
            questions: spec.questions.clone(),
            tokens,
        })
    }

    /// The path below `/v1`.
    pub(super) fn path(&self) -> &'static str {
        match self.api {
            Api::Completions => "completions",
            Api::Chat => "chat/completions",
        }
    }

    /// The stretches of a text that are asked about one by one. They cover it and do not overlap.
    pub(super) fn stretches<'a>(&'a self, text: &'a str) -> Box<dyn Iterator<Item = anyhow::Result<Stretch<'a>>> + 'a> {
        let mut rest = text;
        match &self.tokenizer {
            Some(tokenizer) => Box::new(Windows::new(tokenizer, text, self.window_tokens).map(move |window| {
                let window = window?;
                let end = rest.char_indices().nth(window.chars as usize).map_or(rest.len(), |(end, _)| end);
                let (text, after) = rest.split_at(end);
                rest = after;
                Ok(Stretch { text, tokens: window.tokens, chars: window.chars })
            })),
            None => Box::new(std::iter::from_fn(move || {
                let (text, after) = rest.split_at(cut(rest, self.window_tokens * CHARS_PER_TOKEN));
                rest = after;
                let stretch = Stretch { text, tokens: Vec::new(), chars: text.chars().count() as u64 };
                (!text.is_empty()).then_some(Ok(stretch))
            })),
        }
    }

    /// The four questions about a stretch, in the order of [`crate::behavior::Behavior::ALL`].
    pub(super) fn about(&self, stretch: &Stretch<'_>) -> Vec<Value> {
        match &self.tokens {
            Some(prompt) => {
                let shared = [&prompt.before[..], &stretch.tokens].concat();
                prompt.after.iter().map(|after| self.completion(json!([&shared[..], after].concat()))).collect()
            }
            None => {
                let [before, between, tail] = &self.pieces;
                let shared = [before, stretch.text, between].concat();
                self.questions
                    .iter()
                    .map(|question| self.written([&shared, question.as_str(), tail].concat()))
                    .collect()
            }
        }
    }

    /// A question about nothing, in the frame in which documents are asked about.
    ///
    /// A template that cannot be rendered has been refused by then; the question is put without one.
    pub(super) fn plain(&self, question: &str) -> Value {
        let rendered = self.tokenizer.as_ref().filter(|_| self.tokens.is_some()).and_then(|tokenizer| {
            let message = Message { role: "user", content: question.to_owned() };
            let text = tokenizer.chat()?.render(&[message], true).ok()?;
            tokenizer.encode_markup(&text).ok()
        });
        match (rendered, self.api) {
            (Some(tokens), _) => self.completion(json!(tokens)),
            (None, Api::Chat) => self.written(question.to_owned()),
            (None, Api::Completions) => self.written(format!("{question}\nAnswer:")),
        }
    }

    fn written(&self, text: String) -> Value {
        match self.api {
            Api::Completions => self.completion(Value::String(text)),
            Api::Chat => self.body(json!({
                "messages": [{"role": "user", "content": text}],
                "logprobs": true,
                "top_logprobs": self.top_logprobs,
            })),
        }
    }

    fn completion(&self, prompt: Value) -> Value {
        self.body(json!({"prompt": prompt, "logprobs": self.top_logprobs}))
    }

    fn body(&self, mut body: Value) -> Value {
        if let Value::Object(fields) = &mut body {
            fields.insert("model".into(), self.model.as_str().into());
            fields.insert("max_tokens".into(), 1.into());
            fields.insert("temperature".into(), 0.into());
            fields.extend(self.extras.clone());
        }
        body
    }

    /// Everything of it that shapes an answer, for the identity of labels.
    pub(super) fn fingerprint(&self) -> Value {
        let tokens = self.tokens.as_ref().map(|prompt| json!([prompt.before, prompt.after]));
        json!([
            self.api,
            self.top_logprobs,
            self.extras,
            self.window_tokens,
            self.tokenizer.is_some(),
            tokens,
            self.pieces,
            self.questions
        ])
    }
}

/// Where a window of at most `size` characters ends, in bytes: after a line, else after a blank, if either is in its later half.
fn cut(text: &str, size: usize) -> usize {
    let Some((end, _)) = text.char_indices().nth(size) else { return text.len() };
    let window = &text[..end];
    let later = |at: &usize| *at > end / 2;
    let after = |mark: char| window.rfind(mark).map(|at| at + mark.len_utf8()).filter(later);
    after('\n').or_else(|| after(' ')).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(api: Api, window_tokens: usize) -> Asking {
        let mut spec = EndpointJudgeSpec::new(crate::endpoint::EndpointSpec::new("http://x"));
        spec.api = api;
        spec.window_tokens = window_tokens;
        spec.template = "T: {document}\nQ: {question}\nA:".into();
        Asking::new(&spec, "m").unwrap()
    }

    #[test]
    fn windows_by_characters_cover_the_text() {
        let check = |text: &str, expect: &[&str]| {
            let asking = asking(Api::Completions, 2);
            let found: Vec<_> = asking.stretches(text).map(|stretch| stretch.unwrap().text).collect();
            assert_eq!(found, expect);
        };
        check("", &[]);
        check("ééé", &["ééé"]);
        check("abcdef", &["abcdef"]);
        check("abcdefgh", &["abcdef", "gh"]);
        check("abcd efgh", &["abcd ", "efgh"]);
        check("a bcdefgh", &["a bcde", "fgh"]);
        check("abcd\n efgh", &["abcd\n", " efgh"]);
    }

    #[test]
    fn the_document_comes_first_and_is_never_a_place() {
        let stretch = Stretch { text: "a {question} b", tokens: Vec::new(), chars: 14 };
        let bodies = asking(Api::Completions, 9).about(&stretch);
        assert_eq!(bodies.len(), 4);
        let first = bodies[0]["prompt"].as_str().unwrap();
        assert!(first.starts_with("T: a {question} b\nQ: Does the writer check") && first.ends_with("\nA:"), "{first}");
        assert_eq!((&bodies[0]["logprobs"], &bodies[0]["model"]), (&json!(20), &json!("m")));

        let bodies = asking(Api::Chat, 9).about(&stretch);
        assert_eq!(bodies[3]["messages"][0]["role"], "user");
        assert_eq!((&bodies[3]["logprobs"], &bodies[3]["top_logprobs"]), (&json!(true), &json!(20)));
    }
}
