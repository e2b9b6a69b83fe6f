//! The one door through which files appear in a run folder: complete, durable, or not at all.
//!
//! Every file is written under a temporary name beside its final one, synced, renamed (or linked) and its folder synced,
//! so that a kill or a power cut at any instant leaves the old content or the new one and never a part. Temporary names
//! say which process on which machine wrote them, so that [`sweep_temporaries`] can tell a dead writer's from a live one's.
//!
//! A test can kill the program at every step of every commit: `FOUR_HABITS_KILL_AT=<n>` aborts the process at the n-th
//! [`kill_point`] that it passes, counted from 1 over all threads.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::error::{Exit, Failure};

/// A leftover of another machine is removed when untouched for this long; those of this machine when their writer is gone.
const FOREIGN_LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// Large enough that a Parquet page goes to the disk in one call.
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// What became of [`create_exclusive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// This call created the file.
    Won,
    /// The file was there already; nothing was changed.
    AlreadyThere,
}

/// The content that a [`StagedFile`] committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub bytes: u64,
    /// 64 lowercase hexadecimal digits.
    pub sha256: String,
}

/// Replaces the file at `path` with `bytes`, creating missing folders.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut staged = StagedFile::create(path)?;
    staged.write_all(bytes).map_err(|error| write_failure(path, &error))?;
    staged.commit(|_| Ok(()))?;
    Ok(())
}

/// Creates the file at `path` with `bytes` unless it exists. Of several racing callers exactly one wins, and whoever sees the file
/// sees all of it: the name is a hard link made after the content is durable. Where the file system has no hard links, the
/// file is created under its own name instead, and a kill in that moment leaves it short.
pub fn create_exclusive(path: &Path, bytes: &[u8]) -> Result<Created> {
    if path.exists() {
        return Ok(Created::AlreadyThere);
    }
    let mut staged = StagedFile::create(path)?;
    staged.write_all(bytes).map_err(|error| write_failure(path, &error))?;
    let temporary = staged.seal()?;
    kill_point("before link");
    let created = match std::fs::hard_link(&temporary.0, path) {
        Ok(()) => Created::Won,
        // A network file system may repeat a request that it has already done: the link count tells whose name it is.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && link_count(&temporary.0) == 2 => Created::Won,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Created::AlreadyThere,
        Err(_) => create_in_place(path, bytes)?,
    };
    kill_point("after link");
    drop(temporary);
    sync_folder(folder_of(path))?;
    kill_point("after commit");
    Ok(created)
}

/// Creates `folder` and the missing ones above it, each durable in its parent.
pub fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder_of(folder);
    create_folder(parent)?;
    match std::fs::create_dir(folder) {
        Ok(()) => sync_folder(parent),
        Err(_) if folder.is_dir() => Ok(()),
        Err(error) => Err(write_failure(folder, &error)),
    }
}

/// Makes a folder of committed files visible under its final name, which must not exist. Both lie in one folder.
pub fn commit_folder(temporary: &Path, path: &Path) -> Result<()> {
    sync_folder(temporary)?;
    kill_point("before rename");
    rename(temporary, path)?;
    kill_point("after rename");
    sync_folder(folder_of(path))?;
    kill_point("after commit");
    Ok(())
}

/// Gives a committed file a second name, as a link where the file system has them, else as a copy.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    create_folder(folder_of(to))?;
    remove(to)?;
    if std::fs::hard_link(from, to).is_ok() {
        return sync_folder(folder_of(to));
    }
    let mut source = File::open(from).map_err(|error| write_failure(to, &error))?;
    let mut staged = StagedFile::create(to)?;
    io::copy(&mut source, &mut staged).map_err(|error| write_failure(to, &error))?;
    staged.commit(|_| Ok(()))?;
    Ok(())
}

/// Removes a file durably, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(write_failure(path, &error)),
    }
    kill_point("after removal");
    sync_folder(folder_of(path))
}

/// A file being written, which nobody sees until [`StagedFile::commit`]. Dropped without it, the temporary is removed.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
    temporary: Temporary,
    out: BufWriter<Hashed>,
}

