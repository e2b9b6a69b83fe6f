//! Names on the hub: `hf://` addresses, repositories, and the paths that a hub may make this machine write.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use reqwest::Url;

use crate::error::{Exit, Failure};

const SHAPE: &str = "hf://datasets/OWNER/REPO@REVISION/GLOB";

/// What an `hf://` address means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfUrl {
    pub repo: Repo,
    /// A branch, a tag, a commit or `refs/…`; `main` when the address names none.
    pub revision: String,
    /// A pattern over the repository's paths: `*` stays inside a folder, `**` crosses folders.
    pub glob: String,
}

/// A repository on the hub. Written `datasets/OWNER/NAME` or `models/OWNER/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    pub kind: RepoKind,
    /// `OWNER/NAME`.
    pub id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    Dataset,
    Model,
}

impl RepoKind {
    /// As the hub's API and its cache folders write it.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Dataset => "datasets",
            Self::Model => "models",
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.plural(), self.id)
    }
}

impl FromStr for Repo {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let kind = match parts.first() {
            Some(&"datasets") => RepoKind::Dataset,
            Some(&"models") => RepoKind::Model,
            _ => return Err(not_a_repo(text)),
        };
        match parts[1..] {
            [owner, name] if [owner, name].into_iter().all(is_repo_name) => {
                Ok(Self { kind, id: format!("{owner}/{name}") })
            }
            _ => Err(not_a_repo(text)),
        }
    }
}

/// Reads `hf://datasets/OWNER/REPO@REVISION/GLOB`. Models are `hf://models/OWNER/REPO…` or, as the hub writes them,
/// `hf://OWNER/REPO…`. A revision with a slash is one of `refs/convert/NAME`, `refs/pr/N`, or is written with `%2F`;
/// `~parquet` stands for `refs/convert/parquet`.
///
/// # Errors
/// Names the address and the part that is wrong.
pub fn parse_hf_url(text: &str) -> Result<HfUrl> {
    let wrong = |hint: &str| -> anyhow::Error {
        Failure::new(Exit::Usage, format!("`{text}` is not a hub address: expected `{SHAPE}`")).hint(hint).into()
    };
    let rest = text.strip_prefix("hf://").ok_or_else(|| wrong("it must start with `hf://`"))?;
    let (kind, rest) = match rest.split_once('/') {
        Some(("datasets", rest)) => (RepoKind::Dataset, rest),
        Some(("models", rest)) => (RepoKind::Model, rest),
        Some(("dataset", _)) => return Err(wrong("write `datasets` in the plural")),
        Some(("model", _)) => return Err(wrong("write `models` in the plural")),
        Some(("spaces" | "buckets" | "kernels", _)) => return Err(wrong("only datasets and models can be fetched")),
        Some(_) => (RepoKind::Model, rest),
        None => return Err(wrong("name the owner, the repository and the files")),
    };
    let (owner, rest) = rest.split_once('/').ok_or_else(|| wrong("name the owner and the repository"))?;
    let (name, revision, glob) = match rest.find(['/', '@']) {
        None => (rest, "main".to_owned(), ""),
        Some(at) if rest.as_bytes()[at] == b'/' => (&rest[..at], "main".to_owned(), &rest[at + 1..]),
        Some(at) => {
            let (revision, glob) = split_revision(&rest[at + 1..]);
            (&rest[..at], revision, glob)
        }
    };
    if !is_repo_name(owner) || !is_repo_name(name) {
        return Err(wrong("an owner and a repository are made of letters, digits, `-`, `_` and `.`"));
    }
    if check_path(&revision).is_err() {
        return Err(wrong("after `@` comes a branch, a tag or a commit"));
    }
    if glob.is_empty() || glob.ends_with('/') {
        return Err(wrong("name the files too, such as `/data/*.parquet`"));
    }
    compile(glob)?;
    Ok(HfUrl { repo: Repo { kind, id: format!("{owner}/{name}") }, revision, glob: glob.to_owned() })
}

/// Reads where an upload goes: `hf://datasets/OWNER/REPO[@BRANCH]`, or `hf://models/…`; `main` when it names no branch.
///
/// # Errors
/// Names the address and the part that is wrong.
pub fn parse_hf_target(text: &str) -> Result<(Repo, String)> {
    const SHAPE: &str = "hf://datasets/OWNER/REPO[@BRANCH]` or `hf://models/OWNER/REPO[@BRANCH]";
    let wrong = || Failure::new(Exit::Usage, format!("`{text}` is not where an upload can go: expected `{SHAPE}`"));
    let rest = text.strip_prefix("hf://").ok_or_else(wrong)?;
    let (repo, branch) = rest.split_once('@').unwrap_or((rest, "main"));
    if check_path(branch).is_err() || is_commit(branch) {
        return Err(wrong().hint("after `@` comes a branch").into());
    }
    Ok((repo.trim_end_matches('/').parse().map_err(|_| wrong())?, branch.to_owned()))
}

/// Splits `REVISION/GLOB` behind the `@`.
fn split_revision(text: &str) -> (String, &str) {
    let slashes = if text.starts_with("refs/convert/") || text.starts_with("refs/pr/") { 2 } else { 0 };
    let end = text.match_indices('/').nth(slashes).map_or(text.len(), |(at, _)| at);
    let revision = match &text[..end] {
        "~parquet" => "refs/convert/parquet".to_owned(),
        plain => plain.replace("%2F", "/").replace("%2f", "/"),
    };
    (revision, text[end..].trim_start_matches('/'))
}

