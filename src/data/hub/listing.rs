//! What a repository holds: a revision becomes a commit, the commit a list of files.
//!
//! A commit never changes, so its list is asked for once and then read from the cache.

use std::collections::BTreeMap;

use anyhow::Result;
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::address::{Repo, RepoKind, check_path, compile, is_commit, is_sha256};
use super::answer::{Subject, next_page, trouble};
use super::cache::{RepoCache, Tree, TreeFile};
use super::retry::Trouble;
use super::wire::{Ask, host};
use super::{Hub, Listing, RemoteFile};
use crate::error::{Exit, Failure};

/// A page of a thousand files is about 300 kB.
const LARGEST_PAGE: usize = 64 << 20;
/// The hub refuses repositories of more than 100,000 files; a mirror that pages in circles ends here.
const MOST_PAGES: usize = 10_000;

#[derive(Deserialize)]
struct RevisionInfo {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    r#type: String,
    path: String,
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<LfsInfo>,
    #[serde(rename = "xetHash")]
    xet_hash: Option<String>,
}

#[derive(Deserialize)]
struct LfsInfo {
    oid: String,
    size: u64,
}

/// See [`Hub::list`].
pub(super) fn list(hub: &Hub, repo: &Repo, revision: &str, glob: &str) -> Result<Listing> {
    check_path(revision)?;
    let matcher = compile(glob)?;
    let cache = RepoCache::new(&hub.config().cache_dir, repo);
    let commit = commit_of(hub, &cache, repo, revision)?;
    let tree = tree_of(hub, &cache, repo, &commit)?;

    let matching = tree.files.iter().filter(|(path, _)| matcher.is_match(path));
    let files = matching.map(|(path, file)| remote_file(repo, &commit, path, file)).collect::<Result<Vec<_>>>()?;
    if files.is_empty() {
        let some: Vec<String> = tree.files.keys().take(3).map(|path| format!("`{path}`")).collect();
        let holds = if some.is_empty() { "no file".to_owned() } else { some.join(", ") };
        let message = format!("no file of `{repo}@{revision}` matches `{glob}`");
        return Err(Failure::new(Exit::Usage, message)
            .hint(format!("the repository holds {holds}, for example"))
            .into());
    }
    Ok(Listing { commit, files })
}

fn commit_of(hub: &Hub, cache: &RepoCache, repo: &Repo, revision: &str) -> Result<String> {
    if is_commit(revision) {
        return Ok(revision.to_owned());
    }
    if hub.config().offline {
        return cache.read_ref(revision).ok_or_else(|| not_listed(repo, revision));
    }
    let mut url = api(hub, repo, &["revision", revision])?;
    url.set_query(Some("expand=sha"));
    let subject = Subject::Repo(repo, revision);
    let info: RevisionInfo = hub.patience(subject.to_string()).until(|_| Ok(get_json(hub, &url, &subject)?.0))?;
    if !is_commit(&info.sha) {
        return Err(not_a_hub(&url).into());
    }
    if let Err(error) = cache.write_ref(revision, &info.sha) {
        hub.notice(&format!("{error:#}; an offline run will not know `{subject}`"));
    }
    Ok(info.sha)
}

fn tree_of(hub: &Hub, cache: &RepoCache, repo: &Repo, commit: &str) -> Result<Tree> {
    if let Some(tree) = cache.read_tree(commit) {
        return Ok(tree);
    }
    if hub.config().offline {
        return Err(not_listed(repo, commit));
    }
    let subject = Subject::Repo(repo, commit);
    let mut files = BTreeMap::new();
    let mut url = api(hub, repo, &["tree", commit])?;
    url.set_query(Some("recursive=true&expand=false"));
    for _ in 0..MOST_PAGES {
        let (entries, next): (Vec<TreeEntry>, _) =
            hub.patience(subject.to_string()).until(|_| get_json(hub, &url, &subject))?;
        files.extend(entries.into_iter().filter(|entry| entry.r#type == "file").map(tree_file));
        match next {
            Some(next) => url = next,
            None => {
                let tree = Tree::new(files);
                if let Err(error) = cache.write_tree(commit, &tree) {
                    hub.notice(&format!("{error:#}; an offline run will not know `{subject}`"));
                }
                return Ok(tree);
            }
        }
    }
    Err(Failure::new(Exit::Unavailable, format!("the list of `{subject}` has no end")).into())
}

fn tree_file(entry: TreeEntry) -> (String, TreeFile) {
    let lfs_sha256 = entry.lfs.as_ref().map(|lfs| lfs.oid.trim_start_matches("sha256:").to_owned());
    let file = TreeFile {
        size: entry.size,
        blob_id: entry.oid,
        lfs_sha256,
        lfs_size: entry.lfs.map(|lfs| lfs.size),
        xet_hash: entry.xet_hash.filter(|hash| is_sha256(hash)),
    };
    (entry.path, file)
}

fn remote_file(repo: &Repo, commit: &str, path: &str, file: &TreeFile) -> Result<RemoteFile> {
    check_path(path)?;
    let sha256 = file.lfs_sha256.clone().filter(|hash| is_sha256(hash));
    let name = match repo.kind {
        RepoKind::Dataset => repo.to_string(),
        RepoKind::Model => repo.id.clone(),
    };
    Ok(RemoteFile {
        url: format!("hf://{name}@{commit}/{path}"),
        path: path.to_owned(),
        size: file.lfs_size.unwrap_or(file.size),
        etag: sha256.clone().unwrap_or_else(|| file.blob_id.clone()),
        sha256,
        commit: Some(commit.to_owned()),
        repo: Some(repo.to_string()),
    })
}

/// `ENDPOINT/api/datasets/OWNER/NAME/…`, each part percent-encoded.
fn api(hub: &Hub, repo: &Repo, parts: &[&str]) -> Result<Url> {
    hub.endpoint_url(["api", repo.kind.plural()].into_iter().chain(repo.id.split('/')).chain(parts.iter().copied()))
}

fn get_json<T: DeserializeOwned>(hub: &Hub, url: &Url, subject: &Subject<'_>) -> Result<(T, Option<Url>), Trouble> {
    let reply = hub.wire()?.send(&Ask::get(url), hub.stop())?;
    if !reply.status().is_success() {
        return Err(trouble(&reply, subject, hub.config().token.is_some()));
    }
    let next = reply.header("link").and_then(|link| next_page(&reply.url, link));
    let body = reply.body(LARGEST_PAGE, hub.stop())?;
    let value = serde_json::from_slice(&body).map_err(|_| not_a_hub(url))?;
    Ok((value, next))
}

fn not_a_hub(url: &Url) -> Failure {
    Failure::new(Exit::Unavailable, format!("`{}` does not answer as the hub does", host(url)))
        .hint("check HF_ENDPOINT, and that no sign-in page of a network stands in between")
}

fn not_listed(repo: &Repo, revision: &str) -> anyhow::Error {
    Failure::new(Exit::Unavailable, format!("`{repo}@{revision}` is not in the cache, and this run is offline"))
        .hint("run `pipeline plan` once with HF_HUB_OFFLINE unset; a listing is kept from then on")
        .into()
}
