//! Files from this disk to a repository on the hub, by the API that the hub's own clients speak over plain HTTP.
//!
//! ```text
//! POST /api/validate-yaml                          is the card's head well-formed?
//! POST /api/repos/create                           409 when it is there already
//! POST /api/datasets/OWNER/NAME/preupload/BRANCH   which files go to git, which to storage, which are there already
//! POST /datasets/OWNER/NAME.git/info/lfs/objects/batch     where the stored ones go: nowhere when they are there
//! PUT  <signed link> …                             the bytes, whole or in parts             (storage.rs)
//! POST /api/datasets/OWNER/NAME/commit/BRANCH      one line per file: the files appear
//! ```
//!
//! What is there already is skipped, by SHA-256 or by git's own hash, so a rerun after a failure sends what is missing
//! and nothing else. Nothing is visible before its commit, and the card, `README.md`, is in the last one. A commit whose
//! answer was lost is not sent again blindly: the hub is asked first what it has.
//!
//! The edges: no Xet transfer (the hub takes the older one, too), no deletion, no pull requests.

mod outgoing;
mod storage;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rayon::prelude::*;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::address::{Repo, RepoKind, check_path};
use super::answer::{Subject, trouble};
use super::payload::Payload;
use super::retry::Trouble;
use super::wire::{Ask, Reply, host};
use super::{Hub, offline};
use crate::error::{Exit, Failure};

pub use outgoing::{Content, Outgoing};

/// Files per preupload request, the hub's own limit.
const FILES_PER_QUESTION: usize = 256;
/// Files per commit: the hub ends a request after a minute, and advises 50 to 100.
const FILES_PER_COMMIT: usize = 100;
/// Content inside of one commit request; stored files count nothing.
const BYTES_PER_COMMIT: u64 = 32 << 20;
/// What the hub looks at to tell text from data.
const SAMPLE: usize = 512;
/// Stored files on the way at the same time.
const LANES: usize = 4;
const LARGEST_ANSWER: usize = 16 << 20;

/// Where files go.
#[derive(Debug, Clone)]
pub struct Target {
    pub repo: Repo,
    pub branch: String,
    /// Create the repository as a private one, and refuse one that is public.
    pub private: bool,
}

/// One upload.
pub struct Upload<'a> {
    pub target: &'a Target,
    pub files: &'a [Outgoing],
    /// The commit's first line.
    pub message: &'a str,
    /// Gets a line for each step.
    pub said: &'a (dyn Fn(&str) + Send + Sync),
}

/// What an upload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The newest commit of the branch; none when every file was there and the hub does not name it.
    pub commit: Option<String>,
    /// Files of the new commits, and their bytes.
    pub files: usize,
    pub bytes: u64,
    /// Files that the repository had already.
    pub unchanged: usize,
    /// Files that the repository's `.gitignore` keeps out.
    pub ignored: Vec<String>,
}

/// A file and the hashes that the hub knows it by.
struct Hashed<'a> {
    file: &'a Outgoing,
    /// 64 hexadecimal digits.
    sha256: String,
    sample: Vec<u8>,
}

/// How the hub wants a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Inside of the commit.
    Regular,
    /// In the storage; the commit names its hash.
    Lfs,
}

#[derive(Deserialize)]
struct Preupload {
    files: Vec<PreuploadFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreuploadFile {
    path: String,
    upload_mode: Mode,
    #[serde(default)]
    should_ignore: bool,
    /// The hash of the file that is there: SHA-256 of a stored one, git's of another.
    oid: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Commit {
    commit_oid: String,
}

#[derive(Deserialize)]
struct RepoInfo {
    #[serde(default)]
    private: bool,
}

/// A file that the repository does not have.
struct Change<'a> {
    hashed: &'a Hashed<'a>,
    mode: Mode,
}

/// What preupload found out.
struct Survey<'a> {
    changes: Vec<Change<'a>>,
    unchanged: usize,
    ignored: Vec<String>,
}

/// One upload under way.
struct Session<'a> {
    hub: &'a Hub,
    upload: &'a Upload<'a>,
}

