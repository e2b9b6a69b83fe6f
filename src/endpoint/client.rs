//! The only place of this module that opens sockets: requests with deadlines, retries and a bound on how many are under way.

use super::EndpointSpec;
use super::address;
use super::patience::{Patience, Trouble};
use crate::data::hub::{Notice, Secret, Stop, is_loopback, root_cause};
use crate::error::{Exit, Failure};
use anyhow::Context;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use serde_json::Value;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How late a waiting request may notice that it should stop.
const STOP_POLL: Duration = Duration::from_millis(100);
/// Troubles that pass are told so often.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// No answer that is asked for here comes near this.
const LONGEST_ANSWER: usize = 64 << 20;
/// So much of a server's own words is quoted.
const LONGEST_QUOTE: usize = 300;

/// A request that the server refuses for what is in it, such as a prompt beyond the context. Another may be fine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejected {
    pub status: u16,
    /// The server's own words.
    pub message: String,
}

/// What became of one list of requests: what was read from each answer.
pub(super) type Answers<T> = Vec<Result<T, Rejected>>;

/// A connection to one server, for any thread that is none of an async runtime.
pub(super) struct Client {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    http: reqwest::Client,
    base: Url,
    key: Option<Secret>,
    deadline: Duration,
    patience: Patience,
    concurrency: usize,
    notice: Notice,
    stop: Stop,
    /// When a trouble was last told.
    told: Mutex<Option<Instant>>,
}

impl Client {
    pub(super) fn new(spec: &EndpointSpec, notice: &Notice, stop: &Stop) -> anyhow::Result<Self> {
        let base = address::base(&spec.url)
            .map_err(|expectation| Failure::new(Exit::Usage, format!("the endpoint's `url`: {expectation}")))?;
        let key = spec.api_key_env.as_deref().map(|name| address::key(name, |name| std::env::var(name).ok()));
        let key = key.transpose()?;
        // A second call finds the first one's provider installed, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            headers.insert(AUTHORIZATION, address::authorization(key)?);
        }
        let builder = reqwest::Client::builder()
            .user_agent(concat!("four-habits/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_secs(10).min(spec.deadline));
        // No proxy can reach this machine's own servers.
        let builder = if is_loopback(&base) { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| anyhow::anyhow!("{}", root_cause(&error).0));
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("endpoint").enable_all().build();
        let shared = Shared {
            http: http.context("cannot set up the HTTP client")?,
            base,
            key,
            deadline: spec.deadline,
            patience: Patience::new(spec.patience),
            concurrency: spec.concurrency.max(1),
            notice: Arc::clone(notice),
            stop: stop.clone(),
            told: Mutex::new(None),
        };
        Ok(Self { shared: Arc::new(shared), runtime: Some(runtime.context("cannot start the network threads")?) })
    }

    pub(super) fn concurrency(&self) -> usize {
        self.shared.concurrency
    }

    pub(super) fn notice(&self, message: &str) {
        (self.shared.notice)(message);
    }

    /// The address of a path below `/v1`, for messages.
    pub(super) fn url(&self, path: &str) -> String {
        self.shared.url(path).to_string()
    }

    /// Asks for a path below `/v1` with GET.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Result<Value, Rejected>> {
        self.block_on(self.shared.ask(path, None))
    }

    /// Sends a body to a path below `/v1`.
    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Result<Value, Rejected>> {
        self.block_on(self.shared.ask(path, Some(body)))
    }

