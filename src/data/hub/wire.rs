//! The only place that opens sockets: one HTTP client, its runtime, redirects, and the rule of who sees the token.
//!
//! Everything above this file is plain blocking code. Any thread may call it; none may be a thread of an async runtime.

use std::error::Error;
use std::future::Future;
use std::net::IpAddr;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_RANGE, LOCATION, RANGE,
};
use reqwest::{Client, Method, StatusCode, Url};
use tokio::runtime::{Builder, Handle, Runtime};

use super::address::shown;
use super::payload::Payload;
use super::retry::{STOP_POLL, Stop, Trouble, stopped};
use super::settings::HubConfig;
use crate::error::{Exit, Failure};

const MAX_HOPS: usize = 10;
/// What the hub says about a stored file on the answer that redirects to the storage host.
const KEPT_ON_THE_WAY: [&str; 3] = ["x-repo-commit", "x-linked-etag", "x-linked-size"];

/// Connections to the hub and to other hosts.
pub(super) struct Wire {
    runtime: Option<Runtime>,
    handle: Handle,
    client: Client,
    /// For loopback hosts: no proxy can reach this machine's own.
    direct: Client,
    endpoint: Url,
    authorization: Option<HeaderValue>,
    idle: Duration,
}

/// One question. Redirects to other hosts are followed only under [`Follow::Anywhere`].
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    /// `first-last`, both inclusive; `last` may be open.
    pub(super) range: Option<(u64, Option<u64>)>,
    pub(super) if_range: Option<&'a str>,
    pub(super) follow: Follow,
    /// Sent anew with every attempt.
    pub(super) payload: Option<&'a Payload>,
    /// More header fields, as a host asked for them.
    pub(super) headers: &'a [(HeaderName, HeaderValue)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    SameHost,
    Anywhere,
}

impl<'a> Ask<'a> {
    pub(super) fn get(url: &'a Url) -> Self {
        let follow = Follow::Anywhere;
        Self { method: Method::GET, url, range: None, if_range: None, follow, payload: None, headers: &[] }
    }

    pub(super) fn head(url: &'a Url, follow: Follow) -> Self {
        Self { method: Method::HEAD, follow, ..Self::get(url) }
    }

    /// A request that changes something; no redirect to another host is followed.
    pub(super) fn send(method: Method, url: &'a Url, payload: &'a Payload) -> Self {
        Self { method, follow: Follow::SameHost, payload: Some(payload), ..Self::get(url) }
    }
}

/// The answer: its headers are here, its body is still on the way.
pub(super) struct Reply<'w> {
    wire: &'w Wire,
    /// The address that answered, after redirects.
    pub(super) url: Url,
    /// Where a redirect that was not followed points to.
    pub(super) elsewhere: Option<Url>,
    on_the_way: HeaderMap,
    inner: reqwest::Response,
}

