//! The hub's client against a hub that behaves: what it asks, what it stores, what it says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use four_habits::data::hub::{Clock, Hub, HubConfig, Listing, RemoteFile, Secret, Stop};
use four_habits::error::{Exit, exit_of, hint_of};

use super::hub_server::{At, COMMIT, Fault, HubServer, REPO, Seen, sha256};

pub const TOKEN: &str = "hf_t0psecret";

/// A clock that only its own sleeps advance.
#[derive(Clone, Default)]
pub struct TestClock {
    now: Arc<Mutex<Duration>>,
    pub naps: Arc<Mutex<Vec<Duration>>>,
}

impl Clock for TestClock {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }
    fn sleep(&self, time: Duration, _: &Stop) {
        *self.now.lock().unwrap() += time;
        self.naps.lock().unwrap().push(time);
    }
    fn jitter(&self) -> f64 {
        0.0
    }
}

/// A client with its own folders, and what it said.
pub struct Desk {
    pub dir: tempfile::TempDir,
    pub clock: TestClock,
    said: Arc<Mutex<Vec<String>>>,
}

impl Desk {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: TestClock::default(), said: Arc::default() }
    }

    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    pub fn http_cache(&self) -> PathBuf {
        self.dir.path().join("http")
    }

    pub fn config(&self, server: &HubServer) -> HubConfig {
        HubConfig { token: Some(Secret::new(TOKEN)), ..HubConfig::new(&server.url(), self.cache()).unwrap() }
    }

    pub fn hub(&self, server: &HubServer) -> Hub {
        self.hub_with(self.config(server))
    }

    pub fn hub_with(&self, config: HubConfig) -> Hub {
        let said = Arc::clone(&self.said);
        let notice = Arc::new(move |line: &str| said.lock().unwrap().push(line.to_owned()));
        Hub::with_clock(config, notice, Box::new(self.clock.clone()))
    }

    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    pub fn fetch(&self, hub: &Hub, file: &RemoteFile) -> anyhow::Result<Vec<u8>> {
        Ok(std::fs::read(hub.fetch(file, &self.http_cache(), &|_| {})?)?)
    }
}

pub fn list(hub: &Hub, glob: &str) -> anyhow::Result<Listing> {
    hub.list(&REPO.parse().unwrap(), "main", glob)
}

/// Bytes that differ everywhere, so that a piece in the wrong place is noticed.
pub fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

/// Writes a file that a test is about.
pub fn put(path: impl AsRef<Path>, bytes: &[u8]) {
    std::fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(path);
    file.unwrap().write_all(bytes).unwrap();
}

/// A server with one stored shard of 100,000 bytes, a client, and the shard as listed.
pub fn one_shard() -> (HubServer, Desk, Hub, RemoteFile, Vec<u8>) {
    let shard = bytes(100_000, 1);
    let server = HubServer::start(&[("data/a.parquet", shard.clone())]);
    let desk = Desk::new();
    let hub = desk.hub(&server);
    let file = list(&hub, "**").unwrap().files.remove(0);
    (server, desk, hub, file, shard)
}

pub fn content_requests(server: &HubServer) -> Vec<Seen> {
    server.requests().into_iter().filter(|seen| seen.method == "GET" && !seen.path.starts_with("/api/")).collect()
}

#[test]
fn a_listing_pins_the_commit_and_goes_through_all_pages() {
    let names: Vec<String> = (0..25).map(|i| format!("data/train-{i:05}.parquet")).collect();
    let mut files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), bytes(10, 0))).collect();
    files.push(("README.md", bytes(7, 1)));
    files.push(("data/more/x.parquet", bytes(8, 2)));
    let (server, desk) = (HubServer::start(&files), Desk::new());
    server.page_size(10);
    let hub = desk.hub(&server);

    let listing = list(&hub, "data/*.parquet").unwrap();
    assert_eq!(listing.commit, COMMIT);
    assert_eq!(listing.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>(), names);
    let first = &listing.files[0];
    assert_eq!(first.url, format!("hf://{REPO}@{COMMIT}/{}", names[0]));
    assert_eq!(first.sha256.as_deref(), Some(sha256(&bytes(10, 0)).as_str()));
    assert_eq!((first.size, first.repo.as_deref()), (10, Some(REPO)));

    // A small file is named by its git hash, and has no SHA-256 to check.
    let readme = list(&hub, "README.md").unwrap().files.remove(0);
    assert_eq!((readme.sha256, readme.etag.len()), (None, 40));

    // One revision request each, and three pages once: a commit's list does not change.
    let asked: Vec<String> = server.requests().iter().map(|seen| seen.path.split('?').next().unwrap().into()).collect();
    let tree = format!("/api/{REPO}/tree/{COMMIT}");
    let revision = format!("/api/{REPO}/revision/main");
    assert_eq!(asked.iter().collect::<Vec<_>>(), [&revision, &tree, &tree, &tree, &revision]);

    // A plan stores it and reads it back.
    let text = serde_json::to_string(first).unwrap();
    assert_eq!(serde_json::from_str::<RemoteFile>(&text).unwrap(), *first);
    assert!(!text.contains("127.0.0.1"), "a plan does not depend on the endpoint: {text}");

    let error = list(&hub, "data/*.jsonl").unwrap_err();
    assert_eq!(exit_of(&error), Exit::Usage);
    assert!(hint_of(&error).unwrap().contains("README.md"), "{error:#}");
}

