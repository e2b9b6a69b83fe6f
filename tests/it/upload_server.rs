//! A hub on loopback that takes uploads, as the real one does, and fails on demand.
//!
//! The hub (`127.0.0.1`) knows repositories with a branch `main`: create, preupload, git LFS's batch, completion and
//! verify calls, commits as lines of JSON. The storage host, addressed as `localhost` so that it counts as another host,
//! takes `PUT`s to signed links, whole files or parts. Nothing is taken on trust: a stored object must hash to its name, a
//! commit may name only objects that are stored, a link is good for its object only, the token must be right.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha1::Digest;

use crate::hub_server::sha256;

pub const WRITER: &str = "hf_may_write";
pub const READER: &str = "hf_may_only_read";
/// In every link to the storage host; no message of a client may show it.
pub const SIGNATURE: &str = "sig-5d20aa";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Instead of doing it. 429 comes with the hub's `RateLimit` header for one second.
    Refuse(u16),
    /// The connection is closed after so many bytes of the request's body.
    CutAfter(usize),
    /// It is done, and the answer is lost.
    LoseAnswer,
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub on_storage: bool,
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: usize,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Regular(Vec<u8>),
    /// The SHA-256 of a stored object.
    Stored(String),
}

#[derive(Default)]
struct Repo {
    is_private: bool,
    files: BTreeMap<String, Entry>,
    /// The message of each, oldest first.
    commits: Vec<String>,
}

#[derive(Default)]
struct State {
    repos: BTreeMap<String, Repo>,
    objects: BTreeMap<String, Vec<u8>>,
    /// By object and number, with what the storage host called it.
    parts: BTreeMap<(String, u64), Vec<u8>>,
    faults: Vec<(&'static str, &'static str, Fault, usize)>,
    seen: Vec<Seen>,
    /// Objects of this size and larger are asked for in parts of this size.
    part_size: Option<u64>,
}

struct Shared {
    state: Mutex<State>,
    ports: [u16; 2],
    closing: AtomicBool,
}

pub struct UploadServer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Answer(u16, Vec<(&'static str, String)>, Value);

fn ok(value: Value) -> Answer {
    Answer(200, vec![], value)
}

fn no(status: u16, why: &str) -> Answer {
    Answer(status, vec![], json!({ "error": why }))
}

impl UploadServer {
    pub fn start() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap().port());
        let shared = Arc::new(Shared { state: Mutex::default(), ports, closing: AtomicBool::new(false) });
        let threads = listeners.into_iter().enumerate().map(|(i, listener)| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    if shared.closing.load(Ordering::Relaxed) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || shared.serve(stream, i == 1));
                }
            })
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    /// For `HF_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.shared.ports[0])
    }

    /// The next `times` requests with this method and this in their path suffer it.
    pub fn fault(&self, method: &'static str, path: &'static str, fault: Fault, times: usize) -> &Self {
        self.shared.state.lock().unwrap().faults.push((method, path, fault, times));
        self
    }

    pub fn parts_of(&self, bytes: u64) -> &Self {
        self.shared.state.lock().unwrap().part_size = Some(bytes);
        self
    }

    /// A repository that is there before the test, `datasets/OWNER/NAME`.
    pub fn with_repo(&self, name: &str, is_private: bool) -> &Self {
        self.shared.state.lock().unwrap().repos.insert(name.into(), Repo { is_private, ..Repo::default() });
        self
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    pub fn forget_requests(&self) {
        self.shared.state.lock().unwrap().seen.clear();
    }

    pub fn commits(&self, repo: &str) -> Vec<String> {
        self.shared.state.lock().unwrap().repos.get(repo).map_or(vec![], |repo| repo.commits.clone())
    }

    pub fn is_private(&self, repo: &str) -> Option<bool> {
        self.shared.state.lock().unwrap().repos.get(repo).map(|repo| repo.is_private)
    }

    /// The branch's files with their content.
    pub fn files(&self, repo: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.shared.state.lock().unwrap();
        let files = state.repos.get(repo).into_iter().flat_map(|repo| &repo.files);
        let content = |entry: &Entry| match entry {
            Entry::Regular(bytes) => bytes.clone(),
            Entry::Stored(hash) => state.objects[hash].clone(),
        };
        files.map(|(path, entry)| (path.clone(), content(entry))).collect()
    }
}

