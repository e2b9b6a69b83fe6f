//! A hub on loopback that speaks the real one's protocol and misbehaves on demand.
//!
//! Two small HTTP/1.1 servers on two ports. The hub (`127.0.0.1`) answers the revision and tree API (paged by `Link`),
//! `resolve` (large files redirect to the storage host with a signed link, small ones are served) and `/plain/PATH`.
//! The storage host is addressed as `localhost`, so that it counts as another host. Every request is recorded.
//!
//! ```ignore
//! let server = HubServer::start(&[("data/a.parquet", bytes)]);
//! server.fault(Fault::CutAfter(1000), 1);
//! ```
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const REPO: &str = "datasets/org/maths";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// In every link to the storage host; no message of a client may show it.
pub const SIGNATURE: &str = "sig-8f3e21";
/// No request hangs longer than this, whatever goes wrong in a test.
const LONGEST_STALL: Duration = Duration::from_secs(20);

/// What to do to a request instead of answering it well.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The body ends after so many bytes, although more were announced.
    CutAfter(usize),
    /// The same, and from the file's first byte, whatever range was asked for.
    CutWholeAfter(usize),
    /// The body falls silent after so many bytes, until the client goes away.
    StallAfter(usize),
    /// The body comes in small pieces.
    Slow,
    /// One byte of the body is another.
    WrongBytes,
    /// The file has another version: its ETag changes, so `If-Range` fails.
    NewEtag,
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// 429 with the hub's `RateLimit` header for a window that ends in so many seconds.
    RateLimited(u64),
    /// A status and, when not empty, the hub's `X-Error-Code`.
    Refuse(u16, &'static str),
    /// The connection is reset before any answer.
    Reset,
}

/// Which requests a fault befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Anything,
    /// Revision and tree requests.
    Api,
    /// `HEAD` of a file on the hub.
    Resolve,
    /// `GET` of a file's bytes, wherever they are.
    Content,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    /// On the storage host, not on the hub.
    pub on_storage: bool,
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn stage(&self) -> At {
        match (self.path.starts_with("/api/"), self.method.as_str()) {
            (true, _) => At::Api,
            (false, "HEAD") => At::Resolve,
            (false, _) => At::Content,
        }
    }
}

pub struct HubServer {
    state: Arc<State>,
    hub_port: u16,
    storage_port: u16,
    threads: Vec<JoinHandle<()>>,
}

/// A repository's files by path.
type Files = BTreeMap<String, Vec<u8>>;

struct State {
    files: Files,
    models: Mutex<BTreeMap<String, Arc<Files>>>,
    page_size: AtomicUsize,
    needs_token: Mutex<Option<String>>,
    faults: Mutex<Vec<(At, Fault, usize)>>,
    seen: Mutex<Vec<Seen>>,
    /// The largest number of file bodies that were on the way at one moment.
    busy: AtomicUsize,
    most_busy: AtomicUsize,
    closing: AtomicBool,
}

