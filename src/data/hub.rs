//! Files from the Hugging Face hub and from plain HTTP hosts, as blocking calls for any thread.
//!
//! A [`Hub`] lists a repository at a pinned commit, reads ranges of remote files, and fetches whole ones into the cache
//! that every Hugging Face client shares. Hosts fail all the time; what is done about it is in [`retry`] (waiting),
//! [`download`] (resuming, verifying) and [`answer`] (refusals). The token reaches the configured endpoint only, and no
//! message holds it or a signed address. Offline, no socket is opened.
//!
//! The edge: nothing here knows what is inside a file.

mod address;
mod answer;
mod cache;
mod download;
mod lease;
mod listing;
mod payload;
mod retry;
mod secret;
mod settings;
mod upload;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::data::objects::{self, Objects};
use crate::error::{Exit, Failure};
use answer::{ContentRange, Subject, bare_etag, trouble};
use cache::Place;
use retry::{Patience, SystemClock, Trouble};
use wire::{Ask, Follow, Reply, Wire, host};

pub(crate) use address::compile as compile_glob;
pub use address::{HfUrl, Repo, RepoKind, parse_hf_target, parse_hf_url};
pub(crate) use lease::Lease;
pub use retry::{Clock, Stop};
pub use secret::Secret;
pub use settings::HubConfig;
pub use upload::{Content, Outgoing, Target, Upload, Uploaded};
pub(crate) use wire::{is_loopback, root_cause};

/// Receives one-line messages such as `hub rate limit reached; waiting 58 s (attempt 2)`.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// One file on a host, pinned to the version that was listed. Part of `plan.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteFile {
    /// `hf://datasets/OWNER/NAME@COMMIT/PATH`, which holds for every endpoint, or an `http(s)://` address.
    pub url: String,
    /// The path in its repository; for a plain address, the file's name.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hub: the cache's name for the content (SHA-256, or the git hash of a small file). Plain address: the `ETag`
    /// header as sent, else `Last-Modified`, else empty.
    pub etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// `datasets/OWNER/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
}

/// The files of a repository that match a pattern, at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub commit: String,
    /// Sorted by path; never empty.
    pub files: Vec<RemoteFile>,
}

/// What kind of host a file is on.
enum Origin {
    Hub {
        repo: Repo,
        commit: String,
    },
    Http(Url),
    /// `s3://BUCKET/KEY`.
    Object(Url),
}

/// Where a file's bytes are to be had now.
#[derive(Clone)]
struct Source {
    url: Url,
    /// On a storage host that the hub has redirected to.
    elsewhere: bool,
}

impl RemoteFile {
    /// The file's name in messages, without what an address must not show.
    pub fn label(&self) -> String {
        match (&self.repo, Url::parse(&self.url)) {
            (Some(repo), _) => format!("{repo}/{}", self.path),
            (None, Ok(url)) => address::shown(&url),
            (None, Err(_)) => self.path.clone(),
        }
    }

    fn origin(&self) -> Result<Origin> {
        match (&self.repo, &self.commit) {
            (Some(repo), Some(commit)) if address::is_commit(commit) => {
                Ok(Origin::Hub { repo: repo.parse()?, commit: commit.clone() })
            }
            (Some(repo), _) => {
                let message = format!("`{repo}/{}` names no commit of forty hexadecimal digits", self.path);
                Err(Failure::new(Exit::Usage, message).into())
            }
            (None, _) if self.url.starts_with("s3://") => {
                let url = Url::parse(&self.url)
                    .map_err(|_| Failure::new(Exit::Usage, format!("`{}` is not an address in S3", self.url)))?;
                Ok(Origin::Object(url))
            }
            (None, _) => Ok(Origin::Http(parse_http(&self.url)?)),
        }
    }

    fn subject<'a>(&'a self, url: &'a Url) -> Subject<'a> {
        if self.repo.is_some() { Subject::File(self) } else { Subject::Url(url) }
    }
}