/// A matcher over repository paths.
pub(crate) fn compile(glob: &str) -> Result<globset::GlobMatcher> {
    let glob = globset::GlobBuilder::new(glob).literal_separator(true).build().map_err(|error| {
        Failure::new(Exit::Usage, format!("`{glob}` is not a file pattern: {}", error.kind()))
            .hint("use `*`, `**`, `?`, `[a-z]` and `{a,b}`")
    })?;
    Ok(glob.compile_matcher())
}

/// Refuses a path that, below a folder of ours, could name anything outside of it or nothing at all.
///
/// # Errors
/// The path is empty, absolute, has an empty, `.` or `..` component, a backslash or a control character.
pub(super) fn check_path(path: &str) -> Result<()> {
    let odd = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(|c| c == '\\' || c.is_control());
    if path.split('/').any(odd) {
        return Err(Failure::new(Exit::Usage, format!("the path `{}` is refused", path.escape_debug()))
            .hint("a file's path must be relative, without `..`, backslashes or control characters")
            .into());
    }
    Ok(())
}

/// A commit is forty hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that is safe as one component of a file's path: an owner, a repository or an ETag.
pub(super) fn is_repo_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// An address as messages may show it: without a password, and without the query, where signatures live.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for addresses that cannot have a user at all.
    url.set_username("").ok();
    url.set_password(None).ok();
    url.to_string()
}

fn not_a_repo(text: &str) -> anyhow::Error {
    Failure::new(Exit::Usage, format!("`{text}` is not a repository of the hub: expected `datasets/OWNER/NAME`")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::hint_of;

    #[test]
    fn addresses() {
        let check = |text: &str, repo: &str, revision: &str, glob: &str| {
            let url = parse_hf_url(text).unwrap();
            assert_eq!(
                (url.repo.to_string().as_str(), url.revision.as_str(), url.glob.as_str()),
                (repo, revision, glob)
            );
            assert_eq!(url.repo.to_string().parse::<Repo>().unwrap(), url.repo);
        };
        check("hf://datasets/a/b@v1.0/data/*.parquet", "datasets/a/b", "v1.0", "data/*.parquet");
        check("hf://datasets/open-web-math/open-web-math/**", "datasets/open-web-math/open-web-math", "main", "**");
        check("hf://datasets/a/b@~parquet/x/*", "datasets/a/b", "refs/convert/parquet", "x/*");
        check("hf://datasets/a/b@refs/convert/parquet/x/*", "datasets/a/b", "refs/convert/parquet", "x/*");
        check("hf://datasets/a/b@refs/pr/7/x", "datasets/a/b", "refs/pr/7", "x");
        check("hf://datasets/a/b@feature%2Fone/x", "datasets/a/b", "feature/one", "x");
        check("hf://Qwen/Qwen2.5-0.5B@main/*.json", "models/Qwen/Qwen2.5-0.5B", "main", "*.json");
        check("hf://models/a/b/c", "models/a/b", "main", "c");
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        let check = |text: &str, hint: &str| {
            let error = parse_hf_url(text).unwrap_err();
            assert!(error.to_string().contains(text) || text.contains('['), "{error}");
            assert!(hint_of(&error).unwrap_or_default().contains(hint), "{text}: {:?}", hint_of(&error));
        };
        check("https://huggingface.co/x", "start with `hf://`");
        check("hf://dataset/a/b/c", "plural");
        check("hf://spaces/a/b/c", "only datasets and models");
        check("hf://datasets/a/b", "name the files");
        check("hf://datasets/a/b@main", "name the files");
        check("hf://datasets/a/b@main/data/", "name the files");
        check("hf://datasets/a", "owner and the repository");
        check("hf://datasets/a/b c/x", "letters");
        check("hf://datasets/../b/x", "letters");
        check("hf://datasets/a/b@..%2F..%2Fetc/x", "branch");
        check("hf://datasets/a/b@/x", "branch");
        check("hf://datasets/a/b/x[", "use `*`");
    }

    #[test]
    fn a_star_stays_inside_its_folder() {
        let check = |glob: &str, path: &str, expect: bool| {
            assert_eq!(compile(glob).unwrap().is_match(path), expect, "{glob} {path}");
        };
        check("data/*.parquet", "data/a.parquet", true);
        check("data/*.parquet", "data/b/a.parquet", false);
        check("**/*.parquet", "data/b/a.parquet", true);
        check("**/*.parquet", "a.parquet", true);
        check("data/train-0000{0,2}-*", "data/train-00002-of-00114-1429d96b99aec578.parquet", true);
    }

    #[test]
    fn paths_that_leave_their_folder_are_refused() {
        for good in ["a", "data/train-00000.parquet", "a b/é.jsonl", "..a/b..", "refs/convert/parquet"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a//b", "a/", "a\\..\\b", "a\0", "a\nb"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn messages_show_no_secret_of_an_address() {
        let url = Url::parse("https://user:pw@cdn.x/y/z.parquet?X-Signature=s3cret#f").unwrap();
        assert_eq!(shown(&url), "https://cdn.x/y/z.parquet");
    }
}