#[test]
fn a_revision_with_slashes_is_one_part_of_the_address() {
    let (server, _desk, hub, file, _) = one_shard();
    let listing = hub.list(&REPO.parse().unwrap(), "refs/convert/parquet", "**").unwrap();
    assert_eq!(listing.files, [file]);
    assert!(server.requests().iter().any(|seen| seen.path.contains("/revision/refs%2Fconvert%2Fparquet?")));
}

#[test]
fn a_fetched_file_lies_in_the_shared_layout_and_is_not_asked_for_again() {
    let (server, desk, hub, file, shard) = one_shard();
    let seen = Arc::new(AtomicU64::new(0));
    let path = hub.fetch(&file, &desk.http_cache(), &|bytes| seen.store(bytes, Ordering::Relaxed)).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), shard);
    assert_eq!(seen.load(Ordering::Relaxed), 100_000);

    let root = desk.cache().join("datasets--org--maths");
    assert_eq!(path, root.join("snapshots").join(COMMIT).join("data/a.parquet"));
    assert_eq!(std::fs::read_link(&path).unwrap(), PathBuf::from(format!("../../../blobs/{}", sha256(&shard))));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert!(root.join(format!("trees/{COMMIT}.json")).exists());
    let blobs: Vec<_> =
        std::fs::read_dir(root.join("blobs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(blobs, [sha256(&shard).as_str()]);

    let before = server.requests().len();
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    assert_eq!(desk.fetch(&desk.hub(&server), &file).unwrap(), shard);
    assert_eq!(server.requests().len(), before);
    assert_eq!(desk.said(), [""; 0]);
}

#[test]
fn a_small_file_is_served_by_the_hub_itself() {
    let readme = b"# Maths".to_vec();
    let server = HubServer::start(&[("READ ME.md", readme.clone()), ("empty.txt", Vec::new())]);
    let desk = Desk::new();
    let hub = desk.hub(&server);
    for file in list(&hub, "*").unwrap().files {
        let expect = if file.path == "empty.txt" { Vec::new() } else { readme.clone() };
        assert_eq!(desk.fetch(&hub, &file).unwrap(), expect);
    }
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let shard = bytes(5000, 3);
    let server = HubServer::start(&[("data/a.parquet", shard.clone())]);
    server.private(TOKEN);
    let desk = Desk::new();
    let hub = desk.hub(&server);
    let file = list(&hub, "**").unwrap().files.remove(0);
    hub.read_range(&file, 10..20).unwrap();
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);

    let requests = server.requests();
    let (storage, own): (Vec<_>, Vec<_>) = requests.iter().partition(|seen| seen.on_storage);
    assert!(storage.len() >= 2 && own.len() >= 3, "{requests:?}");
    for seen in own {
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    }
    for seen in storage {
        assert!(seen.headers.values().all(|value| !value.contains(TOKEN)), "{seen:?}");
    }
    for seen in &requests {
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
    }
    assert!(!format!("{hub:?}").contains(TOKEN));
}

#[test]
fn a_plain_file_is_not_asked_for_again_either() {
    let shard = bytes(5000, 4);
    let server = HubServer::start(&[("a.parquet", shard.clone())]);
    let desk = Desk::new();
    let hub = desk.hub(&server);
    let file = hub.head(&server.plain("a.parquet")).unwrap();
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    let before = server.requests().len();
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
    assert_eq!(server.requests().len(), before);

    // A host that refuses HEAD is asked for one byte.
    server.fault_at(At::Resolve, Fault::Refuse(405, ""), 1);
    assert_eq!(hub.head(&server.plain("a.parquet")).unwrap(), file);
    assert_eq!(server.requests().last().unwrap().header("range"), Some("bytes=0-0"));
}

#[test]
fn a_renamed_repository_is_followed() {
    let (_server, desk, hub, mut file, shard) = one_shard();
    file.repo = Some("datasets/org/old-name".into());
    file.url = file.url.replace("maths", "old-name");
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
}

