//! The shards of a run, brought to this disk ahead of their use and taken away after it.
//!
//! One consumer walks the list in order, skipping what it likes; background threads fetch the next remote shards, never
//! more than [`Prefetch`] allows, so a corpus larger than the disk works. Room on disk is the shard in use plus what is
//! ahead of it. Shards that were in the cache before cost no room and are never removed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::hub::{Hub, Lease, RemoteFile};
use crate::error::{Exit, Failure};

/// More streams than this gain nothing from one hub and disturb the work in the foreground.
const MOST_DOWNLOADS: usize = 4;
/// How late a waiting consumer may notice that the run should stop.
const STOP_POLL: Duration = Duration::from_millis(100);

/// Where a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardSource {
    Local(PathBuf),
    Remote(RemoteFile),
}

/// How far the downloads may run ahead of the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefetch {
    /// Shards. With 0, a shard is fetched when it is asked for.
    pub count: usize,
    /// Bytes on disk. One shard is always allowed, however large.
    pub bytes: u64,
}

/// How much of a shard is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardProgress {
    /// Its place in the list.
    pub index: usize,
    pub bytes: u64,
    pub total: u64,
}

/// Receives every shard's progress, from the threads that fetch.
pub type OnProgress = Arc<dyn Fn(ShardProgress) + Send + Sync>;

/// See the module's description.
pub struct ShardStore {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    items: Vec<ShardSource>,
    bound: Prefetch,
    keep: bool,
    hub: Hub,
    http_cache_dir: PathBuf,
    on_progress: OnProgress,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    slots: Vec<Slot>,
    /// The first shard that the consumer has not passed; those from here on are ahead of it.
    next: usize,
}

enum Slot {
    /// Not on disk. `wanted`: the consumer waits for it, so bounds do not count.
    Absent {
        wanted: bool,
    },
    Fetching,
    Here(OnDisk),
    InUse {
        copy: OnDisk,
        guards: usize,
    },
    /// For the consumer, when it asks for this shard.
    Failed(anyhow::Error),
    /// Used up, skipped or failed: fetched again only when asked for.
    Passed,
}

enum OnDisk {
    Stays(PathBuf),
    Leased(Lease),
}

/// A shard on disk, for as long as this lives.
pub struct ShardGuard {
    shared: Arc<Shared>,
    index: usize,
    path: PathBuf,
    used_up: bool,
}