impl Drop for UploadServer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        for port in self.shared.ports {
            TcpStream::connect(("127.0.0.1", port)).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Shared {
    /// One request per connection. Errors mean that the client went away.
    fn serve(&self, stream: TcpStream, on_storage: bool) -> Option<()> {
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let mut reader = BufReader::new(&stream);
        let (method, target, headers) = read_head(&mut reader)?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let fault = self.take_fault(&method, path);
        if headers.get("expect").is_some_and(|expect| expect.contains("100-continue")) {
            (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        if let Some(Fault::CutAfter(bytes)) = fault {
            reader.read_exact(&mut vec![0; bytes]).ok()?;
            self.saw(on_storage, &method, path, &headers, bytes);
            stream.shutdown(std::net::Shutdown::Both).ok()?;
            return None;
        }
        let body = read_body(&mut reader, &headers)?;
        self.saw(on_storage, &method, path, &headers, body.len());
        let answer = match fault {
            Some(Fault::Refuse(429)) => {
                Answer(429, vec![("RateLimit", "\"api\";r=0;t=1".into())], json!({ "error": "slow down" }))
            }
            Some(Fault::Refuse(status)) => no(status, "refused on demand"),
            _ if on_storage => self.storage(&method, path, query, body),
            _ => self.hub(&method, path, query, &headers, &body),
        };
        if fault == Some(Fault::LoseAnswer) {
            return None;
        }
        let text = if method == "HEAD" { vec![] } else { serde_json::to_vec(&answer.2).unwrap() };
        let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\nContent-Type: application/json\r\n", answer.0);
        for (name, value) in &answer.1 {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", text.len());
        (&stream).write_all(&[head.as_bytes(), &text].concat()).ok()
    }

    fn saw(&self, on_storage: bool, method: &str, path: &str, headers: &BTreeMap<String, String>, body: usize) {
        let seen = Seen { on_storage, method: method.into(), path: path.into(), headers: headers.clone(), body };
        self.state.lock().unwrap().seen.push(seen);
    }

    fn take_fault(&self, method: &str, path: &str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        let found = state.faults.iter_mut().find(|(m, p, _, left)| *left > 0 && *m == method && path.contains(p));
        found.map(|(_, _, fault, left)| {
            *left -= 1;
            *fault
        })
    }

    fn hub(&self, method: &str, path: &str, query: &str, headers: &BTreeMap<String, String>, body: &[u8]) -> Answer {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let mut state = self.state.lock().unwrap();
        // Completion links are signed, and need no token.
        if let ["lfs", "complete", oid] = parts[..] {
            return if query == SIGNATURE { state.complete(oid, body) } else { no(403, "not signed") };
        }
        let may_write = headers.get("authorization").is_some_and(|value| *value == format!("Bearer {WRITER}"));
        let may_read = headers.get("authorization").is_some_and(|value| *value == format!("Bearer {READER}"));
        if !may_write && !may_read {
            return no(401, "who are you?");
        }
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        match (method, &parts[..]) {
            ("GET", ["api", kind, owner, name]) => match state.repos.get(&format!("{kind}/{owner}/{name}")) {
                Some(repo) => ok(json!({ "id": format!("{owner}/{name}"), "private": repo.is_private })),
                None => missing(),
            },
            ("GET", ["api", kind, owner, name, "revision", "main"]) => {
                match state.repos.get(&format!("{kind}/{owner}/{name}")) {
                    Some(repo) => ok(json!({ "id": format!("{owner}/{name}"), "sha": commit_id(repo) })),
                    None => missing(),
                }
            }
            ("POST", ["api", "validate-yaml"]) => validate(&value),
            ("POST", _) if !may_write => no(403, "this token may only read"),
            ("POST", ["api", "repos", "create"]) => state.create(&value),
            ("POST", ["api", kind, owner, name, "preupload", branch]) => {
                state.preupload(&format!("{kind}/{owner}/{name}"), branch, &value)
            }
            ("POST", ["api", kind, owner, name, "commit", branch]) => {
                state.commit(&format!("{kind}/{owner}/{name}"), branch, body)
            }
            ("POST", ["lfs", "verify"]) => match value["oid"].as_str().and_then(|oid| state.objects.get(oid)) {
                Some(object) if Some(object.len() as u64) == value["size"].as_u64() => ok(json!({})),
                _ => no(404, "no such object"),
            },
            ("POST", [.., git, "info", "lfs", "objects", "batch"]) if git.ends_with(".git") => {
                let asked_in_lfs = headers.get("accept").is_some_and(|kind| kind.contains("git-lfs+json"));
                if asked_in_lfs { state.batch(&value, self.ports) } else { no(406, "not asked for in LFS's JSON") }
            }
            _ => no(404, "no such call"),
        }
    }

    fn storage(&self, method: &str, path: &str, query: &str, body: Vec<u8>) -> Answer {
        let mut state = self.state.lock().unwrap();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, &parts[..]) {
            _ if query != SIGNATURE => no(403, "not signed"),
            ("PUT", ["whole", oid]) if sha256(&body) == *oid => {
                state.objects.insert((*oid).into(), body);
                Answer(200, vec![("ETag", "\"whole\"".into())], json!(null))
            }
            ("PUT", ["part", oid, number]) => {
                let etag = format!("\"{}\"", &sha256(&body)[..16]);
                state.parts.insert(((*oid).into(), number.parse().unwrap()), body);
                Answer(200, vec![("ETag", etag)], json!(null))
            }
            _ => no(400, "other bytes than were promised"),
        }
    }
}

impl State {
    fn create(&mut self, wish: &Value) -> Answer {
        let text = |key: &str| wish[key].as_str().unwrap_or_default();
        let name = format!("{}s/{}/{}", text("type"), text("organization"), text("name"));
        if text("organization") != "org" {
            return no(403, "you are not of this organisation");
        }
        let url = format!("https://huggingface.co/{name}");
        if self.repos.contains_key(&name) {
            return Answer(409, vec![], json!({ "error": "You already created this repo", "url": url }));
        }
        self.repos.insert(name, Repo { is_private: wish["visibility"] == "private", ..Repo::default() });
        ok(json!({ "url": url }))
    }

    fn preupload(&self, name: &str, branch: &str, question: &Value) -> Answer {
        let Some(repo) = self.repos.get(name) else { return missing() };
        if branch != "main" {
            return Answer(404, vec![("X-Error-Code", "RevisionNotFound".into())], json!({ "error": "no branch" }));
        }
        let files = question["files"].as_array().unwrap();
        assert!(files.len() <= 256, "the hub takes 256 at a time");
        let files = files.iter().map(|file| {
            let (path, size) = (file["path"].as_str().unwrap(), file["size"].as_u64().unwrap());
            let sample = STANDARD.decode(file["sample"].as_str().unwrap()).unwrap();
            assert_eq!(sample.len() as u64, size.min(512));
            let is_text = !sample.contains(&0) && !path.ends_with(".parquet") && !path.ends_with(".safetensors");
            let oid = repo.files.get(path).map(|entry| match entry {
                Entry::Stored(hash) => hash.clone(),
                Entry::Regular(bytes) => git_hash(bytes),
            });
            json!({
                "path": path,
                "uploadMode": if is_text { "regular" } else { "lfs" },
                "shouldIgnore": path.ends_with(".tmp"),
                "oid": oid,
            })
        });
        ok(json!({ "files": files.collect::<Vec<_>>() }))
    }

    fn batch(&self, question: &Value, ports: [u16; 2]) -> Answer {
        assert_eq!((&question["operation"], &question["hash_algo"]), (&json!("upload"), &json!("sha256")));
        let objects = question["objects"].as_array().unwrap().iter().map(|object| {
            let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap());
            if self.objects.contains_key(oid) {
                return json!({ "oid": oid, "size": size });
            }
            let storage = format!("http://localhost:{}", ports[1]);
            let upload = match self.part_size.filter(|&part| size >= part) {
                None => json!({ "href": format!("{storage}/whole/{oid}?{SIGNATURE}") }),
                Some(part) => {
                    let mut header = json!({ "chunk_size": part.to_string() });
                    for number in 1..=size.div_ceil(part) {
                        header[number.to_string()] = format!("{storage}/part/{oid}/{number}?{SIGNATURE}").into();
                    }
                    json!({ "href": format!("http://127.0.0.1:{}/lfs/complete/{oid}?{SIGNATURE}", ports[0]), "header": header })
                }
            };
            let verify = json!({ "href": format!("http://127.0.0.1:{}/lfs/verify", ports[0]) });
            json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
        });
        ok(json!({ "transfer": "basic", "objects": objects.collect::<Vec<_>>() }))
    }

    fn complete(&mut self, oid: &str, body: &[u8]) -> Answer {
        let done: Value = serde_json::from_slice(body).unwrap();
        let mut whole = Vec::new();
        for part in done["parts"].as_array().unwrap() {
            let number = part["partNumber"].as_u64().unwrap();
            let Some(bytes) = self.parts.get(&(oid.to_owned(), number)) else { return no(400, "a part is missing") };
            if part["etag"] != format!("\"{}\"", &sha256(bytes)[..16]) {
                return no(400, "another part");
            }
            whole.extend_from_slice(bytes);
        }
        if done["oid"] != oid || sha256(&whole) != oid {
            return no(400, "the parts do not make the object");
        }
        self.parts.retain(|(of, _), _| of != oid);
        self.objects.insert(oid.into(), whole);
        ok(json!({ "success": true }))
    }

    fn commit(&mut self, name: &str, branch: &str, body: &[u8]) -> Answer {
        if !self.repos.contains_key(name) || branch != "main" {
            return missing();
        }
        let lines: Vec<Value> = body
            .split(|&b| b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let Some(summary) = lines[0]["value"]["summary"].as_str().filter(|_| lines[0]["key"] == "header") else {
            return no(400, "no header");
        };
        let mut files = BTreeMap::new();
        for line in &lines[1..] {
            let value = &line["value"];
            let path = value["path"].as_str().unwrap().to_owned();
            let entry = match line["key"].as_str().unwrap() {
                "file" => Entry::Regular(STANDARD.decode(value["content"].as_str().unwrap()).unwrap()),
                "lfsFile" => {
                    let oid = value["oid"].as_str().unwrap();
                    let stored = self.objects.get(oid).map(|object| object.len() as u64);
                    if value["algo"] != "sha256" || stored.is_none() || stored != value["size"].as_u64() {
                        return no(400, "your push names an object that is not stored");
                    }
                    Entry::Stored(oid.to_owned())
                }
                _ => return no(400, "an unknown line"),
            };
            files.insert(path, entry);
        }
        let repo = self.repos.get_mut(name).unwrap();
        repo.files.extend(files);
        repo.commits.push(summary.to_owned());
        let id = commit_id(repo);
        ok(
            json!({ "success": true, "commitOid": id, "commitUrl": format!("https://huggingface.co/{name}/commit/{id}") }),
        )
    }
}

fn missing() -> Answer {
    Answer(404, vec![("X-Error-Code", "RepoNotFound".into())], json!({ "error": "no such repository" }))
}

/// The hub knows its licences, and reads no card without a head.
fn validate(question: &Value) -> Answer {
    let content = question["content"].as_str().unwrap();
    let Some((head, _)) = content.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")) else {
        return ok(json!({ "errors": [], "warnings": [{ "message": "empty or missing yaml metadata in repo card" }] }));
    };
    let license = head.lines().find_map(|line| line.strip_prefix("license: "));
    if license.is_some_and(|id| !["odc-by", "apache-2.0", "mit", "other"].contains(&id)) {
        let errors = json!([{ "message": "\"license\" must be one of [odc-by, apache-2.0, mit, other]" }]);
        return Answer(400, vec![], json!({ "errors": errors, "warnings": [] }));
    }
    ok(json!({ "errors": [], "warnings": [] }))
}

fn commit_id(repo: &Repo) -> String {
    sha256(format!("{:?}", (&repo.files, &repo.commits)).as_bytes())[..40].to_owned()
}

fn git_hash(bytes: &[u8]) -> String {
    format!("{:x}", sha1::Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()))
}

/// A request's method, target, and headers by names in lower case.
pub fn read_head(reader: &mut impl BufRead) -> Option<(String, String, BTreeMap<String, String>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut first = line.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => return Some((method, target, headers)),
        };
    }
}

fn read_body(reader: &mut impl BufRead, headers: &BTreeMap<String, String>) -> Option<Vec<u8>> {
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; length + 2];
            reader.read_exact(&mut chunk).ok()?;
            if length == 0 {
                return Some(body);
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}
