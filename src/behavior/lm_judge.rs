//! A local language model as judge, in score mode: it reads a document once, then four short questions, and the
//! probability of "yes" against "no" as the next token is the score. Nothing is decoded.
//!
//! A document's tokens pass once for all four questions: each question is a short continuation that sees the document
//! and not the other questions. Many documents are packed into one batch without padding.

use super::Behavior;
use super::judge::{Judge, JudgeIdentity, Labels, Mark, Unjudgeable};
use super::windows::{Window, Windows};
use crate::error::{Exit, Failure};
use crate::lm::{
    Checkpoint, Message, Meter, Packed, Part, Precision, Scorer, TextTokenizer, WeightStorage, load_scorer,
    precision_on,
};
use candle_core::Device;
use rayon::prelude::*;
use std::ops::Range;
use std::path::PathBuf;

/// What can be chosen about an [`LmJudge`].
#[derive(Debug, Clone)]
pub struct LmJudgeSpec {
    /// A Hugging Face folder or a `.gguf` file.
    pub model: PathBuf,
    /// One question per behavior, in the order of [`Behavior::ALL`].
    pub questions: [String; 4],
    /// What the model is shown, with `{document}` and then `{question}` in it, once each.
    pub template: String,
    /// A longer document is cut into windows of this many tokens.
    pub window_tokens: usize,
    /// At most this many windows are read of a document; 0 for all.
    pub max_windows: usize,
    /// About how many tokens go through the model at once. Changes speed and memory, not labels.
    pub batch_tokens: usize,
    /// A window whose score reaches its behavior's threshold counts as one instance.
    pub thresholds: [f32; 4],
    pub device: Device,
    /// The numbers that the model multiplies; f32 is exact, bf16 twice as fast where the processor has it.
    pub precision: Precision,
    /// How the layers' weights are held. Changes speed and memory, not labels.
    pub weights: WeightStorage,
}

impl LmJudgeSpec {
    /// The embedded prompts, windows of 1,024 tokens, all of them, batches of 4,096 tokens, thresholds of 0.5, on the CPU.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            questions: [
                include_str!("../../assets/prompts/verification.txt"),
                include_str!("../../assets/prompts/backtracking.txt"),
                include_str!("../../assets/prompts/subgoal_setting.txt"),
                include_str!("../../assets/prompts/backward_chaining.txt"),
            ]
            .map(|question| question.trim().to_owned()),
            template: include_str!("../../assets/prompts/document.txt").trim_end().to_owned(),
            window_tokens: 1024,
            max_windows: 0,
            batch_tokens: 4096,
            thresholds: [0.5; 4],
            device: Device::Cpu,
            precision: Precision::F32,
            weights: WeightStorage::Widened,
        }
    }
}

/// The longest window of the embedded model, in tokens: what its thresholds were fitted with.
const EMBEDDED_WINDOW: usize = 190;

/// From what probability on the embedded model's answers count, in the order of [`Behavior::ALL`]: what gave the best F1 on the
/// half of the labeled documents that the cue judge was tuned on, none of which the model has seen.
pub const EMBEDDED_THRESHOLDS: [f32; 4] = [0.1571, 0.1806, 0.1871, 0.0762];

/// About how many tokens of an ordinary web page go through the model. A call gets a batch's worth of such documents: little
/// is lost when a run is killed, and one that is asked to stop does so within seconds.
const TOKENS_OF_A_DOCUMENT: usize = 800;

/// Documents per call on a GPU at least: a few batches' worth, so that the last one, which is not full, costs little.
const DOCUMENTS_PER_CALL_ON_GPU: usize = 128;

/// The judge, its model loaded.
pub struct LmJudge {
    identity: JudgeIdentity,
    tokenizer: TextTokenizer,
    model: Box<dyn Scorer>,
    meter: Meter,
    prompt: Prompt,
    window_tokens: usize,
    max_windows: usize,
    batch_tokens: usize,
    documents_per_call: usize,
    thresholds: [f32; 4],
}

