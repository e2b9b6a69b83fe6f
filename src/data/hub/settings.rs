//! Where the hub is, who asks, and where its files are kept: the environment variables of every Hugging Face client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Url;

use super::secret::Secret;
use crate::error::{Exit, Failure};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How this process talks to the hub and to plain HTTP hosts.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The hub's base address. The token is sent to this scheme, host and port, and to no other.
    pub endpoint: Url,
    pub token: Option<Secret>,
    /// The folder that holds `datasets--OWNER--NAME` folders (`$HF_HUB_CACHE`).
    pub cache_dir: PathBuf,
    /// Open no socket: serve what the cache holds and refuse the rest.
    pub offline: bool,
    /// How long one file or request may go without progress before it fails.
    pub retry_budget: Duration,
    pub connect_timeout: Duration,
    /// The longest silence of a host, before its answer or inside it.
    pub idle_timeout: Duration,
}

impl HubConfig {
    /// A hub at `endpoint` with its files under `cache_dir`: no token, online, ten minutes of patience.
    ///
    /// # Errors
    /// When `endpoint` is not an `http(s)://` address.
    pub fn new(endpoint: &str, cache_dir: impl Into<PathBuf>) -> Result<Self> {
        let endpoint = Url::parse(endpoint.trim_end_matches('/'))
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| {
                Failure::new(Exit::Usage, format!("the hub's endpoint `{endpoint}` is not an http(s) address"))
                    .hint(format!("set HF_ENDPOINT to an address such as `{DEFAULT_ENDPOINT}`, or unset it"))
            })?;
        Ok(Self {
            endpoint,
            token: None,
            cache_dir: cache_dir.into(),
            offline: false,
            retry_budget: Duration::from_secs(10 * 60),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
        })
    }

    /// Reads the variables that `huggingface_hub` documents, through `lookup` (`|name| std::env::var(name).ok()`):
    /// `HF_ENDPOINT`; `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `$HF_HOME/token`, and none of them under
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_HUB_CACHE`, else `$HF_HOME/hub`, where `HF_HOME` is
    /// `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`; `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// When the endpoint is no address, the token no header value, or no home folder is known.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let home = set("HOME").map(PathBuf::from);
        let folder = |name: &str| set(name).map(|value| expand_home(&value, home.as_deref()));

        let hf_home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache/huggingface")));
        let need_home = || {
            Failure::new(Exit::Usage, "there is no folder for the hub's cache: neither `HF_HOME` nor `HOME` is set")
                .hint("set HF_HOME to a folder with room for the shards")
        };
        let cache_dir = match folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")) {
            Some(dir) => dir,
            None => hf_home.as_ref().ok_or_else(need_home)?.join("hub"),
        };

        let token = if truthy(set("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
            None
        } else if let Some(token) = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")) {
            checked_token(&token, "HF_TOKEN")?
        } else {
            match folder("HF_TOKEN_PATH").or_else(|| hf_home.map(|dir| dir.join("token"))) {
                Some(path) => read_token(&path)?,
                None => None,
            }
        };

        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Ok(Self { token, offline: truthy(set("HF_HUB_OFFLINE")), ..Self::new(endpoint.trim(), cache_dir)? })
    }
}

/// The values that `huggingface_hub` takes for true.
fn truthy(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

fn expand_home(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(path),
    }
}

fn read_token(path: &Path) -> Result<Option<Secret>> {
    match std::fs::read_to_string(path) {
        Ok(text) => checked_token(&text, &path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the hub's token from `{}`", path.display())),
    }
}

/// A token without the line end that files and shells leave on it; an empty one is none.
fn checked_token(text: &str, origin: &str) -> Result<Option<Secret>> {
    let token = text.trim();
    if token.is_empty() {
        return Ok(None);
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::new(Exit::Usage, format!("the token in `{origin}` has characters that no token has"))
            .hint("copy it again from the hub's settings page: it starts with `hf_`")
            .into());
    }
    Ok(Some(Secret::new(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<HubConfig> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        HubConfig::from_env(move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn the_cache_folder_follows_the_clients_rules() {
        let check = |pairs: &[(&str, &str)], expect: &str| {
            assert_eq!(from(pairs).unwrap().cache_dir, PathBuf::from(expect), "{pairs:?}");
        };
        check(&[("HOME", "/h")], "/h/.cache/huggingface/hub");
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")], "/h/hf/hub");
        check(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c");
        check(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", " ")], "/hf/hub");
        assert!(from(&[]).unwrap_err().to_string().contains("`HF_HOME`"));
    }

    #[test]
    fn the_token_comes_from_the_first_place_that_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::io::Write::write_all(
                &mut std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap(),
                text.as_bytes(),
            )
            .unwrap();
            path.to_str().unwrap().to_owned()
        };
        let home = dir.path().to_str().unwrap().to_owned();
        file("token", "from-home\n");
        let other = file("other", "from-path\n");

        let check = |more: &[(&str, &str)], expect: Option<&str>| {
            let mut pairs = vec![("HF_HOME", home.as_str())];
            pairs.extend(more);
            assert_eq!(from(&pairs).unwrap().token.as_ref().map(Secret::expose), expect, "{more:?}");
        };
        check(&[], Some("from-home"));
        check(&[("HF_TOKEN_PATH", &other)], Some("from-path"));
        check(&[("HF_TOKEN_PATH", "/nowhere")], None);
        check(&[("HF_TOKEN_PATH", &other), ("HF_TOKEN", "from-env\r\n")], Some("from-env"));
        check(&[("HF_TOKEN", "from-env"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None);

        let error = from(&[("HF_HOME", &home), ("HF_TOKEN", "hf_se cret")]).unwrap_err();
        assert!(!format!("{error:?}").contains("cret"), "{error:?}");
    }

    #[test]
    fn endpoint_and_offline() {
        let config = from(&[("HOME", "/h")]).unwrap();
        assert_eq!((config.endpoint.as_str(), config.offline), ("https://huggingface.co/", false));
        let config = from(&[("HOME", "/h"), ("HF_ENDPOINT", "http://mirror:8080/hf/"), ("HF_HUB_OFFLINE", "yes")]);
        let config = config.unwrap();
        assert_eq!((config.endpoint.as_str(), config.offline), ("http://mirror:8080/hf", true));
        for bad in ["huggingface.co", "ftp://x", "https://"] {
            assert!(from(&[("HOME", "/h"), ("HF_ENDPOINT", bad)]).is_err(), "{bad}");
        }
    }
}
