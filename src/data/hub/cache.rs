//! Where fetched files lie: the Hugging Face cache's layout for hub files, one folder per address for others.
//!
//! ```text
//! $HF_HUB_CACHE/datasets--OWNER--NAME/blobs/<etag>                      the bytes, `<etag>.incomplete` on the way
//!                                     snapshots/<commit>/<path>         a link to the blob
//!                                     refs/<revision>                   the commit that a revision meant last
//!                                     trees/<commit>.json               the commit's files, for offline runs
//!              .locks/datasets--OWNER--NAME/<etag>.lock                 held while a blob is written
//! ```
//!
//! Every file appears under its final name by a rename of whole, synced bytes, so a kill leaves only `.incomplete`
//! files, which the next attempt continues.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::address::{Repo, check_path, is_commit, is_repo_name};
use super::retry::{Clock, Stop, stopped};
use super::{Origin, RemoteFile};
use crate::error::{Exit, Failure};

const LOCK_POLL: Duration = Duration::from_millis(200);

/// The paths of one file on this machine.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What readers open.
    pub(super) path: PathBuf,
    /// The bytes: `path` itself, or the blob that it links to.
    pub(super) blob: PathBuf,
    pub(super) incomplete: PathBuf,
    pub(super) lock: PathBuf,
    /// Says that the file was fetched for one use; see [`super::lease`].
    pub(super) marker: PathBuf,
}

impl Place {
    /// Where `file` belongs. Everything that becomes part of a path is checked here, because it came from a host.
    pub(super) fn of(file: &RemoteFile, cache_dir: &Path, http_cache_dir: &Path) -> Result<Self> {
        check_path(&file.path).with_context(|| format!("`{}` cannot be stored", file.label()))?;
        match file.origin()? {
            Origin::Hub { repo, commit } => {
                if !is_repo_name(&file.etag) {
                    let message = format!("the hub's ETag `{}` is not a name", file.etag.escape_debug());
                    return Err(Failure::new(Exit::Usage, message).into());
                }
                let cache = RepoCache::new(cache_dir, &repo);
                let lock = |end: &str| cache.locks.join(format!("{}.{end}", file.etag));
                let blobs = cache.root.join("blobs");
                Ok(Self {
                    path: cache.root.join("snapshots").join(commit).join(&file.path),
                    blob: blobs.join(&file.etag),
                    incomplete: blobs.join(format!("{}.incomplete", file.etag)),
                    lock: lock("lock"),
                    marker: lock("temporary"),
                })
            }
            Origin::Http(url) | Origin::Object(url) => {
                let key = blake3::hash(format!("{url}\0{}", file.etag).as_bytes()).to_hex();
                let folder = http_cache_dir.join(&key[..16]);
                let path = folder.join(&file.path);
                Ok(Self {
                    incomplete: folder.join(format!("{}.incomplete", file.path)),
                    lock: folder.join(format!("{}.lock", file.path)),
                    marker: folder.join(format!("{}.temporary", file.path)),
                    blob: path.clone(),
                    path,
                })
            }
        }
    }