impl ShardStore {
    /// Starts to fetch. With `keep`, fetched shards stay in the cache; without it, a shard that was fetched for this
    /// purpose goes when [`ShardGuard::release`] says so. Plain HTTP shards are stored under `http_cache_dir`.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn new(
        items: Vec<ShardSource>,
        bound: Prefetch,
        keep: bool,
        hub: &Hub,
        http_cache_dir: &Path,
        on_progress: OnProgress,
    ) -> Result<Self> {
        let slots = items.iter().map(|item| match item {
            ShardSource::Local(path) => Slot::Here(OnDisk::Stays(path.clone())),
            ShardSource::Remote(_) => Slot::Absent { wanted: false },
        });
        let state = Mutex::new(State { slots: slots.collect(), next: 0 });
        let remote = items.iter().filter(|item| matches!(item, ShardSource::Remote(_))).count();
        let (until_drop, stop) = hub.stop().child();
        let shared = Arc::new(Shared {
            items,
            bound,
            keep,
            hub: hub.stopped_by(until_drop),
            http_cache_dir: http_cache_dir.to_path_buf(),
            on_progress,
            state,
            changed: Condvar::new(),
        });
        let mut store = Self { shared, stop, threads: Vec::new() };
        for _ in 0..remote.min(bound.count.clamp(1, MOST_DOWNLOADS)) {
            let shared = Arc::clone(&store.shared);
            let thread = std::thread::Builder::new().name("shards".to_owned()).spawn(move || shared.fetch_ahead());
            store.threads.push(thread.context("cannot start a download thread")?);
        }
        Ok(store)
    }

    /// Shard `index`, as soon as it is on disk. Shards before it that were never asked for are passed over; asking for
    /// one of them later is allowed, and fetches it anew.
    ///
    /// # Errors
    /// What went wrong while this shard was fetched; asking again tries again. Interrupted, when the run stops.
    pub fn acquire(&self, index: usize) -> Result<ShardGuard> {
        let shared = &self.shared;
        let mut state = shared.lock();
        if index >= state.slots.len() {
            let message = format!("there is no shard {index} in a list of {}", state.slots.len());
            return Err(Failure::new(Exit::Failed, message).into());
        }
        for passed in state.next..index {
            if let Slot::Here(copy) = std::mem::replace(&mut state.slots[passed], shared.at_rest(passed)) {
                shared.give_back(copy);
            }
        }
        state.next = state.next.max(index + 1);
        shared.changed.notify_all();
        loop {
            let slot = &mut state.slots[index];
            match std::mem::replace(slot, Slot::Passed) {
                Slot::Here(copy) => {
                    let path = copy.path().to_path_buf();
                    *slot = Slot::InUse { copy, guards: 1 };
                    return Ok(ShardGuard { shared: Arc::clone(shared), index, path, used_up: false });
                }
                Slot::InUse { copy, guards } => {
                    let path = copy.path().to_path_buf();
                    *slot = Slot::InUse { copy, guards: guards + 1 };
                    return Ok(ShardGuard { shared: Arc::clone(shared), index, path, used_up: false });
                }
                Slot::Failed(error) => return Err(error),
                Slot::Fetching => *slot = Slot::Fetching,
                Slot::Absent { .. } | Slot::Passed => {
                    *slot = Slot::Absent { wanted: true };
                    shared.changed.notify_all();
                }
            }
            if shared.hub.stop().is_set() {
                return Err(Failure::new(Exit::Interrupted, "stopped while waiting for a shard")
                    .hint("run it again to continue; what is on disk is kept")
                    .into());
            }
            // With a time limit, because a signal sets the flag and wakes nobody.
            state = shared.changed.wait_timeout(state, STOP_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for ShardStore {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl ShardGuard {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The shard is used up and its results are safe: it may go from the disk. A guard that is dropped without this,
    /// after an error say, leaves it for the next run.
    pub fn release(mut self) {
        self.used_up = true;
    }
}

impl Drop for ShardGuard {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let slot = &mut state.slots[self.index];
        match std::mem::replace(slot, self.shared.at_rest(self.index)) {
            Slot::InUse { copy, guards } if guards > 1 => *slot = Slot::InUse { copy, guards: guards - 1 },
            Slot::InUse { copy, .. } if self.used_up => self.shared.give_back(copy),
            Slot::InUse { copy, .. } => *slot = Slot::Here(copy),
            other => *slot = other,
        }
    }
}

impl OnDisk {
    fn path(&self) -> &Path {
        match self {
            Self::Stays(path) => path,
            Self::Leased(lease) => lease.path(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the slots as consistent as they were: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard's slot when nothing is done with it: local ones are always there.
    fn at_rest(&self, index: usize) -> Slot {
        match &self.items[index] {
            ShardSource::Local(path) => Slot::Here(OnDisk::Stays(path.clone())),
            ShardSource::Remote(_) => Slot::Passed,
        }
    }

    /// One download thread: fetches what may be fetched next, until the store goes.
    fn fetch_ahead(&self) {
        while let Some((index, file)) = self.next_to_fetch() {
            let outcome = self.fetch(index, file);
            let mut state = self.lock();
            let slot = &mut state.slots[index];
            match (outcome, &*slot) {
                (Ok(copy), Slot::Fetching) => *slot = Slot::Here(copy),
                (Err(error), Slot::Fetching) => *slot = Slot::Failed(error),
                // The consumer has skipped it meanwhile.
                (Ok(copy), _) => self.give_back(copy),
                (Err(_), _) => {}
            }
            self.changed.notify_all();
        }
    }

    fn next_to_fetch(&self) -> Option<(usize, &RemoteFile)> {
        let mut state = self.lock();
        loop {
            if self.hub.stop().is_set() {
                return None;
            }
            if let Some((index, file)) = self.choose(&state) {
                state.slots[index] = Slot::Fetching;
                return Some((index, file));
            }
            state = self.changed.wait_timeout(state, STOP_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A shard that the consumer waits for, else the first one ahead if there is room for it.
    fn choose(&self, state: &State) -> Option<(usize, &RemoteFile)> {
        let remote = |index: usize| match &self.items[index] {
            ShardSource::Remote(file) => Some((index, file)),
            ShardSource::Local(_) => None,
        };
        let is_wanted = |slot: &Slot| matches!(slot, Slot::Absent { wanted: true });
        if let Some(index) = state.slots.iter().position(is_wanted) {
            return remote(index);
        }
        let (mut count, mut bytes, mut first_absent) = (0, 0, None);
        for (index, slot) in state.slots.iter().enumerate().skip(state.next) {
            let Some((_, file)) = remote(index) else { continue };
            let takes_room = match slot {
                Slot::Absent { .. } => {
                    first_absent = first_absent.or(Some((index, file)));
                    false
                }
                Slot::Fetching => true,
                Slot::Here(OnDisk::Leased(lease)) => lease.is_temporary(),
                Slot::Here(OnDisk::Stays(_)) => self.keep,
                Slot::InUse { .. } | Slot::Failed(_) | Slot::Passed => false,
            };
            if takes_room {
                count += 1;
                bytes += file.size;
            }
        }
        first_absent.filter(|(_, file)| {
            count < self.bound.count && (count == 0 || bytes.saturating_add(file.size) <= self.bound.bytes)
        })
    }

    fn fetch(&self, index: usize, file: &RemoteFile) -> Result<OnDisk> {
        let progress = |bytes| (self.on_progress)(ShardProgress { index, bytes, total: file.size });
        if self.keep {
            self.hub.fetch(file, &self.http_cache_dir, &progress).map(OnDisk::Stays)
        } else {
            self.hub.lease(file, &self.http_cache_dir, &progress).map(OnDisk::Leased)
        }
    }

    /// The shard's use is over. Failing to remove it costs room, not correctness, so it is said and not raised.
    fn give_back(&self, copy: OnDisk) {
        if let OnDisk::Leased(lease) = copy
            && let Err(error) = lease.give_back()
        {
            self.hub.notice(&format!("{error:#}"));
        }
    }
}
