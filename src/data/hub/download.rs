//! One file from a host to this disk: resumed where it broke, verified before it gets its name.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use reqwest::header::{ETAG, LAST_MODIFIED};
use sha2::{Digest, Sha256};

use super::answer::{ContentRange, bare_etag, trouble};
use super::cache::{Place, open_rw};
use super::retry::{Patience, Trouble};
use super::wire::{Ask, Reply, host};
use super::{Hub, RemoteFile, Source};
use crate::error::{Exit, Failure};

/// A storage host that refuses this many fresh links in a row is not to be had.
const MOST_REFUSALS: u32 = 3;

/// Fetches `file` into `place`. The caller holds the place's lock.
pub(super) fn download(hub: &Hub, file: &RemoteFile, place: &Place, progress: &dyn Fn(u64)) -> Result<()> {
    let mut part = Part::open(&place.incomplete)?;
    let mut fetched_again = false;
    loop {
        hub.patience(file.label()).until(|patience| stream(hub, file, &mut part, patience, progress))?;
        let Some(wrong) = part.mismatch(file)? else { return place.commit(file.size) };
        part.restart()?;
        part.furthest = 0;
        hub.forget(file);
        if fetched_again {
            let hint = "the host or a proxy before it serves broken data; try again later, or another HF_ENDPOINT";
            return Err(Failure::new(Exit::Unavailable, wrong).hint(hint).into());
        }
        hub.notice(&format!("{wrong}; fetching it again"));
        fetched_again = true;
    }
}

/// The bytes that are here already, and what is known about where they came from.
struct Part<'a> {
    path: &'a Path,
    file: File,
    have: u64,
    /// The most that was ever here: bytes fetched a second time are no progress.
    furthest: u64,
    /// The version that the storage host gave with these bytes, for `If-Range`.
    validator: Option<String>,
    refusals: u32,
}

impl<'a> Part<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file = open_rw(path)?;
        let have = file.metadata()?.len();
        Ok(Self { path, file, have, furthest: have, validator: None, refusals: 0 })
    }

    fn restart(&mut self) -> Result<()> {
        self.have = 0;
        self.validator = None;
        self.file.set_len(0).with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(self.have)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot write `{}`: {error}", self.path.display()))
                .hint("free some space, or fetch fewer shards ahead")
        })?;
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// What is wrong with the finished bytes, read back from the disk; `None` when they are the file.
    fn mismatch(&mut self, file: &RemoteFile) -> Result<Option<String>> {
        self.file.sync_all().with_context(|| format!("cannot write `{}`", self.path.display()))?;
        let size = self.file.metadata()?.len();
        if size != file.size {
            return Ok(Some(format!("`{}` has {size} bytes where {} were listed", file.label(), file.size)));
        }
        let Some(expected) = &file.sha256 else { return Ok(None) };
        let mut hash = Sha256::new();
        self.file.rewind()?;
        std::io::copy(&mut self.file, &mut hash).with_context(|| format!("cannot read `{}`", self.path.display()))?;
        let found = format!("{:x}", hash.finalize());
        Ok((found != *expected).then(|| {
            format!("the bytes of `{}` are wrong: their SHA-256 is {found}, listed was {expected}", file.label())
        }))
    }
}

/// Asks for what is missing and writes it as it comes.
fn stream(
    hub: &Hub,
    file: &RemoteFile,
    part: &mut Part<'_>,
    patience: &mut Patience<'_>,
    progress: &dyn Fn(u64),
) -> Result<(), Trouble> {
    if part.have > file.size {
        part.restart()?;
    }
    if part.have == file.size {
        return Ok(());
    }
    let source = hub.locate(file)?;
    let validator = part.validator.clone().or_else(|| source.validator(file));
    if part.have > 0 && validator.is_none() && file.sha256.is_none() {
        // Nothing could tell whether old and new bytes belong together.
        part.restart()?;
    }
    let range = (part.have > 0).then_some((part.have, None));
    let ask = Ask { range, if_range: range.and(validator.as_deref()), ..Ask::get(&source.url) };
    let mut reply = hub.wire()?.send(&ask, hub.stop())?;
    accept(hub, file, &source, part, &reply)?;
    part.validator = strong_validator(&reply);
    progress(part.have);

    while let Some(bytes) = reply.chunk(hub.stop())? {
        let room = file.size - part.have;
        if bytes.len() as u64 > room {
            part.restart()?;
            return Err(Trouble::passing(format!("`{}` sends more bytes than it listed", host(&reply.url))));
        }
        part.append(&bytes)?;
        progress(part.have);
        if part.have > part.furthest {
            part.furthest = part.have;
            part.refusals = 0;
            patience.progress();
        }
    }
    if part.have < file.size {
        return Err(Trouble::passing(format!("`{}` ended the file early", host(&reply.url))));
    }
    Ok(())
}

