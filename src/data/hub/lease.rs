//! Files fetched for one use, in a cache that other processes share.
//!
//! A corpus may be larger than the disk, so a used shard goes. But the cache belongs to everybody: a file that was
//! there before must stay, and a file that another task is reading must stay until that task is done. A marker beside
//! the file's lock settles both. Its content says which bytes on disk were fetched for one use (device, inode, time of
//! writing), so a file that someone else put there later is not mistaken for ours; every user holds a shared lock on
//! it, so whoever gets the exclusive lock is the last one and removes file and marker. After a kill the marker is
//! still there, and the next run that uses the file takes the duty over.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::cache::{Place, make_parent, open_rw};
use super::{Hub, RemoteFile};

/// A file on disk that may be used until the lease ends.
#[derive(Debug)]
pub(crate) struct Lease {
    place: Place,
    /// `None` for a file that was in the cache before: it is only read.
    marker: Option<File>,
}

impl Hub {
    /// Like [`Hub::fetch`], for a file that [`Lease::give_back`] removes again.
    pub(crate) fn lease(&self, file: &RemoteFile, http_cache_dir: &Path, progress: &dyn Fn(u64)) -> Result<Lease> {
        let place = self.place(file, http_cache_dir)?;
        loop {
            if !place.marker.exists() && place.holds(file.size)? {
                progress(file.size);
                return Ok(Lease { place, marker: None });
            }
            make_parent(&place.marker)?;
            let mut marker = open_rw(&place.marker)?;
            marker.lock_shared().with_context(|| format!("cannot lock `{}`", place.marker.display()))?;
            if !is_file_at(&marker, &place.marker) {
                continue; // its last user removed it between the two calls
            }
            if self.obtain(file, &place, progress)? {
                let written = marker.set_len(0).and_then(|()| marker.write_all(identity(&place.blob)?.as_bytes()));
                written.with_context(|| format!("cannot write `{}`", place.marker.display()))?;
            }
            return Ok(Lease { place, marker: Some(marker) });
        }
    }
}

impl Lease {
    pub(crate) fn path(&self) -> &Path {
        &self.place.path
    }

    /// Whether the file takes room only for this use.
    pub(crate) fn is_temporary(&self) -> bool {
        self.marker.is_some()
    }

    /// Ends the use. The file is removed when it was fetched for such uses only and this was the last one.
    pub(crate) fn give_back(self) -> Result<()> {
        let Some(mut marker) = self.marker else { return Ok(()) };
        let mut fetched = String::new();
        let remove = (|| {
            marker.unlock()?;
            if marker.try_lock().is_err() || !is_file_at(&marker, &self.place.marker) {
                return Ok(());
            }
            marker.rewind()?;
            marker.read_to_string(&mut fetched)?;
            if identity(&self.place.blob).is_ok_and(|present| present == fetched) {
                if self.place.path != self.place.blob {
                    fs::remove_file(&self.place.path)?;
                }
                fs::remove_file(&self.place.blob)?;
            }
            fs::remove_file(&self.place.marker)
        })();
        remove.with_context(|| format!("cannot remove the used shard `{}`", self.place.path.display()))
    }
}

/// Which bytes on which disk: a copy that was fetched again has another inode or another time.
fn identity(path: &Path) -> std::io::Result<String> {
    let meta = fs::metadata(path)?;
    Ok(format!("{} {} {}.{}", meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// Whether an open file is still the one that `path` names.
fn is_file_at(file: &File, path: &Path) -> bool {
    let same = |open: fs::Metadata, named: fs::Metadata| (open.dev(), open.ino()) == (named.dev(), named.ino());
    file.metadata().is_ok_and(|open| fs::metadata(path).is_ok_and(|named| same(open, named)))
}
