//! A model server on loopback that speaks OpenAI's protocol, in either of the shapes that real ones have, and misbehaves on demand.
//!
//! Its "model" says yes with a probability that is a hash of the prompt, so that equal prompts have equal answers and all
//! others differ. Every request is recorded.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

/// No request hangs longer than this, whatever goes wrong in a test.
const LONGEST_STALL: Duration = Duration::from_secs(20);

/// What to do to a question instead of answering it well.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A status and a `Retry-After` of so many seconds.
    Refuse(u16, Option<u64>),
    /// The connection ends in the middle of the answer.
    Cut,
    /// The connection ends before any answer.
    Reset,
    /// Silence, until the client goes away.
    Hang,
    /// Status 200, and this.
    Garbage(&'static str),
}

/// How logprobs are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/completions` as vLLM and SGLang have it: a map.
    Map,
    /// As llama.cpp has it: a list.
    List,
    /// Nothing is shown.
    Missing,
}

/// What becomes of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraints {
    Ignored,
    /// Honoured; logprobs are the model's own.
    Honoured,
    /// Honoured; logprobs are taken after it.
    Shown,
}

/// What becomes of a begun reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefixes {
    Ignored,
    Continued,
    Repeated,
}

/// What kind of server it is.
#[derive(Debug, Clone)]
pub struct Manners {
    pub models: Vec<&'static str>,
    pub shape: Shape,
    pub constraints: Constraints,
    pub prefixes: Prefixes,
    /// Wanted in every request. Refusals repeat what was sent, right or wrong.
    pub key: Option<&'static str>,
    /// Longer prompts, in characters, are refused with status 400.
    pub context: usize,
    /// The model's answers to documents with this in them are neither yes nor no.
    pub silent_about: &'static str,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            models: vec!["judge-7b"],
            shape: Shape::Map,
            constraints: Constraints::Ignored,
            prefixes: Prefixes::Continued,
            key: None,
            context: usize::MAX,
            silent_about: "\u{0}",
        }
    }
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Null for GET.
    pub body: Value,
}

impl Seen {
    /// What was asked: the prompt, or the first message's text.
    pub fn prompt(&self) -> String {
        let message = self.body.pointer("/messages/0/content").and_then(Value::as_str);
        match &self.body["prompt"] {
            Value::String(text) => text.clone(),
            Value::Null => message.unwrap_or_default().to_owned(),
            tokens => tokens.to_string(),
        }
    }

    /// Whether it is about a document, and not one of the client's own questions.
    pub fn is_about_a_document(&self) -> bool {
        self.prompt().contains("Question: ")
    }
}

pub struct ModelServer {
    state: Arc<State>,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

struct State {
    manners: Manners,
    faults: Mutex<Vec<(Fault, usize)>>,
    /// So many questions about documents are answered before the server dies.
    lives: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
    closing: AtomicBool,
}

impl ModelServer {
    pub fn start(manners: Manners) -> Self {
        let state = Arc::new(State {
            manners,
            faults: Mutex::default(),
            lives: AtomicUsize::new(usize::MAX),
            seen: Mutex::default(),
            busy: AtomicUsize::new(0),
            most_busy: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("its address").port();
        let thread = std::thread::spawn({
            let state = Arc::clone(&state);
            move || state.accept(&listener)
        });
        Self { state, port, thread: Some(thread) }
    }

    /// The next `times` questions about documents suffer it.
    pub fn fault(&self, fault: Fault, times: usize) -> &Self {
        self.state.faults.lock().unwrap().push((fault, times));
        self
    }

    /// After so many answers about documents nobody is there any more.
    pub fn dies_after(&self, answers: usize) -> &Self {
        self.state.lives.store(answers, Ordering::SeqCst);
        self
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The prompts about documents, in the order in which they came.
    pub fn questions(&self) -> Vec<String> {
        self.requests().iter().filter(|seen| seen.is_about_a_document()).map(Seen::prompt).collect()
    }

    /// The largest number of questions that were being answered at one moment.
    pub fn most_at_once(&self) -> usize {
        self.state.most_busy.load(Ordering::Relaxed)
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::Relaxed);
        TcpStream::connect(("127.0.0.1", self.port)).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

type Answer = (u16, String, Value);

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            let state = Arc::clone(self);
            std::thread::spawn(move || state.serve(stream));
        }
    }

    /// One request per connection. Errors mean that the client went away, which is its right.
    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(LONGEST_STALL)).ok()?;
        let seen = read_request(&stream)?;
        let about_a_document = seen.is_about_a_document();
        if self.lives.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let fault = if about_a_document { self.take_fault() } else { None };
        self.seen.lock().unwrap().push(seen.clone());
        if about_a_document && fault.is_none() {
            self.lives.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |lives| lives.checked_sub(1)).ok()?;
        }
        self.most_busy.fetch_max(self.busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let sent = self.send(stream, &seen, fault);
        self.busy.fetch_sub(1, Ordering::SeqCst);
        sent
    }