    /// Sends lists of bodies, each made when its turn comes. Those of one list go one after the other, so that the server finds
    /// the beginning that they share in its cache; lists go side by side, as many as the concurrency allows. Answers have the
    /// order of the bodies, and only what `read` makes of them is kept. After a rejection the rest of its list is not asked.
    pub(super) fn post_lists<T: Send + 'static>(
        &self,
        path: &'static str,
        lists: impl Iterator<Item = anyhow::Result<Vec<Value>>>,
        read: fn(Value) -> T,
    ) -> anyhow::Result<Vec<Answers<T>>> {
        let room = Arc::new(Semaphore::new(self.shared.concurrency));
        self.block_on(async {
            let mut tasks = JoinSet::new();
            let mut answers = Vec::new();
            for (index, list) in lists.enumerate() {
                let list = list?;
                answers.push(Answers::new());
                // Waiting here and not in the task keeps the lists in order.
                let place = Arc::clone(&room).acquire_owned().await?;
                while let Some(done) = tasks.try_join_next() {
                    keep(&mut answers, done??);
                }
                let shared = Arc::clone(&self.shared);
                tasks.spawn(async move {
                    let _place = place;
                    shared.ask_list(path, &list, read).await.map(|answers| (index, answers))
                });
            }
            // The first error ends the others: dropping the set aborts them.
            while let Some(done) = tasks.join_next().await {
                keep(&mut answers, done??);
            }
            Ok(answers)
        })
    }

    fn block_on<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.runtime.as_ref().context("the network threads have ended")?.block_on(work)
    }
}

fn keep<T>(answers: &mut [Answers<T>], (index, list): (usize, Answers<T>)) {
    if let Some(place) = answers.get_mut(index) {
        *place = list;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A name lookup may hang for a minute in the system's resolver; nobody waits for its answer any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path()));
        url
    }

    async fn ask_list<T>(&self, path: &str, list: &[Value], read: fn(Value) -> T) -> anyhow::Result<Answers<T>> {
        let mut answers = Answers::with_capacity(list.len());
        for body in list {
            let answer = self.ask(path, Some(body)).await?;
            let rejected = answer.is_err();
            answers.push(answer.map(read));
            if rejected {
                break;
            }
        }
        Ok(answers)
    }

    /// One request, again and again until it is answered, refused or the patience is spent.
    async fn ask(&self, path: &str, body: Option<&Value>) -> anyhow::Result<Result<Value, Rejected>> {
        let url = self.url(path);
        let began = Instant::now();
        for attempt in 0.. {
            let (reason, named, exit) = match self.attempt(&url, body).await {
                Ok(answer) => {
                    self.patience.answered();
                    return Ok(answer);
                }
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing { reason, wait, exit }) => (reason, wait, exit),
            };
            let Some(wait) = self.patience.wait(began, attempt, named, rand::random()) else {
                return Err(self.given_up(&url, &reason, named, exit));
            };
            self.tell(&reason);
            self.sleep(wait).await?;
        }
        Err(anyhow::anyhow!("`{url}` was asked too often"))
    }

    async fn attempt(&self, url: &Url, body: Option<&Value>) -> Result<Result<Value, Rejected>, Trouble> {
        if self.stop.is_set() {
            return Err(stopped(url));
        }
        let request = match body {
            Some(body) => self.http.post(url.clone()).json(body),
            None => self.http.get(url.clone()),
        };
        let exchange = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            if response.content_length().is_some_and(|length| length > LONGEST_ANSWER as u64) {
                return Ok((status, headers, None));
            }
            Ok((status, headers, Some(response.bytes().await?)))
        };
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(self.deadline, exchange) => outcome,
            () = self.until_stopped() => return Err(stopped(url)),
        };
        match outcome {
            Err(_) => Err(Trouble::passing(format!("`{url}` did not answer within {} s", self.deadline.as_secs_f64()))),
            Ok(Err(error)) => Err(broken(url, &error)),
            Ok(Ok((_, _, None))) => Err(no_answer(url, "more than 64 MiB").into()),
            Ok(Ok((status, headers, Some(body)))) => self.understood(url, status, &headers, &body),
        }
    }

    /// What a whole answer means.
    fn understood(
        &self,
        url: &Url,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Result<Value, Rejected>, Trouble> {
        let said = || self.quote(body);
        match status.as_u16() {
            200 => match serde_json::from_slice(body) {
                Ok(answer @ Value::Object(_)) => Ok(Ok(answer)),
                _ => Err(no_answer(url, &format!("`{}`", said())).into()),
            },
            status @ (408 | 409 | 425 | 429 | 500 | 502..=599) => Err(Trouble::Passing {
                reason: format!("`{url}` answers {status} ({})", said()),
                wait: headers.get(RETRY_AFTER).and_then(seconds),
                exit: if status == 429 { Exit::TryAgain } else { Exit::Unavailable },
            }),
            status @ (400 | 413 | 422) => Ok(Err(Rejected { status, message: said() })),
            status @ (401 | 403) => {
                let message = format!("`{url}` does not let us in (status {status}): {}", said());
                let hint = match self.key {
                    Some(_) => "check the key in the variable that `api-key-env` names",
                    None => "name the environment variable that holds the key: `api-key-env = \"…\"`",
                };
                Err(Failure::new(Exit::Usage, message).hint(hint).into())
            }
            status => {
                let message = format!("`{url}` answers {status}: {}", said());
                Err(Failure::new(Exit::Usage, message)
                    .hint("expected a server that speaks OpenAI's protocol; check `url` and `model`")
                    .into())
            }
        }
    }

    /// Tells of a trouble, unless one was told just now: many requests may meet the same.
    fn tell(&self, reason: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            (self.notice)(&format!("{reason}; trying again for up to {} s", self.patience.budget().as_secs()));
        }
    }

    /// The beginning of what a server said, on one line: its error's message if it has one. A key that it repeats is masked.
    fn quote(&self, body: &[u8]) -> String {
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let places = ["/error/message", "/message", "/detail", "/error"];
        let message = json.iter().flat_map(|json| places.map(|place| json.pointer(place))).flatten();
        let message = message.filter_map(Value::as_str).next().map(str::to_owned);
        let mut text = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
        if let Some(key) = &self.key {
            text = text.replace(key.expose(), "***");
        }
        let line: Vec<&str> =
            text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
        let line = line.join(" ").replace('`', "'");
        match line.char_indices().nth(LONGEST_QUOTE) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None if line.is_empty() => "nothing".into(),
            None => line,
        }
    }

    fn given_up(&self, url: &Url, reason: &str, named: Option<Duration>, exit: Exit) -> anyhow::Error {
        let budget = self.patience.budget().as_secs_f64();
        let message = match named {
            Some(time) => format!(
                "`{url}` asks to wait {} s, longer than the {budget} s this run is patient: {reason}",
                time.as_secs()
            ),
            None => format!("`{url}` stayed away for {budget} s: {reason}"),
        };
        Failure::new(exit, message)
            .hint("run the same command again when the server is back; a run keeps the labels it has")
            .into()
    }

    async fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.until_stopped() => Err(Failure::new(Exit::Interrupted, format!("stopped while waiting for `{}`", self.base))
                .hint("run it again to continue; what was made so far is kept")
                .into()),
        }
    }

    async fn until_stopped(&self) {
        while !self.stop.is_set() {
            tokio::time::sleep(STOP_POLL).await;
        }
    }
}