impl StagedFile {
    /// Opens a temporary beside `path`, creating missing folders.
    pub fn create(path: &Path) -> Result<Self> {
        create_folder(folder_of(path))?;
        kill_point("before write");
        loop {
            let temporary = temporary_name(path);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    let out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, Hashed::new(file));
                    return Ok(Self { path: path.to_owned(), temporary: Temporary(temporary), out });
                }
                // A leftover of an earlier process with our number: the next counter is free.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(write_failure(path, &error)),
            }
        }
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file durable and visible. `check` sees the closed temporary first and may refuse it.
    pub fn commit(self, check: impl FnOnce(&Path) -> Result<()>) -> Result<Committed> {
        let path = self.path.clone();
        let (temporary, committed) = self.finish()?;
        check(&temporary.0)?;
        kill_point("before rename");
        rename(&temporary.0, &path)?;
        temporary.disarm();
        kill_point("after rename");
        sync_folder(folder_of(&path))?;
        kill_point("after commit");
        Ok(committed)
    }

    fn seal(self) -> Result<Temporary> {
        Ok(self.finish()?.0)
    }

    /// Flushes, syncs and closes.
    fn finish(self) -> Result<(Temporary, Committed)> {
        let Self { path, temporary, out } = self;
        let Hashed { file, sha256, bytes } = out.into_inner().map_err(|error| write_failure(&path, error.error()))?;
        kill_point("before sync");
        file.sync_all().map_err(|error| write_failure(&path, &error))?;
        Ok((temporary, Committed { bytes, sha256: hex(&sha256.finalize()) }))
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Removes what killed writers left in `folder` and below it, and says how many files that were. Temporaries of live
/// processes stay; those of other machines stay until untouched for a day.
pub fn sweep_temporaries(folder: &Path) -> Result<u64> {
    let mut swept = 0;
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() && is_dead(&entry) {
                // Another task may sweep at the same time.
                match std::fs::remove_file(entry.path()) {
                    Ok(()) => swept += 1,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(write_failure(&entry.path(), &error)),
                }
            }
        }
    }
    Ok(swept)
}

/// The failure to write `path`, in one sentence and with the remedy that fits the cause.
pub fn write_failure(path: &Path, error: &io::Error) -> anyhow::Error {
    let again = "then run the same command again: finished units are kept";
    let (cause, hint) = match error.kind() {
        ErrorKind::StorageFull => ("the disk is full".to_owned(), Some(format!("free some space, {again}"))),
        ErrorKind::QuotaExceeded => (
            "the disk quota is used up".to_owned(),
            Some(format!("free some space or ask for a larger quota, {again}")),
        ),
        ErrorKind::ReadOnlyFilesystem => {
            ("the file system is read-only".to_owned(), Some("choose another folder with `--run-dir`".to_owned()))
        }
        ErrorKind::PermissionDenied => (
            "permission denied".to_owned(),
            Some("make its folder writable, or choose another with `--run-dir`".to_owned()),
        ),
        ErrorKind::FileTooLarge => (
            "the file would be larger than this process may write".to_owned(),
            Some(format!("raise the limit (`ulimit -f`), {again}")),
        ),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            ("a file stands where a folder is needed".to_owned(), Some("move it away".to_owned()))
        }
        _ => (error.to_string(), None),
    };
    let failure = Failure::new(Exit::Failed, format!("cannot write `{}`: {cause}", path.display()));
    anyhow::Error::new(Failure { hint, ..failure })
}

/// Marks a step between which a kill must lose nothing. Costs one atomic load unless `FOUR_HABITS_KILL_AT` is set.
pub fn kill_point(name: &'static str) {
    static KILL_AT: OnceLock<Option<u64>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let kill_at = KILL_AT.get_or_init(|| std::env::var("FOUR_HABITS_KILL_AT").ok()?.parse().ok());
    if let Some(kill_at) = kill_at
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *kill_at
    {
        let _ = writeln!(io::stderr(), "killed at point {kill_at}: {name}");
        std::process::abort();
    }
}

