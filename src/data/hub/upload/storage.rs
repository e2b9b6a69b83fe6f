//! The bytes of one stored file: the hub names the addresses (git LFS's batch API), and they are sent there, whole or in
//! the parts that it asks for.
//!
//! The addresses are signed and lie on another host, which never sees the token. They live for a while: when the storage
//! host refuses one, the hub is asked for new ones.

use std::collections::BTreeMap;

use anyhow::Result;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Hashed, RepoKind, Session};
use crate::data::hub::payload::Payload;
use crate::data::hub::retry::Trouble;
use crate::data::hub::upload::Content;
use crate::data::hub::wire::{Ask, Reply, host};
use crate::error::{Exit, Failure};

const LFS_JSON: &str = "application/vnd.git-lfs+json";
const ACCEPT_LFS: (HeaderName, HeaderValue) = (ACCEPT, HeaderValue::from_static(LFS_JSON));
/// Where addresses point whatever endpoint was asked; a mirror's client goes through the mirror.
const HOME: &str = "https://huggingface.co/";
/// A storage host that refuses this many fresh links in a row is not to be had.
const MOST_REFUSALS: u32 = 3;

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    /// None when the storage has the content already.
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: Option<BTreeMap<String, Value>>,
}

/// How an upload goes on after a storage host refused a link.
enum Sent {
    Done,
    LinkRefused(u16),
}

impl Session<'_> {
    /// Sees to it that the storage holds the file.
    pub(super) fn store_one(&self, hashed: &Hashed<'_>) -> Result<()> {
        for attempt in 1.. {
            let Some(actions) = self.ask_where(hashed)? else { return Ok(()) };
            let Some(upload) = &actions.upload else { return Ok(()) };
            match self.send(hashed, upload)? {
                Sent::Done => {
                    if let Some(verify) = &actions.verify {
                        self.verify(hashed, verify)?;
                    }
                    (self.upload.said)(&format!("stored `{}` ({} bytes)", hashed.file.path, hashed.file.size));
                    return Ok(());
                }
                Sent::LinkRefused(status) => {
                    let host = host(&address(self, upload)?);
                    let message =
                        format!("`{host}` refuses the hub's link for `{}` (status {status})", hashed.file.path);
                    if attempt >= MOST_REFUSALS {
                        let hint = "a firewall or a proxy may bar the storage host";
                        return Err(Failure::new(Exit::Unavailable, message).hint(hint).into());
                    }
                    self.hub.notice(&format!("{message}; asking for a new one"));
                }
            }
        }
        Ok(())
    }

    fn ask_where(&self, hashed: &Hashed<'_>) -> Result<Option<Actions>> {
        let target = self.upload.target;
        let kind = (target.repo.kind == RepoKind::Dataset).then_some("datasets");
        let (owner, name) = target.repo.id.split_once('/').unwrap_or_default();
        let name = format!("{name}.git");
        let parts = kind.into_iter().chain([owner, &name, "info", "lfs", "objects", "batch"]);
        let url = self.hub.endpoint_url(parts)?;
        let question = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{ "oid": hashed.sha256, "size": hashed.file.size }],
            "hash_algo": "sha256",
            "ref": { "name": target.branch },
        });
        let batch: Batch = self.post_lfs(hashed, &url, &question)?;
        let Some(object) = batch.objects.into_iter().next() else {
            let message = format!("the hub does not say where `{}` goes", hashed.file.path);
            return Err(Failure::new(Exit::Unavailable, message).into());
        };
        match object.error {
            Some(error) => {
                let told: String = error.message.chars().filter(|c| !c.is_control()).take(300).collect();
                Err(Failure::new(Exit::Failed, format!("the hub does not store `{}`: {told}", hashed.file.path)).into())
            }
            None => Ok(object.actions),
        }
    }

    fn send(&self, hashed: &Hashed<'_>, action: &Action) -> Result<Sent> {
        match action.chunk_size() {
            None => {
                let payload = payload(hashed, 0, hashed.file.size)?;
                let sent = self.put(hashed, &address(self, action)?, &payload, &action.headers())?;
                Ok(sent.map_or_else(Sent::LinkRefused, |_| Sent::Done))
            }
            Some(chunk) => self.send_parts(hashed, action, chunk),
        }
    }

    fn send_parts(&self, hashed: &Hashed<'_>, action: &Action, chunk: u64) -> Result<Sent> {
        let links = action.parts();
        let size = hashed.file.size;
        if chunk == 0 || links.len() as u64 != size.div_ceil(chunk) {
            let message = format!(
                "the hub wants `{}` ({size} bytes) in {} parts of {chunk} bytes, which does not fit",
                hashed.file.path,
                links.len()
            );
            return Err(Failure::new(Exit::Unavailable, message).into());
        }
        let mut parts = Vec::new();
        for (number, link) in (1u64..).zip(links) {
            let start = (number - 1) * chunk;
            let payload = payload(hashed, start, (start + chunk).min(size))?;
            let url = parse(link)?;
            match self.put(hashed, &url, &payload, &[])? {
                Err(status) => return Ok(Sent::LinkRefused(status)),
                Ok(None) => {
                    let message = format!("`{}` gives no ETag for a part of `{}`", host(&url), hashed.file.path);
                    return Err(Failure::new(Exit::Unavailable, message).into());
                }
                Ok(Some(etag)) => parts.push(json!({ "partNumber": number, "etag": etag })),
            }
        }
        let done = json!({ "oid": hashed.sha256, "parts": parts });
        let _: serde::de::IgnoredAny = self.post_lfs(hashed, &address(self, action)?, &done)?;
        Ok(Sent::Done)
    }

    fn verify(&self, hashed: &Hashed<'_>, action: &Action) -> Result<()> {
        let claim = json!({ "oid": hashed.sha256, "size": hashed.file.size });
        let _: serde::de::IgnoredAny = self.post_lfs(hashed, &address(self, action)?, &claim)?;
        Ok(())
    }

    /// One PUT, as often as it takes. Gives the answer's ETag, or the status of a refused link.
    fn put(
        &self,
        hashed: &Hashed<'_>,
        url: &Url,
        payload: &Payload,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Result<Option<String>, u16>> {
        self.patience(&hashed.file.path).until(|_| {
            let ask = Ask { headers, ..Ask::send(Method::PUT, url, payload) };
            let reply = self.hub.wire()?.send(&ask, self.hub.stop())?;
            let status = reply.status().as_u16();
            match status {
                200 | 201 | 204 => Ok(Ok(reply.header("etag").filter(|etag| !etag.is_empty()).map(str::to_owned))),
                401 | 403 | 404 | 410 => Ok(Err(status)),
                _ => Err(self.storage_trouble(&reply, hashed)),
            }
        })
    }

    fn storage_trouble(&self, reply: &Reply<'_>, hashed: &Hashed<'_>) -> Trouble {
        let (host, status) = (host(&reply.url), reply.status().as_u16());
        if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) {
            return Trouble::passing(format!("`{host}` answered {status}"));
        }
        let message = format!("`{host}` does not take `{}` (status {status})", hashed.file.path);
        Failure::new(Exit::Unavailable, message).into()
    }

    fn post_lfs<T: serde::de::DeserializeOwned>(&self, hashed: &Hashed<'_>, url: &Url, question: &Value) -> Result<T> {
        let payload = Payload::bytes(LFS_JSON, serde_json::to_vec(question)?);
        let headers = [ACCEPT_LFS];
        self.patience(&hashed.file.path).until(|_| {
            let ask = Ask { headers: &headers, ..Ask::send(Method::POST, url, &payload) };
            self.json(self.hub.wire()?.send(&ask, self.hub.stop())?)
        })
    }
}

