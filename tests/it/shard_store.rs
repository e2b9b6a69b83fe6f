//! Shards ahead of their use: order, bounds, what stays on disk and what goes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use four_habits::data::hub::{Hub, RemoteFile, Stop};
use four_habits::data::shard_store::{OnProgress, Prefetch, ShardSource, ShardStore};
use four_habits::error::{Exit, exit_of};

use super::hub::{Desk, bytes, list, put};
use super::hub_server::{At, Fault, HubServer};

const SIZE: usize = 10_000;
const ROOMY: Prefetch = Prefetch { count: 2, bytes: u64::MAX };

/// `count` shards of [`SIZE`] bytes on a hub, and a client.
fn shards(count: usize) -> (HubServer, Desk, Hub, Vec<RemoteFile>) {
    let names: Vec<String> = (0..count).map(|i| format!("data/{i:03}.parquet")).collect();
    let files: Vec<_> = names.iter().enumerate().map(|(i, name)| (name.as_str(), bytes(SIZE, i as u8))).collect();
    let (server, desk) = (HubServer::start(&files), Desk::new());
    let hub = desk.hub(&server);
    let listed = list(&hub, "**").unwrap().files;
    (server, desk, hub, listed)
}

fn store(desk: &Desk, hub: &Hub, files: &[RemoteFile], bound: Prefetch, keep: bool) -> ShardStore {
    let items = files.iter().cloned().map(ShardSource::Remote).collect();
    ShardStore::new(items, bound, keep, hub, &desk.http_cache(), Arc::new(|_| {})).unwrap()
}

/// Whole files in the cache, and their bytes.
fn on_disk(desk: &Desk) -> (usize, usize) {
    let blobs = std::fs::read_dir(desk.cache().join("datasets--org--maths/blobs"));
    let blobs: Vec<PathBuf> = blobs.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    let snapshots = desk.cache().join("datasets--org--maths/snapshots");
    let links = globbed(&snapshots);
    assert!(links.iter().all(|link| link.exists() || !link.is_symlink()), "a link without its blob: {links:?}");
    (links.len(), blobs.iter().map(|path| path.metadata().map_or(0, |meta| meta.len() as usize)).sum())
}

fn globbed(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    let inside = |path: PathBuf| if path.is_dir() { globbed(&path) } else { vec![path] };
    entries.flat_map(|entry| inside(entry.path())).collect()
}

#[test]
fn a_corpus_larger_than_its_room_passes_through() {
    let (server, desk, hub, files) = shards(12);
    let store = store(&desk, &hub, &files, ROOMY, false);
    let mut most = 0;
    for (index, file) in files.iter().enumerate() {
        let guard = store.acquire(index).unwrap();
        assert_eq!(std::fs::read(guard.path()).unwrap(), bytes(SIZE, index as u8), "{}", file.path);
        most = most.max(on_disk(&desk).1);
        guard.release();
    }
    assert!(most <= 3 * SIZE, "one in use and two ahead, not {most} bytes");
    assert!(server.most_at_once() <= 3);
    drop(store);
    assert_eq!(on_disk(&desk), (0, 0));
    assert!(globbed(&desk.cache().join(".locks")).iter().all(|path| path.extension().unwrap() == "lock"));
    assert_eq!(desk.said(), [""; 0]);
}

#[test]
fn the_bound_in_bytes_holds_but_for_one_shard() {
    for (bytes, most) in [(0, 2), (SIZE as u64, 2), (2 * SIZE as u64, 3)] {
        let (_server, desk, hub, files) = shards(8);
        let store = store(&desk, &hub, &files, Prefetch { count: 5, bytes }, false);
        for index in 0..files.len() {
            let guard = store.acquire(index).unwrap();
            assert!(on_disk(&desk).1 <= most * SIZE);
            guard.release();
        }
    }
}

#[test]
fn nothing_is_fetched_ahead_with_a_count_of_zero() {
    let (server, desk, hub, files) = shards(3);
    let store = store(&desk, &hub, &files, Prefetch { count: 0, bytes: u64::MAX }, true);
    store.acquire(1).unwrap();
    drop(store);
    let fetched: Vec<_> =
        server.requests().iter().filter(|seen| seen.on_storage).map(|seen| seen.path.clone()).collect();
    assert_eq!(fetched.len(), 1);
}