fn stopped(url: &Url) -> Trouble {
    Failure::new(Exit::Interrupted, format!("stopped while asking `{url}`"))
        .hint("run it again to continue; what was made so far is kept")
        .into()
}

/// An answer that is none.
fn no_answer(url: &Url, what: &str) -> Failure {
    Failure::new(Exit::Unavailable, format!("`{url}` answers with {what}: expected a JSON object of OpenAI's protocol"))
        .hint("check that `url` is a model server's and no other's; what was made so far is kept")
}

/// `Retry-After` in seconds; a date is not understood, and the usual waits apply.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let seconds: f64 = value.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Why a connection broke. The text is the innermost cause's.
fn broken(url: &Url, error: &reqwest::Error) -> Trouble {
    let (cause, certificate) = root_cause(error);
    if certificate {
        return Failure::new(Exit::Unavailable, format!("`{url}` cannot be trusted: {cause}"))
            .hint("behind a proxy that opens TLS, point SSL_CERT_FILE at its certificate")
            .into();
    }
    if error.is_builder() {
        return Failure::new(Exit::Usage, format!("`{url}` cannot be asked: {cause}")).into();
    }
    let what = if error.is_connect() { "cannot be reached" } else { "broke the connection off" };
    Trouble::passing(format!("`{url}` {what} ({cause})"))
}