impl Action {
    /// Bytes per part, when the hub wants parts.
    fn chunk_size(&self) -> Option<u64> {
        let value = self.header.as_ref()?.get("chunk_size")?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    /// The parts' addresses, in the order of their numbers.
    fn parts(&self) -> Vec<&str> {
        let fields = self.header.iter().flatten();
        let mut parts: Vec<(u64, &str)> =
            fields.filter_map(|(name, value)| Some((name.parse().ok()?, value.as_str()?))).collect();
        parts.sort_unstable_by_key(|&(number, _)| number);
        parts.into_iter().map(|(_, link)| link).collect()
    }

    /// What the storage host is to be sent beside the bytes.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let fields = self.header.iter().flatten();
        let header = |(name, value): (&String, &Value)| {
            let mut value = HeaderValue::from_str(value.as_str()?).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        };
        fields.filter_map(header).collect()
    }
}

fn address(session: &Session<'_>, action: &Action) -> Result<Url> {
    let url = parse(&action.href)?;
    match action.href.strip_prefix(HOME) {
        Some(rest) if session.hub.config().endpoint.as_str().trim_end_matches('/') != HOME.trim_end_matches('/') => {
            parse(&format!("{}/{rest}", session.hub.config().endpoint.as_str().trim_end_matches('/')))
        }
        _ => Ok(url),
    }
}

fn parse(link: &str) -> Result<Url> {
    let url = Url::parse(link).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // The link may be signed: it is not shown.
    url.ok_or_else(|| Failure::new(Exit::Unavailable, "the hub's link for an upload is no address").into())
}

fn payload(hashed: &Hashed<'_>, start: u64, end: u64) -> Result<Payload> {
    match &hashed.file.content {
        Content::Bytes(bytes) => Ok(Payload::plain(bytes[start as usize..end as usize].to_vec())),
        Content::File(path) => {
            use anyhow::Context;
            Payload::file(path, start, end).with_context(|| format!("cannot read `{}`", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_in_the_order_of_their_numbers() {
        let action: Action = serde_json::from_value(json!({
            "href": "https://hub/complete",
            "header": { "chunk_size": "10", "10": "j", "2": "b", "1": "a", "presigned": "x" },
        }))
        .unwrap();
        assert_eq!((action.chunk_size(), action.parts()), (Some(10), vec!["a", "b", "j"]));
        let whole: Action = serde_json::from_value(json!({ "href": "https://s3/x" })).unwrap();
        assert_eq!((whole.chunk_size(), whole.parts().len(), whole.headers().len()), (None, 0, 0));
    }
}