#[test]
fn what_was_there_before_stays() {
    let (_server, desk, hub, files) = shards(4);
    desk.fetch(&hub, &files[1]).unwrap();
    let first = store(&desk, &hub, &files, ROOMY, false);
    for index in 0..4 {
        first.acquire(index).unwrap().release();
    }
    drop(first);
    assert_eq!(on_disk(&desk).0, 1);
    // With `keep`, everything stays, also for a later store that keeps nothing.
    let second = store(&desk, &hub, &files, ROOMY, true);
    (0..4).for_each(|index| second.acquire(index).unwrap().release());
    drop(second);
    let third = store(&desk, &hub, &files, ROOMY, false);
    (0..4).for_each(|index| third.acquire(index).unwrap().release());
    assert_eq!(on_disk(&desk), (4, 4 * SIZE));
}

#[test]
fn an_unfinished_run_leaves_its_shards_to_the_next() {
    let (server, desk, hub, files) = shards(3);
    let first = store(&desk, &hub, &files, Prefetch { count: 3, bytes: u64::MAX }, false);
    drop(first.acquire(0).unwrap());
    first.acquire(2).unwrap();
    drop(first);
    assert!(on_disk(&desk).0 >= 2);
    let asked = |server: &HubServer| server.requests().iter().filter(|seen| seen.on_storage).count();
    let before = asked(&server);
    let second = store(&desk, &hub, &files, ROOMY, false);
    for index in [0, 2] {
        second.acquire(index).unwrap().release();
    }
    drop(second);
    // It fetched at most the shard that was passed over, and took the others' removal over.
    assert!(asked(&server) <= before + 1);
    assert!(on_disk(&desk).0 <= 1);
}

#[test]
fn two_tasks_share_a_shard_and_the_last_one_removes_it() {
    let (server, desk, hub, files) = shards(1);
    let (first, second) = (store(&desk, &hub, &files, ROOMY, false), store(&desk, &hub, &files, ROOMY, false));
    let (one, two) = (first.acquire(0).unwrap(), second.acquire(0).unwrap());
    assert_eq!(server.requests().iter().filter(|seen| seen.on_storage).count(), 1);
    let path = two.path().to_path_buf();
    one.release();
    assert!(path.exists());
    two.release();
    assert_eq!(on_disk(&desk), (0, 0));
    // It may be asked for again.
    assert_eq!(std::fs::read(first.acquire(0).unwrap().path()).unwrap(), bytes(SIZE, 0));
}

#[test]
fn a_file_that_somebody_else_fetched_meanwhile_is_not_ours_to_remove() {
    let (_server, desk, hub, files) = shards(1);
    let store = store(&desk, &hub, &files, ROOMY, false);
    let guard = store.acquire(0).unwrap();
    let blob = std::fs::canonicalize(guard.path()).unwrap();
    std::fs::hard_link(&blob, desk.dir.path().join("keeps its inode")).unwrap();
    std::fs::remove_file(&blob).unwrap();
    put(&blob, &bytes(SIZE, 0));
    guard.release();
    assert_eq!(on_disk(&desk), (1, SIZE));
}

#[test]
fn skipped_shards_are_passed_over() {
    let (_server, desk, hub, files) = shards(6);
    let store = store(&desk, &hub, &files, ROOMY, false);
    for index in [1, 4] {
        let guard = store.acquire(index).unwrap();
        assert_eq!(std::fs::read(guard.path()).unwrap(), bytes(SIZE, index as u8));
        guard.release();
    }
    assert_eq!(std::fs::read(store.acquire(0).unwrap().path()).unwrap(), bytes(SIZE, 0));
    assert!(store.acquire(6).is_err());
}