/// What a language model learns from to become a judge: windows of texts with the judge's questions, each with its answer.
pub struct Lessons<'a> {
    tokenizer: &'a TextTokenizer,
    prompt: Prompt,
    window_tokens: usize,
}

/// A window of a text.
pub struct Lesson<'a> {
    /// Bytes of the text.
    pub span: Range<usize>,
    tokens: Vec<u32>,
    prompt: &'a Prompt,
}

impl<'a> Lessons<'a> {
    /// The embedded prompt in this tokenizer, around windows such that no lesson but its answer exceeds `context` tokens.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] if nothing is left for the document, or if no single token says yes or no.
    pub fn new(tokenizer: &'a TextTokenizer, context: usize) -> anyhow::Result<Self> {
        let spec = LmJudgeSpec::new("");
        let prompt = Prompt::new(tokenizer, &spec.template, &spec.questions)?;
        let around = prompt.before.len() + prompt.longest_question();
        let window_tokens = context.saturating_sub(around);
        if window_tokens < LEAST_WINDOW {
            let message =
                format!("the judge's prompt takes {around} of {context} tokens and leaves too little for texts");
            return Err(Failure::new(Exit::Usage, message).hint("raise `pretrain.context`").into());
        }
        Ok(Self { tokenizer, prompt, window_tokens })
    }

    /// What a tokenizer has to spell well to be asked: the prompt, its questions and answers.
    pub fn phrases() -> Vec<String> {
        let spec = LmJudgeSpec::new("");
        let template = spec.template.replacen("{document}", "", 1);
        let asked =
            |question: &String| ["yes", "no"].map(|answer| template.replacen("{question}", question, 1) + " " + answer);
        spec.questions.iter().flat_map(asked).collect()
    }

    /// The windows of a text, as the judge reads them.
    ///
    /// # Errors
    /// The tokenizer's failure.
    pub fn of(&self, text: &str) -> anyhow::Result<Vec<Lesson<'_>>> {
        let mut start = 0;
        let windows = Windows::new(self.tokenizer, text, self.window_tokens);
        windows
            .map(|window| {
                let window = window?;
                let rest = &text[start..];
                let length = rest.char_indices().nth(window.chars as usize).map_or(rest.len(), |(at, _)| at);
                let span = start..start + length;
                start = span.end;
                Ok(Lesson { span, tokens: window.tokens, prompt: &self.prompt })
            })
            .collect()
    }
}

impl Lesson<'_> {
    /// Everything that the judge would be shown, and behind it the answer.
    pub fn answered(&self, behavior: Behavior, yes: bool) -> Vec<u32> {
        self.prompt.answered(&self.tokens, behavior, yes)
    }
}

/// Tokens that a window of a lesson has at least.
const LEAST_WINDOW: usize = 16;

/// The tokens around a document.
pub(crate) struct Prompt {
    pub(crate) before: Vec<u32>,
    /// What follows the document and is the same for all behaviors.
    pub(crate) between: Vec<u32>,
    /// Per behavior: what follows that, the rest of its question and the start of the answer.
    pub(crate) after: [Vec<u32>; 4],
    /// The tokens that say yes, then those that say no.
    answers: Vec<u32>,
    yes_count: usize,
    /// Of these, the no and the yes that go on as the prompt ends: with a blank before them, or behind one.
    said: [u32; 2],
}

impl LmJudge {
    /// Loads the model and prepares its prompts.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] for a model that cannot be used (see [`Checkpoint::open`], [`load_scorer`]), a template
    /// without its two places, a tokenizer in which no single token says yes or no, and windows beyond the model's context.
    pub fn load(spec: &LmJudgeSpec) -> anyhow::Result<Self> {
        Self::of(&Checkpoint::open(&spec.model)?, spec)
    }