/// A file that counts and hashes what is written to it.
#[derive(Debug)]
struct Hashed {
    file: File,
    sha256: Sha256,
    bytes: u64,
}

impl Hashed {
    fn new(file: File) -> Self {
        Self { file, sha256: Sha256::new(), bytes: 0 }
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A temporary's name; removes the file when dropped.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn disarm(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// `.{name}.{writer}.{counter}.tmp` in the folder of `path`.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!(".{name}.{}.{counter}.tmp", Writer::this()))
}

/// A process on a machine. The start time tells a process from a later one with its number.
#[derive(Debug, PartialEq, Eq)]
struct Writer {
    machine: String,
    pid: u32,
    started: u64,
}

impl Writer {
    fn this() -> &'static Self {
        static THIS: OnceLock<Writer> = OnceLock::new();
        THIS.get_or_init(|| {
            let pid = std::process::id();
            Self { machine: machine(), pid, started: start_time(pid).unwrap_or(0) }
        })
    }

    /// The writer in a temporary's file name.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit('.');
        let _counter: u64 = parts.next()?.parse().ok()?;
        let mut writer = parts.next()?.split('-');
        let (machine, pid, started) = (writer.next()?, writer.next()?, writer.next()?);
        (machine.len() == 8 && writer.next().is_none() && parts.next().is_some()).then_some(())?;
        Some(Self { machine: machine.to_owned(), pid: pid.parse().ok()?, started: started.parse().ok()? })
    }
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.machine, self.pid, self.started)
    }
}

fn is_dead(entry: &std::fs::DirEntry) -> bool {
    let Some(writer) = entry.file_name().to_str().and_then(Writer::of) else { return false };
    if writer.machine == Writer::this().machine && cfg!(target_os = "linux") {
        return start_time(writer.pid) != Some(writer.started);
    }
    let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|modified| modified.elapsed());
    matches!(age, Ok(Ok(age)) if age > FOREIGN_LEFTOVER_AGE)
}

/// Eight hexadecimal digits for the host and its process namespace: processes with equal digits can see each other.
fn machine() -> String {
    let host =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let identity = format!("{}\n{}", host.trim(), namespace.display());
    blake3::hash(identity.as_bytes()).to_hex()[..8].to_owned()
}

/// When process `pid` started, in clock ticks since boot; `None` when it does not run (or nobody can say).
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold spaces: field 3 follows the last `)`, and the start time is field 22.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "this module is what the ban points to")]
fn rename(from: &Path, to: &Path) -> Result<()> {
    let moved = identity(from);
    match std::fs::rename(from, to) {
        // A network file system may repeat a request that it has already done: then the file has its new name.
        Err(error) if error.kind() == ErrorKind::NotFound && moved.is_some() && identity(to) == moved => Ok(()),
        result => result.map_err(|error| write_failure(to, &error)),
    }
}

/// Device and inode: what a file keeps when it is renamed.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<(u64, u64)> {
    None
}

fn create_in_place(path: &Path, bytes: &[u8]) -> Result<Created> {
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Created::AlreadyThere),
        Err(error) => return Err(write_failure(path, &error)),
    };
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = std::fs::remove_file(path);
        write_failure(path, &error)
    })?;
    Ok(Created::Won)
}

#[cfg(unix)]
fn link_count(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(0, |metadata| metadata.nlink())
}

#[cfg(not(unix))]
fn link_count(_: &Path) -> u64 {
    0
}

/// Makes the names in `folder` durable. Some network file systems refuse to sync a folder; they keep names by themselves.
fn sync_folder(folder: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder).and_then(|file| file.sync_all()) {
        Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Err(write_failure(folder, &error))
        }
        _ => Ok(()),
    }
}

