//! A model behind an endpoint that writes: `/v1/chat/completions`.
//!
//! What servers do not agree on is found out before it is relied on, at the first prompt that needs it:
//! * A reply's beginning goes as a last, unfinished assistant message with `continue_final_message`, which vLLM, SGLang and
//!   llama.cpp know. A server that does not know it would answer the finished message with a new one, so it is proved first
//!   by a request that contradicts itself, which only those refuse who read the field. Whether replies repeat the beginning
//!   (llama.cpp) or not (vLLM) is seen from one reply.
//! * `top_k` is not OpenAI's; it is sent only if it is asked for, and a server that refuses it ends the work.

use super::answer::misshapen;
use super::client::{Client, Rejected};
use super::{Endpoint, EndpointSpec};
use crate::data::hub::{Notice, Stop};
use crate::error::{Exit, Failure};
use crate::generation::{Finish, GeneratorIdentity, Prompt, Reply, Sampling, TextGenerator, Unanswered};
use crate::lm::Message;
use serde_json::{Value, json};

const PATH: &str = "chat/completions";
/// What a judge in generate mode lives on.
const PROBE: &str = "<count>3</count>";
/// The beginning of a reply that no model would give by itself.
const BEGINNING: &str = "Zebra 7319:";

/// The generator, its server reached.
pub struct EndpointGenerator {
    identity: GeneratorIdentity,
    endpoint: Endpoint,
    /// How the server continues begun replies; `None` until the first.
    prefixes: Option<Prefixes>,
    takes_top_k: bool,
}

/// What comes back for a begun reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefixes {
    /// The beginning and its continuation.
    Repeated,
    /// The continuation alone.
    Continued,
}

impl EndpointGenerator {
    /// Reaches the server and finds the model on it.
    ///
    /// # Errors
    /// A [`Failure`]: `Usage` for an address, key or model that is not good, `Unavailable` for a server that stays away.
    pub fn connect(spec: &EndpointSpec, notice: &Notice, stop: &Stop) -> anyhow::Result<Self> {
        let endpoint = Endpoint::connect(spec, notice, stop)?;
        let identity = GeneratorIdentity {
            kind: "endpoint".into(),
            model: endpoint.model.clone(),
            revision: endpoint.revision.clone(),
        };
        Ok(Self { identity, endpoint, prefixes: None, takes_top_k: false })
    }