    /// [`LmJudge::load`] of an opened model, whatever path `spec` has.
    pub fn of(checkpoint: &Checkpoint, spec: &LmJudgeSpec) -> anyhow::Result<Self> {
        let tokenizer = checkpoint.tokenizer()?;
        let prompt = Prompt::new(&tokenizer, &spec.template, &spec.questions)?;
        let around = prompt.before.len() + prompt.longest_question();
        let context = checkpoint.config().max_positions;
        let mut spec = spec.clone();
        if checkpoint.is_embedded() {
            spec.window_tokens = spec.window_tokens.min(EMBEDDED_WINDOW);
        }
        let (spec, longest) = (&spec, around + spec.window_tokens);
        if spec.window_tokens == 0 || longest > context {
            let message = format!(
                "windows of {} tokens with the prompt around them make {longest}, the model's context is {context}",
                spec.window_tokens
            );
            return Err(Failure::new(Exit::Usage, message).hint("lower `window-tokens`").into());
        }
        let identity = JudgeIdentity {
            kind: "lm".into(),
            model: checkpoint.name(),
            revision: checkpoint.revision()?,
            prompt_hash: prompt_hash(&prompt, spec),
        };
        let model = load_scorer(checkpoint, &spec.device, spec.precision, spec.weights, longest)?;
        let documents = spec.batch_tokens / TOKENS_OF_A_DOCUMENT;
        Ok(Self {
            identity,
            tokenizer,
            model,
            meter: Meter::default(),
            prompt,
            window_tokens: spec.window_tokens,
            max_windows: spec.max_windows,
            batch_tokens: spec.batch_tokens,
            documents_per_call: documents.max(if spec.device.is_cuda() { DOCUMENTS_PER_CALL_ON_GPU } else { 1 }),
            thresholds: spec.thresholds,
        })
    }

    /// Measures from now on where the time goes.
    pub fn set_meter(&mut self, meter: Meter) {
        self.model.set_meter(meter.clone());
        self.meter = meter;
    }

    /// See [`Scorer::peak`].
    pub fn peak_flops(&self, precision: Precision) -> anyhow::Result<f64> {
        self.model.peak(precision)
    }

    /// How many tokens a document's four questions would take as four plain prompts per window, the way a judge reads them
    /// that does not share the document.
    pub fn plain_prompt_tokens(&self, labels: &Labels) -> u64 {
        let after: usize = self.prompt.after.iter().map(Vec::len).sum();
        let around = 4 * (self.prompt.before.len() + self.prompt.between.len()) + after;
        4 * labels.tokens_read + u64::from(labels.windows) * around as u64
    }

    /// How much of the model's next-token probability falls on the answers at all, per behavior, for one text. Near 1
    /// the model has understood that it is asked; near 0 its scores mean little.
    pub fn answer_mass(&self, text: &str) -> anyhow::Result<[f32; 4]> {
        let tokens = self.tokenizer.encode(text)?;
        let mut batch = Batch::new(&self.prompt);
        batch.push(&self.prompt, 0, &tokens[..tokens.len().min(self.window_tokens)]);
        let logits: Vec<Vec<f32>> = self.model.next_token_logits(&batch.packed, &batch.ends, None)?.to_vec2()?;
        let mut mass = [0.0; 4];
        for (mass, logits) in mass.iter_mut().zip(logits) {
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weight = |logit: f32| (logit - highest).exp();
            let all: f32 = logits.iter().map(|&logit| weight(logit)).sum();
            *mass = self.prompt.answers.iter().map(|&token| weight(logits[token as usize])).sum::<f32>() / all;
        }
        Ok(mass)
    }

    /// Runs a batch and adds its scores to the documents they belong to.
    fn flush(&self, batch: &mut Batch, documents: &mut [Document]) -> anyhow::Result<()> {
        if !batch.owners.is_empty() {
            for (&owner, scores) in batch.owners.iter().zip(self.scores(batch)?) {
                documents[owner].add(scores, &self.thresholds);
            }
        }
        *batch = Batch::new(&self.prompt);
        Ok(())
    }

    /// One score per window and behavior.
    fn scores(&self, batch: &Batch) -> anyhow::Result<Vec<[f32; 4]>> {
        let logits = self.model.next_token_logits(&batch.packed, &batch.ends, Some(&self.prompt.answers))?;
        let logits: Vec<Vec<f32>> = logits.to_vec2()?;
        let yes: Vec<f32> = logits.iter().map(|logits| share_of_first(logits, self.prompt.yes_count)).collect();
        Ok(yes.as_chunks().0.to_vec())
    }
}