    /// Whether readers can open `path` and find `size` bytes. A blob that lacks only its link gets it.
    pub(super) fn holds(&self, size: u64) -> Result<bool> {
        let has_size = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == size);
        if has_size(&self.path) {
            return Ok(true);
        }
        let found = self.blob != self.path && has_size(&self.blob);
        if found {
            self.link()?;
        }
        Ok(found)
    }

    pub(super) fn make_folders(&self) -> Result<()> {
        for path in [&self.path, &self.blob, &self.lock] {
            make_parent(path)?;
        }
        Ok(())
    }

    /// Gives the finished `.incomplete` file its name, and readers their path.
    pub(super) fn commit(&self, size: u64) -> Result<()> {
        match rename(&self.incomplete, &self.blob) {
            // On a file system without locks another process may have finished the same bytes.
            Err(error) if error.kind() == ErrorKind::NotFound && fs::metadata(&self.blob)?.len() == size => {}
            other => other.with_context(|| format!("cannot write `{}`", self.blob.display()))?,
        }
        sync_parent(&self.blob)?;
        if self.blob != self.path { self.link() } else { Ok(()) }
    }

    /// Points `path` at the blob by a relative link, so that the cache folder may be moved.
    fn link(&self) -> Result<()> {
        make_parent(&self.path)?;
        let linked = relative(&self.blob, &self.path).and_then(|target| {
            let first = std::os::unix::fs::symlink(&target, &self.path);
            let leads_to_blob = || match (self.path.canonicalize(), self.blob.canonicalize()) {
                (Ok(path), Ok(blob)) => path == blob,
                _ => false,
            };
            match first {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && !leads_to_blob() => {
                    fs::remove_file(&self.path)?;
                    std::os::unix::fs::symlink(&target, &self.path)
                }
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        });
        linked.with_context(|| format!("cannot link `{}`", self.path.display()))
    }

    /// Waits for the right to write this file, saying so once.
    pub(super) fn lock(&self, what: &str, clock: &dyn Clock, notice: &dyn Fn(&str), stop: &Stop) -> Result<File> {
        let file = open_rw(&self.lock)?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    if !said {
                        notice(&format!("waiting for another process that fetches `{what}`"));
                    }
                    said = true;
                    clock.sleep(LOCK_POLL, stop);
                    if stop.is_set() {
                        return Err(stopped(what));
                    }
                }
                Err(TryLockError::Error(error)) => {
                    let message = format!("cannot lock `{}`: {error}", self.lock.display());
                    let hint = "put the cache (HF_HUB_CACHE) on a file system that has file locks";
                    return Err(Failure::new(Exit::Failed, message).hint(hint).into());
                }
            }
        }
    }
}

/// A repository's folder in the cache: what its revisions meant, and what its commits hold.
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

/// The files of one commit, as `huggingface_hub` records them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tree {
    format_version: u32,
    pub(super) files: BTreeMap<String, TreeFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TreeFile {
    pub(super) size: u64,
    /// The git hash of the file, or of the pointer that stands for it.
    pub(super) blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lfs_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) xet_hash: Option<String>,
}

impl Tree {
    const FORMAT: u32 = 1;

    pub(super) fn new(files: BTreeMap<String, TreeFile>) -> Self {
        Self { format_version: Self::FORMAT, files }
    }
}

impl RepoCache {
    pub(super) fn new(cache_dir: &Path, repo: &Repo) -> Self {
        let name = format!("{}--{}", repo.kind.plural(), repo.id.replace('/', "--"));
        Self { root: cache_dir.join(&name), locks: cache_dir.join(".locks").join(name) }
    }

    /// The commit that `revision` meant when it was last asked for.
    pub(super) fn read_ref(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if self.read_ref(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        self.write(&self.root.join("refs").join(revision), commit.as_bytes())
    }

    /// The recorded files of a commit. A record that cannot be read is as good as none: the hub has it again.
    pub(super) fn read_tree(&self, commit: &str) -> Option<Tree> {
        let text = fs::read(self.tree_path(commit)).ok()?;
        serde_json::from_slice(&text).ok().filter(|tree: &Tree| tree.format_version == Tree::FORMAT)
    }

    pub(super) fn write_tree(&self, commit: &str, tree: &Tree) -> Result<()> {
        self.write(&self.tree_path(commit), &serde_json::to_vec_pretty(tree)?)
    }

    /// Writes a small file whole. The scratch file lies where no client looks for refs, trees or blobs.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        static WRITES: AtomicU64 = AtomicU64::new(0);
        make_parent(path)?;
        let unique = format!(".{}-{}.tmp", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed));
        let scratch = self.root.join(unique);
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&scratch)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            rename(&scratch, path)
        })();
        written.with_context(|| format!("cannot write `{}`", path.display()))
    }

    fn tree_path(&self, commit: &str) -> PathBuf {
        self.root.join("trees").join(format!("{commit}.json"))
    }
}

#[expect(clippy::disallowed_methods, reason = "the bytes are synced before, the folder after: see `Place::commit`")]
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)
}

/// Opens for reading and writing, creating an empty file, and never truncates.
pub(super) fn open_rw(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open `{}` for writing", path.display()))
}

pub(super) fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(parent).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot make the folder `{}`: {error}", parent.display()))
            .hint("point HF_HUB_CACHE or HF_HOME at a folder that can be written")
            .into()
    })
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot sync `{}`", parent.display()))
}