    /// Has the server write once, and says in one notice what came of it.
    ///
    /// # Errors
    /// A [`Failure`]: `Usage` for a server that refuses a plain question, as one without a chat template does, `Unavailable` for
    /// an answer of another shape.
    pub fn probe(&self) -> anyhow::Result<()> {
        let Endpoint { client, model, .. } = &self.endpoint;
        let url = client.url(PATH);
        let prompt = Prompt {
            messages: vec![Message { role: "user", content: format!("Answer with this and nothing else: {PROBE}") }],
            reply_prefix: String::new(),
            seed: 0,
        };
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_tokens: 64, stop: Vec::new() };
        let answer = client.post(PATH, &self.body(&prompt, &sampling))?.map_err(|Rejected { status, message }| {
            Failure::new(Exit::Usage, format!("`{url}` refuses a plain question (status {status}): {message}"))
                .hint("generate mode needs a model with a chat template")
        })?;
        let found = match self.reply(&prompt, &sampling, &answer)? {
            Ok(reply) if reply.text.contains(PROBE) => "writes a count when asked to",
            Ok(_) => "does not write a count as it is asked to: expect many replies without one",
            Err(_) => "did not answer a plain question: expect many documents without a count",
        };
        client.notice(&format!("`{url}`: `{model}` {found}"));
        Ok(())
    }

    /// Proves what these prompts need of the server.
    fn prepare(&mut self, prompts: &[Prompt], sampling: &Sampling) -> anyhow::Result<()> {
        let client = &self.endpoint.client;
        let url = client.url(PATH);
        if sampling.top_k > 0 && !self.takes_top_k {
            let body = json!({"model": self.identity.model, "messages": [{"role": "user", "content": "Say hello."}],
                "max_tokens": 1, "top_k": sampling.top_k});
            client.post(PATH, &body)?.map_err(|Rejected { status, message }| {
                Failure::new(Exit::Usage, format!("`{url}` does not take `top_k` (status {status}): {message}"))
                    .hint("set `top-k = 0`")
            })?;
            self.takes_top_k = true;
        }
        if self.prefixes.is_none() && prompts.iter().any(|prompt| !prompt.reply_prefix.is_empty()) {
            self.prefixes = Some(find_prefixes(client, &self.identity.model, &url)?);
        }
        Ok(())
    }

    fn body(&self, prompt: &Prompt, sampling: &Sampling) -> Value {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut messages: Vec<Value> = prompt.messages.iter().map(|turn| message(turn.role, &turn.content)).collect();
        let begun = !prompt.reply_prefix.is_empty();
        if begun {
            messages.push(message("assistant", &prompt.reply_prefix));
        }
        let mut body = json!({
            "model": self.identity.model,
            "messages": messages,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            // Some servers keep seeds in 32 bits with a sign, and some take the largest one for chance.
            "seed": prompt.seed & 0x7fff_ffff,
        });
        if sampling.top_k > 0 {
            body["top_k"] = sampling.top_k.into();
        }
        if !sampling.stop.is_empty() {
            body["stop"] = json!(sampling.stop);
        }
        if begun {
            body["continue_final_message"] = true.into();
            body["add_generation_prompt"] = false.into();
        }
        body
    }

    /// The reply in an answer.
    ///
    /// # Errors
    /// The outer one for an answer of a wrong shape, the inner one for a reply that is none.
    fn reply(&self, prompt: &Prompt, sampling: &Sampling, answer: &Value) -> anyhow::Result<Result<Reply, Unanswered>> {
        let lacks = |expected: &str| misshapen(&self.endpoint.client.url(PATH), expected);
        let choice = answer.pointer("/choices/0").ok_or_else(|| lacks("`choices`, a list with a reply in it"))?;
        let finish = match choice.get("finish_reason").and_then(Value::as_str) {
            Some("stop") => Finish::Stop,
            Some("length") => Finish::Length,
            other => {
                return Ok(Err(Unanswered(format!("the reply ended for the reason `{}`", other.unwrap_or("none")))));
            }
        };
        let content = choice.pointer("/message/content").ok_or_else(|| lacks("`message.content`, the reply's text"))?;
        let mut text = content.as_str().unwrap_or_default();
        if self.prefixes == Some(Prefixes::Repeated) && !prompt.reply_prefix.is_empty() {
            let Some(rest) = text.strip_prefix(&prompt.reply_prefix) else {
                return Ok(Err(Unanswered("the reply does not repeat its beginning, as other replies do".into())));
            };
            text = rest;
        }
        let end = sampling.stop.iter().filter_map(|stop| text.find(stop.as_str())).min().unwrap_or(text.len());
        let tokens = |place: &str| answer.pointer(place).and_then(Value::as_u64).unwrap_or(0);
        Ok(Ok(Reply {
            text: text[..end].to_owned(),
            finish: if end < text.len() { Finish::Stop } else { finish },
            prompt_tokens: tokens("/usage/prompt_tokens"),
            reply_tokens: tokens("/usage/completion_tokens"),
        }))
    }
}

impl TextGenerator for EndpointGenerator {
    fn identity(&self) -> &GeneratorIdentity {
        &self.identity
    }

    fn batch_size(&self) -> usize {
        2 * self.endpoint.client.concurrency()
    }

    fn generate(&mut self, prompts: &[Prompt], sampling: &Sampling) -> anyhow::Result<Vec<Result<Reply, Unanswered>>> {
        self.prepare(prompts, sampling)?;
        let bodies = prompts.iter().map(|prompt| Ok(vec![self.body(prompt, sampling)]));
        let answers = self.endpoint.client.post_lists(PATH, bodies, std::convert::identity)?;
        prompts
            .iter()
            .zip(answers)
            .map(|(prompt, answers)| match answers.first() {
                Some(Ok(answer)) => self.reply(prompt, sampling, answer),
                Some(Err(Rejected { status, message })) => {
                    Ok(Err(Unanswered(format!("the endpoint refuses the prompt (status {status}): {message}"))))
                }
                None => anyhow::bail!("a prompt was not sent"),
            })
            .collect()
    }
}

/// Whether and how the server continues begun replies.
fn find_prefixes(client: &Client, model: &str, url: &str) -> anyhow::Result<Prefixes> {
    let begun = |generation_prompt: bool| {
        let messages =
            json!([{"role": "user", "content": "Say something."}, {"role": "assistant", "content": BEGINNING}]);
        json!({"model": model, "messages": messages, "max_tokens": 1, "temperature": 0,
            "continue_final_message": true, "add_generation_prompt": generation_prompt})
    };
    let contradicts_itself = client.post(PATH, &begun(true))?;
    let continued = client.post(PATH, &begun(false))?;
    match (contradicts_itself, continued) {
        (Err(_), Ok(answer)) => {
            let text = answer.pointer("/choices/0/message/content").and_then(Value::as_str).unwrap_or_default();
            Ok(if text.starts_with(BEGINNING) { Prefixes::Repeated } else { Prefixes::Continued })
        }
        _ => Err(Failure::new(
            Exit::Usage,
            format!("`{url}` does not continue a begun reply (`continue_final_message`)"),
        )
        .hint("use a server that does: vLLM, SGLang or llama.cpp of 2026, or a local model")
        .into()),
    }
}