impl Judge for LmJudge {
    fn identity(&self) -> &JudgeIdentity {
        &self.identity
    }

    fn batch_size(&self) -> usize {
        self.documents_per_call
    }

    fn judge(&mut self, texts: &[&str]) -> anyhow::Result<Vec<Result<Labels, Unjudgeable>>> {
        let mut documents: Vec<Document> = texts.iter().map(|text| Document::new(text)).collect();
        // All at once, on all threads, so that nothing waits for it between batches.
        let (tokenizer, size) = (&self.tokenizer, self.window_tokens);
        let most = if self.max_windows == 0 { usize::MAX } else { self.max_windows };
        let windows = self.meter.time(Part::Tokenise, || {
            let judged = texts.par_iter().zip(&documents);
            judged
                .map(|(text, document)| match document.problem {
                    Some(_) => Ok(Vec::new()),
                    None => Windows::new(tokenizer, text, size).take(most).collect(),
                })
                .collect::<anyhow::Result<Vec<Vec<Window>>>>()
        })?;
        let mut batch = Batch::new(&self.prompt);
        for (owner, windows) in windows.into_iter().enumerate() {
            for window in windows {
                let group = window.tokens.len() + self.prompt.questions_len();
                if !batch.owners.is_empty() && batch.packed.len() + group > self.batch_tokens {
                    self.flush(&mut batch, &mut documents)?;
                }
                batch.push(&self.prompt, owner, &window.tokens);
                documents[owner].read(&window);
            }
        }
        self.flush(&mut batch, &mut documents)?;
        Ok(documents.into_iter().map(Document::finish).collect())
    }
}

/// Windows that go through the model together.
struct Batch {
    packed: Packed,
    /// The segment of what stands before every document.
    before: usize,
    /// Per window: which document it is of.
    owners: Vec<usize>,
    /// Per window and behavior: the row whose next token is the answer.
    ends: Vec<usize>,
}

impl Batch {
    fn new(prompt: &Prompt) -> Self {
        let mut packed = Packed::default();
        let before = packed.push(None, &prompt.before);
        Self { packed, before, owners: Vec::new(), ends: Vec::new() }
    }

    fn push(&mut self, prompt: &Prompt, owner: usize, tokens: &[u32]) {
        let document = self.packed.push(Some(self.before), tokens);
        let between = self.packed.push(Some(document), &prompt.between);
        for after in &prompt.after {
            let question = self.packed.push(Some(between), after);
            self.ends.extend(self.packed.last_row(question));
        }
        self.owners.push(owner);
    }
}

/// A document's labels as its windows come in.
pub(crate) struct Document {
    pub(crate) labels: Labels,
    pub(crate) problem: Option<Unjudgeable>,
}

impl Document {
    pub(crate) fn new(text: &str) -> Self {
        let marks = [Mark { score: 0.0, count: 0 }; 4];
        let problem = text.trim().is_empty().then(|| Unjudgeable("empty text".into()));
        Self { labels: Labels { marks, chars_read: 0, tokens_read: 0, windows: 0 }, problem }
    }

    fn read(&mut self, window: &Window) {
        self.labels.chars_read += window.chars;
        self.labels.tokens_read += window.tokens.len() as u64;
        self.labels.windows += 1;
    }

    /// Over windows, the score is the highest and the count the sum.
    pub(crate) fn add(&mut self, scores: [f32; 4], thresholds: &[f32; 4]) {
        if scores.iter().any(|score| !score.is_finite()) {
            self.problem = Some(Unjudgeable("the model's answer is not a number".into()));
        }
        for ((mark, score), threshold) in self.labels.marks.iter_mut().zip(scores).zip(thresholds) {
            mark.score = mark.score.max(score);
            mark.count += u32::from(score >= *threshold);
        }
    }

