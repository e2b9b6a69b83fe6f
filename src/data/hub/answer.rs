//! What a host's answer means: its header fields, and a sentence for each refusal.

use std::fmt;
use std::time::Duration;

use reqwest::Url;

use super::RemoteFile;
use super::address::{Repo, shown};
use super::retry::Trouble;
use super::wire::{Reply, host};
use crate::error::{Exit, Failure};

/// What was asked for, as messages name it.
pub(super) enum Subject<'a> {
    Repo(&'a Repo, &'a str),
    File(&'a RemoteFile),
    Url(&'a Url),
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repo(repo, revision) => write!(f, "{repo}@{revision}"),
            Self::File(file) => f.write_str(&file.label()),
            Self::Url(url) => f.write_str(&shown(url)),
        }
    }
}

impl Subject<'_> {
    /// The repository's name, when the hub was asked.
    fn repo(&self) -> Option<String> {
        match self {
            Self::Repo(repo, _) => Some(repo.to_string()),
            Self::File(file) => file.repo.clone(),
            Self::Url(_) => None,
        }
    }
}

/// The trouble that a status other than success means. Ten minutes' patience is for what time mends; a name that is
/// wrong or a door that is closed is told at once.
pub(super) fn trouble(reply: &Reply<'_>, subject: &Subject<'_>, has_token: bool) -> Trouble {
    let host = host(&reply.url);
    let status = reply.status().as_u16();
    match status {
        429 => Trouble::Passing {
            reason: if subject.repo().is_some() {
                "hub rate limit reached".to_owned()
            } else {
                format!("rate limit of `{host}` reached")
            },
            wait: rate_limit_wait(reply.header("ratelimit"), reply.header("retry-after")),
            exit: Exit::TryAgain,
        },
        408 | 500 | 502 | 503 | 504 => Trouble::Passing {
            reason: format!("`{host}` answered {status}"),
            wait: rate_limit_wait(None, reply.header("retry-after")),
            exit: Exit::Unavailable,
        },
        _ => refusal(status, reply, subject, has_token).into(),
    }
}

fn refusal(status: u16, reply: &Reply<'_>, subject: &Subject<'_>, has_token: bool) -> Failure {
    let Some(repo) = subject.repo() else {
        let host = host(&reply.url);
        let hint = match status {
            401 | 403 => "check the address; a signed link expires",
            404 | 410 => "check the address for a slip of the pen",
            _ => "check that the address opens elsewhere, with curl for instance",
        };
        return Failure::new(Exit::Usage, format!("`{host}` refuses `{subject}` (status {status})")).hint(hint);
    };
    let sign_in = if has_token {
        "the token in use may be expired, or may not read this repository"
    } else {
        "if it is private or gated, set HF_TOKEN to a token that may read it"
    };
    let fail = |message: String, hint: String| Failure::new(Exit::Usage, message).hint(hint);
    match (reply.header("x-error-code").unwrap_or_default(), status) {
        ("GatedRepo", _) => {
            let page = reply.url.join(&format!("/{}", repo.trim_start_matches("models/")));
            let page = page.map(|url| shown(&url)).unwrap_or_default();
            fail(format!("`{repo}` is gated"), format!("accept its terms at {page}, and {sign_in}"))
        }
        ("RevisionNotFound", _) => fail(
            format!("`{subject}` does not exist: the repository has no such revision"),
            "after `@` comes a branch, a tag or a commit; is it misspelt?".to_owned(),
        ),
        ("EntryNotFound", _) => fail(
            format!("`{subject}` does not exist in its repository"),
            "list the repository's files again: remove the run's plan, or pin another revision".to_owned(),
        ),
        ("RepoNotFound", _) | (_, 401) => fail(
            format!("the hub shows no repository `{repo}` (status {status})"),
            format!("check its spelling; {sign_in}"),
        ),
        (_, 403) => fail(format!("the hub refuses access to `{subject}` (status 403)"), sign_in.to_owned()),
        (_, 404) => fail(
            format!("`{subject}` does not exist (status 404)"),
            "check the spelling of the repository, of the revision after `@` and of the file".to_owned(),
        ),
        _ => fail(
            format!("the hub answered {status} for `{subject}`"),
            "check HF_ENDPOINT: a mirror may not serve this".to_owned(),
        ),
    }
}

