//! A model behind an endpoint as judge, in score mode: the probability of yes against no as the next token.

use super::answer::{answer_mass, candidates, misshapen, share_of_yes};
use super::client::{Answers, Rejected};
use super::constraint;
use super::question::Asking;
use super::{Endpoint, EndpointSpec};
use crate::behavior::Behavior;
use crate::behavior::judge::{Judge, JudgeIdentity, Labels, Unjudgeable};
use crate::behavior::lm_judge::{Document, LmJudgeSpec};
use crate::data::hub::{Notice, Stop};
use crate::error::{Exit, Failure};
use serde_json::json;
use std::path::PathBuf;

pub use super::question::Api;

/// What can be chosen about an [`EndpointJudge`].
#[derive(Debug, Clone)]
pub struct EndpointJudgeSpec {
    pub endpoint: EndpointSpec,
    pub api: Api,
    /// A Hugging Face folder or a `.gguf` file: windows are cut on its tokens, and [`Api::Completions`] sends tokens, in its
    /// chat template, exactly as [`crate::behavior::lm_judge::LmJudge`] reads them.
    pub tokenizer: Option<PathBuf>,
    /// One question per behavior, in the order of [`Behavior::ALL`].
    pub questions: [String; 4],
    /// What the model is shown, with `{document}` and then `{question}` in it, once each.
    pub template: String,
    /// A longer document is cut into windows of this many tokens; without a tokenizer, of three times as many characters.
    pub window_tokens: usize,
    /// At most this many windows are read of a document; 0 for all.
    pub max_windows: usize,
    /// A window whose score reaches its behavior's threshold counts as one instance.
    pub thresholds: [f32; 4],
    /// So many of the likeliest next tokens are asked for.
    pub top_logprobs: usize,
}

impl EndpointJudgeSpec {
    /// The prompts, windows and thresholds of [`LmJudgeSpec::new`], 20 logprobs, `/v1/completions` without a tokenizer.
    pub fn new(endpoint: EndpointSpec) -> Self {
        let local = LmJudgeSpec::new("");
        Self {
            endpoint,
            api: Api::default(),
            tokenizer: None,
            questions: local.questions,
            template: local.template,
            window_tokens: local.window_tokens,
            max_windows: local.max_windows,
            thresholds: local.thresholds,
            top_logprobs: 20,
        }
    }
}

/// The judge, its server reached and found able.
pub struct EndpointJudge {
    identity: JudgeIdentity,
    endpoint: Endpoint,
    asking: Asking,
    max_windows: usize,
    thresholds: [f32; 4],
}

/// A question that every model answers with yes or no.
const PROBE: &str = "Is seven a number? Answer yes or no.";

impl EndpointJudge {
    /// Reaches the server and finds out what it can do; says so in one notice.
    ///
    /// # Errors
    /// A [`Failure`]: `Usage` for what the recipe should change (address, key, model, prompts, `top-logprobs`), `Unavailable`
    /// for a server that stays away, or whose answers are not what was asked for.
    pub fn connect(spec: &EndpointJudgeSpec, notice: &Notice, stop: &Stop) -> anyhow::Result<Self> {
        // What is wrong with the prompts is said before anybody is asked.
        Asking::new(spec, "")?;
        let endpoint = Endpoint::connect(&spec.endpoint, notice, stop)?;
        let mut asking = Asking::new(spec, &endpoint.model)?;
        let found = probe(&endpoint, &mut asking, spec)?;
        endpoint.client.notice(&found);
        let rest = json!([asking.fingerprint(), spec.max_windows, spec.thresholds.map(f32::to_bits)]);
        let identity = JudgeIdentity {
            kind: "endpoint".into(),
            model: endpoint.model.clone(),
            revision: endpoint.revision.clone(),
            prompt_hash: blake3::hash(rest.to_string().as_bytes()).to_hex()[..16].to_owned(),
        };
        Ok(Self { identity, endpoint, asking, max_windows: spec.max_windows, thresholds: spec.thresholds })
    }

    /// What one stretch's answers say.
    ///
    /// # Errors
    /// The outer one for answers of a wrong shape, the inner one for a stretch that has no scores.
    fn scores(&self, answers: Answers<Reading>) -> anyhow::Result<Result<[f32; 4], String>> {
        let mut scores = [0.0; 4];
        for ((score, behavior), answer) in scores.iter_mut().zip(Behavior::ALL).zip(answers) {
            let share = match answer {
                Ok(reading) => {
                    reading.map_err(|expected| misshapen(&self.endpoint.client.url(self.asking.path()), expected))?
                }
                Err(Rejected { status, message }) => {
                    return Ok(Err(format!("the endpoint refuses it (status {status}): {message}")));
                }
            };
            match share {
                Ok(share) => *score = share,
                Err(why) => return Ok(Err(format!("{}: {why}", behavior.name()))),
            }
        }
        Ok(Ok(scores))
    }
}

