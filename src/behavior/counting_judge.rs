//! A language model as judge, in generate mode, the paper's way: for each behavior it is shown the document, thinks in
//! words, and writes how many instances it found between `<count>` and `</count>`.
//!
//! Any [`TextGenerator`] will do. A reply without a number is asked for once more and then costs the document: it is never
//! taken for zero.

use super::Behavior;
use super::judge::{Judge, JudgeIdentity, Labels, Mark, Unjudgeable};
use super::windows::text_windows;
use crate::error::{Exit, Failure};
use crate::generation::{Finish, Prompt, Reply, Sampling, TextGenerator, Unanswered};
use crate::lm::Message;

/// What can be chosen about a [`CountingJudge`].
#[derive(Debug, Clone, PartialEq)]
pub struct CountingSpec {
    /// What to count, per behavior, in the order of [`Behavior::ALL`].
    pub questions: [String; 4],
    /// What the model is shown, with `{document}` and `{question}` in it, once each.
    pub template: String,
    /// A longer document is cut into windows of about this many tokens, see [`text_windows`].
    pub window_tokens: usize,
    /// At most this many windows are read of a document; 0 for all.
    pub max_windows: usize,
    /// Thoughts and count together have at most so many tokens.
    pub max_reply_tokens: usize,
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// How many replies are drawn for each window and behavior.
    pub samples: u32,
}

impl Default for CountingSpec {
    /// The embedded prompts, windows of 1,024 tokens, all of them, one greedy reply of up to 1,024 tokens.
    fn default() -> Self {
        Self {
            questions: [
                include_str!("../../assets/prompts/count_verification.txt"),
                include_str!("../../assets/prompts/count_backtracking.txt"),
                include_str!("../../assets/prompts/count_subgoal_setting.txt"),
                include_str!("../../assets/prompts/count_backward_chaining.txt"),
            ]
            .map(|question| question.trim().to_owned()),
            template: include_str!("../../assets/prompts/count.txt").trim_end().to_owned(),
            window_tokens: 1024,
            max_windows: 0,
            max_reply_tokens: 1024,
            temperature: 0.0,
            samples: 1,
        }
    }
}

/// A greedy reply that cannot be read would come again as it was, so the second attempt draws at this temperature at least.
const RETRY_TEMPERATURE: f32 = 0.7;

/// The judge.
pub struct CountingJudge {
    identity: JudgeIdentity,
    generator: Box<dyn TextGenerator>,
    spec: CountingSpec,
}

/// One reply that is wanted: a sample of a behavior's count in a window of a document.
struct Ask<'a> {
    document: usize,
    window: usize,
    text: &'a str,
    behavior: Behavior,
    sample: u32,
    answer: Result<u32, Silence>,
}

/// Why there is no count.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Silence {
    /// The reply has no count that can be read.
    Unreadable(Finish),
    Unanswered(String),
}