impl Hub {
    /// Brings a branch of a repository to hold `files`; files that it has beside them stay.
    ///
    /// # Errors
    /// No token, or one that may not write there; a card that the hub refuses; a public repository where a private one
    /// was asked for; a file that is not what it was; a hub or storage host that stays away. Everything that was sent
    /// until then counts on the next attempt.
    pub fn upload(&self, upload: &Upload<'_>) -> Result<Uploaded> {
        Session { hub: self, upload }.run()
    }
}

impl Session<'_> {
    fn run(&self) -> Result<Uploaded> {
        let repo = &self.upload.target.repo;
        if self.hub.config().offline {
            return Err(offline(&repo.to_string()));
        }
        if self.hub.config().token.is_none() {
            return Err(Failure::new(Exit::Usage, format!("there is no token to write to `{repo}` with"))
                .hint("set HF_TOKEN to a token with write permission, or sign in with `hf auth login`")
                .into());
        }
        for file in self.upload.files {
            check_path(&file.path)?;
        }
        self.validate_card()?;
        let hashed: Vec<Hashed<'_>> = self.upload.files.par_iter().map(Hashed::new).collect::<Result<_>>()?;
        self.create_repo()?;
        let survey = self.survey(&hashed.iter().collect::<Vec<_>>())?;
        if !survey.ignored.is_empty() {
            self.hub.notice(&format!("`.gitignore` of `{repo}` keeps out `{}`", survey.ignored.join("`, `")));
        }
        self.store(&survey.changes)?;

        let (files, bytes) = (survey.changes.len(), survey.changes.iter().map(|change| change.hashed.file.size).sum());
        let commits = into_commits(survey.changes);
        let mut commit = None;
        for (number, changes) in commits.iter().enumerate() {
            let part =
                if commits.len() > 1 { format!(" ({} of {})", number + 1, commits.len()) } else { String::new() };
            commit = Some(self.commit(changes, &format!("{}{part}", self.upload.message))?);
            (self.upload.said)(&format!("committed {} files{part}", changes.len()));
        }
        if commit.is_none() {
            commit = self.head()?;
        }
        Ok(Uploaded { commit, files, bytes, unchanged: survey.unchanged, ignored: survey.ignored })
    }

    /// The hub says now, and not after hours of sending, that it cannot read the card's head.
    fn validate_card(&self) -> Result<()> {
        let Some(card) = self.upload.files.iter().find(|file| file.path == "README.md") else { return Ok(()) };
        let content = String::from_utf8(card.content.read()?)
            .map_err(|_| Failure::new(Exit::Usage, "the card `README.md` is not UTF-8"))?;
        let kind = self.upload.target.repo.kind.singular();
        let url = self.hub.endpoint_url(["api", "validate-yaml"])?;
        let _: IgnoredAny = self.post("README.md", &url, &json!({ "content": content, "repoType": kind }))?;
        Ok(())
    }

    fn create_repo(&self) -> Result<()> {
        let target = self.upload.target;
        let (owner, name) = target.repo.id.split_once('/').unwrap_or_default();
        let mut wish = json!({ "type": target.repo.kind.singular(), "name": name, "organization": owner });
        if target.private {
            wish["visibility"] = "private".into();
        }
        let url = self.hub.endpoint_url(["api", "repos", "create"])?;
        let payload = json_payload(&wish)?;
        let created = self.patience(&target.repo.to_string()).until(|_| {
            let reply = self.hub.wire()?.send(&Ask::send(Method::POST, &url, &payload), self.hub.stop())?;
            match reply.status().as_u16() {
                200 | 201 => Ok(Ok(())),
                // There already, or this token may not create: then it must be there.
                401 | 402 | 403 | 409 => Ok(Err(self.refused(reply))),
                _ => Err(self.refused(reply)),
            }
        })?;
        let Err(refusal) = created else {
            (self.upload.said)(&format!("created `{}`", target.repo));
            return Ok(());
        };
        let url = self.api(&[])?;
        let info: Result<RepoInfo> = self.patience(&target.repo.to_string()).until(|_| {
            let reply = self.hub.wire()?.send(&Ask::get(&url), self.hub.stop())?;
            self.json(reply)
        });
        match (info, refusal) {
            (Ok(info), _) if target.private && !info.private => {
                Err(Failure::new(Exit::Usage, format!("`{}` is there already, and it is public", target.repo))
                    .hint("choose another name, make it private on its settings page, or leave `--private` out")
                    .into())
            }
            (Ok(_), _) => Ok(()),
            (Err(_), Trouble::Final(error)) => Err(error),
            (Err(error), Trouble::Passing { .. }) => Err(error),
        }
    }

    /// Asks how the hub wants each file, and leaves out those that it has.
    fn survey<'h>(&self, files: &[&'h Hashed<'h>]) -> Result<Survey<'h>> {
        let mut survey = Survey { changes: Vec::new(), unchanged: 0, ignored: Vec::new() };
        let url = self.api(&["preupload", &self.upload.target.branch])?;
        for files in files.chunks(FILES_PER_QUESTION) {
            let asked = files.iter().map(|hashed| {
                json!({ "path": hashed.file.path, "size": hashed.file.size, "sample": STANDARD.encode(&hashed.sample) })
            });
            let question = json!({ "files": asked.collect::<Vec<_>>() });
            let answer: Preupload = self.post(&self.upload.target.repo.to_string(), &url, &question)?;
            for &hashed in files {
                let path = &hashed.file.path;
                let wanted = answer.files.iter().find(|wanted| wanted.path == *path).ok_or_else(|| {
                    Failure::new(Exit::Unavailable, format!("the hub does not say how it wants `{path}`"))
                        .hint("check HF_ENDPOINT: a mirror may not take uploads")
                })?;
                // The storage takes no empty files.
                let mode = if hashed.file.size == 0 { Mode::Regular } else { wanted.upload_mode };
                let oid = match mode {
                    Mode::Lfs => hashed.sha256.clone(),
                    Mode::Regular => git_hash(&hashed.file.content.read()?),
                };
                if wanted.should_ignore {
                    survey.ignored.push(path.clone());
                } else if wanted.oid.as_deref() == Some(oid.as_str()) {
                    survey.unchanged += 1;
                } else {
                    survey.changes.push(Change { hashed, mode });
                }
            }
        }
        Ok(survey)
    }

    /// Sends the bytes of all files that the hub keeps in its storage.
    fn store(&self, changes: &[Change<'_>]) -> Result<()> {
        let stored: Vec<&Hashed<'_>> =
            changes.iter().filter(|change| change.mode == Mode::Lfs).map(|change| change.hashed).collect();
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let (stop, halt) = self.hub.stop().child();
        let hub = self.hub.stopped_by(stop);
        std::thread::scope(|scope| {
            for _ in 0..LANES.min(stored.len()) {
                scope.spawn(|| {
                    let lane = Session { hub: &hub, upload: self.upload };
                    while let Some(hashed) = stored.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = lane.store_one(hashed) {
                            // The first failure stops the other lanes, whose own failure is then that they were stopped.
                            let mut failure = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            failure.get_or_insert(error);
                            halt.store(true, Ordering::Relaxed);
                            return;
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Makes the files appear, and gives the commit.
    fn commit(&self, changes: &[Change<'_>], message: &str) -> Result<String> {
        let url = self.api(&["commit", &self.upload.target.branch])?;
        let mut body = serde_json::to_vec(&json!({
            "key": "header", "value": { "summary": message, "description": "" }
        }))?;
        for change in changes {
            body.push(b'\n');
            body.extend(serde_json::to_vec(&change.line()?)?);
        }
        body.push(b'\n');
        let payload = Payload::bytes("application/x-ndjson", body);
        let mut is_first = true;
        self.patience(&self.upload.target.repo.to_string()).until(|_| {
            if !std::mem::take(&mut is_first) {
                // The answer was lost, and the commit perhaps not.
                let hashed: Vec<&Hashed<'_>> = changes.iter().map(|change| change.hashed).collect();
                let survey = Session { hub: self.hub, upload: self.upload }.survey(&hashed)?;
                if survey.changes.is_empty()
                    && let Some(commit) = self.head()?
                {
                    return Ok(commit);
                }
            }
            let reply = self.hub.wire()?.send(&Ask::send(Method::POST, &url, &payload), self.hub.stop())?;
            let commit: Commit = self.json(reply)?;
            Ok(commit.commit_oid)
        })
    }

    /// The branch's newest commit.
    fn head(&self) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Revision {
            sha: Option<String>,
        }
        let url = self.api(&["revision", &self.upload.target.branch])?;
        let revision: Revision = self.patience(&self.upload.target.repo.to_string()).until(|_| {
            let reply = self.hub.wire()?.send(&Ask::get(&url), self.hub.stop())?;
            self.json(reply)
        })?;
        Ok(revision.sha)
    }

    /// `ENDPOINT/api/datasets/OWNER/NAME/…`.
    fn api(&self, parts: &[&str]) -> Result<Url> {
        let repo = &self.upload.target.repo;
        let start = ["api", repo.kind.plural()].into_iter().chain(repo.id.split('/'));
        self.hub.endpoint_url(start.chain(parts.iter().copied()))
    }

    fn patience(&self, what: &str) -> super::retry::Patience<'_> {
        self.hub.patience(what.to_owned()).to("upload")
    }

    /// Sends JSON to the hub and reads its answer, as often as it takes.
    fn post<T: DeserializeOwned>(&self, what: &str, url: &Url, question: &Value) -> Result<T> {
        let payload = json_payload(question)?;
        self.patience(what).until(|_| {
            let reply = self.hub.wire()?.send(&Ask::send(Method::POST, url, &payload), self.hub.stop())?;
            self.json(reply)
        })
    }

    fn json<T: DeserializeOwned>(&self, reply: Reply<'_>) -> Result<T, Trouble> {
        if !reply.status().is_success() {
            return Err(self.refused(reply));
        }
        let host = host(&reply.url);
        let body = reply.body(LARGEST_ANSWER, self.hub.stop())?;
        serde_json::from_slice(&body).map_err(|_| {
            Failure::new(Exit::Unavailable, format!("`{host}` does not answer as the hub does"))
                .hint("check HF_ENDPOINT: a mirror may not take uploads")
                .into()
        })
    }

    /// Why the hub does not take something.
    fn refused(&self, reply: Reply<'_>) -> Trouble {
        let repo = &self.upload.target.repo;
        let status = reply.status().as_u16();
        let subject = Subject::Repo(repo, &self.upload.target.branch);
        if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) {
            return trouble(&reply, &subject, true);
        }
        let code = reply.header("x-error-code").unwrap_or_default().to_owned();
        let told = reply.body(LARGEST_ANSWER, self.hub.stop()).ok().and_then(|body| reason(&body));
        let because = told.map(|reason| format!(": {reason}")).unwrap_or_default();
        let fail = |exit, message: String, hint: &str| Trouble::from(Failure::new(exit, message + &because).hint(hint));
        match (status, code.as_str()) {
            // Somebody else commits to the same branch at this moment.
            (412, _) => Trouble::passing(format!("`{subject}` changed meanwhile")),
            (409, _) if because.contains("in progress") => Trouble::passing(format!("the hub is busy with `{repo}`")),
            (401 | 403, _) => fail(
                Exit::Usage,
                format!("the hub does not let this token write to `{repo}` (status {status})"),
                "use a token with write permission for this owner; `HF_TOKEN` goes before the one that is signed in",
            ),
            (404, "RevisionNotFound") => fail(
                Exit::Usage,
                format!("`{repo}` has no branch `{}`", self.upload.target.branch),
                "create it on the repository's page, or leave `@BRANCH` out",
            ),
            (404, _) => fail(Exit::Usage, format!("the hub shows no repository `{repo}`"), "check its spelling"),
            (400 | 413 | 422, _) => {
                fail(Exit::Usage, format!("the hub does not take it (status {status})"), "correct it and upload again")
            }
            _ => fail(
                Exit::Unavailable,
                format!("the hub answered {status} for `{subject}`"),
                "check HF_ENDPOINT: a mirror may not take uploads",
            ),
        }
    }
}

impl RepoKind {
    /// As the hub's API writes one.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Model => "model",
        }
    }
}

impl<'a> Hashed<'a> {
    fn new(file: &'a Outgoing) -> Result<Self> {
        let sample = match &file.content {
            Content::Bytes(bytes) => bytes[..bytes.len().min(SAMPLE)].to_vec(),
            Content::File(path) => first_bytes(path).with_context(|| format!("cannot read `{}`", path.display()))?,
        };
        Ok(Self { file, sha256: file.hash()?, sample })
    }
}

impl Change<'_> {
    /// Its line of the commit.
    fn line(&self) -> Result<Value> {
        let Hashed { file, sha256, .. } = self.hashed;
        Ok(match self.mode {
            Mode::Regular => json!({
                "key": "file",
                "value": { "path": file.path, "encoding": "base64", "content": STANDARD.encode(file.content.read()?) },
            }),
            Mode::Lfs => json!({
                "key": "lfsFile",
                "value": { "path": file.path, "algo": "sha256", "oid": sha256, "size": file.size },
            }),
        })
    }
}

/// Cuts changes into commits of bearable size; the card comes last.
fn into_commits(mut changes: Vec<Change<'_>>) -> Vec<Vec<Change<'_>>> {
    changes.sort_by_key(|change| change.hashed.file.path == "README.md");
    let mut commits: Vec<Vec<Change<'_>>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = if change.mode == Mode::Regular { change.hashed.file.size } else { 0 };
        bytes += size;
        match commits.last_mut().filter(|commit| commit.len() < FILES_PER_COMMIT && bytes <= BYTES_PER_COMMIT) {
            Some(commit) => commit.push(change),
            None => {
                bytes = size;
                commits.push(vec![change]);
            }
        }
    }
    commits
}

fn first_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut sample = Vec::new();
    std::fs::File::open(path)?.take(SAMPLE as u64).read_to_end(&mut sample)?;
    Ok(sample)
}

/// What `git hash-object` says.
fn git_hash(content: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    format!("{:x}", hash.finalize())
}

fn json_payload(value: &Value) -> Result<Payload> {
    Ok(Payload::bytes("application/json", serde_json::to_vec(value)?))
}

/// What the hub says about a refusal, short and printable.
fn reason(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let errors = value["errors"].as_array().into_iter().flatten().filter_map(|error| error["message"].as_str());
    let all = value["error"].as_str().into_iter().chain(errors).collect::<Vec<_>>().join("; ");
    let text: String = all.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    (!text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_knows_a_file_by_this_hash() {
        let check = |content: &str, expect: &str| assert_eq!(git_hash(content.as_bytes()), expect, "{content:?}");
        check("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        check("Hello, World!", "b45ef6fec89518d314f546fd6c3025367b721684");
    }

    #[test]
    fn commits_are_bounded_and_the_card_is_last() {
        let outgoing =
            |path: &str, size| Outgoing { path: path.into(), content: Content::Bytes(vec![]), size, sha256: None };
        let check = |files: &[(&str, u64, Mode)], expect: &[usize]| {
            let files: Vec<(Outgoing, Mode)> =
                files.iter().map(|&(path, size, mode)| (outgoing(path, size), mode)).collect();
            let hashed: Vec<(Hashed<'_>, Mode)> = files
                .iter()
                .map(|(file, mode)| (Hashed { file, sha256: String::new(), sample: vec![] }, *mode))
                .collect();
            let commits = into_commits(hashed.iter().map(|(hashed, mode)| Change { hashed, mode: *mode }).collect());
            assert_eq!(commits.iter().map(Vec::len).collect::<Vec<_>>(), expect);
            commits.last().and_then(|commit| commit.last()).map(|change| change.hashed.file.path.clone())
        };
        let many = vec![("a.parquet", 1 << 40, Mode::Lfs); 250];
        assert_eq!(
            check(&[&[("README.md", 9, Mode::Regular)], &many[..]].concat(), &[100, 100, 51]).unwrap(),
            "README.md"
        );
        check(&[("a", 20 << 20, Mode::Regular), ("b", 20 << 20, Mode::Regular), ("c", 1, Mode::Regular)], &[1, 2]);
        check(&[("a", 90 << 20, Mode::Regular)], &[1]);
        assert_eq!(check(&[], &[]), None);
    }

    #[test]
    fn refusals_are_short_and_printable() {
        let check = |body: &str, expect: Option<&str>| assert_eq!(reason(body.as_bytes()).as_deref(), expect, "{body}");
        check(r#"{"error": "no\nroom"}"#, Some("no room"));
        check(r#"{"errors": [{"message": "a"}, {"message": "b"}], "warnings": []}"#, Some("a; b"));
        check("<html>", None);
        assert_eq!(reason(format!("{{\"error\": \"{}\"}}", "x".repeat(9999)).as_bytes()).unwrap().len(), 300);
    }
}