impl Wire {
    pub(super) fn new(config: &HubConfig) -> Result<Self> {
        // A second call finds the first one's provider installed, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("hub")
            .enable_all()
            .build()
            .context("cannot start the network threads")?;
        let mut always = HeaderMap::new();
        // Ranges, sizes and hashes are those of the stored bytes, so nothing may be compressed on the way.
        always.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let client = |proxied: bool| {
            let builder = Client::builder()
                .user_agent(concat!("four-habits/", env!("CARGO_PKG_VERSION")))
                .default_headers(always.clone())
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .connect_timeout(config.connect_timeout);
            let builder = if proxied { builder } else { builder.no_proxy() };
            builder.build().map_err(|error| anyhow::anyhow!("{}", root_cause(&error).0))
        };
        let authorization = match &config.token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
                    Failure::new(Exit::Usage, "the hub's token has characters that no header may carry")
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            client: client(true).context("cannot set up the HTTP client")?,
            direct: client(false).context("cannot set up the HTTP client")?,
            endpoint: config.endpoint.clone(),
            authorization,
            idle: config.idle_timeout,
        })
    }

    /// Asks, following redirects. The token goes to the endpoint's scheme, host and port and to no other, at any hop.
    pub(super) fn send(&self, ask: &Ask<'_>, stop: &Stop) -> Result<Reply<'_>, Trouble> {
        let mut url = ask.url.clone();
        let mut on_the_way = HeaderMap::new();
        for _ in 0..MAX_HOPS {
            let inner = self.hop(ask, &url, stop)?;
            let elsewhere = redirect_target(&url, &inner)?;
            // Only 307 and 308 promise that the same request is meant to be sent there.
            if elsewhere.is_some() && ask.payload.is_some() && !matches!(inner.status().as_u16(), 307 | 308) {
                let message = format!("`{}` redirects what was sent to it", shown(&url));
                return Err(Failure::new(Exit::Unavailable, message).hint("check HF_ENDPOINT").into());
            }
            let leaves = elsewhere.as_ref().is_some_and(|next| next.origin() != url.origin());
            let next = match &elsewhere {
                Some(next) if ask.follow == Follow::Anywhere || !leaves => next.clone(),
                _ => return Ok(Reply { wire: self, url, elsewhere, on_the_way, inner }),
            };
            for name in KEPT_ON_THE_WAY {
                if let Some(value) = inner.headers().get(name) {
                    on_the_way.entry(HeaderName::from_static(name)).or_insert_with(|| value.clone());
                }
            }
            url = next;
        }
        Err(Failure::new(Exit::Unavailable, format!("`{}` redirects more than {MAX_HOPS} times", shown(ask.url)))
            .into())
    }

    fn hop(&self, ask: &Ask<'_>, url: &Url, stop: &Stop) -> Result<reqwest::Response, Trouble> {
        let client = if is_loopback(url) { &self.direct } else { &self.client };
        let mut request = client.request(ask.method.clone(), url.clone());
        if let Some((first, last)) = ask.range {
            let last = last.map(|last| last.to_string()).unwrap_or_default();
            request = request.header(RANGE, format!("bytes={first}-{last}"));
        }
        if let Some(validator) = ask.if_range {
            request = request.header(IF_RANGE, validator);
        }
        if let Some(value) = self.authorization.as_ref().filter(|_| url.origin() == self.endpoint.origin()) {
            request = request.header(AUTHORIZATION, value.clone());
        }
        for (name, value) in ask.headers {
            request = request.header(name, value.clone());
        }
        let sent = Arc::new(AtomicU64::new(0));
        if let Some(payload) = ask.payload {
            request = request.body(payload.body(&sent));
            if let Some(content_type) = payload.content_type {
                request = request.header(CONTENT_TYPE, content_type);
            }
        }
        self.wait(request.send(), url, stop, &sent)
    }

    /// Runs one network step to its end, the idle timeout's, or `stop`'s. A step is not idle while `sent` grows.
    fn wait<T>(
        &self,
        step: impl Future<Output = reqwest::Result<T>>,
        url: &Url,
        stop: &Stop,
        sent: &AtomicU64,
    ) -> Result<T, Trouble> {
        self.handle.block_on(async {
            let mut step = pin!(step);
            let mut idle = pin!(tokio::time::sleep(self.idle));
            let mut seen = 0;
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut step => return outcome.map_err(|error| broken(url, &error)),
                    () = &mut idle => {
                        return Err(Trouble::passing(format!("`{}` was silent for {:?}", host(url), self.idle)));
                    }
                    () = tokio::time::sleep(STOP_POLL) => {
                        if stop.is_set() {
                            return Err(Trouble::Final(stopped(&shown(url))));
                        }
                        let now = sent.load(Ordering::Relaxed);
                        if now != seen {
                            seen = now;
                            idle.as_mut().reset(tokio::time::Instant::now() + self.idle);
                        }
                    }
                }
            }
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A name lookup may hang for a minute in the system's resolver; nobody waits for its answer any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Reply<'_> {
    pub(super) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// A header of the answer, or one that the hub gave on the way to it. `name` is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name).or_else(|| self.on_the_way.get(name))?.to_str().ok()
    }

    /// The next bytes of the body, `None` at its end.
    pub(super) fn chunk(&mut self, stop: &Stop) -> Result<Option<impl Deref<Target = [u8]> + use<>>, Trouble> {
        if stop.is_set() {
            return Err(Trouble::Final(stopped(&shown(&self.url))));
        }
        self.wire.wait(self.inner.chunk(), &self.url, stop, &AtomicU64::new(0))
    }

    /// The whole body, refused beyond `limit` bytes.
    pub(super) fn body(mut self, limit: usize, stop: &Stop) -> Result<Vec<u8>, Trouble> {
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk(stop)? {
            if body.len() + bytes.len() > limit {
                let message = format!("`{}` answers with more than {limit} bytes", shown(&self.url));
                return Err(Failure::new(Exit::Unavailable, message).into());
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }
}

/// `host:port`, for messages.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn redirect_target(from: &Url, response: &reqwest::Response) -> Result<Option<Url>, Trouble> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = target.and_then(|text| from.join(text).ok()).filter(|url| matches!(url.scheme(), "http" | "https"));
    match target {
        Some(url) => Ok(Some(url)),
        None => Err(Failure::new(Exit::Unavailable, format!("`{}` redirects to no address", shown(from))).into()),
    }
}

/// Why a request broke. The text is the innermost cause's, which never holds an address and its signature.
fn broken(url: &Url, error: &reqwest::Error) -> Trouble {
    let (cause, tls) = root_cause(error);
    let host = host(url);
    if error.is_builder() {
        return Failure::new(Exit::Usage, format!("`{}` cannot be asked for: {cause}", shown(url))).into();
    }
    if tls {
        return Failure::new(Exit::Unavailable, format!("`{host}` cannot be trusted: {cause}"))
            .hint("behind a proxy that opens TLS, point SSL_CERT_FILE at its certificate")
            .into();
    }
    if error.is_connect() {
        return Trouble::passing(format!("`{host}` cannot be reached ({cause})"));
    }
    Trouble::passing(format!("the connection to `{host}` broke ({cause})"))
}

/// The innermost cause's text, and whether it is a certificate's fault, which no retry mends.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> (String, bool) {
    let mut cause = error;
    let mut certificate = false;
    loop {
        certificate |= matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)));
        // An I/O error's `source` skips the error that it wraps, which is the one that tells.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source()) {
            Some(inner) => cause = inner,
            None => return (cause.to_string(), certificate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_known() {
        let check = |text: &str, expect: bool| assert_eq!(is_loopback(&Url::parse(text).unwrap()), expect, "{text}");
        check("http://127.0.0.1:80/x", true);
        check("http://localhost:9/x", true);
        check("http://[::1]:9/x", true);
        check("https://huggingface.co/x", false);
        check("http://10.0.0.1/x", false);
    }

    #[test]
    fn a_certificate_is_found_however_deep_it_is_wrapped() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = std::io::Error::other(std::io::Error::other(tls));
        let (text, certificate) = root_cause(&error);
        assert!(certificate && text.contains("UnknownIssuer"), "{text}");
        assert!(!root_cause(&std::io::Error::from_raw_os_error(111)).1);
    }
}