/// Whether the body that follows continues (206) or replaces (200) what is here, and is the version that was listed.
fn accept(
    hub: &Hub,
    file: &RemoteFile,
    source: &Source,
    part: &mut Part<'_>,
    reply: &Reply<'_>,
) -> Result<(), Trouble> {
    let status = reply.status().as_u16();
    match status {
        206 => {
            source.check_version(file, reply)?;
            let range = reply.header("content-range").and_then(ContentRange::parse);
            let continues =
                range.is_some_and(|range| range.first == part.have && range.total.is_none_or(|t| t == file.size));
            let same = match (&part.validator, strong_validator(reply)) {
                (Some(before), Some(now)) => *before == now,
                _ => true,
            };
            if continues && same {
                return Ok(());
            }
            part.restart()?;
            Err(Trouble::passing(format!("`{}` sent other bytes than were asked for", host(&reply.url))))
        }
        200 => {
            part.restart()?;
            source.check_version(file, reply)?;
            source.check_size(file, reply.header("content-length").and_then(|size| size.parse().ok()))?;
            Ok(())
        }
        416 => {
            part.restart()?;
            Err(Trouble::passing(format!("`{}` has no bytes where this file was cut", host(&reply.url))))
        }
        401 | 403 | 404 | 410 if source.elsewhere => Err(hub.link_refused(file, reply, &mut part.refusals)),
        _ => Err(trouble(reply, &file.subject(&source.url), hub.config().token.is_some())),
    }
}

impl Hub {
    /// A signed link lives for minutes; a new one costs a request to the hub. `refusals` counts those in a row.
    pub(super) fn link_refused(&self, file: &RemoteFile, reply: &Reply<'_>, refusals: &mut u32) -> Trouble {
        self.forget(file);
        *refusals += 1;
        let (host, status) = (host(&reply.url), reply.status().as_u16());
        let message = format!("`{host}` refuses the hub's link to `{}` (status {status})", file.label());
        if *refusals < MOST_REFUSALS {
            return Trouble::passing(message);
        }
        Failure::new(Exit::Unavailable, message).hint("a firewall or a proxy may bar the storage host").into()
    }
}

impl Source {
    /// The version that `If-Range` may name before the storage host has named one itself.
    fn validator(&self, file: &RemoteFile) -> Option<String> {
        match (file.repo.is_some(), self.elsewhere) {
            (true, false) => Some(format!("\"{}\"", file.etag)),
            (true, true) => None,
            (false, _) => Some(file.etag.clone()).filter(|etag| !etag.is_empty() && !etag.starts_with("W/")),
        }
    }

    /// # Errors
    /// The host serves another version than the one that was listed. Storage hosts of the hub name versions in their
    /// own way, so theirs are not compared: the file's SHA-256 is.
    pub(super) fn check_version(&self, file: &RemoteFile, reply: &Reply<'_>) -> Result<()> {
        if file.etag.is_empty() || self.elsewhere {
            return Ok(());
        }
        let (now, same) = match (file.repo.is_some(), validator(reply)) {
            (_, None) => return Ok(()),
            (true, Some(now)) => (now, reply.header("etag").is_none_or(|etag| bare_etag(etag) == file.etag)),
            (false, Some(now)) => (now, now == file.etag),
        };
        if same { Ok(()) } else { Err(changed(file, &format!("its version was {} and is {now}", file.etag))) }
    }

    pub(super) fn check_size(&self, file: &RemoteFile, size: Option<u64>) -> Result<()> {
        match size {
            Some(size) if size != file.size => {
                Err(changed(file, &format!("it had {} bytes and has {size}", file.size)))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn changed(file: &RemoteFile, how: &str) -> anyhow::Error {
    Failure::new(Exit::Failed, format!("`{}` has changed since it was listed: {how}", file.label()))
        .hint("plan the run again in a new run folder (`--fresh`) to use the new version")
        .into()
}

/// What an answer says about its version: the ETag, else the time of the last change.
pub(super) fn validator<'r>(reply: &'r Reply<'_>) -> Option<&'r str> {
    reply.header(ETAG.as_str()).or_else(|| reply.header(LAST_MODIFIED.as_str()))
}

/// A version that promises equal bytes, as `If-Range` needs.
fn strong_validator(reply: &Reply<'_>) -> Option<String> {
    validator(reply).filter(|text| !text.starts_with("W/")).map(str::to_owned)
}
