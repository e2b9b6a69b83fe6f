//! The same cache and the same hub, seen by the Hugging Face client: run when Python's `huggingface_hub` is there.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says when it is skipped")]

use std::path::Path;
use std::process::Command;

use super::hub::{Desk, bytes, list};
use super::hub_server::{HubServer, REPO, sha256};

/// The interpreter to try; `.ci/run` may name another.
pub fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Runs the client on one file of [`REPO`] and gives what it found; `offline` forbids it the network.
fn client(server: &HubServer, cache: &Path, name: &str, offline: bool) -> serde_json::Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/hub_client.py");
    let mode = if offline { "offline" } else { "fetch" };
    let output = Command::new(python())
        .args([script, mode, REPO.trim_start_matches("datasets/"), name])
        .env("HF_ENDPOINT", server.url())
        .env("HF_HOME", cache.parent().unwrap())
        .env("HF_HUB_CACHE", cache)
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .env("HF_HUB_DISABLE_XET", "1")
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_hugging_face_client_shares_hub_and_cache() {
    let installed = Command::new(python()).args(["-c", "import huggingface_hub"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        println!("skipped: the client's view of the cache (no Python with `huggingface_hub`)");
        return;
    }
    let shard = bytes(300_000, 1);
    let server = HubServer::start(&[("data/a.parquet", shard.clone()), ("README.md", b"# Maths".to_vec())]);
    server.page_size(1);

    // Ours first: the client reads it without a network.
    let ours = Desk::new();
    let hub = ours.hub(&server);
    let files = list(&hub, "data/*").unwrap().files;
    let path = hub.fetch(&files[0], &ours.http_cache(), &|_| {}).unwrap();
    let before = server.requests().len();
    let found = client(&server, &ours.cache(), "data/a.parquet", true);
    assert_eq!(found["path"], path.to_str().unwrap());
    assert_eq!(found["sha256"], sha256(&shard));
    assert_eq!(found["warnings"], serde_json::json!([]));
    assert_eq!(found["cached"], serde_json::json!(["a.parquet"]));
    assert_eq!(server.requests().len(), before);

    // The client first: this program reads it without a request for the file.
    let theirs = Desk::new();
    let found = client(&server, &theirs.cache(), "data/a.parquet", false);
    assert_eq!(found["files"], serde_json::json!(["README.md", "data/a.parquet"]));
    assert_eq!(found["sha256"], sha256(&shard));
    let hub = theirs.hub(&server);
    let mut offline = theirs.config(&server);
    offline.offline = true;
    let file = list(&hub, "data/*").unwrap().files.remove(0);
    let before = server.requests().len();
    let path = hub.fetch(&file, &theirs.http_cache(), &|_| {}).unwrap();
    assert_eq!(found["path"], path.to_str().unwrap());
    assert_eq!(server.requests().len(), before);
    // Its record of the commit's files serves an offline listing.
    assert_eq!(list(&theirs.hub_with(offline), "data/*").unwrap().files, [file]);
}