/// The path of `target` as seen from the folder of `link`; both lie in one cache folder.
fn relative(target: &Path, link: &Path) -> std::io::Result<PathBuf> {
    let folder = link.parent().unwrap_or(Path::new(""));
    let shared = target.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return std::path::absolute(target);
    }
    let up = folder.components().skip(shared).map(|_| std::path::Component::ParentDir);
    Ok(up.chain(target.components().skip(shared)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn hub_file(path: &str, etag: &str) -> RemoteFile {
        RemoteFile {
            url: format!("hf://datasets/org/maths@{COMMIT}/{path}"),
            path: path.into(),
            size: 3,
            etag: etag.into(),
            sha256: None,
            commit: Some(COMMIT.into()),
            repo: Some("datasets/org/maths".into()),
        }
    }

    #[test]
    fn hub_files_lie_where_every_client_looks() {
        let place = Place::of(&hub_file("data/a.parquet", "e7a9"), Path::new("/c"), Path::new("/h")).unwrap();
        let root = Path::new("/c/datasets--org--maths");
        assert_eq!(place.path, root.join("snapshots").join(COMMIT).join("data/a.parquet"));
        assert_eq!(place.blob, root.join("blobs/e7a9"));
        assert_eq!(place.lock, Path::new("/c/.locks/datasets--org--maths/e7a9.lock"));
        assert_eq!(relative(&place.blob, &place.path).unwrap(), Path::new("../../../blobs/e7a9"));
    }

    #[test]
    fn nothing_from_a_host_leaves_the_cache() {
        let check = |file: RemoteFile| {
            assert!(Place::of(&file, Path::new("/c"), Path::new("/h")).is_err(), "{file:?}");
        };
        check(hub_file("../../x", "e7a9"));
        check(hub_file("/etc/x", "e7a9"));
        check(hub_file("a", "../e7a9"));
        check(hub_file("a", ""));
        check(RemoteFile { commit: Some("..".into()), ..hub_file("a", "e7a9") });
        check(RemoteFile { repo: Some("datasets/../..".into()), ..hub_file("a", "e7a9") });
        check(RemoteFile { url: "http://x/y".into(), repo: None, commit: None, ..hub_file("../y", "\"e\"") });
    }

    #[test]
    fn a_blob_without_its_link_gets_one_and_a_wrong_size_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(&hub_file("data/a", "e7a9"), dir.path(), dir.path()).unwrap();
        assert!(!place.holds(3).unwrap());
        let cache = RepoCache::new(dir.path(), &"datasets/org/maths".parse().unwrap());
        cache.write(&place.blob, b"abc").unwrap();
        assert!(place.holds(3).unwrap() && !place.holds(4).unwrap());
        assert_eq!(fs::read(&place.path).unwrap(), b"abc");
        assert!(fs::read_link(&place.path).unwrap().is_relative());
        // A link that leads elsewhere, or a file in its place, is replaced.
        for wrong in [true, false] {
            fs::remove_file(&place.path).unwrap();
            if wrong {
                std::os::unix::fs::symlink("/nowhere", &place.path).unwrap();
            } else {
                cache.write(&place.path, b"torn file").unwrap();
            }
            assert!(place.holds(3).unwrap());
            assert_eq!(fs::read(&place.path).unwrap(), b"abc");
        }
    }

    #[test]
    fn refs_and_trees_come_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(dir.path(), &"datasets/org/maths".parse().unwrap());
        assert_eq!(cache.read_ref("refs/convert/parquet"), None);
        cache.write_ref("refs/convert/parquet", COMMIT).unwrap();
        assert_eq!(cache.read_ref("refs/convert/parquet").as_deref(), Some(COMMIT));

        let file = TreeFile { size: 3, blob_id: "b".into(), lfs_sha256: None, lfs_size: None, xet_hash: None };
        let tree = Tree::new(BTreeMap::from([("data/a".to_owned(), file)]));
        cache.write_tree(COMMIT, &tree).unwrap();
        assert_eq!(cache.read_tree(COMMIT), Some(tree));
        cache.write(&cache.tree_path(COMMIT), b"{\"format_version\": 2, \"files\": {}}").unwrap();
        assert_eq!(cache.read_tree(COMMIT), None);
    }
}