impl CountingJudge {
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`] for a template without its two places.
    pub fn new(generator: Box<dyn TextGenerator>, spec: CountingSpec) -> anyhow::Result<Self> {
        for place in ["{document}", "{question}"] {
            if spec.template.matches(place).count() != 1 {
                let message = format!("the judge's prompt does not have `{place}` exactly once");
                return Err(Failure::new(Exit::Usage, message)
                    .hint("`count.txt` needs `{document}` and `{question}`")
                    .into());
            }
        }
        let writer = generator.identity();
        let identity = JudgeIdentity {
            kind: format!("{}-generate", writer.kind),
            model: writer.model.clone(),
            revision: writer.revision.clone(),
            prompt_hash: spec_hash(&spec),
        };
        Ok(Self { identity, generator, spec })
    }

    /// Gets the answers of some asks.
    fn ask(&mut self, asks: &mut [&mut Ask<'_>], attempt: u32) -> anyhow::Result<()> {
        let prompts: Vec<Prompt> = asks.iter().map(|ask| self.prompt(ask, attempt)).collect();
        let temperature = self.spec.temperature.max(if attempt == 0 { 0.0 } else { RETRY_TEMPERATURE });
        let max_tokens = self.spec.max_reply_tokens;
        let sampling = Sampling { temperature, top_p: 1.0, top_k: 0, max_tokens, stop: Vec::new() };
        let replies = self.generator.generate(&prompts, &sampling)?;
        if replies.len() != asks.len() {
            anyhow::bail!("{} prompts got {} replies", asks.len(), replies.len());
        }
        for (ask, reply) in asks.iter_mut().zip(replies) {
            ask.answer = match reply {
                Ok(reply) => read_count(&reply).ok_or(Silence::Unreadable(reply.finish)),
                Err(Unanswered(why)) => Err(Silence::Unanswered(why)),
            };
        }
        Ok(())
    }

    fn prompt(&self, ask: &Ask<'_>, attempt: u32) -> Prompt {
        let question = &self.spec.questions[ask.behavior.index()];
        // The question goes in first: a document may speak of `{question}`.
        let content = self.spec.template.replace("{question}", question).replacen("{document}", ask.text, 1);
        // The stream is the text's own, so that labels depend neither on neighbours nor on where the document stands.
        let mut hasher = blake3::Hasher::new();
        for number in [ask.behavior.index() as u32, ask.sample, attempt] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(content.as_bytes());
        let mut seed = [0; 8];
        hasher.finalize_xof().fill(&mut seed);
        Prompt {
            messages: vec![Message { role: "user", content }],
            reply_prefix: String::new(),
            seed: u64::from_le_bytes(seed),
        }
    }

    /// The labels of one document from the answers for it, which are ordered by window, behavior and sample.
    fn labels(&self, text: &str, asks: &[Ask<'_>]) -> Result<Labels, Unjudgeable> {
        if text.trim().is_empty() {
            return Err(Unjudgeable("empty text".into()));
        }
        let samples = self.spec.samples.max(1) as usize;
        let mut labels =
            Labels { marks: [Mark { score: 0.0, count: 0 }; 4], chars_read: 0, tokens_read: 0, windows: 0 };
        for group in asks.chunks(samples) {
            let Some(Ask { behavior, text, .. }) = group.first() else { continue };
            let counts = group.iter().map(answer).collect::<Result<Vec<u32>, _>>()?;
            let shown = counts.iter().filter(|count| **count > 0).count();
            let mark = &mut labels.marks[behavior.index()];
            mark.score = mark.score.max(shown as f32 / counts.len() as f32);
            mark.count = mark.count.saturating_add(median(counts));
            if *behavior == Behavior::ALL[0] {
                labels.chars_read += text.chars().count() as u64;
                labels.windows += 1;
            }
        }
        Ok(labels)
    }
}

impl Judge for CountingJudge {
    fn identity(&self) -> &JudgeIdentity {
        &self.identity
    }

    fn batch_size(&self) -> usize {
        (self.generator.batch_size() / (Behavior::ALL.len() * self.spec.samples.max(1) as usize)).max(1)
    }

    fn judge(&mut self, texts: &[&str]) -> anyhow::Result<Vec<Result<Labels, Unjudgeable>>> {
        let mut asks = Vec::new();
        let most = if self.spec.max_windows == 0 { usize::MAX } else { self.spec.max_windows };
        for (document, text) in texts.iter().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            for (window, text) in text_windows(text, self.spec.window_tokens).take(most).enumerate() {
                for behavior in Behavior::ALL {
                    asks.extend((0..self.spec.samples.max(1)).map(|sample| {
                        let answer = Err(Silence::Unreadable(Finish::Stop));
                        Ask { document, window, text, behavior, sample, answer }
                    }));
                }
            }
        }
        self.ask(&mut asks.iter_mut().collect::<Vec<_>>(), 0)?;
        let mut again: Vec<&mut Ask<'_>> =
            asks.iter_mut().filter(|ask| matches!(ask.answer, Err(Silence::Unreadable(_)))).collect();
        if !again.is_empty() {
            self.ask(&mut again, 1)?;
        }
        let mut rest = &asks[..];
        let labels = texts.iter().enumerate().map(|(document, text)| {
            let (own, others) = rest.split_at(rest.partition_point(|ask| ask.document <= document));
            rest = others;
            self.labels(text, own)
        });
        Ok(labels.collect())
    }
}

/// What was answered, or the reason to quarantine the document.
fn answer(ask: &Ask<'_>) -> Result<u32, Unjudgeable> {
    let behavior = ask.behavior.name();
    ask.answer.clone().map_err(|silence| {
        Unjudgeable(match silence {
            Silence::Unreadable(Finish::Stop) => {
                format!("{behavior}: no count in the reply, twice (it ended by itself)")
            }
            Silence::Unreadable(Finish::Length) => {
                format!("{behavior}: no count in the reply, twice (it was cut at its token limit)")
            }
            Silence::Unanswered(why) => format!("{behavior}: window {}: {why}", ask.window + 1),
        })
    })
}

/// The number in the last `<count>` of a reply: digits, with or without blanks around them.
fn read_count(reply: &Reply) -> Option<u32> {
    let (_, after) = reply.text.rsplit_once("<count>")?;
    let number = match after.split_once("</count>") {
        Some((number, _)) => number,
        // A model may leave the closing tag away, but a number that was cut is none.
        None if reply.finish == Finish::Stop => after,
        None => return None,
    }
    .trim();
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

/// The median, of an even number the mean of the two in the middle, halves up.
fn median(mut counts: Vec<u32>) -> u32 {
    counts.sort_unstable();
    match counts.len() {
        0 => 0,
        n if n.is_multiple_of(2) => (u64::from(counts[n / 2 - 1]) + u64::from(counts[n / 2])).div_ceil(2) as u32,
        n => counts[n / 2],
    }
}

/// A hash of everything besides the model that shapes a label. 16 hexadecimal characters.
fn spec_hash(spec: &CountingSpec) -> String {
    let CountingSpec { questions, template, window_tokens, max_windows, max_reply_tokens, temperature, samples } = spec;
    let mut hasher = blake3::Hasher::new();
    for text in questions.iter().chain([template]) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    for number in [window_tokens, max_windows, max_reply_tokens] {
        hasher.update(&(*number as u64).to_le_bytes());
    }
    hasher.update(&temperature.to_bits().to_le_bytes());
    hasher.update(&samples.to_le_bytes());
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::GeneratorIdentity;
    use std::sync::{Arc, Mutex};

    /// Prompts and temperatures of every call.
    type Calls = Arc<Mutex<Vec<(Vec<Prompt>, f32)>>>;

    /// Replies by a function of the prompt and of whether it was asked before.
    struct Scripted<F> {
        identity: GeneratorIdentity,
        reply: F,
        calls: Calls,
    }

    impl<F: Fn(&str, usize, u64) -> &'static str + Send> TextGenerator for Scripted<F> {
        fn identity(&self) -> &GeneratorIdentity {
            &self.identity
        }

        fn batch_size(&self) -> usize {
            32
        }

        fn generate(
            &mut self,
            prompts: &[Prompt],
            sampling: &Sampling,
        ) -> anyhow::Result<Vec<Result<Reply, Unanswered>>> {
            let mut calls = self.calls.lock().unwrap();
            let replies = prompts.iter().map(|prompt| {
                let text = (self.reply)(&prompt.messages[0].content, calls.len(), prompt.seed);
                if let Some(why) = text.strip_prefix("unanswered: ") {
                    return Err(Unanswered(why.into()));
                }
                let (text, finish) = match text.strip_suffix('…') {
                    Some(cut) => (cut, Finish::Length),
                    None => (text, Finish::Stop),
                };
                Ok(Reply { text: text.into(), finish, prompt_tokens: 1, reply_tokens: 1 })
            });
            let replies = replies.collect();
            calls.push((prompts.to_vec(), sampling.temperature));
            Ok(replies)
        }
    }

    fn judge(
        spec: CountingSpec,
        reply: impl Fn(&str, usize, u64) -> &'static str + Send + 'static,
    ) -> (CountingJudge, Calls) {
        let calls = Calls::default();
        let identity = GeneratorIdentity { kind: "lm".into(), model: "m".into(), revision: "r".into() };
        let generator = Scripted { identity, reply, calls: calls.clone() };
        (CountingJudge::new(Box::new(generator), spec).unwrap(), calls)
    }

    fn counts(labels: &Result<Labels, Unjudgeable>) -> [u32; 4] {
        labels.as_ref().unwrap().marks.map(|mark| mark.count)
    }

    #[test]
    fn counts_are_read_as_written() {
        let read =
            |text: &str, finish| read_count(&Reply { text: text.into(), finish, prompt_tokens: 0, reply_tokens: 0 });
        for (text, expect) in [
            ("thoughts <count>3</count>", Some(3)),
            ("<count> 12 \n</count> bye", Some(12)),
            ("<count>1</count> no, rather <count>2</count>", Some(2)),
            ("<count>7", Some(7)),
            ("<count></count>", None),
            ("<count>[1/2/...]</count>", None),
            ("<count>-1</count>", None),
            ("<count>1.5</count>", None),
            ("<count>+1</count>", None),
            ("<count>99999999999</count>", None),
            ("<count>1</count> then <count>many</count>", None),
            ("count: 3", None),
            ("", None),
        ] {
            assert_eq!(read(text, Finish::Stop), expect, "{text}");
        }
        assert_eq!(read("<count>1", Finish::Length), None);
        assert_eq!(read("<count>1</count>", Finish::Length), Some(1));
    }

    #[test]
    fn the_median_rounds_up() {
        for (counts, expect) in
            [(vec![3], 3), (vec![9, 0, 1], 1), (vec![1, 2], 2), (vec![4, 0, 2, 2], 2), (vec![u32::MAX; 2], u32::MAX)]
        {
            assert_eq!(median(counts), expect);
        }
    }

    #[test]
    fn a_document_is_asked_four_questions_window_by_window() {
        let spec = CountingSpec { window_tokens: 5, ..CountingSpec::default() };
        let (mut judge, calls) = judge(spec.clone(), |content, _, _| {
            if content.contains("backward to what") {
                "<count>2</count>"
            } else if content.contains("wrong, drops it") && content.contains("epsilon") {
                "<count>1</count>"
            } else {
                "none <count>0</count>"
            }
        });
        let labels = judge.judge(&["alpha beta gamma delta epsilon zeta", " ", "short"]).unwrap();
        assert_eq!(counts(&labels[0]), [0, 1, 0, 4]);
        assert_eq!(labels[0].as_ref().unwrap().marks.map(|mark| mark.score), [0.0, 1.0, 0.0, 1.0]);
        assert_eq!((labels[0].as_ref().unwrap().windows, labels[0].as_ref().unwrap().chars_read), (2, 35));
        assert_eq!(labels[1], Err(Unjudgeable("empty text".into())));
        assert_eq!(counts(&labels[2]), [0, 0, 0, 2]);
        let calls = calls.lock().unwrap();
        assert_eq!((calls.len(), calls[0].0.len(), calls[0].1), (1, 12, 0.0));
        assert!(calls[0].0[0].messages[0].content.contains("alpha beta"));
        assert!(!calls[0].0[0].messages[0].content.contains("{question}"));
    }

    #[test]
    fn a_reply_without_a_count_is_asked_for_again_and_then_costs_the_document() {
        let (mut judge, calls) = judge(CountingSpec::default(), |content, call, _| {
            let verification = content.contains("checks a result");
            match content.lines().nth(1) {
                Some("mute") if verification => "I cannot tell.",
                Some("endless") if verification => "and so on and so…",
                Some("slow") if verification && call == 0 => "hm",
                Some("long") => "unanswered: the prompt has 9 tokens",
                _ => "<count>1</count>",
            }
        });
        let labels = judge.judge(&["mute", "endless", "slow", "long", "fine"]).unwrap();
        let why = |index: usize| labels[index].clone().unwrap_err().0;
        assert_eq!(why(0), "verification: no count in the reply, twice (it ended by itself)");
        assert_eq!(why(1), "verification: no count in the reply, twice (it was cut at its token limit)");
        assert_eq!(counts(&labels[2]), [1; 4]);
        assert_eq!(why(3), "verification: window 1: the prompt has 9 tokens");
        assert_eq!(counts(&labels[4]), [1; 4]);
        let calls = calls.lock().unwrap();
        assert_eq!((calls.len(), calls[1].0.len(), calls[1].1), (2, 3, RETRY_TEMPERATURE));
        let first = calls[0].0.iter().find(|prompt| prompt.messages == calls[1].0[0].messages).unwrap();
        assert_ne!(first.seed, calls[1].0[0].seed);
    }

    #[test]
    fn samples_give_shares_and_medians() {
        let spec = CountingSpec { samples: 3, temperature: 0.8, ..CountingSpec::default() };
        let (mut judge, calls) = judge(spec, |_, _, seed| match seed % 2 {
            0 => "<count>0</count>",
            _ => "<count>4</count>",
        });
        let labels = judge.judge(&["some text"]).unwrap().remove(0).unwrap();
        for mark in labels.marks {
            let odd = (mark.score * 3.0).round() as u32;
            assert!((mark.score * 3.0 - odd as f32).abs() < 1e-6);
            assert_eq!(mark.count, if odd >= 2 { 4 } else { 0 });
        }
        let calls = calls.lock().unwrap();
        let mut seeds: Vec<u64> = calls[0].0.iter().map(|prompt| prompt.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 12);
        assert_eq!(judge.batch_size(), 2);
        drop(calls);
        // The same text draws the same wherever it stands.
        assert_eq!(judge.judge(&["other", "some text"]).unwrap()[1], Ok(labels));
    }

    #[test]
    fn a_judge_is_known_by_what_shapes_its_answers() {
        let of = |spec: CountingSpec| judge(spec, |_, _, _| "").0.identity().clone();
        let base = of(CountingSpec::default());
        assert_eq!((base.kind.as_str(), base.model.as_str()), ("lm-generate", "m"));
        for changed in [
            CountingSpec { samples: 2, ..CountingSpec::default() },
            CountingSpec { temperature: 0.1, ..CountingSpec::default() },
            CountingSpec { max_reply_tokens: 5, ..CountingSpec::default() },
            CountingSpec { template: "{document} {question}".into(), ..CountingSpec::default() },
        ] {
            assert_ne!(of(changed).prompt_hash, base.prompt_hash);
        }
        let generator = Scripted {
            identity: GeneratorIdentity { kind: "lm".into(), model: "m".into(), revision: "r".into() },
            reply: |_: &str, _, _| "",
            calls: Arc::default(),
        };
        let spec = CountingSpec { template: "{document}".into(), ..CountingSpec::default() };
        let error = CountingJudge::new(Box::new(generator), spec).err().unwrap();
        assert!(error.to_string().contains("`{question}` exactly once"), "{error}");
    }
}
