//! The endpoint judge and generator against llama.cpp's own server, and the judge against the local one on the same model.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use four_habits::behavior::counting_judge::{CountingJudge, CountingSpec};
use four_habits::behavior::judge::{Judge, Labels};
use four_habits::behavior::lm_judge::{LmJudge, LmJudgeSpec};
use four_habits::data::hub::{Notice, Stop};
use four_habits::endpoint::{Api, EndpointGenerator, EndpointJudge, EndpointJudgeSpec, EndpointSpec};
use four_habits::generation::{Finish, Prompt, Sampling, TextGenerator};
use four_habits::lm::Message;

/// llama.cpp's server with SmolLM2; both as `.ci/models` fetches them.
struct Llama {
    process: Child,
    url: String,
    model: PathBuf,
}

impl Llama {
    /// `None` with a note where either is absent, or the server does not run on this machine.
    fn start() -> Option<Self> {
        let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target");
        let or =
            |variable: &str, path: &str| std::env::var_os(variable).map_or_else(|| target.join(path), PathBuf::from);
        let program = or("FOUR_HABITS_LLAMA_SERVER", "llama/llama-server");
        let model = or("FOUR_HABITS_SMOLLM2", "models/SmolLM2-135M-Instruct.Q4_1.gguf");
        for path in [&program, &model] {
            if !path.is_file() {
                eprintln!("skipped: no {} (run .ci/models)", path.display());
                return None;
            }
        }
        // Its threads wait for each other busily: more than one crawl where cores are shared.
        let mut command = Command::new(&program);
        command.arg("--model").arg(&model).args([
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "-c",
            "8192",
            "-np",
            "4",
            "-t",
            "1",
        ]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| Some(line.split_once("listening on ")?.1.trim().to_owned()));
        let Some(url) = url else {
            process.wait().ok();
            eprintln!("skipped: {} does not run on this machine", program.display());
            return None;
        };
        // It must not block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { process, url, model })
    }

    fn endpoint(&self) -> EndpointSpec {
        EndpointSpec { concurrency: 4, ..EndpointSpec::new(&self.url) }
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn quiet() -> Notice {
    Arc::new(|_: &str| {})
}

/// The beginnings of a dozen documents of the embedded sample.
fn texts() -> Vec<String> {
    let lines = std::str::from_utf8(four_habits::data::sample::DOCUMENTS).unwrap();
    let text =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
    lines.lines().take(12).map(|line| text(line).chars().take(400).collect()).collect()
}

fn judged(judge: &mut dyn Judge, texts: &[String]) -> Vec<Labels> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    judge.judge(&texts).unwrap().into_iter().map(Result::unwrap).collect()
}

/// llama.cpp rounds activations to 8 bits where this program multiplies in f32, which moves single log-probabilities by 0.1 on
/// average (see `lm.rs`); scores move by what is asserted here. A wrong prompt or window moves them by tenths.
#[test]
fn labels_of_the_server_are_the_local_judges() {
    let Some(llama) = Llama::start() else { return };
    let texts = texts();
    let mut local_spec = LmJudgeSpec::new(&llama.model);
    // Some documents have two windows.
    local_spec.window_tokens = 100;
    let local = judged(&mut LmJudge::load(&local_spec).unwrap(), &texts);

    let mut spec = EndpointJudgeSpec::new(llama.endpoint());
    spec.tokenizer = Some(llama.model.clone());
    spec.window_tokens = 100;
    spec.top_logprobs = 1000;
    let mut judge = EndpointJudge::connect(&spec, &quiet(), &Stop::default()).unwrap();
    let remote = judged(&mut judge, &texts);

    let mut furthest: f32 = 0.0;
    let mut agree = 0;
    for (local, remote) in local.iter().zip(&remote) {
        assert_eq!(
            (local.chars_read, local.tokens_read, local.windows),
            (remote.chars_read, remote.tokens_read, remote.windows)
        );
        for (local, remote) in local.marks.iter().zip(remote.marks) {
            furthest = furthest.max((local.score - remote.score).abs());
            agree += usize::from((local.score >= 0.5) == (remote.score >= 0.5));
        }
    }
    let labels = 4 * texts.len();
    println!("llama.cpp and the local judge: scores at most {furthest:.3} apart, {agree} of {labels} labels agree");
    assert!(furthest < 0.1, "{furthest}");
    assert!(agree * 10 >= labels * 9, "{agree} of {labels}");

    // Alone or among others, first or last: the server's cache and batches change little, this program nothing.
    let mut turned: Vec<String> = texts[..3].to_vec();
    turned.reverse();
    for (one, other) in judged(&mut judge, &turned).iter().rev().zip(&remote) {
        for (one, other) in one.marks.iter().zip(other.marks) {
            assert!((one.score - other.score).abs() < 0.05, "{one:?} {other:?}");
        }
    }
}

#[test]
fn chat_and_text_without_a_tokenizer_are_judged() {
    let Some(llama) = Llama::start() else { return };
    let texts = &texts()[..2];
    for api in [Api::Chat, Api::Completions] {
        let mut spec = EndpointJudgeSpec::new(llama.endpoint());
        (spec.api, spec.top_logprobs) = (api, 1000);
        let labels = judged(&mut EndpointJudge::connect(&spec, &quiet(), &Stop::default()).unwrap(), texts);
        for (labels, text) in labels.iter().zip(texts) {
            assert_eq!((labels.chars_read, labels.tokens_read), (text.chars().count() as u64, 0));
            assert!(labels.marks.iter().all(|mark| 0.0 < mark.score && mark.score < 1.0), "{api:?} {labels:?}");
        }
    }
}

#[test]
fn replies_end_begin_and_are_refused_as_they_should() {
    let Some(llama) = Llama::start() else { return };
    let mut generator = EndpointGenerator::connect(&llama.endpoint(), &quiet(), &Stop::default()).unwrap();
    let prompt = |text: &str, reply_prefix: &str| Prompt {
        messages: vec![Message { role: "user", content: text.to_owned() }],
        reply_prefix: reply_prefix.to_owned(),
        seed: 7,
    };
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_tokens: 12, stop: vec!["five".into()] };
    let prompts = [
        prompt("Say the numbers from one to ten in words.", "one, two, three,"),
        prompt(&"word ".repeat(5000), ""),
        prompt("Write a long story.", ""),
    ];
    let replies = generator.generate(&prompts, &sampling).unwrap();
    let first = replies[0].as_ref().unwrap();
    assert_eq!((first.text.trim(), first.finish), ("four,", Finish::Stop));
    let refused = replies[1].as_ref().unwrap_err();
    assert!(refused.0.contains("status 400") && refused.0.contains("context"), "{refused}");
    let third = replies[2].as_ref().unwrap();
    assert_eq!((third.finish, third.reply_tokens), (Finish::Length, 12));