#[test]
fn an_error_reaches_the_one_who_asks_for_that_shard() {
    let (server, desk, hub, files) = shards(3);
    let mut wrong = files.clone();
    wrong[1].path = "data/gone.parquet".into();
    wrong[1].url = "hf://gone".into();
    let store = store(&desk, &hub, &wrong, ROOMY, false);
    store.acquire(0).unwrap().release();
    let error = store.acquire(1).err().unwrap();
    assert_eq!(exit_of(&error), Exit::Usage);
    assert!(error.to_string().contains("data/gone.parquet"), "{error:#}");
    store.acquire(2).unwrap().release();
    // Asking again tries again.
    assert!(store.acquire(1).is_err());
    let gone = server.requests().into_iter().filter(|seen| seen.path.contains("gone")).count();
    assert_eq!(gone, 2);
}

#[test]
fn local_shards_are_never_touched_and_may_stand_between_remote_ones() {
    let (_server, desk, hub, files) = shards(2);
    let local = desk.dir.path().join("mine.parquet");
    put(&local, b"mine");
    let remote = |i: usize| ShardSource::Remote(files[i].clone());
    let items = vec![remote(0), ShardSource::Local(local.clone()), remote(1), ShardSource::Local(local.clone())];
    let seen = Arc::new([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]);
    let counts = Arc::clone(&seen);
    let on_progress: OnProgress = Arc::new(move |progress| {
        assert_eq!(progress.total, SIZE as u64);
        counts[progress.index].store(progress.bytes, Ordering::Relaxed);
    });
    let store = ShardStore::new(items, ROOMY, false, &hub, &desk.http_cache(), on_progress).unwrap();
    for index in [0, 1, 2, 3, 1] {
        let guard = store.acquire(index).unwrap();
        assert_eq!(guard.path() == local, index % 2 == 1);
        guard.release();
    }
    assert!(local.exists());
    assert_eq!([0, 1, 2].map(|i: usize| seen[i].load(Ordering::Relaxed)), [SIZE as u64, 0, SIZE as u64]);
}

#[test]
fn plain_files_come_and_go_as_well() {
    let files = [("a.parquet", bytes(SIZE, 0)), ("b.parquet", bytes(SIZE, 1))];
    let (server, desk) = (HubServer::start(&files), Desk::new());
    let hub = desk.hub(&server);
    let listed: Vec<_> = files.iter().map(|(name, _)| hub.head(&server.plain(name)).unwrap()).collect();
    let store = store(&desk, &hub, &listed, ROOMY, false);
    for (index, (_, bytes)) in files.iter().enumerate() {
        let guard = store.acquire(index).unwrap();
        assert_eq!(std::fs::read(guard.path()).unwrap(), *bytes);
        guard.release();
    }
    assert!(globbed(&desk.http_cache()).iter().all(|path| path.extension().unwrap() == "lock"));
}

#[test]
fn dropping_the_store_stops_its_downloads() {
    let (server, desk, _, files) = shards(3);
    server.fault_at(At::Content, Fault::StallAfter(10), 99);
    let mut config = desk.config(&server);
    config.idle_timeout = std::time::Duration::from_secs(3600);
    let hub = Hub::new(config, Arc::new(|_| {}));
    let (started, first) = std::sync::mpsc::channel();
    let started = Mutex::new(started);
    let items = files.iter().cloned().map(ShardSource::Remote).collect();
    let tell: OnProgress = Arc::new(move |_| {
        started.lock().unwrap().send(()).ok();
    });
    let store = ShardStore::new(items, ROOMY, false, &hub, &desk.http_cache(), tell).unwrap();
    first.recv().unwrap();
    drop(store);
}

#[test]
fn a_stopped_run_does_not_wait_for_its_shard() {
    let (server, desk, _, files) = shards(1);
    server.fault_at(At::Content, Fault::StallAfter(10), 99);
    let mut config = desk.config(&server);
    config.idle_timeout = std::time::Duration::from_secs(3600);
    let flag = Arc::new(AtomicBool::new(false));
    let hub = Hub::new(config, Arc::new(|_| {})).stopped_by(Stop::on(Arc::clone(&flag)));
    let items = vec![ShardSource::Remote(files[0].clone())];
    let set_flag: OnProgress = Arc::new(move |_| flag.store(true, Ordering::Relaxed));
    let store = ShardStore::new(items, ROOMY, false, &hub, &desk.http_cache(), set_flag).unwrap();
    assert_eq!(exit_of(&store.acquire(0).err().unwrap()), Exit::Interrupted);
}