/// How long a limited client should wait: the `RateLimit` window that is used up, else `Retry-After` in seconds.
fn rate_limit_wait(rate_limit: Option<&str>, retry_after: Option<&str>) -> Option<Duration> {
    let spent = rate_limit.unwrap_or_default().split(',').filter_map(|limit| {
        let field = |name: &str| {
            limit.split(';').filter_map(|field| field.trim().split_once('=')).find(|(key, _)| key.trim() == name)
        };
        let number = |name: &str| field(name)?.1.trim().parse::<u64>().ok();
        (number("r")? == 0).then(|| number("t")).flatten()
    });
    let seconds = spent.max().or_else(|| retry_after?.trim().parse().ok())?;
    Some(Duration::from_secs(seconds))
}

/// `Content-Range: bytes FIRST-LAST/TOTAL`, the total when it is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) total: Option<u64>,
}

impl ContentRange {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = match total.trim() {
            "*" => None,
            number => Some(number.parse().ok()?),
        };
        Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()?, total })
    }
}

/// The address of the next page in a `Link` header.
pub(super) fn next_page(base: &Url, link: &str) -> Option<Url> {
    link.split(',').find_map(|part| {
        let (target, rest) = part.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = rest.split(';').any(|field| matches!(field.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then(|| base.join(target).ok()).flatten()
    })
}

/// An ETag without its quotes and weakness mark, as the cache's file names have it.
pub(super) fn bare_etag(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limits() {
        let check = |limit: Option<&str>, after: Option<&str>, expect: Option<u64>| {
            assert_eq!(rate_limit_wait(limit, after), expect.map(Duration::from_secs), "{limit:?} {after:?}");
        };
        check(Some("\"resolvers\";r=0;t=55"), None, Some(55));
        check(Some("\"resolvers\";r=0;t=55"), Some("7"), Some(55));
        check(Some("\"api\";r=12;t=55"), Some("7"), Some(7));
        check(Some("\"api\"; r = 0 ; t = 20, \"resolvers\";r=0;t=30"), None, Some(30));
        check(Some("nonsense"), None, None);
        check(None, Some("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        check(None, None, None);
    }

    #[test]
    fn content_ranges() {
        let check = |text: &str, expect: Option<(u64, u64, Option<u64>)>| {
            let expect = expect.map(|(first, last, total)| ContentRange { first, last, total });
            assert_eq!(ContentRange::parse(text), expect, "{text}");
        };
        check("bytes 0-99/1000", Some((0, 99, Some(1000))));
        check("bytes 5-6/*", Some((5, 6, None)));
        check("bytes */1000", None);
        check("items 0-1/2", None);
    }

    #[test]
    fn pages() {
        let base = Url::parse("https://hub.x/api/tree").unwrap();
        let check = |link: &str, expect: Option<&str>| {
            assert_eq!(next_page(&base, link).map(|url| url.to_string()).as_deref(), expect, "{link}");
        };
        check("<https://hub.x/api/tree?cursor=b>; rel=\"next\"", Some("https://hub.x/api/tree?cursor=b"));
        check("</api/tree?cursor=c>; rel=next", Some("https://hub.x/api/tree?cursor=c"));
        check("<https://a/>; rel=\"prev\", <https://b/>; rel=\"next\"", Some("https://b/"));
        check("<https://a/>; rel=\"first\"", None);
    }

    #[test]
    fn etags() {
        for etag in ["abc", "\"abc\"", "W/\"abc\""] {
            assert_eq!(bare_etag(etag), "abc");
        }
    }
}