    // The same seed draws the same, another one something else.
    let sampling = Sampling { temperature: 1.0, top_k: 40, stop: Vec::new(), ..sampling };
    let drawn = |generator: &mut EndpointGenerator, seed: u64| {
        let prompt = Prompt { seed, ..prompt("Write a long story.", "") };
        generator.generate(&[prompt], &sampling).unwrap().remove(0).unwrap().text
    };
    let (one, again, other) = (drawn(&mut generator, 1), drawn(&mut generator, 1), drawn(&mut generator, 2));
    assert_eq!(one, again);
    assert_ne!(one, other);
}

/// A model of this size counts nothing, and repeats what it is told to write now and then; whatever it writes becomes counts or a
/// reason.
#[test]
fn counts_in_words_are_read_or_the_document_is_set_aside() {
    let Some(llama) = Llama::start() else { return };
    let generator = EndpointGenerator::connect(&llama.endpoint(), &quiet(), &Stop::default()).unwrap();
    let told = [1, 2, 3, 4];
    let spec = CountingSpec {
        template: "The document:\n\n{document}\n\n{question}".to_owned(),
        questions: told.map(|count| format!("Reply with exactly this: <count>{count}</count>")),
        max_reply_tokens: 48,
        ..CountingSpec::default()
    };
    let mut judge = CountingJudge::new(Box::new(generator), spec).unwrap();
    let texts = ["Let us check the sum.", "First find x.", " ", "The cat sat on the mat.", "It rains."];
    let (mut read, mut repeated) = (0, 0);
    for (text, labels) in texts.iter().zip(judge.judge(&texts).unwrap()) {
        match labels {
            Ok(labels) => {
                assert!(
                    labels.marks.iter().all(|mark| mark.score == f32::from(u8::from(mark.count > 0))),
                    "{labels:?}"
                );
                read += 4;
                repeated += labels.marks.iter().zip(told).filter(|(mark, told)| mark.count == *told).count();
            }
            Err(refused) if text.trim().is_empty() => assert_eq!(refused.0, "empty text"),
            Err(refused) => assert!(refused.0.contains("no count in the reply, twice"), "{refused:?}"),
        }
    }
    println!("llama.cpp in generate mode: {read} counts read of {}, {repeated} as told", 4 * (texts.len() - 1));
    assert!(2 * repeated >= read, "{repeated} of {read}");
}
