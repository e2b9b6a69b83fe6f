//! Many sequences decoded side by side: prompts in, sampled tokens with their log-probabilities out.
//!
//! Every step takes all live sequences through the decoder as one batch: a new one with its whole prompt, the others
//! with the token drawn last. A sequence that ends makes room for the next request. Where there are enough sequences,
//! every thread decodes some of them by itself, see [`lanes`]. What is drawn for a request depends on its prompt and its
//! seed, and on nothing else in the batch.

mod lanes;

use super::cache::KvCache;
use super::decoder::Decoder;
use super::ops::floats;
use super::sampler::{Draw, NotANumber, Sampler, SamplingRule};
use super::text_stream::TextStream;
use super::tokenizer::TextTokenizer;
use crate::error::{Exit, Failure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// A prompt to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// At most so many tokens are drawn.
    pub max_tokens: usize,
    /// The seed of this request's own random stream.
    pub seed: u64,
}

/// What ends a sequence before its token limit.
#[derive(Clone, Copy, Default)]
pub struct Endings<'a> {
    pub tokens: &'a [u32],
    /// Strings in the decoded text, and the tokenizer that decodes it; with it generations have their text.
    pub strings: Option<(&'a TextTokenizer, &'a [String])>,
}

/// How many sequences run at once. None of it changes what is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    pub sequences: usize,
    /// The keys and values of all live sequences, at the longest they may get, take at most so many bytes; one sequence
    /// is always let in.
    pub cache_bytes: usize,
    /// Prompts that are read in the same step have at most so many tokens; one is always read, whole.
    pub prompt_tokens: usize,
}

impl Default for BatchLimits {
    /// 64 sequences, 1 GiB of keys and values, 4,096 prompt tokens at once.
    fn default() -> Self {
        Self { sequences: 64, cache_bytes: 1 << 30, prompt_tokens: 4096 }
    }
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// The token limit, or the end of the model's context.
    Length,
}

/// What was drawn after a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// All tokens drawn, an end token included.
    pub tokens: Vec<u32>,
    /// The log-probability of each in the model's own distribution: temperature 1, all tokens.
    pub logprobs: Vec<f32>,
    pub finish: Finish,
    /// The text up to an end token or a stop string, without them; `None` without a tokenizer.
    pub text: Option<String>,
}

/// Why one request has no generation: a prompt as long as the context, or logits that are not numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Ungenerated(pub String);

/// A request's index, the request, and how many tokens it may get.
type Waiting<'a> = (usize, &'a Request, usize);

type Answer = Result<Generation, Ungenerated>;

impl Decoder {
    /// Continues every request; the answers are in the order of `requests`, one each.
    ///
    /// # Errors
    /// A [`Failure`] for a sampling rule that makes no sense and for a token beyond the vocabulary; the tokenizer's failure.
    pub fn generate(
        &self,
        requests: &[Request],
        rule: SamplingRule,
        endings: Endings<'_>,
        limits: BatchLimits,
    ) -> anyhow::Result<Vec<Result<Generation, Ungenerated>>> {
        if let Some(fault) = rule.fault() {
            return Err(Failure::new(Exit::Usage, fault).into());
        }
        let mut answers = vec![Err(Ungenerated(String::new())); requests.len()];
        let mut waiting = Vec::new();
        for (index, request) in requests.iter().enumerate().rev() {
            match self.room(request) {
                Ok(room) => waiting.push((index, request, room)),
                Err(why) => answers[index] = Err(why),
            }
        }
        let lanes = self.lanes(&waiting, limits);
        self.meter.share(lanes.count);
        let waiting = Mutex::new(waiting);
        let done = lanes.run(|limits| self.lane(&waiting, rule, endings, limits));
        self.meter.share(1);
        for (index, answer) in done? {
            answers[index] = answer;
        }
        Ok(answers)
    }

