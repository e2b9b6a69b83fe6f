//! An upload to a hub and a storage host that fail: what is tried again, what is asked first, and when it ends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use four_habits::data::hub::{Content, Hub, HubConfig, Outgoing, Secret, Target, Upload, Uploaded};
use four_habits::error::{Exit, exit_of};

use crate::export::REPO;
use crate::hub::{TestClock, bytes, put};
use crate::upload_server::{Fault, SIGNATURE, UploadServer, WRITER};

/// A client, its files, and what it said.
struct Desk {
    dir: tempfile::TempDir,
    clock: TestClock,
    said: Arc<Mutex<Vec<String>>>,
    server: UploadServer,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path().join("a.parquet"), &bytes(1_000_000, 1));
        put(dir.path().join("b.parquet"), &bytes(700_001, 2));
        Self { dir, clock: TestClock::default(), said: Arc::default(), server: UploadServer::start() }
    }

    fn files(&self) -> Vec<Outgoing> {
        let stored = ["a.parquet", "b.parquet"].map(|name| {
            let path = self.dir.path().join(name);
            let size = std::fs::metadata(&path).unwrap().len();
            Outgoing { path: format!("data/{name}"), content: Content::File(path), size, sha256: None }
        });
        let card = b"---\nlicense: mit\n---\n# A\n".to_vec();
        let size = card.len() as u64;
        let card = Outgoing { path: "README.md".into(), content: Content::Bytes(card), size, sha256: None };
        let empty = Outgoing { path: "empty.parquet".into(), content: Content::Bytes(vec![]), size: 0, sha256: None };
        [card].into_iter().chain(stored).chain([empty]).collect()
    }

    fn upload(&self) -> anyhow::Result<Uploaded> {
        let config = HubConfig {
            token: Some(Secret::new(WRITER)),
            ..HubConfig::new(&self.server.url(), self.dir.path().join("cache")).unwrap()
        };
        let said = Arc::clone(&self.said);
        let notice = Arc::new(move |line: &str| said.lock().unwrap().push(line.to_owned()));
        let hub = Hub::with_clock(config, notice, Box::new(self.clock.clone()));
        let target = Target { repo: REPO.parse().unwrap(), branch: "main".into(), private: false };
        let uploaded = hub.upload(&Upload { target: &target, files: &self.files(), message: "m", said: &|_| {} });
        for line in self.said.lock().unwrap().iter() {
            assert!(!line.contains(SIGNATURE) && !line.contains(WRITER), "{line}");
        }
        uploaded
    }

    /// The repository holds all files after exactly one commit.
    #[track_caller]
    fn check(&self) {
        let expect = self.files().into_iter().map(|file| (file.path.clone(), file.content.read().unwrap())).collect();
        assert!(self.server.files(REPO) == expect, "the repository holds other files");
        assert_eq!(self.server.commits(REPO), ["m"]);
        assert!(
            self.server.requests().iter().all(|seen| !seen.on_storage || !seen.headers.contains_key("authorization"))
        );
    }

    fn count(&self, method: &str, path: &str) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
    }
}

#[test]
fn passing_troubles_pass() {
    let check = |method: &'static str, path: &'static str, fault: Fault, waits: usize| {
        let desk = Desk::new();
        desk.server.fault(method, path, fault, 2);
        desk.upload().unwrap();
        desk.check();
        assert_eq!(desk.clock.naps.lock().unwrap().len(), waits, "{method} {path} {fault:?}");
    };
    for status in [408, 429, 500, 502, 503, 504] {
        check("POST", "/preupload/", Fault::Refuse(status), 2);
        check("PUT", "/whole/", Fault::Refuse(status), 2);
    }
    for path in ["/validate-yaml", "/repos/create", "/objects/batch", "/lfs/verify", "/commit/"] {
        check("POST", path, Fault::Refuse(503), 2);
    }
    check("PUT", "/whole/", Fault::CutAfter(10_000), 2);
    // A PUT whose answer is lost is sent again.
    check("PUT", "/whole/", Fault::LoseAnswer, 2);
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_made_twice() {
    let desk = Desk::new();
    desk.server.fault("POST", "/commit/", Fault::LoseAnswer, 1);
    let uploaded = desk.upload().unwrap();
    desk.check();
    assert_eq!((desk.count("POST", "/commit/"), uploaded.files), (1, 4));
    assert_eq!(uploaded.commit.map(|commit| commit.len()), Some(40));
    // One that did not arrive is.
    let desk = Desk::new();
    desk.server.fault("POST", "/commit/", Fault::CutAfter(5), 1);
    desk.upload().unwrap();
    desk.check();
    assert_eq!(desk.count("POST", "/commit/"), 2);
}

#[test]
fn large_files_go_in_the_parts_that_the_hub_asks_for() {
    let desk = Desk::new();
    desk.server.parts_of(300_000);
    desk.upload().unwrap();
    desk.check();
    assert_eq!((desk.count("PUT", "/part/"), desk.count("POST", "/lfs/complete/")), (4 + 3, 2));
    let sizes: Vec<usize> =
        desk.server.requests().iter().filter(|seen| seen.path.ends_with("/4")).map(|seen| seen.body).collect();
    assert_eq!(sizes, [100_000]);

    // A part that breaks is sent again, and no other.
    let desk = Desk::new();
    desk.server.parts_of(300_000).fault("PUT", "/part/", Fault::CutAfter(100_000), 1);
    desk.upload().unwrap();
    desk.check();
    assert_eq!(desk.count("PUT", "/part/"), 4 + 3 + 1);
}

#[test]
fn a_refused_link_is_replaced_and_a_barred_storage_host_is_named() {
    let desk = Desk::new();
    desk.server.fault("PUT", "/whole/", Fault::Refuse(403), 2);
    desk.upload().unwrap();
    desk.check();
    assert_eq!(desk.count("POST", "/objects/batch"), 4);
    assert_eq!(*desk.clock.naps.lock().unwrap(), [Duration::ZERO; 0]);

    let desk = Desk::new();
    desk.server.fault("PUT", "/whole/", Fault::Refuse(403), 99);
    let error = desk.upload().unwrap_err();
    assert_eq!(exit_of(&error), Exit::Unavailable);
    assert!(error.to_string().contains("refuses the hub's link"), "{error:#}");
    assert!(desk.server.commits(REPO).is_empty());
}

#[test]
fn patience_ends() {
    let desk = Desk::new();
    desk.server.fault("POST", "/preupload/", Fault::Refuse(503), 999);
    let error = desk.upload().unwrap_err();
    assert_eq!(exit_of(&error), Exit::Unavailable);
    assert!(error.to_string().starts_with("cannot upload `datasets/org/maths`"), "{error:#}");
    let waited: Duration = desk.clock.naps.lock().unwrap().iter().sum();
    assert_eq!(waited, Duration::from_secs(600));
}
