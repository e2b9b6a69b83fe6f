//! Objects in S3, and in servers that speak its protocol: listing, signed links to read by, and files written once.
//!
//! Settings come from the variables of every AWS client: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
//! `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`. Reading goes through [`super::hub`], which gets a signed link for
//! each request and treats it as any other address: ranges, resume and patience are the same. Writing is conditional:
//! no object is ever replaced, and the list of all files, [`LIST`], is created last. Who finds it finds everything.
//!
//! The edges: no profiles of `~/.aws`, no anonymous reading, no deletion, and no run folder here: locks, links and
//! appended journals are what object stores do not have.

use super::hub::{Content, Outgoing, RemoteFile, compile_glob};
use crate::error::{Exit, Failure};
use anyhow::{Context, Result};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::signer::Signer;
use object_store::{
    Attribute, Attributes, ClientOptions, Error, GetOptions, MultipartUpload, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions,
};
use reqwest::{Method, Url};
use serde_json::json;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// The list of an export's files with their sizes and hashes.
pub const LIST: &str = "_files.json";
/// How long a link may be used: a server looks at it when a request begins.
const LINK_LIFE: Duration = Duration::from_secs(3600);
/// Larger files go in parts of this size.
const PART: u64 = 16 << 20;
const REFUSED: &str = "the credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY may not do this";
/// The metadata that names an object's SHA-256.
const SHA256: &str = "sha256";

/// One bucket.
pub struct Objects {
    store: AmazonS3,
    bucket: String,
    runtime: Runtime,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub files: usize,
    pub bytes: u64,
    /// Files that were there already, with equal content.
    pub unchanged: usize,
}

/// Cuts `s3://BUCKET/KEY` into its parts; the key may be empty.
///
/// # Errors
/// It is something else.
pub fn parse(text: &str) -> Result<(String, String)> {
    let (bucket, key) =
        text.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, ""))).unwrap_or_default();
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(is_name) {
        return Err(Failure::new(Exit::Usage, format!("`{text}` is not an address in S3"))
            .hint("expected `s3://BUCKET/KEY`, in which a key may be a pattern such as `data/*.parquet`")
            .into());
    }
    Ok((bucket.to_owned(), key.trim_matches('/').to_owned()))
}