    /// Decodes what is waiting, until nothing is: answers with their requests' indices.
    fn lane<'a>(
        &self,
        waiting: &Mutex<Vec<Waiting<'a>>>,
        rule: SamplingRule,
        endings: Endings<'a>,
        limits: BatchLimits,
    ) -> anyhow::Result<Vec<(usize, Answer)>> {
        let mut answers = Vec::new();
        let mut live: Vec<Sequence<'_>> = Vec::new();
        loop {
            self.admit(&mut waiting.lock().unwrap_or_else(PoisonError::into_inner), &mut live, rule, endings, limits);
            if live.is_empty() {
                return Ok(answers);
            }
            self.step(&mut live, endings.tokens)?;
            for mut sequence in live.extract_if(.., |sequence| sequence.outcome.is_some()) {
                let request = sequence.request;
                if let Some(outcome) = sequence.outcome.take() {
                    answers.push((request, sequence.answer(outcome)?));
                }
            }
        }
    }

    /// How many tokens a request may get.
    fn room(&self, request: &Request) -> Result<usize, Ungenerated> {
        let (tokens, context) = (request.prompt.len(), self.config().max_positions);
        match context.checked_sub(tokens) {
            _ if tokens == 0 => Err(Ungenerated("the prompt is empty".into())),
            None | Some(0) => {
                Err(Ungenerated(format!("the prompt has {tokens} tokens and the model's context is {context}")))
            }
            Some(room) => Ok(room.min(request.max_tokens)),
        }
    }

    /// Moves requests from the end of `waiting` into the batch, as far as the limits allow.
    fn admit<'a>(
        &self,
        waiting: &mut Vec<Waiting<'a>>,
        live: &mut Vec<Sequence<'a>>,
        rule: SamplingRule,
        endings: Endings<'a>,
        limits: BatchLimits,
    ) {
        let mut bytes: usize = live.iter().map(|sequence| sequence.bytes).sum();
        let mut tokens = 0;
        while let Some(&(request, Request { prompt, seed, .. }, room)) = waiting.last() {
            let own = self.cache_bytes(prompt.len() + room);
            let fits = live.len() < limits.sequences.max(1)
                && bytes + own <= limits.cache_bytes
                && (tokens == 0 || tokens + prompt.len() <= limits.prompt_tokens);
            if !fits && !live.is_empty() {
                break;
            }
            waiting.pop();
            bytes += own;
            tokens += prompt.len();
            live.push(Sequence {
                request,
                cache: self.cache(),
                bytes: own,
                prompt,
                room,
                sampler: Sampler::new(rule, *seed),
                tokens: Vec::with_capacity(room),
                logprobs: Vec::with_capacity(room),
                stream: endings.strings.map(|(tokenizer, stop)| TextStream::new(tokenizer, stop)),
                outcome: (room == 0).then_some(Ok(Finish::Length)),
            });
        }
    }

    /// One token more for every sequence that has not ended.
    fn step(&self, live: &mut [Sequence<'_>], end_tokens: &[u32]) -> anyhow::Result<()> {
        let mut running: Vec<&mut Sequence<'_>> =
            live.iter_mut().filter(|sequence| sequence.outcome.is_none()).collect();
        if running.is_empty() {
            return Ok(());
        }
        let (mut caches, inputs): (Vec<&mut KvCache>, Vec<&[u32]>) =
            running.iter_mut().map(|sequence| sequence.input()).unzip();
        let hidden = self.extend(&mut caches, &inputs)?;
        let logits = self.logits(&hidden)?;
        let logits = floats(&logits)?;
        let rows = logits.get().par_chunks_exact(self.config().vocab_size);
        running.into_par_iter().zip(rows).try_for_each(|(sequence, row)| sequence.take(row, end_tokens))
    }
}

/// A request that is being continued.
struct Sequence<'a> {
    request: usize,
    cache: KvCache,
    /// What the cache may come to take.
    bytes: usize,
    prompt: &'a [u32],
    room: usize,
    sampler: Sampler,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    stream: Option<TextStream<'a>>,
    /// `None` while it goes on.
    outcome: Option<Result<Finish, NotANumber>>,
}

impl Sequence<'_> {
    /// What the decoder has not seen of it yet, and where it goes.
    fn input(&mut self) -> (&mut KvCache, &[u32]) {
        let input = match self.tokens.as_slice() {
            [] => self.prompt,
            [.., last] => std::slice::from_ref(last),
        };
        (&mut self.cache, input)
    }

    /// Draws the next token.
    fn take(&mut self, logits: &[f32], end_tokens: &[u32]) -> anyhow::Result<()> {
        let Draw { token, logprob } = match self.sampler.draw(logits) {
            Ok(draw) => draw,
            Err(fault) => {
                self.outcome = Some(Err(fault));
                return Ok(());
            }
        };
        self.tokens.push(token);
        self.logprobs.push(logprob);
        if let ControlFlow::Break(finish) = self.ends_with(token, end_tokens)? {
            self.outcome = Some(Ok(finish));
        }
        Ok(())
    }

    fn ends_with(&mut self, token: u32, end_tokens: &[u32]) -> anyhow::Result<ControlFlow<Finish>> {
        if end_tokens.contains(&token) {
            return Ok(ControlFlow::Break(Finish::Stop));
        }
        if let Some(stream) = &mut self.stream
            && stream.push(token)?
        {
            return Ok(ControlFlow::Break(Finish::Stop));
        }
        Ok(if self.tokens.len() == self.room { ControlFlow::Break(Finish::Length) } else { ControlFlow::Continue(()) })
    }

    fn answer(self, outcome: Result<Finish, NotANumber>) -> anyhow::Result<Result<Generation, Ungenerated>> {
        let finish = match outcome {
            Ok(finish) => finish,
            Err(fault) => return Ok(Err(Ungenerated(fault.to_string()))),
        };
        let text = self.stream.map(TextStream::finish).transpose()?;
        Ok(Ok(Generation { tokens: self.tokens, logprobs: self.logprobs, finish, text }))
    }
}