/// What one answer says: the share of yes or why there is none; or what the answer lacks.
type Reading = Result<Result<f32, String>, &'static str>;

impl Judge for EndpointJudge {
    fn identity(&self) -> &JudgeIdentity {
        &self.identity
    }

    /// Twice as many as windows are under way at once: most documents are one window, and the end of a batch is not idle for long.
    fn batch_size(&self) -> usize {
        2 * self.endpoint.client.concurrency()
    }

    fn judge(&mut self, texts: &[&str]) -> anyhow::Result<Vec<Result<Labels, Unjudgeable>>> {
        let mut documents: Vec<Document> = texts.iter().map(|text| Document::new(text)).collect();
        let limit = if self.max_windows == 0 { usize::MAX } else { self.max_windows };
        let readable = texts.iter().enumerate().filter(|(owner, _)| documents[*owner].problem.is_none());
        let readable: Vec<(usize, &str)> = readable.map(|(owner, text)| (owner, *text)).collect();

        let mut owners = Vec::new();
        let stretches = readable
            .into_iter()
            .flat_map(|(owner, text)| self.asking.stretches(text).take(limit).map(move |stretch| (owner, stretch)));
        let lists = stretches.map(|(owner, stretch)| {
            let stretch = stretch?;
            owners.push(owner);
            let labels = &mut documents[owner].labels;
            labels.chars_read += stretch.chars;
            labels.tokens_read += stretch.tokens.len() as u64;
            labels.windows += 1;
            Ok(self.asking.about(&stretch))
        });
        let answers = self.endpoint.client.post_lists(self.asking.path(), lists, |answer| {
            candidates(&answer).map(|candidates| share_of_yes(&candidates))
        })?;

        for (owner, answers) in owners.into_iter().zip(answers) {
            match self.scores(answers)? {
                Ok(scores) => documents[owner].add(scores, &self.thresholds),
                Err(problem) => documents[owner].problem = Some(Unjudgeable(problem)),
            }
        }
        Ok(documents.into_iter().map(Document::finish).collect())
    }
}

/// Finds out what the server can do, sets `asking` up for it, and tells it in one sentence.
fn probe(endpoint: &Endpoint, asking: &mut Asking, spec: &EndpointJudgeSpec) -> anyhow::Result<String> {
    let client = &endpoint.client;
    let url = client.url(asking.path());
    if spec.api == Api::Chat {
        // Thoughts would stand where the answer is read. Servers that do not know this field refuse it or pass over it.
        asking.extras.insert("chat_template_kwargs".into(), json!({"enable_thinking": false}));
    }
    let mut answer = client.post(asking.path(), &asking.plain(PROBE))?;
    if answer.is_err() && !asking.extras.is_empty() {
        asking.extras.clear();
        answer = client.post(asking.path(), &asking.plain(PROBE))?;
    }
    let answer = answer.map_err(|Rejected { status, message }| {
        Failure::new(
            Exit::Usage,
            format!("`{url}` refuses a one-token question with logprobs (status {status}): {message}"),
        )
        .hint("lower `top-logprobs` if the server gives fewer, or try the other `api`")
    })?;
    let shown = candidates(&answer).map_err(|expected| misshapen(&url, expected))?;
    let constraint = constraint::find(client, asking)?;
    let how = match &constraint {
        Some(constraint) if constraint.shown => {
            asking.extras.extend(constraint.fields.clone());
            format!("`{}` keeps answers to yes and no, and logprobs show it", constraint.name)
        }
        Some(constraint) => {
            format!("`{}` is honoured but logprobs are taken before it, so plain ones are read", constraint.name)
        }
        None => "no constraint is honoured, so plain logprobs are read".to_owned(),
    };
    if !constraint.is_some_and(|constraint| constraint.shown) && answer_mass(&shown) == 0.0 {
        let likeliest: Vec<&str> = shown.iter().take(3).map(|(token, _)| token.as_str()).collect();
        let message = format!(
            "`{}` at `{url}` answers a yes-or-no question with {likeliest:?}: neither yes nor no is among its {} likeliest tokens",
            endpoint.model,
            shown.len()
        );
        return Err(Failure::new(Exit::Usage, message)
            .hint("score mode needs a model that answers in words: try `api = \"chat\"`, a `tokenizer` or more `top-logprobs`")
            .into());
    }
    let revision = if endpoint.revision.is_empty() { String::new() } else { format!(" ({})", endpoint.revision) };
    let fewer =
        if shown.len() < spec.top_logprobs { format!(" of {} asked for", spec.top_logprobs) } else { String::new() };
    Ok(format!("endpoint `{url}`: model `{}`{revision}, {} logprobs{fewer}; {how}", endpoint.model, shown.len()))
}