impl HubServer {
    /// Serves `files` as [`REPO`] at revision `main`, `refs/convert/parquet` and [`COMMIT`]; `org/old-name` redirects
    /// to it. Files whose name ends in `.parquet`, `.gz`, `.zst` or `.safetensors` are stored on the other host.
    pub fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
        let state = Arc::new(State {
            files,
            models: Mutex::default(),
            page_size: AtomicUsize::new(1000),
            needs_token: Mutex::default(),
            faults: Mutex::default(),
            seen: Mutex::default(),
            busy: AtomicUsize::new(0),
            most_busy: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a loopback port"));
        let [hub_port, storage_port] = [0, 1].map(|i: usize| listeners[i].local_addr().expect("its address").port());
        let threads = listeners.into_iter().enumerate().map(|(i, listener)| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || state.accept(&listener, i == 1, storage_port))
        });
        let threads = threads.collect();
        Self { state, hub_port, storage_port, threads }
    }

    /// The next `times` requests that the fault can befall suffer it: bodies for faults of bodies, else anything.
    pub fn fault(&self, fault: Fault, times: usize) -> &Self {
        let at = match fault {
            Fault::RateLimited(_) | Fault::Refuse(..) | Fault::Reset => At::Anything,
            _ => At::Content,
        };
        self.fault_at(at, fault, times)
    }

    pub fn fault_at(&self, at: At, fault: Fault, times: usize) -> &Self {
        self.state.faults.lock().unwrap().push((at, fault, times));
        self
    }

    /// Serves `files` as the model `owner/name`, at the same revisions.
    pub fn model(&self, repo: &str, files: &[(&str, Vec<u8>)]) -> &Self {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
        self.state.models.lock().unwrap().insert(repo.to_owned(), Arc::new(files));
        self
    }

    /// Tree pages of so many entries.
    pub fn page_size(&self, entries: usize) -> &Self {
        self.state.page_size.store(entries, Ordering::Relaxed);
        self
    }

    /// The hub answers 401 unless this token is sent.
    pub fn private(&self, token: &str) -> &Self {
        *self.state.needs_token.lock().unwrap() = Some(token.to_owned());
        self
    }

    /// For `HF_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.hub_port)
    }

    /// The address of a file outside of any repository.
    pub fn plain(&self, path: &str) -> String {
        format!("{}/plain/{path}", self.url())
    }

    /// Everything asked so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The largest number of file bodies that were on the way at one moment.
    pub fn most_at_once(&self) -> usize {
        self.state.most_busy.load(Ordering::Relaxed)
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::Relaxed);
        for port in [self.hub_port, self.storage_port] {
            TcpStream::connect(("127.0.0.1", port)).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// An answer before it is sent.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener, on_storage: bool, storage_port: u16) {
        while let Ok((stream, _)) = listener.accept() {
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            let state = Arc::clone(self);
            std::thread::spawn(move || state.serve(stream, on_storage, storage_port));
        }
    }

    /// One request per connection. Errors mean that the client went away, which is its right.
    fn serve(&self, mut stream: TcpStream, on_storage: bool, storage_port: u16) -> Option<()> {
        stream.set_read_timeout(Some(LONGEST_STALL)).ok()?;
        let (seen, length) = peek_request(&stream, on_storage)?;
        let fault = self.take_fault(seen.stage());
        self.seen.lock().unwrap().push(seen.clone());
        if fault == Some(Fault::Reset) {
            return None; // closing with the request unread makes the kernel send a reset
        }
        stream.read_exact(&mut vec![0; length]).ok()?;
        let answer = match &fault {
            Some(Fault::RateLimited(seconds)) => {
                Answer::new(429).with("RateLimit", format!("\"resolvers\";r=0;t={seconds}"))
            }
            Some(Fault::Refuse(status, code)) => Answer::new(*status).with("X-Error-Code", *code),
            _ if on_storage => self.storage(&seen, fault.as_ref()),
            _ => self.hub(&seen, storage_port, fault.as_ref()),
        };
        self.send(&mut stream, &seen, answer, fault.as_ref())
    }

    fn take_fault(&self, stage: At) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (_, fault, left) =
            faults.iter_mut().find(|(at, _, left)| *left > 0 && (*at == At::Anything || *at == stage))?;
        *left -= 1;
        Some(fault.clone())
    }

    fn hub(&self, seen: &Seen, storage_port: u16, fault: Option<&Fault>) -> Answer {
        let wanted = self.needs_token.lock().unwrap().as_ref().map(|token| format!("Bearer {token}"));
        if wanted.is_some() && seen.header("authorization") != wanted.as_deref() {
            return Answer::new(401).with("X-Error-Code", "RepoNotFound");
        }
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        if let Some(plain) = path.strip_prefix("/plain/") {
            return match self.files.get(plain) {
                Some(bytes) => content(bytes, &format!("\"{}\"", &sha256(bytes)[..16]), seen, fault),
                None => Answer::new(404),
            };
        }
        if let Some(rest) = path.strip_prefix("/datasets/org/old-name/") {
            return Answer::new(307).with("Location", format!("/{REPO}/{rest}"));
        }
        let parts: Vec<String> = path.trim_start_matches('/').split('/').map(decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (api, parts) = match &parts[..] {
            ["api", rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (repo, asked) = match parts {
            ["datasets", owner, name, asked @ ..] => (format!("datasets/{owner}/{name}"), asked),
            ["models", owner, name, asked @ ..] if api => (format!("{owner}/{name}"), asked),
            [owner, name, asked @ ..] if !api => (format!("{owner}/{name}"), asked),
            _ => return Answer::new(404),
        };
        let model = self.models.lock().unwrap().get(&repo).cloned();
        let files = match &model {
            Some(files) => files,
            None if repo == REPO => &self.files,
            None => return Answer::new(401).with("X-Error-Code", "RepoNotFound"),
        };
        match (api, asked) {
            (true, [call, revision]) => match (commit_of(revision), *call) {
                (None, _) => Answer::new(404).with("X-Error-Code", "RevisionNotFound"),
                (Some(commit), "revision") => {
                    let id = repo.trim_start_matches("datasets/");
                    Answer::new(200).body(format!("{{\"id\": \"{id}\", \"sha\": \"{commit}\"}}"))
                }
                (Some(_), "tree") => self.tree(files, seen, path, query),
                _ => Answer::new(404),
            },
            (false, ["resolve", revision, rest @ ..]) => match commit_of(revision) {
                None => Answer::new(404).with("X-Error-Code", "RevisionNotFound"),
                Some(_) => resolve(files, &rest.join("/"), seen, storage_port, fault),
            },
            _ => Answer::new(401).with("X-Error-Code", "RepoNotFound"),
        }
    }

    fn tree(&self, files: &Files, seen: &Seen, path: &str, query: &str) -> Answer {
        let cursor: usize = query.split("cursor=").nth(1).map_or(0, |text| text.parse().expect("our own cursor"));
        let size = self.page_size.load(Ordering::Relaxed);
        let folder = serde_json::json!({"type": "directory", "oid": "d1", "size": 0, "path": "data"});
        let files = files.iter().map(|(path, bytes)| {
            let hash = sha256(bytes);
            let mut entry = serde_json::json!({"type": "file", "oid": &hash[..40], "size": bytes.len(), "path": path});
            if is_stored(path) {
                entry["lfs"] = serde_json::json!({"oid": hash, "size": bytes.len(), "pointerSize": 134});
                entry["xetHash"] = sha256(hash.as_bytes()).into();
            }
            entry
        });
        let entries: Vec<_> = std::iter::once(folder).chain(files).collect();
        let page = &entries[cursor.min(entries.len())..(cursor + size).min(entries.len())];
        let answer = Answer::new(200).body(serde_json::to_vec(page).expect("JSON"));
        if cursor + size >= entries.len() {
            return answer;
        }
        let host = seen.header("host").unwrap_or_default();
        answer.with("Link", format!("<http://{host}{path}?recursive=true&cursor={}>; rel=\"next\"", cursor + size))
    }

    /// The storage host knows files by their hash, names versions in its own way, and serves signed links only.
    fn storage(&self, seen: &Seen, fault: Option<&Fault>) -> Answer {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let models: Vec<Arc<Files>> = self.models.lock().unwrap().values().cloned().collect();
        let all = self.files.values().chain(models.iter().flat_map(|files| files.values()));
        match all.into_iter().find(|bytes| path.ends_with(&sha256(bytes))) {
            Some(bytes) if query.contains(SIGNATURE) => content(bytes, &format!("\"s-{}\"", bytes.len()), seen, fault),
            _ => Answer::new(403),
        }
    }

    fn send(&self, stream: &mut TcpStream, seen: &Seen, answer: Answer, fault: Option<&Fault>) -> Option<()> {
        let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", answer.status);
        for (name, value) in answer.headers.iter().filter(|(_, value)| !value.is_empty()) {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", answer.body.len());
        stream.write_all(head.as_bytes()).ok()?;
        if seen.method == "HEAD" {
            return Some(());
        }
        let is_file = matches!(answer.status, 200 | 206) && seen.stage() == At::Content;
        if is_file {
            self.most_busy.fetch_max(self.busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
        let sent = send_body(stream, &answer.body, fault);
        if is_file {
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
        sent
    }
}

fn resolve(files: &Files, path: &str, seen: &Seen, storage_port: u16, fault: Option<&Fault>) -> Answer {
    let Some(bytes) = files.get(path) else {
        return Answer::new(404).with("X-Error-Code", "EntryNotFound");
    };
    let hash = sha256(bytes);
    if !is_stored(path) {
        return content(bytes, &format!("\"{}\"", &hash[..40]), seen, fault).with("X-Repo-Commit", COMMIT);
    }
    let linked = if fault == Some(&Fault::NewEtag) { sha256(b"another version") } else { hash.clone() };
    Answer::new(302)
        .with("X-Repo-Commit", COMMIT)
        .with("X-Linked-Etag", format!("\"{linked}\""))
        .with("X-Linked-Size", bytes.len().to_string())
        .with("Location", format!("http://localhost:{storage_port}/blobs/{hash}?X-Signature={SIGNATURE}"))
}

fn send_body(stream: &mut TcpStream, body: &[u8], fault: Option<&Fault>) -> Option<()> {
    match fault {
        Some(Fault::CutAfter(bytes) | Fault::CutWholeAfter(bytes)) => {
            stream.write_all(&body[..body.len().min(*bytes)]).ok()
        }
        Some(Fault::StallAfter(bytes)) => {
            stream.write_all(&body[..body.len().min(*bytes)]).ok()?;
            // Returns when the client closes, or after the longest stall.
            stream.read(&mut [0]).ok().map(drop)
        }
        Some(Fault::Slow) => body.chunks(body.len().div_ceil(8).max(1)).try_for_each(|piece| {
            std::thread::sleep(Duration::from_millis(2));
            stream.write_all(piece).ok()
        }),
        Some(Fault::WrongBytes) => {
            let mut wrong = body.to_vec();
            if let Some(byte) = wrong.last_mut() {
                *byte ^= 1;
            }
            stream.write_all(&wrong).ok()
        }
        _ => stream.write_all(body).ok(),
    }
}

/// A file or a range of it, as `Range` and `If-Range` ask.
fn content(bytes: &[u8], etag: &str, seen: &Seen, fault: Option<&Fault>) -> Answer {
    let etag = if fault == Some(&Fault::NewEtag) { "\"another-version\"".to_owned() } else { etag.to_owned() };
    let range = seen.header("range").and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    let ignored = matches!(fault, Some(Fault::IgnoreRange | Fault::CutWholeAfter(_)));
    let unchanged = seen.header("if-range").is_none_or(|version| version == etag);
    let answer = |status| Answer::new(status).with("ETag", etag.clone()).with("Accept-Ranges", "bytes");
    match range {
        Some((first, last)) if unchanged && !ignored => {
            let first: usize = first.parse().expect("the first byte of a range");
            let last = last.parse().map_or(bytes.len() - 1, |last: usize| last.min(bytes.len() - 1));
            if first >= bytes.len() {
                return answer(416).with("Content-Range", format!("bytes */{}", bytes.len()));
            }
            answer(206)
                .with("Content-Range", format!("bytes {first}-{last}/{}", bytes.len()))
                .body(&bytes[first..=last])
        }
        _ => answer(200).body(bytes),
    }
}

/// Reads a request's head without taking it off the socket; gives its length too.
fn peek_request(stream: &TcpStream, on_storage: bool) -> Option<(Seen, usize)> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = stream.peek(&mut buffer).ok()?;
        if length == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let mut lines = text[..end].split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        return Some((Seen { on_storage, method, path, headers }, end + 4));
    }
}

fn commit_of(revision: &str) -> Option<&'static str> {
    matches!(revision, "main" | "refs/convert/parquet" | COMMIT).then_some(COMMIT)
}

/// Whether the hub keeps the file on its storage host.
fn is_stored(path: &str) -> bool {
    [".parquet", ".gz", ".zst", ".safetensors"].iter().any(|end| path.ends_with(end))
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn decoded(part: &str) -> String {
    part.replace("%2F", "/").replace("%20", " ")
}