/// The folder that holds `path`; a bare name is in the current one.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::hint_of;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn content_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["c.json"]);
    }

    #[test]
    fn of_many_creators_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unit.json");
        let results: Vec<_> = std::thread::scope(|scope| {
            let creators: Vec<_> = (0..8u8)
                .map(|i| {
                    (
                        i,
                        scope.spawn({
                            let path = &path;
                            move || create_exclusive(path, &[i; 100]).unwrap()
                        }),
                    )
                })
                .collect();
            creators.into_iter().map(|(i, creator)| (i, creator.join().unwrap())).collect()
        });
        let winners: Vec<_> = results.iter().filter(|(_, created)| *created == Created::Won).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), [winners[0].0; 100]);
        assert_eq!(names(folder.path()), ["unit.json"]);
    }

    #[test]
    fn committed_bytes_are_counted_and_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let mut staged = StagedFile::create(&folder.path().join("x")).unwrap();
        staged.write_all(b"abc").unwrap();
        let committed = staged.commit(|temporary| {
            assert_eq!(std::fs::read(temporary)?, b"abc");
            Ok(())
        });
        // FIPS 180-2, appendix B.1.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(committed.unwrap(), Committed { bytes: 3, sha256: sha256.to_owned() });
    }

    #[test]
    fn refused_or_dropped_files_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        drop(StagedFile::create(&path).unwrap());
        StagedFile::create(&path).unwrap().commit(|_| anyhow::bail!("rows differ")).unwrap_err();
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn only_leftovers_of_the_dead_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let live = StagedFile::create(&folder.path().join("live")).unwrap();
        let this = Writer::this();
        let earlier_process_of_our_number =
            Writer { machine: this.machine.clone(), pid: this.pid, started: this.started + 1 };
        let dead = folder.path().join("sub").join(format!(".part.parquet.{earlier_process_of_our_number}.3.tmp"));
        let elsewhere = folder.path().join(".part.parquet.0123abcd-1-1.0.tmp");
        let not_ours = folder.path().join(".keep.tmp");
        create_folder(dead.parent().unwrap()).unwrap();
        for path in [&dead, &elsewhere, &not_ours] {
            File::create_new(path).unwrap();
        }
        assert_eq!(sweep_temporaries(folder.path()).unwrap(), 1);
        assert!(!dead.exists() && elsewhere.exists() && not_ours.exists());
        live.commit(|_| Ok(())).unwrap();
    }

    #[test]
    fn a_full_disk_is_told_in_one_sentence() {
        let error = write_failure(Path::new("runs/a.parquet"), &io::Error::from_raw_os_error(28));
        assert_eq!(format!("{error:#}"), "cannot write `runs/a.parquet`: the disk is full");
        assert!(hint_of(&error).unwrap().contains("finished units are kept"));
    }

    /// The child of this test runs it again, with a folder to work in, and dies at the point it was told.
    #[test]
    fn a_kill_at_any_point_leaves_the_old_content_or_the_new() {
        if let Some(folder) = std::env::var_os("FOUR_HABITS_TEST_FOLDER") {
            let folder = PathBuf::from(folder);
            write_atomic(&folder.join("replaced"), b"new").unwrap();
            create_exclusive(&folder.join("created"), b"new").unwrap();
            return;
        }
        let mut killed = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            write_atomic(&folder.path().join("replaced"), b"old").unwrap();
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "run::commit::tests::a_kill_at_any_point_leaves_the_old_content_or_the_new"])
                .env("FOUR_HABITS_TEST_FOLDER", folder.path())
                .env("FOUR_HABITS_KILL_AT", (killed + 1).to_string())
                .output()
                .unwrap();
            let replaced = std::fs::read(folder.path().join("replaced")).unwrap();
            assert!(replaced == b"old" || replaced == b"new", "{replaced:?} after {killed}");
            let created = std::fs::read(folder.path().join("created")).ok();
            assert!(created.as_deref().is_none_or(|content| content == b"new"), "{created:?} after {killed}");
            sweep_temporaries(folder.path()).unwrap();
            assert!(names(folder.path()).iter().all(|name| !name.starts_with('.')));
            if child.status.success() {
                break;
            }
            killed += 1;
        }
        assert_eq!(killed, 10);
    }
}