    pub(crate) fn finish(self) -> Result<Labels, Unjudgeable> {
        match self.problem {
            Some(problem) => Err(problem),
            None => Ok(self.labels),
        }
    }
}

/// The probability of the first `count` of some logits among all of them.
fn share_of_first(logits: &[f32], count: usize) -> f32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    weights[..count].iter().sum::<f32>() / weights.iter().sum::<f32>()
}

impl Prompt {
    pub(crate) fn new(tokenizer: &TextTokenizer, template: &str, questions: &[String; 4]) -> anyhow::Result<Self> {
        // Stand-ins from Unicode's private use area mark where document and question go; the chat template is rendered
        // around them, and the pieces are tokenised each on its own, so that nothing merges with the document.
        const DOCUMENT: &str = "\u{F0000}";
        const QUESTION: &str = "\u{F0001}";
        let filled = template.replacen("{document}", DOCUMENT, 1).replacen("{question}", QUESTION, 1);
        let (rendered, start) = match tokenizer.chat() {
            Some(chat) => (chat.render(&[Message { role: "user", content: filled }], true)?, Vec::new()),
            None => (filled, tokenizer.start().to_vec()),
        };
        let (before, rest) = split_once(&rendered, DOCUMENT, "{document}")?;
        let (between, tail) = split_once(rest, QUESTION, "{question}")?;
        let mut prompt = Self {
            before: [start, tokenizer.encode_markup(before)?].concat(),
            between: Vec::new(),
            after: Default::default(),
            answers: single_tokens(tokenizer, &["yes", "Yes", "YES", " yes", " Yes", " YES"])?,
            yes_count: 0,
            said: [0; 2],
        };
        for (behavior, question) in Behavior::ALL.into_iter().zip(questions) {
            let after = tokenizer.encode_markup(&format!("{between}{question}{tail}"))?;
            if after.is_empty() {
                let message = format!("the question for `{}` is empty", behavior.name());
                return Err(Failure::new(Exit::Usage, message).into());
            }
            prompt.after[behavior.index()] = after;
        }
        prompt.between = take_common_start(&mut prompt.after);
        prompt.yes_count = prompt.answers.len();
        prompt.answers.extend(single_tokens(tokenizer, &["no", "No", "NO", " no", " No", " NO"])?);
        let blank = if tail.ends_with(char::is_whitespace) { "" } else { " " };
        for (said, (word, first)) in prompt.said.iter_mut().zip([("no", prompt.yes_count), ("yes", 0)]) {
            *said = tokenizer.single(&format!("{blank}{word}"))?.unwrap_or(prompt.answers[first]);
        }
        Ok(prompt)
    }

    /// A window of a document with a question and its answer, the last token: what a judge learns from.
    fn answered(&self, window: &[u32], behavior: Behavior, yes: bool) -> Vec<u32> {
        let after = &self.after[behavior.index()];
        [&self.before[..], window, &self.between, after, &[self.said[usize::from(yes)]]].concat()
    }

    /// Tokens that all four questions add to a window.
    fn questions_len(&self) -> usize {
        self.between.len() + self.after.iter().map(Vec::len).sum::<usize>()
    }