#[test]
fn ranges_come_from_one_resolved_link_and_later_from_the_disk() {
    let (server, desk, hub, file, shard) = one_shard();
    for range in [0..4, 99_992..100_000, 5..5] {
        let expect = &shard[range.start as usize..range.end as usize];
        assert_eq!(hub.read_range(&file, range).unwrap(), expect);
    }
    assert_eq!(server.requests().iter().filter(|seen| seen.method == "HEAD").count(), 1);
    assert_eq!(content_requests(&server)[1].header("range"), Some("bytes=99992-99999"));
    assert!(hub.read_range(&file, 99_999..100_001).is_err());

    server.fault(Fault::CutAfter(3), 1);
    server.fault(Fault::Refuse(403, ""), 1);
    assert_eq!(hub.read_range(&file, 10..30).unwrap(), &shard[10..30]);
    server.fault(Fault::IgnoreRange, 1);
    let error = hub.read_range(&file, 10..30).unwrap_err();
    assert!(error.to_string().contains("does not serve ranges"), "{error:#}");

    let plain = hub.head(&server.plain("data/a.parquet")).unwrap();
    assert_eq!(hub.read_range(&plain, 10..30).unwrap(), &shard[10..30]);
    server.fault(Fault::NewEtag, 1);
    assert!(hub.read_range(&plain, 10..30).unwrap_err().to_string().contains("has changed"));

    desk.fetch(&hub, &file).unwrap();
    let before = server.requests().len();
    assert_eq!(hub.read_range(&file, 10..30).unwrap(), &shard[10..30]);
    assert_eq!(server.requests().len(), before);
}

#[test]
fn offline_serves_the_cache_and_opens_no_socket() {
    let files = [("data/a.parquet", bytes(1000, 1)), ("data/b.parquet", bytes(1000, 2))];
    let server = HubServer::start(&files);
    let desk = Desk::new();
    let offline = HubConfig { offline: true, ..desk.config(&server) };

    let error = list(&desk.hub_with(offline.clone()), "**").unwrap_err();
    assert!(error.to_string().contains("offline") && hint_of(&error).unwrap().contains("HF_HUB_OFFLINE"), "{error:#}");
    assert_eq!(server.requests().len(), 0);

    let online = desk.hub(&server);
    let listing = list(&online, "**").unwrap();
    desk.fetch(&online, &listing.files[0]).unwrap();
    let plain = online.head(&server.plain("data/b.parquet")).unwrap();
    desk.fetch(&online, &plain).unwrap();
    let before = server.requests().len();

    let hub = desk.hub_with(offline);
    assert_eq!(list(&hub, "**").unwrap(), listing);
    assert_eq!(hub.list(&REPO.parse().unwrap(), COMMIT, "**").unwrap(), listing);
    assert_eq!(desk.fetch(&hub, &listing.files[0]).unwrap(), files[0].1);
    assert_eq!(desk.fetch(&hub, &plain).unwrap(), files[1].1);
    assert_eq!(hub.read_range(&listing.files[0], 1..3).unwrap(), &files[0].1[1..3]);
    for error in [
        desk.fetch(&hub, &listing.files[1]).unwrap_err(),
        hub.read_range(&listing.files[1], 1..3).unwrap_err(),
        hub.head(&server.plain("data/a.parquet")).unwrap_err(),
        hub.list(&REPO.parse().unwrap(), "v2", "**").unwrap_err(),
    ] {
        assert!(error.to_string().contains("offline"), "{error:#}");
        assert_eq!(exit_of(&error), Exit::Unavailable);
    }
    assert_eq!(server.requests().len(), before);
}

#[test]
fn a_path_that_leaves_its_folder_is_refused() {
    for path in ["../outside.parquet", "/etc/x.parquet", "data/../../x.parquet", "a\\..\\x.parquet"] {
        let server = HubServer::start(&[(path, bytes(10, 0)), ("data/good.parquet", bytes(10, 1))]);
        let desk = Desk::new();
        let hub = desk.hub(&server);
        let error = list(&hub, "**").unwrap_err();
        assert!(error.to_string().contains("is refused"), "{error:#}");
        // What is not asked for does no harm.
        assert_eq!(list(&hub, "data/good.*").unwrap().files.len(), 1);
    }
}

#[test]
fn a_cached_file_of_another_size_is_fetched_again() {
    let (_server, desk, hub, file, shard) = one_shard();
    let path = hub.fetch(&file, &desk.http_cache(), &|_| {}).unwrap();
    put(std::fs::canonicalize(&path).unwrap(), b"torn");
    assert_eq!(desk.fetch(&hub, &file).unwrap(), shard);
}

#[test]
fn many_threads_and_clients_fetch_a_file_once() {
    let (server, desk, _, file, shard) = one_shard();
    server.fault(Fault::Slow, 1);
    let said = Arc::new(|_: &str| {});
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let hub = Hub::new(desk.config(&server), said.clone());
                let (desk, file) = (&desk, &file);
                scope.spawn(move || desk.fetch(&hub, file).unwrap())
            })
            .collect();
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), shard));
    });
    assert_eq!(content_requests(&server).len(), 1);
}

#[test]
fn an_unwritable_cache_is_one_clear_error() {
    let (server, desk, _, file, _) = one_shard();
    let blocked = desk.dir.path().join("file");
    put(&blocked, b"");
    let config = HubConfig { cache_dir: blocked.join("hub"), ..desk.config(&server) };
    let error = desk.hub_with(config).fetch(&file, Path::new("x"), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("cannot make the folder"), "{error:#}");
    assert!(hint_of(&error).unwrap().contains("HF_HUB_CACHE"));
}
