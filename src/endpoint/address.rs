//! Where a server is, and what opens its door.

use crate::data::hub::Secret;
use crate::error::{Exit, Failure};
use reqwest::Url;
use reqwest::header::HeaderValue;

/// What is wrong with an address, as one expectation; it does not repeat the address, which may hold a secret.
pub fn check_url(text: &str) -> Result<(), String> {
    base(text).map(|_| ())
}

/// The address below which `/models` and `/completions` lie, `…/v1`.
pub(super) fn base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or("expected an address such as `http://localhost:8000/v1`")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the address holds a user name or password: expected none, and the key in the variable that \
                    `api-key-env` names"
            .into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("expected an address without `?` and `#`, such as `http://localhost:8000/v1`".into());
    }
    let mut url = url;
    let path = url.path().trim_end_matches('/');
    let path = if path.ends_with("/v1") { path.to_owned() } else { format!("{path}/v1") };
    url.set_path(&path);
    Ok(url)
}

/// Whether this is how environment variables are called, and not a key that was put in a name's place.
pub fn is_variable(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    name.bytes().next().is_some_and(letter) && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}

/// The key in an environment variable, read through `lookup`.
///
/// # Errors
/// A [`Failure`] with [`Exit::Usage`] for a variable that is not set, and for a key that no header may carry.
pub(super) fn key(variable: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Secret, Failure> {
    if !is_variable(variable) {
        return Err(Failure::new(Exit::Usage, "`api-key-env` is not the name of an environment variable")
            .hint("put the key into a variable, and name the variable"));
    }
    let key = lookup(variable).map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("the environment variable `{variable}` does not hold an API key"))
            .hint("set it, or remove `api-key-env` for a server that wants no key")
    })?;
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::new(Exit::Usage, format!("the key in `{variable}` has characters that no key has"))
            .hint("copy it again"));
    }
    Ok(Secret::new(key))
}

/// The header that carries a key.
pub(super) fn authorization(key: &Secret) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        .map_err(|_| Failure::new(Exit::Usage, "the API key has characters that no header may carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, expect: &str| assert_eq!(base(text).unwrap().as_str(), expect, "{text}");
        check("http://localhost:8000", "http://localhost:8000/v1");
        check("http://localhost:8000/", "http://localhost:8000/v1");
        check("http://localhost:8000/v1", "http://localhost:8000/v1");
        check("http://localhost:8000/v1/", "http://localhost:8000/v1");
        check("https://host.x/models/judge/v1", "https://host.x/models/judge/v1");
        check("https://host.x/models/judge", "https://host.x/models/judge/v1");
    }

    #[test]
    fn a_secret_in_an_address_is_refused_and_not_repeated() {
        for bad in
            ["localhost:8000", "ftp://x", "http://", "http://me:s3cret@x", "http://s3cret@x", "http://x?k=s3cret"]
        {
            let said = base(bad).unwrap_err();
            assert!(!said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn keys() {
        let lookup = |value: Option<&str>| key("KEY", |_| value.map(str::to_owned));
        assert_eq!(lookup(Some(" sk-1\n")).unwrap().expose(), "sk-1");
        for bad in [None, Some(""), Some("sk 1"), Some("sk-ä")] {
            let failure = lookup(bad).unwrap_err();
            assert!(failure.message.contains("`KEY`") && !failure.message.contains("sk"), "{failure}");
        }
        let failure = key("sk-1", |_| None).unwrap_err();
        assert!(!failure.message.contains("sk-1"), "{failure}");
        assert!(!format!("{:?}", authorization(&Secret::new("sk-1")).unwrap()).contains("sk-1"));
    }
}