/// A client of the hub and of plain HTTP hosts. Clones share connections.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
    stop: Stop,
}

struct Shared {
    config: HubConfig,
    notice: Notice,
    clock: Box<dyn Clock>,
    /// Built by the first request, so that an offline or local run starts no thread.
    wire: OnceLock<Wire>,
    /// Where hub files were last found: one request to the hub serves many ranges of a file.
    sources: Mutex<BTreeMap<String, Source>>,
    buckets: Mutex<BTreeMap<String, Arc<Objects>>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Hub {
    /// Opens no connection yet.
    pub fn new(config: HubConfig, notice: Notice) -> Self {
        Self::with_clock(config, notice, Box::new(SystemClock::new()))
    }

    /// With a clock of the caller's, for tests that must not wait.
    pub fn with_clock(config: HubConfig, notice: Notice, clock: Box<dyn Clock>) -> Self {
        let shared = Shared {
            config,
            notice,
            clock,
            wire: OnceLock::new(),
            sources: Mutex::default(),
            buckets: Mutex::default(),
        };
        Self { shared: Arc::new(shared), stop: Stop::default() }
    }

    /// The same client, whose calls end early once `stop` is set.
    pub fn stopped_by(&self, stop: Stop) -> Self {
        Self { shared: Arc::clone(&self.shared), stop }
    }

    /// The files of `repo` at `revision` whose path matches `glob`, with sizes and hashes, at a pinned commit.
    /// One request for the revision; the list itself is asked for once per commit and kept in the cache.
    ///
    /// # Errors
    /// Nothing matches; the repository or the revision is not there for this user; the hub stays away.
    pub fn list(&self, repo: &Repo, revision: &str, glob: &str) -> Result<Listing> {
        listing::list(self, repo, revision, glob)
    }

    /// Size and version of a file at an `http(s)://` address.
    ///
    /// # Errors
    /// The address is wrong or refused, or its host does not say the size.
    pub fn head(&self, url: &str) -> Result<RemoteFile> {
        let url = parse_http(url)?;
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let name = percent_decoded(name).filter(|name| !name.contains('/')).unwrap_or_default();
        if address::check_path(&name).is_err() {
            let message = format!("`{}` does not end with a file's name", address::shown(&url));
            return Err(Failure::new(Exit::Usage, message).into());
        }
        let subject = Subject::Url(&url);
        if self.shared.config.offline {
            return Err(offline(&subject.to_string()));
        }
        self.patience(subject.to_string()).until(|_| {
            let reply = self.head_or_first_byte(&url)?;
            if !reply.status().is_success() {
                return Err(trouble(&reply, &subject, false));
            }
            let total = reply.header("content-range").and_then(ContentRange::parse).and_then(|range| range.total);
            let plain = || reply.header("content-length").filter(|_| reply.status() != 206)?.parse().ok();
            let size = total.or_else(plain).ok_or_else(|| {
                Failure::new(Exit::Usage, format!("`{}` does not say how large `{subject}` is", host(&reply.url)))
                    .hint("download it with another program, and name the local file")
            })?;
            let sha256 = reply.header("x-linked-etag").map(bare_etag).filter(|etag| address::is_sha256(etag));
            Ok(RemoteFile {
                url: url.to_string(),
                path: name.clone(),
                size,
                etag: download::validator(&reply).unwrap_or_default().to_owned(),
                sha256: sha256.map(str::to_owned),
                commit: None,
                repo: None,
            })
        })
    }

    /// Whether the hub answers at all, whatever it says.
    ///
    /// # Errors
    /// Why it is out of reach.
    pub fn reach(&self) -> Result<()> {
        let url = self.endpoint_url([])?;
        self.patience(host(&url)).until(|_| {
            self.wire()?.send(&Ask::head(&url, Follow::SameHost), &self.stop)?;
            Ok(())
        })
    }

    /// Some hosts refuse HEAD, and a link signed for GET always does; they are asked for one byte instead.
    fn head_or_first_byte(&self, url: &Url) -> Result<Reply<'_>, Trouble> {
        let reply = self.wire()?.send(&Ask::head(url, Follow::Anywhere), &self.stop)?;
        if !matches!(reply.status().as_u16(), 403 | 405 | 501) {
            return Ok(reply);
        }
        self.wire()?.send(&Ask { range: Some((0, Some(0))), ..Ask::get(url) }, &self.stop)
    }