    fn longest_question(&self) -> usize {
        self.between.len() + self.after.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Takes off what all four begin with, and leaves each at least its last token.
fn take_common_start(after: &mut [Vec<u32>; 4]) -> Vec<u32> {
    let shortest = after.iter().map(Vec::len).min().unwrap_or(0);
    let same = |at: &usize| after.iter().all(|tokens| tokens[*at] == after[0][*at]);
    let common = (0..shortest.saturating_sub(1)).take_while(same).count();
    let start = after[0][..common].to_vec();
    for tokens in after {
        tokens.drain(..common);
    }
    start
}

/// Splits at the only occurrence of `mark`, which stands for `place`.
pub(crate) fn split_once<'a>(text: &'a str, mark: &str, place: &str) -> anyhow::Result<(&'a str, &'a str)> {
    match text.split_once(mark) {
        Some((before, after)) if !after.contains(mark) => Ok((before, after)),
        _ => Err(Failure::new(Exit::Usage, format!("the judge's prompt does not have `{place}` exactly once"))
            .hint("`document.txt` needs `{document}` and after it `{question}`")
            .into()),
    }
}

/// Those of `words` that are one token each, without repetition.
fn single_tokens(tokenizer: &TextTokenizer, words: &[&str]) -> anyhow::Result<Vec<u32>> {
    let mut tokens = Vec::new();
    for word in words {
        if let Some(token) = tokenizer.single(word)?
            && !tokens.contains(&token)
        {
            tokens.push(token);
        }
    }
    if tokens.is_empty() {
        let message = format!("the model's tokenizer has no single token for `{}`", words[0]);
        return Err(Failure::new(Exit::Usage, message)
            .hint("score mode needs a model that answers yes or no in words")
            .into());
    }
    Ok(tokens)
}

/// A hash of everything besides the model's files that shapes an answer: the tokens around a document, the answers that
/// are read, windows, thresholds and precision. 16 hexadecimal characters.
fn prompt_hash(prompt: &Prompt, spec: &LmJudgeSpec) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut numbers = |numbers: &[u32]| {
        hasher.update(&(numbers.len() as u64).to_le_bytes());
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
    };
    numbers(&prompt.before);
    prompt.after.iter().for_each(|after| numbers(&[&prompt.between[..], after].concat()));
    numbers(&prompt.answers);
    let precision = precision_on(&spec.device, spec.precision);
    numbers(&[precision as u32, prompt.yes_count as u32, spec.window_tokens as u32, spec.max_windows as u32]);
    numbers(&spec.thresholds.map(f32::to_bits));
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_yes_is_normalised_over_the_answers() {
        assert_eq!(share_of_first(&[0.0, 0.0, 0.0, 0.0], 1), 0.25);
        assert!((share_of_first(&[1.0, 0.0], 1) - 1.0 / (1.0 + (-1f32).exp())).abs() < 1e-6);
        // Logits far from zero overflow nothing.
        assert_eq!(share_of_first(&[1000.0, -1000.0], 1), 1.0);
    }

    #[test]
    fn windows_add_up() {
        let mut document = Document::new("text");
        document.add([0.2, 0.6, 0.9, 0.5], &[0.5; 4]);
        document.add([0.4, 0.7, 0.1, 0.5], &[0.5; 4]);
        let marks = document.finish().unwrap().marks;
        assert_eq!(marks.map(|mark| mark.count), [0, 2, 1, 2]);
        assert_eq!(marks.map(|mark| mark.score), [0.4, 0.7, 0.9, 0.5]);
    }

    #[test]
    fn bad_documents_say_why() {
        assert_eq!(Document::new(" \n").finish().unwrap_err().0, "empty text");
        let mut document = Document::new("text");
        document.add([0.0, f32::NAN, 0.0, 0.0], &[0.5; 4]);
        assert_eq!(document.finish().unwrap_err().0, "the model's answer is not a number");
    }

    #[test]
    fn questions_share_how_they_begin() {
        let check = |questions: [&[u32]; 4], expect: &[u32]| {
            let mut after = questions.map(<[u32]>::to_vec);
            let start = take_common_start(&mut after);
            assert_eq!(start, expect);
            for (rest, whole) in after.iter().zip(questions) {
                assert!(!rest.is_empty());
                assert_eq!([&start[..], rest].concat(), whole);
            }
        };
        check([&[1, 2, 3, 9], &[1, 2, 4], &[1, 2, 3], &[1, 2, 3]], &[1, 2]);
        check([&[1, 2], &[1, 2], &[1, 2], &[1, 2, 3]], &[1]);
        check([&[1], &[1, 2], &[1, 2], &[1, 2]], &[]);
        check([&[1], &[2], &[3], &[4]], &[]);
    }

    #[test]
    fn a_place_must_stand_once() {
        assert!(split_once("a{b}c", "{b}", "{b}").is_ok());
        assert!(split_once("a", "{b}", "{b}").is_err());
        assert!(split_once("{b}{b}", "{b}", "{b}").is_err());
    }
}