impl Objects {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// There are no credentials, or settings that make no sense.
    pub fn open(bucket: &str) -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let elsewhere = [
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_METADATA_ENDPOINT",
        ];
        let has_keys = set("AWS_ACCESS_KEY_ID") && set("AWS_SECRET_ACCESS_KEY");
        if !has_keys && !elsewhere.iter().any(|name| set(name)) {
            return Err(Failure::new(Exit::Usage, format!("there are no credentials for `s3://{bucket}`"))
                .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; profiles of `~/.aws` are not read")
                .into());
        }
        // A second call finds the first one's provider installed, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
            .iter()
            .find_map(|name| std::env::var(name).ok());
        let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let options = ClientOptions::new()
            .with_allow_http(is_plain)
            .with_connect_timeout(Duration::from_secs(10))
            // One part, or one answer.
            .with_timeout(Duration::from_secs(300));
        let store = AmazonS3Builder::from_env().with_bucket_name(bucket).with_client_options(options).build();
        let store = store.map_err(|error| {
            Failure::new(Exit::Usage, format!("`s3://{bucket}` cannot be opened: {error}"))
                .hint("look at the AWS_* variables")
        })?;
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("s3").enable_all().build();
        Ok(Self { store, bucket: bucket.to_owned(), runtime: runtime.context("cannot start the network thread")? })
    }

    /// The objects whose key matches `glob`, sorted: `*` stays inside a folder, `**` crosses folders.
    ///
    /// # Errors
    /// Nothing matches, or the server refuses or stays away.
    pub fn list(&self, glob: &str) -> Result<Vec<RemoteFile>> {
        let matcher = compile_glob(glob)?;
        let fixed = &glob[..glob.find(['*', '?', '[', '{']).unwrap_or(glob.len())];
        let start = fixed.rsplit_once('/').map_or("", |(folder, _)| folder);
        let deeper = glob.get(start.len()..).unwrap_or_default().trim_start_matches('/').contains('/');
        let mut folders = vec![Key::from(start)];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            let found = self.wait(self.store.list_with_delimiter(Some(&folder)))?;
            if deeper || glob.contains("**") {
                folders.extend(found.common_prefixes);
            }
            files.extend(found.objects.into_iter().filter(|object| matcher.is_match(object.location.as_ref())));
        }
        files.sort_by(|a, b| a.location.cmp(&b.location));
        if files.is_empty() {
            let message = format!("no object of `s3://{}` matches `{glob}`", self.bucket);
            return Err(Failure::new(Exit::Usage, message).hint("check bucket, folder and pattern").into());
        }
        Ok(files
            .into_iter()
            .map(|object| RemoteFile {
                url: format!("s3://{}/{}", self.bucket, object.location),
                path: object.location.to_string(),
                size: object.size,
                etag: object.e_tag.unwrap_or_default(),
                sha256: None,
                commit: None,
                repo: None,
            })
            .collect())
    }

    /// An address that anybody may read the object by, for an hour.
    ///
    /// # Errors
    /// The credentials cannot be had.
    pub fn link(&self, key: &str) -> Result<Url> {
        self.wait(self.store.signed_url(Method::GET, &Key::from(key), LINK_LIFE))
    }

    /// Writes files below `prefix`, then their list. Objects that are there with equal content stay.
    ///
    /// # Errors
    /// Another export is there, or another object under one of the names; a file is not what it was; the server refuses
    /// or stays away. What was written until then counts on the next attempt.
    pub fn write(&self, prefix: &str, files: &[Outgoing], said: &dyn Fn(&str)) -> Result<Written> {
        let key = |name: &str| if prefix.is_empty() { Key::from(name) } else { Key::from(format!("{prefix}/{name}")) };
        let mut listed = Vec::new();
        for file in files {
            listed.push((file, file.hash()?));
        }
        let entries =
            listed.iter().map(|(file, sha256)| json!({ "path": file.path, "bytes": file.size, "sha256": sha256 }));
        let list = serde_json::to_vec_pretty(&json!({ "format": 1, "files": entries.collect::<Vec<_>>() }))?;
        let mut written = Written { files: 0, bytes: 0, unchanged: 0 };
        if self.check_list(&key(LIST), &list)? {
            written.unchanged = files.len();
            return Ok(written);
        }
        for (file, sha256) in &listed {
            if self.write_one(&key(&file.path), file, sha256)? {
                written.files += 1;
                written.bytes += file.size;
                said(&format!("stored `{}` ({} bytes)", file.path, file.size));
            } else {
                written.unchanged += 1;
            }
        }
        // The list makes the rest count. Somebody else may have written the same one in the meantime.
        if !self.put_new(&key(LIST), list.clone(), Attributes::new())? {
            self.check_list(&key(LIST), &list)?;
        }
        Ok(written)
    }

    /// Whether the list is there.
    fn check_list(&self, key: &Key, expected: &[u8]) -> Result<bool> {
        let found = self.runtime.block_on(async {
            let got = self.store.get_opts(key, GetOptions::default()).await?;
            got.bytes().await
        });
        match found {
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failure(&error)),
            Ok(bytes) if bytes == expected => Ok(true),
            Ok(_) => Err(Failure::new(Exit::Usage, format!("`s3://{}/{key}` lists another export", self.bucket))
                .hint("choose another prefix: nothing is replaced")
                .into()),
        }
    }

    /// Writes one file; false if it was there.
    fn write_one(&self, key: &Key, file: &Outgoing, sha256: &str) -> Result<bool> {
        let attributes = Attributes::from_iter([(Attribute::Metadata(SHA256.into()), sha256.to_owned())]);
        if file.size <= PART {
            return Ok(self.put_new(key, file.content.read()?, attributes)? || self.check_object(key, file, sha256)?);
        }
        if !self.check_absent(key, file, sha256)? {
            return Ok(false);
        }
        let Content::File(path) = &file.content else {
            return Err(Failure::new(Exit::Failed, format!("`{}` is too large for memory", file.path)).into());
        };
        let local = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let mut upload = self.wait(self.store.put_multipart_opts(key, options))?;
        let sent = self.send_parts(&mut *upload, &local, file);
        if sent.is_err() {
            // What is left of it costs money until the bucket's own rules remove it; the failure is what counts.
            self.runtime.block_on(upload.abort()).ok();
        }
        sent.map(|()| true)
    }

    fn send_parts(&self, upload: &mut dyn MultipartUpload, local: &File, file: &Outgoing) -> Result<()> {
        let mut start = 0;
        while start < file.size {
            let mut part = vec![0; PART.min(file.size - start) as usize];
            local.read_exact_at(&mut part, start).with_context(|| format!("cannot read `{}`", file.path))?;
            start += part.len() as u64;
            self.wait(upload.put_part(part.into()))?;
        }
        self.wait(upload.complete())?;
        Ok(())
    }

    /// Creates an object unless it exists; false if it does.
    fn put_new(&self, key: &Key, bytes: Vec<u8>, attributes: Attributes) -> Result<bool> {
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        match self.runtime.block_on(self.store.put_opts(key, bytes.into(), options)) {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// False when the object that is there has the file's content.
    fn check_object(&self, key: &Key, file: &Outgoing, sha256: &str) -> Result<bool> {
        let there = self.check_absent(key, file, sha256)?;
        anyhow::ensure!(!there, "`s3://{}/{key}` was there and is gone", self.bucket);
        Ok(false)
    }

    /// True when there is no such object, false when there is one with the file's content.
    fn check_absent(&self, key: &Key, file: &Outgoing, sha256: &str) -> Result<bool> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.runtime.block_on(self.store.get_opts(key, options)) {
            Err(Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(self.failure(&error)),
            Ok(found) => {
                let hash = found.attributes.get(&Attribute::Metadata(SHA256.into()));
                if found.meta.size == file.size && hash.is_some_and(|hash| hash.as_ref() == sha256) {
                    return Ok(false);
                }
                Err(Failure::new(Exit::Usage, format!("`s3://{}/{key}` is there, with other content", self.bucket))
                    .hint("choose another prefix: nothing is replaced")
                    .into())
            }
        }
    }

    fn wait<T>(&self, step: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        self.runtime.block_on(step).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &Error) -> anyhow::Error {
        // Of a refused listing the library keeps the words alone.
        let is_refused = ["status code: 401", "status code: 403"].iter().any(|words| error.to_string().contains(words));
        let (exit, hint) = match error {
            Error::NotFound { .. } => (Exit::Usage, "check bucket and key, AWS_REGION and AWS_ENDPOINT_URL"),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => (Exit::Usage, REFUSED),
            Error::Generic { .. } if is_refused => (Exit::Usage, REFUSED),
            _ => (Exit::Unavailable, "run it again when the server is back; what is there is kept"),
        };
        let text: String = error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
        Failure::new(exit, format!("`s3://{}` failed: {text}", self.bucket)).hint(hint).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, expect: Option<(&str, &str)>| {
            let found = parse(text).ok();
            assert_eq!(found.as_ref().map(|(bucket, key)| (bucket.as_str(), key.as_str())), expect, "{text}");
        };
        check("s3://bucket/data/*.parquet", Some(("bucket", "data/*.parquet")));
        check("s3://my.bucket-1/prefix/", Some(("my.bucket-1", "prefix")));
        check("s3://bucket", Some(("bucket", "")));
        check("s3://", None);
        check("s3:///key", None);
        check("s3://user:pass@bucket/key", None);
        check("bucket/key", None);
    }
}