    /// The bytes `range` of a file, from the cache when it holds the file, else by one range request.
    ///
    /// # Errors
    /// The range passes the file's end, the host serves no ranges, or the file is not the version that was listed.
    pub fn read_range(&self, file: &RemoteFile, range: Range<u64>) -> Result<Vec<u8>> {
        if range.start > range.end || range.end > file.size {
            let message = format!("bytes {range:?} are outside of `{}` ({} bytes)", file.label(), file.size);
            return Err(Failure::new(Exit::Failed, message).into());
        }
        let length = usize::try_from(range.end - range.start)?;
        // Only hub files have a place that needs no folder of the caller's.
        if file.repo.is_some() {
            let place = self.place(file, Path::new(""))?;
            if place.holds(file.size)? {
                let mut bytes = vec![0; length];
                let read = std::fs::File::open(&place.path).and_then(|f| f.read_exact_at(&mut bytes, range.start));
                read.with_context(|| format!("cannot read `{}`", place.path.display()))?;
                return Ok(bytes);
            }
        }
        if self.shared.config.offline {
            return Err(offline(&file.label()));
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut refusals = 0;
        self.patience(file.label()).until(|_| self.ask_for_range(file, range.clone(), length, &mut refusals))
    }

    fn ask_for_range(
        &self,
        file: &RemoteFile,
        range: Range<u64>,
        length: usize,
        refusals: &mut u32,
    ) -> Result<Vec<u8>, Trouble> {
        let source = self.locate(file)?;
        let ask = Ask { range: Some((range.start, Some(range.end - 1))), ..Ask::get(&source.url) };
        let reply = self.wire()?.send(&ask, &self.stop)?;
        let host = host(&reply.url);
        match reply.status().as_u16() {
            206 => {}
            200 => {
                return Err(Failure::new(
                    Exit::Unavailable,
                    format!("`{host}` does not serve ranges of `{}`", file.label()),
                )
                .hint("fetch the whole file, or use another host")
                .into());
            }
            401 | 403 | 404 | 410 if source.elsewhere => return Err(self.link_refused(file, &reply, refusals)),
            _ => return Err(trouble(&reply, &file.subject(&source.url), self.shared.config.token.is_some())),
        }
        source.check_version(file, &reply)?;
        let sent = reply.header("content-range").and_then(ContentRange::parse);
        source.check_size(file, sent.as_ref().and_then(|sent| sent.total))?;
        if sent.is_none_or(|sent| (sent.first, sent.last + 1) != (range.start, range.end)) {
            return Err(Trouble::passing(format!("`{host}` sent other bytes than were asked for")));
        }
        let bytes = reply.body(length, &self.stop)?;
        if bytes.len() == length { Ok(bytes) } else { Err(Trouble::passing(format!("`{host}` ended a range early"))) }
    }

    /// The file's path on this disk, fetched unless it is there already with the right size. Hub files go to the
    /// Hugging Face cache, others to `http_cache_dir`. `progress` gets the bytes on disk so far, from any restart on.
    ///
    /// # Errors
    /// The host stays away or refuses; the bytes are wrong twice; the disk is full; offline, the file is not here.
    pub fn fetch(&self, file: &RemoteFile, http_cache_dir: &Path, progress: &dyn Fn(u64)) -> Result<PathBuf> {
        let place = self.place(file, http_cache_dir)?;
        // Whoever fetched it for one use must leave it now.
        if place.marker.exists() {
            std::fs::remove_file(&place.marker).ok();
        }
        self.obtain(file, &place, progress)?;
        Ok(place.path)
    }

    /// Sees to it that `place` holds `file`; true when it was downloaded just now.
    fn obtain(&self, file: &RemoteFile, place: &Place, progress: &dyn Fn(u64)) -> Result<bool> {
        if place.holds(file.size)? {
            progress(file.size);
            return Ok(false);
        }
        if self.shared.config.offline {
            return Err(offline(&file.label()));
        }
        place.make_folders()?;
        let shared = &self.shared;
        let _lock = place.lock(&file.label(), shared.clock.as_ref(), shared.notice.as_ref(), &self.stop)?;
        // Another process may have fetched it while this one waited.
        let downloaded = !place.holds(file.size)?;
        if downloaded {
            download::download(self, file, place, progress)?;
        }
        progress(file.size);
        Ok(downloaded)
    }

    fn place(&self, file: &RemoteFile, http_cache_dir: &Path) -> Result<Place> {
        Place::of(file, &self.shared.config.cache_dir, http_cache_dir)
    }

    /// Where the file's bytes are now. The hub is asked once and its redirect remembered, until [`Hub::forget`].
    fn locate(&self, file: &RemoteFile) -> Result<Source, Trouble> {
        let (repo, commit) = match file.origin()? {
            Origin::Http(url) => return Ok(Source { url, elsewhere: false }),
            Origin::Object(_) => return Ok(Source { url: self.link(&file.url)?, elsewhere: false }),
            Origin::Hub { repo, commit } => (repo, commit),
        };
        if let Some(source) = self.sources().get(&file.url) {
            return Ok(source.clone());
        }
        let kind = (repo.kind == RepoKind::Dataset).then_some("datasets");
        let parts = kind.into_iter().chain(repo.id.split('/')).chain(["resolve", &commit]).chain(file.path.split('/'));
        let url = self.endpoint_url(parts)?;
        let reply = self.wire()?.send(&Ask::head(&url, Follow::SameHost), &self.stop)?;
        if !reply.status().is_success() && reply.elsewhere.is_none() {
            return Err(trouble(&reply, &Subject::File(file), self.shared.config.token.is_some()));
        }
        let elsewhere = reply.elsewhere.is_some();
        let source = Source { url: reply.elsewhere.clone().unwrap_or_else(|| reply.url.clone()), elsewhere };
        self.check_pins(file, &source, &reply)?;
        self.sources().insert(file.url.clone(), source.clone());
        Ok(source)
    }

    /// A signed link to an object; each request gets one of its own, made on this machine.
    fn link(&self, address: &str) -> Result<Url> {
        let (bucket, key) = objects::parse(address)?;
        self.bucket(&bucket)?.link(&key)
    }

    fn bucket(&self, name: &str) -> Result<Arc<Objects>> {
        let mut buckets = self.shared.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(name) {
            return Ok(Arc::clone(bucket));
        }
        let bucket = Arc::new(Objects::open(name)?);
        buckets.insert(name.to_owned(), Arc::clone(&bucket));
        Ok(bucket)
    }

    /// The objects that an address such as `s3://BUCKET/data/*.parquet` matches.
    ///
    /// # Errors
    /// Nothing matches, there are no credentials, or the server refuses or stays away; offline, always.
    pub fn list_objects(&self, address: &str) -> Result<Vec<RemoteFile>> {
        let (bucket, glob) = objects::parse(address)?;
        if self.shared.config.offline {
            return Err(offline(address));
        }
        self.bucket(&bucket)?.list(&glob)
    }

    /// The hub must still mean the file that was listed.
    fn check_pins(&self, file: &RemoteFile, source: &Source, reply: &Reply<'_>) -> Result<()> {
        let direct = |name: &'static str| reply.header(name).filter(|_| !source.elsewhere);
        if let Some(etag) = reply.header("x-linked-etag").or_else(|| direct("etag")).map(bare_etag)
            && etag != file.etag
        {
            return Err(download::changed(file, &format!("its ETag was {} and is {etag}", file.etag)));
        }
        if let Some(commit) = reply.header("x-repo-commit")
            && Some(commit) != file.commit.as_deref()
        {
            return Err(download::changed(file, &format!("the hub answers for commit {commit}")));
        }
        let size = reply.header("x-linked-size").or_else(|| direct("content-length"));
        source.check_size(file, size.and_then(|size| size.parse().ok()))
    }

    /// Drops what [`Hub::locate`] remembers.
    fn forget(&self, file: &RemoteFile) {
        self.sources().remove(&file.url);
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Source>> {
        self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `ENDPOINT/part/part/…`, each part percent-encoded: a slash inside a revision becomes `%2F`.
    fn endpoint_url<'p>(&self, parts: impl IntoIterator<Item = &'p str>) -> Result<Url> {
        let mut url = self.shared.config.endpoint.clone();
        let Ok(mut path) = url.path_segments_mut() else {
            return Err(Failure::new(Exit::Usage, format!("`{url}` cannot be a hub's endpoint")).into());
        };
        path.pop_if_empty().extend(parts);
        drop(path);
        Ok(url)
    }

    /// The connections; the one door to the network.
    fn wire(&self) -> Result<&Wire> {
        if self.shared.config.offline {
            return Err(offline("the answer"));
        }
        match self.shared.wire.get() {
            Some(wire) => Ok(wire),
            None => {
                let wire = Wire::new(&self.shared.config)?;
                Ok(self.shared.wire.get_or_init(|| wire))
            }
        }
    }

    fn patience(&self, what: String) -> Patience<'_> {
        let shared = &self.shared;
        Patience::new(shared.clock.as_ref(), shared.notice.as_ref(), &self.stop, shared.config.retry_budget, what)
    }

    pub(crate) fn config(&self) -> &HubConfig {
        &self.shared.config
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    pub(crate) fn notice(&self, message: &str) {
        (self.shared.notice)(message);
    }
}

fn offline(what: &str) -> anyhow::Error {
    Failure::new(Exit::Unavailable, format!("`{what}` is not in the cache, and this run is offline"))
        .hint("run it once with HF_HUB_OFFLINE unset, or copy the files into the cache")
        .into()
}

fn parse_http(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| Failure::new(Exit::Usage, format!("`{text}` is not an http(s) address")).into())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| std::str::from_utf8(tail.get(..2)?).ok()).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_address_are_encoded_below_the_endpoints_own_path() {
        let check = |endpoint: &str, parts: &[&str], expect: &str| {
            let hub = Hub::new(HubConfig::new(endpoint, "/c").unwrap(), Arc::new(|_| {}));
            assert_eq!(hub.endpoint_url(parts.iter().copied()).unwrap().as_str(), expect);
        };
        check("https://hub.x", &["api", "refs/pr/1"], "https://hub.x/api/refs%2Fpr%2F1");
        check("https://mirror.x/hf/", &["a b", "50%.txt", "é"], "https://mirror.x/hf/a%20b/50%25.txt/%C3%A9");
    }

    #[test]
    fn percent_signs_stand_for_bytes() {
        let check = |text: &str, expect: Option<&str>| assert_eq!(percent_decoded(text).as_deref(), expect, "{text}");
        check("a%20b.parquet", Some("a b.parquet"));
        check("%C3%A9", Some("é"));
        check("100%", Some("100%"));
        check("%zz%2", Some("%zz%2"));
        check("%FF", None);
    }

    #[test]
    fn labels_show_no_signature() {
        let url = "https://cdn.x/a.parquet?X-Signature=s3cret".to_owned();
        let (path, etag) = ("a.parquet".to_owned(), String::new());
        let file = RemoteFile { url, path, size: 1, etag, sha256: None, commit: None, repo: None };
        assert_eq!(file.label(), "https://cdn.x/a.parquet");
    }
}