    fn take_fault(&self) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (fault, left) = faults.iter_mut().find(|(_, left)| *left > 0)?;
        *left -= 1;
        Some(fault.clone())
    }

    fn send(&self, mut stream: TcpStream, seen: &Seen, fault: Option<Fault>) -> Option<()> {
        let (mut status, mut head, answer) = self.answer(seen);
        let mut body = answer.to_string();
        let mut cut = false;
        match fault {
            Some(Fault::Reset) => return None,
            Some(Fault::Hang) => return stream.read(&mut [0]).ok().map(drop),
            Some(Fault::Cut) => cut = true,
            Some(Fault::Garbage(text)) => body = text.to_owned(),
            Some(Fault::Refuse(refusal, after)) => {
                status = refusal;
                body = json!({"error": {"message": "not now"}}).to_string();
                head = after.map_or(String::new(), |seconds| format!("Retry-After: {seconds}\r\n"));
            }
            None => {}
        }
        let length = body.len();
        let shown = if cut { &body[..length / 2] } else { &body[..] };
        let text = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n{head}Content-Length: {length}\r\n\r\n{shown}");
        stream.write_all(text.as_bytes()).ok()
    }

    fn answer(&self, seen: &Seen) -> Answer {
        let refuse = |status, message: String| (status, String::new(), json!({"error": {"message": message}}));
        let sent = seen.headers.get("authorization").map(String::as_str).unwrap_or_default();
        if let Some(key) = self.manners.key
            && sent != format!("Bearer {key}")
        {
            return refuse(401, format!("wrong key in `{sent}`"));
        }
        if seen.path == "/v1/models" {
            let models: Vec<Value> = self
                .manners
                .models
                .iter()
                .map(|id| json!({"id": id, "object": "model", "owned_by": "tests"}))
                .collect();
            return (200, String::new(), json!({"object": "list", "data": models}));
        }
        if seen.body["model"].as_str().is_none_or(|model| !self.manners.models.contains(&model)) {
            return refuse(404, format!("no model {}", seen.body["model"]));
        }
        let prompt = seen.prompt();
        if prompt.chars().count() > self.manners.context {
            return refuse(400, format!("this prompt of {} characters is too long; {sent}", prompt.chars().count()));
        }
        match seen.path.as_str() {
            "/v1/completions" => (200, String::new(), self.completion(seen, &prompt)),
            "/v1/chat/completions" if seen.body["logprobs"] == true => {
                (200, String::new(), self.completion(seen, &prompt))
            }
            "/v1/chat/completions" => self.chat(seen, &prompt),
            other => refuse(404, format!("no {other}")),
        }
    }

    /// One token and its rivals.
    fn completion(&self, seen: &Seen, prompt: &str) -> Value {
        let yes = probability(prompt);
        let mut shown = if prompt.contains(self.manners.silent_about) || prompt.contains("capital of France") {
            vec![("Paris", 0.9), ("The", 0.06), ("A", 0.03)]
        } else {
            vec![(" yes", 0.97 * yes), ("No", 0.97 * (1.0 - yes)), ("The", 1e-4)]
        };
        let constrained = ["structured_outputs", "regex"].iter().any(|field| !seen.body[field].is_null());
        let constrained = constrained && self.manners.constraints != Constraints::Ignored;
        if constrained && self.manners.constraints == Constraints::Shown {
            shown = vec![("yes", yes), ("no", 1.0 - yes)];
        }
        let text = if constrained { "yes" } else { shown[0].0 };
        let list: Vec<Value> = shown.iter().map(|(token, p)| json!({"token": token, "logprob": p.ln()})).collect();
        let map: serde_json::Map<_, _> = shown.iter().map(|(token, p)| ((*token).to_owned(), json!(p.ln()))).collect();
        let is_chat = seen.path.contains("chat");
        let logprobs = match self.manners.shape {
            Shape::Missing => Value::Null,
            Shape::Map if !is_chat => json!({"tokens": [text], "token_logprobs": [0.0], "top_logprobs": [map]}),
            _ => json!({"content": [{"token": text, "logprob": 0.0, "top_logprobs": list}]}),
        };
        json!({"choices": [{"index": 0, "text": text, "message": {"role": "assistant", "content": text}, "logprobs": logprobs,
            "finish_reason": "length"}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}})
    }

    /// A reply: what was asked, in capitals.
    fn chat(&self, seen: &Seen, prompt: &str) -> Answer {
        let body = &seen.body;
        if self.manners.prefixes != Prefixes::Ignored
            && body["continue_final_message"] == true
            && body["add_generation_prompt"] != false
        {
            return (400, String::new(), json!({"error": {"message": "cannot set both"}}));
        }
        if prompt.contains("refuse me") {
            return (400, String::new(), json!({"error": {"message": "I would rather not"}}));
        }
        let begun =
            body["messages"].as_array().and_then(|turns| turns.last()).filter(|turn| turn["role"] == "assistant");
        let begun = begun.filter(|_| self.manners.prefixes == Prefixes::Repeated).map(|turn| &turn["content"]);
        let text = format!("{}{}", begun.and_then(Value::as_str).unwrap_or_default(), prompt.to_uppercase());
        let finish = if prompt.contains("at length") { "length" } else { "stop" };
        let reply = json!({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3}});
        (200, String::new(), reply)
    }
}

/// A probability that depends on the prompt alone.
pub fn probability(prompt: &str) -> f64 {
    let hash = prompt
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    0.05 + 0.9 * ((hash >> 40) as f64 / (1u64 << 24) as f64)
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
    Some(Seen { path, headers, body })
}
